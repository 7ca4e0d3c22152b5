"""Measure the steps of README on a new Debian system that has only Python: install toilfn, and run each block.

Run ``python benchmarks/newcomer.py`` as root on Debian. It creates the system with debootstrap in a temporary
directory, installs the last commit there with pip, runs the blocks of README in order, and then installs each extra
in a new environment. ``--no-readme`` and ``--no-extras`` skip a part; ``--extras NAME ...`` installs only these extras
(``none`` is toilfn alone). pip uses the package index that is configured on this machine, without a cache, so the
seconds include all downloads.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.house.pages import blocks, setup  # noqa: E402
from tests.servers.machine import debian_mirror  # noqa: E402

PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
MOUNTS = 'mount --rbind /dev "$0/dev"; mount -t proc proc "$0/proc"; exec chroot "$0" /bin/bash -euo pipefail -c "$1"'
PASSED_VARIABLES = re.compile(r"PIP_|SSL_|REQUESTS_|.*_proxy$|.*_CERT", re.IGNORECASE)
"""Environment variables of this machine that configure pip and its certificates, to pass to the system."""


def make(root: Path) -> None:
    """Create the system in a directory."""
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root), *debian_mirror()]
    subprocess.run(command, check=True, capture_output=True)
    for name in (
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/pip.conf",
        "/etc/ssl/certs/ca-certificates.crt",
        *certificates(),
    ):
        if Path(name).is_file():
            target = root / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy(name, target)
    source = root / "root/toilfn"
    source.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
    (root / "root/work").mkdir()


def certificates() -> Iterator[str]:
    """Yield the paths of certificates that environment variables of this machine name."""
    return (value for name, value in os.environ.items() if PASSED_VARIABLES.match(name) and value.startswith("/"))


def run(root: Path, script: str, folder: str = "/root/work") -> tuple[float, str]:
    """Run a script in the system and return the seconds it took and its output."""
    kept = {name: value for name, value in os.environ.items() if PASSED_VARIABLES.match(name)}
    environment = {**kept, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    environment["PIP_NO_CACHE_DIR"] = "1"
    before = time.perf_counter()
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "bash", "-c", MOUNTS, str(root), f"cd {folder}\n{script}"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"failed with status {done.returncode}:\n{script}\n{done.stdout}")
    return time.perf_counter() - before, done.stdout


ACTIVATE = ". /root/env/bin/activate\n"


def readme(root: Path) -> None:
    """Install toilfn in the system and run the blocks of README."""
    print("| step of README | seconds |\n| --- | --- |")
    seconds, _ = run(root, "python3 -m venv /root/env")
    print(f"| a virtual environment | {seconds:.1f} |")
    seconds, _ = run(root, f"{ACTIVATE}pip install .", "/root/toilfn")
    print(f"| `pip install .` | {seconds:.1f} |", flush=True)
    run(root, setup("README.md"))
    loose = []
    for block in blocks("README.md"):
        first = block.text.strip().splitlines()[0]
        if block.reason or block.language not in ("python", "sh"):
            print(f"| not run ({block.reason}): `{first}` | |")
        elif block.language == "sh":
            seconds, _ = run(root, ACTIVATE + block.text)
            print(f"| `{first}` and the rest of its block | {seconds:.1f} |", flush=True)
        elif block.title:
            (root / "root/work" / block.title).write_text(block.text)
        else:
            loose.append(block.text)
    (root / "root/work/blocks.py").write_text("\n\n".join(loose))
    seconds, _ = run(root, f"{ACTIVATE}python blocks.py")
    print(f"| the other Python blocks | {seconds:.1f} |", flush=True)


def extras(root: Path, wanted: list[str] | None) -> None:
    """Install each extra, or only the wanted ones, in a new environment, and print the time that it takes."""
    text = (ROOT / "pyproject.toml").read_text()
    names = re.findall(
        r"^(\w+) = \[", text.partition("[project.optional-dependencies]")[2].partition("\n\n")[0], re.MULTILINE
    )
    offered = ["none", *(name for name in names if name not in ("bench", "dev", "docs"))]
    print("| extra | seconds | packages |\n| --- | --- | --- |")
    for name in offered if wanted is None else wanted:
        run(root, "rm -rf /root/env && python3 -m venv /root/env")
        what = "." if name == "none" else f".[{name}]"
        seconds, _ = run(root, f"{ACTIVATE}pip install '{what}'", "/root/toilfn")
        _, listed = run(root, f"{ACTIVATE}pip list --format freeze")
        count = sum(not re.match(r"(pip|setuptools|toilfn)\b", line) for line in listed.split())
        print(f"| {name if name == 'none' else f'`{name}`'} | {seconds:.0f} | {count} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-readme", action="store_true", help="do not run the blocks of README")
    parser.add_argument("--no-extras", action="store_true", help="do not install the extras")
    parser.add_argument("--extras", nargs="+", metavar="NAME", help="install only these extras")
    options = parser.parse_args()
    if os.getuid() or not shutil.which("debootstrap"):
        raise SystemExit("this benchmark needs root and debootstrap")
    folder = Path(tempfile.mkdtemp(prefix="toilfn-newcomer-"))
    try:
        make(folder / "debian")
        if not options.no_readme:
            readme(folder / "debian")
        if not options.no_extras:
            extras(folder / "debian", options.extras)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
