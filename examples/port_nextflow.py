"""Run a small pipeline ported from Nextflow: split a text, change each part, and collect the parts.

Each process of the Nextflow script below has become one `toil.shell`, and the channels have become a task that creates
tasks:

    process split {
        input: path text
        output: path 'part_*'
        script: "split -l 2 $text part_"
    }
    process upper {
        input: path part
        output: stdout
        script: "cat $part | tr '[a-z]' '[A-Z]'"
    }
    workflow {
        Channel.fromPath(params.text) | split | flatten | upper | collect | view { it.join() }
    }

Run it as ``toilfn run port_nextflow.py -- text.txt``.
"""

import sys

import toilfn as toil

split = toil.shell("split -l 2 {text} part_", outputs={"parts": "part_*"})
upper = toil.shell("cat {part} | tr '[a-z]' '[A-Z]'", name="upper")


@toil.task
def each(parts: list[toil.File]) -> list[str]:
    return upper.map(parts)  # one task for each part


@toil.task
def collect(texts: list[str]) -> str:
    return "".join(texts)


if __name__ == "__main__":
    parts = split(toil.input(sys.argv[1]))["parts"]
    print(toil.compute(collect(each(parts)), store="run2"), end="")
