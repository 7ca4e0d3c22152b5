"""What users see if their machine has the commands of Slurm but cannot reach its controller."""

from __future__ import annotations

import pytest

from toilfn.clusters.base import RunContext
from toilfn.clusters.slurm import SlurmCluster
from toilfn.errors import ClusterError

WORDS = """\
NAME: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
NAME: error: fetch_config: DNS SRV lookup failed
NAME: error: _establish_config_source: failed to fetch config
NAME: fatal: Could not establish a configuration source"""


def test_a_slurm_without_configuration_is_reported_once_and_ends_with_its_message(tmp_path, monkeypatch, caplog):
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo"):
        script = commands / name
        script.write_text(f"#!/bin/sh\ncat >&2 <<'E'\n{WORDS.replace('NAME', name)}\nE\nexit 1\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    cluster = SlurmCluster(patience=2)
    with pytest.raises(ClusterError, match="Could not establish a configuration source") as caught:
        cluster.open(RunContext(str(tmp_path), "test-first-contact"))
    assert caplog.text.count("trying again for at most 2s") == 1
    assert caplog.text.count("Could not establish a configuration source") == 1
    assert "scontrol: scontrol:" not in caplog.text + str(caught.value)
    assert "patience" in caught.value.hint
