"""Work with files: scratch space, files of the workflow, imported and exported files.

python examples/files.py [OUTPUT]
"""

import sys
from pathlib import Path

import toilfn as toil


@toil.task
def write() -> dict[str, toil.File | Path]:
    # A path in the task's temporary directory becomes a file of the workflow when the task returns it.
    web = toil.current().temp_dir / "web.txt"
    web.write_text("Oh, what a tangled web we weave\n")

    # A stream needs no directory.
    with toil.open_write("candle.txt", "w") as stream:
        stream.write("Out brief candle\n")
    return {"web": web, "candle": stream.file}


@toil.task
def read(web: toil.File, candle: toil.File, source: toil.File) -> toil.File:
    # A local copy to read, which is a link into the cache of the node.
    lines = web.path().read_text()

    # A local copy to change.
    notes = candle.path("notes.txt", mutable=True)
    with notes.open("a") as file:
        file.write("(exeunt)\n")

    # A stream, which makes no copy.
    with source.open("r") as stream:
        title = stream.readline()

    candle.delete()  # takes effect when this task has succeeded
    with toil.open_write("result.txt", "w") as result:
        result.write(title + lines + notes.read_text())
    return result.file


if __name__ == "__main__":
    output = sys.argv[1] if len(sys.argv) > 1 else "result.txt"
    files = write()
    result = read(files["web"], files["candle"], toil.import_file(__file__))
    print(toil.compute(toil.export(result, output)))
