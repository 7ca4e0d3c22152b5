"""`TRACEPARENT` in the environment of tasks: the spans of their programs are below those of `toilfn trace`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from toilfn.cli import main
from toilfn.model.traces import TraceContext

pytest.importorskip("opentelemetry.sdk")

OUTER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def contexts() -> list[str]:
    """What this process sees, and what a program that it starts sees."""
    by_program = subprocess.run(["sh", "-c", "echo $TRACEPARENT"], stdout=subprocess.PIPE, text=True, check=True)
    inherited = subprocess.run(["/usr/bin/env"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return [
        os.environ["TRACEPARENT"],
        by_program.stdout.strip(),
        *(x[12:] for x in inherited if x[:12] == "TRACEPARENT="),
    ]


@toil.task(retries=1)
def seen(name: str, folder: str) -> list[str]:
    found = contexts()
    with (Path(folder) / f"{name}.json").open("a") as stream:
        stream.write(json.dumps(found) + "\n")
    if name == "twice" and len((Path(folder) / f"{name}.json").read_text().splitlines()) == 1:
        raise ValueError("the first attempt fails")
    os.environ["TRACEPARENT"] = "changed by the task"
    return found


@pytest.fixture(params=["local", "inline"])
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"cluster": "inline"} if request.param == "inline" else {"workers": 1}


def run(folder: Path, **how: Any) -> None:
    promises = [seen(name, str(folder)) for name in ("one", "two", "twice")]
    toil.compute(promises, store=folder / "store", progress=False, retry_backoff=0, **how)


def told(folder: Path) -> dict[str, list[TraceContext]]:
    """The contexts that the attempts of each task saw."""
    found = {}
    for file in folder.glob("*.json"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert all(len(line) == 3 and len(set(line)) == 1 for line in lines), lines  # each program is told the same
        found[file.stem] = [TraceContext.read(line[0]) for line in lines]
    return found


def exported(folder: Path) -> list[dict[str, Any]]:
    assert main(["trace", str(folder / "store"), "--output", str(folder / "spans.jsonl")]) == 0
    requests = map(json.loads, (folder / "spans.jsonl").read_text().splitlines())
    return [span for request in requests for resource in request["resourceSpans"]
            for scope in resource["scopeSpans"] for span in scope["spans"]]  # fmt: skip


def test_a_program_is_told_the_span_of_its_attempt(tmp_path, how, monkeypatch):
    monkeypatch.delenv("TRACEPARENT", raising=False)
    run(tmp_path, **how)
    assert "TRACEPARENT" not in os.environ
    contexts = told(tmp_path)
    assert list(map(len, (contexts["one"], contexts["two"], contexts["twice"]))) == [1, 1, 2]
    spans = exported(tmp_path)
    (root,) = [span for span in spans if not span.get("parentSpanId")]
    attempts = {span["spanId"]: span for span in spans if span is not root}
    of_tasks = [context for found in contexts.values() for context in found]
    assert {context.span for context in of_tasks} == attempts.keys()
    assert {context.trace for context in of_tasks} == {root["traceId"]}
    assert {span["parentSpanId"] for span in attempts.values()} == {root["spanId"]}
    first, second = (attempts[context.span] for context in contexts["twice"])
    assert (first["status"]["code"], second["status"].get("code", 0)) == (2, 0)


def test_a_run_is_below_the_span_in_which_it_was_started(tmp_path, how, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", OUTER)
    run(tmp_path, **how)
    assert os.environ["TRACEPARENT"] == OUTER
    outer = TraceContext.read(OUTER)
    monkeypatch.delenv("TRACEPARENT")
    spans = exported(tmp_path)
    assert {span["traceId"] for span in spans} == {outer.trace}
    (root,) = [span for span in spans if span["parentSpanId"] == outer.span]
    assert {span["parentSpanId"] for span in spans if span is not root} == {root["spanId"]}
    contexts = [context for found in told(tmp_path).values() for context in found]
    assert {context.span for context in contexts} == {span["spanId"] for span in spans if span is not root}
    assert {context.trace for context in contexts} == {outer.trace}


@pytest.mark.parametrize(
    "text",
    ["", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", OUTER.upper(), f"{OUTER}-more",
     OUTER.replace("00-4", "ff-4"), f"00-{'0' * 32}-00f067aa0ba902b7-01",
     f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01"],
)  # fmt: skip
def test_a_trace_context_that_is_not_valid_is_ignored(text):
    assert TraceContext.read(text) is None


def test_flags_and_later_versions_are_understood():
    assert TraceContext.read(f"{OUTER[:-1]}0").flags == "00"
    assert TraceContext.read(f"01{OUTER[2:]}-more") == TraceContext.read(OUTER)
