"""Every object of a store damaged in turn: a resume gives the right result or an error that names the object."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil


@toil.task
def numbers(n: int, switch: str) -> Any:
    """Children, a large value, and a task that fails until it is allowed not to."""
    return {"sum": total([square(i) for i in range(n)]), "large": large(n), "file": written(n), "late": late(switch)}


@toil.task
def square(i: int) -> int:
    return i * i


@toil.task
def total(values: list[int]) -> int:
    return sum(values)


@toil.task
def large(n: int) -> bytes:
    return bytes(range(256)) * 40 * n


@toil.task
def written(n: int) -> toil.File:
    with toil.open_write("numbers.txt", "w") as file:
        file.write("x" * n)
    return file.file


@toil.task(retries=0)
def late(switch: str) -> str:
    return Path(switch).read_text()


def cut(path: Path) -> None:
    path.chmod(0o600)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip(path: Path) -> None:
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) * 2 // 3] ^= 16
    path.write_bytes(bytes(data))


def copy_over_next(path: Path) -> None:
    """Put a copy of the object in the place of the one after it, or beside it when it is the last."""
    others = sorted(other for other in path.parent.iterdir() if other.is_file())
    target = others[(others.index(path) + 1) % len(others)]
    if target == path:
        target = path.with_name(path.name + "x")
    target.unlink(missing_ok=True)
    shutil.copy(path, target)


DAMAGES: list[Callable[[Path], None]] = [cut, flip, Path.unlink, copy_over_next]
HARMLESS = 5
"""At least so many objects are not needed to finish the run, such as the lease of the dead leader."""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose run has failed half-way."""
    folder = tmp_path_factory.mktemp("torn")
    with pytest.raises(toil.FailedTasksError):
        toil.compute(
            numbers(5, str(folder / "switch")), store=folder / "store", cluster="inline", progress=False, retries=0
        )
    (folder / "switch").write_text("now")
    return folder / "store"


def objects(store: Path) -> list[str]:
    return sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_never_a_wrong_result(interrupted: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    right = 0
    for number, name in enumerate(objects(interrupted)):
        store = tmp_path / str(number)
        shutil.copytree(interrupted, store)
        damage(store / name)
        error = failure(store)
        right += error is None
        assert error is None or names_an_object(error), f"{name}: {error}"
    assert right >= HARMLESS


def failure(store: Path) -> str | None:
    """Resume, check the result if there is one, and give the error's text if there is one."""
    try:
        value = toil.resume(store, cluster="inline", progress=False)
        text = value["file"].read_text()
    except toil.ToilfnError as error:
        return str(error)
    assert (value["sum"], value["large"], value["late"], text) == (30, bytes(range(256)) * 200, "now", "xxxxx")
    return None


def names_an_object(message: str) -> bool:
    """Whether an error names an object by its place in the store; the store's own name is in every error's hint."""
    return any(part in message for part in ("log/", "blobs/", "snapshots/", "leases/", "store.json", "no job store at"))
