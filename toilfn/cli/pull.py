"""``toilfn pull IMAGE ...``."""

from __future__ import annotations

import argparse

from toilfn.containers.images import choose, provide

__all__ = ["command", "configure"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = (
        "With TOILFN_IMAGES=DIRECTORY, image files are stored in a directory that machines without a network can read."
    )
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="name of the image as tasks use it, such as ubuntu:24.04"
    )
    parser.add_argument(
        "--engine", help="docker, podman, apptainer, singularity or udocker (default: the first that works)"
    )


def command(options: argparse.Namespace) -> int:
    """Download images to the place where tasks look for them.

    Raises
    ------
    ContainerError
        If no engine works on this machine, or an image cannot be downloaded.
    """
    engine = choose(options.engine)
    for image in options.images:
        provide(engine, image)
        print(f"{engine.name} has {image}")
    return 0
