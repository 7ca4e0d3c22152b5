"""The algorithm of digests is a choice: stores hold files of all of them, and each file is checked by its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from toilfn.cli import main
from toilfn.errors import CorruptObjectError, InputError
from toilfn.files import transfer
from toilfn.files.links import link_blob
from toilfn.files.task_files import TaskFiles
from toilfn.stores import new_blob_name, open_store
from toilfn.stores.digests import ALGORITHMS, Hasher, algorithm_of, checksum_of, digest_of_checksum, hash_file

CONTENT = bytes(range(256)) * 2**13
ABC = {
    # The test vectors of FIPS 180-4, RFC 7693 (with 16 bytes: as b2sum -l 128), xxHash and BLAKE3.
    "sha256": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    "blake2b": "cf4ab791c62b8d2b2109c90275287816",
    "xxh3": "xxh3:06b05ab6733a618578af5f94892f3950",
    "blake3": "blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
}


@pytest.fixture(params=list(ALGORITHMS))
def algorithm(request: pytest.FixtureRequest) -> str:
    """Each algorithm that can be used here."""
    if package := ALGORITHMS[request.param].package:
        pytest.importorskip(package)
    return str(request.param)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TOILFN_WORK_DIR", str(tmp_path))
    (tmp_path / "temp").mkdir()
    with TaskFiles(open_store(tmp_path / "store"), lambda: tmp_path / "temp") as session:
        yield session


@pytest.fixture
def compute(tmp_path: Path) -> Callable[..., Any]:
    return lambda *promises, **settings: toil.compute(
        *promises, store=tmp_path / "store", cluster="inline", progress=False, **settings
    )


@toil.task(version="1")
def written(name: str, edit: str = "") -> toil.File:
    with toil.open_write(name) as stream:
        stream.write(CONTENT)
    return stream.file


@toil.task
def passing(name: str, edit: str) -> list[Any]:
    with toil.open_write(name) as stream:
        stream.write(CONTENT)
    return [stream.file, length(stream.file)]


@toil.task
def length(file: toil.File) -> int:
    return len(file.read_bytes())


def test_digests_are_those_of_other_programs(algorithm: str, tmp_path: Path) -> None:
    hasher = Hasher(algorithm)
    hasher.update(b"a")
    hasher.update(b"bc")
    assert checksum_of(hasher.digest()) == ABC[algorithm]
    assert digest_of_checksum(ABC[algorithm]) == hasher.digest()
    assert algorithm_of(hasher.digest()) == algorithm
    (tmp_path / "abc").write_bytes(b"abc")
    assert hash_file(tmp_path / "abc", algorithm) == (3, hasher.digest())


def test_a_large_file_has_the_digest_of_sha256sum(session: TaskFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOILFN_DIGEST", "sha256")
    path = session.temp_dir() / "large"
    with path.open("wb") as stream:
        for _ in range(10):
            stream.write(CONTENT)
    printed = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert session.put(path).checksum == f"sha256:{printed.split()[0]}"


def test_every_way_into_the_store(algorithm: str, session: TaskFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOILFN_DIGEST", algorithm)
    source = session.temp_dir() / "source"
    source.write_bytes(CONTENT)
    with toil.open_write("a") as stream:
        stream.write(CONTENT)
    files = [
        stream.file,
        session.put(source),
        session.import_url(source, link="symlink", checksum=True),
        session.import_url(source, link="hard", checksum=True),
    ]
    assert len({file.checksum for file in files}) == 1
    assert {algorithm_of(file.ref.digest) for file in files} == {algorithm}
    for number, file in enumerate(files):
        assert file.read_bytes() == file.path(str(number)).read_bytes() == CONTENT
        toil.export(file, session.temp_dir() / "out")
    assert transfer.holds(str(session.temp_dir() / "out"), len(CONTENT), files[0].ref.digest)
    assert not transfer.holds(str(session.temp_dir() / "out"), len(CONTENT), bytes(16))


def test_altered_content_is_noticed(algorithm: str, session: TaskFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOILFN_DIGEST", algorithm)
    with toil.open_write("a") as stream:
        stream.write(CONTENT)
    entry = session.store.local_file(stream.file.ref)
    assert entry is not None
    entry.chmod(0o644)
    entry.write_bytes(CONTENT[::-1])
    for attempt in (
        stream.file.read_bytes,
        lambda: stream.file.path("out"),
        lambda: session.store.get_blob(stream.file.ref),
    ):
        with pytest.raises(CorruptObjectError, match="was altered"):
            attempt()


def test_a_store_holds_files_of_several_algorithms(compute: Callable[..., Any], tmp_path: Path, capsys: Any) -> None:
    before = compute(written("a"))
    after = compute(written("b"), digest="sha256")
    assert after.checksum == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    assert len(before.checksum) == 32
    assert compute(written("a"), length(before), length(after)) == (before, len(CONTENT), len(CONTENT))
    assert main(["files", str(tmp_path / "store"), "get", "b", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_nothing_runs_again_because_of_another_algorithm(compute: Callable[..., Any]) -> None:
    before = compute(written("a"))
    assert compute(written("a"), digest="sha256") == before


def test_explain_names_the_algorithm(compute: Callable[..., Any], tmp_path: Path, capsys: Any) -> None:
    compute(passing("a", ""))
    compute(passing("a", "edited"), digest="sha256")
    capsys.readouterr()
    assert main(["explain", str(tmp_path / "store"), "length"]) == 0
    assert "setting digest: blake2b -> sha256, so new files with the same content are other" in capsys.readouterr().out


def test_an_algorithm_without_its_package(compute: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xxhash", None)
    with pytest.raises(InputError, match="digest='xxh3' needs the package xxhash") as found:
        compute(written("a"), digest="xxh3")
    assert "toilfn[digests]" in str(found.value.hint)


def test_digests_of_no_algorithm(session: TaskFiles) -> None:
    with toil.open_write("a") as stream:
        stream.write(b"a")
    with pytest.raises(CorruptObjectError, match="no known algorithm has digests like"):
        session.store.get_blob(stream.file.ref._replace(digest=b"new!" + bytes(40)))


def bytes_read() -> int:
    """How much this process has read by system calls, from files and elsewhere."""
    text = Path("/proc/self/io").read_text()
    return int(text.split("rchar:")[1].split()[0])


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="this system does not count what is read")
@pytest.mark.parametrize("link", ["symlink", "hard"])
def test_a_linked_file_of_100_gigabytes_is_not_read(session: TaskFiles, link: str) -> None:
    source = session.temp_dir() / "sparse"
    with source.open("wb") as stream:
        stream.truncate(100 * 10**9)
    before = bytes_read()
    file = session.import_url(source, link=link)
    assert file.path("here").stat().st_size == file.size == 100 * 10**9
    assert bytes_read() - before < 2**20


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="this system does not count what is read")
def test_the_digest_of_a_linked_file_is_computed_once(session: TaskFiles) -> None:
    source = session.temp_dir() / "source"
    source.write_bytes(CONTENT)
    source.chmod(0o444)
    counts = []
    for _ in range(2):
        before = bytes_read()
        blob = new_blob_name("source")
        assert link_blob(session.store, source, blob, link="symlink", algorithm="blake2b") is not None
        counts.append(bytes_read() - before >= len(CONTENT))
    assert counts == [True, False]


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="this system does not count what is read")
def test_a_copy_is_read_once(session: TaskFiles) -> None:
    source = session.temp_dir() / "source"
    source.write_bytes(CONTENT)
    before = bytes_read()
    session.import_url(source)
    assert len(CONTENT) <= bytes_read() - before < 1.5 * len(CONTENT)
