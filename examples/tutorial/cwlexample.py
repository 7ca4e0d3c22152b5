"""Run one CWL tool on several inputs and export each output under its own name (tutorial_cwlexample)."""

import sys
from pathlib import Path

import toilfn as toil
from toilfn.cwl import load

if __name__ == "__main__":
    hello, outputs = load(Path(__file__).with_name("hello.cwl")), Path(sys.argv[1])
    made = [hello(message=f"hello{number}")["output"] for number in (1, 2, 3)]
    toil.compute([toil.export(file, outputs / f"sample_{n}_output.txt") for n, file in enumerate(made, start=1)])
