"""Sort a text file that need not fit into memory, by merge sort.

The file is cut in two until the parts are small, the parts are sorted in parallel, and the sorted
parts are merged in pairs. All parts are files in the job store.

    python examples/merge_sort.py [FILE] [-o OUTPUT] [--lines N] [--store STORE]

Without FILE, it sorts the lines of all sources of the standard library. With --store, a run that
was stopped resumes when the same command is run again.
"""

import argparse
import heapq
import shutil
import sysconfig
from itertools import islice, pairwise
from pathlib import Path

import toilfn as toil


@toil.task(memory="500M")
def merge_sort(file: toil.File, most: int) -> toil.File:
    """Sort the lines of a file; each task sorts at most `most` lines."""
    with file.open() as lines:
        count = sum(1 for _ in lines)
    if count <= most:
        return sort(file)
    left, right = cut(file, count // 2)
    return merge(merge_sort(left, most), merge_sort(right, most))


def sort(file: toil.File) -> toil.File:
    with file.open() as lines, toil.open_write("sorted.txt") as result:
        result.writelines(sorted(line.rstrip(b"\n") + b"\n" for line in lines))
    return result.file


def cut(file: toil.File, count: int) -> tuple[toil.File, toil.File]:
    with file.open() as lines, toil.open_write("left.txt") as left, toil.open_write("right.txt") as right:
        left.writelines(islice(lines, count))
        right.writelines(lines)
    return left.file, right.file


@toil.task(memory="100M")
def merge(left: toil.File, right: toil.File) -> toil.File:
    with left.open() as a, right.open() as b, toil.open_write("sorted.txt") as result:
        result.writelines(heapq.merge(a, b))
    return result.file


@toil.task(memory="100M")
def is_sorted(file: toil.File, source: toil.File) -> bool:
    """Check, with little memory, that a file is sorted and has the same lines as another one."""
    with file.open() as lines:
        in_order = all(a <= b for a, b in pairwise(lines))
    return in_order and hash_of_lines(file) == hash_of_lines(source)


def hash_of_lines(file: toil.File) -> tuple[int, int]:
    with file.open() as lines:
        hashes = [hash(line.rstrip(b"\n")) for line in lines]
    return len(hashes), sum(hashes)


@toil.task(local=True)
def collect_sources(folder: str) -> toil.File:
    with toil.open_write("sources.txt") as result:
        for path in sorted(Path(folder).rglob("*.py")):
            if "site-packages" not in path.parts:
                with path.open("rb") as source:
                    shutil.copyfileobj(source, result)
    return result.file


def main() -> None:
    parser = argparse.ArgumentParser(description="Sort the lines of a file.")
    parser.add_argument("file", nargs="?", help="path or URL (default: the sources of the standard library)")
    parser.add_argument("-o", "--output", default="sorted.txt", help="output file (default: %(default)s)")
    parser.add_argument("--lines", type=int, default=100_000, help="maximum number of lines that one task sorts")
    parser.add_argument("--store", help="job store to keep; the same command resumes from it")
    options = parser.parse_args()

    source = toil.import_file(options.file) if options.file else collect_sources(sysconfig.get_path("stdlib"))
    result = merge_sort(source, options.lines)
    path, right = toil.compute(toil.export(result, options.output), is_sorted(result, source), store=options.store)
    print(f"{path}: {'the same as sorted() gives' if right else 'NOT sorted'}")


if __name__ == "__main__":
    main()
