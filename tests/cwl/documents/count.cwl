cwlVersion: v1.2
class: Workflow
inputs: {text: File, pattern: string}
outputs: {count: {type: File, outputSource: number/count}}
steps:
  find:
    in: {text: text, pattern: pattern}
    out: [lines]
    run:
      class: CommandLineTool
      baseCommand: grep
      inputs:
        pattern: {type: string, inputBinding: {position: 1}}
        text: {type: File, inputBinding: {position: 2}}
      stdout: lines.txt
      outputs: {lines: stdout}
  number:
    in: {lines: find/lines}
    out: [count]
    run:
      class: CommandLineTool
      baseCommand: [wc, -l]
      stdin: $(inputs.lines.path)
      inputs: {lines: File}
      stdout: count.txt
      outputs: {count: stdout}
