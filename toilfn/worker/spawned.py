"""The main module of a process that a task's `multiprocessing` spawns where the script has no file.

`multiprocessing` runs this module in the new process by the name ``__mp_main__``, and uses it as ``__main__`` then.
"""

from __future__ import annotations

import os
from pathlib import Path

from toilfn.errors import ToilfnError

__all__ = ["keep"]

_VARIABLE = "TOILFN_SPAWNED_MAIN"
"""The environment variable with the name of the file that has the payload of the task's function."""


def keep(payload: bytes) -> bool:
    """Keep a function's payload for the processes that the running task spawns; False if no task runs here."""
    from toilfn.worker.context import current

    if _VARIABLE not in os.environ:  # a task's variables end with it
        try:
            file = current().scratch_dir() / "main"
        except ToilfnError:
            return False
        file.write_bytes(payload)
        os.environ[_VARIABLE] = str(file)
    return True


if __name__ == "__mp_main__":
    from toilfn.graph.serialize import load_function

    _found = vars(load_function(Path(os.environ[_VARIABLE]).read_bytes())[1])
    globals().update((name, value) for name, value in _found.items() if not name.startswith("__"))
