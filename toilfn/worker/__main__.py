"""``python -m toilfn.worker`` runs a worker."""

from __future__ import annotations

import os
import sys

from toilfn.worker.main import main

status: int = main(sys.argv[1:])
sys.stdout.flush()
sys.stderr.flush()
os._exit(status)  # whatever threads a task has left behind
