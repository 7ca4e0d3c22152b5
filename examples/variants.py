"""Call variants: align paired reads to a genome in parallel chunks, and call the differences.

    python examples/variants.py [GENOME READS_1 READS_2] [-o OUTPUT] [--chunk N] [--store STORE]

All inputs are gzipped files, given as paths or URLs. The defaults are the phage genome and the reads that come
with bowtie2 (Debian packages: bowtie2 bowtie2-examples samtools bcftools).
"""

import argparse
import gzip
import shutil
import subprocess
from itertools import islice
from pathlib import Path

import toilfn as toil

EXAMPLES = "/usr/share/doc/bowtie2/examples"


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


@toil.task(memory="100M")
def unpack(archive: toil.File) -> toil.File:
    with gzip.open(archive.open()) as packed, toil.open_write(archive.name.removesuffix(".gz")) as plain:
        shutil.copyfileobj(packed, plain)
    return plain.file


@toil.task(memory="1G")
def index(genome: toil.File) -> list[Path]:
    folder = toil.current().temp_dir / "index"
    folder.mkdir()
    run("bowtie2-build", "--quiet", genome.path(), folder / "genome")
    return sorted(folder.iterdir())


@toil.task(memory="100M")
def split(reads: toil.File, size: int) -> list[toil.File]:
    """Cut reads into files of `size` reads each; a read has four lines."""
    parts = []
    with gzip.open(reads.open()) as lines:
        while chunk := list(islice(lines, 4 * size)):
            with toil.open_write("reads.fq") as part:
                part.writelines(chunk)
            parts.append(part.file)
    return parts


@toil.task
def align_all(index: list[toil.File], left: list[toil.File], right: list[toil.File]) -> list[toil.File]:
    """Create one task for each chunk, now that the number of chunks is known."""
    return [align(index, *pair) for pair in zip(left, right, strict=True)]


@toil.task(cores=1, memory="1G")
def align(index: list[toil.File], left: toil.File, right: toil.File) -> Path:
    temp = toil.current().temp_dir
    for part in index:
        part.path(part.name)
    run("bowtie2", "--quiet", "-x", temp / "genome", "-1", left.path(), "-2", right.path(), "-S", temp / "reads.sam")
    run("samtools", "sort", "-o", temp / "reads.bam", temp / "reads.sam")
    return temp / "reads.bam"


@toil.task(memory="1G")
def merge(parts: list[toil.File]) -> Path:
    merged = toil.current().temp_dir / "reads.bam"
    run("samtools", "merge", merged, *[part.path() for part in parts])
    return merged


@toil.task(memory="1G")
def call(genome: toil.File, reads: toil.File) -> Path:
    temp = toil.current().temp_dir
    pileup, calls = temp / "pileup.bcf", temp / "calls.vcf"
    run("bcftools", "mpileup", "--no-version", "-f", genome.path("genome.fa"), "-Ou", "-o", pileup, reads.path())
    run("bcftools", "call", "--no-version", "--ploidy", "1", "-mv", "-o", calls, pileup)
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description="Call variants.")
    parser.add_argument("genome", nargs="?", default=f"{EXAMPLES}/reference/lambda_virus.fa.gz")
    parser.add_argument("reads_1", nargs="?", default=f"{EXAMPLES}/reads/reads_1.fq.gz")
    parser.add_argument("reads_2", nargs="?", default=f"{EXAMPLES}/reads/reads_2.fq.gz")
    parser.add_argument("-o", "--output", default="calls.vcf", help="output file (default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=2500, help="pairs that one task aligns (default: %(default)s)")
    parser.add_argument("--store", help="job store to keep; the same command resumes from it")
    options = parser.parse_args()

    genome = unpack(toil.import_file(options.genome))
    left, right = (split(toil.import_file(reads), options.chunk) for reads in (options.reads_1, options.reads_2))
    reads = merge(align_all(index(genome), left, right))
    path = toil.compute(toil.export(call(genome, reads), options.output), store=options.store)
    with open(path) as calls:
        print(f"{path}: {sum(not line.startswith('#') for line in calls)} variants")


if __name__ == "__main__":
    main()
