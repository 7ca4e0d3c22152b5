"""Measure whole processes: the import, one trivial task on a new store, and a second run that reuses all results.

python benchmarks/startup.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from processes import run, seconds

TRIVIAL = """
import sys, toilfn as toil

@toil.task
def inc(x):
    return x + 1

assert toil.compute(inc(1), store=sys.argv[1], progress=False) == 2
"""

FLAT = """
import sys, time, toilfn as toil

@toil.task
def inc(x):
    return x + 1

@toil.task
def total(xs):
    return sum(xs)

wanted = total([inc(i) for i in range(10_000)])
began = time.perf_counter()
assert toil.compute(wanted, store=sys.argv[1], workers=2, progress=False) == 50_005_000
print(time.perf_counter() - began)
"""


def best(times: int, *command: str) -> float:
    """Return the shortest time of several runs in seconds, since other work of the machine can only add to it."""
    return min(seconds(*command) for _ in range(times))


def main() -> None:
    nothing = best(5, "-c", "pass")
    print(f"import toilfn                        {best(5, '-c', 'import toilfn') - nothing:6.3f} s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "trivial.py").write_text(TRIVIAL)
        (folder / "flat.py").write_text(FLAT)
        trivial = min(seconds(str(folder / "trivial.py"), str(folder / f"trivial{i}")) for i in range(5))
        print(f"one trivial task, whole process      {trivial:6.3f} s")
        flat = str(folder / "flat.py")
        first = min(seconds(flat, str(folder / f"flat{i}")) for i in range(3))
        again = best(5, flat, str(folder / "flat0"))
        print(f"10,000 tasks, first run, whole       {first:6.3f} s")
        print(f"10,000 tasks, second run, whole      {again:6.3f} s, {again / first:.0%} of the first")
        first = min(float(run(flat, str(folder / f"other{i}"))) for i in range(3))
        again = min(float(run(flat, str(folder / "other0"))) for _ in range(5))
        print(f"  compute() alone, first and second  {first:6.3f} s {again:6.3f} s, {again / first:.0%}")


if __name__ == "__main__":
    main()
