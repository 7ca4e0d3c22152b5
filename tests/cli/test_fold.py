"""A run folded from its log says the same as the log's records one by one."""

from __future__ import annotations

import pickle
import random
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median

import pytest

from toilfn.errors import CorruptObjectError
from toilfn.inspect.attempts import attempts_of
from toilfn.inspect.fold import saved
from toilfn.inspect.fold.columns import Detail, Figures, Timescale
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.fold.saved import SavedFold
from toilfn.inspect.view import State, View
from toilfn.model.records import (
    BlobRef,
    Deleted,
    End,
    Epoch,
    Failure,
    Forget,
    Function,
    Outcome,
    Queue,
    Record,
    Run,
    Started,
    Stats,
    TaskRecord,
    encode,
)
from toilfn.stores import Store, open_store

NAMES = ("load", "split", "sum up")


def stats_of(luck: random.Random, start: float) -> Stats:
    wall = luck.random() * 5
    return Stats(start, wall, wall * luck.random(), luck.randrange(2**30), f"node{luck.randrange(3)}", 7)


def history(seed: int) -> Iterator[Record]:
    """A store in which two leaders ran, tasks made tasks, failed and were forgotten."""
    luck = random.Random(seed)
    functions = [bytes([kind]) * 16 for kind in range(len(NAMES))]
    ids: list[bytes] = []
    now = 1000.0

    def task(parent: bytes | None = None) -> TaskRecord:
        needs = tuple(luck.sample(ids, min(len(ids), luck.randrange(3))))
        ids.append(luck.randbytes(16))
        given = {"memory": 2**20} if luck.random() < 0.3 else {}
        return TaskRecord(ids[-1], luck.choice(functions), b"", needs, (), given, parent, {})

    for number in (1, 2):
        yield Epoch(number, "leader", 1, now)
        for digest, name in zip(functions, NAMES, strict=True):
            yield Function(digest, name, {"cores": 2}, BlobRef("f", 1, bytes(16)), {})
        new = [task() for _ in range(12)]
        yield Run(number, "script.py", b"", tuple(t.id for t in new[-4:]), {"default_memory": 5}, None, now)
        yield from new
        for job in range(30):
            now += luck.random()
            some = [*luck.sample(ids[:-1], 2), ids[-1]]  # the last one was often created just before
            yield Started(tuple(some), f"job{job}", now)
            if luck.random() < 0.3:
                yield Queue({f"job{job}": "Priority"}, (f"job{job - 1}",), now)
            for id in some[: luck.randrange(4)]:
                now += luck.random() * 3
                if luck.random() < 0.3:
                    yield Failure(id, 1, "error", "ValueError: x", "", b"", stats_of(luck, now), luck.random() < 0.5)
                    continue
                made = tuple(task(id) for _ in range(luck.randrange(3)))
                refs = tuple(t.id for t in made[:1])
                yield Outcome(id, 1, b"v", refs, made, (), (), (), b"", stats_of(luck, now))
        if luck.random() < 0.5:
            yield Forget(tuple(luck.sample(ids, 2)))
    if luck.random() < 0.5:
        yield End(2, "failed", now)


def write(store: Store, records: list[Record]) -> None:
    store.log.append([encode(record) for record in records])


def said(fold: Fold) -> dict[str, object]:
    rows = {row.id: row for row in fold.rows(fold.numbers())}
    return {
        "rows": {id: (r.name, r.state, r.attempts, r.reason, r.cause, r.error) for id, r in rows.items()},
        "counts": dict(zip([kind.name for kind in fold.kinds], fold.counts(), strict=True)),
        "status": fold.status,
        "listed": {state: {row.id for row in fold.rows(list(fold.in_state(state)))} for state in State},
    }


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("pieces", [1, 7])
def test_a_fold_says_what_the_records_say(tmp_path: Path, seed: int, pieces: int) -> None:
    store, records = open_store(str(tmp_path / "store"), sync=False), list(history(seed))
    fold = Fold(Detail.ATTEMPTS)
    step = -(-len(records) // pieces)
    for first in range(0, len(records), step):
        write(store, records[first : first + step])
        assert fold.update(store)
    assert not fold.update(store)
    view = View(store)
    current = view.current()
    found = said(fold)
    assert found["rows"] == {
        id: (t.name, t.state, t.attempts, t.reason if t.state is State.QUEUED else "", t.cause, t.error)
        for id, t in {t.id: t for t in current}.items()
    }
    counts: dict[str, Counter[State]] = {kind.name: Counter() for kind in fold.kinds}
    for task in current:
        counts[task.name][task.state] += 1
    assert found["counts"] == counts
    assert found["status"] == view.status
    assert found["listed"] == {state: {t.id for t in current if t.state is state} for state in State}


def everything(value: object) -> object:
    """All that a fold holds, in a form that can be compared; objects that are shared count once."""
    if isinstance(value, (int, str, bytes)):
        return value
    named = {name: getattr(value, name) for name in getattr(type(value), "__slots__", ()) if hasattr(value, name)}
    content = named or (vars(value) if hasattr(value, "__dict__") else None)
    if isinstance(value, dict):
        return {key: everything(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [everything(each) for each in value]
    return value if content is None else {name: everything(each) for name, each in content.items()}


@pytest.mark.parametrize("seed", range(20))
def test_a_saved_fold_continues_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(saved, "FEW", 1)
    store, records = open_store(str(tmp_path / "store"), sync=False), list(history(seed))
    whole = Fold(Detail.ATTEMPTS)
    for first in range(0, len(records), 30):
        write(store, records[first : first + 30])
        fold = SavedFold(tmp_path / "fold").load(store)
        assert everything(fold.state()) == everything(whole.state())
        fold.update(store)
        whole.update(store)
        SavedFold(tmp_path / "fold").save(fold, store, is_final=True)
    assert said(fold) == said(whole)
    assert (tmp_path / "fold").stat().st_mode & 0o077 == 0


def test_a_fold_is_saved_when_much_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path / "store"), sync=False)
    write(store, list(history(1)))
    fold, file = Fold(Detail.ATTEMPTS), tmp_path / "fold"
    fold.update(store)
    SavedFold(file).save(fold, store, is_final=True)
    assert not file.exists()  # it is read quickly
    monkeypatch.setattr(saved, "FEW", 10)
    own = SavedFold(file)
    own.save(fold, store)
    first = file.read_bytes()
    write(store, [TaskRecord(b"n" * 16, b"f" * 16, b"", (), (), {}, None, {})])
    fold.update(store)
    own.save(fold, store)
    assert file.read_bytes() == first
    own.save(fold, store, is_final=True)
    assert SavedFold(file).load(store).size == fold.size
    assert [path.name for path in tmp_path.iterdir() if path != file] == ["store"]


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("this must not run",)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other store", "code"])
def test_a_file_that_cannot_be_used_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    monkeypatch.setattr(saved, "FEW", 1)
    store, file = open_store(str(tmp_path / "store"), sync=False), tmp_path / "fold"
    write(store, list(history(1)))
    fold = Fold(Detail.ATTEMPTS)
    fold.update(store)
    SavedFold(file).save(fold, store)
    data = file.read_bytes()
    if damage == "other store":
        store = open_store(str(tmp_path / "other"), sync=False)
    elif damage == "code":
        content = pickle.dumps({"runs": Evil()}, 5)
        file.write_bytes(data[:32] + zlib.crc32(content).to_bytes(4, "big") + content)
    else:
        file.write_bytes({"cut": data[:-9], "changed": data[:-9] + b"12345678.", "empty": b""}[damage])
    assert not SavedFold(file).load(store).runs
    assert SavedFold(file).is_outdated(store) == (damage in ("empty", "other store"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seed", range(20))
def test_figures_of_few_attempts_are_exact(tmp_path: Path, seed: int) -> None:
    store = open_store(str(tmp_path / "store"), sync=False)
    write(store, list(history(seed)))
    fold = Fold(Detail.CURVES)
    fold.update(store)
    attempts = list(attempts_of(store, View(store)))
    for kind in fold.kinds:
        own = [attempt for attempt in attempts if attempt.name == kind.name]
        done = [attempt for attempt in own if attempt.result == "done"]
        assert (kind.usage.done, kind.usage.failed) == (len(done), len(own) - len(done))
        assert kind.usage.sums.wall == pytest.approx(sum(attempt.wall for attempt in own))
        measures: dict[str, list[float]] = {
            "wall": [a.wall for a in done], "memory": [a.memory for a in done],
            "memory asked": [a.memory_asked for a in done],
            "idle": [max(0.0, a.wall * a.cores_asked - a.cpu) for a in done],
        }  # fmt: skip
        for measure, values in measures.items():
            figures = (min(values), median(values), fmean(values), max(values), sum(values)) if values else (0,) * 5
            assert tuple(kind.usage.figures(measure).values()) == pytest.approx(figures)
    assert sum(worker.attempts for worker in fold.measures.workers.values()) == len(attempts)


@pytest.mark.parametrize("alone", [True, False])
def test_the_size_of_the_store_rises_and_falls(tmp_path: Path, alone: bool) -> None:
    """Each task leaves 100 bytes at its end; half of the files are dropped at 300 s, one is deleted at the end."""
    store = open_store(str(tmp_path / "store"), sync=False)
    ids = [bytes([number]) * 16 for number in range(10)]
    write(
        store, [Run(1, "script.py", b"", (), {}, None, 1000.0), Function(b"f" * 16, "f", {}, BlobRef("f", 1, b""), {})]
    )
    write(store, [TaskRecord(id, b"f" * 16, b"", (), (), {}, None, {}) for id in ids])
    made = [
        Outcome(
            id, 1, b"", (), (), (), (BlobRef(f"file {number}", 100, b""),), (), b"", Stats(1000.0, 10.0 * number + 10)
        )
        for number, id in enumerate(ids)
    ]
    for some in [[each] for each in made] if alone else [made]:
        write(store, some)
    names = tuple(f"file {number}" for number in range(6))
    write(store, [Deleted(names[:5], dropped=True, size=500, time=1300.0), End(1, "done", 2000.0)])
    write(store, [Deleted(("unknown",), time=1600.0), Deleted(names[5:])])
    fold = Fold(Detail.CURVES)
    fold.update(store)
    scale = fold.measures.scale
    assert scale is not None
    times, width = scale.points(2000)
    levels = dict(zip(times, fold.measures.stored.curve(scale.used, 2000).means, strict=True))

    def at(moment: float) -> float:
        return levels[min(times, key=lambda time: abs(time + width / 2 - moment))]

    assert [at(moment) for moment in (5, 15, 55, 200, 299, 310, 590)] == pytest.approx(
        [0, 100, 500, 1000, 1000, 500, 500]
    )
    assert fold.measures.stored.curve(scale.used, 2000).means[-1] >= 400


def test_a_compacted_log_is_read_from_its_start(tmp_path: Path) -> None:
    store, records = open_store(str(tmp_path / "store"), sync=False), list(history(1))
    write(store, records)
    fold = Fold()
    fold.update(store)
    store.log.compact([encode(record) for record in records])
    write(store, [End(2, "killed", 1.0)])
    assert fold.update(store)
    whole = Fold()
    whole.update(store)
    assert said(fold) == said(whole)
    assert fold.status == "killed"


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), sync=False)
    write(store, list(history(1)))
    store.log.append([encode(Epoch(3, "leader", 1, 0.0)), b"\x93\xa7outcome\x01\x02"])
    with pytest.raises(CorruptObjectError, match=r"the record at byte \d+ of log/0000000000000002"):
        Fold().update(store)


def test_the_median_of_very_many_values_is_near() -> None:
    luck, figures = random.Random(0), Figures()
    values = [luck.lognormvariate(0, 2) for _ in range(100_000)]
    for first in range(0, len(values), 4096):
        figures.add(values[first : first + 4096])
    median = figures.median
    rank = sum(value < median for value in values) / len(values)
    assert rank == pytest.approx(0.5, abs=0.005)
    assert (figures.least, figures.greatest, figures.count) == (min(values), max(values), len(values))
    assert figures.total == pytest.approx(sum(values))


def test_levels_of_very_many_short_attempts_never_exceed_what_there_was() -> None:
    """Two workers, each with one short attempt after the other for hours, are two at every time."""
    scale = Timescale(100.0)
    level = scale.level()
    for worker in range(2):
        for first in range(0, 50_000, 1000):
            starts = [100.0 + 0.3 * number + 0.1 * worker for number in range(first, first + 1000)]
            level.take(scale.spans(starts, [start + 0.3 for start in starts]).changes([1.0] * 1000))
    curve = level.curve(scale.used, 200)
    times, width = scale.points(200)
    assert len(curve.means) == len(times) <= 201
    assert max(curve.peaks) == pytest.approx(2.0)
    assert curve.means[50] == pytest.approx(2.0)
    assert sum(curve.means) * width == pytest.approx(2 * 50_000 * 0.3, rel=0.02)


def test_a_long_attempt_counts_for_all_its_time() -> None:
    scale = Timescale(0.0)
    level = scale.level()
    level.take(scale.spans([10.0], [5000.0]).changes([3.0]))
    level.take(scale.spans([0.0], [10_000.0]).changes([1.0]))
    times, _ = scale.points(100)
    at = dict(zip(times, level.curve(scale.used, 100).means, strict=True))
    assert at[min(times, key=lambda time: abs(time - 2500))] == pytest.approx(4.0)
    assert at[min(times, key=lambda time: abs(time - 7500))] == pytest.approx(1.0)
