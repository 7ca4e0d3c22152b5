"""Reaching a cluster's controller: a real sshd, whose host key is the one from the launch, or another."""

from __future__ import annotations

import contextlib
import http.server
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from tests.servers.machine import serve, wait_for
from tests.servers.sshd import SecureShell
from toilfn.cloud.bootstrap import Secrets, controller_data, worker_data
from toilfn.cloud.description import read
from toilfn.cloud.machines import MachineType
from toilfn.cloud.ssh import Host, rsync, ssh
from toilfn.errors import ClusterError, InputError


@pytest.fixture(scope="module")
def sshd() -> Iterator[SecureShell]:
    yield from serve(SecureShell())


@pytest.fixture
def host(sshd) -> Host:
    return Host("127.0.0.1", sshd.host_key, sshd.user, sshd.port)


def test_a_command_arrives_with_its_words_as_they_are_and_its_status_comes_back(sshd, host, tmp_path, capfd):
    target = tmp_path / "it's $HOME; a file"
    assert ssh(host, ["touch", str(target)], sshd.identity) == 0
    assert target.exists()
    assert ssh(host, ["sh", "-c", "exit 3"], sshd.identity) == 3


def test_another_host_key_than_that_of_the_launch_is_refused(sshd, host, tmp_path):
    other = Host(host.address, Secrets.fresh().host_public, host.user, host.port)
    target = tmp_path / "never"
    with pytest.raises(ClusterError, match="another machine answers at this address"):
        ssh(other, ["touch", str(target)], sshd.identity)
    with pytest.raises(ClusterError, match="could not connect"):
        rsync(other, ["-a", __file__, f":{target}"], sshd.identity)
    assert not target.exists()


@pytest.mark.parametrize("key", ["", "no key", "ssh-ed25519 AAAA\n* ssh-rsa BBBB"])
def test_a_text_that_is_not_one_key_is_refused(host, key):
    with pytest.raises(InputError, match="is not a public key"):
        ssh(Host(host.address, key, host.user, host.port), ["true"])


def test_files_are_copied_both_ways(sshd, host, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a file").write_text("content")
    assert rsync(host, ["-a", f"{tmp_path}/here/", f":{tmp_path}/there"], sshd.identity) == 0
    assert (tmp_path / "there" / "a file").read_text() == "content"
    assert rsync(host, ["-a", f":{tmp_path}/there/", f"{tmp_path}/back"], sshd.identity) == 0
    assert (tmp_path / "back" / "a file").read_text() == "content"
    with pytest.raises(InputError, match="begins with a colon"):
        rsync(host, ["-a", str(tmp_path), str(tmp_path)])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


FORWARD = """
import sys
from toilfn.cloud.ssh import Host, forward
forward(Host(*sys.argv[1:4], int(sys.argv[4])), sys.argv[6:], sys.argv[5])
"""


def test_a_port_is_forwarded(sshd, host):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        local = free_port()
        words = [host.address, host.key, host.user, str(host.port), sshd.identity, f"{local}:{server.server_port}"]
        with subprocess.Popen([sys.executable, "-c", FORWARD, *words], start_new_session=True) as client:
            try:
                url = f"http://127.0.0.1:{local}/"
                wait_for(lambda: urllib.request.urlopen(url, timeout=5).status == 200, "the port", 60)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    subprocess.run(["pkill", "-s", str(client.pid)], check=False)
        server.shutdown()


def test_a_port_that_is_not_a_number_is_refused(host):
    from toilfn.cloud.ssh import forward

    with pytest.raises(InputError, match="is not a port to forward"):
        forward(host, ["80:x"])


# What machines boot with

TEXT = """\
name: lab
region: eu-central-1
init: ["echo 'a user''s own command' > /tmp/$HOSTNAME"]
pools:
  - {name: cpu, types: [c5.xlarge], min: 1, max: 4}
  - {name: spot, types: [m5.large], spot: true}
"""
SIZES = {name: MachineType(name, 4, 16 * 2**30, 0) for name in ("c5.xlarge", "m5.large", "t3.medium")}


def boot_data() -> dict[str, str]:
    description, secrets = read(TEXT), Secrets.fresh()
    return {"controller": controller_data(description, SIZES, secrets), "worker": worker_data(description, secrets)}


@pytest.mark.parametrize("part", ["controller", "worker"])
def test_cloud_init_accepts_what_machines_boot_with(sshd, tmp_path, part):
    file = tmp_path / "user-data"
    data = boot_data()[part]
    assert len(data) < 16384  # EC2's limit
    file.write_text(data)
    done = subprocess.run(["cloud-init", "schema", "--config-file", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("part", ["controller", "worker"])
def test_shell_parts_of_what_machines_boot_with_pass_shellcheck(sshd, tmp_path, part):
    import base64

    import yaml

    scripts = 0
    for written in yaml.safe_load(boot_data()[part])["write_files"]:
        content = base64.b64decode(written["content"])
        if content.startswith(b"#!/bin/sh"):
            scripts += 1
            (tmp_path / "script").write_bytes(content)
            done = subprocess.run(["shellcheck", tmp_path / "script"], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{written['path']}: {done.stdout}"
    assert scripts >= 2


def test_slurm_understands_the_configuration(tmp_path):
    from toilfn.cloud.bootstrap import slurm_conf

    text = slurm_conf(read(TEXT), SIZES)
    assert "NodeName=cpu-[0-3] CPUs=4" in text
    assert "SuspendExcNodes=cpu-0\n" in text
    assert "Features=spot,spot\n" in text
    assert "PartitionName=all Nodes=cpu-[0-3],spot-[0-9] Default=YES" in text
