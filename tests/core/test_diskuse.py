"""The statistics of an attempt contain its disk use."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from toilfn.model.records import Outcome, Stats, decode
from toilfn.stores import open_store
from toilfn.worker import usage

MEGABYTE = 2**20


@toil.task
def keeps_some(size: int) -> Path:
    path = toil.current().temp_dir / "kept"
    path.write_bytes(bytes(size))
    return path


@toil.task
def takes_more_for_a_while(size: int) -> None:
    path = toil.current().temp_dir / "scratch"
    path.write_bytes(bytes(size))
    seen, measure = threading.Event(), usage._size

    def measured(directory: os.PathLike[str]) -> int:
        found = measure(directory)
        if found >= size:
            seen.set()
        return found

    usage._size = measured
    try:
        assert seen.wait(120), "the worker never looked at the directory"
    finally:
        usage._size = measure
        path.unlink()


@toil.task
def takes_none() -> None:
    pass


def stats_of(store: Path) -> list[Stats]:
    found = (decode(data) for _, data in open_store(store, create=False).log.read())
    return [record.stats for record in found if isinstance(record, Outcome)]


@pytest.mark.parametrize(("task", "cluster"), [(keeps_some, "inline"), (takes_more_for_a_while, "local")])
def test_the_largest_disk_use_is_recorded(tmp_path: Path, task: Any, cluster: str) -> None:
    toil.compute(task(3 * MEGABYTE), store=tmp_path / "store", cluster=cluster, progress=False)
    (stats,) = stats_of(tmp_path / "store")
    assert 3 * MEGABYTE <= stats.disk < 4 * MEGABYTE


def test_no_directory_takes_no_disk(tmp_path: Path) -> None:
    toil.compute(takes_none(), store=tmp_path / "store", cluster="inline", progress=False)
    assert [stats.disk for stats in stats_of(tmp_path / "store")] == [0]
