"""Log a message in a task; print would work as well (tutorial_jobfunctions)."""

import toilfn as toil


@toil.task
def hello_world(message: str) -> None:
    toil.current().log.info("Hello world, I have a message: %s", message)


if __name__ == "__main__":
    toil.compute(hello_world("Woot!"), stream_logs=True)
