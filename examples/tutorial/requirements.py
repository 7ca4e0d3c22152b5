"""Compute the disk space that a task needs from the size of its input file (tutorial_requirements)."""

import toilfn as toil


@toil.task(cores=2, disk=lambda file: file.size)
def analysis(file: toil.File) -> int:
    return toil.current().disk


if __name__ == "__main__":
    print(toil.compute(analysis(toil.import_file(__file__))))
