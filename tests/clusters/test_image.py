"""The image of docker/Dockerfile, built from local layers and wheels only, runs workflows and workers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

import toilfn
from tests.house.rooms import ROOT
from tests.servers.fixtures import containers, images
from tests.servers.images import DEBIAN
from tests.servers.machine import cache_folder

__all__ = ["containers", "images"]

BASE = "localhost/toilfn-tests/python-with-pip"
IMAGE = "localhost/toilfn-tests/toilfn"
EXTRAS = "s3"

PIP = """\
FROM {base}
COPY pip /usr/local/lib/python3.11/dist-packages
RUN rm /usr/lib/python3.11/EXTERNALLY-MANAGED
"""
"""Debian's Python as the official image has it: with pip, and nobody else's packages to guard."""


def podman(*words, **options):
    done = subprocess.run(["podman", *words], capture_output=True, text=True, timeout=280, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheels():
    """The packages that toilfn needs, for the image's Python; kept between runs."""
    folder = cache_folder() / "wheels-3.11"
    target = ["--python-version", "3.11", "--only-binary=:all:", "--dest", str(folder)]
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in (17, 24, 27, 28)] + ["--platform=manylinux2014_x86_64"]
    for earlier in folder.glob("toilfn-*.whl"):
        earlier.unlink()  # pip would take this for the new one, whose name is the same
    with tempfile.TemporaryDirectory() as build:
        own = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", build, str(ROOT)]
        subprocess.run(own, check=True)
        (wheel,) = Path(build).glob("toilfn-*.whl")
        wanted = [f"{wheel}[{EXTRAS}]", "pip", "setuptools", "wheel"]
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", *target, *platforms, *wanted], check=True)
    return folder


@pytest.fixture(scope="module")
def image(images, wheels):
    """The image, under its name."""
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(max(wheels.glob("pip-*.whl"))).extractall(f"{folder}/pip")
        Path(folder, "Dockerfile").write_text(PIP.format(base=DEBIAN))
        podman("build", "--quiet", "--tag", BASE, folder)
    arguments = {"BASE": BASE, "PACKAGES": "", "EXTRAS": EXTRAS}
    arguments["PIP_OPTIONS"] = "--no-index --no-compile --find-links=/wheels"
    options = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    options += ["--pull=never", "--network=none", f"--volume={wheels}:/wheels:ro"]
    podman("build", "--quiet", *options, "--file", str(ROOT / "docker" / "Dockerfile"), "--tag", IMAGE, str(ROOT))
    return IMAGE


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_image_runs_a_workflow(image):
    assert toilfn.__version__ in podman("run", "--rm", "--network=none", image, "toilfn", "--version")
    command = ["python3", "/examples/merge_sort.py", "-o", "/tmp/sorted"]
    podman("run", "--rm", "--network=none", f"--volume={ROOT}/examples:/examples:ro", image, *command)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_worker_says_what_is_wrong_with_a_store_it_cannot_open(image):
    """That is, `python3 -m toilfn.worker` is there, as jobs call it."""
    command = ["run", "--rm", "--network=none", image, "python3", "-m", "toilfn.worker", "/nowhere", "1-0"]
    done = subprocess.run(["podman", *command], capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    assert "/nowhere" in done.stderr
