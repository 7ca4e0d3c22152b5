"""``toilfn cluster``: launch, inspect, connect to and remove clusters in clouds."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from toilfn.cli.common import add_json, add_store_options, open_named, output_file, print_json, print_table
from toilfn.cli.parser import Parser
from toilfn.cloud.description import Description, read, template
from toilfn.cloud.toil_words import from_words
from toilfn.errors import ClusterError, InputError
from toilfn.units import format_duration, parse_duration

if TYPE_CHECKING:
    from toilfn.cloud.machines import MachineType
    from toilfn.cloud.provider import Machine, Machines, Provider
    from toilfn.cloud.ssh import Host

__all__ = ["command", "configure"]

_DEFAULT = "cluster.yaml"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    parser.set_defaults(rest=[])  # the words after "--"
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
    """Add the options that select a description, and change its values."""
    parser.add_argument(
        "--file", metavar="FILE", help=f"description of the cluster (default: {_DEFAULT}, if it exists)"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="settings",
        help="replace a value of the file, such as --set cpu.max=20 for the pool cpu; may be repeated",
    )  # fmt: skip
    parser.add_argument("--region", help="region of the cloud")
    _cloud_arguments(parser, "that of the file, else aws")
    parser.add_argument(
        "--node-types", metavar="TYPES", help="pools in Toil's notation, such as c5.4xlarge/c5a.4xlarge:0.42,t2.large"
    )
    parser.add_argument("--workers", metavar="COUNTS", help="number of machines of each of these pools, such as 0-2,5")


def description_of(options: argparse.Namespace, name: str | None = None) -> Description:
    """Read the description that the options name.

    Raises
    ------
    InputError
        If the file does not exist, or is not valid.
    """
    path = Path(options.file or _DEFAULT)
    if not path.is_file():
        if options.file or not options.node_types:
            raise InputError(f"{path}: cluster description not found", hint="write one with `toilfn cluster init`")
        text, source = "{}", "--node-types"
    else:
        text, source = path.read_text(encoding="utf-8"), str(path)
    settings = list(options.settings)
    for key in ("region", "cloud", "project"):
        if value := getattr(options, key):
            settings.insert(0, f"{key}={value}")
    if name:
        settings.insert(0, f"name={name}")
    if options.node_types:
        pools = from_words(options.node_types, options.workers)
        settings.insert(0, f"pools={yaml.safe_dump(pools, default_flow_style=True, width=10**6).strip()}")
    return read(text, source, settings)


# init


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the cluster")
    parser.add_argument("--cloud", choices=("aws", "google"), default="aws", help="the cloud (default: aws)")
    parser.add_argument("--region", help="region of the cloud (default: us-east-1, on Google Cloud us-central1)")
    parser.add_argument("--output", type=output_file, default=Path(_DEFAULT), metavar="FILE",
                        help=f"file to write (default: {_DEFAULT})")  # fmt: skip


def _init(options: argparse.Namespace) -> int:
    text = template(options.name, options.region, options.cloud)
    read(text)
    try:
        with options.output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(
            f"{options.output} already exists", hint="remove it, or choose another file with --output"
        ) from None
    print(f"wrote {options.output}; edit it, and then run: toilfn cluster launch {options.name}")
    return 0


# plan


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="STORE|SCRIPT", help="the job store of a finished run, or a script to run")
    add_description(parser)
    parser.add_argument(
        "--store", help="for a script: store with finished tasks, for the times of tasks (default: that of the script)"
    )
    parser.add_argument(
        "--task-time", type=parse_duration, default=600.0, metavar="DURATION",
        help="time to assume for a task of a script if the store has no finished task of that name (default: 10m)",
    )  # fmt: skip
    parser.add_argument(
        "--prices", metavar="SOURCE",
        help="source of the sizes and prices that the description does not have: aws for those that AWS publishes (a "
        "large file, kept for 30 days), or the path of such a file",
    )  # fmt: skip
    add_store_options(parser)
    add_json(parser)


def _plan(options: argparse.Namespace) -> int:
    from toilfn.cloud.plan import make_plan, steps_of, steps_of_script

    description = description_of(options)
    unknown: list[str] = []
    if Path(options.what).is_file():
        steps, unknown = steps_of_script(options.what, options.rest, options.task_time, options.store)
        if not steps:
            print(f"{options.what}: nothing to run")
            return 0
    else:
        steps = steps_of(open_named(options, options.what))
        if not steps:
            raise InputError(f"{options.what}: no task has succeeded, so the durations of tasks are unknown")
    prices, spot_prices = _prices(options.prices, description)
    plan = make_plan(description, steps, prices, spot_prices)
    if options.json:
        pools = [{"pool": u.pool, "most": u.most, "hours": u.hours, "cost": u.cost} for u in plan.pools]
        print_json({"tasks": plan.tasks, "seconds": plan.seconds, "cost": plan.cost, "pools": pools,
                    "unplaced": plan.unplaced, "unknown": unknown})  # fmt: skip
        return 1 if plan.unplaced else 0
    rows = [[use.pool, str(use.most), f"{use.hours:.2f}", _money(use.cost)] for use in plan.pools]
    print_table(["pool", "machines", "hours", "cost"], rows, right={1, 2, 3})
    print(f"\n{plan.tasks} tasks in {format_duration(plan.seconds)}, for {_money(plan.cost)}")
    for reason in plan.unplaced:
        print(f"cannot be run: {reason}")
    for reason in unknown:
        print(f"unknown before the run: {reason}")
    return 1 if plan.unplaced else 0


def _prices(source: str | None, description: Description) -> tuple[dict[str, MachineType], dict[str, float]]:
    """Return the on-demand prices of machine types, and the current prices of spot machines if `source` is AWS."""
    from toilfn.cloud.prices import offered

    if not source:
        return {}, {}
    offers = offered(description.region, source)
    pools = [pool for pool in description.pools if pool.spot]
    if source != "aws" or description.cloud != "aws" or not pools:
        return offers, {}
    wanted = {kind for pool in pools for kind in pool.types}
    wanted |= {
        kind.name for pool in pools if not pool.types for kind in offers.values() if pool.fits(kind.cores, kind.memory)
    }
    return offers, _spot_prices(_cloud_of(description), wanted, description)


def _spot_prices(cloud: Provider, types: Iterable[str], description: Description) -> dict[str, float]:
    """Return the current prices of spot machines.

    Print a warning if they cannot be queried, and a note for each pool whose price limit is too low.
    """
    from toilfn.cloud.plan import price_notes

    try:
        found = cloud.spot_prices(types, description.zones)
    except ClusterError as error:
        print(f"the prices of spot machines are unknown: {error}", file=sys.stderr)
        return {}
    for note in price_notes(description, found):
        print(note, file=sys.stderr)
    return found


def _money(cost: float | None) -> str:
    return "an unknown price" if cost is None else f"{cost:.2f}"


# launch and destroy


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the cluster")


def _launch_arguments(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    add_description(parser)
    parser.add_argument("--dry-run", action="store_true", help="check everything, but create nothing")


def _launch(options: argparse.Namespace) -> int:
    from toilfn.cloud.bootstrap import Secrets
    from toilfn.cloud.steps import launch

    description = _with_public_key(description_of(options, options.name))
    name = description.name
    if description.kind == "dask":
        raise InputError(
            f"cluster {name}: a cluster of the kind dask cannot be launched, since it exists only during a run",
            hint=f"toilfn run SCRIPT --cluster dask --dask-description {options.file or _DEFAULT}",
        )
    cloud = _cloud_of(description)
    cloud.check(description)
    if description.kind == "slurm":
        description = _with_types(cloud, description)
    if options.dry_run:
        print(f"cluster {name}: the description can be launched in {cloud.place}")
        return 0
    secrets = Secrets.fresh() if description.kind == "slurm" else None
    launch(name, cloud.steps(description, secrets), print)
    if description.kind == "kubernetes":
        print(
            f"cluster {name} is launched. To use it:\n"
            f"  {cloud.kubernetes_access(description)}\n"
            f"  toilfn cluster manifests {name} | kubectl apply -f -"
        )
    else:
        print(f"cluster {name} is launched and will be ready in a few minutes: toilfn cluster ssh {name}")
    return 0


def _with_types(cloud: Provider, description: Description) -> Description:
    """Choose the types of pools with sizes only, and compare the current prices of spot machines with their limits."""
    from toilfn.cloud.prices import kept_offers

    chosen = cloud.with_types(description, kept_offers(description.region, time.time()))
    for before, after in zip(description.pools, chosen.pools, strict=True):
        if not before.types:
            print(f"pool {after.name}: chose the machine types {', '.join(after.types)}")
    limited = [kind for pool in chosen.pools if pool.max_price is not None for kind in pool.types]
    _spot_prices(cloud, limited, chosen)
    return chosen


def _manifests_arguments(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    add_description(parser)


def _manifests(options: argparse.Namespace) -> int:
    description = description_of(options, options.name)
    print(_cloud_of(description).manifests(description), end="")
    return 0


def _with_public_key(description: Description) -> Description:
    """Return the description with the text of the public key, if it has a path instead."""
    key = description.public_key
    if key is None or key.startswith(("ssh-", "ecdsa-")):
        return description
    path = Path(key).expanduser()
    try:
        return replace(description, public_key=path.read_text(encoding="ascii").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cluster {description.name}: the public key {path} cannot be read: {error}") from None


def _cloud_of(description: Description) -> Provider:
    from toilfn.cloud.clouds import open_provider

    return open_provider(description.cloud, description.name, description.region, description.project)


def _cloud(options: argparse.Namespace, name: str = "") -> Provider:
    """Return the provider for the options; their defaults come from a description in the current directory."""
    from toilfn.cloud.clouds import open_provider

    here = read(Path(_DEFAULT).read_text(encoding="utf-8"), _DEFAULT) if Path(_DEFAULT).is_file() else None
    cloud = options.cloud or (here.cloud if here else "aws")
    same = here if here and here.cloud == cloud else None
    region = options.region or (same.region if same else None)
    return open_provider(cloud, name, region, options.project or (same.project if same else None))


def _controller(cloud: Provider) -> Machine:
    """Return the controller of a cluster.

    Raises
    ------
    InputError
        If the cluster does not exist, or it has no controller.
    """
    from toilfn.cloud.provider import CONTROLLER
    from toilfn.cloud.steps import found

    controller = next((machine for machine in cloud.machines() if machine.node == CONTROLLER), None)
    if controller is not None:
        return controller
    if not found(cloud.steps()):
        raise _no_cluster(cloud)
    raise InputError(
        f"cluster {cloud.name}: it has no controller; either it is of the kind kubernetes, or its launch or removal was"
        " not completed",
        hint=f"list its resources: toilfn cluster show {cloud.name}",
    )


def _no_cluster(cloud: Provider) -> InputError:
    return InputError(
        f"cluster {cloud.name!r} not found in {cloud.place}",
        hint="`toilfn cluster list` lists the clusters there; it may be in another region, project or account",
    )


def _place_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--region", help=f"region of the cloud (default: that of {_DEFAULT}, else that of the environment)"
    )
    _cloud_arguments(parser, f"that of {_DEFAULT}, else aws")


def _cloud_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--cloud", choices=("aws", "google"), help=f"the cloud (default: {default})")
    parser.add_argument(
        "--project", help="project of Google (default: that of the description, the environment or the credentials)"
    )


def _name_arguments(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    _place_arguments(parser)


def _destroy_arguments(parser: argparse.ArgumentParser) -> None:
    _name_arguments(parser)
    parser.add_argument("--store", metavar="STORE", help="also remove this job store, with all results and files in it")
    add_store_options(parser)


def _destroy(options: argparse.Namespace) -> int:
    from toilfn.cli.clean import destroy_store
    from toilfn.cloud.steps import destroy

    store = open_named(options, options.store) if options.store else None  # fails before anything is removed
    cloud = _cloud(options, options.name)
    if not destroy(options.name, cloud.steps(), print) and store is None:
        raise _no_cluster(cloud)
    if store is not None:
        destroy_store(store, leave_jobs=True)  # the jobs have ended with their cluster
    print(f"cluster {options.name}: nothing is left")
    return 0


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    _place_arguments(parser)
    add_json(parser)


def _list(options: argparse.Namespace) -> int:
    cloud = _cloud(options)
    found = cloud.clusters()
    if options.json:
        print_json([asdict(cluster) for cluster in found])
    elif found:
        cells = [
            [cluster.name, cluster.kind, "" if cluster.machines is None else str(cluster.machines),
             "yes" if cluster.controller else "no"]
            for cluster in found
        ]  # fmt: skip
        print_table(["cluster", "kind", "machines", "controller"], cells, right={2})
    else:
        print(f"there are no clusters in {cloud.place}")
    return 0


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    _name_arguments(parser)
    add_json(parser)


def _show(options: argparse.Namespace) -> int:
    from toilfn.cloud.steps import found

    cloud = _cloud(options, options.name)
    machines = [
        {"machine": m.id, "node": m.node, "type": m.type, "state": m.state, "address": m.address}
        for m in cloud.machines()
    ]
    resources = found(cloud.steps())
    if not resources:
        raise _no_cluster(cloud)
    if options.json:
        print_json({"machines": machines, "resources": resources})
        return 0
    if machines:
        print_table(["machine", "node", "type", "state", "address"], [list(m.values()) for m in machines])
        print()
    print("\n".join(resources))
    return 0


def _grow_arguments(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.add_argument("pool", metavar="POOL", help="name of a pool of the description")
    parser.add_argument("count", metavar="COUNT", type=int, help="number of machines that the pool should have")
    add_description(parser)


def _grow(options: argparse.Namespace) -> int:
    from toilfn.cloud.bootstrap import node_names

    description = description_of(options, options.name)
    pool = description.pool(options.pool)
    if not 0 < options.count <= pool.max:
        raise InputError(f"pool {pool.name}: the number of machines must be from 1 to {pool.max}, not {options.count}")
    cloud = _cloud_of(description)
    _controller(cloud)
    pool = pool if pool.types else cloud.launched_types(pool)
    machines = cloud.pools(description)
    wanted = node_names(pool)[: options.count]
    there = machines.create(pool, wanted)
    print(f"pool {pool.name}: {len(there)} of {len(wanted)} machines are running or booting")
    return 0 if len(there) == len(wanted) else 1


def _policy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cloud", choices=("aws", "google"), default="aws", help="the cloud (default: aws)")
    parser.epilog = (
        "Attach the policy to the user or role that launches clusters. On Google Cloud, create a role from it "
        "(gcloud iam roles create --file). It includes the permissions of their machines."
    )


def _policy(options: argparse.Namespace) -> int:
    from toilfn.cloud.clouds import launcher_role

    print_json(launcher_role(options.cloud))
    return 0


def _nodes_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("nodes", metavar="NODES", help="nodes in Slurm's notation, such as cpu-[0-3],big-1")
    add_description(parser)


def _machines(options: argparse.Namespace) -> tuple[Description, Machines, list[str]]:
    from toilfn.cloud.power import expand

    description = description_of(options)
    return description, _cloud_of(description).pools(description), expand(options.nodes)


def _resume(options: argparse.Namespace) -> int:
    from toilfn.cloud.power import resume

    failures = resume(*_machines(options))
    print("\n".join(failures or [f"{options.nodes}: resumed"]))
    return 1 if failures else 0


def _suspend(options: argparse.Namespace) -> int:
    from toilfn.cloud.power import suspend

    suspend(*_machines(options))
    print(f"{options.nodes}: suspended")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from toilfn.cloud.power import restore

    restore(*_machines(options))
    print(f"{options.nodes}: did not start in time; Slurm may try them again")
    return 0


def _ahead_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="path or URL of the job store of a run that has begun")
    parser.add_argument(
        "--ahead", type=parse_duration, default=300.0, metavar="DURATION",
        help="start nodes this long before tasks are ready: about the time that a node takes to boot (default: 5m)",
    )  # fmt: skip
    parser.add_argument(
        "--target-time", type=parse_duration, default=1800.0, metavar="DURATION",
        help="time within which the tasks that will be ready should be done (default: 30m)",
    )  # fmt: skip
    parser.add_argument("--interval", type=parse_duration, default=30.0, metavar="DURATION",
                        help="time between two decisions (default: 30s)")  # fmt: skip
    parser.add_argument("--partition", help="start nodes of this partition only")
    add_store_options(parser)
    parser.epilog = "Slurm lets only its operators start nodes. The command ends with the run."


def _ahead(options: argparse.Namespace) -> int:
    from toilfn.cloud.ahead import start_ahead
    from toilfn.cloud.demand import RunDemand
    from toilfn.clusters.common.commands import UnavailableError

    run, is_away = RunDemand(open_named(options, options.store), options.ahead), False
    while True:
        try:
            started = start_ahead(run, options.ahead, options.target_time, time.time(), options.partition)
            is_away = False
        except UnavailableError as error:
            if not is_away:
                print(f"cannot start nodes until Slurm responds again: {error}", file=sys.stderr, flush=True)
            started, is_away = {}, True
        if started is None:
            return 0
        for node, reason in started.items():
            print(f"{node}: started, because {reason}", flush=True)
        time.sleep(options.interval)


def _watch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", metavar="NODE", help="name of this machine in Slurm")
    parser.add_argument("--cloud", choices=("aws", "google"), default="aws", help="cloud of the machine (default: aws)")


def _watch(options: argparse.Namespace) -> int:
    from toilfn.cloud.notices import AmazonNotices, GoogleNotices, watch

    announced = watch(options.node, GoogleNotices() if options.cloud == "google" else AmazonNotices())
    print(f"{options.node}: drained ({announced})")
    return 0


# Reaching the controller


def _reach_arguments(parser: argparse.ArgumentParser) -> None:
    _name_arguments(parser)
    parser.add_argument("--identity", metavar="FILE", help="file with your private key")
    parser.add_argument("--user", default="admin", help="user name on the cluster (default: admin)")


def _host(options: argparse.Namespace) -> Host:
    from toilfn.cloud.ssh import Host

    controller = _controller(_cloud(options, options.name))
    return Host(controller.address, controller.host_key, options.user)


def _ssh_arguments(parser: argparse.ArgumentParser) -> None:
    _reach_arguments(parser)
    parser.add_argument(
        "words", metavar="COMMAND", nargs="*", help="command to run on the cluster, after -- (default: a shell)"
    )


def _ssh(options: argparse.Namespace) -> int:
    from toilfn.cloud.ssh import ssh

    return ssh(_host(options), [*options.words, *options.rest], options.identity)


def _rsync_arguments(parser: argparse.ArgumentParser) -> None:
    _reach_arguments(parser)
    parser.add_argument(
        "words", metavar="ARGUMENT", nargs="*", help="arguments of rsync, after --; :PATH is a path on the cluster"
    )


def _rsync(options: argparse.Namespace) -> int:
    from toilfn.cloud.ssh import rsync

    words = [*options.words, *options.rest]
    if not words:
        raise InputError("no paths to copy", hint="example: toilfn cluster rsync NAME -- -a workflow.py :")
    return rsync(_host(options), words, options.identity)


def _forward_arguments(parser: argparse.ArgumentParser) -> None:
    _reach_arguments(parser)
    parser.add_argument("ports", metavar="PORT", nargs="+", help="port to forward: PORT, LOCAL:PORT or LOCAL:HOST:PORT")


def _forward(options: argparse.Namespace) -> int:
    from toilfn.cloud.ssh import forward

    return forward(_host(options), options.ports, options.identity)


_Entry = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]

_COMMANDS: dict[str, _Entry] = {
    "init": ("write a description with every key explained", _init_arguments, _init),
    "launch": ("create a cluster", _launch_arguments, _launch),
    "manifests": ("write the pools of a Kubernetes cluster for kubectl apply", _manifests_arguments, _manifests),
    "list": ("list the clusters of a region", _list_arguments, _list),
    "show": ("list the machines and everything else that belongs to a cluster", _show_arguments, _show),
    "ssh": ("open a shell on a cluster's controller, or run a command there", _ssh_arguments, _ssh),
    "rsync": ("copy files to or from a cluster's controller", _rsync_arguments, _rsync),
    "forward": ("forward ports of this machine to a cluster's controller", _forward_arguments, _forward),
    "grow": ("start machines of a pool before tasks ask for them", _grow_arguments, _grow),
    "ahead": ("start nodes of Slurm before the tasks of a run need them", _ahead_arguments, _ahead),
    "destroy": ("remove a cluster and everything that belongs to it", _destroy_arguments, _destroy),
    "policy": ("print the minimum permissions for launching", _policy_arguments, _policy),
    "resume": ("start machines for nodes; Slurm runs this", _nodes_arguments, _resume),
    "suspend": ("remove the machines of nodes; Slurm runs this", _nodes_arguments, _suspend),
    "restore": ("remove machines that did not come up in time; Slurm runs this", _nodes_arguments, _restore),
    "watch": ("drain this node when its machine is taken away; each machine runs this", _watch_arguments, _watch),
    "plan": ("estimate machines, time and cost of a finished run or a script", _plan_arguments, _plan),
}
