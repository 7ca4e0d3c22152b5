"""Archives of documents from ``miniwdl zip``: ``MANIFEST.json`` names the main document and default inputs.

The manifest has the format of the Amazon Genomics CLI ("workflow.zip": ``mainWorkflowURL``, ``inputFileURLs``).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from toilfn import confined
from toilfn.errors import InputError
from toilfn.files.downloads import user_cache_dir

__all__ = ["Opened", "opened"]

_MANIFEST = "MANIFEST.json"


class Opened(NamedTuple):
    """The main document of an archive, and its inputs."""

    document: str
    inputs: list[str]
    """Input files to read before those of the user."""


def opened(place: str) -> Opened:
    """Find the main document of an archive or an unpacked archive; any other path is a document itself.

    Archives are unpacked in the user's cache directory, where a resumed run finds their files again.

    Raises
    ------
    InputError
        If the main document cannot be determined.
    """
    path = Path(place)
    if path.is_dir():
        return _main(path)
    if path.suffix == ".zip" and path.is_file():
        return _main(_unpacked(path))
    return Opened(place, [])


def _main(folder: Path) -> Opened:
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        return Opened(
            str(confined.inside(folder, manifest["mainWorkflowURL"])),
            [str(confined.inside(folder, name)) for name in manifest.get("inputFileURLs", [])],
        )
    except FileNotFoundError:
        raise InputError(f"{folder} is a directory without a {_MANIFEST}; it cannot be run as WDL") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / _MANIFEST} does not name the main document as mainWorkflowURL: {error}") from None


def _unpacked(archive: Path) -> Path:
    folder = user_cache_dir() / "wdl-archives" / hashlib.blake2b(archive.read_bytes(), digest_size=16).hexdigest()
    if folder.exists():
        return folder
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as content:
            content.extractall(draft)
        draft.rename(folder)
    except zipfile.BadZipFile as error:
        raise InputError(f"{archive} is not a valid archive: {error}") from None
    except OSError:
        if not folder.exists():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder
