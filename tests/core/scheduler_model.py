"""A plain model of graphs, workers and a leader, to check the scheduler against.

The model is slow and simple on purpose: it looks at whole graphs, and knows nothing of how the
scheduler works. `World` runs a scheduler against it and asserts after every command.
"""

from __future__ import annotations

import pickle
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random

from toilfn.ids import BatchId, Budget, Cause, TaskId
from toilfn.resources import Accelerator, Capacity, Resources
from toilfn.scheduler import Policy, Scheduler
from toilfn.scheduler.events import (
    Command,
    Complete,
    Event,
    Failed,
    Finished,
    GaveUp,
    JobStarted,
    Kill,
    Lost,
    NewTask,
    Recall,
    Release,
    Retry,
    Returned,
    Submit,
    Submitted,
    TailCallStarted,
)

BUDGET = Budget()
SMALL = Resources(cores=1, memory=10, disk=1)


def name(number: int) -> TaskId:
    return number.to_bytes(16, "big")


def new(number: int, *needs: int, shape: Resources = SMALL, kind: int = 0, budget: Budget = BUDGET) -> NewTask:
    return NewTask(name(number), tuple(map(name, needs)), shape, kind, budget)


def typed(*commands: Command) -> list[tuple[type[Command], Command]]:
    """Make commands comparable: by themselves they are tuples, and equal to others with the same fields."""
    return [(type(command), command) for command in commands]


@dataclass
class Spec:
    """The description of a task, and its future behaviour."""

    new: NewTask
    children: list[Spec] = field(default_factory=list)
    waits: list[TaskId] = field(default_factory=list)
    failures: list[Cause] = field(default_factory=list)
    """Causes of its first attempts' failures."""
    wall: float = 0.0

    @property
    def id(self) -> TaskId:
        return self.new.id

    def family(self) -> Iterator[Spec]:
        yield self
        for child in self.children:
            yield from child.family()


# Random graphs

SHAPES = [
    SMALL,
    Resources(cores=0.1, memory=10, disk=1),
    Resources(cores=2, memory=30, disk=2),
    Resources(cores=4, memory=5, disk=0),
    Resources(cores=1, memory=50, disk=1, preemptible=True),
    Resources(cores=1, memory=1, disk=1, walltime=60.0),
    Resources(cores=1, memory=10, disk=1, accelerators=(Accelerator(),)),
    Resources(cores=1, memory=10, disk=1, accelerators=(Accelerator(model="a100"),)),
]
GPUS = (Accelerator(1, model="a100", brand="nvidia"), Accelerator(1, brand="nvidia"))
CAPACITIES = [
    Capacity(Resources(cores=4, memory=100, disk=10, accelerators=GPUS)),
    Capacity(Resources(cores=6, memory=60, disk=4, accelerators=GPUS), batches=2),
    Capacity(None, batches=3),
    Capacity(None, cores=4, memory=60, disk=3),
    Capacity(None, Resources(cores=8, memory=100, disk=10, accelerators=GPUS, walltime=200.0)),
]
BUDGETS = [Budget(), Budget(error=0, lost=0), Budget(error=2, memory=2, double_memory=True), Budget(preempted=1)]
CAUSES = [Cause.ERROR, Cause.ERROR, Cause.MEMORY, Cause.WALLTIME, Cause.INPUT]


class Graphs:
    """Makes random graphs without cycles: a task depends on families that were made before it."""

    def __init__(self, random: Random, failing: float) -> None:
        self.random = random
        self.failing = failing
        self.shapes = random.choice([SHAPES, [SMALL]])
        self.number = 0
        self.roots: list[Spec] = []

    def grow(self, count: int) -> list[Spec]:
        made = []
        for _ in range(count):
            made.append(self.spec(self.roots, depth=0))
            self.roots.append(made[-1])
        return made

    def spec(self, before: list[Spec], depth: int) -> Spec:
        random = self.random
        self.number += 1
        needs = [spec.id for spec in random.sample(before, min(len(before), random.choice([0, 0, 1, 1, 2, 3])))]
        spec = Spec(
            NewTask(
                name(self.number), tuple(needs), random.choice(self.shapes), random.randrange(3), random.choice(BUDGETS)
            )
        )
        spec.wall = random.choice([0.0, 0.001, 0.01, 1.0])
        while random.random() < self.failing:
            spec.failures.append(random.choice(CAUSES))
        if depth < 3:
            for _ in range(random.choice([0, 0, 0, 1, 1, 2])):
                spec.children.append(self.spec([*self.roots, *spec.children], depth + 1))
        others = [*self.roots, *spec.children]
        spec.waits = [other.id for other in random.sample(others, min(len(others), random.choice([0, 0, 1, 2])))]
        return spec


# What is true


@dataclass
class Truth:
    """The meaning of a set of outcomes."""

    specs: dict[TaskId, Spec] = field(default_factory=dict)

    def is_complete(self, id: TaskId, outcomes: Collection[TaskId], seen: dict[TaskId, bool] | None = None) -> bool:
        seen = {} if seen is None else seen
        if id not in seen:
            spec = self.specs[id]
            led_to = [*(child.id for child in spec.children), *spec.waits]
            seen[id] = id in outcomes and all(self.is_complete(other, outcomes, seen) for other in led_to)
        return seen[id]

    def needed(self, known: Iterable[TaskId], outcomes: Collection[TaskId]) -> set[TaskId]:
        """The tasks whose values will be loaded: needed by a task to run, or referred to by such a value."""
        wanted = {need for id in known if id not in outcomes for need in self.specs[id].new.needs}
        return wanted | self.referred(wanted, outcomes)

    def referred(self, ids: Iterable[TaskId], outcomes: Collection[TaskId]) -> set[TaskId]:
        """What the values of some tasks refer to, directly or not, as far as they have any."""
        found: set[TaskId] = set()
        stack = list(ids)
        while stack:
            id = stack.pop()
            more = {*self.specs[id].waits} - found if id in outcomes else set()
            found |= more
            stack += more
        return found


def holds_devices(devices: list[Accelerator], wishes: list[Accelerator]) -> bool:
    """Whether each wish for one device can have one of its own, by trying all ways."""
    if not wishes:
        return True
    wish, *rest = wishes
    return any(
        all(asked in (None, has) for asked, has in ((wish.model, device.model), (wish.brand, device.brand)))
        and holds_devices(devices[:i] + devices[i + 1 :], rest)
        for i, device in enumerate(devices)
    )


def units(shapes: Iterable[Resources]) -> list[Accelerator]:
    return [device for shape in shapes for device in shape.accelerators for _ in range(device.count)]


def within_limits(shapes: list[Resources], capacity: Capacity) -> bool:
    """Whether the user's limits allow some shapes at one time."""
    limits = {"cores": capacity.cores, "memory": capacity.memory, "disk": capacity.disk}
    return all(
        sum(Fraction(str(getattr(shape, name))) for shape in shapes) <= Fraction(str(most))
        for name, most in limits.items()
        if most is not None
    )


def fits(shapes: list[Resources], capacity: Capacity) -> bool:
    if capacity.batches is not None and len(shapes) > capacity.batches:
        return False
    total = capacity.total
    if not within_limits(shapes, capacity):
        return False
    return total is None or (
        sum(Fraction(str(shape.cores)) for shape in shapes) <= Fraction(str(total.cores))
        and sum(shape.memory for shape in shapes) <= total.memory
        and sum(shape.disk for shape in shapes) <= total.disk
        and holds_devices(units([total]), units(shapes))
    )


# Workers


@dataclass
class Worker:
    """A batch at work, and the news of it that have not arrived."""

    batch: BatchId
    todo: deque[TaskId]
    knows: set[TaskId]
    """Outcomes it knows of: those from before, and its own."""
    news: deque[Event] = field(default_factory=deque)
    ended: bool = False


class World:
    """A leader, its scheduler and workers, driven by a random generator.

    `restarts` lets the scheduler be pickled between events and the leader be replaced by a new one.
    """

    def __init__(self, random: Random, capacity: Capacity, policy: Policy, failing: float, trouble: float) -> None:
        self.random = random
        self.capacity = capacity
        self.policy = policy
        self.trouble = trouble
        self.graphs = Graphs(random, failing)
        self.truth = Truth()
        self.now = 0.0
        self.attempts: Counter[TaskId] = Counter()
        self.log: list[Finished] = []
        self.batches = 0
        self.begin()

    def begin(self) -> None:
        """Start as a new leader, which knows what is in the log."""
        self.scheduler = Scheduler(self.capacity, self.policy)
        self.outcomes: set[TaskId] = set()
        self.known: dict[TaskId, None] = {}
        self.workers: dict[BatchId, Worker] = {}
        self.ghosts: list[Worker] = []
        self.shapes: dict[BatchId, Resources] = {}
        self.completed: Counter[TaskId] = Counter()
        self.retried: Counter[tuple[TaskId, Cause]] = Counter()
        self.failed: dict[TaskId, Cause] = {}
        self.released: set[TaskId] = set()
        self.recalled: set[BatchId] = set()
        self.past: list[Event] = []

    # Events

    def submit(self, specs: list[Spec]) -> None:
        for spec in specs:
            self.truth.specs.update({one.id: one for one in spec.family()})
        order = self.random.sample(specs, len(specs))
        self.known.update(dict.fromkeys(spec.id for spec in specs))
        self.tell(Submitted(tuple(spec.new for spec in order)))

    def finish(self, event: Finished) -> None:
        if event.id in self.outcomes or event.id not in self.known:
            return self.tell(event)
        self.outcomes.add(event.id)
        self.known.update(dict.fromkeys(child.id for child in event.children))
        if event not in self.log:
            self.log.append(event)
        return self.tell(event)

    def tell(self, event: Event) -> None:
        self.past.append(event)
        if self.random.random() < 0.3:
            self.scheduler = pickle.loads(pickle.dumps(self.scheduler))
        self.obey(self.scheduler.handle(event))
        self.check_completions()

    def dated(self, event: Event) -> Event:
        """Give an event the time at which the leader hears of it."""
        return event._replace(now=self.now) if isinstance(event, Failed | Lost | JobStarted) else event

    def deliver(self, worker: Worker) -> None:
        event = self.dated(worker.news.popleft())
        if isinstance(event, Lost):
            self.workers.pop(worker.batch, None)
            self.shapes.pop(worker.batch, None)
        if isinstance(event, Finished):
            self.finish(event)
        else:
            self.tell(event)

    # Commands

    def dispatch(self) -> None:
        self.obey(self.scheduler.dispatch(self.now))

    def obey(self, commands: list[Command]) -> None:
        for command in commands:
            getattr(self, f"on_{type(command).__name__.lower()}")(command)

    def on_submit(self, command: Submit) -> None:
        assert command.batch > max(self.shapes, default=0)
        assert len(set(command.ids)) == len(command.ids) <= self.policy.max_batch
        self.shapes[command.batch] = command.shape
        assert fits(list(self.shapes.values()), self.capacity), "oversubscribed"
        before: set[TaskId] = set()
        for id in command.ids:
            assert id in self.known
            assert id not in self.outcomes
            needs = self.truth.specs[id].new.needs
            assert all(need in before or self.truth.is_complete(need, self.outcomes) for need in needs)
            self.check_shape(id, command.shape)
            before.add(id)
        self.workers[command.batch] = worker = Worker(command.batch, deque(command.ids), set(self.outcomes))
        if self.random.random() < 0.5:
            worker.news.append(JobStarted(command.batch, self.now))

    def check_shape(self, id: TaskId, shape: Resources) -> None:
        asked = self.truth.specs[id].new.shape
        assert (asked.cores, asked.memory, asked.disk) <= (shape.cores, shape.memory, shape.disk) or (
            asked.cores <= shape.cores and asked.memory <= shape.memory and asked.disk <= shape.disk
        )
        assert asked.preemptible or not shape.preemptible
        assert holds_devices(units([shape]), units([asked])) or asked.accelerators == shape.accelerators

    def on_recall(self, command: Recall) -> None:
        assert command.batch not in self.recalled
        self.recalled.add(command.batch)
        worker = self.workers[command.batch]
        if not worker.ended and self.random.random() < 0.8:
            started = 1 if worker.todo else 0
            back = list(worker.todo)[started:]
            worker.todo = deque(list(worker.todo)[:started])
            worker.news.append(Returned(worker.batch, tuple(back)))

    def on_kill(self, command: Kill) -> None:
        worker = self.workers[command.batch]
        assert all(id in self.outcomes for id in self.scheduler.running()[command.batch])
        worker.todo.clear()
        if not worker.ended:
            worker.ended = True
            worker.news.append(Lost(worker.batch, Cause.LOST, self.now))

    def on_complete(self, command: Complete) -> None:
        self.completed[command.id] += 1

    def on_release(self, command: Release) -> None:
        assert self.completed[command.id] == 1
        assert command.id not in self.truth.needed(self.known, self.outcomes), (
            command.id[-1],
            [
                k
                for k in self.known
                if command.id in self.truth.specs[k].waits or command.id in self.truth.specs[k].new.needs
            ],
            self.released,
        )
        self.released.add(command.id)

    def on_retry(self, command: Retry) -> None:
        self.retried[command.id, command.cause] += 1
        attempts = sum(count for (id, _), count in self.retried.items() if id == command.id)
        assert command.attempt == attempts
        assert self.now <= command.at <= self.now + 60
        if command.cause in (Cause.LOST, Cause.PREEMPTED):
            assert command.at == self.now
        allowed = getattr(self.truth.specs[command.id].new.budget, command.cause.value)
        assert allowed is None or self.retried[command.id, command.cause] <= allowed

    def on_gaveup(self, command: GaveUp) -> None:
        assert command.id not in self.failed
        self.failed[command.id] = command.cause
        if command.cause is not Cause.INPUT:
            allowed = getattr(self.truth.specs[command.id].new.budget, command.cause.value)
            assert self.retried[command.id, command.cause] == allowed

    def check_completions(self) -> None:
        self.scheduler.check()
        seen: dict[TaskId, bool] = {}
        complete = {id for id in self.known if self.truth.is_complete(id, self.outcomes, seen)}
        assert self.completed == Counter(dict.fromkeys(complete, 1))
        assert all(self.scheduler.is_complete(id) == (id in complete) for id in self.known)
        assert sum(self.scheduler.counts().values()) == len(self.known)

    # Workers

    def work(self, worker: Worker) -> None:
        """Let a worker do one thing."""
        if not worker.todo:
            worker.ended = True
            worker.news.append(Lost(worker.batch, None, self.now))
            return
        id = worker.todo.popleft()
        spec = self.truth.specs[id]
        if not all(self.truth.is_complete(need, worker.knows) for need in spec.new.needs):
            worker.news.append(Returned(worker.batch, (id,)))
            return
        self.attempts[id] += 1
        if self.attempts[id] <= len(spec.failures):
            worker.news.append(Failed(id, spec.failures[self.attempts[id] - 1], self.now))
            return
        self.succeed(worker, spec)

    def succeed(self, worker: Worker, spec: Spec) -> None:
        worker.knows.add(spec.id)
        children = tuple(child.new for child in spec.children)
        worker.news.append(Finished(spec.id, children, tuple(spec.waits), spec.wall))
        if len(children) == 1 and self.random.random() < 0.7 and children[0].shape == spec.new.shape:
            worker.news.append(TailCallStarted(worker.batch, children[0].id))
            worker.todo.appendleft(children[0].id)

    # Trouble

    def lose(self, worker: Worker) -> None:
        """A worker is thought lost; it may be dead, or go on and answer late."""
        news = [] if self.random.random() < 0.5 else list(worker.news)
        ghost = Worker(worker.batch, worker.todo, worker.knows, deque(news))
        if self.random.random() < 0.5:
            self.ghosts.append(ghost)
        running = self.random.choice([None, *worker.todo, *list(worker.knows)[:1]])
        worker.ended = True
        cause, is_sure = self.random.choice([Cause.LOST, Cause.PREEMPTED]), self.random.random() < 0.5
        worker.news = deque([Lost(worker.batch, cause, self.now, running, is_sure)])

    def disturb(self) -> None:
        random = self.random
        kind = random.randrange(6)
        if kind == 0 and self.past:
            event = random.choice(self.past)
            if not isinstance(event, Capacity | Returned | TailCallStarted):
                self.tell(self.dated(event))
        elif kind in (1, 2) and (live := [worker for worker in self.workers.values() if not worker.ended]):
            self.lose(random.choice(live))
        elif kind == 3 and self.capacity.total is not None:
            self.capacity = self.capacity._replace(batches=random.choice([1, 2, None]))
            self.tell(self.capacity)
        elif kind == 4 and random.random() < 0.3:
            self.restart()
        elif kind == 5:
            self.submit(self.graphs.grow(1))

    def restart(self) -> None:
        """A new leader reads the log: what was asked for, and all outcomes in order."""
        log = list(self.log)
        self.begin()
        self.submit(self.graphs.roots)
        for event in log:
            self.finish(event._replace(wall=0.0))

    # The run

    def step(self) -> None:
        self.now += self.random.choice([0.0, 0.001, 1.0])
        ghosts = [ghost for ghost in self.ghosts if ghost.todo or ghost.news]
        able = [worker for worker in (*self.workers.values(), *ghosts) if worker.news or not worker.ended]
        if self.random.random() < self.trouble:
            self.disturb()
        elif able:
            worker = self.random.choice(able)
            if worker.news and (worker.ended or self.random.random() < 0.6):
                self.deliver(worker)
            else:
                self.work(worker)
        elif not self.scheduler.idle and self.scheduler.wake_at is not None:
            self.now = max(self.now, self.scheduler.wake_at)

    def run(self) -> None:
        """Run to the end; trouble ends after a while."""
        for step in range(20_000):
            if step > 150:
                self.trouble = 0.0
            if self.random.random() < 0.7 or not self.workers:
                self.dispatch()
            if self.scheduler.idle and self.trouble == 0.0 and not any(worker.news for worker in self.workers.values()):
                return self.check_end()
            if self.scheduler.idle:
                self.trouble = 0.0
            self.step()
        raise AssertionError("the run does not end")

    def check_end(self) -> None:
        assert self.scheduler.stuck() == []
        assert self.scheduler.counts()["failed"] == len([id for id in self.failed if id not in self.outcomes])
        incomplete = [id for id in self.known if not self.completed[id]]
        if not any(id not in self.outcomes for id in self.failed):
            assert incomplete == []
        kept = self.truth.needed(self.known, self.outcomes) | self.truth.referred(incomplete, self.outcomes)
        assert set(self.completed) - kept <= self.released
