"""Import a file and export another one: python staging.py IN OUT (tutorial_staging)."""

import sys

import toilfn as toil


@toil.task(memory="2G", cores=2, disk="3G")
def hello_world(source: toil.File) -> toil.File:
    with source.open("r") as text, toil.open_write("out.txt", "w") as result:
        result.write(text.read() + "World!")
    return result.file


if __name__ == "__main__":
    greeting = hello_world(toil.import_file(sys.argv[1]))
    toil.compute(toil.export(greeting, sys.argv[2]))
