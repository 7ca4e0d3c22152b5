"""The options for running commands, passed from the command line to the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from toilfn.wdl.once import Once

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine(Once):
    """The options for running commands.

    Attributes
    ----------
    container : str
        "auto", the name of an engine, or "none".
    image : str
        The image for tasks that name none.
    copy_inputs : bool
        Whether commands get copies of their inputs that they may change.
    cache : str or None
        The directory of the cache of finished calls for other runs.
    all_outputs : bool
        Whether the outputs of all calls become outputs of the workflow.
    as_root : bool
        Whether commands run as root in their containers instead of as the current user.
    defaults : mapping
        Runtime attributes for tasks that do not have them.
    most : mapping
        Upper limits for the ``cores`` and ``memory`` (in bytes) of tasks.
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
        """Return the options that affect results, or the requirements of the tasks that a workflow creates."""
        return self.image, self.all_outputs, dict(self.defaults), dict(self.most)

    @property
    def of_command(self) -> Machine:
        """The options that a command needs; its requirements are already determined."""
        return replace(self, defaults={}, most={})

    def limited(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a task's options, reduced to the limits."""
        return {name: min(value, self.most[name]) if name in self.most else value for name, value in options.items()}
