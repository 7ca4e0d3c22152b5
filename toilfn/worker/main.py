"""The process that runs tasks: ``python -m toilfn.worker``.

``STORE BATCH`` runs one batch whose message is in the store. ``--fd WIRE LIFE SLOT`` is a warm worker of a
local cluster, which takes batch after batch, and ``--fork SOCKET`` forks such workers. ``--sweep`` cleans up after
workers of this machine that died, and after runs that have left it. ``--clean`` reads the names of queued jobs, and
cleans up after each run that has none, too.

The main thread runs tasks, since signals and many libraries want that; a second one sends what they have
answered meanwhile, and in a warm worker listens to the leader.
"""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
import queue
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

from toilfn import protocol
from toilfn.clusters.base import LOG_LIMIT, NOT_MINE, OUTPUT_VARIABLE
from toilfn.clusters.local.channel import AttemptPage, MessageSocket
from toilfn.clusters.local.forkserver import serve_forks
from toilfn.errors import StoreError, ToilfnError
from toilfn.files import node
from toilfn.files.scratch import CODE_VARIABLE, absolute_places, sweep
from toilfn.graph.serialize import Main
from toilfn.protocol import Open, Recall, Run, Stop
from toilfn.stdio import flush, open_closed_descriptors, report, report_error
from toilfn.stores import Store, is_local, open_store
from toilfn.worker.answers import Answers
from toilfn.worker.batch import Batch
from toilfn.worker.capture import Capture, start_logging, start_streams
from toilfn.worker.execute import AttemptRunner
from toilfn.worker.live import Backup, Live, Tail, Warnings
from toilfn.worker.passed import adopt_environment, check_versions, read_ref
from toilfn.worker.payloads import BlobCache
from toilfn.worker.services import StoreWish
from toilfn.worker.surroundings import Surroundings, in_forked_children

__all__ = ["main", "start"]

_logger = logging.getLogger(__name__)

_PERIOD = 0.02
"""How long records wait, and how long a task runs before it is reported, in seconds."""

_M_ARENA_MAX = -8  # of <malloc.h>

_STREAM = "TOILFN_STREAM_LOGS"
"""The environment variable that is set where the leader gets the output of tasks while they run."""

_STORE_PERIOD = 5.0
"""The same period if each message is an object in the store."""

_RUNS_LOOKED_AT = 50
"""The number of this machine's runs whose files a worker looks at when it starts; it takes 0.1 ms for each."""


class Terminated(BaseException):
    """The process was asked to end: deferred calls are made and temporary directories removed on the way out."""


class Reporter:
    """Sends waiting answers, and reports a task that takes long.

    Parameters
    ----------
    page : AttemptPage
        Says which task runs.
    answers : Answers
    period : float
        Seconds that are long.
    tail : Tail or Backup, optional
        The end of the tasks' output, if the leader gets it while they run, or may need it when they are killed.
    live : Live, optional
        The same for users who follow a task with `toilfn logs --follow`.
    look : callable
        Called periodically while a task runs that takes long.
    """

    def __init__(
        self,
        page: AttemptPage,
        answers: Answers,
        period: float,
        tail: Tail | Backup | None = None,
        live: Live | None = None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._page = page
        self._answers = answers
        self._period = period
        self._tail = tail
        self._live = live
        self._look = look
        self._told = (b"", 0.0)

    def report(self) -> None:
        self._answers.flush()
        attempt = self._page.read()
        if attempt is None or time.monotonic() - attempt.began <= self._period:
            return
        if self._told != attempt[:2]:
            self._told = attempt[:2]
            self._answers.running(attempt.task, attempt.start)
        if self._tail is not None:
            self._answers.log(attempt.task, partial(self._tail.lines, attempt))
        if self._live is not None:
            self._live.show(attempt)
        self._look()

    def run(self) -> NoReturn:
        """Report periodically. A message that the store refuses may be accepted the next time, or at the end."""
        while True:
            time.sleep(self._period)
            try:
                self.report()
            except StoreError:
                pass
            except Exception:
                _logger.exception("the state of the task cannot be reported to the leader")


class WarmWorker:
    """Runs the batches that come over a connection.

    Parameters
    ----------
    connection : MessageSocket
        To the leader.
    page : AttemptPage
        Where the cluster sees what is being done.
    executor : AttemptRunner
    answers : Answers
        Those that go over the connection.
    tail, live
        See `Reporter`.
    """

    def __init__(
        self,
        connection: MessageSocket,
        page: AttemptPage,
        executor: AttemptRunner,
        answers: Answers,
        tail: Tail | None,
        live: Live,
    ) -> None:
        self._connection = connection
        self._executor = executor
        self._answers = answers
        self._reporter = Reporter(page, self._answers, _PERIOD, tail, live, executor.look)
        # The listener's thread puts batches into the queue, and the main thread runs them. Both use `_batch`: the
        # listener sets it when a batch arrives, the main thread clears it. A batch arrives only after the previous one
        # is done, so the two never write at the same time.
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._batch: Batch | None = None
        self._poller = select.poll()
        self._poller.register(connection, select.POLLIN)

    def run(self) -> None:
        """Work until the leader closes the connection."""
        threading.Thread(target=self._listen, name="toilfn-listener", daemon=True).start()
        self._connection.send(protocol.READY)
        while (batch := self._batches.get()) is not None:
            batch.run(self._answers)
            self._batch = None  # before the leader learns that we are done and sends the next batch
            self._answers.done()

    def _listen(self) -> None:
        """Take the leader's messages and report, until the leader is gone."""
        try:
            with suppress(OSError):  # the leader is gone
                while self._hear():
                    self._reporter.report()
            # The main thread is in user code, which may never return, and no leader is left that needs the result.
            if self._batch is not None:
                _kill_group()
            self._batches.put(None)
        except BaseException:  # the leader could not reach this process, which would wait for ever
            _crash()

    def _hear(self) -> bool:
        """Process a message of the leader; return False if the leader has closed the connection."""
        if not self._poller.poll(None if self._batch is None else _PERIOD * 1000):
            return True
        messages = self._connection.receive()
        for message in messages or ():
            self._obey(message)
        return messages is not None

    def _obey(self, message: bytes) -> None:
        match protocol.decode(message):
            case Run() as order:
                self._batch = Batch(self._executor, order)
                self._batches.put(self._batch)
            case Recall():
                batch = self._batch
                self._answers.returned(list if batch is None else batch.recall)
            case Stop() if self._batch is not None:
                self._batch.stop.set()


def serve(socket_fd: int, life_fd: int, page_fd: int) -> None:
    """Run as a warm worker of a local cluster until it closes the connection."""
    for fd in (socket_fd, life_fd, page_fd):
        os.set_inheritable(fd, False)
    _die_with(life_fd)
    connection, page = MessageSocket(socket.socket(fileno=socket_fd)), AttemptPage(page_fd)
    store, path = _greeting(connection)
    sys.path[:] = path
    faulthandler.enable()
    output = Capture(1, _log_limit())
    opened = open_store(store, create=False)
    answers = Answers(connection.send)
    executor = _executor(opened, page, output, BlobCache(opened.get_blob), answers)
    try:
        WarmWorker(connection, page, executor, answers, _stream(page, output), Live(opened, Tail(page, output))).run()
    finally:
        executor.close()
        node.leave()


def serve_batch(url: str, name: str) -> None:
    """Run the batch of this name in the store at this URL, and put the answers there."""
    check_versions()  # before anything is loaded that may need the leader's
    store, page = open_store(url, create=False), AttemptPage()
    packed, along = store.get_batch(name)
    order = protocol.expect(Run, packed)
    if is_local(url) and store.get_answers(name):  # elsewhere that costs, and the first answer is refused
        raise _AnsweredError(name)
    blobs = BlobCache(store.get_blob)
    for ref, data in along.items():
        blobs.put(ref, data)
    faulthandler.enable(os.dup(2))
    may_vanish = OUTPUT_VARIABLE in os.environ  # with the container that its file is in
    output = Capture.take_over(_log_limit())
    answers = Answers(_Mailbox(store, name).send)
    executor = _executor(store, page, output, blobs, answers)
    tail = _stream(page, output) or (Backup(page, output) if may_vanish else None)
    live = Live(store, Tail(page, output))
    reporter = Reporter(page, answers, _STORE_PERIOD, tail, live, executor.look)
    threading.Thread(target=reporter.run, name="toilfn-reporter", daemon=True).start()
    try:
        Batch(executor, order).run(answers, StoreWish(store, name).wait)
        answers.finish()
    finally:
        executor.close()
        node.leave()
        output.give_back()


def _stream(page: AttemptPage, output: Capture) -> Tail | None:
    """Return the sender of tasks' output while they run; None if the leader does not request it."""
    return Tail(page, output) if os.environ.get(_STREAM) else None


class _Mailbox:
    def __init__(self, store: Store, batch: str) -> None:
        self._store = store
        self._batch = batch
        self._count = 0

    def send(self, message: bytes) -> None:
        if not self._store.put_answers(self._batch, self._count, message):
            raise _AnsweredError(self._batch)
        self._count += 1


class _AnsweredError(ToilfnError):
    """Another worker has run the same batch: some systems restart the job of a lost node automatically."""

    def __init__(self, batch: str) -> None:
        super().__init__(f"another worker has answered for batch {batch}: this one stops")


def _executor(store: Store, page: AttemptPage, output: Capture, blobs: BlobCache, answers: Answers) -> AttemptRunner:
    start_streams()
    start_logging(os.environ.get("TOILFN_LOG_LEVEL", "info"))
    if _STREAM not in os.environ:  # else the leader gets all output of tasks, which includes the warnings
        logging.root.addHandler(Warnings(answers.warn))
    signal.signal(signal.SIGTERM, _terminate)
    in_forked_children(_forget_terminate)
    os.environ.pop("TOILFN_SETTINGS", None)  # the flags of `toilfn run` do not apply to a compute() in a task
    adopt_environment(blobs.get)
    os.environ.update(absolute_places())
    node.begin(store)
    sweep()
    node.clean(most=_RUNS_LOOKED_AT)
    _install_code(blobs, node.code_dir(store.url))
    return AttemptRunner(store, output, page, Surroundings(limit_threads=True, is_worker=True), Terminated, blobs)


def _install_code(blobs: BlobCache, folder: Path) -> None:
    """Unpack the user's own modules if the leader has sent them."""
    reference = os.environ.pop(CODE_VARIABLE, None)
    if reference is not None:
        from toilfn.graph.code import install

        install(blobs.get(read_ref(reference)), folder)


def _greeting(connection: MessageSocket) -> tuple[str, list[str]]:
    """Read the first message: the store's URL, and the folders of modules."""
    messages: list[bytes] | None = []
    while messages == []:
        messages = connection.receive()
    if messages is None:
        os._exit(0)
    store, path = protocol.expect(Open, messages[0])
    return store, list(path)


def _die_with(life_fd: int) -> None:
    """Let the system kill this process and its children when the other end of a pipe closes.

    That works even when the leader was killed, and while a task holds Python's lock.
    """
    if sys.platform == "linux":
        fcntl.fcntl(life_fd, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life_fd, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life_fd, fcntl.F_SETFL, fcntl.fcntl(life_fd, fcntl.F_GETFL) | os.O_ASYNC)


def _kill_group() -> NoReturn:
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("unreachable")


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def _forget_terminate() -> None:
    """Restore the default handling of SIGTERM in processes that tasks fork."""
    if signal.getsignal(signal.SIGTERM) is _terminate:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _crash() -> NoReturn:
    """End at once because of an error in the worker itself, without waiting for functions and threads of tasks."""
    try:
        traceback.print_exc()
        flush()
    finally:
        os._exit(1)


def _log_limit() -> int:
    return int(os.environ.get("TOILFN_LOG_LIMIT", LOG_LIMIT))


def main(arguments: Sequence[str]) -> int:
    """Run the worker with the given arguments; return the exit status."""
    # Classes of the user's script are found in the main module: it must not be this one.
    sys.modules["__main__"] = Main()
    _save_addresses()
    try:
        match list(arguments):
            case ["--fd", connection, life, page]:
                serve(int(connection), int(life), int(page))
            case ["--fork", control]:
                fds = serve_forks(socket.socket(fileno=int(control)))
                if fds is not None:  # this process is a worker that was forked
                    serve(*fds)
            case ["--sweep"]:
                sweep()
                node.clean()
            case ["--clean"]:
                sweep()
                node.clean(sys.stdin.read().split())
            case [store, batch]:
                serve_batch(store, batch)
            case _:
                report("usage: python -m toilfn.worker STORE BATCH")
                return 2
    except Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)  # so that the log of the job shows why the worker died
    except ToilfnError as error:
        report_error("toilfn.worker", error)
        return NOT_MINE if isinstance(error, _AnsweredError) else 1
    return 0


def _save_addresses() -> None:
    """Make all threads share one heap if a job's address space is limited, as by h_vmem of Grid Engine.

    Otherwise glibc reserves 64 MiB of it for each thread, and the threads of a bucket's driver leave the task nothing.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        import ctypes

        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def start() -> NoReturn:
    """Run a worker, and end its process, whatever threads and `atexit` functions its tasks leave behind."""
    try:
        open_closed_descriptors()
        status = main(sys.argv[1:])
        flush()
    except BaseException:
        _crash()
    os._exit(status)
