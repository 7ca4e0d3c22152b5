"""Settings: where values come from, how they are read, and what a wrong one says."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.config
import msgpack
import pytest

import toilfn as toil
from toilfn.config import sources as configured
from toilfn.config.settings import SETTINGS_VARIABLE, Settings, add_options, from_options
from toilfn.errors import InputError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)


def options(*arguments: str) -> dict[str, object]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    return from_options(parser.parse_args(arguments))


def test_defaults_are_in_bytes_and_seconds() -> None:
    defaults = Settings.resolve()
    assert defaults.default_memory == 2 * 2**30
    assert defaults.retry_backoff == 0.5
    assert (defaults.bundle, defaults.gather) == (None, None)
    assert defaults.log_limit == 65536
    assert defaults.store is None


def test_sizes_and_durations_are_read() -> None:
    found = Settings.resolve(max_memory="3G", default_walltime="1h30m", poll_interval=2)
    assert (found.max_memory, found.default_walltime, found.poll_interval) == (3_000_000_000, 5400.0, 2.0)


def test_the_nearer_source_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    with dask.config.set({"toilfn.retries": 2, "toilfn.max-jobs": 20, "toilfn.default-cores": 2}):
        monkeypatch.setenv(SETTINGS_VARIABLE, json.dumps({"retries": 3, "max_jobs": 30}))
        found = Settings.resolve(retries=4)
    assert (found.retries, found.max_jobs, found.default_cores, found.lost_retries) == (4, 30, 2.0, 3)


def test_none_stands_for_not_given() -> None:
    with dask.config.set({"toilfn.retries": 7}):
        assert Settings.resolve(retries=None).retries == 7


def test_sections_of_other_parts_are_left_alone() -> None:
    with dask.config.set({"toilfn.slurm.partition": "long"}):
        assert Settings.resolve() == Settings()


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"retires": 3}, "the setting 'retires' is unknown; did you mean 'retries'?"),
        ({"xyzzy": 3}, ", bundle, cache_age, cache_shared, cache_size, clean,"),
        ({"retries": -1}, "the setting 'retries': -1: write a whole number that is at least 0"),
        ({"retries": True}, "write a whole number"),
        ({"default_cores": "nan"}, "write a number above 0"),
        ({"workers": 0}, "write a whole number that is at least 1"),
        ({"max_memory": "3Q"}, "'3Q' is not a size"),
        ({"lease_timeout": "soon"}, "'soon' is not a duration"),
        ({"clean": "sometimes"}, "choose from always, onError, never, onSuccess"),
        ({"progress": "maybe"}, "write true or false"),
        ({"cluster": 3}, "pass a Cluster object or the name of one"),
        ({"store": 3}, "the setting 'store': "),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name(keywords: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as raised:
        Settings.resolve(**keywords)
    assert words in str(raised.value)


def test_an_error_says_which_source_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        dask.config.set({"toilfn.max-jbos": 1}),
        pytest.raises(InputError, match=r"the configuration 'toilfn\.max_jbos'"),
    ):
        Settings.resolve()
    monkeypatch.setenv(SETTINGS_VARIABLE, '{"retries": "many"}')
    with pytest.raises(InputError, match="the flag 'retries'"):
        Settings.resolve()


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_flags_that_are_not_an_object_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, text)
    with pytest.raises(InputError, match=SETTINGS_VARIABLE):
        Settings.resolve()


def test_flags_give_only_what_was_given() -> None:
    assert options() == {}
    assert options("--store", "s3://b/run", "--max-memory", "1Gi", "--no-progress", "--clean", "onsuccess") == {
        "store": "s3://b/run", "clean": "onSuccess", "max_memory": 2**30, "progress": False,
    }  # fmt: skip


def test_flags_that_were_read_can_be_handed_to_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    given = options("--double-memory", "--default-walltime", "2h", "--cluster", "inline")
    monkeypatch.setenv(SETTINGS_VARIABLE, json.dumps(given))
    found = Settings.resolve()
    assert (found.double_memory, found.default_walltime, found.cluster) == (True, 7200.0, "inline")


def test_a_wrong_flag_is_an_argparse_error() -> None:
    with pytest.raises(argparse.ArgumentError, match="'-2': write a whole number"):
        options("--retries", "-2")


def test_a_scripts_own_options_do_not_clash() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", help="where the script puts its results")
    add_options(parser)
    namespace = parser.parse_args(["results", "--store", "run1"])
    assert namespace.store == "results"
    assert from_options(namespace) == {"store": "run1"}


def test_as_dict_is_plain_and_holds_no_password() -> None:
    class Somewhere:
        def submit(self) -> None: ...

        def address(self) -> dict[str, str]:
            return {"queue": "q"}

    plain = Settings.resolve(store="ftp://me:secret@host:21/run", cluster=Somewhere()).as_dict()
    assert msgpack.unpackb(msgpack.packb(plain)) == plain
    assert (plain["store"], plain["cluster_address"]) == ("ftp://host:21/run", {"queue": "q"})
    assert plain["cluster"].endswith("Somewhere")


SCRIPT = """
import sys
from toilfn.config.settings import Settings
print(Settings.resolve().max_jobs, "dask" in sys.modules)
"""


def resolve_afresh(home: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DASK_", "TOILFN_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**kept, "HOME": str(home), **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_configuration_files_and_variables_are_found(tmp_path: Path) -> None:
    assert resolve_afresh(tmp_path, DASK_TOILFN__MAX_JOBS="11") == "11 True"
    folder = tmp_path / ".config" / "dask"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toilfn.yaml").write_text("toilfn:\n  max-jobs: 12\n")
    assert resolve_afresh(tmp_path) == "12 True"


def test_dask_is_not_imported_when_it_is_not_needed(tmp_path: Path) -> None:
    assert resolve_afresh(tmp_path) == "None False"


def test_every_place_where_dask_looks_is_searched() -> None:
    assert {Path(place) for place in dask.config.paths} <= set(configured._config_places())


@pytest.mark.parametrize(
    "given",
    [
        {"endpoint_url": "http://x", "requester-pays": True},
        '{"endpoint_url": "http://x", "requester_pays": true}',
        ["endpoint_url=http://x", "requester_pays=true"],
    ],
)
def test_options_of_the_store(given: object) -> None:
    resolved = Settings.resolve(store_options=given)
    assert resolved.store_options == {"endpoint_url": "http://x", "requester_pays": True}
    assert resolved.as_dict()["store_options"] == ["endpoint_url", "requester_pays"]


@pytest.mark.parametrize("given", ["endpoint_url", "=x", "{", "{5}"])
def test_an_option_that_the_store_does_not_have(given: str) -> None:
    with pytest.raises(InputError, match="'store_options': "):
        Settings.resolve(store_options=given)


@pytest.mark.parametrize("name", ["default_memory", "default_disk", "max_memory", "max_disk"])
def test_memory_and_disk_without_a_unit_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}.*20 bytes"):
        Settings.resolve(**{name: "20"})
    with pytest.raises(argparse.ArgumentError, match="less than a mebibyte"):
        options(f"--{name.replace('_', '-')}", "20")


@pytest.mark.parametrize("name", ["store", "work_dir", "write_logs", "log_file", "batch_logs", "coordination_dir"])
def test_an_empty_path_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}.*it is empty"):
        Settings.resolve(**{name: ""})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("default_walltime", 0, "is not a time limit"), ("lease_timeout", "0s", "is not a time limit"),
        ("poll_interval", 0, "is not a time"), ("workflow", 1.5, "write a text"), ("workflow", "", "write a text"),
        ("profile", ["a"], "write a text"), ("store", b"x", "as a text, or pass a pathlib.Path"),
        ("work_dir", b"/tmp", "as a text, or pass a pathlib.Path"), ("set_env", [3], "write a mapping, NAME=VALUE"),
        ("store_options", 3, "write a mapping, NAME=VALUE"), ("deploy", 3, "write a name, or a list"),
        ("cluster", toil.LocalCluster, r"it is a class: write LocalCluster\(\)"),
    ],
)  # fmt: skip
def test_values_of_other_kinds_are_refused_with_a_message(name: str, value: object, words: str) -> None:
    with pytest.raises(InputError, match=f"the setting '{name}'.*{words}"):
        Settings.resolve(**{name: value})


def test_a_walltime_of_zero_is_refused_where_the_task_is_defined() -> None:
    with pytest.raises(InputError, match="option walltime: 0 is not a time limit; write a time above 0"):
        toil.task(walltime=0)(len)


@pytest.mark.parametrize("place", [b"x", 3, None])
def test_a_store_that_is_not_a_path_is_refused(place: Any) -> None:
    with pytest.raises(InputError, match="the setting 'store'"):
        toil.resume(place)


@pytest.mark.parametrize("given", [{"workers": 0}, {"workers": "2"}, {"workers": 1.5}, {"cores": -2}, {"cores": "two"}])
def test_a_local_cluster_without_room_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"LocalCluster: {next(iter(given))}=.* above 0"):
        toil.LocalCluster(**given)


def test_names_are_one_or_several_and_flags_add_up() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    given = from_options(parser.parse_args(["--deploy", "numpy", "--deploy", "data/"]))
    assert Settings.resolve(**given).deploy == ["numpy", "data/"]
    assert Settings.resolve(deploy="numpy").deploy == ["numpy"]
    with pytest.raises(InputError, match="the setting 'deploy': "):
        Settings.resolve(deploy=[""])


@pytest.mark.parametrize(
    "words", [["run", "--retry", "3", "flow.py"], ["cwl", "--retry", "3", "x"], ["wdl", "run", "--retry", "3", "x"]]
)
def test_no_parser_takes_an_abbreviation_for_a_flag(words):
    """It could be another one than the user has in mind: ``--retry`` was ``--retry-backoff``."""
    done = subprocess.run([sys.executable, "-m", "toilfn", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode not in (0, 3)
    assert "--retry" in done.stderr


def test_a_scripts_own_parser_takes_no_abbreviation(capsys):
    parser = argparse.ArgumentParser()
    add_options(parser)
    parser.add_argument("--verbosity")
    for words in (["--retry", "3"], ["--verb", "x"]):
        with pytest.raises(SystemExit):
            parser.parse_args(words)
        assert f"unrecognized arguments: {words[0]}" in capsys.readouterr().err
