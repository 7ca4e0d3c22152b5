cwlVersion: v1.2
class: CommandLineTool
doc: Says what it is told.
baseCommand: echo
inputs:
  message:
    type: string
    inputBinding: {}
stdout: said.txt
outputs:
  said:
    type: stdout
