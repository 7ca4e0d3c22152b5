"""Runs as OpenTelemetry spans: one trace for each run, one span for each attempt. Needs the extra `trace`."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TextIO
from urllib.parse import urlsplit

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

import toilfn
from toilfn.errors import ToilfnError
from toilfn.inspect.runs import ABANDONED, OPEN, RunAttempt, ToldRun
from toilfn.model.traces import TraceContext

__all__ = ["Sender", "Spans", "batches", "write"]

_BATCH = 1000
"""Maximum number of spans in one request, or on one line of a file."""
_RESULTS = {"done": "success", "failed": "failure", "killed": "cancellation", "interrupted": "cancellation",
            ABANDONED: "error"}  # fmt: skip
_CAUSES = {"": "success", "walltime": "timeout", "lost": "error", "preempted": "error"}
"""The values of ``cicd.pipeline.task.run.result`` by the cause of a failure; for other causes it is "failure"."""
_SCOPE = InstrumentationScope("toilfn", toilfn.__version__)
_PATH = "/v1/traces"


class Spans:
    """Builds the spans of one store.

    Their ids are computed from the store's id, the run and the attempt, so they are the same at each export.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        self._environment = OTELResourceDetector().detect()  # OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
        self._resources: dict[int, Resource] = {}

    def root(self, run: ToldRun) -> ReadableSpan:
        """Build the span of a whole run."""
        attributes: dict[str, Any] = {"cicd.pipeline.action.name": "RUN", "toilfn.run": run.number,
                                      "toilfn.attempts": run.attempts, "toilfn.workflow": run.workflow}  # fmt: skip
        if run.status == OPEN:
            attributes["cicd.pipeline.run.state"] = "executing"
        else:
            attributes["cicd.pipeline.result"] = _RESULTS[run.status]
        if run.status in ("failed", ABANDONED):
            attributes["error.type"] = run.cause or run.status
        status = Status(StatusCode.ERROR, run.status) if "error.type" in attributes else Status(StatusCode.UNSET)
        return self._span(
            f"RUN {run.name}", run, self._context(run), self._parent(run), SpanKind.SERVER, attributes, status,
            run.start, run.end,
        )  # fmt: skip

    def attempt(self, run: ToldRun, attempt: RunAttempt) -> ReadableSpan:
        """Build the span of an attempt."""
        usage = attempt.usage
        attributes = {
            "cicd.pipeline.task.name": attempt.name,
            "cicd.pipeline.task.run.id": f"{attempt.task.hex()}/{attempt.number}",
            "cicd.pipeline.task.run.result": _CAUSES.get(attempt.cause, "failure"),
            "toilfn.task.id": attempt.task.hex(),
            "toilfn.attempt": attempt.number,
            "toilfn.memory": usage["memory"],
            "toilfn.cpu": usage["cpu"],
            "toilfn.read": usage["read"],
            "toilfn.written": usage["written"],
        }
        if usage["host"]:
            attributes |= {"host.name": usage["host"], "process.pid": usage["worker"]}
        status = Status(StatusCode.UNSET)
        if attempt.cause:
            attributes |= {"error.type": attempt.cause, "toilfn.final": attempt.is_final}
            status = Status(StatusCode.ERROR, attempt.message)
        return self._span(
            attempt.name, run, self._context(run, attempt.span), self._context(run), SpanKind.INTERNAL, attributes,
            status, attempt.start, attempt.end,
        )  # fmt: skip

    def _context(self, run: ToldRun, own: str | None = None) -> SpanContext:
        context = run.context(self._store)
        return _span_context(context if own is None else context._replace(span=own), is_remote=False)

    def _parent(self, run: ToldRun) -> SpanContext | None:
        parent = TraceContext.read(run.parent or "")
        return None if parent is None else _span_context(parent, is_remote=True)

    def _span(
        self, name: str, run: ToldRun, context: SpanContext, parent: SpanContext | None, kind: SpanKind,
        attributes: dict[str, Any], status: Status, start: float, end: float,
    ) -> ReadableSpan:  # fmt: skip
        """Build a span with given times and ids; a tracer would choose new ids."""
        return ReadableSpan(
            name, context, parent, self._resource(run), attributes, kind=kind, status=status,
            start_time=int(start * 1e9), end_time=int(end * 1e9), instrumentation_scope=_SCOPE,
        )  # fmt: skip

    def _resource(self, run: ToldRun) -> Resource:
        if run.number not in self._resources:
            known = {"service.name": "toilfn", "service.version": toilfn.__version__, "cicd.pipeline.name": run.name,
                     "cicd.pipeline.run.id": f"{self._store}/{run.number}"}  # fmt: skip
            self._resources[run.number] = Resource(known).merge(self._environment)
        return self._resources[run.number]


def _span_context(context: TraceContext, *, is_remote: bool) -> SpanContext:
    return SpanContext(int(context.trace, 16), int(context.span, 16), is_remote, TraceFlags(TraceFlags.SAMPLED))


def batches(spans: Iterable[ReadableSpan]) -> Iterator[list[ReadableSpan]]:
    """Split spans into lists of at most `_BATCH` spans, one for each request."""
    stream = iter(spans)
    while batch := list(islice(stream, _BATCH)):
        yield batch


def write(spans: Sequence[ReadableSpan], stream: TextIO) -> None:
    """Write spans as one line of OTLP JSON."""
    request = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for span in _spans_in(request):
        for key in ("traceId", "spanId", "parentSpanId"):
            if key in span:  # OTLP writes ids in hexadecimal, unlike protobuf
                span[key] = base64.b64decode(span[key]).hex()
    stream.write(json.dumps(request, separators=(",", ":")) + "\n")


def _spans_in(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in request["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            yield from scope["spans"]


class Sender:
    """Sends spans over OTLP/HTTP. The variables OTEL_EXPORTER_OTLP_* set headers, certificates, the timeout and so on.

    Parameters
    ----------
    endpoint : str or None
        The URL of the server. If it has no path, ``/v1/traces`` is appended. None means the URL in the variables.
    """

    def __init__(self, endpoint: str | None) -> None:
        if endpoint is not None and urlsplit(endpoint).path in ("", "/"):
            endpoint = endpoint.rstrip("/") + _PATH
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._endpoint = endpoint or "the endpoint of OTEL_EXPORTER_OTLP_ENDPOINT"

    def send(self, spans: Sequence[ReadableSpan]) -> None:
        """Send spans, and repeat the request if the server is busy.

        Raises
        ------
        ToilfnError
            If the server does not accept them.
        """
        logger, last_message = logging.getLogger("opentelemetry.exporter"), _LastMessage()
        was, logger.propagate = logger.propagate, False
        logger.addHandler(last_message)
        try:
            result = self._exporter.export(spans)
        finally:
            logger.removeHandler(last_message)
            logger.propagate = was
        if result is not SpanExportResult.SUCCESS:
            raise ToilfnError(
                f"{self._endpoint} did not accept the spans: {last_message.text}",
                hint="check the URL, and OTEL_EXPORTER_OTLP_HEADERS if it needs a credential",
            )

    def close(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()


class _LastMessage(logging.Handler):
    """Keeps the last log message of the exporter, whose result says only whether it succeeded."""

    text = "the reason is not known"

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()
