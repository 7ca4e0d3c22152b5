"""Inputs with ``streamable: true`` come through named pipes, where they would have to be copied otherwise."""

from __future__ import annotations

import uuid
from pathlib import Path

import boto3
import pytest

import toilfn as toil
from tests.servers.fixtures import moto_server
from tests.servers.moto import Moto
from toilfn.errors import CorruptObjectError
from toilfn.files.file import Pipe
from toilfn.files.task_files import TaskFiles
from toilfn.stores import open_store

__all__ = ["moto_server"]

TOOL = """\
cwlVersion: v1.2
class: CommandLineTool
requirements: {InlineJavascriptRequirement: {}}
baseCommand: [sh, -c]
arguments:
- |
  for one in "$0" "$1" "$2" "$3"; do test -p "$one" && echo pipe || echo file; done
  wc -c < "$0"; head -c 3 "$1"; cat "$3"
- $(inputs.whole.path)
- $(inputs.some.path)
- $(inputs.unread.path)
- $(inputs.plain.path)
inputs:
  whole: {type: File, streamable: true}
  some: {type: File, streamable: true}
  unread: {type: File, streamable: true}
  plain: File
outputs:
  said: {type: stdout}
  same: {type: File, outputBinding: {outputEval: $(inputs.whole)}}
stdout: said.txt
"""

SIZE = 3 * 2**20


@pytest.fixture
def job(moto_server, written, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", Moto().url)
    client, folder = boto3.client("s3", endpoint_url=Moto().url, region_name="us-east-1"), uuid.uuid4().hex
    client.create_bucket(Bucket="streams")
    client.put_object(Bucket="streams", Key=f"{folder}/large", Body=b"x" * SIZE)
    client.put_object(Bucket="streams", Key=f"{folder}/plain", Body=b"plain")
    large = f"{{class: File, location: 's3://streams/{folder}/large'}}"
    plain = f"{{class: File, location: 's3://streams/{folder}/plain'}}"
    return written("job.yml", f"whole: {large}\nsome: {large}\nunread: {large}\nplain: {plain}\n")


@pytest.mark.parametrize("flags", [[], ["--disable-streaming"]], ids=["streams", "copies"])
def test_streamable_inputs(runner, written, job, tmp_path, flags):
    result = runner("--reference-imports", *flags, written("tool.cwl", TOOL), job).result
    kind = "file" if flags else "pipe"
    assert Path(result["said"]["path"]).read_text() == f"{kind}\n{kind}\n{kind}\nfile\n{SIZE}\nxxxplain"
    assert Path(result["same"]["path"]).read_bytes() == b"x" * SIZE
    assert result["same"]["basename"] == "large"


def test_files_of_a_local_store_are_links(runner, written, tmp_path):
    written("large", "x" * 100)
    inputs = "".join(f"{name}: {{class: File, path: large}}\n" for name in ("whole", "some", "unread", "plain"))
    result = runner(written("tool.cwl", TOOL), written("job.yml", inputs)).result
    assert Path(result["said"]["path"]).read_text().startswith("file\nfile\nfile\n")


@pytest.fixture
def session(tmp_path):
    (tmp_path / "temp").mkdir()
    store = open_store(f"memory://{uuid.uuid4().hex}", create=True)
    with TaskFiles(store, lambda: tmp_path / "temp") as session:
        yield session
    store.destroy()


def made(content: bytes) -> toil.File:
    with toil.open_write("content") as stream:
        stream.write(content)
    return stream.file


def test_a_pipe_has_the_whole_content(session, tmp_path):
    pipe = Pipe(made(b"abc" * 10**6), tmp_path / "pipe")
    assert (tmp_path / "pipe").read_bytes() == b"abc" * 10**6
    pipe.finish()


@pytest.mark.parametrize("count", [None, 0, 10])
def test_a_reader_may_stop_early(session, tmp_path, count):
    pipe = Pipe(made(b"abc" * 10**6), tmp_path / "pipe")
    if count is not None:
        with (tmp_path / "pipe").open("rb") as reader:
            assert reader.read(count) == (b"abc" * 4)[:count]
    pipe.finish()


def test_wrong_content_is_finally_an_error(session, tmp_path):
    file = made(b"abc" * 10**5)
    session.store.objects.put(file.id, b"abd" * 10**5)
    pipe = Pipe(file, tmp_path / "pipe")
    assert len((tmp_path / "pipe").read_bytes()) <= 3 * 10**5
    with pytest.raises(CorruptObjectError, match="was altered"):
        pipe.finish()
