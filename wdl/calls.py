"""Call a document's tasks and workflows: create the promises of calls, and run a call in its task.

`Calls` creates the promises. `Call` runs one in its task: it puts the inputs in place, runs the command and stores the
outputs. `Cache` finds the results of earlier calls.
"""

from __future__ import annotations

import json
import os
import pickle
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from WDL import Env, Error, Tree, Type, Value

from toilfn.errors import ContainerError, ContainerMemoryError
from toilfn.files.directory import Directory
from toilfn.files.exchange import export, import_directory, import_file
from toilfn.files.file import File
from toilfn.graph.identity import value_identity
from toilfn.graph.task import Task, task
from toilfn.units import format_size
from toilfn.wdl.dialect import HINTS
from toilfn.wdl.execution import Execution, run
from toilfn.wdl.language import binding_type, is_at_least, ordered, plain_meta, task_type, task_uses
from toilfn.wdl.library import Library, OutputLibrary
from toilfn.wdl.paths import TaskPaths, WorkflowPaths, all_stored, numbered
from toilfn.wdl.problems import located, where
from toilfn.wdl.program import Callee, Program, callee, source_dir
from toilfn.wdl.runtime import Machine, Runtime, needed, runtime_of
from toilfn.wdl.shared import plain_value
from toilfn.wdl.values import Entries, PathText, Stored, decode, encode
from toilfn.worker.context import current

__all__ = ["Cache", "Calls", "command", "task_value", "without_nulls"]


_MOST_KNOWN = 256
"""Number of runtimes to cache, which is useful only if they do not depend on the inputs of each call."""


@dataclass(frozen=True)
class _PreparedCallee:
    """A called task or workflow."""

    called: Callee
    node: Any
    types: Mapping[str, Type.Base]
    """The types of the inputs that the runtime section of `node` needs, by name."""


class Calls:
    """Creates the promises of calls.

    Parameters
    ----------
    program : Program
        The document.
    machine : Machine
        The options for running commands.
    workflow : Task
        The toilfn task that runs a workflow.
    """

    def __init__(self, program: Program, machine: Machine, workflow: Task[..., Any]) -> None:
        self._program = program
        self._machine = machine
        self._of_command = machine.of_command
        self._workflow = workflow
        self._callees: dict[int, _PreparedCallee] = {}
        self._known: dict[str, tuple[Runtime, Task[..., Any]]] = {}

    def call(self, node: Any, inputs: Mapping[str, Any], name: str = "", after: Any = ()) -> Any:
        """Return the promise of a call's outputs.

        Parameters
        ----------
        node : WDL.Tree.Task or WDL.Tree.Workflow
        inputs : mapping
            Encoded inputs by name.
        name : str
            The name of the call.
        after : iterable of promises
            Promises whose tasks must be done before the call starts.
        """
        found = self._callees.get(id(node)) or self._add_callee(node)
        name = name or node.name
        given = without_nulls(node, inputs)
        if isinstance(node, Tree.Workflow):
            run = self._workflow.options(name=name, after=after, version=found.called.version)
            return run(found.called, given, self._machine)
        sections = {key: key.split(".", 1) for key in given if "." in key}
        overrides = {own: given[key] for key, (section, own) in sections.items() if section != "hints" or own in HINTS}
        given = {key: plain for key, plain in given.items() if key not in sections}
        runtime, run = self._prepared(found, name, given, overrides)
        return (run.options(after=after) if after else run)(found.called, given, runtime, self._of_command)

    def _add_callee(self, node: Any) -> _PreparedCallee:
        names = needed(node) if isinstance(node, Tree.Task) else []
        declared = node.available_inputs
        types = {name: binding_type(declared[name]) for name in names if declared.has_binding(name)}
        found = self._callees[id(node)] = _PreparedCallee(callee(self._program, node), node, types)
        return found

    def _prepared(
        self, found: _PreparedCallee, name: str, given: Mapping[str, Any], overrides: Mapping[str, Any]
    ) -> tuple[Runtime, Task[..., Any]]:
        """Return the runtime of a call, and the task with its requirements."""
        reaching = {key: given[key] for key in found.types if key in given}
        known = repr((found.called.path, name, reaching, overrides))
        if known not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            runtime = self._runtime(found, reaching, overrides)
            options = self._machine.limited(runtime.options)
            self._known[known] = runtime, command.options(**options, name=name, version=found.called.version)
        return self._known[known]

    def _runtime(self, found: _PreparedCallee, reaching: Mapping[str, Any], overrides: Mapping[str, Any]) -> Runtime:
        place = source_dir(found.node)
        paths = WorkflowPaths(place)
        env: Env.Bindings[Value.Base] = Env.Bindings()
        for key, plain in reaching.items():
            env = env.bind(key, decode(plain_value(plain), found.types[key], paths))
        library = Library(found.node.effective_wdl_version, paths, place)
        return runtime_of(found.node, env, library, overrides, self._machine.defaults)


def without_nulls(node: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out None for inputs that have a default and whose type does not allow None, so that the default is used."""
    if None not in inputs.values():
        return dict(inputs)
    declared = node.available_inputs
    return {
        name: plain
        for name, plain in inputs.items()
        if not (plain is None and name in declared and declared[name].expr and not declared[name].type.optional)
    }


_COMPOUND = (Value.Array, Value.Map, Value.Pair, Value.Struct)


@task(version="1")
def command(called: Callee, inputs: Mapping[str, Any], runtime: Runtime, machine: Machine) -> dict[str, Any]:
    """Run a task's command, and return its encoded outputs."""
    inputs = {name: plain_value(plain) for name, plain in inputs.items()}
    cache = Cache(machine.cache, called.digest, inputs, runtime.image or machine.image) if machine.cache else None
    found: dict[str, Any] | None = cache.get() if cache else None
    if found is None:
        found = Call(called.node, inputs, runtime, machine).run()
        if cache:
            cache.put(found)
    return found


class Call:
    """One attempt of a call of a task."""

    def __init__(self, node: Tree.Task, inputs: Mapping[str, Any], runtime: Runtime, machine: Machine) -> None:
        self.task = node
        self.runtime = runtime
        self.machine = machine
        self._used = task_uses(node)
        self.place = current().temp_dir / "call"
        self.place.mkdir()
        self.paths = TaskPaths(
            self.place,
            all_stored(dict(inputs)),
            copy=machine.copy_inputs,
            mount_points=runtime.mount_points,
            source_dir=source_dir(node),
        )
        self.env: Env.Bindings[Value.Base] = Env.Bindings()
        declared = node.available_inputs
        for name, plain in inputs.items():
            self.env = self.env.bind(name, decode(plain, binding_type(declared[name]), self.paths))

    def run(self) -> dict[str, Any]:
        """Evaluate the declarations, run the command, and evaluate the outputs."""
        library = Library(self.task.effective_wdl_version, self.paths, source_dir(self.task))
        decls = [*(self.task.inputs or []), *self.task.postinputs]
        self._evaluate([decl for decl in decls if not self.env.has_binding(decl.name)], library)
        env = self._with_task(self.env, None)
        with located(self.task.command):
            script = self.task.command.eval(env, library).value
        execution = self._execution(script)
        status = run(execution, self.machine.container)
        self._check(status, execution)
        self.paths.end_command()
        outputs = OutputLibrary(
            self.task.effective_wdl_version, self.paths, source_dir(self.task), execution.stdout, execution.stderr
        )
        self.env = self._with_task(self.env, status)
        found = self._evaluate(self.task.outputs, outputs)
        return {decl.name: found[decl.name] for decl in self.task.outputs}

    def _evaluate(self, decls: list[Tree.Decl], library: Library) -> dict[str, Any]:
        found = {}
        for decl in ordered(decls):
            with located(decl):
                found[decl.name], value = self._value(decl, library)
            self.env = self.env.bind(decl.name, value)
        return found

    def _value(self, decl: Tree.Decl, library: Library) -> tuple[Any, Value.Base]:
        if decl.expr is None:
            if not decl.type.optional:
                raise Error.InputError(f"no value was given for {decl.type} {decl.name} of task {self.task.name}")
            return None, Value.Null()
        value = decl.expr.eval(self.env, library).coerce(decl.type)
        if decl not in self.task.outputs and decl.name not in self._used:
            return None, value  # unused; may be a default that exists only elsewhere
        # A declaration may name a file that does not exist: only inputs and outputs must exist.
        plain = encode(value, decl.type, self.paths, strict=decl not in self.task.postinputs)
        return plain, decode(plain, decl.type, self.paths)

    def _execution(self, script: str) -> Execution:
        return Execution(
            script=script,
            place=self.place,
            work=self.paths.work,
            image=self.runtime.image,
            default_image=self.machine.image,
            env=self._environment(),
            protected=() if self.machine.copy_inputs else self.paths.protected(),
            as_root=self.machine.as_root,
            disks=self.paths.disks,
        )

    def _environment(self) -> dict[str, str]:
        """Return the values of declarations marked ``env`` (WDL 1.2, "Environment Variables"), except None."""
        decls = (*(self.task.inputs or []), *self.task.postinputs)
        values = {decl.name: self.env[decl.name] for decl in decls if decl.decor.get("env") is True}
        return {name: _text(value) for name, value in values.items() if not isinstance(value, Value.Null)}

    def _check(self, status: int, execution: Execution) -> None:
        """Raise an error if the command has failed, by its exit status or its output."""
        codes, words = self.runtime.return_codes, execution.stderr_tail()
        name, place = self.task.name, where(self.task.command)
        if codes is not None and status not in codes:
            said = f"; its standard error ends with: {words}" if words else ", and wrote nothing to standard error"
            text = f"{place}: the command of task {name} ended with exit status {status}{_kill_note(status)}{said}"
            raise (ContainerMemoryError if status == 137 else ContainerError)(text, status, words)
        if self.runtime.fail_on_stderr and words:
            text = f"{place}: the command of task {name} wrote to standard error, which failOnStderr forbids: {words}"
            raise ContainerError(text, status, words)

    def _with_task(self, env: Env.Bindings[Value.Base], status: int | None) -> Env.Bindings[Value.Base]:
        """Bind the variable ``task`` of WDL 1.2."""
        if not is_at_least(self.task.effective_wdl_version, "1.2"):
            return env
        return env.bind("task", task_value(self.task, self.runtime, status))


def _kill_note(status: int) -> str:
    """Explain exit status 137, which nearly always means that the command exceeded its memory."""
    if status != 137:
        return ""
    memory = format_size(current().memory)
    return f", most likely killed because it used more than {memory} of memory (try --memory-retries 1 --double-memory)"


def _text(value: Value.Base) -> str:
    """Return a value as text, like a placeholder, but compound values as JSON."""
    if isinstance(value, _COMPOUND):
        return json.dumps(value.json)
    return value.value if isinstance(value, Value.String) else str(value)


def task_value(task: Tree.Task, runtime: Runtime, status: int | None) -> Value.Base:
    """Build the value of the variable ``task`` (WDL 1.2, "Runtime Access to Requirements, Hints, and Metadata").

    Parameters
    ----------
    task : WDL.Tree.Task
    runtime : Runtime
        The runtime attributes of the call.
    status : int or None
        The command's exit status, once it has ended.
    """
    context = current()
    known: dict[str, Any] = {
        "name": task.name,
        "id": f"{context.name}-{context.id}",
        "container": runtime.image,
        "cpu": float(context.cores),
        "memory": context.memory,
        "gpu": list(context.accelerators),
        "fpga": [],
        "disks": {"/": context.disk},
        "attempt": context.attempt - 1,
        "end_time": None,
        "meta": plain_meta(task.meta),
        "parameter_meta": plain_meta(task.parameter_meta),
    }
    if status is not None:
        known["return_code"] = status
    return Value.from_json(task_type(task, with_return_code=status is not None), known)


@dataclass(frozen=True)
class CachedContent:
    """A file or directory in the cache."""

    place: str
    """The path relative to the entry."""
    folder: str
    is_directory: bool


class Cache:
    """One call's entry in the cache.

    Parameters
    ----------
    directory : str
        The directory of the cache, which all workers must be able to access.
    task : str
        The task's digest.
    inputs : mapping
        The encoded inputs.
    image : str
        The container image.
    """

    def __init__(self, directory: str, task: str, inputs: Mapping[str, Any], image: str) -> None:
        short = numbered(item.folder for item in all_stored(dict(inputs)))
        plain = mapped(dict(inputs), lambda item: replace(item, folder=short[item.folder]))
        key = value_identity(("call", task, plain, image)).hex()
        self._entry = Path(directory) / key[:2] / key

    def get(self) -> dict[str, Any] | None:
        """Return the outputs of the same call in another run, with its files imported into this run's store."""
        try:
            plain = pickle.loads((self._entry / "outputs").read_bytes())
        except (FileNotFoundError, AttributeError):  # AttributeError: written by another version of toilfn
            return None
        current().log.info("using the outputs of an earlier run: %s", self._entry)
        return mapped(plain, self._restored)  # type: ignore[no-any-return]  # a dict gives a dict

    def put(self, outputs: Mapping[str, Any]) -> None:
        """Save outputs, unless another process has already done so."""
        draft = self._entry.with_name(f".{secrets.token_hex(8)}")
        draft.mkdir(parents=True, mode=0o700)
        try:
            plain = mapped(dict(outputs), lambda item: _cached(item, draft))
            (draft / "outputs").write_bytes(pickle.dumps(plain))
            draft.rename(self._entry)
        except OSError:
            if not self._entry.exists():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _restored(self, kept: CachedContent) -> Stored:
        place = self._entry / kept.place
        content: File | Directory = import_directory(place) if kept.is_directory else import_file(place)
        return Stored(content, kept.folder)


def _cached(stored: Stored, draft: Path) -> CachedContent:
    folder = draft / secrets.token_hex(4)
    folder.mkdir()
    place = export(stored.content, folder / stored.content.name)
    return CachedContent(os.path.relpath(place, draft), stored.folder, isinstance(stored.content, Directory))


def mapped(plain: Any, change: Any) -> Any:
    """Copy an encoded value, applying a function to its files."""
    if isinstance(plain, (Stored, CachedContent)):
        return change(plain)
    if isinstance(plain, PathText):
        return PathText(change(plain.file))
    if isinstance(plain, Entries):
        return Entries(tuple((mapped(key, change), mapped(item, change)) for key, item in plain.items))
    if isinstance(plain, (list, tuple)):
        return type(plain)(mapped(item, change) for item in plain)
    if isinstance(plain, dict):
        return {name: mapped(item, change) for name, item in plain.items()}
    return plain
