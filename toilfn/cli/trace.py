"""``toilfn trace STORE``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from toilfn.cli.common import add_store, add_store_options, open_named, output_file
from toilfn.cli.lineage import Lineage, sender
from toilfn.errors import InputError
from toilfn.inspect.runs import Runs, ToldRun
from toilfn.model.replay import read, replay
from toilfn.stores import Store
from toilfn.stores.lease import living

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from toilfn.cli.spans import Spans

__all__ = ["command", "configure"]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = (
        "A trace's ids are the same at each export. Without --endpoint, --output and "
        "--openlineage, OTEL_EXPORTER_OTLP_ENDPOINT says where spans go. Credentials: OTEL_EXPORTER_OTLP_HEADERS, "
        "such as 'Authorization=Bearer%20TOKEN', and OPENLINEAGE_API_KEY."
    )
    add_store(parser)
    add_store_options(parser)
    parser.add_argument("--endpoint", metavar="URL", type=_url, help="send spans to this URL, by OTLP over HTTP")
    parser.add_argument("--output", metavar="FILE", type=output_file, help="write spans to a file, as lines of JSON")
    parser.add_argument(
        "--openlineage", metavar="FILE|URL", type=_file_or_url,
        help="write OpenLineage events to a file, or send them to a URL: they name the files that tasks read and wrote",
    )  # fmt: skip
    parser.add_argument("--run", metavar="NUMBER", type=int, help="only the run with this number (default: all)")


def command(options: argparse.Namespace) -> int:
    """Export runs as traces or as lineage.

    Raises
    ------
    InputError
        If no destination is given, or the store has no run with the number.
    """
    store = open_named(options)
    by_variable = any(map(os.environ.get, _ENDPOINTS)) and not (options.output or options.openlineage)
    if not (options.endpoint or options.output or options.openlineage or by_variable):
        raise InputError(
            "the trace has no destination", hint="give --endpoint URL, --output FILE or --openlineage FILE"
        )
    if options.endpoint or options.output or by_variable:
        _export_spans(store, options, sends=bool(options.endpoint or by_variable))
    if options.openlineage:
        _export_lineage(store, options.openlineage, options.run)
    return 0


def _export_spans(store: Store, options: argparse.Namespace, *, sends: bool) -> None:
    try:
        from toilfn.cli import spans as otlp
    except ImportError:
        raise InputError("traces need more packages", hint="pip install 'toilfn[trace]'") from None
    runs = Runs()
    with contextlib.ExitStack() as stack:
        takers: list[Callable[[list[ReadableSpan]], None]] = []
        if sends:
            sending = otlp.Sender(options.endpoint)
            stack.callback(sending.close)
            takers.append(sending.send)
        if options.output:
            stream = stack.enter_context(options.output.open("w"))
            takers.append(lambda batch: otlp.write(batch, stream))
        for batch in otlp.batches(_spans(store, runs, otlp.Spans(store.id), options.run)):
            for take in takers:
                take(batch)
    for run in _chosen(runs, options.run):
        trace = run.context(store.id).trace
        print(f"run {run.number} ({run.status}): trace {trace}, {run.attempts} attempts")


def _spans(store: Store, runs: Runs, spans: Spans, number: int | None) -> Iterator[ReadableSpan]:
    is_led = living(store) is not None  # before the log, as in `open_view`
    for attempt in runs.attempts(replay(read(store.log)), is_led=is_led):
        if number in (None, attempt.run):
            yield spans.attempt(runs.known[attempt.run], attempt)
    for run in _chosen(runs, number):
        yield spans.root(run)


def _chosen(runs: Runs, number: int | None) -> list[ToldRun]:
    if number is None:
        return list(runs.known.values())
    if number not in runs.known:
        raise _no_run(number)
    return [runs.known[number]]


def _no_run(number: int) -> InputError:
    return InputError(f"the store has no run {number}", hint="toilfn events STORE prints the numbers of its runs")


def _export_lineage(store: Store, to: Path | str, number: int | None) -> None:
    is_led = living(store) is not None
    events = Lineage(store).events(replay(read(store.log)), is_led=is_led, number=number)
    count = 0
    with contextlib.ExitStack() as stack:
        if isinstance(to, Path):
            stream = stack.enter_context(to.open("w"))
            take: Callable[[dict[str, Any]], object] = lambda event: stream.write(json.dumps(event) + "\n")  # noqa: E731
        else:
            take = sender(to)
        for event in events:
            take(event)
            count += 1
    if number is not None and not count:
        raise _no_run(number)
    print(f"{count} OpenLineage events")


def _url(text: str) -> str:
    """Parse the URL of a server, and refuse credentials in it, which every user who lists processes could read."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not the URL of a server: http://HOST:PORT or https://HOST")
    if "@" in parts.netloc:
        raise argparse.ArgumentTypeError("the URL must not contain a user name or password; use the environment "
                                         "variables OTEL_EXPORTER_OTLP_HEADERS and OPENLINEAGE_API_KEY")  # fmt: skip
    return text


def _file_or_url(text: str) -> Path | str:
    return _url(text) if "://" in text else output_file(text)
