"""`toilfn trace`: runs as OpenTelemetry spans and OpenLineage events, at a receiver that decodes them."""

from __future__ import annotations

import base64
import json
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from referencing import Registry, Resource

import toilfn as toil
from tests.cli.story import end, epoch, half_done, outcome, run, started, tell
from tests.servers.receiver import Receiver, receiving
from toilfn.cli import main
from toilfn.stores.lease import Lease


@toil.task(retries=1)
def flaky(flag: str) -> str:
    if not Path(flag).exists():
        Path(flag).touch()
        raise ValueError("not yet")
    return "worked"


@toil.task
def copied(file: toil.File, text: str) -> toil.File:
    Path("copy.txt").write_text(file.read_text() + text)
    return toil.write_file("copy.txt")


@toil.task(retries=0)
def hopeless(text: str) -> None:
    raise RuntimeError("never")


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OPENLINEAGE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with receiving() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store: of a run in which a task succeeded at its second attempt, and of one that failed."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "in.txt").write_text("data ")
    made = copied(toil.import_file(folder / "in.txt"), flaky(str(folder / "flag")))
    settings: dict[str, Any] = {"store": folder / "store", "retry_backoff": 0, "progress": False}
    toil.compute(toil.export(made, folder / "out.txt"), **settings)
    with pytest.raises(toil.FailedTasksError):
        toil.compute(hopeless(flaky(str(folder / "flag"))), **settings)
    return folder


@pytest.fixture
def store(folder: Path) -> str:
    return str(folder / "store")


def values(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def decoded(receiver: Receiver) -> ExportTraceServiceRequest:
    """All that was sent, as one request."""
    whole = ExportTraceServiceRequest()
    for request in receiver.received:
        assert request.headers["content-type"] == "application/x-protobuf"
        whole.MergeFrom(ExportTraceServiceRequest.FromString(request.body))
    return whole


def spans_of(request: ExportTraceServiceRequest) -> list[tuple[dict[str, Any], Span]]:
    """Each span with its resource's attributes."""
    return [
        (values(resource.resource.attributes), span)
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def events_of(store: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["events", store]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_attempt_is_a_span_of_its_runs_trace(store, receiver, monkeypatch, capsys):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret")
    assert main(["trace", store, "--endpoint", receiver.url]) == 0
    printed = capsys.readouterr().out
    assert {(request.path, request.headers["authorization"]) for request in receiver.received} == {
        ("/v1/traces", "Bearer secret")
    }
    told = [event for event in events_of(store, capsys) if event["event"] in ("done", "failed")]
    found = spans_of(decoded(receiver))
    roots = {span.span_id: span for _, span in found if not span.parent_span_id}
    assert [(span.kind, span.status.code) for span in roots.values()] == [
        (Span.SPAN_KIND_SERVER, Status.STATUS_CODE_UNSET),
        (Span.SPAN_KIND_SERVER, Status.STATUS_CODE_ERROR),
    ]
    assert [values(span.attributes)["cicd.pipeline.result"] for span in roots.values()] == ["success", "failure"]
    attempts = [span for _, span in found if span.parent_span_id]
    assert len(attempts) == len(told) == 6
    for event, span in zip(told, attempts, strict=True):
        attributes = values(span.attributes)
        assert span.name == attributes["cicd.pipeline.task.name"] == event["name"]
        assert attributes["cicd.pipeline.task.run.id"] == f"{event['task']}/{event['attempt']}"
        assert attributes["host.name"] == event["host"]
        assert attributes["toilfn.memory"] == event["memory"]
        assert attributes.get("error.type") == event.get("cause")
        assert span.start_time_unix_nano / 1e9 == pytest.approx(event["start"], abs=1e-5)
        assert span.end_time_unix_nano / 1e9 == pytest.approx(event["start"] + event["wall"], abs=1e-5)
        root = roots[span.parent_span_id]
        assert span.trace_id == root.trace_id
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
        assert span.trace_id.hex() in printed
    flaky_ones = [(span.status.message, values(span.attributes)["cicd.pipeline.task.run.result"])
                  for span in attempts if span.name == "flaky"]  # fmt: skip
    assert flaky_ones == [("ValueError: not yet", "failure"), ("", "success")]
    assert {resource["service.name"] for resource, _ in found} == {"toilfn"}
    assert len({resource["cicd.pipeline.run.id"] for resource, _ in found}) == len({s.trace_id for _, s in found}) == 2


def test_exported_again_or_to_a_file_it_is_the_same(store, receiver, tmp_path):
    assert main(["trace", store, "--endpoint", f"{receiver.url}/v1/traces"]) == 0
    first = decoded(receiver)
    receiver.received.clear()
    assert main(["trace", store, "--endpoint", receiver.url, "--output", str(tmp_path / "spans.jsonl")]) == 0
    assert decoded(receiver) == first
    written = ExportTraceServiceRequest()
    for line in (tmp_path / "spans.jsonl").read_text().splitlines():
        request = json.loads(line)
        for resource in request["resourceSpans"]:
            for span in resource["scopeSpans"][0]["spans"]:
                for key in {"traceId", "spanId", "parentSpanId"} & span.keys():
                    span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
        written.MergeFrom(ParseDict(request, ExportTraceServiceRequest()))
    assert written == first


def test_one_run_alone(store, receiver, capsys):
    assert main(["trace", store, "--endpoint", receiver.url, "--run", "2"]) == 0
    assert [span.name for _, span in spans_of(decoded(receiver))][:-1] == ["hopeless"]
    assert main(["trace", store, "--endpoint", receiver.url, "--run", "7"]) == 2
    assert "the store has no run 7" in capsys.readouterr().err


def test_the_environment_names_the_endpoint(store, receiver, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "genomes")
    assert main(["trace", store]) == 0
    assert {resource["service.name"] for resource, _ in spans_of(decoded(receiver))} == {"genomes"}


def root_of(url: str, receiver: Receiver) -> dict[str, Any]:
    receiver.received.clear()
    assert main(["trace", url, "--endpoint", receiver.url]) == 0
    (root,) = (span for _, span in spans_of(decoded(receiver)) if not span.parent_span_id)
    return {**values(root.attributes), "end": root.end_time_unix_nano / 1e9, "trace": root.trace_id}


def test_a_run_that_has_not_ended_is_abandoned_or_resumed(tmp_path, receiver):
    store = tell(tmp_path / "store", *half_done())
    with Lease.acquire(store):
        going = root_of(store.url, receiver)
    assert going["cicd.pipeline.run.state"] == "executing"
    assert "cicd.pipeline.result" not in going
    assert going["end"] == 1003.0  # of the last attempt
    abandoned = root_of(store.url, receiver)
    assert (abandoned["cicd.pipeline.result"], abandoned["error.type"]) == ("error", "error")
    tell(tmp_path / "store", end("interrupted"))
    assert root_of(store.url, receiver)["cicd.pipeline.result"] == "cancellation"
    tell(tmp_path / "store", epoch(2), run("merge"), started("sort 4"), outcome("sort 4"), end("done"))
    done = root_of(store.url, receiver)
    assert (done["cicd.pipeline.result"], done["end"]) == ("success", 1010.0)
    assert done["trace"] == going["trace"]


def test_a_server_that_refuses_fails_the_command(store, receiver, capsys):
    receiver.status = 401
    assert main(["trace", store, "--endpoint", receiver.url]) == 1
    assert f"{receiver.url}/v1/traces did not accept the spans: " in capsys.readouterr().err
    assert main(["trace", store, "--openlineage", receiver.url]) == 1
    assert f"{receiver.url}/api/v1/lineage did not accept an event: HTTP Error 401" in capsys.readouterr().err


def test_a_key_does_not_follow_a_redirect(store, receiver, monkeypatch, capsys):
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
    receiver.status, receiver.location = 302, f"{receiver.url}/elsewhere"
    assert main(["trace", store, "--openlineage", receiver.url]) == 1
    assert "HTTP Error 302" in capsys.readouterr().err
    assert [request.path for request in receiver.received] == ["/api/v1/lineage"]


@pytest.mark.parametrize("option", ["--endpoint", "--openlineage"])
@pytest.mark.parametrize("url", ["https://me:secret@collector", "ftp://collector"])
def test_no_other_urls_and_no_credentials_in_them(option, url, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["trace", str(tmp_path), option, url])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_a_trace_without_a_destination_is_refused(store, receiver, capsys):
    assert main(["trace", store]) == 2
    assert "the trace has no destination" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(store, receiver, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "toilfn.cli.spans", None)
    monkeypatch.delattr("toilfn.cli.spans", raising=False)
    assert main(["trace", store, "--endpoint", receiver.url]) == 2
    assert "pip install 'toilfn[trace]'" in capsys.readouterr().err
    assert main(["trace", store, "--openlineage", receiver.url]) == 0  # it needs no more packages


@cache
def published() -> Registry[Any]:
    """OpenLineage's own schemas, by their URLs."""
    schemas = [json.loads(file.read_text()) for file in (Path(__file__).parent / "openlineage").glob("*.json")]
    return Registry().with_resources((schema["$id"], Resource.from_contents(schema)) for schema in schemas)


def validate(value: Any, url: str) -> None:
    """Compare a value with the published schema that it names."""
    Draft202012Validator({"$ref": url}, registry=published(), format_checker=FormatChecker()).validate(value)


def check_event(event: dict[str, Any]) -> None:
    """Compare an event and its facets with the schemas that they name."""
    validate(event, event["schemaURL"])
    assert event["schemaURL"].endswith("OpenLineage.json#/$defs/RunEvent")
    assert event["producer"] == f"urn:toilfn:{toil.__version__}"
    assert datetime.fromisoformat(event["eventTime"]).tzinfo
    assert str(uuid.UUID(event["run"]["runId"])) == event["run"]["runId"]
    for named in (event["job"], *event["inputs"], *event["outputs"]):
        assert named["namespace"]
        assert named["name"]
    facets = [
        event["run"]["facets"],
        event["job"]["facets"],
        *(made.get("outputFacets", {}) for made in event["outputs"]),
    ]
    for name, facet in (item for each in facets for item in each.items()):
        assert facet["_producer"] == event["producer"]
        # As part of the facets of its name, which is how the schemas describe it.
        validate({name: facet}, facet["_schemaURL"].partition("#")[0])
        validate(facet, facet["_schemaURL"])


def test_lineage_tells_what_each_attempt_read_and_wrote(folder, store, receiver, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "lab")
    assert main(["trace", store, "--openlineage", receiver.url]) == 0
    assert {(request.path, request.headers["authorization"]) for request in receiver.received} == {
        ("/api/v1/lineage", "Bearer secret")
    }
    events = [json.loads(request.body) for request in receiver.received]
    for event in events:
        check_event(event)
        assert event["job"]["namespace"] == "lab"
    runs: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        runs.setdefault(event["run"]["runId"], []).append(event)
    assert all(event[0]["eventType"] == "START" and len(event) == 2 for event in runs.values())
    ends = [(last["job"]["name"].rpartition(".")[2], last["eventType"]) for _, last in runs.values()
            if "parent" in last["run"]["facets"]]  # fmt: skip
    assert sorted(ends) == [
        ("copied", "COMPLETE"), ("export", "COMPLETE"), ("flaky", "COMPLETE"), ("flaky", "FAIL"),
        ("hopeless", "FAIL"), ("import_file", "COMPLETE"),
    ]  # fmt: skip
    wholes = [last for _, last in runs.values() if "parent" not in last["run"]["facets"]]
    assert [whole["eventType"] for whole in wholes] == ["COMPLETE", "FAIL"]
    parents = {last["run"]["facets"]["parent"]["run"]["runId"] for _, last in runs.values() if last not in wholes}
    assert parents == {whole["run"]["runId"] for whole in wholes}
    last_of = {last["job"]["name"].rpartition(".")[2]: last for _, last in runs.values()}
    assert last_of["hopeless"]["run"]["facets"]["errorMessage"]["message"] == "RuntimeError: never"

    def named(datasets: list[dict[str, Any]]) -> list[str]:
        assert all(dataset["namespace"] == "file" for dataset in datasets)
        return [dataset["name"] for dataset in datasets]

    assert named(last_of["import_file"]["inputs"]) == [str(folder / "in.txt")]
    assert named(last_of["copied"]["inputs"]) == named(last_of["import_file"]["outputs"])
    assert named(last_of["export"]["inputs"]) == named(last_of["copied"]["outputs"])
    assert named(last_of["export"]["outputs"]) == [str(folder / "out.txt")]
    assert last_of["copied"]["outputs"][0]["outputFacets"]["outputStatistics"]["size"] == len("data worked")


@pytest.mark.parametrize(
    "change",
    [{"eventTime": "yesterday"}, {"eventType": "BEGIN"}, {"run": {"runId": "1"}}, {"job": {"name": "x"}}],
    ids=lambda change: next(iter(change)),
)
def test_the_schemas_find_faults(store, tmp_path, change):
    assert main(["trace", store, "--openlineage", str(tmp_path / "events.jsonl")]) == 0
    event = json.loads((tmp_path / "events.jsonl").read_text().splitlines()[0])
    check_event(event)
    with pytest.raises(ValidationError):
        check_event(event | change)


def test_lineage_of_a_run_goes_into_a_file(store, tmp_path):
    assert main(["trace", store, "--openlineage", str(tmp_path / "events.jsonl"), "--run", "2"]) == 0
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["eventType"] for event in events] == ["START", "START", "FAIL", "FAIL"]
