"""Run B after A, which is complete only when all tasks that it created are (tutorial_encapsulation2)."""

import toilfn as toil


@toil.task
def job(name: str, *needed: str) -> str:
    print(name)
    return name


@toil.task
def a() -> str:
    return job("follow-on", job("child"))


if __name__ == "__main__":
    toil.compute(job("B", a()), stream_logs=True)
