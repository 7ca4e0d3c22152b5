"""The output of commands reaches the log of their attempts, however these end."""

from __future__ import annotations

from tests.wdl.running import run, toilfn

SLOW = """\
version 1.1
task slow {
  command <<<
    echo almost >&2
    sleep 60
  >>>
  runtime { timeout: 1 }
}
"""


def test_the_output_of_a_command_is_kept_when_its_time_is_over(tmp_path):
    (tmp_path / "slow.wdl").write_text(SLOW)
    done = run(["slow.wdl", "--store", "store", "--container", "none"], tmp_path, inline=False)
    assert done.status == 1
    assert "task slow: took longer than its walltime of 1s" in done.stderr
    assert "almost\n" in toilfn(["logs", "store", "slow"], tmp_path).stdout
