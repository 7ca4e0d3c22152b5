"""The leader of one run: a separate process that runs the command and records its result.

A server starts ``python -m toilfn.server.lead`` in a separate session, and does not wait for it. The process takes the
run's lease, so that only one of them leads the run even if several servers start one. While the command runs, the
process checks whether the run was cancelled. If it dies, for example with its machine, a server starts the next leader.
That one runs the command again, which finds its finished tasks in the run's job store.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import psutil

from toilfn.errors import StoreError, StoreLockedError, StoreNotFoundError, ToilfnError
from toilfn.inspect.fold.columns import Detail
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.fold.saved import SavedFold
from toilfn.inspect.view import State as TaskState
from toilfn.server import answers
from toilfn.server.records import Place, Run, State
from toilfn.server.submission import command, program
from toilfn.stores import Store
from toilfn.stores.lease import Lease, Watch, start_of, this_machine

__all__ = ["MOST_LEADERS", "TOLD_VARIABLE", "Leader", "environment", "job", "main"]

TOLD_VARIABLE = "TOILFN_SERVER_LEADER"
"""The environment variable with the settings of a leader that is a job, as JSON."""

_LOOK = 0.3
"""Seconds between two checks of the command and the record, if the place is a directory."""
_LOOK_FAR = 2.0
"""The same if the place is a bucket, where each check is a request."""
_GRACE = 20.0
"""Seconds that the command of a cancelled run has to end its tasks, before it is ended by signals."""
_LAST_GRACE = 5.0
_READ = 2.0
"""Seconds between two reads of the job store's log, once it has tasks."""
_SHARE = 10
"""After a read, the leader waits at least this many times as long as the read took."""
_LONGEST_REASON = 400
_TAIL = 16 << 10
"""Number of bytes at the end of the command's standard error to search for the reason of its failure."""
MOST_LEADERS = 10
"""Maximum number of leaders of a run. If so many have died, the run fails."""

_KEPT = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "KUBECONFIG",
    "SGE_ROOT",
    "SGE_CELL",
    "SGE_CLUSTER_NAME",
    "PBS_CONF_FILE",
    "CONDOR_CONFIG",
    "SLURM_CONF",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "BOTO_CONFIG",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
]
_KEPT_BEGINNINGS = (
    "LC_", "XDG_", "DASK_", "TOILFN_", "AWS_", "GOOGLE_", "CLOUDSDK_", "LSF_",
    "APPTAINER_", "CONTAINERS_", "DOCKER_", "SINGULARITY_",
)  # fmt: skip

_log = logging.getLogger("toilfn.server")


def environment(whole: Mapping[str, str], more: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment variables of a run: those that programs usually need, and those the operator names.

    Others of the server's variables may be secrets of the operator, so they are not passed on.
    """
    names = {*_KEPT, *more}
    return {name: text for name, text in whole.items() if name in names or name.startswith(_KEPT_BEGINNINGS)}


class Leader:
    """Leads a run whose lease this process holds.

    Parameters
    ----------
    run : Run
    lease : Lease
    variables : mapping
        The environment of the command.
    """

    def __init__(self, run: Run, lease: Lease, variables: Mapping[str, str]) -> None:
        self._run = run
        self._lease = lease
        self._variables = dict(variables)
        self._look = _LOOK if run.place.is_directory else _LOOK_FAR
        self._tasks = _Tasks(run)
        self._notes: list[str] = []

    def lead(self) -> None:
        """Run the command, and record how it ended. A leader that has lost its lease records nothing."""
        if self._run.is_cancelled():
            if self._lease.epoch > 1:
                self._end_orphan()
                self._end_jobs()
            self._run.end(State.CANCELED, None, ["cancelled while it had no leader"])
            return
        if self._lease.epoch > MOST_LEADERS:
            self._run.end(State.SYSTEM_ERROR, None, [f"{MOST_LEADERS} leaders of this run have died"])
            return
        try:
            self._end_orphan()
            code = self._run_command(self._prepare())
        except (OSError, ToilfnError) as error:
            self._run.end(State.SYSTEM_ERROR, None, [str(error)])
            return
        if not self._lease.lost:
            self._finish(code)

    def _prepare(self) -> list[str]:
        run, request = self._run, self._run.request
        run.files.mkdir(parents=True, exist_ok=True)
        run.bring_files()
        outputs_place = request["outputs"] or str(run.outputs_folder)
        if "://" not in outputs_place:
            run.outputs_folder.mkdir(exist_ok=True)
        words = command({**request, "document": self._fetched(request)}, run.folder, run.store_url, outputs_place)
        run.note("started", {"command": words})
        self._variables |= {"TOILFN_OUTPUTS": outputs_place, **_store_variables(run)}
        return words

    def _fetched(self, request: Mapping[str, Any]) -> str:
        """Return the document's name for the engine, after downloading a document that the engine cannot read."""
        from toilfn.server.submission import FETCHED

        document = str(request["document"])
        scheme = document.partition("://")[0]
        if scheme not in FETCHED and (request["kind"] != "PYTHON" or "://" not in document):
            return document
        import fsspec

        name = document.rpartition("/")[2].partition("?")[0].partition("#")[0] or "workflow"
        path = self._run.files / name
        if not path.exists():
            with fsspec.open(document.partition("#")[0], "rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        return name

    def _run_command(self, words: list[str]) -> int:
        folder = self._run.folder
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("ab") as err:
            process = subprocess.Popen(
                words, cwd=self._run.files, env=self._variables, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True,
            )  # fmt: skip
        (folder / "command.json").write_text(json.dumps([process.pid, start_of(process.pid), this_machine()]))
        try:
            return self._watch(process)
        except SystemExit:  # SIGTERM: the batch system ends this job; the next leader adopts the command's tasks
            self._terminate(process, [signal.SIGTERM])
            raise

    def _watch(self, process: subprocess.Popen[bytes]) -> int:
        """Wait until the command ends; end it if the run is cancelled, or if another process has taken the lease."""
        while process.poll() is None:
            is_running = self._look_at_tasks()
            if self._lease.lost or self._is_cancelled():
                return self._stop(process, is_running)
            with suppress(subprocess.TimeoutExpired):
                process.wait(self._look)
        return process.returncode

    def _look_at_tasks(self, *, is_final: bool = False) -> bool:
        """Read the log of the run's job store, and return whether there are any tasks."""
        was_running = self._tasks.are_submitted
        self._tasks.look(is_final=is_final)
        if self._tasks.are_submitted and not was_running:
            self._run.note("running", {})
        return self._tasks.are_submitted

    def _is_cancelled(self) -> bool:
        try:
            return self._run.is_cancelled()
        except StoreError as error:  # the place is not reachable at present; the next check tries again
            _log.warning("%s", error)
            return False

    def _stop(self, process: subprocess.Popen[bytes], is_running: bool) -> int:
        """End the command. If it has tasks, ask it first, so that it can end them; then send signals."""
        deadline = time.monotonic() + (_GRACE if is_running else 0)
        while process.poll() is None and time.monotonic() < deadline:
            self._flag()
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
        self._terminate(process, [signal.SIGTERM, signal.SIGKILL])
        self._end_jobs()
        return process.wait()

    def _terminate(self, process: subprocess.Popen[bytes], numbers: Iterable[signal.Signals]) -> None:
        for number in numbers:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_LAST_GRACE)

    def _flag(self) -> None:
        """Ask the command to end, as `toilfn kill` does."""
        with suppress(ToilfnError):
            self._run.open_store().set_flag("kill")

    def _end_jobs(self) -> None:
        """Cancel the batch jobs that the command has left behind if a signal ended it."""
        cluster = [each for each in self._run.request["options"] if each.startswith("--cluster=")]
        if not cluster or cluster[-1] in ("--cluster=local", "--cluster=inline"):
            return
        done = subprocess.run(
            [program("toilfn"), "kill", self._run.store_url], env=self._variables, capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip
        self._notes.append(done.stdout.strip() or done.stderr.strip())

    def _end_orphan(self) -> None:
        """End the command that an earlier leader has left running.

        Its exit status is lost, and two commands must not use the same job store.
        """
        path = self._run.folder / "command.json"
        with suppress(OSError, ValueError, psutil.Error):
            pid, started, machine = json.loads(path.read_bytes())
            if machine == this_machine() and abs(start_of(pid) - started) < 1:
                os.killpg(pid, signal.SIGKILL)
        with suppress(StoreNotFoundError):
            store = self._run.open_store()
            watch = Watch(store)
            while watch.look() is not None:
                store.set_flag("kill")
                time.sleep(self._look)

    def _finish(self, code: int) -> None:
        self._look_at_tasks(is_final=True)
        run = self._run
        found, problem = answers.collected(run, code)
        if found is not None:
            run.note("outputs", {"outputs": found})
        notes = [*self._notes, *([problem] if problem else [])]
        if self._lease.epoch > 1:
            notes.append(f"leaders that died before: {self._lease.epoch - 1}")
        for name in ("stdout", "stderr", "outputs"):
            run.keep_files(name)
        reason = "" if code == 0 else self._reason()
        run.end(State.COMPLETE if code == 0 else State.EXECUTOR_ERROR, code, notes, reason)

    def _reason(self) -> str:
        """Return one line that says why the command failed: its first failed task, or its last line of output."""
        fold = self._tasks.fold
        failed = list(fold.in_state(TaskState.FAILED))
        if failed:
            row = fold.rows(failed[:1])[0]
            more = f" (and {len(failed) - 1} more failed tasks)" if len(failed) > 1 else ""
            return f"{row.name}: {row.error}"[:_LONGEST_REASON] + more
        with (self._run.folder / "stderr").open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
            lines = stream.read().decode(errors="replace").split("\n")
        return next((line.strip()[:_LONGEST_REASON] for line in reversed(lines) if line.strip()), "")


class _Tasks:
    """Reads the tasks of a run from the growing log of its job store, and saves them in a file for servers.

    Attributes
    ----------
    fold : Fold
        The current states of the tasks.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._saved = SavedFold(run.fold_file)
        self._store: Store | None = None
        self._next = float("-inf")
        self.fold = Fold(Detail.ATTEMPTS)

    @property
    def are_submitted(self) -> bool:
        """Whether there are tasks."""
        return self.fold.run is not None

    def look(self, *, is_final: bool) -> None:
        """Read new records. Until there are tasks, every call does so; later, only from time to time.

        Parameters
        ----------
        is_final : bool
            Whether the command has ended, so that all records must be read now.
        """
        began = time.monotonic()
        if began < self._next and not is_final:
            return
        with suppress(ToilfnError):  # the command has not created the store yet
            self._read(is_final=is_final)
        if self.are_submitted:
            self._next = time.monotonic() + max(_READ, _SHARE * (time.monotonic() - began))

    def _read(self, *, is_final: bool) -> None:
        if self._store is None:
            self._store = self._run.open_store()
            self.fold = self._saved.load(self._store)
        self.fold.update(self._store)
        self._saved.save(self.fold, self._store, is_final=is_final)


def _store_variables(run: Run) -> dict[str, str]:
    """Return the environment variables with which the command accesses a job store outside the run's folder.

    They can contain secrets, which must not be on a command line.
    """
    if not run.request.get("store") or not run.place.options:
        return {}
    from toilfn.stores import options

    return {options.VARIABLE: json.dumps({run.store_url: run.place.options})}


def main() -> int:
    """Lead the run that standard input names; return 3 if another process leads it."""
    told = json.load(sys.stdin)
    sys.stdin.close()
    logging.basicConfig(format="%(asctime)s %(message)s")
    run = Place(told["place"], told["work"], **told["options"]).run(told["run"])
    return _lead(run, told["timeout"], told["environment"])


def job() -> int:
    """Lead a run as a job of a cluster. The last two arguments of the command line are the place and the run's id."""
    from toilfn.stores import options

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    told = json.loads(os.environ[TOLD_VARIABLE])
    logging.basicConfig(format="%(asctime)s %(message)s")
    url, id = sys.argv[-2:]
    variables = environment(os.environ, told["variables"])
    variables.pop(TOLD_VARIABLE, None)
    return _lead(Place(url, told["work"], **options.known(url)).run(id), told["timeout"], variables)


def _lead(run: Run, timeout: float, variables: Mapping[str, str]) -> int:
    try:
        lease = run.lease(timeout)
    except StoreLockedError:
        return 3
    with lease:
        if run.read("exit") is None:
            Leader(run, lease, variables).lead()
        else:  # the leader that recorded the end died before it could delete this object
            run.place.store.objects.delete([f"open/{run.id}"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
