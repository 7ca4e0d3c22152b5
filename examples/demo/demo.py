"""Show a run that is killed and resumed, step by step: ``make demo``.

    python examples/demo/demo.py [python | cwl | wdl | slurm] [--folder build/demo] [--svg FILE]

``python`` sorts the sources of the standard library, as in examples/merge_sort.py; ``slurm`` does the same in jobs of a
Slurm cluster; ``cwl`` and ``wdl`` compress those sources in parts. In each demo, the leader is killed with SIGKILL when
some tasks are done. With ``--svg``, the output is also saved as a picture of a terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
LIMIT = 300
"""The most seconds that a step may take."""


class Terminal:
    """The standard output of the demo, which also keeps the lines that a terminal would show."""

    def __init__(self) -> None:
        self.lines = [""]
        self._row = 0

    def say(self, text: str = "") -> None:
        """Print a line of the demo itself."""
        self.show(f"{text}\n")

    def title(self, text: str) -> None:
        """Print a heading."""
        self.say(f"\n\x1b[1;36m# {text}\x1b[0m")

    def show(self, text: str) -> None:
        """Print text as a command wrote it, with its colours and cursor movements."""
        sys.stdout.write(text)
        sys.stdout.flush()
        for piece in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", text):
            self._keep(piece)

    def _keep(self, piece: str) -> None:
        if piece == "\n":
            self._row += 1
            if self._row == len(self.lines):
                self.lines.append("")
        elif moved := re.fullmatch(r"\x1b\[(\d*)A", piece):
            self._row = max(0, self._row - int(moved[1] or 1))
        elif piece.endswith("K"):
            self.lines[self._row] = ""
        elif piece != "\r" and (not piece.startswith("\x1b") or piece.endswith("m")):
            self.lines[self._row] += piece

    def save(self, path: Path) -> None:
        """Write a picture of the terminal to an SVG file."""
        from rich.console import Console
        from rich.text import Text

        with open(os.devnull, "w") as nowhere:
            console = Console(record=True, width=100, file=nowhere, force_terminal=True, color_system="truecolor")
            text = "\n".join(self.lines).strip().replace(str(Path.cwd()), "/home/you/toilfn")
            console.print(Text.from_ansi(text.replace(f" on {socket.gethostname()}", " on laptop")))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(console.export_svg(title="make demo", unique_id="demo"))


class Demo:
    """One demo: the commands of a run, and the store that they share."""

    def __init__(self, terminal: Terminal, folder: Path, run: list[str], enough: int) -> None:
        self._terminal = terminal
        self._run = run
        self._enough = enough
        self.store = folder / "store"
        self.report = folder / "report.html"

    def play(self) -> None:
        """Start the run, kill it, resume it, and show the contents of the store."""
        terminal = self._terminal
        terminal.title("A run starts. Its leader is killed when some tasks are done.")
        self._interrupted()
        terminal.title("The store keeps the finished work.")
        self._do("toilfn", "status", self.store)
        terminal.title("The same run resumes and runs only the rest.")
        before = self._done()
        self._do("toilfn", "resume", self.store)
        terminal.say(f"{before} of {self._done()} tasks were done before the kill and did not run again.")
        terminal.title("The graph, folded by kind of task.")
        self._do("toilfn", "graph", self.store)
        self._do("toilfn", "report", self.store, "-o", self.report)
        terminal.title("The report is a page with the graph, a timeline and the use of resources:")
        terminal.say(f"  {self.report.resolve().as_uri()}")
        terminal.say("\nThree commands to try next:")
        for command in ("stats", "logs", "explain"):
            task = "" if command == "stats" else f" {self._task()}"
            terminal.say(f"  .venv/bin/toilfn {command} {self.store}{task}")

    def _interrupted(self) -> None:
        self._terminal.say(f"$ {_written(self._run)}")
        process, output = _start(self._run)
        watched = _Watched(self.store, process)
        end = time.monotonic() + LIMIT
        while process.poll() is None and watched.done() < self._enough:
            self._terminal.show(_read(output, 0.05))
            if time.monotonic() > end:
                process.kill()
                raise SystemExit("the run did not get far enough to be killed; its store is " + str(self.store))
        ended = process.poll()
        process.send_signal(signal.SIGKILL)
        process.wait()
        self._terminal.show(_rest(output))
        if ended is not None:
            raise SystemExit(f"the run ended with status {ended} before it could be killed")
        self._terminal.say(f"\x1b[?25h\x1b[0m\n\x1b[1;31m$ kill -9 {process.pid}\x1b[0m")

    def _do(self, *command: object) -> None:
        words = [str(word) for word in command]
        self._terminal.say(f"$ {_written(words)}")
        process, output = _start(words)
        end = time.monotonic() + LIMIT
        while process.poll() is None and time.monotonic() < end:
            self._terminal.show(_read(output, 0.05))
        if process.poll() is None:
            process.kill()
        self._terminal.show(_rest(output))
        if process.wait():
            raise SystemExit(f"{_written(words)}: exit status {process.returncode}")

    def _events(self) -> list[dict[str, object]]:
        command = [str(BIN / "toilfn"), "events", str(self.store)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [json.loads(line) for line in printed.splitlines()]

    def _done(self) -> int:
        return sum(event["event"] == "done" for event in self._events())

    def _task(self) -> object:
        """Return the most frequent name of the tasks that are done."""
        names = [str(event["name"]) for event in self._events() if event["event"] == "done"]
        return max(set(names), key=names.count)


class _Watched:
    """A counter of finished tasks, which follows the events of a store while a run writes them."""

    def __init__(self, store: Path, run: subprocess.Popen[bytes]) -> None:
        self._store, self._run = store, run
        self._events: subprocess.Popen[bytes] | None = None
        self._done = 0

    def done(self) -> int:
        """Return how many tasks are done."""
        if self._events is None and (self._store / "store.json").exists():
            command = [str(BIN / "toilfn"), "events", str(self._store), "--follow"]
            self._events = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            assert self._events.stdout is not None
            os.set_blocking(self._events.stdout.fileno(), False)
        if self._events is not None:
            assert self._events.stdout is not None
            for line in self._events.stdout.readlines():
                self._done += b'"event": "done"' in line
            if self._events.poll() is not None:  # the command started before the leader wrote events: start it again
                self._events, self._done = None, 0
        return self._done


def _written(words: list[str]) -> str:
    """Return a command as a person would type it here."""
    return shlex.join(word.removeprefix(f"{Path.cwd()}/") for word in words)


def _start(words: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command on a terminal of its own; return the process and the descriptor to read its output from."""
    ours, theirs = os.openpty()
    program = [sys.executable] if words[0] == "python" else [str(BIN / words[0])]
    environment = {**os.environ, "COLUMNS": "98", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [*program, *words[1:]], stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=environment
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    return process, ours


def _read(output: int, wait: float) -> str:
    time.sleep(wait)
    try:
        return os.read(output, 1 << 20).decode(errors="replace").replace("\r\n", "\n")
    except (BlockingIOError, OSError):
        return ""


def _rest(output: int) -> str:
    pieces = []
    while piece := _read(output, 0):
        pieces.append(piece)
    os.close(output)
    return "".join(pieces)


def _sources(folder: Path) -> Path:
    """Write the sources of the standard library into one file of the demo's folder."""
    path = folder / "sources.txt"
    with path.open("wb") as result:
        for source in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
            if "site-packages" not in source.parts:
                result.write(source.read_bytes())
    return path


def command(kind: str, folder: Path) -> tuple[list[str], int]:
    """Return the command that runs one kind of demo, and the number of tasks after which it is killed."""
    store, sources = str(folder / "store"), str(_sources(folder))
    document = str(HERE / f"compress.{kind}")
    sort = [str(HERE.parent / "merge_sort.py"), "--", sources, "-o", str(folder / "sorted.txt"), "--lines"]
    if kind == "cwl":
        return ["toilfn", "cwl", "--store", store, "--outdir", str(folder), document, "--sources", sources], 8
    if kind == "wdl":
        options = ["--store", store, "--container", "none", "-o", str(folder / "results")]
        return ["toilfn", "wdl", *options, document, f"sources={sources}"], 8
    if kind == "slurm":  # each task is a batch job, so use fewer and larger tasks
        return ["toilfn", "run", "--cluster", "slurm", "--store", store, *sort, "200000"], 3
    return ["toilfn", "run", "--store", store, *sort, "40000"], 20


def main(arguments: list[str] | None = None) -> None:
    """Play a demo."""
    parser = argparse.ArgumentParser(description="Run a workflow, kill its leader, and resume it.")
    parser.add_argument("kind", nargs="?", default="python", choices=["python", "cwl", "wdl", "slurm"])
    parser.add_argument("--folder", type=Path, default=Path("build/demo"), help="where everything is written")
    parser.add_argument("--svg", type=Path, help="write a picture of the terminal to this file")
    options = parser.parse_args(arguments)
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)

    terminal = Terminal()
    began = time.monotonic()
    Demo(terminal, options.folder, *command(options.kind, options.folder)).play()
    terminal.say(f"\nThat took {time.monotonic() - began:.0f} seconds.")
    if options.svg:
        terminal.save(options.svg)


if __name__ == "__main__":
    main()
