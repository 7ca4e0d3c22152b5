"""``python -m toilfn.worker`` runs a worker."""

from __future__ import annotations

from toilfn.worker.main import start

start()
