"""Kubernetes: the cluster, its connection to the API, and the translation between batches and Jobs."""
