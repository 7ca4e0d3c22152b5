"""Offer every setting of a run as an option: try --help (tutorial_helloworld)."""

import argparse

import toilfn as toil


@toil.task(memory="1G", cores=1, disk="1G")
def hello_world(message: str) -> str:
    return f"Hello, world!, here's a message: {message}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    toil.add_options(parser)
    print(toil.compute(hello_world("You did it!"), **toil.from_options(parser.parse_args())))
