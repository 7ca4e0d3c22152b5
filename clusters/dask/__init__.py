"""dask.distributed."""
