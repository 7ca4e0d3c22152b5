"""What runs again on a store that has runs already, and what does not."""

from __future__ import annotations

import pytest

from tests.cwl.test_runner import attempts

TOOL = """\
  {name}:
    in: {{word: {source}}}
    out: [said]
    run:
      class: CommandLineTool
      MORE
      baseCommand: [echo, {text}]
      inputs: {{word: {{type: string, inputBinding: {{}}}}}}
      stdout: {name}.txt
      outputs: {{said: {{type: stdout}}}}
"""
WORKFLOW = """\
cwlVersion: v1.2
class: Workflow
requirements: {InlineJavascriptRequirement: {}, StepInputExpressionRequirement: {}, SubworkflowFeatureRequirement: {}}
inputs: {one: string, two: string}
steps:
STEPS
outputs: []
"""
INNER = """\
  inner:
    in: {one: one, two: two}
    out: []
    run:
"""


def step(name, source, text="said", more=""):
    made = TOOL.format(name=name, source=source, text=text)
    return made.replace("MORE", more).replace("      \n", "")


def workflow(*steps):
    return WORKFLOW.replace("STEPS\n", "".join(steps))


def nested(*steps):
    """A workflow whose step is a workflow of these steps."""
    inner = "".join(f"      {line}\n" for line in workflow(*steps).splitlines() if "cwlVersion" not in line)
    return workflow(INNER + inner)


@pytest.fixture
def again(runner, written, tmp_path):
    """Run a document on the same store; gives how often each task has run by now."""

    def run(document, one="1", two="2"):
        done = runner("--store", tmp_path / "store", written("w.cwl", document), "--one", one, "--two", two)
        assert done.status == 0, done.messages
        return {name: count for name, count in attempts(tmp_path / "store").items() if name in ("a", "b", "c")}

    return run


def test_an_edited_tool_runs_again_and_no_other(again):
    assert again(nested(step("a", "one"), step("b", "two"))) == {"a": 1, "b": 1}
    assert again(nested(step("a", "one"), step("c", "one"), step("b", "two", "x"))) == {"a": 1, "b": 2, "c": 1}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("SubworkflowFeatureRequirement: {}", "SubworkflowFeatureRequirement: {}, EnvVarRequirement: {envDef: {X: y}}"),
        ("word: one", "word: {source: one, valueFrom: $(self + '!')}"),
        ("word: one", "word: {default: 3, source: one}"),
        ("out: [said]", "out: [said]\n    when: $(inputs.word != '')"),
    ],
)
def test_changes_of_the_workflow_around_a_tool_count(again, before, after):
    document = workflow(step("a", "one"))
    assert before in document
    assert [again(document), again(document.replace(before, after)), again(document)] == [{"a": 1}, {"a": 2}, {"a": 2}]


def test_tools_that_another_input_does_not_reach_stay(again):
    document = workflow(step("a", "one"), step("b", "two"))
    assert [again(document), again(document, two="3")] == [{"a": 1, "b": 1}, {"a": 1, "b": 2}]


def test_a_tool_that_forbids_reuse_runs_again_and_no_other(again):
    document = nested(step("a", "one", more="hints: {WorkReuse: {enableReuse: false}}"), step("b", "two"))
    assert [again(document), again(document)] == [{"a": 1, "b": 1}, {"a": 2, "b": 1}]


def test_an_expression_may_forbid_it(again):
    wish = "hints: {WorkReuse: {enableReuse: \"$(inputs.word == 'keep')\"}}"
    document = workflow(step("a", "one", more=wish), step("b", "two", more=wish))
    counts = [again(document, one="keep", two="new") for _ in range(2)]
    # Who makes the tool's task is called as the step: it looks each time.
    assert counts == [{"a": 2, "b": 2}, {"a": 3, "b": 4}]


def test_an_expression_counts_for_a_tool_alone_and_for_its_cache(runner, written, tmp_path):
    wish = "hints: {WorkReuse: {enableReuse: \"$(inputs.word == 'keep')\"}}"
    lines = step("a", "one", more=wish).split("run:\n")[1].splitlines()
    text = "cwlVersion: v1.2\nrequirements: {InlineJavascriptRequirement: {}}\n"
    tool = written("t.cwl", text + "".join(f"{line[6:]}\n" for line in lines))
    calls = ("--cachedir", tmp_path / "calls", "--store", tmp_path / "store")
    counts = []
    for word in ("keep", "keep", "new", "new"):
        assert runner(*calls, tool, "--word", word).status == 0
        counts.append(attempts(tmp_path / "store")["t.cwl"])
    assert counts == [1, 1, 2, 3]
    assert len([path for path in (tmp_path / "calls").iterdir() if path.is_dir()]) == 1


def test_an_expression_must_be_true_or_false(runner, written, tmp_path):
    wish = 'hints: {WorkReuse: {enableReuse: "$(inputs.word)"}}'
    done = runner(written("w.cwl", workflow(step("a", "one", more=wish))), "--one", "1", "--two", "2")
    assert done.status == 1
    assert "must be true or false, but its expression evaluated to '1'" in done.messages
