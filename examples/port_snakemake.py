r"""Run a small pipeline ported from Snakemake: count words in samples, then join the counts into one table.

Each rule of the Snakefile below has become one `toil.shell`:

    SAMPLES = ["a", "b"]

    rule all:
        input: "table.tsv"

    rule count:
        input: "data/{sample}.txt"
        output: "counts/{sample}.tsv"
        threads: 1
        resources: mem_mb=100
        shell: "tr -s ' ' '\n' < {input} | sort | uniq -c > {output}"

    rule table:
        input: expand("counts/{sample}.tsv", sample=SAMPLES)
        output: "table.tsv"
        shell: "cat {input} | sort -rn > {output}"

Run it as ``python port_snakemake.py data/*.txt``.
"""

import sys

import toilfn as toil

count = toil.shell(
    r"tr -s ' ' '\n' < {sample} | sort | uniq -c > {out}",
    outputs="counts/{sample.stem}.tsv",
    name="count",
    cores=1,
    memory="100M",
)
table = toil.shell("cat {counts} | sort -rn > {out}", outputs="table.tsv", name="table")

if __name__ == "__main__":
    samples = [toil.input(name) for name in sys.argv[1:]]
    print(toil.compute(toil.export(table(count.map(samples)), "table.tsv"), store="run1"))
