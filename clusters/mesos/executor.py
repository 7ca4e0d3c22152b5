"""The executor on a node: ``python -m toilfn.clusters.mesos.executor``, started by a Mesos agent.

This module follows the documentation of the executor HTTP API (v1). Each task is a process of its own, with a memory
limit. At the end, the executor cleans up after workers that died on the node.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toilfn.clusters.base import worker_command
from toilfn.clusters.common.commands import UnavailableError
from toilfn.clusters.common.http import JsonService
from toilfn.clusters.local.machine import used_memory
from toilfn.clusters.mesos.master import Stream
from toilfn.errors import ClusterError
from toilfn.units import format_size, parse_duration

__all__ = ["Executor", "main"]

_PATH = "/api/v1/executor"
_TAIL = 1000
"""Number of bytes of a failed task's output to report."""
_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
_PERIOD = 0.1
"""Seconds between two checks of the processes."""
_WATCH = 1.0
"""Seconds between two checks of their memory."""
_SILENCE = 3600.0
"""Seconds without an event after which to subscribe again; agents need not send heartbeats to executors."""


@dataclass(slots=True)
class _Running:
    """A task and its process."""

    process: subprocess.Popen[bytes]
    log: Path
    memory: int
    reason: str = ""
    message: str = ""
    kill_at: float | None = None
    """The monotonic time at which to kill the process, if it was asked to end."""


class Executor:
    """Runs the tasks of one framework on one node.

    Parameters
    ----------
    agent : str
        The agent's URL.
    framework_id, executor_id : str
        The ids of the framework and of this executor.
    headers : mapping
        Headers with the credentials from the agent.
    recovery : float
        Seconds for which the agent may be unreachable; 0 if tasks must not outlive it.
    shutdown : float
        Seconds that the agent grants for the shutdown. Tasks get half of them, so that there is time to clean up.
    """

    def __init__(
        self,
        agent: str,
        framework_id: str,
        executor_id: str,
        headers: Mapping[str, str],
        recovery: float,
        shutdown: float,
    ) -> None:
        self.agent = agent
        self.framework_id = framework_id
        self.executor_id = executor_id
        self.headers = headers
        self.recovery = recovery
        self.shutdown = shutdown
        self._running: dict[str, _Running] = {}
        self._unacknowledged: dict[str, dict[str, Any]] = {}
        self._tasks: dict[str, dict[str, Any]] = {}
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def run(self) -> None:
        """Run tasks until the agent shuts the executor down, or is unreachable for too long."""
        threading.Thread(target=self._listen, name="toilfn-events", daemon=True).start()
        is_over, next_watch = False, 0.0
        while not (is_over and not self._running):
            with contextlib.suppress(queue.Empty):
                is_over |= self._handle(self._events.get(timeout=_PERIOD))
            if time.monotonic() > next_watch:
                next_watch = time.monotonic() + _WATCH
                self._watch()
            self._reap()
        subprocess.run([*worker_command(sys.executable), "--sweep"], check=False)

    def _listen(self) -> None:
        """Subscribe, and subscribe again after an outage of the agent. Runs in a second thread.

        It only puts events into the queue; `run` handles them in the main thread.
        """
        away_since = time.monotonic()
        while time.monotonic() - away_since <= self.recovery:
            call = self._call("SUBSCRIBE", subscribe=self._unacknowledged_state())
            try:
                with Stream("the Mesos agent", self.agent + _PATH, call, self.headers, _SILENCE) as events:
                    self._forward(events)
                away_since = time.monotonic()
            except UnavailableError as error:
                print(error, file=sys.stderr)
            except ClusterError as error:
                print(error, file=sys.stderr)
                break
            time.sleep(0.5)
        self._events.put({"type": "SHUTDOWN"})

    def _forward(self, events: Iterable[dict[str, Any]]) -> None:
        """Forward events to the main thread until the agent is unreachable."""
        try:
            for event in events:
                self._events.put(event)
        except UnavailableError as error:
            print(error, file=sys.stderr)

    def _unacknowledged_state(self) -> dict[str, Any]:
        """Return the tasks and updates that the agent has not acknowledged.

        This runs in the second thread. It needs no lock, since `list` copies a dict's values in one step.
        """
        return {
            "unacknowledged_tasks": list(self._tasks.values()),
            "unacknowledged_updates": [{"status": status} for status in list(self._unacknowledged.values())],
        }

    def _handle(self, event: Mapping[str, Any]) -> bool:
        """Handle an event of the agent in the main thread; return True for a shutdown."""
        match event["type"]:
            case "LAUNCH":
                self._launch(event["launch"]["task"])
            case "KILL":
                self._end(event["kill"]["task_id"]["value"])
            case "ACKNOWLEDGED":
                self._unacknowledged.pop(event["acknowledged"]["uuid"], None)
                self._tasks.pop(event["acknowledged"]["task_id"]["value"], None)
            case "SHUTDOWN":
                for task in self._running:
                    self._end(task, grace=self.shutdown / 2)
                return True
        return False

    def _launch(self, task: dict[str, Any]) -> None:
        name = task["task_id"]["value"]
        wanted = json.loads(base64.b64decode(task["data"]))
        log = Path(f"{uuid.uuid4().hex}.log").absolute()
        self._tasks[name] = task
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    wanted["command"], env=os.environ | wanted["environment"], stdin=subprocess.DEVNULL,
                    stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            self._update(name, "TASK_FAILED", f"the process cannot be started: {error}", {"status": 127})
            return
        self._running[name] = _Running(process, log, wanted["memory"])
        self._update(name, "TASK_RUNNING")

    def _end(self, name: str, reason: str = "", message: str = "", grace: float = _GRACE) -> None:
        """Ask a task to end, and kill it `grace` seconds later."""
        running = self._running.get(name)
        if running is not None and running.kill_at is None:
            running.reason, running.message = reason, message
            running.kill_at = time.monotonic() + grace
            _signal(running.process, signal.SIGTERM)

    def _watch(self) -> None:
        """End tasks that use more memory than they requested."""
        for name, running in self._running.items():
            used = used_memory(running.process.pid, running.memory)
            if used > running.memory and running.kill_at is None:
                limit = format_size(running.memory)
                words = f"used {format_size(used)} of memory including its worker, more than the limit of {limit}"
                self._end(name, "REASON_CONTAINER_LIMITATION_MEMORY", words)

    def _reap(self) -> None:
        """Report tasks that have ended."""
        for name, running in list(self._running.items()):
            if running.kill_at is not None and time.monotonic() > running.kill_at:
                _signal(running.process, signal.SIGKILL)
            status = running.process.poll()
            if status is not None:
                del self._running[name]
                self._report_end(name, running, status if status >= 0 else 128 - status)

    def _report_end(self, name: str, running: _Running, status: int) -> None:
        if status == 0:
            self._update(name, "TASK_FINISHED")
        elif running.reason:
            self._update(name, "TASK_FAILED", running.message + _tail(running.log), reason=running.reason)
        elif running.kill_at is not None:
            self._update(name, "TASK_KILLED")
        else:
            self._update(name, "TASK_FAILED", f"exit status {status}{_tail(running.log)}", {"status": status})
        running.log.unlink(missing_ok=True)

    def _update(
        self, name: str, state: str, message: str = "", data: Mapping[str, Any] | None = None, reason: str = ""
    ) -> None:
        """Report the state of a task; if that fails, it is reported again with the next subscription."""
        status = {
            "task_id": {"value": name},
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "uuid": base64.b64encode(uuid.uuid4().bytes).decode(),
            "timestamp": time.time(),
            **({"message": message} if message else {}),
            **({"reason": reason} if reason else {}),
            **({"data": base64.b64encode(json.dumps(data).encode()).decode()} if data else {}),
        }
        self._unacknowledged[str(status["uuid"])] = status
        service = JsonService("the Mesos agent", self.agent, lambda: self.headers)
        try:
            service.post(_PATH, self._call("UPDATE", update={"status": status}))
        except ClusterError as error:
            print(error, file=sys.stderr)

    def _call(self, kind: str, **body: Any) -> dict[str, Any]:
        who = {"framework_id": {"value": self.framework_id}, "executor_id": {"value": self.executor_id}}
        return {"type": kind, **who, **body}


def _tail(log: Path) -> str:
    """Return the end of a task's output, for a message."""
    tail = log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
    return f"; its output ends with:\n{tail}" if tail else ""


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def main() -> None:
    """Run an executor as configured by the environment variables from the agent."""
    env = os.environ
    token = env.pop("MESOS_EXECUTOR_AUTHENTICATION_TOKEN", "")
    recovery = env.get("MESOS_RECOVERY_TIMEOUT", "15mins") if env.get("MESOS_CHECKPOINT") == "1" else "0"
    shutdown = env.get("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", "5secs")
    Executor(
        f"http://{env['MESOS_AGENT_ENDPOINT']}",
        env["MESOS_FRAMEWORK_ID"],
        env["MESOS_EXECUTOR_ID"],
        {"Authorization": f"Bearer {token}"} if token else {},
        _seconds(recovery),
        _seconds(shutdown),
    ).run()


def _seconds(duration: str) -> float:
    """Parse a duration in the notation of Mesos."""
    return parse_duration(duration.replace("mins", "m").replace("secs", "s").replace("hrs", "h"))


if __name__ == "__main__":
    main()
