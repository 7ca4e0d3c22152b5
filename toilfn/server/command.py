"""``toilfn server``: serve runs to others, and ``toilfn server token``: its users."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from toilfn.cli.common import add_store_options, named_options
from toilfn.cli.parser import Parser
from toilfn.errors import InputError
from toilfn.server.access import Tokens
from toilfn.server.app import PREFIX, Service, make_app
from toilfn.server.archives import Limits
from toilfn.server.engines import KINDS
from toilfn.server.guard import is_loopback
from toilfn.server.launcher import LaunchSettings
from toilfn.server.metrics import metrics_route
from toilfn.server.records import Place
from toilfn.server.site import site_routes
from toilfn.server.submission import Policy
from toilfn.stdio import unfailing_standard_error
from toilfn.text import VisibleStream
from toilfn.units import parse_duration, parse_size

__all__ = ["main", "make_parser"]

_ABOUT = {
    "id": "in reverse domain notation",
    "name": "for people",
    "organization": "who runs it",
    "organization-url": "the page of the organization",
    "contact": "a URL or a mailto: for questions",
    "auth": "a page that says how to get a token",
}
_ABOUT_PREFIX = "service_"


def main(arguments: Sequence[str] | None = None, *, prog: str = "toilfn server") -> int:
    """Serve until the process is ended, or manage tokens; returns the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default what this process was given.
    prog : str
        The name of the command in its help.

    Raises
    ------
    InputError
        If the server may not be started in this way; says what to do.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with unfailing_standard_error(), redirect_stdout(VisibleStream.over(sys.stdout)):
        if words[:1] == ["token"]:
            return _token(words[1:], f"{prog} token")
        return _serve(make_parser(prog).parse_args(words))


def make_parser(prog: str) -> Parser:
    """Build the parser of everything but tokens."""
    parser = Parser(
        prog=prog,
        description="Run workflows for others: a GA4GH Workflow Execution Service (WES 1.1).",
        epilog=f"{prog} token add|list|remove NAME says who may use it.",
    )
    _add_place(parser)
    where = parser.add_argument_group("address")
    where.add_argument("--host", default="127.0.0.1", help="the address to listen at; any but this machine's own needs "
                       "tokens (default: 127.0.0.1)")  # fmt: skip
    where.add_argument("--port", type=int, default=8080, help="(default: 8080)")
    where.add_argument("--prefix", default=PREFIX, help=f"the path of the service (default: {PREFIX})")
    where.add_argument(
        "--public-url", default="", metavar="URL", help="what URLs in answers begin with, behind a proxy"
    )
    where.add_argument("--cors-origin", action="append", default=[], metavar="ORIGIN",
                       help="a site whose pages may send requests; may be given several times")  # fmt: skip
    where.add_argument("--tls-certificate", metavar="FILE", help="serve HTTPS with this certificate, in PEM")
    where.add_argument("--tls-key", metavar="FILE", help="and its key")
    _add_runs(parser.add_argument_group("runs"))
    _add_limits(parser.add_argument_group("limits of a request"))
    about = parser.add_argument_group("what service-info says")
    for name, help in _ABOUT.items():
        about.add_argument(f"--service-{name}", metavar="TEXT", help=help)
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--place", default="toilfn-server", metavar="URL",
                        help="where the records of runs are: a directory, or any URL of a job store; servers "
                             "may share it (default: toilfn-server)")  # fmt: skip
    parser.add_argument("--work-dir", metavar="DIR", help="where the files of runs are; by default in the place")
    add_store_options(parser)


def _add_runs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--kind", action="append", choices=sorted(KINDS), help="what is run; may be given several times;"
                       " by default everything")  # fmt: skip
    group.add_argument("--max-runs", type=_positive, default=LaunchSettings().limit, metavar="N",
                       help="how many runs are led on this machine at one time (default: %(default)s)")  # fmt: skip
    group.add_argument("--max-age", type=parse_duration, metavar="TIME",
                       help="delete a run with all it holds so long after its end; by default never")  # fmt: skip
    group.add_argument("--cluster", help="where tasks run; by default on this machine")
    group.add_argument("--opt", "-o", action="append", default=[], metavar="--OPTION=VALUE",
                       help="an option of every run, as in --opt=--retries=2; may be given several times")  # fmt: skip
    group.add_argument("--store-base", metavar="URL", help="where each run gets its job store; by default its folder")
    group.add_argument("--dest-bucket-base", metavar="URL", help="where each run gets a folder for its outputs; by "
                       "default they are in its folder, and served")  # fmt: skip
    group.add_argument("--allow-folder", action="append", default=[], metavar="DIR",
                       help="run documents of this machine that are in this folder; by default none")  # fmt: skip
    group.add_argument("--pass-env", action="append", default=[], metavar="NAME",
                       help="a variable of the environment that runs get, too")  # fmt: skip


def _add_limits(group: argparse._ArgumentGroup) -> None:
    most = Limits()
    group.add_argument("--max-field", type=parse_size, default=most.field, metavar="SIZE",
                       help="of each field that is not a file, such as the inputs (default: 16Mi)")  # fmt: skip
    group.add_argument("--max-file", type=parse_size, default=most.file, metavar="SIZE",
                       help="of each attachment (default: 10Gi)")  # fmt: skip
    group.add_argument("--max-upload", type=parse_size, default=most.total, metavar="SIZE",
                       help="of all together (default: 50Gi)")  # fmt: skip
    group.add_argument("--max-files", type=_positive, default=most.files, metavar="N",
                       help="the number of attachments (default: %(default)s)")  # fmt: skip


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _serve(options: argparse.Namespace) -> int:
    try:
        import uvicorn
    except ImportError:
        raise InputError("a server needs more packages: pip install 'toilfn[server]'") from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("toilfn").setLevel(logging.INFO)
    place = Place(options.place, options.work_dir, **named_options(options))
    if not is_loopback(options.host) and not Tokens(place).read():
        raise InputError(
            f"a server at {options.host} can be reached from other machines, and would run whatever they send; make a"
            f" token first: toilfn server token add NAME --place {options.place}"
        )
    bad = [word for word in options.opt if not word.startswith("-") or "\0" in word]
    if bad:
        raise InputError(f"--opt {bad[0]!r} is not an option; write it as in --opt=--retries=2")
    service = _service(options, place)
    app = make_app(service, [*site_routes(service), metrics_route(service)])
    uvicorn.run(
        app, host=options.host, port=options.port, ssl_certfile=options.tls_certificate, ssl_keyfile=options.tls_key,
        log_config=None, access_log=False, server_header=False, timeout_keep_alive=30, timeout_graceful_shutdown=10,
        h11_max_incomplete_event_size=65536,
    )  # fmt: skip
    return 0


def _service(options: argparse.Namespace, place: Place) -> Service:
    limits = Limits(options.max_field, options.max_file, options.max_upload, options.max_files)
    policy = Policy(
        tuple(options.kind or KINDS), tuple(options.allow_folder), tuple(options.opt), options.cluster,
        options.store_base, options.dest_bucket_base, limits,
    )  # fmt: skip
    names = [name.replace("-", "_") for name in _ABOUT]
    about = {name: text for name in names if (text := getattr(options, _ABOUT_PREFIX + name))}
    launch = LaunchSettings(options.max_runs, max_age=options.max_age, variables=tuple(options.pass_env))
    prefix = "/" + options.prefix.strip("/") if options.prefix.strip("/") else ""
    return Service(place, policy, launch, about, prefix, options.public_url, tuple(options.cors_origin))


def _token(words: list[str], prog: str) -> int:
    parser = Parser(prog=prog, description="Say who may use the server.")
    parser.add_argument("action", choices=("add", "list", "remove"))
    parser.add_argument("name", nargs="?", help="the user's name")
    parser.add_argument("--operator", action="store_true", help="let the user see, cancel and delete all runs")
    _add_place(parser)
    options = parser.parse_args(words)
    if (options.action == "list") == (options.name is not None):
        parser.error("list takes no name" if options.name else f"{options.action} needs a name")
    tokens = Tokens(Place(options.place, options.work_dir, **named_options(options)))
    if options.action == "add":
        print(tokens.add(options.name, is_operator=options.operator))
        print("This is shown once. The server keeps a hash of it.", file=sys.stderr)
    elif options.action == "remove":
        tokens.remove(options.name)
    else:
        for name, content in tokens.read().items():
            print(f"{name}{'  operator' if content['operator'] else ''}")
    return 0
