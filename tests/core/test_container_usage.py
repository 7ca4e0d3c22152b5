"""The figures of control groups about a container; tests/wdl/test_containers.py has a real one."""

from __future__ import annotations

import pytest

from toilfn.containers.process import counted

SECOND = """\
memory.peak 157286400
cpu.stat usage_usec 2500000
cpu.stat user_usec 2000000
"""
FIRST = """\
memory/memory.max_usage_in_bytes 157286400
cpuacct/cpuacct.usage 2500000000
"""


@pytest.mark.parametrize("report", [FIRST, SECOND])
def test_both_versions_of_control_groups(report):
    assert counted(report) == (2.5, 150 * 2**20)


@pytest.mark.parametrize("report", ["", "cpu.stat usage_usec 99999999999\n"])
def test_usage_of_a_group_that_is_not_the_containers_own_is_not_reported(report):
    assert counted(report) is None
