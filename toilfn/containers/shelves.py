"""Where images are kept, and where those who bring them wait for each other."""

from __future__ import annotations

import os
from pathlib import Path

from toilfn.worker.scratch import base_dir

__all__ = ["images_folder", "pulls_folder"]


def images_folder() -> Path:
    """Return the folder of image files: ``TOILFN_IMAGES``, which machines may share, or one on this machine."""
    folder = Path(os.environ.get("TOILFN_IMAGES") or base_dir() / "images").absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def pulls_folder() -> Path:
    """Return where the locks of this machine's engines are."""
    folder = base_dir() / "pulls"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
