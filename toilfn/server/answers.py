"""Responses of the service: the objects of the WES specification, and the outputs and streams of a run."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from toilfn import __version__, confined
from toilfn.errors import InputError
from toilfn.server.index import Summary
from toilfn.server.records import Run, State
from toilfn.server.submission import ENGINE, Policy, kinds_offered
from toilfn.server.tasks import TaskRow
from toilfn.stores import MissingObjectError

__all__ = [
    "collected", "json_bytes", "open_inside", "open_stream", "page_size", "read_number", "read_token", "run_log",
    "service_info", "shown", "summary", "task_log", "token",
]  # fmt: skip

_LONGEST = 64 << 20
"""Maximum size of the JSON that a command prints as its outputs, in bytes."""


def collected(run: Run, code: int) -> tuple[dict[str, Any] | None, str]:
    """Return the outputs of a finished command and an error message: None without outputs, empty without an error."""
    kind = run.request["kind"]
    if code == 0 and kind == "PYTHON":
        return dict(_files(run)), ""
    path = run.folder / "stdout"
    if not path.exists() or (size := path.stat().st_size) == 0:
        return None, ""
    if size > _LONGEST:
        return None, f"the outputs are not shown, because they are {size} bytes of JSON; read standard output"
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None, "standard output is not a JSON object with outputs" if code == 0 else ""
    return (value, "") if isinstance(value, dict) else (None, "")


def _files(run: Run) -> Iterator[tuple[str, Any]]:
    top = run.outputs_folder
    for path in sorted(top.rglob("*")):
        if path.is_file() and not path.is_symlink():
            name = os.fspath(path.relative_to(top))
            yield name, {"class": "File", "location": path.as_uri(), "basename": path.name, "size": path.stat().st_size}


def shown(value: Any, top: Path, url: str) -> Any:
    """Return outputs in which paths below a folder are replaced by URLs of this server.

    In the JSON of a CWL file or directory, ``location`` becomes the URL, and ``path`` the path.

    Parameters
    ----------
    value : any JSON value
    top : Path
        The folder of the run's outputs.
    url : str
        The folder's URL, with a slash at its end.
    """
    return _replaced(value, lambda text: _url(text, top, url))


def _replaced(value: Any, url_of: Callable[[str], tuple[str, str] | None]) -> Any:
    if isinstance(value, list):
        return [_replaced(each, url_of) for each in value]
    if isinstance(value, str):
        found = url_of(value)
        return found[0] if found else value
    if not isinstance(value, dict):
        return value
    new = {key: _replaced(each, url_of) for key, each in value.items()}
    location = value.get("location")
    if value.get("class") in ("File", "Directory") and isinstance(location, str) and (found := url_of(location)):
        new["path"] = found[1]
    return new


def _url(text: str, top: Path, url: str) -> tuple[str, str] | None:
    """Return the URL and the path of a file below the folder; None for any other text."""
    path = unquote(urlsplit(text).path) if text.startswith("file://") else text
    if not path.startswith(f"{top}/"):
        return None
    try:
        name = confined.relative(path[len(str(top)) + 1 :])
    except InputError:
        return None
    return url + quote(name), path


def open_stream(run: Run, name: str) -> BinaryIO | None:
    """Open the output of a run's command, ``stdout`` or ``stderr``; return None if there is no output yet."""
    path = run.folder / name
    if path.exists():
        return path.open("rb", buffering=0)
    try:
        return run.objects.open(name)
    except MissingObjectError:
        return None


def open_inside(folder: Path, name: str) -> BinaryIO | None:
    """Open a file below a folder; None if it does not exist, or if its name or a link leads out of the folder."""
    try:
        path = confined.inside(folder, name)
        file = path.open("rb", buffering=0)
    except (InputError, OSError, ValueError):
        return None
    # Check the opened file, not its name: a running workflow may replace the name by a link at any time.
    reached, root = os.path.realpath(f"/proc/self/fd/{file.fileno()}"), os.path.realpath(folder)
    if os.path.exists("/proc/self/fd") and not reached.startswith(f"{root}/"):
        file.close()
        return None
    return file


_PAGE = 100
_LARGEST_PAGE = 1000
_BIGGEST = 2**63


def json_bytes(content: Any) -> bytes:
    """Return JSON in ASCII, which can represent any Python string, even one with lone surrogates."""
    return json.dumps(content, allow_nan=False).encode()


def moment(seconds: float | None) -> str | None:
    """Format a time, in seconds since the epoch, as the specification requires; None stays None."""
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(0, seconds)))


def page_size(text: str | None) -> int:
    """Parse the parameter ``page_size``, the maximum number of items on a page.

    Raises
    ------
    InputError
        If it is not a number above 0.
    """
    if text is None:
        return _PAGE
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 0 < number < _BIGGEST:
        raise InputError(f"page_size: {text[:40]!r} is not a number above 0")
    return min(number, _LARGEST_PAGE)


def token(last: str | int) -> str:
    """Return the token of the page that begins after an item."""
    return base64.urlsafe_b64encode(str(last).encode()).decode().rstrip("=")


def read_token(text: str | None) -> str:
    """Return the item after which a page begins, from the page's token; without a token, the first page begins.

    Raises
    ------
    InputError
        If the token does not come from `token`.
    """
    if not text:
        return ""
    try:
        last = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except ValueError:
        last = ""
    if not last or token(last) != text:
        raise InputError("page_token: not issued by this service")
    return last


def read_number(text: str | None) -> int:
    """Return the number of the item after which a page begins, from the page's token; 0 without a token.

    Raises
    ------
    InputError
        If the token does not come from `token`.
    """
    last = read_token(text) or "0"
    if not last.isdecimal() or int(last[:20]) >= _BIGGEST:
        raise InputError("page_token: not issued by this service")
    return int(last)


def service_info(policy: Policy, counts: dict[str, int], url: str, about: dict[str, str]) -> dict[str, Any]:
    """Return the object ServiceInfo.

    Parameters
    ----------
    policy : Policy
    counts : dict of str to int
        Runs by state.
    url : str
        The URL of the service, without a slash at the end.
    about : dict of str to str
        The operator's description of the service: ``id``, ``name``, ``organization``, ``organization_url``,
        ``contact``, ``auth``.
    """
    kinds = kinds_offered(policy)
    info = {
        "id": about.get("id", "org.toilfn.wes"),
        "name": about.get("name", "toilfn"),
        "type": {"group": "org.ga4gh", "artifact": "wes", "version": "1.1.0"},
        "description": "Runs workflows with toilfn.",
        "organization": {
            "name": about.get("organization", "toilfn"),
            "url": about.get("organization_url", url),
        },
        "version": __version__,
        "workflow_type_versions": {kind.name: {"workflow_type_version": list(kind.versions)} for kind in kinds},
        "supported_wes_versions": ["1.0.0", "1.1.0"],
        "supported_filesystem_protocols": ["file", "http", "https", "s3", "gs"],
        "workflow_engine_versions": {ENGINE: {"workflow_engine_version": [__version__]}},
        "default_workflow_engine_parameters": list(map(_parameter, policy.defaults)),
        "system_state_counts": {state.value: counts.get(state.value, 0) for state in State},
        "auth_instructions_url": about.get("auth", url + "/service-info"),
        "tags": {},
    }
    return info | ({"contactUrl": about["contact"]} if "contact" in about else {})


def _parameter(option: str) -> dict[str, str]:
    name, given, value = option.lstrip("-").partition("=")
    return {"name": name, "type": "string" if given else "flag", "default_value": value}


def summary(row: Summary) -> dict[str, Any]:
    """Return the object RunSummary."""
    times = {"start_time": moment(row.started), "end_time": moment(row.ended)}
    return {"run_id": row.id, "state": row.state, **_given(times), "tags": row.tags}


def run_log(run: Run, state: State, url: str) -> dict[str, Any]:
    """Return the object RunLog.

    Parameters
    ----------
    run : Run
    state : State
    url : str
        The URL of the run, without a slash at the end.
    """
    started, ended = run.read("started") or {}, run.read("exit") or {} if state.is_final else {}
    log = {
        "name": run.request["document"],
        "cmd": started.get("command"),
        "start_time": moment(started.get("time")),
        "end_time": moment(ended.get("time")),
        "stdout": f"{url}/stdout",
        "stderr": f"{url}/stderr",
        "exit_code": ended.get("exit_code"),
        "system_logs": ended.get("notes") or None,
    }
    found = (run.read("outputs") or {}).get("outputs") or {}
    return {
        "run_id": run.id, "request": run.request["request"], "state": state.value, "run_log": _given(log),
        "task_logs_url": f"{url}/tasks", "task_logs": None,
        "outputs": shown(found, run.outputs_folder, f"{url}/outputs/"),
    }  # fmt: skip


_CODES = {"done": 0, "failed": 1}


def task_log(row: TaskRow, url: str) -> dict[str, Any]:
    """Return the object TaskLog.

    Parameters
    ----------
    row : TaskRow
    url : str
        The URL of the run, without a slash at the end.
    """
    id = row.id.hex()
    ended = row.state in _CODES
    notes = [f"state: {row.state}"]
    notes += [f"host: {row.host}"] if row.host else []
    notes += [f"attempts: {row.attempts}"] if row.attempts else []
    notes += [f"{row.cause}: {row.error}"] if row.error else []
    log = {
        "name": row.name,
        "cmd": [row.name],
        "start_time": moment(row.started),
        "end_time": moment(row.ended) if ended else None,
        "stdout": f"{url}/tasks/{quote(id)}/log",
        "stderr": f"{url}/tasks/{quote(id)}/log",
        "exit_code": _CODES.get(row.state),
        "system_logs": notes,
    }
    return {"id": id, **_given(log)}


def error(status: int, message: str) -> dict[str, Any]:
    """Return the object ErrorResponse."""
    return {"msg": message, "status_code": status}


def _given(content: dict[str, Any]) -> dict[str, Any]:
    """Leave out unknown values."""
    return {name: value for name, value in content.items() if value is not None}


def listed(items: Iterable[Any], name: str, next_token: str) -> dict[str, Any]:
    """Return a page of a list."""
    return {name: list(items), "next_page_token": next_token}
