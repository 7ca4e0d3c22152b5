"""The container image of a Slurm cluster: unpacked by podman as on a controller, entered as by a user's job."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.containers import Containers
from tests.servers.images import DEBIAN, add_images
from tests.servers.machine import ServerMissingError, missing, serve
from toilfn.cloud.image import enter, program, unpack_script

pytestmark = pytest.mark.slow

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    yield from serve(Containers())


@pytest.fixture(scope="module")
def place(containers) -> Iterator[Path]:
    """An unpacked image with Python, which any user of this machine may enter."""
    if not shutil.which("bwrap"):
        missing(ServerMissingError("bubblewrap is not installed"))
    try:
        add_images(containers)
    except ServerMissingError as error:
        missing(error)
    folder = Path(tempfile.mkdtemp(dir="/opt"))  # which is the image's own inside
    folder.chmod(0o755)
    etc, place = folder / "etc", folder / "image"
    etc.mkdir()
    python = f"{place}/bin/python"
    (etc / "enter").write_text(enter(str(place)))
    (etc / "image-python").write_text(program(python, str(place)))
    (etc / "image-toilfn").write_text(program(f"{python} -m platform", str(place)))  # this image has no toilfn
    containers.run("sh", "-euc", unpack_script(DEBIAN, str(etc), str(place)).partition("# Ubuntu")[0])
    yield place
    shutil.rmtree(folder)


def inside(place: Path, code: str, *words: str, **more) -> subprocess.CompletedProcess[str]:
    command = [*NOBODY, str(place / "bin/python"), "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def test_a_process_sees_the_image_and_the_shared_places_of_the_machine(place):
    here = Path(tempfile.mkdtemp())
    here.chmod(0o777)
    code = (
        "import json, os, pathlib, sys; pathlib.Path('made').touch();"
        "print(json.dumps([sys.executable, os.getcwd(), os.getuid(), os.path.exists('/usr/bin/bwrap'),"
        " os.environ['MINE'], sys.argv[1:], os.path.realpath(sys.executable)]))"
    )
    done = inside(place, code, "a b", "$c", cwd=here, env=os.environ | {"MINE": "with  spaces"})
    assert done.returncode == 0, done.stderr
    *found, real = json.loads(done.stdout)
    assert found == [f"{place}/bin/python", str(here), 65534, False, "with  spaces", ["a b", "$c"]]
    assert real.startswith("/usr/bin/python3")
    assert stat.S_ISREG((here / "made").stat().st_mode)
    assert (here / "made").stat().st_uid == 65534
    shutil.rmtree(here)


def test_the_image_cannot_be_changed_and_its_programs_are_those_of_the_path(place):
    done = inside(place, "import shutil, pathlib; print(shutil.which('perl')); pathlib.Path('/usr/new').touch()")
    assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr
    assert done.stdout == "/usr/bin/perl\n"
    named = subprocess.run([*NOBODY, str(place / "bin/toilfn")], capture_output=True, text=True, check=True)
    assert named.stdout.startswith("Linux-")


def test_exit_codes_are_those_of_the_process_also_if_slurm_warns_the_job(place):
    assert inside(place, "raise SystemExit(7)").returncode == 7
    code = "import signal, sys; signal.signal(15, lambda *a: sys.exit(9)); print('ready', flush=True); signal.pause()"
    command = [*NOBODY, str(place / "bin/python"), "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 9
