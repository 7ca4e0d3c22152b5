"""How a run's commands are run: what the command line says, on its way to the tasks."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Machine"]


@dataclass(frozen=True)
class Machine:
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
    """

    container: str = "auto"
    image: str = "ubuntu:22.04"
    copy_inputs: bool = False
    cache: str | None = None
    all_outputs: bool = False

    def __toilfn_identity__(self) -> tuple[str, bool]:
        """What of it makes another result."""
        return self.image, self.all_outputs
