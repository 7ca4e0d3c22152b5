"""Use a directory and a file that exist only while the task runs (tutorial_managing)."""

import toilfn as toil


@toil.task(disk="2G")
def local_files() -> str:
    scratch_dir = toil.current().temp_dir
    scratch_file = scratch_dir / "scratch"
    scratch_file.write_text("gone soon")
    return str(scratch_file)


if __name__ == "__main__":
    print(toil.compute(local_files()))
