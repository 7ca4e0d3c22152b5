"""The grammars: what they read, what they say, and that they are kept between processes."""

from __future__ import annotations

import json

import lark
import pytest
import WDL
from WDL import _parser

from tests.wdl.running import run
from toilfn.wdl.dialect import patch_miniwdl

SOURCE = "version 1.1\n# said\nworkflow w { Int x = 1 }\n"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    patch_miniwdl()
    return tmp_path / "toilfn" / "wdl"


def parsed_anew(monkeypatch):
    """Parse as another process would."""
    monkeypatch.setattr(_parser, "_lark_cache", {})
    return WDL.parse_document(SOURCE)


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the grammar was worked out again")


def test_a_grammar_is_computed_once(cache, monkeypatch):
    first = parsed_anew(monkeypatch)
    monkeypatch.setattr(lark.Lark, "__init__", refuse)
    again = parsed_anew(monkeypatch)
    assert again.workflow.digest == first.workflow.digest
    assert [comment.text for comment in again.source_comments if comment] == ["# said"]


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x05}."])
def test_a_stored_grammar_that_is_not_valid_is_computed_again(cache, monkeypatch, content):
    parsed_anew(monkeypatch)
    (kept,) = cache.iterdir()
    kept.write_bytes(content)
    assert parsed_anew(monkeypatch).workflow.name == "w"
    assert kept.stat().st_size > 1000


def test_a_file_that_others_can_write_is_not_trusted(cache, monkeypatch):
    parsed_anew(monkeypatch)
    (kept,) = cache.iterdir()
    kept.chmod(0o666)
    monkeypatch.setattr(lark.Lark, "__init__", refuse)
    with pytest.raises(AssertionError, match="worked out again"):
        parsed_anew(monkeypatch)


def test_everything_works_without_a_place_for_the_cache(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert parsed_anew(monkeypatch).workflow.name == "w"


SIGNS = """\
# A document
version {version}  # of some age
workflow w {{
  meta {{ nothing: null  more: [null, -0x1f, {{ none: null }}] }}
  input {{ Int a = 3  Float f = 1.5 }}
  Array[Int] all = [-a, - a, a-1, a -1, -(a + 2) * -2, 0x1F - -0Xf, -[7, 8][1]{plus}]
  output {{ Array[Int] found = all  Float half = -f  Boolean less = -a < 0 }}
}}
"""


@pytest.mark.parametrize("version", ["1.0", "1.1", "# new\n  1.2"])
def test_signs_hexadecimal_numbers_null_in_metadata_and_a_comment_beside_the_version(tmp_path, version):
    (tmp_path / "d.wdl").write_text(SIGNS.format(version=version, plus=", +a" if version == "1.0" else ""))
    done = run(["d.wdl"], tmp_path)
    assert done.status == 0, done.stderr
    outputs = json.loads(done.stdout)
    assert outputs["w.found"] == [-3, -3, 2, 2, 10, 46, -8] + [3] * (version == "1.0")
    assert outputs["w.half"] == -1.5
    assert outputs["w.less"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("# new\nversion #\n1.3\nworkflow w {}\n", "3:1: WDL 1.3 is not supported; supported versions are 1.0"),
        (
            "version 1.2\nenum X { A }\nworkflow w {}\n",
            "2:1: 'enum' is unexpected here; expected the end, 'import', 'struct', 'task', 'workflow'",
        ),
        ("version 1.1\nworkflow w { Int x = 1\n", "2:22: the document ends too early"),
        ("version\n1.1\nworkflow w { Int x = -true }\n", "3:22: Non-numeric operand to - operator"),
        ("version 1.1\nworkflow w { Int x = +x }\n", "2:22: '+' is unexpected here"),
        (
            "version 1.2\ntask t { command <<< ~{task.previous.memory} >>> }\n",
            "2:24: No such member 'previous'",
        ),
    ],
)
def test_errors_of_syntax_are_one_line(tmp_path, source, said):
    (tmp_path / "d.wdl").write_text(source)
    done = run(["d.wdl"], tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.status == 2
    assert f"{tmp_path / 'd.wdl'}:{said}" in line
    (tmp_path / "main.wdl").write_text('version 1.1\nimport "d.wdl"\nworkflow v {}\n')
    assert run(["main.wdl"], tmp_path).stderr == done.stderr
