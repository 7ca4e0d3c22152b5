"""``toilfn cluster``: launch, look at, reach and remove clusters in clouds."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import yaml

from toilfn.cli.common import add_json, add_store_options, open_named, output_file, print_json, print_table
from toilfn.cli.parser import Parser
from toilfn.cloud.description import Description, from_words, read, template
from toilfn.errors import InputError
from toilfn.units import format_duration

__all__ = ["command", "configure"]

_DEFAULT = "cluster.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name, (summary, arguments, function) in _COMMANDS.items():
        own = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        arguments(own)
        own.set_defaults(function=function)


def command(options: argparse.Namespace) -> int:
    """Run the subcommand."""
    function: Callable[[argparse.Namespace], int] = options.function
    return function(options)


def add_description(parser: argparse.ArgumentParser) -> None:
    """Add what names and changes a description."""
    parser.add_argument("--file", metavar="FILE", help=f"the cluster's description; {_DEFAULT} if there is one")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="settings",
        help="use another value than the file's, such as --set cpu.max=20 for the pool cpu; may be repeated",
    )  # fmt: skip
    parser.add_argument("--region", help="region of the cloud")
    parser.add_argument(
        "--node-types", metavar="TYPES", help="pools as Toil writes them: c5.4xlarge/c5a.4xlarge:0.42,t2.large"
    )
    parser.add_argument("--workers", metavar="COUNTS", help="how many machines each of these pools has: 0-2,5")


def description_of(options: argparse.Namespace, name: str | None = None) -> Description:
    """Read the description that the options name.

    Raises
    ------
    InputError
        If there is none, or it cannot be used.
    """
    path = Path(options.file or _DEFAULT)
    if not path.is_file():
        if options.file or not options.node_types:
            raise InputError(f"{path}: there is no such description; write one by `toilfn cluster init`")
        text, source = "{}", "--node-types"
    else:
        text, source = path.read_text(encoding="utf-8"), str(path)
    settings = list(options.settings)
    if options.region:
        settings.insert(0, f"region={options.region}")
    if name:
        settings.insert(0, f"name={name}")
    if options.node_types:
        pools = from_words(options.node_types, options.workers)
        settings.insert(0, f"pools={yaml.safe_dump(pools, default_flow_style=True, width=10**6).strip()}")
    return read(text, source, settings)


# init


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the cluster's name")
    parser.add_argument("--region", default="us-east-1", help="region of the cloud; us-east-1")
    parser.add_argument("--output", type=output_file, default=Path(_DEFAULT), metavar="FILE", help=f"{_DEFAULT}")


def _init(options: argparse.Namespace) -> int:
    text = template(options.name, options.region)
    read(text)
    try:
        with options.output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{options.output} exists already; remove it, or name another by --output") from None
    print(f"wrote {options.output}; change what you like, then: toilfn cluster launch {options.name}")
    return 0


# plan


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="the job store of a finished run")
    add_description(parser)
    add_store_options(parser)
    add_json(parser)


def _plan(options: argparse.Namespace) -> int:
    from toilfn.cloud.plan import make_plan, steps_of

    description = description_of(options)
    steps = steps_of(open_named(options))
    if not steps:
        raise InputError(f"{options.store}: no task has succeeded there, so nothing is known about how long one takes")
    plan = make_plan(description, steps)
    if options.json:
        pools = [{"pool": u.pool, "most": u.most, "hours": u.hours, "cost": u.cost} for u in plan.pools]
        print_json({"tasks": plan.tasks, "seconds": plan.seconds, "cost": plan.cost, "pools": pools,
                    "unplaced": plan.unplaced})  # fmt: skip
        return 1 if plan.unplaced else 0
    rows = [[use.pool, str(use.most), f"{use.hours:.2f}", _money(use.cost)] for use in plan.pools]
    print_table(["pool", "machines", "hours", "cost"], rows, right={1, 2, 3})
    print(f"\n{plan.tasks} tasks in {format_duration(plan.seconds)}, for {_money(plan.cost)}")
    for reason in plan.unplaced:
        print(f"cannot run: {reason}")
    return 1 if plan.unplaced else 0


def _money(cost: float | None) -> str:
    return "an unknown price" if cost is None else f"{cost:.2f}"


_Entry = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]

_COMMANDS: dict[str, _Entry] = {
    "init": ("write a description with every key explained", _init_arguments, _init),
    "plan": ("estimate machines, time and cost from a finished run", _plan_arguments, _plan),
}
