"""A store that is a folder must be one that the nodes see: said before anything is submitted."""

from __future__ import annotations

import logging

import pytest

from toilfn.errors import ClusterError
from toilfn.leader import cluster_context
from toilfn.leader.cluster_context import check_shared


class Somewhere:
    def __init__(self, has_others):
        self.has_others = has_others

    def has_other_machines(self):
        return self.has_others


@pytest.fixture
def kinds(monkeypatch):
    """The type of the file system at each place; ext4 elsewhere."""
    known = {}
    monkeypatch.setattr(cluster_context, "_file_system", lambda path: known.get(path, "ext4"))
    return known


def test_a_folder_that_each_machine_has_for_itself_is_refused(kinds):
    with pytest.raises(ClusterError, match=r"the store run1 is in /tmp, which is local to each machine.*use a bucket"):
        check_shared(Somewhere(True), "file:///tmp/run1", "run1")


def test_a_cluster_that_does_not_know_its_nodes_gives_a_warning(kinds, caplog):
    check_shared(Somewhere(None), "/tmp/run1", "run1")
    assert "is in /tmp, which is local to each machine; if jobs run on other machines" in caplog.text


@pytest.mark.parametrize("has_others", [True, None])
def test_a_file_system_that_only_one_machine_has_gives_a_warning(kinds, caplog, has_others):
    check_shared(Somewhere(has_others), "/home/me/run1", "run1")
    assert "on a file system of type ext4" in caplog.text


@pytest.mark.parametrize(
    ("has_others", "url", "kind"),
    [
        (False, "/tmp/run1", "ext4"),
        (True, "/home/me/run1", "nfs4"),
        (True, "/home/me/run1", "lustre"),
        (True, "/tmp/run1", "beegfs_nodev"),
        (True, "s3://bucket/run1", "ext4"),
    ],
)
def test_stores_that_nodes_can_see_give_no_warning(kinds, caplog, has_others, url, kind):
    kinds[url] = kind
    with caplog.at_level(logging.DEBUG):
        check_shared(Somewhere(has_others), url, "run1")
    assert caplog.text == ""


def test_types_of_file_systems_are_found():
    assert cluster_context._file_system("/proc/self") == "proc"
