"""Compute the disk space that a task needs from the sizes of many files (Toil's manual, section 12.10)."""

import toilfn as toil


@toil.task(cores=2, disk=lambda files: sum(file.size for file in files))
def analysis(files: list[toil.File]) -> int:
    return toil.current().disk


if __name__ == "__main__":
    print(toil.compute(analysis([toil.import_file(__file__) for _ in range(10)])))
