"""The description of a cluster, `cluster.yaml`: its keys, and checks that report errors with line numbers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, TypeVar

import yaml

from toilfn.errors import InputError, ResourceError
from toilfn.units import format_size, parse_disk, parse_duration, parse_memory

__all__ = [
    "MACHINE", "Description", "Network", "PoolDescription", "Scaling", "Sizes", "read", "template",
]  # fmt: skip

T = TypeVar("T")
Value = Any
"""The value of a key, from a YAML file or an option."""
Parser = Callable[[Value], Any]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]|[a-z]")
MACHINE = re.compile(r"[a-z][a-z0-9-]*(?:\.[a-z0-9-]+)?")
"""The name of a machine type."""
_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}"), re.compile(r"[a-z0-9_-]{0,63}")
_CONTROLLERS = {"aws": "t3.medium", "google": "e2-medium"}
_EXAMPLES = {
    "aws": ("us-east-1", "c6i.4xlarge", "c6a.4xlarge"),
    "google": ("us-central1", "n2-standard-16", "n2d-standard-16"),
}
"""For each cloud, the region and the machine types in the description that `toilfn cluster init` writes."""
_GIB = 2**30
_RESERVED = ("all", "controller", "default")
"""Reserved names, which pools must not have: the partition of all nodes, the controller, and ``DEFAULT``, which has a
special meaning in slurm.conf."""


def _key(parse: Parser, help: str, default: Any = MISSING, **more: Any) -> Any:
    """Define a key of the file: the function that parses its value, its meaning, and its default."""
    metadata = {"parse": parse, "help": help}
    if default is MISSING and "default_factory" not in more:
        return field(metadata=metadata)
    return field(metadata=metadata, **(more or {"default": default}))


# Values


def _text(value: Value) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a text")
    return value


def _name(value: Value) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a valid name: use up to 40 lower-case letters, digits and hyphens; begin with a letter"
        )
    return value


def _one_of(*words: str) -> Parser:
    def parse(value: Value) -> str:
        if value not in words:
            raise ValueError(f"{value!r} is not one of {', '.join(words)}")
        return str(value)

    return parse


def _machine(value: Value) -> str:
    if not isinstance(value, str) or not MACHINE.fullmatch(value):
        raise ValueError(f"{value!r} is not the name of a machine type, such as c6i.4xlarge or n2-standard-8")
    return value


def _project(value: Value) -> str:
    if not isinstance(value, str) or not _PROJECT.fullmatch(value):
        raise ValueError(f"{value!r} is not the id of a project of Google, such as my-project-123")
    return value


def _whole(value: Value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a whole number of at least 0")
    return value


def _number(value: Value) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a number of at least 0")
    return float(value)


def _up_to(limit: float) -> Parser:
    def parse(value: Value) -> float:
        if _number(value) > limit:
            raise ValueError(f"{value!r} is more than {limit:g}")
        return float(value)

    return parse


def _flag(value: Value) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not true or false")
    return value


def _address_range(value: Value) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        raise ValueError(f"{value!r} is not a range of addresses, such as 192.0.2.0/24 ({error})") from None


def _list_of(parse: Callable[[Value], T], *, splits: bool = True) -> Callable[[Value], tuple[T, ...]]:
    """Build a parser for a list. If `splits` is true, it also accepts a text with items separated by commas."""

    def parse_list(value: Value) -> tuple[T, ...]:
        if isinstance(value, str) and splits:
            value = [item.strip() for item in value.split(",")]
        return tuple(parse(item) for item in (value if isinstance(value, list) else [value]))

    return parse_list


def _mapping_of(parse: Callable[[Value], T]) -> Callable[[Value], dict[str, T]]:
    def parse_mapping(value: Value) -> dict[str, T]:
        if not isinstance(value, Mapping):
            raise ValueError("write keys and values")
        return {str(key): parse(item) for key, item in value.items()}

    return parse_mapping


def _plain_text(value: Value) -> str:
    if isinstance(value, (list, Mapping)) or value is None:
        raise ValueError(f"{value!r} is not a text")
    return str(value)


# Sections


@dataclass(frozen=True)
class Sizes:
    """The resources of a machine type, for `toilfn cluster plan` and for clouds without a query for them."""

    cores: float = _key(_number, "virtual CPUs")
    memory: int = _key(parse_memory, "memory, such as 32Gi")
    price: float | None = _key(_number, "price for an hour", None)
    spot_price: float | None = _key(_number, "price for an hour as a spot machine", None)


@dataclass(frozen=True)
class Network:
    """The network of the machines, and the addresses that may connect to the controller."""

    subnets: tuple[str, ...] = _key(_list_of(_text), "existing subnets (default: those of the default network)", ())
    security_groups: tuple[str, ...] = _key(
        _list_of(_text), "additional security groups of every machine; on Google Cloud network tags", ()
    )
    private: bool = _key(_flag, "give machines no public addresses", False)
    allow_from: tuple[str, ...] = _key(_list_of(_address_range), "addresses that may connect by ssh", ())


@dataclass(frozen=True)
class Scaling:
    """The settings of the scaler, by which the cluster grows and shrinks."""

    target_time: float = _key(parse_duration, "time in which queued tasks should finish", 1800.0)
    inertia: float = _key(_up_to(0.9), "weight of earlier sizes, from 0 to 0.9", 0.1)
    compensation: float = _key(_up_to(1), "on-demand machines to start for each missing spot machine, from 0 to 1", 0.0)
    overhead: bool = _key(_flag, "reserve some memory and disk of a machine for the system", True)
    idle_time: float = _key(parse_duration, "time after which a machine without tasks is removed", 300.0)
    boot_time: float = _key(parse_duration, "time after which a machine that did not start is given up", 900.0)
    cooldown: float = _key(parse_duration, "time before an unavailable machine is requested again", 300.0)


@dataclass(frozen=True)
class PoolDescription:
    """A pool: machines that are treated alike."""

    name: str = _key(_name, "the pool's name")
    types: tuple[str, ...] = _key(_list_of(_machine), "machine types, any of which may be used", ())
    cores: float | None = _key(_number, "instead of types: minimum number of cores", None)
    memory: int | None = _key(parse_memory, "instead of types: minimum memory", None)
    min: int = _key(_whole, "minimum number of machines", 0)
    max: int = _key(_whole, "maximum number of machines", 10)
    spot: bool = _key(_flag, "use spot machines, which the cloud may take away", False)
    max_price: float | None = _key(_number, "on AWS, maximum price of a spot machine for an hour", None)
    disk: int = _key(parse_disk, "size of each machine's volume", 50 * _GIB)
    disks: dict[str, int] = _key(_mapping_of(parse_disk), "volume sizes of particular types", default_factory=dict)

    def disk_of(self, kind: str) -> int:
        """Return the volume size of machines of a type, in bytes."""
        return self.disks.get(kind, self.disk)

    def fits(self, cores: float, memory: int) -> bool:
        """Return whether a machine has at least the pool's cores and memory."""
        return cores >= (self.cores or 0) and memory >= (self.memory or 0)


@dataclass(frozen=True)
class Description:
    """The description of a cluster."""

    name: str = _key(_name, "the cluster's name; unique in the account and region, or the project")
    region: str = _key(_text, "region of the cloud")
    pools: tuple[PoolDescription, ...] = _key(lambda value: value, "pools of machines for tasks")
    kind: str = _key(_one_of("slurm", "kubernetes", "dask"), "slurm, kubernetes or dask", "slurm")
    cloud: str = _key(_one_of("aws", "google"), "aws or google", "aws")
    project: str | None = _key(_project, "project of Google (default: that of the credentials)", None)
    zones: tuple[str, ...] = _key(_list_of(_text), "zones of the region (default: all)", ())
    image: str | None = _key(_text, "machine image (default: newest Debian 12, on Google Cloud Ubuntu 24.04)", None)
    container: str | None = _key(_text, "container image of leaders and workers, with toilfn", None)
    controller: str = _key(_machine, "machine type of the controller", _CONTROLLERS["aws"])
    controller_disk: int = _key(parse_disk, "size of the controller's volume", 50 * _GIB)
    key: str | None = _key(_text, "name of a key pair at AWS", None)
    public_key: str | None = _key(_text, "a public ssh key, or the path of one", None)
    profile: str | None = _key(_text, "existing instance profile or service account to use instead of new ones", None)
    store: str | None = _key(_text, "bucket and prefix that machines may use", None)
    tags: dict[str, str] = _key(_mapping_of(_plain_text), "additional tags of every resource", default_factory=dict)
    dask: dict[str, Any] = _key(
        _mapping_of(lambda value: value), "additional arguments of dask-cloudprovider's cluster", default_factory=dict
    )
    init: tuple[str, ...] = _key(
        _list_of(_text, splits=False), "shell commands that each machine runs when it boots", ()
    )
    network: Network = _key(lambda value: value, "network", default_factory=Network)
    scaling: Scaling = _key(lambda value: value, "how pools grow and shrink", default_factory=Scaling)
    machines: dict[str, Sizes] = _key(lambda value: value, "sizes and prices of types", default_factory=dict)

    def pool(self, name: str) -> PoolDescription:
        """Return a pool by its name.

        Raises
        ------
        InputError
            If the cluster has no pool with this name.
        """
        found = next((pool for pool in self.pools if pool.name == name), None)
        if found is None:
            names = ", ".join(pool.name for pool in self.pools)
            raise InputError(f"cluster {self.name}: there is no pool {name!r}", hint=f"its pools are {names}")
        return found


_SECTIONS: dict[str, type] = {"network": Network, "scaling": Scaling}


# Reading


def read(text: str, source: str = "cluster.yaml", settings: Sequence[str] = ()) -> Description:
    """Parse and check a description.

    Parameters
    ----------
    text : str
        The description as YAML.
    source : str, optional
        The name of the file, for messages.
    settings : sequence of str, optional
        Values that replace those of the file: ``"cpu.max=20"`` for the pool ``cpu``, ``"pool.max=20"`` for all pools,
        ``"network.private=true"``.

    Raises
    ------
    InputError
        If the description is not valid. The message has all errors, each with its line.
    """
    return _Reader(source).read(text, settings)


class _Lines:
    """The values of a YAML file, and the line of each."""

    def __init__(self, text: str, source: str) -> None:
        self._source = source
        self._places: dict[tuple[str | int, ...], str] = {}
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            self.value = {} if root is None else self._value(root, ())
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise InputError(f"{source}:{line}: invalid YAML: {error.problem}") from None
        except yaml.YAMLError as error:
            raise InputError(f"{source}: invalid YAML: {' '.join(str(error).split())}") from None

    def _value(self, node: yaml.Node, path: tuple[str | int, ...]) -> Value:
        self._places.setdefault(path, f"{self._source}:{node.start_mark.line + 1}")
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Value] = {}
            for key, item in node.value:
                name = str(key.value)
                place = f"{self._source}:{key.start_mark.line + 1}"
                if name in found:
                    raise InputError(f"{place}: {name}: the key appears twice", hint="remove one of the two")
                here = (*path, name)
                self._places[here] = place
                found[name] = self._value(item, here)
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return yaml.SafeLoader("").construct_object(node)

    def place(self, path: tuple[str | int, ...]) -> str:
        """Return the file and line of a value, or of the nearest value that contains it."""
        while path and path not in self._places:
            path = path[:-1]
        return self._places.get(path, self._source)

    def set(self, setting: str) -> None:
        """Replace a value of the file by that of an option such as ``cpu.max=20``.

        Raises
        ------
        InputError
            If the option is malformed, or the key or pool does not exist.
        """
        key, equals, value = setting.partition("=")
        parts = _parts(key)
        if not equals or not all(parts):
            raise InputError(f"--set {setting}: not of the form KEY=VALUE", hint="example: --set cpu.max=20")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {setting}: {value!r} is not valid YAML", hint="put it in quotes") from None
        for path in self._targets(parts, setting):
            self._put(path, parsed, setting)

    def _targets(self, parts: list[str], setting: str) -> list[tuple[str | int, ...]]:
        pools = self.value.get("pools", []) if isinstance(self.value, dict) else []
        names = {pool.get("name"): i for i, pool in enumerate(pools) if isinstance(pool, dict)}
        if parts[0] in ("pool", "pools") and len(parts) > 1:
            parts = parts[1:]
            if parts[0] not in names:
                return [("pools", index, *parts) for index in range(len(pools))]
        if len(parts) > 1 and parts[0] in names:
            return [("pools", names[parts[0]], *parts[1:])]
        if parts[0] in names:
            raise InputError(
                f"--set {setting}: {parts[0]} is a pool", hint=f"set one of its keys, such as {parts[0]}.max=20"
            )
        known = {entry.name for entry in fields(Description)}
        if parts[0] not in known:
            near = get_close_matches(parts[0], [*known, *map(str, names)], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"pools are {', '.join(map(str, names))}"
            raise InputError(f"--set {setting}: there is neither a key nor a pool {parts[0]!r}", hint=hint)
        return [tuple(parts)]

    def _put(self, path: tuple[str | int, ...], value: Value, setting: str) -> None:
        around = self.value
        for part in path[:-1]:
            around = around[part] if isinstance(part, int) else around.setdefault(part, {})
            if not isinstance(around, (dict, list)):
                raise InputError(f"--set {setting}: {part} is a single value and has no keys")
        around[path[-1]] = value
        self._places[path] = f"--set {setting}"


def _parts(key: str) -> list[str]:
    """Split the key of a setting at its dots, and replace hyphens in it by underscores.

    The names of machine types and tags may contain dots and hyphens, and are not changed.

    >>> _parts("scaling.target-time"), _parts("cpu.disks.c6i.large"), _parts("machines.n2-standard-8.spot-price")
    (['scaling', 'target_time'], ['cpu', 'disks', 'c6i.large'], ['machines', 'n2-standard-8', 'spot_price'])
    """
    parts = key.split(".")
    named = next((i for i, part in enumerate(parts) if part in ("disks", "machines", "tags", "dask")), len(parts))
    before = [part.replace("-", "_") if i else part for i, part in enumerate(parts[: named + 1])]
    names = parts[named + 1 :]
    sizes = {entry.name for entry in fields(Sizes)}
    if parts[named:][:1] == ["machines"] and names and (last := names[-1].replace("-", "_")) in sizes:
        return [*before, ".".join(names[:-1]), last]
    return [*before, ".".join(names)] if names else before


class _Reader:
    """Parses and checks a whole file, and reports all errors at once."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._wrong: list[str] = []

    def read(self, text: str, settings: Sequence[str]) -> Description:
        self._lines = _Lines(text, self._source)
        for setting in settings:
            self._lines.set(setting)
        value = self._lines.value
        if not isinstance(value, dict):
            raise InputError(
                f"{self._source}: not a mapping of keys and values", hint="`toilfn cluster init` writes an example"
            )
        for name, section in _SECTIONS.items():
            if name in value:
                value[name] = self._section(section, value[name], (name,))
        if "machines" in value:
            value["machines"] = self._machines(value["machines"])
        if "pools" in value:
            value["pools"] = self._pools(value["pools"])
        if value.get("cloud") == "google":
            value.setdefault("controller", _CONTROLLERS["google"])
        description = self._section(Description, value, ())
        if isinstance(description, Description):
            self._check_cloud(description)
        if self._wrong or description is None:
            raise InputError("\n".join(self._wrong))
        assert isinstance(description, Description)
        return description

    def _report(self, path: tuple[str | int, ...], message: str) -> None:
        name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        self._wrong.append(f"{self._lines.place(path)}: {name}: {message}" if name else message)

    def _section(self, section: type[T], value: Value, path: tuple[str | int, ...]) -> T | None:
        """Build a section from its mapping; report errors, and return None if there are any."""
        if not isinstance(value, dict):
            self._report(path, "write keys and values here")
            return None
        before = len(self._wrong)
        known: dict[str, Field[Any]] = {entry.name: entry for entry in fields(section)}  # type: ignore[arg-type]
        for name in value.keys() - known.keys():
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            self._report((*path, name), f"unknown key; {hint}")
        given = {name: self._parsed(known[name], value[name], (*path, name)) for name in known if name in value}
        for name, entry in known.items():
            if name not in value and entry.default is MISSING and entry.default_factory is MISSING:
                self._report((*path, name), f"the key is missing ({entry.metadata['help']})")
        return None if len(self._wrong) > before else section(**given)

    def _parsed(self, entry: Field[Any], value: Value, path: tuple[str | int, ...]) -> Any:
        if value is None and entry.default is None:
            return None
        try:
            return entry.metadata["parse"](value)
        except (ValueError, ResourceError) as error:
            self._report(path, str(error))
            return None

    def _check_cloud(self, description: Description) -> None:
        if description.cloud != "google":
            if description.project:
                self._report(("project",), "only Google has projects; write cloud: google")
            return
        if len(description.name) > 20:
            self._report(("name",), "on Google Cloud, the name of a cluster has at most 20 characters")
        if description.key:
            self._report(("key",), "Google has no key pairs; write public_key")
        if len(description.network.subnets) > 1:
            self._report(("network", "subnets"), "list one subnet: on Google Cloud, it has all zones of its region")
        for key, text in description.tags.items():
            if not (_LABEL[0].fullmatch(key) and _LABEL[1].fullmatch(text)):
                self._report(("tags", key), "use only lower-case letters, digits, hyphens and underscores for Google")
        for index, pool in enumerate(description.pools):
            if len(f"toilfn-{description.name}-{pool.name}-{pool.max}") > 63:
                self._report(("pools", index, "name"), "the names of machines would be longer than Google allows")
            if pool.max_price is not None:
                self._report(("pools", index, "max_price"), "Google has no price limits for spot machines")

    def _machines(self, value: Value) -> dict[str, Sizes | None]:
        if not isinstance(value, dict):
            self._report(("machines",), "write types with their sizes, such as c6i.xlarge: {cores: 4, memory: 8Gi}")
            return {}
        return {name: self._section(Sizes, sizes, ("machines", name)) for name, sizes in value.items()}

    def _pools(self, value: Value) -> tuple[PoolDescription | None, ...]:
        if not isinstance(value, list) or not value:
            self._report(("pools",), "write a list of pools, each with a name")
            return ()
        pools = tuple(self._section(PoolDescription, pool, ("pools", i)) for i, pool in enumerate(value))
        names = [pool.name for pool in pools if pool]
        for index, pool in enumerate(pools):
            if pool is not None:
                self._check_pool(pool, ("pools", index), names)
        return pools

    def _check_pool(self, pool: PoolDescription, path: tuple[str | int, ...], names: Sequence[str]) -> None:
        if names.count(pool.name) > 1:
            self._report((*path, "name"), f"two pools are called {pool.name!r}; choose different names")
        if pool.name in _RESERVED:
            self._report((*path, "name"), f"the name {pool.name!r} is reserved; choose another one")
        if pool.max == 0:
            self._report((*path, "max"), "a pool needs at least one machine; write 1 or more, or remove the pool")
        if pool.min > pool.max:
            self._report((*path, "min"), f"{pool.min} is more than the pool's maximum of {pool.max}")
        if bool(pool.types) == bool(pool.cores or pool.memory):
            self._report(path, "write either types, or cores and memory")
        if pool.max_price is not None and not pool.spot:
            self._report((*path, "max_price"), "only spot machines have a price limit; add spot: true")
        for kind in pool.disks.keys() - set(pool.types):
            self._report((*path, "disks", kind), "this is not one of the pool's types")


# Writing


def template(name: str, region: str | None = None, cloud: str = "aws") -> str:
    """Return the text of a description that contains and explains every key, for the user to edit."""
    default, *types = _EXAMPLES[cloud]
    lines = [
        "# A cluster for `toilfn cluster launch`. Remove the '#' in front of each line that you change.",
        f"name: {name}",
        f"region: {region or default}",
        *([f"cloud: {cloud}"] if cloud != "aws" else []),
    ]
    apart = ("name", "region", "pools", "machines", *(["cloud"] if cloud != "aws" else []), *_SECTIONS)
    lines += [_commented(entry, "") for entry in fields(Description) if entry.name not in apart]
    lines += ["pools:", "  - name: cpu", f"    types: [{', '.join(types)}]"]
    lines += [_commented(entry, "    ") for entry in fields(PoolDescription) if entry.name not in ("name", "types")]
    for title, section in _SECTIONS.items():
        lines += [f"#{title}:", *(_commented(entry, "  ") for entry in fields(section))]
    lines += ["#machines:  # sizes and prices of types, for `toilfn cluster plan`"]
    lines += [f"#  {types[0]}: {{cores: 16, memory: 32Gi, price: 0.68, spot_price: 0.27}}"]
    return "\n".join(lines) + "\n"


def _commented(entry: Field[Any], indent: str) -> str:
    default = entry.default if entry.default_factory is MISSING else entry.default_factory()
    if entry.metadata["parse"] in (parse_disk, parse_memory) and isinstance(default, int):
        default = format_size(default).replace(" ", "").removesuffix("B")
    elif entry.metadata["parse"] is parse_duration:
        default = f"{default:g}s"
    shown = yaml.safe_dump(list(default) if isinstance(default, tuple) else default, default_flow_style=True)
    return f"#{indent}{entry.name}: {shown.splitlines()[0]}  # {entry.metadata['help']}"
