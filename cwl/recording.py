"""``--provenance``: collect the data for the research object of a run, and write it at the end of the run."""

from __future__ import annotations

import argparse
import getpass
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cwltool.errors import WorkflowException
from cwltool.process import Process

from toilfn.config.settings import Settings
from toilfn.stores import open_store

__all__ = ["Recording"]


class Recording:
    """The research object of a run, if one is requested.

    Parameters
    ----------
    directory : str, optional
        The directory to create; without one, nothing is recorded.
    options : argparse.Namespace
        The options of the command line, which say what may be recorded about the user.
    """

    def __init__(self, directory: str | None, options: argparse.Namespace) -> None:
        self._directory = directory
        self._options = options
        self._document: Any = None

    @contextmanager
    def readable(self, resolved: Settings) -> Iterator[dict[str, Any]]:
        """Yield additional settings for the run, so that its store can be read afterwards.

        If no store is set, a temporary one is created, which is removed after success.

        Raises
        ------
        WorkflowException
            If the user's settings remove the store after the run.
        """
        if self._directory is None:
            yield {}
        elif resolved.store is None:
            store = tempfile.mkdtemp(prefix="toilfn-")
            yield {"store": store, "clean": "never"}
            shutil.rmtree(store, ignore_errors=True)
        elif resolved.clean in ("always", "onSuccess"):
            raise WorkflowException(f"--provenance reads the store after the run; leave out --clean {resolved.clean}")
        else:
            yield {}

    def begin(self, process: Process) -> None:
        """Save the loaded document, before it is packed for tasks."""
        if self._directory is not None:
            from toilfn.cwl import provenance

            self._document = provenance.packed(process)

    def end(
        self, process: Process, inputs: dict[str, Any], result: dict[str, Any], settings: Mapping[str, Any]
    ) -> None:
        """Write the research object from the store of a successful run."""
        if self._directory is None:
            return
        from toilfn.cwl import provenance

        options, resolved = self._options, Settings.resolve(**settings)
        name = options.cwl_full_name or (getpass.getuser() if options.user_provenance else "")
        agent = provenance.Agent(name, options.orcid or "", options.host_provenance)
        store = open_store(str(resolved.store), create=False, **(resolved.store_options or {}))
        record = provenance.Record(process, self._document, inputs, result, agent)
        provenance.write(self._directory, record, store)
