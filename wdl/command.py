"""Run the call of a task: put its inputs in place, run its command, and store its outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from WDL import Env, Error, Tree, Value

from toilfn.errors import ContainerError, ContainerMemoryError
from toilfn.graph.task import task
from toilfn.units import format_size
from toilfn.wdl.cache import Cache
from toilfn.wdl.execution import Execution, run
from toilfn.wdl.language import binding_type, is_at_least, ordered, plain_meta, task_type, task_uses
from toilfn.wdl.library import Library, OutputLibrary
from toilfn.wdl.paths import TaskPaths, all_stored
from toilfn.wdl.problems import located, where
from toilfn.wdl.program import Callee, source_dir
from toilfn.wdl.runtime import Machine, Runtime
from toilfn.wdl.shared import plain_value
from toilfn.wdl.values import decode, encode
from toilfn.worker.context import current

__all__ = ["command", "task_value"]

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
        codes, words = self.runtime.return_codes, execution.last_words()
        name, place = self.task.name, where(self.task.command)
        if codes is not None and status not in codes:
            said = f"; its standard error ends with: {words}" if words else ", and wrote nothing to standard error"
            text = f"{place}: the command of task {name} ended with exit status {status}{_killed(status)}{said}"
            raise (ContainerMemoryError if status == 137 else ContainerError)(text, status, words)
        if self.runtime.fail_on_stderr and words:
            text = f"{place}: the command of task {name} wrote to standard error, which failOnStderr forbids: {words}"
            raise ContainerError(text, status, words)

    def _with_task(self, env: Env.Bindings[Value.Base], status: int | None) -> Env.Bindings[Value.Base]:
        """Bind the variable ``task`` of WDL 1.2."""
        if not is_at_least(self.task.effective_wdl_version, "1.2"):
            return env
        return env.bind("task", task_value(self.task, self.runtime, status))


def _killed(status: int) -> str:
    """Explain exit status 137, which nearly always means that the command exceeded its memory."""
    if status != 137:
        return ""
    memory = format_size(current().memory)
    return f", most likely killed for more than its {memory} of memory (--memory-retries 1 --double-memory)"


def _text(value: Value.Base) -> str:
    """Return a value as text, like a placeholder, but compound values as JSON."""
    if isinstance(value, _COMPOUND):
        return json.dumps(value.json)
    return value.value if isinstance(value, Value.String) else str(value)


def task_value(task: Tree.Task, runtime: Runtime, status: int | None) -> Value.Base:
    """Build the variable (WDL 1.2, "Runtime Access to Requirements, Hints, and Metadata").

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
