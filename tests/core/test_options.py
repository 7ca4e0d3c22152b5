"""The options of a task."""

from __future__ import annotations

from typing import Any

import dask
import msgpack
import pytest

import toilfn
from toilfn.config.settings import Settings
from toilfn.errors import InputError, ResourceError
from toilfn.graph import options
from toilfn.ids import Budget
from toilfn.resources import Accelerator, Resources, parse_accelerator, parse_accelerators

K80 = Accelerator(2, model="nvidia-tesla-k80", brand="nvidia")


@pytest.mark.parametrize(
    ("spec", "accelerator"),
    [
        (8, Accelerator(8)),
        ("1", Accelerator(1)),
        ("gpu", Accelerator(1)),
        ("gpu:3", Accelerator(3)),
        ("nvidia-tesla-k80", Accelerator(1, model="nvidia-tesla-k80", brand="nvidia")),
        ("nvidia-tesla-k80:2", K80),
        ("amd", Accelerator(1, brand="amd")),
        ("cuda:1", Accelerator(1, brand="nvidia", api="cuda")),
        ("rocm", Accelerator(1, brand="amd", api="rocm")),
        ("opencl", Accelerator(1, api="opencl")),
        ("a100", Accelerator(1, model="a100")),
        ({"kind": "gpu"}, Accelerator(1)),
        ({"brand": "nvidia", "count": 5}, Accelerator(5, brand="nvidia")),
        (K80, K80),
    ],
)
def test_an_accelerator_is_read_by_toils_rules(spec: Any, accelerator: Accelerator) -> None:
    assert parse_accelerator(spec) == accelerator
    assert parse_accelerators(spec) == (accelerator,)


@pytest.mark.parametrize("spec", ["", ":2", "gpu:x", "gpu:1:2", "-1", -1, 1.5, True, {"count": "2"}, {"colour": "red"}])
def test_a_wrong_accelerator_is_named(spec: Any) -> None:
    with pytest.raises(ResourceError) as error:
        parse_accelerator(spec)
    assert repr(spec) in str(error.value)


def test_options_of_a_call_may_name_accelerators() -> None:
    task = toilfn.task(accelerators="nvidia-tesla-k80:2")(lambda: None)
    assert task.options(cores=2).settings["accelerators"] == [[2, "gpu", "nvidia-tesla-k80", "nvidia", None]]


def test_several_accelerators() -> None:
    assert parse_accelerators("nvidia-tesla-k80:2, amd") == (K80, Accelerator(1, brand="amd"))
    assert parse_accelerators([1, "nvidia-tesla-k80:2"]) == (Accelerator(1), K80)
    assert parse_accelerators([]) == parse_accelerators(0) == parse_accelerators("") == ()


def test_normalised_options_can_be_packed_and_are_stable() -> None:
    given = {
        "cores": "2", "memory": "2G", "disk": "1Gi", "accelerators": "nvidia-tesla-k80:2", "preemptible": True,
        "walltime": "1h", "retries": 3, "checkpoint": False, "local": False, "name": "sort", "nout": 2,
        "env": {"OMP_NUM_THREADS": "1"}, "version": 2,
    }  # fmt: skip
    normal = options.normalise(given)
    assert normal["memory"] == 2 * 10**9
    assert normal["walltime"] == 3600
    assert normal["version"] == "2"
    assert msgpack.unpackb(msgpack.packb(normal)) == normal
    again = {name: value for name, value in normal.items() if name != "accelerators"}
    assert options.normalise(again) == again


def test_an_unknown_option_names_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"'memry'; did you mean 'memory'\?"):
        options.normalise({"memry": 1})
    with pytest.raises(InputError, match="a task can have cores, memory"):
        options.normalise({"xyzzy": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cores", 0), ("cores", "many"), ("cores", True), ("memory", "2X"), ("walltime", "soon"), ("retries", -1),
        ("preemptible", "yes"), ("checkpoint", 1), ("local", 0), ("name", ""), ("nout", 1.0), ("env", {"A": 1}),
        ("version", ""), ("accelerators", "gpu:"),
    ],
)  # fmt: skip
def test_a_wrong_value_names_its_option(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"option {name}: "):
        options.normalise({name: value})


def test_a_call_overrides_and_none_is_the_default_again() -> None:
    base = options.normalise({"memory": "1G", "env": {"A": "1", "B": "1"}, "cores": 4})
    call = options.normalise({"memory": None, "env": {"B": "2"}})
    merged = options.merge(base, call)
    assert merged["env"] == {"A": "1", "B": "2"}
    assert options.resources(merged, Resources(memory=7)) == Resources(cores=4, memory=7)


def test_resources_of_options() -> None:
    normal = options.normalise({"accelerators": ["nvidia-tesla-k80:2"], "local": True, "walltime": 5, "name": "x"})
    assert options.resources(normal, Resources()) == Resources(accelerators=(K80,), local=True, walltime=5.0)


def test_requirements_known_later_are_kept_apart() -> None:
    promise = dask.delayed(1)

    def size(bam: str) -> int:
        return len(bam)

    normal = options.normalise({"memory": size, "disk": promise, "cores": 1})
    assert options.dynamic(normal).keys() == {"memory", "disk"}
    assert normal["memory"] is size
    assert normal["disk"] is promise


def test_retries_of_the_task_win_over_those_of_the_run() -> None:
    run = Settings(retries=2, lost_retries=7, double_memory=True)
    assert options.budget({}, Settings()) == Budget()
    assert options.budget({}, run) == Budget(error=2, memory=2, walltime=2, lost=7, double_memory=True)
    assert options.budget({"retries": 0}, run) == Budget(error=0, memory=0, walltime=0, lost=7, double_memory=True)


def test_defaults_come_from_the_settings() -> None:
    assert options.defaults(Settings()) == Resources()
    gpus = Settings.resolve(default_accelerators="cuda:2")
    assert options.defaults(gpus) == Resources(accelerators=parse_accelerators("cuda:2"))
    assert options.defaults(Settings(default_memory=5, default_preemptible=True)) == Resources(
        memory=5, preemptible=True
    )
