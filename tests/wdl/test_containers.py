"""Commands in real containers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.containers import IMAGE, REMOTE_IMAGE
from tests.servers.fixtures import (
    apptainer,
    apptainer_server,
    containers,
    docker_engine,
    images,
    slurm,
    slurm_server,
    udocker,
    udocker_server,
)
from tests.wdl.running import run, toilfn

__all__ = [
    "apptainer",
    "apptainer_server",
    "containers",
    "docker_engine",
    "images",
    "slurm",
    "slurm_server",
    "udocker",
    "udocker_server",
]

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


def test_an_image_that_cannot_be_pulled_is_named(images, tmp_path):
    source = 'version 1.0\ntask t { command { true } runtime { docker: "localhost/no/such:image" } }\n'
    (tmp_path / "t.wdl").write_text(source)
    done = in_podman(tmp_path, "t.wdl")
    assert done.status == 1
    assert "localhost/no/such:image" in done.stderr


def test_memory_and_time_of_the_command_are_counted(images, tmp_path):
    work = "python3 -c 'x = bytearray(300 * 2**20); x[::4096] = x[::4096]; sum(range(10**7))'"
    source = f'version 1.0\ntask t {{ command {{ {work} }} runtime {{ docker: "debian:latest" memory: "700 MB" }} }}\n'
    (tmp_path / "t.wdl").write_text(source)
    command = [sys.executable, "-m", "toilfn", "wdl", "t.wdl", "--container", "podman", "--store", "run"]
    subprocess.run(command, cwd=tmp_path, check=True)  # this process may be larger than the command
    rows = json.loads(toilfn(["stats", "run", "--attempts", "--json"], tmp_path).stdout)
    row = next(row for row in rows if row["name"] == "t")
    assert 300 * 2**20 < row["memory"] <= 700 * 10**6
    assert row["cpu"] > 0.3


def test_disks_are_mounted_where_the_tool_requests_them(images, tmp_path):
    source = """\
version 1.2
task t {
  command <<< findmnt -bno size /mnt/more; echo found > /mnt/more/made.txt >>>
  output { Boolean large = read_int(stdout()) >= 10 * 1024  File made = "/mnt/more/made.txt" }
  requirements { container: "debian:latest" disks: ["1", "/mnt/more 10 KiB"] }
}
"""
    (tmp_path / "t.wdl").write_text(source)
    done = in_podman(tmp_path, "t.wdl")
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["t.large"] is True
    assert Path(found["t.made"]).read_text() == "found\n"


def test_under_dockers_daemon(docker_engine, tmp_path):
    source = f'version 1.0\ntask t {{ input {{ File f }} command {{ cat ~{{f}} }} runtime {{ docker: "{IMAGE}" }}\n'
    (tmp_path / "t.wdl").write_text(f"{source}  output {{ String s = read_string(stdout()) }}\n}}\n")
    (tmp_path / "f.txt").write_text("content")
    done = run(["t.wdl", "f=f.txt", "--container", "docker"], tmp_path)
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout) == {"t.s": "content"}


@pytest.mark.parametrize("engine", ["singularity", "apptainer"])
def test_in_singularity(apptainer, tmp_path, engine):
    source = """\
version 1.1
task t {
  input { File f }
  command <<< cat ~{f} && echo made > "made here.txt" && touch /tmp/$$ && echo only this >&2 >>>
  output { String s = read_string(stdout())  String e = read_string(stderr())  File made = glob("made*")[0] }
  runtime { container: "IMAGE" memory: "200 MB" }
}
"""
    (tmp_path / "t.wdl").write_text(source.replace("IMAGE", REMOTE_IMAGE))
    (tmp_path / "f.txt").write_text("content")
    done = run(["t.wdl", "f=f.txt", "--container", engine], tmp_path)
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["t.s"], found["t.e"], Path(found["t.made"]).read_text()) == ("content", "only this", "made\n")


def test_nodes_of_slurm_find_an_image_that_was_pulled_before(slurm, apptainer, tmp_path, monkeypatch):
    monkeypatch.setenv("TOILFN_IMAGES", str(tmp_path / "images"))
    monkeypatch.setenv("APPTAINER_CACHEDIR", str(tmp_path / "cache"))
    tag = f"nodes-{os.getpid()}"
    image = apptainer.publish(tag)
    assert toilfn(["pull", image, "--engine", "apptainer"], tmp_path).status == 0
    source = f'command <<< hostname >>> output {{ String s = "ran" }} runtime {{ container: "{image}" }}'
    (tmp_path / "t.wdl").write_text(f"version 1.1\ntask t {{ {source} }}\n")
    words = ["t.wdl", "--container", "apptainer", "--cluster", "slurm", "--poll-interval", "0.3"]
    done = run(words, tmp_path, inline=False)
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout) == {"t.s": "ran"}
    assert apptainer.pulls(tag) == 1


def test_in_udocker(udocker, tmp_path):
    source = """\
version 1.1
task t {
  input { File f }
  command <<< cat ~{f}; echo made > "made here.txt"; (ls; echo only this) >&2; exit 3 >>>
  output { String s = read_string(stdout())  String e = read_string(stderr())  File made = "made here.txt" }
  runtime { container: "IMAGE" returnCodes: [3] }
}
"""
    (tmp_path / "t.wdl").write_text(source.replace("IMAGE", REMOTE_IMAGE.partition("/")[2]))
    (tmp_path / "f.txt").write_text("content")
    done = run(["t.wdl", "f=f.txt", "--container", "udocker"], tmp_path)
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["t.s"], found["t.e"], Path(found["t.made"]).read_text()) == (
        "content",
        "made here.txt\nonly this",
        "made\n",
    )


def test_variables_that_were_set_for_the_run_are_in_the_container(images, tmp_path):
    source = """\
version 1.2
task t {
  input { env String second = "own" }
  command <<< echo "$FIRST $second" >>>
  output { String s = read_string(stdout()) }
  runtime { container: "debian:latest" }
}
"""
    (tmp_path / "t.wdl").write_text(source)
    words = ["t.wdl", "--container", "podman", "--set-env", "FIRST=a 'b'", "--set-env", "second=other"]
    done = run(words, tmp_path, inline=False)
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout) == {"t.s": "a 'b' own"}


def test_a_command_has_a_home_and_what_root_has_made_belongs_to_the_user(images, tmp_path):
    source = """\
version 1.1
task t {
  command <<< mkdir made && touch made/file ~/in-home && id -u && stat -c %u made ../command >>>
  output { Array[Int] ids = read_lines(stdout())  File made = "made/file" }
  runtime { container: "debian:latest" }
}
"""
    (tmp_path / "t.wdl").write_text(source)
    words = ["t.wdl", "--container", "podman", "--as-root", "--set-env", "HOME=/nowhere"]
    done = run(words, tmp_path, inline=False)
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["t.ids"] == [0, 0, os.getuid()]


def test_a_command_may_write_beside_its_inputs_but_not_change_them(images, tmp_path):
    source = """\
version 1.2
task t {
  input { File f  Directory d }
  command <<<
    echo made > ~{f}.idx
    (echo more >> ~{f}; mv ~{f} away; rm ~{d}/x.txt; touch ~{d}/y.txt) 2>/dev/null
    cat ~{f} ~{d}/*; ls ~{d}
  >>>
  output { String s = read_string(stdout())  File index = "~{f}.idx" }
  runtime { container: "debian:latest" }
}
"""
    (tmp_path / "t.wdl").write_text(source)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x.txt").write_text("entry\n")
    for name in ("f.txt", "with,a comma: or two"):
        (tmp_path / name).write_text("content\n")
    done = in_podman(tmp_path, "t.wdl", "f=f.txt", "d=d")
    assert done.status == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["t.s"] == "content\nentry\nx.txt"
    assert Path(found["t.index"]).name == "f.txt.idx"
    whole = source.replace("echo made > ~{f}.idx", "").replace('File index = "~{f}.idx"', "")
    (tmp_path / "t.wdl").write_text(whole)
    done = in_podman(tmp_path, "t.wdl", "f=with,a comma: or two", "d=d")
    assert done.status == 0, done.stderr
