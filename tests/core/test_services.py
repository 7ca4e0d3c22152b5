"""Services on whole workflows: when they run, what their clients see, and what happens when they die."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import toilfn as toil
from tests.waiting import wait_for
from toilfn.cli import main
from toilfn.model.records import Failure, decode
from toilfn.stores import open_store


def note(folder: str, line: str) -> None:
    with Path(folder, "story").open("a") as file:
        file.write(line + "\n")


def story(folder: Path) -> list[str]:
    return (folder / "story").read_text().split("\n")[:-1]


@toil.service(cores=0.1, memory="100M")
def server(folder: str, name: str = "server", other: Any = None) -> Iterator[str]:
    note(folder, f"{name} up")
    yield f"{name} in {os.getpid()}"
    note(folder, f"{name} down")


@toil.task(cores=0.1, memory="100M")
def client(folder: str, *addresses: str) -> list[str]:
    note(folder, "client")
    return [address.partition(" ")[0] for address in addresses]


@toil.task(cores=0.1, memory="100M")
def dynamic_client(folder: str, address: str) -> Any:
    return [client(folder, address) for _ in range(2)]


@toil.task(cores=0.1, memory="100M", retries=0)
def failing_client(folder: str, address: str) -> None:
    raise ValueError("the client is to blame")


@toil.service(cores=0.1, memory="100M", check_interval=0.05)
class Fragile(toil.Service[str]):
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def start(self) -> str:
        note(self.folder, "up")
        return self.folder

    def check(self) -> bool:
        if Path(self.folder, "dead").exists():
            raise RuntimeError("the service has failed")
        return True

    def stop(self) -> None:
        Path(self.folder, "dead").unlink(missing_ok=True)
        note(self.folder, "down")


@toil.task(cores=0.1, memory="100M", retries=0)
def break_it_once(folder: str) -> str:
    if Path(folder, "story").read_text() == "up\n":
        Path(folder, "dead").touch()
        time.sleep(60)
    return "done"


@pytest.fixture(params=["local", "inline"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def compute(*promises: Any, **settings: Any) -> Any:
        given = {"store": str(tmp_path / "store"), "progress": False, "cluster": request.param, **settings}
        return toil.compute(*promises, **given)

    return compute


@toil.service(cores=0.1, memory="100M", check_interval=0.05)
class Finite(toil.Service[str]):
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def start(self) -> str:
        note(self.folder, "up")
        return self.folder

    def check(self) -> bool:
        note(self.folder, "ended well")
        return False

    def stop(self) -> None:
        note(self.folder, "down")


@toil.task(cores=0.1, memory="100M", retries=0)
def outlive(folder: str) -> str:
    wait_for(lambda: "ended well" in Path(folder, "story").read_text())
    time.sleep(0.3)  # several intervals, in which nothing is checked any more
    note(folder, "client")
    return "done"


def test_a_service_whose_check_says_that_it_has_ended_fails_no_client(run: Any, tmp_path: Path) -> None:
    """As in Toil: False is a good end, and only an exception is a failure."""
    service = Finite(str(tmp_path))
    assert run(outlive(service), client(str(tmp_path), service), retries=0)[0] == "done"
    told = story(tmp_path)
    assert (told[0], told.count("ended well"), told.count("client"), told[-1]) == ("up", 1, 2, "down")


def test_service_runs_around_all_its_clients(run: Any, tmp_path: Path) -> None:
    address = server(str(tmp_path))
    promises = [client(str(tmp_path), address), dynamic_client(str(tmp_path), address)]
    assert run(*promises) == (["server"], [["server"], ["server"]])
    assert story(tmp_path) == ["server up", "client", "client", "client", "server down"]


def test_finished_run_starts_no_service_again_but_a_new_client_does(run: Any, tmp_path: Path) -> None:
    def promise(*more: str) -> Any:
        return client(str(tmp_path), server(str(tmp_path)), *more)

    assert run(promise()) == run(promise())
    assert story(tmp_path).count("server up") == 1
    assert run(promise("more")) == ["server", "more"]
    assert story(tmp_path).count("server up") == story(tmp_path).count("server down") == 2


def test_services_of_services(run: Any, tmp_path: Path) -> None:
    first = server(str(tmp_path), "first")
    second = server(str(tmp_path), "second", first)
    assert run(client(str(tmp_path), second)) == ["second"]
    assert story(tmp_path) == ["first up", "second up", "client", "second down", "first down"]


@toil.task(cores=0.1)
def makes_its_own(folder: str) -> Any:
    return client(folder, server(folder))


def test_task_may_make_a_service_for_its_children(run: Any, tmp_path: Path) -> None:
    assert run(makes_its_own(str(tmp_path))) == ["server"]
    assert run(makes_its_own(str(tmp_path))) == ["server"]
    assert story(tmp_path) == ["server up", "client", "server down"]


def test_service_stops_when_its_client_fails(run: Any, tmp_path: Path) -> None:
    with pytest.raises(toil.FailedTasksError, match="the client is to blame"):
        run(failing_client(str(tmp_path), server(str(tmp_path))))
    assert story(tmp_path) == ["server up", "server down"]


def test_clients_of_a_service_that_dies_are_lost_and_run_with_a_new_one(tmp_path: Path) -> None:
    promise = break_it_once(Fragile(str(tmp_path)))
    assert toil.compute(promise, progress=False) == "done"
    assert story(tmp_path) == ["up", "down", "up", "down"]


@toil.task(cores=0.1, memory="100M", retries=0)
def kill_the_server_once(folder: str, address: str) -> str:
    if story(Path(folder)).count("server up") == 1:
        os.kill(int(address.rpartition(" ")[2]), signal.SIGKILL)
        time.sleep(60)
    return "done"


def test_a_service_killed_by_a_signal_is_started_again(tmp_path: Path) -> None:
    assert toil.compute(kill_the_server_once(str(tmp_path), server(str(tmp_path))), progress=False) == "done"
    assert story(tmp_path) == ["server up", "server up", "server down"]


@toil.task(cores=0.1, memory="100M")
def leads_on(folder: str, address: str) -> Any:
    note(folder, "client")
    return [kill_the_server_once(folder, address), nothing()]  # two, so that none runs on in this very batch


@toil.task(cores=0.1, memory="100M")
def nothing() -> None:
    pass


def test_client_whose_descendants_run_when_the_service_dies_runs_again_with_a_new_one(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    assert toil.compute(leads_on(str(tmp_path), server(str(tmp_path))), store=store, progress=False) == ["done", None]
    assert story(tmp_path) == ["server up", "client", "server up", "client", "server down"]
    log = [decode(data) for _, data in open_store(store, create=False).log.read()]
    told = [(record.cause, record.message) for record in log if isinstance(record, Failure)]
    assert any(cause == "lost" and message.startswith("rolled back: server") for cause, message in told)


def test_resources_that_can_never_be_free_are_reported_with_names(run: Any, tmp_path: Path) -> None:
    both = client(str(tmp_path), server(str(tmp_path)), server(str(tmp_path), "another"))
    words = r"client.*can never run it at the same time as its services: server, server"
    with pytest.raises(toil.FailedTasksError, match=words):
        run(both, max_service_tasks=1)
    assert not (tmp_path / "story").exists()


def test_clients_with_services_of_their_own_take_turns(run: Any, tmp_path: Path) -> None:
    promises = [client(str(tmp_path), server(str(tmp_path), f"number{i}")) for i in range(5)]
    assert run(*promises, max_service_tasks=1) == tuple([f"number{i}"] for i in range(5))


@toil.service
def silent() -> Iterator[int]:
    yield from ()


def test_a_generator_that_does_not_yield_is_reported(tmp_path: Path) -> None:
    with pytest.raises(toil.FailedTasksError, match="returned without a yield"):
        toil.compute(client.options(cores=0.1)(str(tmp_path), silent()), progress=False, retries=0, cluster="inline",
                     clean="always")  # fmt: skip


def test_value_of_a_service_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(toil.SerializationError, match="pass it to a task and use"):
        toil.compute(server(str(tmp_path)), progress=False, clean="always")


def test_only_generators_and_service_classes_are_services() -> None:
    with pytest.raises(toil.InputError, match="use it on a generator function"):
        toil.service(len)
    with pytest.raises(toil.InputError, match=r"use @toilfn\.service"):
        toil.task(check_interval=3)(len)


SCRIPT = """
import sys, time
from pathlib import Path
import toilfn as toil

@toil.service(cores=0.1)
def server(folder):
    with open(Path(folder, "story"), "a") as file:
        print("up", file=file)
    number = len(Path(folder, "story").read_text().split())
    yield number
    with open(Path(folder, "story"), "a") as file:
        print("down", file=file)

@toil.task(cores=0.1)
def client(folder, number):
    Path(folder, f"client{number}").touch()
    return child(folder, number)

@toil.task(cores=0.1)
def child(folder, number):
    while not Path(folder, "go").exists():
        time.sleep(0.05)
    return number

print(toil.compute(client(sys.argv[1], server(sys.argv[1])), store=sys.argv[2], progress=False))
"""


def test_new_leader_starts_a_new_service_and_runs_its_clients_again(tmp_path: Path) -> None:
    script, store = tmp_path / "script.py", str(tmp_path / "store")
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), str(tmp_path), store]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as leader:
        wait_for((tmp_path / "client1").exists)
        time.sleep(0.3)  # whether the client's outcome is durable by then or not, what follows is the same
        leader.kill()
    (tmp_path / "go").touch()
    assert toil.resume(store, progress=False) == 2
    assert story(tmp_path) == ["up", "up", "down"]


def test_service_stops_when_the_run_is_interrupted(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), str(tmp_path), str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as leader:
        wait_for((tmp_path / "client1").exists)
        leader.send_signal(signal.SIGINT)
        (tmp_path / "go").touch()
        leader.wait(20)
    assert story(tmp_path) == ["up", "down"]


def test_service_stops_when_the_run_is_killed(tmp_path: Path) -> None:
    script, store = tmp_path / "script.py", str(tmp_path / "store")
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), str(tmp_path), store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as leader:
        wait_for((tmp_path / "client1").exists)
        assert main(["kill", store]) == 0
        leader.wait(30)
    assert story(tmp_path) == ["up", "down"]


# A real server


@toil.service(cores=0.1, memory="200M", check_interval=1)
class Redis(toil.Service[int]):
    def start(self) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", os.getcwd()]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(lambda: _answers(port))
        return port

    def check(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"redis has ended with {self.process.returncode}")
        return True

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def _ask(port: int, *words: str) -> str:
    return subprocess.check_output(["redis-cli", "-p", str(port), *words], text=True).strip()


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@toil.task(cores=0.1, memory="100M")
def add(port: int, number: int) -> int:
    _ask(port, "INCRBY", "total", str(number))
    return port


@toil.task(cores=0.1, memory="100M")
def read(port: int, ports: list[int]) -> tuple[int, int]:
    assert set(ports) == {port}
    return port, int(_ask(port, "GET", "total"))


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server of Debian is not installed")
def test_ten_tasks_use_one_real_database() -> None:
    port = Redis()
    used, total = toil.compute(read(port, [add(port, number) for number in range(10)]), progress=False)
    assert total == 45
    assert not _answers(used)
