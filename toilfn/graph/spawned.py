"""The main module of a process that a task's `multiprocessing` spawns where the script has no file.

`multiprocessing` runs this module in the new process by the name ``__mp_main__``, and uses it as ``__main__`` then. The
task's process has kept what it needs with `toilfn.graph.running.keep_main`.
"""

from __future__ import annotations

import os
from pathlib import Path

from toilfn.graph.running import MAIN_VARIABLE
from toilfn.graph.serialize import load_function

if __name__ == "__mp_main__":
    _found = vars(load_function(Path(os.environ[MAIN_VARIABLE]).read_bytes())[1])
    globals().update((name, value) for name, value in _found.items() if not name.startswith("__"))
