"""Build a real Kubernetes from Debian's source package, once for each machine.

There is no Debian package of the control plane, and its binaries are not published where tests may fetch them.
They are kept in the folder of ``TOILFN_TEST_CACHE``, by default ``~/.cache/toilfn-tests``.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.servers.machine import ServerMissingError, cache_folder

PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
PACKAGE = "k8s.io/kubernetes"
VERSION_VARIABLES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
GENERATED = "pkg/generated/openapi/zz_generated.openapi.go"
"""The one generated file that the source package lacks."""


def programs_folder() -> Path:
    """Return the folder of the built programs."""
    return cache_folder() / "kubernetes"


def is_built() -> bool:
    """Return whether all programs exist."""
    return all((programs_folder() / name).exists() for name in PROGRAMS)


def build() -> Path:
    """Build the programs unless they exist, or wait until another process has built them; return their folder."""
    folder = programs_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_built():
            _build(folder)
    return folder


def build_in_background() -> None:
    """Start building, at a low priority, with a log beside the programs; return at once."""
    if is_built():
        return
    folder = programs_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "build.log").open("wb") as log:
        command = ["setsid", "--fork", "nice", "-n", "5", sys.executable, "-m", "tests.servers.kubernetes", "build"]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)


def _build(folder: Path) -> None:
    work = folder / "work"
    try:
        source = _source(work)
        _link(work, source)
        _generate(work, source)
        for program in PROGRAMS:
            _go(work, source, program, f"./cmd/{program}", "-tags", "providerless", "-ldflags", _version(source))
            (work / program).rename(folder / program)
            print(f"built {program}", flush=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or ""
        raise ServerMissingError(f"Kubernetes could not be built: {error} {said[-500:]}") from error
    shutil.rmtree(work, ignore_errors=True)


def _source(work: Path) -> Path:
    """Download Debian's source package, with a separate state of apt: the machine's state is left alone."""
    unpacked = list(work.glob("kubernetes-*/"))
    if unpacked:
        return unpacked[0]
    for name in ("lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True, exist_ok=True)
    (work / "src.list").write_text(_apt_sources())
    settings = {"SourceParts": "Etc::SourceParts=/nonexistent", "SourceList": f"Etc::SourceList={work}/src.list"}
    settings |= {"State": f"State::Lists={work}/lists", "Cache": f"Cache={work}/cache"}
    apt = ["apt-get", "-qq", *(f"-oDir::{setting}" for setting in settings.values())]
    _run([*apt, "update"], work)
    _run([*apt, "source", "--download-only", "kubernetes"], work)
    with tarfile.open(next(work.glob("kubernetes_*.orig.tar.*"))) as archive:
        archive.extractall(work)
    return next(work.glob("kubernetes-*/"))


def _apt_sources() -> str:
    """Return the source lines of the machine's own Debian mirrors."""
    what = ["--format", "deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages", "Origin: Debian"]
    return _run(["apt-get", "indextargets", *what], Path("/"))


def _link(work: Path, source: Path) -> None:
    """Put the source where Go looks for a package: without modules, Go only needs its ``vendor`` folder."""
    place = work / "go" / "src" / "k8s.io" / "kubernetes"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(source)


def _generate(work: Path, source: Path) -> None:
    """Build the description of the API, as the source's own Makefile.generated_files does."""
    if (source / GENERATED).exists():
        return
    _go(work, source, "openapi-gen", "./vendor/k8s.io/kube-openapi/cmd/openapi-gen")
    target = f"{PACKAGE}/{Path(GENERATED).parent}"
    command = [f"{work}/openapi-gen", "--logtostderr", "-i", ",".join(_described(source)), "-p", target]
    command += ["-O", Path(GENERATED).stem, "-h", "hack/boilerplate/boilerplate.generatego.txt"]
    command += ["-r", f"{work}/violations.txt", "-o", f"{work}/go/src"]
    _run(command, work / "go" / "src" / PACKAGE, _go_environment(work))


def _described(source: Path) -> list[str]:
    """List the packages that the description is made from."""
    roots = [source / "pkg", source / "plugin", source / "staging" / "src" / "k8s.io"]
    skipped = re.compile(r"code-generator|sample-apiserver|/testing$|/test|/testdata")
    found = set()
    for root in roots:
        for path in root.rglob("*.go"):
            name = str(path.parent.relative_to(source))
            if not skipped.search(name) and b"+k8s:openapi-gen=" in path.read_bytes():
                found.add(name.removeprefix("staging/src/") if name.startswith("staging/") else f"{PACKAGE}/{name}")
    return sorted(found)


def _version(source: Path) -> str:
    """Return the linker flags with the version, which Go takes from nowhere else."""
    version = source.name.removeprefix("kubernetes-")
    major, minor = version.split(".")[:2]
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    values |= {"gitCommit": "debian", "buildDate": "1970-01-01T00:00:00Z"}
    flags = [
        f"-X {PACKAGE}/vendor/{package}.{name}={value}"
        for package in VERSION_VARIABLES
        for name, value in values.items()
    ]
    return " ".join(["-s", "-w", *flags])


def _go(work: Path, source: Path, program: str, package: str, *flags: str) -> None:
    command = ["go", "build", *flags, "-o", str(work / program), package]
    _run(command, work / "go" / "src" / PACKAGE, _go_environment(work))


def _go_environment(work: Path) -> dict[str, str]:
    alone = {"GO111MODULE": "off", "GOFLAGS": "", "GOPROXY": "off", "GOSUMDB": "off", "CGO_ENABLED": "0"}
    return alone | {"GOPATH": f"{work}/go", "GOCACHE": f"{work}/gocache"}


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    # Go finds its packages by the path it believes to be in, which is a link's.
    inherited = os.environ | {"PWD": str(folder)} | (environment or {})
    return subprocess.run(command, cwd=folder, env=inherited, check=True, capture_output=True, text=True).stdout
