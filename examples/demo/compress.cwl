#!/usr/bin/env toilfn-cwl-runner
cwlVersion: v1.2
class: Workflow
doc: Compress a file in parts, side by side, and join the parts to one file that gunzip reads.
requirements:
  ScatterFeatureRequirement: {}

inputs:
  sources: File

outputs:
  compressed:
    type: File
    outputSource: join/joined

steps:
  split:
    in: {file: sources}
    out: [parts]
    run:
      class: CommandLineTool
      baseCommand: [split, "--lines=40000"]
      inputs:
        file: {type: File, inputBinding: {position: 1}}
      outputs:
        parts: {type: "File[]", outputBinding: {glob: x*}}

  compress:
    scatter: part
    in: {part: split/parts}
    out: [packed]
    run:
      class: CommandLineTool
      baseCommand: [gzip, "-9", "--stdout"]
      stdout: packed.gz
      inputs:
        part: {type: File, inputBinding: {position: 1}}
      outputs:
        packed: stdout

  join:
    in: {parts: compress/packed}
    out: [joined]
    run:
      class: CommandLineTool
      baseCommand: cat
      stdout: sources.txt.gz
      inputs:
        parts: {type: "File[]", inputBinding: {position: 1}}
      outputs:
        joined: stdout
