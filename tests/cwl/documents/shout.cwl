cwlVersion: v1.2
class: Workflow
doc: Copies a text for each word, in capitals or not, and joins the copies.
requirements:
  ScatterFeatureRequirement: {}
  InlineJavascriptRequirement: {}
  StepInputExpressionRequirement: {}
inputs:
  text: File
  words: string[]
  loud: boolean
outputs:
  joined:
    type: File
    outputSource: join/joined
  louder:
    type: File?
    outputSource: lift/capitals
  count:
    type: int
    outputSource: measure/number
steps:
  mark:
    scatter: word
    in: {text: text, word: words}
    out: [marked]
    run:
      class: CommandLineTool
      baseCommand: [sed]
      inputs:
        word: {type: string, inputBinding: {position: 1, valueFrom: "s/^/$(self): /"}}
        text: {type: File, inputBinding: {position: 2}}
      stdout: $(inputs.word).txt
      outputs:
        marked: {type: stdout}
  join:
    in: {parts: mark/marked}
    out: [joined]
    run:
      class: CommandLineTool
      baseCommand: cat
      inputs:
        parts: {type: "File[]", inputBinding: {}}
      stdout: joined.txt
      outputs:
        joined: {type: stdout}
  lift:
    when: $(inputs.loud)
    in: {joined: join/joined, loud: loud}
    out: [capitals]
    run:
      class: CommandLineTool
      baseCommand: [tr, a-z, A-Z]
      stdin: $(inputs.joined.path)
      inputs:
        joined: File
      stdout: capitals.txt
      outputs:
        capitals: {type: stdout}
  measure:
    in:
      parts: {source: mark/marked, valueFrom: $(self.length)}
    out: [number]
    run:
      class: ExpressionTool
      inputs: {parts: int}
      outputs: {number: int}
      expression: "${return {number: inputs.parts}}"
