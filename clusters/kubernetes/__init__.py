"""The parts of `toilfn.clusters.kubernetes.cluster`."""
