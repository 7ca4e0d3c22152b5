"""The file that describes a cluster."""

from __future__ import annotations

import re

import pytest

from toilfn.cloud.description import read, template
from toilfn.cloud.toil_words import from_words, parse_workers
from toilfn.errors import InputError

MINIMAL = """\
name: lab
region: eu-central-1
pools:
  - name: cpu
    types: [c6i.4xlarge]
"""


def test_the_template_is_a_description_also_with_every_key_in_use():
    text = template("lab", "eu-central-1")
    assert read(text).pool("cpu").max == 10
    full = re.sub(r"^#(?!.*(instead of types|only spot|price|null))", "", text.partition("\n")[2], flags=re.MULTILINE)
    assert read(full) == read(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL.replace("lab", "Lab_1"), "cluster.yaml:1: name: 'Lab_1' is not a valid name"),
        (MINIMAL.replace("region", "regoin"), "cluster.yaml:2: regoin: unknown key; did you mean 'region'?"),
        (MINIMAL + "    max: many\n", "cluster.yaml:6: pools[0].max: 'many' is not a whole number"),
        (MINIMAL + "    min: 11\n", "cluster.yaml:6: pools[0].min: 11 is more than the pool's maximum of 10"),
        (MINIMAL + "    max_price: 1\n", "cluster.yaml:6: pools[0].max_price: only spot machines"),
        (MINIMAL + "    disk: 5\n", "cluster.yaml:6: pools[0].disk: 5 is 5 bytes of disk"),
        (MINIMAL + "    disks: {x: 50Gi}\n", "cluster.yaml:6: pools[0].disks.x: this is not one of the pool's types"),
        (MINIMAL + "  - name: cpu\n    cores: 4\n", "cluster.yaml:6: pools[1].name: two pools are called 'cpu'"),
        (MINIMAL + "  - name: big\n", "cluster.yaml:6: pools[1]: write either types"),
        (MINIMAL + "kind: mesos\n", "cluster.yaml:6: kind: 'mesos' is not one of slurm, kubernetes, dask"),
        (MINIMAL + "network:\n  allow_from: [everywhere]\n", "cluster.yaml:7: network.allow_from: 'everywhere'"),
        (MINIMAL + "scaling:\n  inertia: 1\n", "cluster.yaml:7: scaling.inertia: 1 is more than 0.9"),
        (MINIMAL + "name: other\n", "cluster.yaml:6: name: the key appears twice"),
        (MINIMAL + "tags: {a: [1\n", "cluster.yaml:7: "),
        (MINIMAL + "    max: 0\n", "cluster.yaml:6: pools[0].max: a pool needs at least one machine"),
        (MINIMAL.replace("cpu", "all"), "cluster.yaml:4: pools[0].name: the name 'all' is reserved"),
        ("name: lab\x00", "cluster.yaml: invalid YAML"),
        ("", "name: the key is missing"),
        ("[1, 2]", "cluster.yaml: not a mapping of keys and values"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(text, said):
    with pytest.raises(InputError) as caught:
        read(text)
    assert said in str(caught.value)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(InputError) as caught:
        read("name: A\nregion: x\npools:\n  - name: a\n    types: [X_Y]\n    min: -1\nscaling: 5\n")
    assert len(str(caught.value).splitlines()) == 4


def test_values_on_the_command_line_take_the_place_of_the_files():
    text = MINIMAL + "  - name: big\n    types: [r5.8xlarge]\n"
    settings = ["pool.max=20", "big.spot=true", "network.private=true", "tags.team=genomics", "pools.cpu.disk=100Gi"]
    description = read(text, settings=settings)
    assert [pool.max for pool in description.pools] == [20, 20]
    assert [pool.spot for pool in description.pools] == [False, True]
    assert description.network.private
    assert description.tags == {"team": "genomics"}
    assert description.pool("cpu").disk == 100 * 2**30


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("cpu.max", "not of the form KEY=VALUE"),
        ("cup.max=3", "did you mean 'cpu'?"),
        ("cpu.max=many", "--set cpu.max=many: pools[0].max: 'many' is not a whole number"),
        ("name.x=1", "name is a single value"),
    ],
)
def test_a_value_on_the_command_line_that_cannot_be_used_is_named(setting, said):
    with pytest.raises(InputError) as caught:
        read(MINIMAL, settings=[setting])
    assert said in str(caught.value)


def test_node_types_and_workers_of_toil_are_understood():
    assert from_words("c5.4xlarge/c5a.4xlarge:0.42,t2.large", "0-2,5") == [
        {"name": "pool1", "types": ["c5.4xlarge", "c5a.4xlarge"], "spot": True, "max_price": 0.42, "min": 0, "max": 2},
        {"name": "pool2", "types": ["t2.large"], "min": 5, "max": 5},
    ]


@pytest.mark.parametrize(
    ("types", "workers", "said"),
    [
        ("c5.4xlarge:cheap", None, "'cheap' is not a price"),
        ("c5.4xlarge//x", None, "is not a node type"),
        ("a,b", "1", "2 node types but 1 numbers of workers"),
        ("a", "3-1", "'3-1' is not a number of workers"),
    ],
)
def test_types_and_workers_that_cannot_be_parsed_are_refused(types, workers, said):
    with pytest.raises(InputError, match=re.escape(said)):
        from_words(types, workers)


def test_one_number_of_workers_is_the_minimum_and_the_maximum():
    assert parse_workers("0-2,5") == [(0, 2), (5, 5)]


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("cpu.types=c6i.large, c6a.large", ("types",), ("c6i.large", "c6a.large")),
        ("cpu.types=[c6i.large, c6a.large]", ("types",), ("c6i.large", "c6a.large")),
        ("cpu.disks.c6i.4xlarge=60Gi", ("disks", "c6i.4xlarge"), 60 * 2**30),
        ("cpu.max-price=0.5", ("max_price",), 0.5),
    ],
)
def test_settings_of_pools(setting, path, value):
    found = read(MINIMAL + "    spot: true\n", settings=[setting]).pool("cpu")
    assert (getattr(found, path[0])[path[1]] if path[1:] else getattr(found, path[0])) == value


def test_settings_keep_the_names_of_tags_types_and_commands():
    settings = ["tags.cost-center=12", "machines.n2-standard-8={cores: 8, memory: 32Gi}", "zones=a,b",
                "machines.n2-standard-8.spot-price=0.1", "init=echo a, b"]  # fmt: skip
    found = read(MINIMAL, settings=settings)
    assert found.tags == {"cost-center": "12"}
    assert found.machines["n2-standard-8"].spot_price == 0.1
    assert found.zones == ("a", "b")
    assert found.init == ("echo a, b",)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("cpu=5", "cpu is a pool; set one of its keys, such as cpu.max=20"),
        ("cpu.mx=5", "did you mean 'max'?"),
        ("cpuu.max=5", "did you mean 'cpu'?"),
        ("cpu.max=[1", "'[1' is not valid YAML; put it in quotes"),
        ("name.x=1", "name is a single value"),
    ],
)
def test_a_setting_that_cannot_be_used_says_why(setting, said):
    with pytest.raises(InputError, match=re.escape(said)):
        read(MINIMAL, settings=[setting])
