"""A strict fake of a Mesos master and its agents, on loopback, in threads of the test.

It follows the documentation of the v1 scheduler, executor and operator HTTP APIs (Mesos 1.11): RecordIO, stream ids,
offers and filters, one subscription of a framework at a time, updates that are repeated until acknowledged, explicit
and implicit reconciliation, failover, and one executor process for each ExecutorInfo on an agent. Calls are checked
against the messages of the API (``mesosmessages.py``).
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.servers.fake.mesosmessages import BODIES, CallError, check

TERMINAL = ("TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_ERROR", "TASK_LOST")
TICK = 0.05
SHUTDOWN = 10.0
"""Seconds that executors get to end; twice of what agents give by default, since machines that run tests are busy."""
REPEAT = 2.0
"""Seconds after which an update that nobody acknowledged is sent again."""


@dataclass
class Agent:
    """A node, and its offers."""

    id: str
    cpus: float = 4.0
    mem: float = 4096.0
    disk: float = 100_000.0
    attributes: dict[str, str] = field(default_factory=dict)
    reserved: float = 0.0
    """How many of the cpus are reserved for the role ``lab``."""
    offer: str = ""
    refused_until: float = 0.0
    is_lost: bool = False


@dataclass
class Executor:
    """A process on an agent."""

    info: dict[str, Any]
    agent: Agent
    process: subprocess.Popen[bytes]
    waiting: list[dict[str, Any]] = field(default_factory=list)
    events: queue.SimpleQueue[dict[str, Any] | None] | None = None


@dataclass
class Task:
    """A task that was launched."""

    info: dict[str, Any]
    state: str = "TASK_STAGING"
    updates: list[dict[str, Any]] = field(default_factory=list)
    """Not acknowledged yet, in order."""
    sent: float = 0.0


@dataclass
class Framework:
    """A framework that has subscribed."""

    id: str
    info: dict[str, Any]
    events: queue.SimpleQueue[dict[str, Any] | None] | None = None
    stream: str = ""
    tasks: dict[str, Task] = field(default_factory=dict)
    executors: dict[tuple[str, str], Executor] = field(default_factory=dict)
    is_suppressed: bool = False


class FakeMesos:
    """A master with agents; what tests change about it are its attributes.

    Attributes
    ----------
    agents : list of Agent
    roles : set of str
        Roles that there are.
    principal, secret : str
        Credentials that it asks for, if any.
    is_away : bool
        Whether all requests are answered with 503, as without a leading master.
    calls : list of str
        The types of all calls that were taken.
    """

    def __init__(self, *agents: Agent) -> None:
        self.agents = list(agents) or [Agent("agent-1"), Agent("agent-2")]
        self.roles = {"*", "lab"}
        self.principal = self.secret = ""
        self.is_away = False
        self.calls: list[str] = []
        self.frameworks: dict[str, Framework] = {}
        self.removed: set[str] = set()
        self._count = 0
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._folder = tempfile.TemporaryDirectory(prefix="fake-mesos-")
        self._http = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        self.address = f"127.0.0.1:{self._http.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeMesos]:
        """Serve until the end of the block, and leave nothing behind."""
        self._threads = [threading.Thread(target=work) for work in (self._serve, self._tick)]
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            with self._lock:
                for framework in list(self.frameworks.values()):
                    self._remove(framework, grace=0)
            self._http.shutdown()
            self._http.server_close()
            for thread in self._threads:
                thread.join()
            self._folder.cleanup()

    # What tests do to it.

    def disconnect(self) -> None:
        """Cut all schedulers' streams, as when the leading master changes."""
        with self._lock:
            for framework in self.frameworks.values():
                if framework.events is not None:
                    framework.events.put(None)
                    framework.events = None
            self._withdraw()

    def lose_agent(self, agent: Agent) -> None:
        """Take a node away, with all that runs there."""
        with self._lock:
            agent.is_lost = True
            for framework in self.frameworks.values():
                for key, executor in list(framework.executors.items()):
                    if executor.agent is agent:
                        self._end_executor(framework, key, "REASON_SLAVE_REMOVED")
                self._say(framework, {"type": "FAILURE", "failure": {"agent_id": {"value": agent.id}}})

    def _serve(self) -> None:
        self._http.serve_forever(0.05)

    def live(self) -> list[str]:
        """The ids of tasks that run."""
        with self._lock:
            return [n for f in self.frameworks.values() for n, task in f.tasks.items() if task.state == "TASK_RUNNING"]

    # Calls of schedulers.

    def subscribe(self, call: dict[str, Any]) -> Framework:
        """SUBSCRIBE: a new framework, or an earlier one's next scheduler."""
        info = call["subscribe"]["framework_info"]
        given = call.get("framework_id", {}).get("value", "")
        if given != info.get("id", {}).get("value", ""):
            raise CallError(400, "framework_id and framework_info.id differ")
        with self._lock:
            framework = self.frameworks.get(given) or Framework(given or self._new("framework"), info)
            if framework.events is not None:
                framework.events.put({"type": "ERROR", "error": {"message": "Framework failed over"}})
                framework.events.put(None)
            framework.events, framework.stream = queue.SimpleQueue(), self._new("stream")
            wrong = [f"Role '{role}' is not present in the master's --roles" for role in info.get("roles", ())
                     if role not in self.roles]  # fmt: skip
            wrong += ["Framework has been removed"] if given in self.removed else []
            if wrong:
                framework.events.put({"type": "ERROR", "error": {"message": wrong[0]}})
                framework.events.put(None)
                return framework
            self._withdraw()
            self.frameworks[framework.id] = framework
            beat = {"framework_id": {"value": framework.id}, "heartbeat_interval_seconds": 15.0}
            framework.events.put({"type": "SUBSCRIBED", "subscribed": beat})
            for task in framework.tasks.values():
                task.sent = 0.0
            return framework

    def take(self, call: dict[str, Any], stream: str) -> None:
        """Any other call."""
        with self._lock:
            framework = self.frameworks.get(call.get("framework_id", {}).get("value", ""))
            if framework is None or framework.events is None:
                raise CallError(403, "Framework is not subscribed")
            if stream != framework.stream:
                raise CallError(400, "The stream ID included in this request didn't match the stream ID currently "
                                     "associated with the framework")  # fmt: skip
            getattr(self, f"_{call['type'].lower()}")(framework, call.get(BODIES[call["type"]]))

    def tasks(self) -> dict[str, Any]:
        """GET_TASKS of the operator API."""
        with self._lock:
            found = [
                {"name": task.info["name"], "task_id": {"value": name}, "framework_id": {"value": framework.id},
                 "agent_id": task.info["agent_id"], "state": task.state, "resources": task.info["resources"]}
                for framework in self.frameworks.values()
                for name, task in framework.tasks.items()
                if task.state not in TERMINAL
            ]  # fmt: skip
        return {"type": "GET_TASKS", "get_tasks": {"tasks": found}}

    def _accept(self, framework: Framework, accept: dict[str, Any]) -> None:
        agent = self._take_offers(accept)
        for operation in accept["operations"]:
            if operation["type"] != "LAUNCH":
                raise CallError(400, f"unexpected operation {operation['type']}")
            for info in operation["launch"]["task_infos"]:
                self._launch(framework, agent, info)

    def _decline(self, framework: Framework, decline: dict[str, Any]) -> None:
        for offer in decline["offer_ids"]:
            self._take_offers({"offer_ids": [offer], "filters": decline.get("filters", {})})

    def _revive(self, framework: Framework, body: None) -> None:
        for agent in self.agents:
            agent.refused_until = 0.0

    def _kill(self, framework: Framework, kill: dict[str, Any]) -> None:
        name = kill["task_id"]["value"]
        task = framework.tasks.get(name)
        if task is None or task.state in TERMINAL:
            self._reconciled(framework, name, kill.get("agent_id"))
            return
        executor = self._executor_of(framework, task)
        _send(executor, {"type": "KILL", "kill": {"task_id": {"value": name}}})

    def _acknowledge(self, framework: Framework, body: dict[str, Any]) -> None:
        task = framework.tasks.get(body["task_id"]["value"])
        if task is None or not task.updates or task.updates[0]["uuid"] != body["uuid"]:
            return  # of an update that was repeated
        status = task.updates.pop(0)
        task.sent = 0.0
        if status["source"] == "SOURCE_EXECUTOR":
            known = {"task_id": body["task_id"], "uuid": body["uuid"]}
            executor = framework.executors.get(_key(task))
            if executor is not None:
                _send(executor, {"type": "ACKNOWLEDGED", "acknowledged": known})

    def _reconcile(self, framework: Framework, reconcile: dict[str, Any]) -> None:
        wanted = reconcile["tasks"] or [{"task_id": {"value": name}} for name in framework.tasks]
        for task in wanted:
            self._reconciled(framework, task["task_id"]["value"], task.get("agent_id"))

    def _teardown(self, framework: Framework, body: None) -> None:
        self._remove(framework, grace=SHUTDOWN)

    # Offers.

    def _tick(self) -> None:
        """Make offers, repeat updates, and notice executors that have ended."""
        while not self._over.wait(TICK):
            with self._lock:
                for framework in list(self.frameworks.values()):
                    if framework.events is not None:
                        self._offer(framework)
                        self._repeat(framework)
                    for key, executor in list(framework.executors.items()):
                        if executor.process.poll() is not None:
                            self._end_executor(framework, key, "REASON_EXECUTOR_TERMINATED")

    def _offer(self, framework: Framework) -> None:
        offers = []
        for agent in self.agents:
            resources = self._free(agent, framework.info.get("roles", ["*"])[0])
            if agent.offer or agent.is_lost or time.monotonic() < agent.refused_until or not resources:
                continue
            agent.offer = self._new("offer")
            texts = [{"name": n, "type": "TEXT", "text": {"value": v}} for n, v in agent.attributes.items()]
            offers.append({
                "id": {"value": agent.offer}, "framework_id": {"value": framework.id},
                "agent_id": {"value": agent.id}, "hostname": "localhost", "resources": resources, "attributes": texts,
            })  # fmt: skip
        if offers:
            self._say(framework, {"type": "OFFERS", "offers": {"offers": offers}})

    def _free(self, agent: Agent, role: str) -> list[dict[str, Any]]:
        """Return the free resources of an agent, entry by entry; empty if it has no free cpu."""
        reserved = agent.reserved if role == "lab" else 0.0
        total = {("cpus", ""): agent.cpus - agent.reserved, ("cpus", "lab"): reserved, ("mem", ""): agent.mem,
                 ("disk", ""): agent.disk}  # fmt: skip
        for framework in self.frameworks.values():
            used = [task.info["resources"] for task in framework.tasks.values()
                    if task.state not in TERMINAL and task.info["agent_id"]["value"] == agent.id]  # fmt: skip
            used += [e.info.get("resources", []) for e in framework.executors.values() if e.agent is agent]
            for entry in [entry for entries in used for entry in entries]:
                total[entry["name"], "lab" if entry.get("reservations") else ""] -= entry["scalar"]["value"]
        assert min(total.values()) > -0.001, f"{agent.id} is overbooked: {total}"
        if total["cpus", ""] + total["cpus", "lab"] < 0.01:
            return []
        return [
            {"name": name, "type": "SCALAR", "scalar": {"value": round(amount, 3)}, "allocation_info": {"role": role},
             **({"reservations": [{"type": "STATIC", "role": whose}]} if whose else {})}
            for (name, whose), amount in total.items() if amount > 0
        ]  # fmt: skip

    def _take_offers(self, answer: dict[str, Any]) -> Agent:
        wanted = {offer["value"] for offer in answer["offer_ids"]}
        agents = [agent for agent in self.agents if agent.offer and agent.offer in wanted]
        if len(agents) != 1 or len(wanted) != 1:
            raise CallError(400, f"{wanted} are not offers of one agent")
        (agent,) = agents
        agent.offer = ""
        agent.refused_until = time.monotonic() + answer.get("filters", {}).get("refuse_seconds", 5.0)
        return agent

    # Tasks and executors.

    def _launch(self, framework: Framework, agent: Agent, info: dict[str, Any]) -> None:
        name = info["task_id"]["value"]
        wrong = self._is_wrong(framework, agent, info)
        framework.tasks[name] = Task(info)
        if wrong:
            self._update(framework, name, {"state": "TASK_ERROR", "message": wrong, "source": "SOURCE_MASTER"})
            return
        key = (agent.id, info["executor"]["executor_id"]["value"])
        if key not in framework.executors:
            framework.executors[key] = self._start(framework, agent, info["executor"])
        assert self._free(agent, "lab") is not None
        _send(framework.executors[key], {"type": "LAUNCH", "launch": {"task": info}})

    def _is_wrong(self, framework: Framework, agent: Agent, info: dict[str, Any]) -> str:
        """Return the message of Mesos' validation of a task; empty if the task is valid."""
        executor = info["executor"]
        known = framework.executors.get((agent.id, executor["executor_id"]["value"]))
        if info["task_id"]["value"] in framework.tasks:
            return "Task has duplicate ID"
        if any(c in info["task_id"]["value"] for c in "/ \n\t"):
            return "TaskID contains invalid characters"
        if info["agent_id"]["value"] != agent.id:
            return "Task uses invalid agent"
        if known is not None and known.info != executor:
            return "Task has invalid ExecutorInfo: existing ExecutorInfo with same ExecutorID is not compatible"
        if executor["framework_id"]["value"] != framework.id:
            return "ExecutorInfo has an invalid FrameworkID"
        if not info["resources"] or any(entry["scalar"]["value"] <= 0 for entry in info["resources"]):
            return "Task uses no resources"
        return ""

    def _start(self, framework: Framework, agent: Agent, info: dict[str, Any]) -> Executor:
        # A new one for each process: an executor that has ended may be launched again under its id.
        sandbox = Path(tempfile.mkdtemp(prefix=f"{info['executor_id']['value']}-", dir=self._folder.name))
        env = {
            "PATH": os.environ["PATH"], "HOME": str(sandbox), "MESOS_AGENT_ENDPOINT": self.address,
            "MESOS_FRAMEWORK_ID": framework.id, "MESOS_EXECUTOR_ID": info["executor_id"]["value"],
            "MESOS_SANDBOX": str(sandbox), "MESOS_CHECKPOINT": "1", "MESOS_RECOVERY_TIMEOUT": "2secs",
            "MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "a-token",
            "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": f"{SHUTDOWN:g}secs",
        }  # fmt: skip
        env |= {item["name"]: item["value"] for item in info["command"].get("environment", {}).get("variables", ())}
        with (sandbox / "stderr").open("wb") as log:
            process = subprocess.Popen(
                info["command"]["arguments"], executable=info["command"]["value"], cwd=sandbox, env=env,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return Executor(info, agent, process)

    def join(self, call: dict[str, Any]) -> Executor:
        """SUBSCRIBE of an executor."""
        with self._lock:
            executor = self._caller(call)
            executor.events = queue.SimpleQueue()
            executor.events.put({"type": "SUBSCRIBED", "subscribed": {"executor_info": executor.info}})
            for event in executor.waiting:
                executor.events.put(event)
            executor.waiting.clear()
            for update in call["subscribe"]["unacknowledged_updates"]:
                self._hear(call, update["status"])
            return executor

    def hear(self, call: dict[str, Any]) -> None:
        """UPDATE of an executor."""
        with self._lock:
            self._hear(call, call["update"]["status"])

    def _hear(self, call: dict[str, Any], status: dict[str, Any]) -> None:
        framework, executor = self.frameworks[call["framework_id"]["value"]], self._caller(call)
        if len(base64.b64decode(status["uuid"])) != 16 or status["source"] != "SOURCE_EXECUTOR":
            raise CallError(400, f"bad status {status}")
        name = status["task_id"]["value"]
        known = framework.tasks[name].updates
        if status["uuid"] not in [update["uuid"] for update in known]:
            self._update(framework, name, {**status, "executor_id": executor.info["executor_id"]})

    def _caller(self, call: dict[str, Any]) -> Executor:
        framework = self.frameworks.get(call["framework_id"]["value"])
        found = (
            [e for (_, name), e in framework.executors.items() if name == call["executor_id"]["value"]]
            if framework
            else []
        )
        if not found:
            raise CallError(403, "unknown executor")
        return found[0]

    def _executor_of(self, framework: Framework, task: Task) -> Executor:
        return framework.executors[_key(task)]

    def _update(self, framework: Framework, name: str, status: dict[str, Any]) -> None:
        task = framework.tasks[name]
        if task.state in TERMINAL:
            return
        task.state = status["state"]
        made = base64.b64encode(os.urandom(16)).decode()
        task.updates.append({"uuid": made, "task_id": {"value": name}, "agent_id": task.info["agent_id"], **status})
        self._repeat(framework)

    def _repeat(self, framework: Framework) -> None:
        """Send the first update of each task that nobody acknowledged, again after a while."""
        for task in framework.tasks.values():
            if task.updates and time.monotonic() - task.sent > REPEAT:
                task.sent = time.monotonic()
                self._say(framework, {"type": "UPDATE", "update": {"status": task.updates[0]}})

    def _reconciled(self, framework: Framework, name: str, agent: dict[str, Any] | None) -> None:
        task = framework.tasks.get(name)
        status = {
            "task_id": {"value": name}, "state": task.state if task else "TASK_LOST", "source": "SOURCE_MASTER",
            "reason": "REASON_RECONCILIATION", **({"agent_id": agent} if agent else {}),
        }  # fmt: skip
        self._say(framework, {"type": "UPDATE", "update": {"status": status}})

    def _end_executor(self, framework: Framework, key: tuple[str, str], reason: str) -> None:
        executor = framework.executors.pop(key)
        _kill(executor)
        for name, task in framework.tasks.items():
            if _key(task) == key:
                self._update(framework, name, {"state": "TASK_LOST", "reason": reason, "source": "SOURCE_AGENT"})
        body = {"agent_id": {"value": key[0]}, "executor_id": {"value": key[1]}, "status": 0}
        self._say(framework, {"type": "FAILURE", "failure": body})

    def _remove(self, framework: Framework, grace: float) -> None:
        """End a framework: its executors are asked to end, and made to after a while, for which nobody waits."""
        executors = list(framework.executors.values())
        for executor in executors:
            _send(executor, {"type": "SHUTDOWN"})
        self._threads.append(threading.Thread(target=_let_end, args=(executors, grace)))
        self._threads[-1].start()
        if framework.events is not None:
            framework.events.put(None)
        self._withdraw()
        self.removed.add(framework.id)
        del self.frameworks[framework.id]

    def _withdraw(self) -> None:
        """Forget offers and refusals, as the master does when a scheduler is gone."""
        for agent in self.agents:
            agent.offer, agent.refused_until = "", 0.0

    def _say(self, framework: Framework, event: dict[str, Any]) -> None:
        if framework.events is not None:
            framework.events.put(copy.deepcopy(event))

    def _new(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"


def _key(task: Task) -> tuple[str, str]:
    return task.info["agent_id"]["value"], task.info["executor"]["executor_id"]["value"]


def _send(executor: Executor, event: dict[str, Any]) -> None:
    if executor.events is None:
        executor.waiting.append(event)
    else:
        executor.events.put(event)


def _let_end(executors: list[Executor], grace: float) -> None:
    end = time.monotonic() + grace
    for executor in executors:
        with contextlib.suppress(subprocess.TimeoutExpired):
            executor.process.wait(max(0.0, end - time.monotonic()))
        _kill(executor)


def _kill(executor: Executor) -> None:
    """End an executor and all that it started, as the agent does with a container."""
    if executor.events is not None:
        executor.events.put(None)
    for pid in [executor.process.pid, *_descendants(executor.process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    executor.process.wait()


def _descendants(pid: int) -> list[int]:
    import psutil

    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 50

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing about clients that are gone."""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeMesos
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self._take(call)
        except CallError as error:
            self._answer(error.status, str(error))

    def _take(self, call: dict[str, Any]) -> None:
        if self.fake.is_away and self.path != "/api/v1/executor":
            raise CallError(503, "No leader elected")
        match self.path:
            case "/api/v1/scheduler":
                self._scheduler(call)
            case "/api/v1/executor":
                self._executor(call)
            case "/api/v1" if call == {"type": "GET_TASKS"}:
                self._answer(200, json.dumps(self.fake.tasks()))
            case _:
                raise CallError(404, "there is nothing here")

    def _scheduler(self, call: dict[str, Any]) -> None:
        fake = self.fake
        pair = base64.b64encode(f"{fake.principal}:{fake.secret}".encode()).decode()
        if fake.principal and self.headers.get("Authorization") != f"Basic {pair}":
            raise CallError(401, "who are you?")
        check("Call", call)
        body = BODIES.get(call["type"])
        if body is None or (body and body not in call):
            raise CallError(400, f"unexpected call {call['type']}")
        fake.calls.append(call["type"])
        if call["type"] == "SUBSCRIBE":
            framework = fake.subscribe(call)
            assert framework.events is not None
            self._stream(framework.events, framework.stream)
        else:
            fake.take(call, self.headers.get("Mesos-Stream-Id", ""))
            self._answer(202, "")

    def _executor(self, call: dict[str, Any]) -> None:
        if self.headers.get("Authorization") != "Bearer a-token":
            raise CallError(401, "who are you?")
        if call["type"] == "SUBSCRIBE":
            executor = self.fake.join(call)
            assert executor.events is not None
            self._stream(executor.events, "")
        elif call["type"] == "UPDATE":
            self.fake.hear(call)
            self._answer(202, "")
        else:
            raise CallError(400, f"unexpected call {call['type']}")

    def _stream(self, events: queue.SimpleQueue[dict[str, Any] | None], stream: str) -> None:
        """Send events as RecordIO in chunks, cut where records do not end."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        if stream:
            self.send_header("Mesos-Stream-Id", stream)
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            while (event := events.get()) is not None:
                data = json.dumps(event).encode()
                record = b"%d\n" % len(data) + data
                for part in (record[: len(record) // 2], record[len(record) // 2 :]):
                    self.wfile.write(b"%x\r\n" % len(part) + part + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
