"""dask.distributed in the tests' own process."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import LocalCluster


@contextmanager
def sockets_collected() -> Iterator[None]:
    """Collect the sockets that dask leaves open, so that they are not reported as faults of later tests."""
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@contextmanager
def dask_running(**settings: Any) -> Iterator[LocalCluster]:
    """Run a scheduler and its workers."""
    with sockets_collected(), LocalCluster(dashboard_address=":0", **settings) as cluster:
        yield cluster
