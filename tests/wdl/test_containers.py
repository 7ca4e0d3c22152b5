"""Commands in real containers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.servers.fixtures import containers, images
from tests.wdl.running import run

__all__ = ["containers", "images"]

SOURCE = """\
version 1.1
task t {
  input { File f  String word }
  command <<<
    set -e
    echo "~{word}" > word.txt
    cat ~{f} && (echo more >> ~{f} || true)
    . /etc/os-release && echo $ID >&2
    exit 0
  >>>
  output {
    String content = read_string(stdout())
    String system = read_string(stderr())
    File written = "word.txt"
    File lines = write_lines([word])
  }
  runtime { container: "ubuntu:22.04" memory: "200 MB" }
}
"""


def in_podman(folder, *words):
    return run([*words, "--container", "podman"], folder)


def test_a_command_runs_in_its_image_and_leaves_its_inputs_as_they_are(images, tmp_path):
    (tmp_path / "t.wdl").write_text(SOURCE)
    (tmp_path / "f.txt").write_text("content")
    done = in_podman(tmp_path, "t.wdl", "f=f.txt", "word=it's")
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["t.content"] == "content"
    assert found["t.system"].splitlines()[-1] == "debian"  # the image of that name is made of Debian
    assert Path(found["t.written"]).read_text() == "it's\n"
    assert (tmp_path / "f.txt").read_text() == "content"


@pytest.mark.parametrize(("code", "status"), [(3, 1), (0, 0)])
def test_the_exit_status_is_the_commands_own(images, tmp_path, code, status):
    source = f'version 1.0\ntask t {{ command {{ exit {code} }} runtime {{ docker: "debian:latest" }} }}\n'
    (tmp_path / "t.wdl").write_text(source)
    done = in_podman(tmp_path, "t.wdl")
    assert done.status == status
    assert code == 0 or "ended with exit status 3" in done.stderr


def test_an_image_that_cannot_be_had_is_named(images, tmp_path):
    source = 'version 1.0\ntask t { command { true } runtime { docker: "localhost/no/such:image" } }\n'
    (tmp_path / "t.wdl").write_text(source)
    done = in_podman(tmp_path, "t.wdl")
    assert done.status == 1
    assert "localhost/no/such:image" in done.stderr
