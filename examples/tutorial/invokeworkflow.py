"""Write a function with arguments where Toil needs a class with a run method (tutorial_invokeworkflow)."""

import toilfn as toil


@toil.task(memory="2G", cores=2, disk="3G")
def hello_world(message: str) -> str:
    return f"Hello, world!, here's a message: {message}"


if __name__ == "__main__":
    hello = hello_world("Woot")
    print(toil.compute(hello, clean="always"))
