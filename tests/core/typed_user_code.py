"""A user's program with mistakes: mypy and pyright must refuse each line that ends in ``# wrong``, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import toilfn as toil
from toilfn.clusters.local.cluster import LocalCluster


@toil.task
def text(x: int) -> str:
    return str(x)


@toil.task(cores=2, memory="1G", retries={"error": 2, "lost": None}, accelerators=["nvidia:1", {"count": 2}], nout=1)
def length(s: str) -> int:
    return len(s)


@toil.task(memory=lambda s: len(s) * 10, walltime="1h", env={"A": "b"}, version=3, checkpoint=True)
def copy(s: str) -> str:
    return s


@toil.service(check_interval="1m", cores=0.5)
def server() -> Iterator[str]:
    yield "address"


@toil.task(memroy="2G")  # wrong
def misspelled() -> None: ...


@toil.task(retries="three")  # wrong
def with_words() -> None: ...


@toil.task(check_interval=3)  # wrong
def not_a_service() -> None: ...


@toil.service(check_intervall=3)  # wrong
def misspelled_service() -> Iterator[str]:
    yield "address"


promise: toil.Promise[str] = text(3)
number: int = toil.compute(length(promise), store=Path("x"), cluster=LocalCluster(), retries=3, bundle="30s")
both: tuple[str, int] = toil.compute(text(1), length(text(2)), cluster="local", clean="onSuccess", max_memory="8G")
three: tuple[str, int, str] = toil.compute(text(1), length("x"), copy(server()), progress=False, set_env={"A": "b"})
many: list[str] = text.map([1, 2, 3])
bigger: int = toil.compute(length.options(memory="8G", cores=length("x"), after=[promise])("x"))
handle: toil.Run = toil.submit(text(1), store="run1", workers=2)
toil.resume("run1", cluster="slurm", retries=None, max_jobs=10)
plain: str = text.__wrapped__(3)

length(3)  # wrong
length(length("x"))  # wrong
text("3")  # wrong
text()  # wrong
length.options(memroy="8G")  # wrong
length.options(preemptible="yes")  # wrong
toil.compute(text(1), retrys=3)  # wrong
toil.compute(text(1), retries="three")  # wrong
toil.compute(text(1), clean="sometimes")  # wrong
toil.submit(text(1), stroe="run1")  # wrong
toil.resume("run1", max_jobs="many")  # wrong
