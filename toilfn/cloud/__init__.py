"""Clusters in clouds: described, launched, scaled and removed, on engines that exist (Slurm, Kubernetes, dask).

Nothing here schedules tasks; that stays with the engine. docs/cloud.md shows how it is used.
"""
