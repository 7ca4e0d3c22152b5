"""Stand-ins for a batch system's commands: first on PATH, they do something wrong, or run the real command.

They work before real commands and before the fakes. A fault is used up by one call, or by as many as it is given for::

    kit = StandIns(tmp_path / "kit", "squeue", "sbatch", "scancel")
    monkeypatch.setenv("PATH", kit.path)
    kit.next("squeue", refuse("slurm_load_jobs error: Zero Bytes were transmitted or received", 1), times=3)
    kit.always("sbatch", noisy("NOTICE: maintenance on Monday"))
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections import Counter
from pathlib import Path

__all__ = ["StandIns", "answer", "cut", "deaf", "gone", "killed", "noisy", "refuse", "slow"]

_WRAPPER = """\
#!/bin/sh
real={real} kit={kit} name={name}
echo "$name $*" >> "$kit/calls"
for fault in "$kit/$name.next"/*; do
  if mv "$fault" "$kit/used/$name-$$" 2>/dev/null; then
    . "$kit/used/$name-$$"
  fi
  break
done
if test -e "$kit/$name.always"; then
  . "$kit/$name.always"
fi
exec "$real" "$@"
"""


class StandIns:
    """Stand-ins for some commands, in their own folder.

    Parameters
    ----------
    folder : Path
        New; `calls` in it has a line for each call.
    commands : str
        Names of commands that are on PATH now.
    """

    def __init__(self, folder: Path, *commands: str) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (folder / "used").mkdir()
        (folder / "calls").touch()
        self._before = os.environ["PATH"]
        self._count = 0
        for command in commands:
            real = shutil.which(command)
            assert real is not None, f"{command} is not on PATH"
            (folder / f"{command}.next").mkdir()
            text = _WRAPPER.format(real=shlex.quote(real), kit=shlex.quote(str(folder)), name=command)
            (self.bin / command).write_text(text)
            (self.bin / command).chmod(0o755)

    @property
    def path(self) -> str:
        """The PATH, with the stand-ins first."""
        return f"{self.bin}:{self._before}"

    def next(self, command: str, fault: str, times: int = 1) -> None:
        """Give each of the next calls of a command a fault, once."""
        for _ in range(times):
            self._count += 1
            draft = self.folder / f"draft-{self._count}"
            draft.write_text(fault)
            draft.rename(self.folder / f"{command}.next" / f"{self._count:06}")

    def always(self, command: str, fault: str) -> None:
        """Give all further calls of a command a fault; an empty fault ends that."""
        place = self.folder / f"{command}.always"
        if fault:
            draft = self.folder / f"draft-{command}"
            draft.write_text(fault)
            draft.rename(place)
        else:
            place.unlink(missing_ok=True)

    def calls(self) -> Counter[str]:
        """Count the calls of each command."""
        return Counter(line.split()[0] for line in (self.folder / "calls").read_text().splitlines() if line.strip())

    def is_used_up(self, command: str) -> bool:
        """Return whether all faults that were given for the next calls of a command have happened."""
        return not any((self.folder / f"{command}.next").iterdir())


def refuse(words: str, status: int = 1) -> str:
    """Print a message on standard error, and fail; the real command does not run."""
    return f"printf '%s\\n' {shlex.quote(words)} >&2\nexit {status}\n"


def answer(text: str, status: int = 0) -> str:
    """Print a foreign answer; the real command does not run."""
    return f"printf '%s' {shlex.quote(text)}\nexit {status}\n"


def noisy(before: str = "", after: str = "", error: str = "") -> str:
    """Print lines around the real command's answer, and words on standard error."""
    lines = [f"printf '%s\\n' {shlex.quote(error)} >&2"] if error else []
    lines += [f"printf '%s\\n' {shlex.quote(before)}"] if before else []
    lines += ['"$real" "$@"', "status=$?"]
    lines += [f"printf '%s\\n' {shlex.quote(after)}"] if after else []
    return "\n".join([*lines, "exit $status", ""])


def cut(size: int) -> str:
    """Print only the first bytes of the real command's answer, with status 0."""
    return f'"$real" "$@" | head -c {size}\nexit 0\n'


def deaf(words: str, status: int = 1) -> str:
    """Let the real command do its work, and then lose its answer."""
    return f'"$real" "$@" >/dev/null 2>&1\n{refuse(words, status)}'


def late(when: Path, words: str, status: int = 1) -> str:
    """Fail at once, and let the real command do its work as soon as a file exists, if that is within five minutes."""
    wait = f"n=0; until test -e {shlex.quote(str(when))} || test $n = 3000; do sleep 0.1; n=$((n + 1)); done"
    later = f'({wait}; test $n = 3000 || exec "$real" "$@" < "$kit/used/input-$$") >/dev/null 2>&1 &'
    return f'cat > "$kit/used/input-$$"\n{later}\n{refuse(words, status)}'


def slow(seconds: float) -> str:
    """Run the real command later."""
    return f"sleep {seconds}\n"


def killed(name: str = "KILL") -> str:
    """End by a signal; the real command does not run."""
    return f"kill -{name} $$\nsleep 60\n"


def gone() -> str:
    """Answer like a shell that does not find the command or its interpreter."""
    return refuse("command not found", 127)
