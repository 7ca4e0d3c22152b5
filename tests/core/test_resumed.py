"""A run that is resumed: where it continues, and its records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from tests.cli.story import end, epoch, run, tell
from toilfn.clusters.local.inline import InlineCluster
from toilfn.clusters.resume import make_from, recipe_of
from toilfn.inspect.view import View
from toilfn.model.index import Index
from toilfn.model.replay import Journal, read, replay


@toil.task
def process_id(flag: str) -> int:
    """Fails until there is a file."""
    if not os.path.exists(flag):
        raise ValueError("not yet")
    return os.getpid()


@pytest.mark.parametrize(
    ("cluster", "given", "is_here"),
    [
        ("inline", {}, True),
        ("inline", {"cluster": "local"}, False),
        (InlineCluster(), {}, True),
    ],
)
def test_it_resumes_on_the_cluster_that_was_named(
    cluster: Any, given: dict[str, str], is_here: bool, tmp_path: Path
) -> None:
    """Also with one that was given as an object: the record says how it is made."""
    store, flag = tmp_path / "store", tmp_path / "flag"
    with pytest.raises(toil.FailedTasksError):
        toil.compute(process_id(str(flag)), store=store, cluster=cluster, retries=0)
    flag.touch()
    assert (toil.resume(store, **given) == os.getpid()) == is_here


def test_it_has_not_ended_and_is_still_one_run(tmp_path: Path) -> None:
    resumed = run("a")._replace(settings={"cluster": "slurm"})
    store = tell(tmp_path / "store", epoch(), run("a"), end("interrupted"), epoch(2), resumed)
    index, view = Index.load(store.log), View(store)
    assert index.runs == view.runs == [resumed]
    assert index.ended == {}
    assert view.status == "open"
    journal = Journal()
    told = [event["event"] for fact in replay(read(store.log)) for event in journal.events(fact)]
    assert told == ["leader", "run", "end", "leader"]


def test_a_cluster_that_cannot_be_made_again_is_refused(tmp_path: Path) -> None:
    """In one line that says what to do; nothing runs here instead."""
    settings = {"cluster": "slurm", "cluster_address": {}, "cluster_recipe": {"unknown": "<lock> cannot be recorded"}}
    store = tell(tmp_path / "store", epoch(), run("a")._replace(settings=settings))
    with pytest.raises(toil.ClusterError, match=r"<lock> cannot be recorded; name the cluster, as in: toilfn resume"):
        toil.resume(store.url)


def test_recipes_hold_plain_values_and_no_secrets() -> None:
    cluster = toil.TESCluster(endpoint="http://host", bearer_token="hidden")
    recipe = recipe_of(cluster)
    assert "hidden" not in str(recipe)
    assert make_from("tes", recipe).constructor_arguments == ((), {"endpoint": "http://host"})
    with_path = recipe_of(toil.SlurmCluster(log_directory=Path("logs"), submit_args=("-q", "x")))  # type: ignore[typeddict-item]
    assert with_path["settings"] == {"log_directory": "logs", "submit_args": ["-q", "x"]}


def test_a_resumed_run_on_this_machine_does_not_use_the_launcher_of_the_first_one():
    cluster = toil.LocalCluster(2, launcher=lambda *_: pytest.fail("not started"), watch_memory=False)
    assert make_from("local", recipe_of(cluster)).constructor_arguments == ((), {"workers": 2, "watch_memory": False})
