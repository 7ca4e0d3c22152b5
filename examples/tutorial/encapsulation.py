"""Run B after A and all tasks that A created (tutorial_encapsulation)."""

import toilfn as toil


@toil.task
def job(name: str, *successors: str) -> None:
    for successor in successors:
        toil.spawn(job(successor))
    print(name)


if __name__ == "__main__":
    a = job("A", "child", "follow-on")
    b = job.options(after=a)("B")
    toil.compute(b, stream_logs=True)
