"""AWS Batch: the cluster, and the client for AWS that other parts of toilfn use, too."""
