"""How a run's commands are run: what the command line says, on its way to the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from toilfn.wdl.once import Once

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine(Once):
    """How commands are run.

    Attributes
    ----------
    container : str
        "auto", the name of an engine, or "none".
    image : str
        For tasks that name none.
    copy_inputs : bool
        Whether commands get copies of their inputs, which they may change.
    cache : str or None
        The directory where finished calls are kept for other runs.
    all_outputs : bool
        Whether the outputs of all calls of the workflow are outputs of it.
    as_root : bool
        Whether commands are root in their containers, and not who runs the workflow.
    defaults : mapping
        Attributes of the runtime section, for tasks that do not have them.
    most : mapping
        What tasks get of ``cores`` and ``memory`` (bytes) where they ask for more.
    """

    __toilfn_lineage__: ClassVar[bool] = False

    container: str = "auto"
    image: str = "ubuntu:22.04"
    copy_inputs: bool = False
    cache: str | None = None
    all_outputs: bool = False
    as_root: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)

    def counts(self) -> tuple[Any, ...]:
        """What of it makes another result, or other requirements of the tasks that a workflow makes."""
        return self.image, self.all_outputs, dict(self.defaults), dict(self.most)

    @property
    def of_command(self) -> Machine:
        """What of it a command needs, which has its requirements."""
        return replace(self, defaults={}, most={})

    def limited(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a task's options with no more than there may be."""
        return {name: min(value, self.most[name]) if name in self.most else value for name, value in options.items()}
