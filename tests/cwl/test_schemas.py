"""CWL's schemas are read once, and kept for the next process."""

from __future__ import annotations

import pytest
from cwltool import process

from toilfn.cwl.schemas import use_schemas


class ReadError(Exception):
    """The schema itself was read."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The user's cache, with the schema of v1.0."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(process, "SCHEMA_CACHE", {})
    use_schemas(extended=False)
    process.get_schema("v1.0")

    def read(*_args, **_kwargs):
        raise ReadError

    monkeypatch.setattr(process, "load_schema", read)
    return tmp_path / "toilfn" / "cwl"


def test_a_kept_schema_is_the_one_that_was_read(place):
    loader, names, metadata, salad = process.get_schema("v1.0")
    use_schemas(extended=False)
    kept = process.get_schema("v1.0")
    assert kept[0] is not loader
    assert kept[0].ctx == loader.ctx
    assert kept[0].vocab == loader.vocab
    assert kept[0].cache == loader.cache
    assert set(kept[0].graph) == set(loader.graph)
    assert kept[1].names.keys() == names.names.keys()
    assert kept[2] == metadata
    assert kept[3].idx == salad.idx


def test_schemas_with_extensions_are_others(place):
    use_schemas(extended=True)
    with pytest.raises(ReadError):
        process.get_schema("v1.0")


@pytest.mark.parametrize("harm", ["cut", "open"])
def test_a_broken_file_or_one_that_others_can_write_is_not_trusted(place, harm):
    [path] = place.glob("v1.0-*")
    assert path.stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.chmod(0o622)
    use_schemas(extended=False)
    with pytest.raises(ReadError):
        process.get_schema("v1.0")


def test_a_run_works_without_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(process, "SCHEMA_CACHE", {})
    use_schemas(extended=False)
    assert process.get_schema("v1.0")[0].ctx
