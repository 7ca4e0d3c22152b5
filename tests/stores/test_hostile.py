"""Stores behind a network that throttles, cuts, delays and repeats: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import toilfn as toil
from tests.servers import gcs, radosgw
from tests.servers.fixtures import gcs_server, radosgw_server
from tests.stores.hostile import Hostile
from toilfn.errors import FencedError, StoreError
from toilfn.model import records
from toilfn.stores import Store, new_blob_name, open_store
from toilfn.stores.lease import Lease
from toilfn.stores.testing import at_once

__all__ = ["gcs_server", "radosgw_server"]


class Place:
    """A bucket's server, reached by a hostile way and by a straight one."""

    def __init__(self, scheme: str, straight: str, hostile: Hostile, **options: Any) -> None:
        self.scheme = scheme
        self.straight = straight
        self.hostile = hostile
        self.options = {"create_bucket": True, **options}

    def new_url(self) -> str:
        return f"{self.scheme}://hostile/{uuid.uuid4().hex}"

    def open(self, url: str, *, hostile: bool = True) -> Store:
        return open_store(url, endpoint_url=self.hostile.url if hostile else self.straight, **self.options)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.servers) for name in ("s3", "gs")])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "s3":
        server, port, share = request.getfixturevalue("radosgw_server"), radosgw.PORT, 0.3
        options: dict[str, Any] = {}
    else:  # gcsfs waits a second before it tries again
        server, port, share = request.getfixturevalue("gcs_server"), gcs.PORT, 0.07
        options = {"token": "anon", "project": "tests"}
    with Hostile(port, share, seed=5).running() as hostile:
        assert isinstance(hostile, Hostile)
        yield Place(request.param, server.url, hostile, **options)


def test_every_record_is_there_once(place: Place) -> None:
    store = place.open(place.new_url())
    assert store.objects.conditional, "a lost answer is not taken for a server without conditional writes"
    written = [b"%d" % n for n in range(25)]
    for record in written:
        store.log.append([record])
    store.log.compact(written)
    store.log.append([b"later"])
    assert [record for _, record in place.open(store.url, hostile=False).log.read()] == [*written, b"later"]
    assert [record for _, record in place.open(store.url).log.read()] == [*written, b"later"]
    assert set(place.hostile.done) > {"ask"}


def test_one_of_two_leaders_writes(place: Place) -> None:
    url = place.new_url()
    place.open(url)
    stores = [place.open(url) for _ in range(2)]
    assert [store.log.next_number for store in stores] == [1, 1]

    def lead(number: int) -> int:
        for n in range(15):
            try:
                stores[number].log.append([b"%d %d" % (number, n)])
            except FencedError:
                return n
        return 15

    written = at_once([partial(lead, 0), partial(lead, 1)])
    assert sorted(written) == [0, 15]
    found = [record for _, record in place.open(url, hostile=False).log.read()]
    assert found == [b"%d %d" % (written.index(15), n) for n in range(15)]


def test_a_lease_is_taken_once(place: Place) -> None:
    store = place.open(place.new_url())
    for epoch in range(1, 4):
        with Lease.acquire(store) as lease:
            assert lease.epoch == epoch


def test_files_are_whole(place: Place, tmp_path: Any) -> None:
    store = place.open(place.new_url())
    content = bytes(range(256)) * (24 * 2**12)  # three parts of an upload
    (tmp_path / "in").write_bytes(content)
    ref = store.put_blob_file(tmp_path / "in", name=new_blob_name("large"))
    store.fetch_blob(ref, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    refs = [store.put_blob(b"%d" % n) for n in range(20)]
    assert [store.get_blob(ref) for ref in refs] == [b"%d" % n for n in range(20)]
    assert set(place.open(store.url, hostile=False).objects.list("blobs/")) == {ref.name, *(ref.name for ref in refs)}
    store.destroy()
    assert place.open(store.url).id != store.id


@toil.task
def square(n: int) -> int:
    return n * n


@toil.task
def total(values: list[int]) -> int:
    with toil.open_write("total.txt", "w") as file:
        file.write(str(sum(values)))
    return int(file.file.read_text())


def test_a_workflow_runs(place: Place) -> None:
    url = place.new_url()
    how = {"store_options": {**place.options, "endpoint_url": place.hostile.url}, "progress": False, "workers": 2}
    assert toil.compute(total([square(n) for n in range(100)]), store=url, **how) == 328350
    log = place.open(url, hostile=False).log
    done = Counter(record.id for _, data in log.read() if isinstance(record := records.decode(data), records.Outcome))
    assert len(done) == 101
    assert set(done.values()) == {1}


def test_a_server_that_is_gone_is_an_error_soon(radosgw_server: radosgw.RadosGateway) -> None:
    with Hostile(radosgw.PORT, 0, seed=1).running() as gone:
        pass
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"cannot read store\.json in s3://hostile/x: .*Could not connect"):
        open_store("s3://hostile/x", endpoint_url=gone.url)
    assert time.monotonic() - start < 60
