"""Names from outside, which must not lead anywhere but where they are meant to.

A document, a tool's output, a job store and an archive all bring names of files. Code that makes a path of such a name
calls `inside`, which refuses every name that leads out of its folder, also through a symbolic link on the way.
`relative` and `single` check the name alone, for URLs and for places without links.
"""

from __future__ import annotations

import os
from pathlib import Path

from toilfn.errors import InputError

__all__ = ["inside", "relative", "single"]


def inside(folder: str | os.PathLike[str], name: object, *, replaced: bool = False) -> Path:
    """Return the path of a name in a folder, none of whose parts leads out of the folder.

    Parameters
    ----------
    folder : path
        Need not exist. It may be a link, or be reached through links: whoever chose it meant that.
    name : str
        A relative path. Its existing parts may be links that stay in the folder.
    replaced : bool
        Whether the caller puts something in the place of the last part, as a rename does, and does not write through
        it: that part may then be a link to anywhere.

    Returns
    -------
    Path
        ``folder/name``, not resolved.

    Raises
    ------
    InputError
        If the name is absolute, empty, contains ``..`` or a null character, or passes through a link that leads out of
        the folder.
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
    """Return a relative path without ``.`` and double slashes.

    Raises
    ------
    InputError
        If the path is absolute, empty, contains ``..`` or a null character.
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
        If it has one, or is empty, ``.`` or ``..``, or contains a null character.
    """
    if not isinstance(name, str) or "/" in name or name in ("", ".", "..") or "\0" in name:
        raise InputError(f"{name!r} is not a valid file name: it is empty, '.' or '..', or contains '/'")
    return name


def _refused(name: object) -> InputError:
    return InputError(
        f"{name!r} is not a valid name for a file in a directory", hint="use a relative path without '..'"
    )
