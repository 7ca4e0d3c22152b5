"""``--provenance``: keeps what a run's research object is made of, and has it written when the run is over."""

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
    """The research object of a run, if one is wanted.

    Parameters
    ----------
    directory : str, optional
        Where it is to be; without one, nothing is recorded.
    options : argparse.Namespace
        The command line, which says what may be told of the user.
    """

    def __init__(self, directory: str | None, options: argparse.Namespace) -> None:
        self._directory = directory
        self._options = options
        self._document: Any = None

    @contextmanager
    def readable(self, resolved: Settings) -> Iterator[dict[str, Any]]:
        """Return more settings for the run: its store is to be read again afterwards.

        A temporary store is made here, which stays when the run fails.

        Raises
        ------
        WorkflowException
            If the user wants the store to be removed at once.
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
        """Take the document as it was loaded, before it is packed for tasks."""
        if self._directory is not None:
            from toilfn.cwl import provenance

            self._document = provenance.packed(process)

    def end(
        self, process: Process, inputs: dict[str, Any], result: dict[str, Any], settings: Mapping[str, Any]
    ) -> None:
        """Write it, from the store of a run that has succeeded."""
        if self._directory is None:
            return
        from toilfn.cwl import provenance

        options, resolved = self._options, Settings.resolve(**settings)
        name = options.cwl_full_name or (getpass.getuser() if options.user_provenance else "")
        agent = provenance.Agent(name, options.orcid or "", options.host_provenance)
        store = open_store(str(resolved.store), create=False, **(resolved.store_options or {}))
        record = provenance.Record(process, self._document, inputs, result, agent)
        provenance.write(self._directory, record, store)
