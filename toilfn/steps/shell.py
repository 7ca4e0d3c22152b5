"""`toilfn.shell`: a shell command as a task."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toilfn.errors import InputError
from toilfn.graph import options as task_options
from toilfn.steps import run as environments
from toilfn.steps.template import Template

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from toilfn.graph.options import TaskOptions

__all__ = ["ShellTask", "shell"]

_LIMITS = ("cores", "memory_mb")
"""Placeholders for the resources that the task may use."""


def shell(
    command: str,
    /,
    *,
    outputs: str | Mapping[str, str] | None = None,
    container: str | None = None,
    engine: str | None = None,
    conda: str | os.PathLike[str] | None = None,
    modules: str | Sequence[str] = (),
    **options: Unpack[TaskOptions],
) -> ShellTask:
    """Turn a shell command into a task whose parameters are the placeholders in the command.

    toilfn quotes values for the shell, so write ``{reads}`` without quotes around it. Paths and files become local
    paths, and a list becomes one word for each item. The command runs with ``bash -euo pipefail`` in an empty
    directory; in a container without bash, it runs with ``sh -eu``. If it fails, the error contains the end of its
    standard error.

    Parameters
    ----------
    command : str
        The command, with placeholders such as ``{reads}``; ``{reads.name}``, ``{reads.stem}`` and
        ``{reads.suffix}`` are parts of a file's name. ``{cores}`` is the number of cores that the task may use,
        rounded up, and ``{memory_mb}`` its memory in MiB. Double the braces that are meant for the shell:
        ``awk '{{print $1}}'``.
    outputs : str or mapping, optional
        The path of the file that the command creates, which is ``{out}`` in the command; or a mapping of names to
        paths. A path may contain placeholders of inputs. A slash at its end means a directory, and a pattern such as
        ``*.txt`` means a list of files.
    container : str, optional
        The image in which the command runs, as for `docker`.
    engine : str, optional
        The engine for the container, as for `docker`.
    conda : str or path, optional
        A file that describes an environment (``.yml`` or ``.yaml``), or the name or the directory of an environment.
    modules : str or sequence of str
        Environment modules to load.
    **options
        As for `task`; a function for a requirement is called with the inputs.

    Returns
    -------
    ShellTask
        Call it with the inputs. The promise's value is the output file, a dict of files if there are several outputs,
        or the command's standard output if it declares no outputs.

    Raises
    ------
    InputError
        If a placeholder is malformed, or is at a place where its value could not be quoted safely.

    Examples
    --------
    >>> import toilfn as toil
    >>> count = toil.shell("sort {words} | uniq -c > {out}", outputs="{words.stem}.counts", cores=1)
    >>> count(words="some words.txt")
    <Promise of sort>
    """
    if container and (conda or modules):
        raise InputError("a shell step has a container, or conda and modules, not both")
    described = conda is not None and environments.is_file(os.fspath(conda))
    surroundings = {
        "container": container,
        "engine": engine,
        "conda": Path(conda) if described and conda is not None else conda and os.fspath(conda),
        "modules": [modules] if isinstance(modules, str) else list(modules),
    }
    return ShellTask(command, outputs, {name: value for name, value in surroundings.items() if value}, {**options})


class ShellTask:
    """A shell command whose calls are tasks of a graph. `shell` returns it.

    Attributes
    ----------
    command : str
        The command, with its placeholders.
    name : str
        The name of its tasks; by default the first program in the command.
    inputs : tuple of str
        The names of the parameters, in the order of the placeholders.
    """

    def __init__(
        self,
        command: str,
        outputs: str | Mapping[str, str] | None,
        surroundings: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        from toilfn.steps.run import OUT, STEP

        self.command = command
        self._outputs = outputs if outputs is None or isinstance(outputs, str) else dict(outputs)
        self._surroundings = surroundings
        self._options = options
        named = {OUT: self._outputs} if isinstance(self._outputs, str) else self._outputs or {}
        texts = [Template(command), *(Template(text, is_shell=False) for text in named.values())]
        found = dict.fromkeys(name for text in texts for name in text.names)
        self.inputs = tuple(name for name in found if name not in named and name not in _LIMITS)
        if unused := [name for name in named if name not in texts[0].names and "*" not in named[name]]:
            self._check_unused(unused, named)
        self.name = str(options.get("name") or _first_word(command))
        self._task = STEP.options(**{**self._late(options), "name": self.name})

    def _check_unused(self, unused: list[str], named: Mapping[str, str]) -> None:
        """Refuse an output if the command contains neither its placeholder nor its path."""
        missing = [name for name in unused if named[name].rstrip("/") not in self.command]
        if missing:
            raise InputError(
                f"output {missing[0]} is not in the command {self.command!r:.200}",
                hint=f"write {{{missing[0]}}} where the command takes the path of its output",
            )

    def _late(self, options: dict[str, Any]) -> Any:
        """Wrap functions that compute a requirement, so that they get only the inputs."""
        later = task_options.dynamic(options)
        return {**options, **{name: _of_inputs(value) for name, value in later.items()}}

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """Return the promise of the outputs, or of the standard output of a command that declares no outputs."""
        if len(args) > len(self.inputs):
            raise TypeError(
                f"task {self.name}: takes {len(self.inputs)} inputs ({', '.join(self.inputs)}), not {len(args)}"
            )
        twice = [name for name in self.inputs[: len(args)] if name in inputs]
        given = {**dict(zip(self.inputs, args, strict=False)), **inputs}
        wrong = [*(f"{name} twice" for name in twice), *(name for name in given if name not in self.inputs)]
        missing = [name for name in self.inputs if name not in given]
        if wrong or missing:
            what = f"got an unexpected input {wrong[0]}" if wrong else f"missing the input {missing[0]}"
            raise TypeError(f"task {self.name}: {what}; the inputs are {', '.join(self.inputs) or 'none'}")
        return self._task(self.command, self._outputs, self._surroundings, **given)

    def options(self, /, *, after: Any = (), **overrides: Unpack[TaskOptions]) -> ShellTask:
        """Build a variant with other options, as `Task.options` does."""
        variant = ShellTask(self.command, self._outputs, self._surroundings, {**self._options, **overrides})
        variant._task = variant._task.options(after=(*self._task.after, *_listed(after)))
        return variant

    def map(self, /, *iterables: Iterable[Any], **inputs: Any) -> list[Any]:
        """Call the task once for each item, as `Task.map` does."""
        if not iterables:
            raise TypeError(f"task {self.name}: map needs at least one iterable; for one promise, call the task")
        return [self(*items, **inputs) for items in zip(*iterables, strict=False)]

    def __repr__(self) -> str:
        return f"<task {self.name}: {self.command}>"


def _listed(after: Any) -> tuple[Any, ...]:
    return (after,) if hasattr(type(after), "__dask_graph__") else tuple(after)


def _of_inputs(requirement: Any) -> Any:
    if not callable(requirement) or hasattr(type(requirement), "__dask_graph__"):
        return requirement
    return _Requirement(requirement)


class _Requirement:
    """Calls a function of a step's inputs with the arguments of `STEP`, which include the inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__ = getattr(function, "__name__", "requirement")

    def __call__(self, command: str, outputs: Any, surroundings: Any, /, **inputs: Any) -> Any:
        return self.function(**inputs)


def _first_word(command: str) -> str:
    """Return the name of the first program in a command."""
    for word in command.split():
        name = os.path.basename(word)
        if re.fullmatch(r"[A-Za-z][\w.+-]*", name):
            return name
    return "shell"
