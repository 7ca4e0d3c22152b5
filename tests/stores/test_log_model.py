"""The log against a model: any sequence of appends, compactions and deaths loses nothing that was acknowledged."""

from __future__ import annotations

import shutil
import tempfile
import threading

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.mutation import examples
from toilfn.errors import FencedError
from toilfn.stores import faults, open_store

POINTS = (
    "objects.temporary", "objects.linked", "objects.replaced", "objects.deleted", "log.appending", "log.appended",
    "compact.sealed", "compact.part", "compact.snapshot", "compact.segments", "compact.older", "compact.emptied",
)  # fmt: skip

RECORDS = st.lists(st.binary(max_size=5), max_size=3)


class Death(BaseException):
    """The process ends here."""


class die_at:  # noqa: N801 - reads as a verb
    """Let the n-th passing of a point end the process."""

    def __init__(self, point, passing):
        self.point, self.left = point, passing

    def __call__(self, name):
        if threading.current_thread() is not threading.main_thread():
            return  # such as the one that renews a lease, which writes at any moment on a slow machine
        self.left -= name == self.point
        if self.left == 0:
            raise Death

    def __enter__(self):
        faults.hook = self

    def __exit__(self, kind, error, traceback):
        faults.hook = None
        return kind is Death


class LogMachine(RuleBasedStateMachine):
    """Two leaders, one of which is the newer. `safe` is what was acknowledged; `maybe` may be there after it."""

    @initialize()
    def start(self):
        self.folder = tempfile.mkdtemp(prefix="toilfn-tests-")
        self.store = open_store(self.folder, sync=False)
        self.safe: list[bytes] = []
        self.maybe: list[bytes] = []
        self.leader = self.take_over()
        self.older = None

    def take_over(self):
        log = open_store(self.folder, create=False).log
        assert log.next_number >= 1
        return log

    def read(self):
        return [record for _, record in open_store(self.folder, create=False).log.read()]

    def settle(self):
        """Look at the files that a killed process has left."""
        found = self.read()
        assert found in (self.safe, self.safe + self.maybe)
        self.safe, self.maybe = found, []
        self.leader = self.take_over()

    @rule(records=RECORDS)
    def append(self, records):
        positions = self.leader.append(records)
        self.safe += records
        assert [self.leader.fetch(position) for position in positions] == records

    @rule(keep=st.integers(0, 4))
    def compact(self, keep):
        self.safe = self.safe[-keep:] if keep else []
        positions = self.leader.compact(self.safe)
        assert [self.leader.fetch(position) for position in positions] == self.safe

    @rule(records=RECORDS, point=st.sampled_from(POINTS), passing=st.integers(1, 2))
    def die_while_appending(self, records, point, passing):
        self.maybe = records
        with die_at(point, passing):
            self.append(records)
            self.maybe = []
        self.settle()

    @rule(point=st.sampled_from(POINTS), passing=st.integers(1, 4))
    def die_while_compacting(self, point, passing):
        with die_at(point, passing):
            self.leader.compact(self.safe)
        self.settle()

    @rule()
    def replace_leader(self):
        self.older, self.leader = self.leader, self.take_over()
        self.leader.append([])

    @precondition(lambda self: self.older is not None)
    @rule(records=RECORDS, compacts=st.booleans())
    def older_leader_wakes_up(self, records, compacts):
        try:
            self.older.compact(records) if compacts else self.older.append(records)
        except FencedError:
            return
        raise AssertionError("two leaders write")

    @invariant()
    def nothing_is_lost(self):
        assert self.read() == self.safe

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


LogMachine.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=20)
TestLog = LogMachine.TestCase
