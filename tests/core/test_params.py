"""Parameters of scripts: types, sources, errors, help, and what the store keeps."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

import toilfn as toil
from tests.commands import toilfn
from toilfn.config.params import PARAMS_VARIABLE, describe, given
from toilfn.errors import InputError


class Mode(enum.Enum):
    FAST = 1
    EXACT = 2


@dataclass
class Params:
    name: str
    threads: int = 4
    rate: float = 0.5
    deep: bool = False
    reads: Path = Path("reads.fq")
    kind: Literal["a", "b"] = "a"
    mode: Mode = Mode.FAST
    limit: int | None = None
    sizes: list[int] = field(default_factory=list)
    more: dict[str, float] = field(default_factory=dict)
    pair: tuple[str, int] = ("x", 1)


def read(monkeypatch: pytest.MonkeyPatch, **values: Any) -> Params:
    monkeypatch.setenv(PARAMS_VARIABLE, json.dumps(values))
    return toil.params(Params)


def test_text_and_values_become_what_the_fields_say(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "name": "5", "threads": "8", "rate": "1e-3", "deep": "yes", "reads": "a b.fq", "kind": "b", "mode": "EXACT",
        "limit": "3", "sizes": "1, 2", "more": '{"x": 1}', "pair": "y,2",
    }  # fmt: skip
    values = {
        "name": "5", "threads": 8, "rate": 0.001, "deep": True, "reads": "a b.fq", "kind": "b", "mode": 2,
        "limit": 3, "sizes": [1, 2], "more": {"x": 1}, "pair": ["y", 2],
    }  # fmt: skip
    wanted = Params("5", 8, 0.001, True, Path("a b.fq"), "b", Mode.EXACT, 3, [1, 2], {"x": 1.0}, ("y", 2))
    assert read(monkeypatch, **texts) == read(monkeypatch, **values) == wanted
    assert read(monkeypatch, name="x", limit="none") == Params("x")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "parameter name is required; write --param name=VALUE"),
        ({"name": "x", "thread": 1}, "unknown parameter 'thread'; did you mean 'threads'?"),
        ({"name": "x", "threads": "many"}, "parameter threads: 'many' is not a whole number"),
        ({"name": "x", "threads": 1.5}, "parameter threads: 1.5 is not a whole number"),
        ({"name": "x", "threads": True}, "parameter threads: True is not a whole number"),
        ({"name": ["x"]}, "parameter name: ['x'] is not of the type str"),
        ({"name": "x", "deep": "maybe"}, "parameter deep: 'maybe' is not true or false"),
        ({"name": "x", "kind": "c"}, "parameter kind: 'c' is not one of a, b"),
        ({"name": "x", "mode": "SLOW"}, "parameter mode: 'SLOW' is not one of FAST, EXACT"),
        ({"name": "x", "sizes": "1,b"}, "parameter sizes: '1,b' is not of the type list[int]"),
        ({"name": "x", "more": "x"}, "parameter more: 'x' is not of the type dict"),
    ],
)
def test_errors_name_the_parameter(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as raised:
        read(monkeypatch, **values)
    assert words in str(raised.value)


def test_flags_win_over_files_and_later_files_over_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("threads: 1\nday: 2026-01-02\nmax-size: 3\n")
    (tmp_path / "b.json").write_text('{"threads": 2, "name": "b"}')
    files = [str(tmp_path / "a.yaml"), str(tmp_path / "b.json")]
    assert given(files, ["name=x=y"]) == {"threads": 2, "day": "2026-01-02", "max_size": 3, "name": "x=y"}
    (tmp_path / "c.yaml").write_text("- 1\n")
    for wrong in ([str(tmp_path / "none.yaml")], [str(tmp_path / "c.yaml")]):
        with pytest.raises(InputError, match="parameter file"):
            given(wrong, [])
    with pytest.raises(InputError, match="--param x: write NAME=VALUE"):
        given([], ["x"])


def test_only_a_dataclass_is_accepted() -> None:
    with pytest.raises(InputError, match="needs a dataclass"):
        toil.params(int)


SCRIPT = '''
from dataclasses import dataclass
import toilfn as toil

@dataclass
class Params:
    word: str
    """What to print."""
    times: int = 2

@toil.task
def repeat(word, times):
    return word * times

if __name__ == "__main__":
    given = toil.params(Params)
    print(toil.compute(repeat(given.word, given.times), store="run", cluster="inline"))
'''


def test_a_run_with_parameters_its_help_and_its_explanation(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(SCRIPT)
    (tmp_path / "params.yaml").write_text("word: ab\ntimes: 3\n")
    assert describe(tmp_path / "flow.py") == [
        ("word", "str, required", "What to print."), ("times", "int, default: 2", ""),
    ]  # fmt: skip
    help = toilfn(tmp_path, "run", "flow.py", "--help").stdout
    assert "  word   str, required: What to print.\n  times  int, default: 2\n" in help
    assert toilfn(tmp_path, "run", "flow.py", "--params", "params.yaml").stdout == "ababab\n"
    done = toilfn(tmp_path, "run", "flow.py", "--params", "params.yaml", "--param", "times=1")
    assert done.stdout == "ab\n", done.stderr
    newest = toilfn(tmp_path, "explain", "run", "repeat")
    assert "parameter times of the run: 3 -> 1" in newest.stdout
    wrong = toilfn(tmp_path, "run", "flow.py", "--param", "word=a", "--param", "times=x")
    assert (wrong.returncode, wrong.stderr.startswith("toilfn: parameter times: 'x' is not a whole number")) == (
        2,
        True,
    )


def test_help_finds_the_dataclass_in_a_module_beside_the_script(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text("from lab.base import Base\n")
    (tmp_path / "lab" / "base.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Base:\n    x: int = 1\n"
    )
    (tmp_path / "own.py").write_text(
        "from dataclasses import dataclass\nimport lab\n@dataclass\n"
        "class Own(lab.Base):\n    y: str = 'a'\n    'Its help.'\n"
    )
    entries = [("x", "int, default: 1", ""), ("y", "str, default: 'a'", "Its help.")]
    for code in (
        "from own import Own as P\ntoil.params(P)",
        "import own\ntoil.params(own.Own)",
        "import own as o\ntoil.params(o.Own)",
    ):
        (tmp_path / "flow.py").write_text(f"import toilfn as toil\n{code}\n")
        assert describe(tmp_path / "flow.py") == entries, code
        done = toilfn(tmp_path, "run", "flow.py", "--param", "x=2", "--param", "y=b")
        assert done.returncode == 0, done.stderr
    (tmp_path / "flow.py").write_text("from elsewhere import P\nimport toilfn as toil\ntoil.params(P)\n")
    assert describe(tmp_path / "flow.py") == []
    (tmp_path / "flow.py").write_text("import toilfn as toil\nclass P(P): ...\ntoil.params(P)\n")
    assert describe(tmp_path / "flow.py") == []
