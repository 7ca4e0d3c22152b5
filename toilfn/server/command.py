"""The commands ``toilfn server``, which runs workflows for others, and ``toilfn server token``, for their tokens."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from toilfn.cli.common import add_store_options, named_options
from toilfn.cli.parser import Parser
from toilfn.errors import InputError
from toilfn.leader.asjob import Shape
from toilfn.server.access import OIDCSettings, Provider, Tokens, is_loopback
from toilfn.server.app import PREFIX, Service, make_app
from toilfn.server.leaders import LaunchSettings
from toilfn.server.metrics import metrics_route
from toilfn.server.records import Place
from toilfn.server.site import site_routes
from toilfn.server.submission import KINDS, Policy
from toilfn.server.uploads import Limits
from toilfn.stdio import unfailing_standard_error
from toilfn.text import VisibleStream
from toilfn.units import parse_duration, parse_memory, parse_size, parse_time_limit

__all__ = ["main", "make_parser"]

_ABOUT = {
    "id": "id of the service, in reverse domain notation",
    "name": "for people",
    "organization": "organization that runs the service",
    "organization-url": "page of the organization",
    "contact": "URL or mailto: address for questions",
    "auth": "page that explains how to get a token",
}
_ABOUT_PREFIX = "service_"


def main(arguments: Sequence[str] | None = None, *, prog: str = "toilfn server") -> int:
    """Serve until the process is ended, or manage tokens, and return the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words of the command line. Default: those of this process.
    prog : str
        The name of the command in its help.

    Raises
    ------
    InputError
        If the server cannot be started with these options, or it would not be safe. The hint says what to do.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with unfailing_standard_error(), redirect_stdout(VisibleStream.over(sys.stdout)):
        if words[:1] == ["token"]:
            return _token(words[1:], f"{prog} token")
        return _serve(make_parser(prog).parse_args(words))


def make_parser(prog: str) -> Parser:
    """Build the parser of ``toilfn server`` without its subcommand ``token``."""
    parser = Parser(
        prog=prog,
        description="Run workflows for others: a GA4GH Workflow Execution Service (WES 1.1).",
        epilog=f"{prog} token add|list|remove manages the users of the server.",
    )
    _add_place(parser)
    where = parser.add_argument_group("address")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on; an address that other machines can "
                       "reach needs tokens (default: 127.0.0.1)")  # fmt: skip
    where.add_argument("--port", type=int, default=8080, help="port to listen on (default: 8080)")
    where.add_argument("--prefix", default=PREFIX, help=f"path of the service in URLs (default: {PREFIX})")
    where.add_argument(
        "--public-url", default="", metavar="URL", help="beginning of URLs in responses, for a server behind a proxy"
    )
    where.add_argument("--cors-origin", action="append", default=[], metavar="ORIGIN",
                       help="site whose pages may send requests to the server; may be repeated")  # fmt: skip
    where.add_argument("--tls-certificate", metavar="FILE", help="serve HTTPS with this certificate, a PEM file")
    where.add_argument("--tls-key", metavar="FILE", help="private key of the certificate, a PEM file")
    _add_provider(parser.add_argument_group("users of an OpenID Connect provider"))
    _add_runs(parser.add_argument_group("runs"))
    _add_limits(parser.add_argument_group("limits of a request"))
    about = parser.add_argument_group("description of the service, for service-info")
    for name, help in _ABOUT.items():
        about.add_argument(f"--service-{name}", metavar="TEXT", help=help)
    return parser


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--place", default="toilfn-server", metavar="URL",
                        help="directory for the records of runs, or a URL like that of a job store; several servers may"
                             " share it (default: toilfn-server)")  # fmt: skip
    parser.add_argument("--work-dir", metavar="DIR", help="directory for the files of runs (default: one in --place)")
    add_store_options(parser)


def _add_provider(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--oidc-issuer", metavar="URL", help="provider whose JWTs are accepted as Bearer tokens")
    group.add_argument("--oidc-audience", metavar="NAME", help="name of this server at the provider; tokens for others "
                       "are refused")  # fmt: skip
    group.add_argument("--oidc-user-claim", metavar="CLAIM", help="claim with the name of the user (default: sub)")
    group.add_argument("--oidc-roles-claim", metavar="CLAIM", help="claim with the roles of the user, such as "
                       "realm_access.roles (default: roles)")  # fmt: skip
    group.add_argument("--oidc-operator-role", metavar="ROLE", help="role that makes a user an operator (default: no "
                       "user of the provider is an operator)")  # fmt: skip


def _add_runs(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--kind", action="append", choices=sorted(KINDS), help="kind of workflow that the server runs; "
                       "may be repeated (default: all kinds)")  # fmt: skip
    group.add_argument("--max-runs", type=_positive, default=LaunchSettings().limit, metavar="N",
                       help="maximum number of runs at once on this machine (default: %(default)s)")  # fmt: skip
    group.add_argument("--max-age", type=parse_duration, metavar="TIME",
                       help="delete a run and all its files this long after its end (default: never)")  # fmt: skip
    group.add_argument("--cluster", help="cluster that runs the tasks (default: local)")
    group.add_argument("--lead-on", metavar="CLUSTER", help="cluster that runs the leaders as jobs (default: they "
                       "are processes on this machine)")  # fmt: skip
    group.add_argument("--leader-memory", type=parse_memory, default=Shape().memory, metavar="SIZE",
                       help="memory of these jobs (default: 2Gi)")  # fmt: skip
    group.add_argument("--leader-walltime", type=parse_time_limit, metavar="TIME",
                       help="time limit of these jobs (default: the cluster's)")  # fmt: skip
    group.add_argument("--leader-args", default="", metavar="ARGS",
                       help="additional arguments of the submit command for these jobs")  # fmt: skip
    group.add_argument("--opt", "-o", action="append", default=[], metavar="--OPTION=VALUE",
                       help="option for every run, such as --opt=--retries=2; may be repeated")  # fmt: skip
    group.add_argument("--store-base", metavar="URL", help="parent of the job stores (default: the folder of each run)")
    group.add_argument("--dest-bucket-base", metavar="URL", help="parent of the folders for the outputs of runs "
                       "(default: the folder of each run, from which the server serves them)")  # fmt: skip
    group.add_argument("--allow-folder", action="append", default=[], metavar="DIR",
                       help="folder of this machine from which documents may come; may be repeated")  # fmt: skip
    group.add_argument("--pass-env", action="append", default=[], metavar="NAME",
                       help="environment variable to pass to runs; may be repeated")  # fmt: skip


def _add_limits(group: argparse._ArgumentGroup) -> None:
    most = Limits()
    group.add_argument("--max-field", type=parse_size, default=most.field, metavar="SIZE",
                       help="maximum size of each field except files, such as inputs (default: 16Mi)")  # fmt: skip
    group.add_argument("--max-file", type=parse_size, default=most.file, metavar="SIZE",
                       help="maximum size of each attachment (default: 10Gi)")  # fmt: skip
    group.add_argument("--max-upload", type=parse_size, default=most.total, metavar="SIZE",
                       help="maximum size of the whole request (default: 50Gi)")  # fmt: skip
    group.add_argument("--max-files", type=_positive, default=most.files, metavar="N",
                       help="maximum number of attachments (default: %(default)s)")  # fmt: skip


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _serve(options: argparse.Namespace) -> int:
    try:
        import uvicorn
    except ImportError:
        raise InputError("toilfn server needs optional packages", hint="pip install 'toilfn[server]'") from None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("toilfn").setLevel(logging.INFO)
    place = Place(options.place, options.work_dir, **named_options(options))
    provider = _provider(options)
    if provider is None and not is_loopback(options.host) and not Tokens(place).read():
        raise InputError(
            f"a server at {options.host} accepts requests from other machines; without tokens, it would run any code"
            " that they send",
            hint=f"create a token first: toilfn server token add NAME --place {options.place}",
        )
    bad = [word for word in options.opt if not word.startswith("-") or "\0" in word]
    if bad:
        raise InputError(f"--opt: {bad[0]!r} is not an option", hint="write it like --opt=--retries=2")
    service = _service(options, place, provider)
    app = make_app(service, [*site_routes(service), metrics_route(service)])
    uvicorn.run(
        app, host=options.host, port=options.port, ssl_certfile=options.tls_certificate, ssl_keyfile=options.tls_key,
        log_config=None, access_log=False, server_header=False, timeout_keep_alive=30, timeout_graceful_shutdown=10,
        h11_max_incomplete_event_size=65536,
    )  # fmt: skip
    return 0


def _provider(options: argparse.Namespace) -> Provider | None:
    given = {name: text for name in OIDCSettings._fields if (text := getattr(options, f"oidc_{name}"))}
    if not given:
        return None
    for name in ("issuer", "audience"):
        if name not in given:
            raise InputError(
                f"--oidc-{name} is missing", hint="users of a provider need --oidc-issuer and --oidc-audience"
            )
    return Provider(OIDCSettings(**given))


def _service(options: argparse.Namespace, place: Place, provider: Provider | None) -> Service:
    limits = Limits(options.max_field, options.max_file, options.max_upload, options.max_files)
    policy = Policy(
        tuple(options.kind or KINDS), tuple(options.allow_folder), tuple(options.opt), options.cluster,
        options.store_base, options.dest_bucket_base, limits,
    )  # fmt: skip
    names = [name.replace("-", "_") for name in _ABOUT]
    about = {name: text for name in names if (text := getattr(options, _ABOUT_PREFIX + name))}
    shape = Shape(memory=options.leader_memory, walltime=options.leader_walltime, arguments=options.leader_args)
    launch = LaunchSettings(
        options.max_runs, max_age=options.max_age, variables=tuple(options.pass_env), lead_on=options.lead_on,
        shape=shape,
    )  # fmt: skip
    prefix = "/" + options.prefix.strip("/") if options.prefix.strip("/") else ""
    return Service(place, policy, launch, about, prefix, options.public_url, tuple(options.cors_origin), provider)


def _token(words: list[str], prog: str) -> int:
    parser = Parser(prog=prog, description="Manage the users of the server.")
    parser.add_argument("action", choices=("add", "list", "remove"), help="add, list or remove users")
    parser.add_argument("name", nargs="?", help="name of the user, for add and remove")
    parser.add_argument("--operator", action="store_true", help="let the user see, cancel and delete all runs")
    _add_place(parser)
    options = parser.parse_args(words)
    if (options.action == "list") == (options.name is not None):
        parser.error("list takes no name" if options.name else f"{options.action} needs a name")
    tokens = Tokens(Place(options.place, options.work_dir, **named_options(options)))
    if options.action == "add":
        print(tokens.add(options.name, is_operator=options.operator))
        print("This token is shown only once. The server keeps only a hash of it.", file=sys.stderr)
    elif options.action == "remove":
        tokens.remove(options.name)
    else:
        for name, content in tokens.read().items():
            print(f"{name}{'  operator' if content['operator'] else ''}")
    return 0
