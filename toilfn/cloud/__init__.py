"""Clusters in clouds: describe, launch, scale and remove clusters of Slurm, Kubernetes or dask.

This package does not schedule tasks; Slurm, Kubernetes or dask does. docs/cloud.md is the manual.
"""
