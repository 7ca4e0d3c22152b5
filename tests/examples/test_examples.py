"""Every example runs in a process of its own and gives the right result."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def start(tmp_path):
    """Starts an example; its stores and temporary files are in the test's own directory."""
    started = []

    def start(name, *args):
        (tmp_path / "tmp").mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, EXAMPLES / name, *map(str, args)],
            cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def run(start):
    """Runs an example to its end and gives what it printed."""

    def run(name, *args):
        process = start(name, *args)
        printed, messages = process.communicate(timeout=200)
        assert process.returncode == 0, messages
        return printed

    return run


def test_all_examples_are_tested():
    text = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in text] == []


def test_hello(run):
    assert run("hello.py") == "Hello, world!, here's a message: Woot\n"


def test_dynamic(run):
    expected = ["".join(bits) for bits in itertools.product("01", repeat=3)]
    assert run("dynamic.py", 3).split() == expected


def test_promises(run):
    assert run("promises.py") == "4 4 {'first': 4, 'last': 4, 'remainder': 1}\n"


def test_fibonacci(run):
    assert run("fibonacci.py", 8) == "21\n"


def test_files(run, tmp_path):
    assert run("files.py", "out/result.txt") == f"{tmp_path}/out/result.txt\n"
    title = (EXAMPLES / "files.py").read_text().splitlines()[0]
    expected = [title, "Oh, what a tangled web we weave", "Out brief candle", "(exeunt)"]
    assert (tmp_path / "out" / "result.txt").read_text().splitlines() == expected


def test_word_count(run):
    texts = [ROOT / "README.md", EXAMPLES / "files.py"]
    words = Counter(word for text in texts for word in re.findall(r"\w+", text.read_text().lower()))
    counted = [line.split() for line in run("word_count.py", *texts).splitlines()]
    assert [int(times) for times, _ in counted] == [times for _, times in words.most_common(10)]
    assert all(words[word] == int(times) for times, word in counted)


@pytest.fixture
def lines(tmp_path):
    """The path of 5000 lines in disorder, some of them equal or empty, the last one without an end."""
    shuffled = [f"{random.Random(n).randrange(2000)}" * (n % 7) for n in range(5000)]
    path = tmp_path / "lines.txt"
    path.write_text("\n".join([*shuffled, "the end"]))
    return path


def in_order(path):
    return "".join(sorted(f"{line}\n" for line in path.read_text().split("\n")))


def test_merge_sort(run, tmp_path, lines):
    printed = run("merge_sort.py", lines, "-o", "out.txt", "--lines", 700)
    assert printed == f"{tmp_path}/out.txt: the same as sorted() gives\n"
    assert (tmp_path / "out.txt").read_text() == in_order(lines)


def test_merge_sort_of_nothing(run, tmp_path):
    (tmp_path / "empty").touch()
    run("merge_sort.py", "empty")
    assert (tmp_path / "sorted.txt").read_text() == ""


def test_merge_sort_is_resumed_after_it_was_killed(start, run, tmp_path, lines):
    command = ("merge_sort.py", lines, "--lines", 100, "--store", tmp_path / "store")
    process = start(*command)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("store/log/*"))) < 8 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    run(*command)
    assert (tmp_path / "sorted.txt").read_text() == in_order(lines)


@pytest.mark.slow
def test_merge_sort_of_the_standard_library(run, tmp_path):
    assert run("merge_sort.py").endswith("the same as sorted() gives\n")
    with (tmp_path / "sorted.txt").open("rb") as result:
        assert all(a <= b for a, b in itertools.pairwise(result))
    assert (tmp_path / "sorted.txt").stat().st_size > 5_000_000


@pytest.mark.skipif(
    not all(map(shutil.which, ("bowtie2", "samtools", "bcftools")))
    or not Path("/usr/share/doc/bowtie2/examples").exists(),
    reason="needs the Debian packages bowtie2, bowtie2-examples, samtools and bcftools",
)
def test_variants(run, tmp_path):
    examples = Path("/usr/share/doc/bowtie2/examples")
    inputs = [examples / "reference/lambda_virus.fa.gz", *(examples / f"reads/reads_{n}.fq.gz" for n in (1, 2))]
    by_hand = subprocess.run(
        [ROOT / "tests/examples/variants.sh", *inputs], capture_output=True, text=True, check=True
    ).stdout
    calls = [line for line in by_hand.splitlines() if not line.startswith("#")]
    assert run("variants.py", *inputs) == f"{tmp_path}/calls.vcf: {len(calls)} variants\n"
    found = [line for line in (tmp_path / "calls.vcf").read_text().splitlines() if not line.startswith("#")]
    assert [line.split()[:5] for line in found] == [line.split()[:5] for line in calls]


def test_service(run):
    assert run("service.py") == "(6, 6, 6)\n"


def test_the_pipelines_of_other_engines(run, tmp_path):
    (tmp_path / "a b.txt").write_text("x y\nx\n")
    (tmp_path / "c.txt").write_text("x\ny\nz\n")
    run("port_snakemake.py", "a b.txt", "c.txt")
    assert (tmp_path / "table.tsv").read_text().split() == ["2", "x", "1", "z", "1", "y", "1", "y", "1", "x"]
    assert run("port_nextflow.py", "c.txt") == "X\nY\nZ\n"
