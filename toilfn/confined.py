"""Check names of files that come from outside, so that they do not lead out of the folder for which they are meant.

Documents, outputs of tools, job stores and archives contain names of files. Code that builds a path from such a name
calls `inside`, which refuses every name that leads out of the folder, also through a symbolic link. `relative` and
`single` check only the text of the name, for URLs and for places without links.
"""

from __future__ import annotations

import os
from pathlib import Path

from toilfn.errors import InputError

__all__ = ["inside", "relative", "single"]


def inside(folder: str | os.PathLike[str], name: object, *, replaced: bool = False) -> Path:
    """Return the path of a file in a folder, after checking that no part of its name leads out of the folder.

    Parameters
    ----------
    folder : path
        The folder, which need not exist. Links in its own path are followed, since the caller has chosen it.
    name : str
        A relative path. Its existing parts may be links that stay in the folder.
    replaced : bool
        Whether the caller replaces the last part of the path, as a rename does, and so does not follow it. Then that
        part may be a link to anywhere.

    Returns
    -------
    Path
        ``folder/name``, without resolving links.

    Raises
    ------
    InputError
        If the name is absolute, is empty, contains ``..`` or a null character, or passes through a link that leads out
        of the folder.
    """
    path = Path(folder, relative(name))
    root = os.path.realpath(folder)
    reached = os.path.realpath(path.parent if replaced else path)
    if reached != root and not reached.startswith(root.rstrip("/") + "/"):
        raise InputError(
            f"name {name!r} leads out of {os.fspath(folder)} to {reached} through a symbolic link",
            hint="remove the link",
        )
    return path


def relative(name: object) -> str:
    """Check a relative path, and return it without ``.`` parts and double slashes.

    Raises
    ------
    InputError
        If the path is absolute, is empty, or contains ``..`` or a null character.
    """
    if not isinstance(name, str) or name.startswith("/") or "\0" in name:
        raise _refused(name)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise _refused(name)
    return "/".join(parts)


def single(name: object) -> str:
    """Return the name of one file or directory, which has no slash in it.

    Raises
    ------
    InputError
        If the name contains a slash or a null character, or is empty, ``.`` or ``..``.
    """
    if not isinstance(name, str) or "/" in name or name in ("", ".", "..") or "\0" in name:
        raise InputError(f"{name!r} is not a valid file name: it is empty, '.' or '..', or contains '/'")
    return name


def _refused(name: object) -> InputError:
    return InputError(
        f"{name!r} is not a valid name for a file in a directory", hint="use a relative path without '..'"
    )
