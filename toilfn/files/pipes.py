"""Named pipes: a program reads a file of the store from its first byte to its last, without a local copy."""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path

from toilfn.files.file import File

__all__ = ["Pipe"]

_CHUNK = 2**20


class Pipe:
    """A named pipe that a thread fills when a program opens it.

    Parameters
    ----------
    file : File
        The content.
    path : Path
        The place of the pipe, whose directory exists.
    """

    def __init__(self, file: File, path: Path) -> None:
        self._file = file
        self._path = path
        self._opened = threading.Event()
        self._ended = False
        self._error: BaseException | None = None
        os.mkfifo(path, 0o600)
        self._thread = threading.Thread(target=copy_context().run, args=(self._fill,), daemon=True, name="pipe")
        self._thread.start()

    def finish(self) -> None:
        """End the thread, after the program has ended; the program need not have read all, or anything.

        Raises
        ------
        Exception
            If the program got too little, or wrong content, because the file could not be read.
        """
        self._ended = True
        with suppress(FileNotFoundError):  # if the program has removed the pipe
            reader = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)  # lets the thread go that waits for a reader
            try:
                self._opened.wait()
            finally:
                os.close(reader)
        if self._opened.is_set():
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _fill(self) -> None:
        try:
            with self._path.open("wb", buffering=0) as pipe:
                self._opened.set()
                if not self._ended:
                    with self._file.open() as content:
                        shutil.copyfileobj(content, pipe, _CHUNK)
        except BrokenPipeError:
            pass  # the program has read enough
        except BaseException as error:
            self._error = error
        finally:
            self._opened.set()
