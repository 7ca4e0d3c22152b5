"""Long logs are joined when the next leader starts, and nothing of them is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

import toilfn as toil
from toilfn.leader import run as session


@toil.task
def double(x: int) -> int:
    return 2 * x


def test_a_long_log_is_joined_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    monkeypatch.setattr(session, "_MANY_SEGMENTS", 10)
    for n in range(8):
        assert toil.compute([double(i) for i in range(n + 1)], double(n), store=store, progress=False)[1] == 2 * n
    assert list((store / "snapshots").iterdir())
    assert toil.compute([double(i) for i in range(8)], store=store, progress=False) == [0, 2, 4, 6, 8, 10, 12, 14]
