"""Run a container as a task: python docker.py IMAGE (tutorial_docker)."""

import os
import sys

import toilfn as toil

align = toil.task(toil.docker)

if __name__ == "__main__":
    cwd = os.getcwd()
    listing = align(sys.argv[1], ["ls", "-lha"], volumes={cwd: "/data"}, working_dir="/data", text=True)
    print(toil.compute(listing))
