"""Write files of the workflow, read them as copies and as streams, and delete them (tutorial_managing2)."""

import toilfn as toil


@toil.task
def global_files() -> None:
    here = toil.current().temp_dir
    scratch = here / "scratch.txt"
    scratch.write_text("Oh, what a tangled web we weave")
    web = toil.write_file(scratch)

    with toil.open_write("candle.txt", cleanup=True) as stream:  # deleted after this task and all that it created
        stream.write(b"Out brief candle")
    candle = stream.file

    print(web.path().read_text())  # a read-only local copy
    candle.path(here / "foo.txt", mutable=True)  # a copy that may be changed, at a path of our choice
    with candle.open("r") as stream:
        print(stream.read())
    web.delete()  # takes effect when this task has succeeded


if __name__ == "__main__":
    toil.compute(global_files(), stream_logs=True)
