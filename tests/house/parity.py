"""The rows of the page for people who come from Toil, and which of the tests that they name have shown nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["ROOT", "named_tests", "rows", "unproven"]

ROOT = Path(__file__).parents[2]


def rows() -> list[tuple[str, str, str]]:
    """Return the rows of all tables, without their heads: what Toil has, what to write instead, what shows it."""
    found = []
    for line in (ROOT / "docs/from-toil.md").read_text().splitlines():
        if line.startswith("| ") and not line.startswith(("| Toil |", "| --- |")):
            toil, ours, shown = (cell.strip() for cell in line.strip().strip("|").split("|"))
            found.append((toil, ours, shown))
    return found


def named_tests() -> set[str]:
    """Return the tests that the page names: ``path::name``, or the path of a file whose tests all count."""
    return {name for _, _, shown in rows() for name in shown.split()}


def unproven(named: Iterable[str], passed: Iterable[str], skipped: Iterable[str]) -> list[str]:
    """Return the named tests, or files, of which something was skipped and nothing has passed.

    Parameters
    ----------
    named : iterable of str
        What `named_tests` gives.
    passed, skipped : iterable of str
        Ids of tests, as pytest has them.
    """
    shown, missed = _with_files(passed), _with_files(skipped)
    return sorted(name for name in set(named) if name in missed and name not in shown)


def _with_files(ids: Iterable[str]) -> set[str]:
    names = {id_.partition("[")[0] for id_ in ids}
    return names | {name.partition("::")[0] for name in names}
