#!/usr/bin/env toilfn-cwl-runner
cwlVersion: v1.2
class: Workflow
doc: |
  Variant calling, as examples/variants.py does it: align paired reads to a genome in chunks, side by side, and call
  what differs. All inputs may be URLs and are gzipped.

      toilfn-cwl-runner examples/variants.cwl \
        --genome lambda_virus.fa.gz --reads_1 reads_1.fq.gz --reads_2 reads_2.fq.gz

  Debian has the programs in bowtie2, samtools and bcftools, and such inputs in bowtie2-examples.
requirements:
  ScatterFeatureRequirement: {}
  StepInputExpressionRequirement: {}
  InlineJavascriptRequirement: {}

inputs:
  genome: File
  reads_1: File
  reads_2: File
  chunk:
    doc: How many pairs of reads are aligned by one task.
    type: int
    default: 2500

outputs:
  calls:
    type: File
    outputSource: call/calls

steps:
  unpack:
    in: {archive: genome}
    out: [plain]
    run:
      class: CommandLineTool
      requirements: {ResourceRequirement: {ramMin: 100}}
      baseCommand: [gzip, -dc]
      stdin: $(inputs.archive.path)
      inputs: {archive: File}
      stdout: genome.fa
      outputs: {plain: {type: stdout}}

  index:
    in: {genome: unpack/plain}
    out: [index]
    run:
      class: CommandLineTool
      requirements:
        ResourceRequirement: {ramMin: 1000}
        InitialWorkDirRequirement:
          listing: [{entryname: index, entry: '${return {class: "Directory", listing: []}}', writable: true}]
      baseCommand: [bowtie2-build, --quiet]
      arguments: [$(inputs.genome.path), index/genome]
      inputs: {genome: File}
      outputs:
        index: {type: Directory, outputBinding: {glob: index}}

  split_1:
    in: {reads: reads_1, chunk: chunk}
    out: [parts]
    run: &split
      class: CommandLineTool
      requirements:
        ResourceRequirement: {ramMin: 100}
        ShellCommandRequirement: {}
      inputs: {reads: File, chunk: int}
      arguments:
        - {shellQuote: false, valueFrom: gzip -dc}
        - $(inputs.reads.path)
        - {shellQuote: false, valueFrom: "| split --suffix-length=6 --additional-suffix=.fq --lines=$(4 * inputs.chunk) - part_"}
      outputs:
        parts: {type: "File[]", outputBinding: {glob: "part_*.fq"}}
  split_2:
    in: {reads: reads_2, chunk: chunk}
    out: [parts]
    run: *split

  align:
    scatter: [left, right]
    scatterMethod: dotproduct
    in:
      index: index/index
      left: split_1/parts
      right: split_2/parts
    out: [aligned]
    run:
      class: CommandLineTool
      requirements:
        ResourceRequirement: {coresMin: 1, ramMin: 1000}
        ShellCommandRequirement: {}
      inputs: {index: Directory, left: File, right: File}
      arguments:
        - {shellQuote: false, valueFrom: bowtie2 --quiet --reorder}
        - {prefix: -x, valueFrom: $(inputs.index.path)/genome}
        - {prefix: "-1", valueFrom: $(inputs.left.path)}
        - {prefix: "-2", valueFrom: $(inputs.right.path)}
        - {shellQuote: false, valueFrom: "| samtools sort -o aligned.bam"}
      outputs:
        aligned: {type: File, outputBinding: {glob: aligned.bam}}

  merge:
    in: {parts: align/aligned}
    out: [merged]
    run:
      class: CommandLineTool
      requirements: {ResourceRequirement: {ramMin: 500}}
      baseCommand: [samtools, merge, --no-PG, merged.bam]
      inputs:
        parts: {type: "File[]", inputBinding: {position: 1}}
      outputs:
        merged: {type: File, outputBinding: {glob: merged.bam}}

  call:
    in: {genome: unpack/plain, reads: merge/merged}
    out: [calls]
    run:
      class: CommandLineTool
      requirements:
        ResourceRequirement: {ramMin: 1000}
        ShellCommandRequirement: {}
        InitialWorkDirRequirement: {listing: [$(inputs.genome)]}
      inputs: {genome: File, reads: File}
      arguments:
        - {shellQuote: false, valueFrom: bcftools mpileup --no-version -f}
        - $(inputs.genome.basename)
        - $(inputs.reads.path)
        - {shellQuote: false, valueFrom: "| bcftools call --no-version --ploidy 1 -mv -o calls.vcf"}
      outputs:
        calls: {type: File, outputBinding: {glob: calls.vcf}}
