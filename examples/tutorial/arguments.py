"""Add the settings of the run to a script's command line (tutorial_arguments)."""

import argparse

import toilfn as toil


@toil.task(memory="2G", cores=2, disk="3G")
def hello_world(message: str) -> str:
    return f"Hello, world!, here's a message: {message}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    toil.add_options(parser)
    settings = toil.from_options(parser.parse_args())
    print(toil.compute(hello_world("Woot"), **settings))
