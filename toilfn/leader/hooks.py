"""Commands and URLs that hear about the end of a run: the settings ``on_success`` and ``on_failure``."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from toilfn.config.settings import Settings
from toilfn.errors import ToilfnError
from toilfn.inspect.fold.run import Fold
from toilfn.inspect.summary import summary
from toilfn.stores import Store

__all__ = ["call_hook"]

_log = logging.getLogger(__name__)

_PATIENCE = 60.0
"""Seconds that a hook may take."""


def call_hook(settings: Settings, store: Store, status: str) -> None:
    """Report the end of a run to its hook, if there is one; warn if that does not work, since the run's result stands.

    Parameters
    ----------
    settings : Settings
        Its hooks are http or https URLs, which get the run's summary by POST; commands as lists; or lines for the
        shell. Commands read the summary from standard input.
    store : Store
    status : str
        As in `toilfn.model.records.End`.
    """
    name = "on_success" if status == "done" else "on_failure"
    hook = getattr(settings, name)
    if hook is None:
        return
    try:
        data = json.dumps(_summary(store)).encode()
        if isinstance(hook, str) and hook.startswith(("http://", "https://")):
            _post(hook, data)
        else:
            _run(hook, data)
    except (ToilfnError, OSError, ValueError, subprocess.SubprocessError) as error:
        _log.warning("the hook %s failed: %s; this does not change the result of the run", name, _reason(hook, error))


def _summary(store: Store) -> dict[str, Any]:
    fold = Fold()
    fold.update(store)
    fold.stop_running()
    return summary(store.url, fold, None)


def _post(url: str, data: bytes) -> None:
    request = Request(url, data, {"Content-Type": "application/json"}, method="POST")  # noqa: S310 - by the caller
    with urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310 - http or https, as the caller has checked
        answer.read()


def _run(command: str | Sequence[str], data: bytes) -> None:
    """Run a command; its output goes to standard error, like the leader's messages."""
    arguments = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=_standard_error(), start_new_session=True)
    try:
        with suppress(BrokenPipeError):  # it need not read the summary
            process.communicate(data, timeout=_PATIENCE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    if status:
        raise subprocess.CalledProcessError(status, arguments)


def _standard_error() -> int | None:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # closed, or a stream of a notebook or a test
        return 2


def _reason(hook: str | Sequence[str], error: Exception) -> str:
    """Return why a hook failed, without the path of a URL or the arguments of a command, which may be secrets."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"it exited with status {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it did not finish within {_PATIENCE:.0f} s"
    if isinstance(hook, str) and hook.startswith("http"):
        return f"{urlsplit(hook).hostname}: {getattr(error, 'reason', None) or error}"
    return str(error)
