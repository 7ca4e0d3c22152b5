"""The grammars that are kept between processes."""

from __future__ import annotations

import lark
import pytest
import WDL
from WDL import _parser

from toilfn.wdl.dialect import teach

SOURCE = "version 1.1\n# said\nworkflow w { Int x = 1 }\n"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    teach()
    return tmp_path / "toilfn" / "wdl"


def parsed_anew(monkeypatch):
    """Parse as another process would."""
    monkeypatch.setattr(_parser, "_lark_cache", {})
    return WDL.parse_document(SOURCE)


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("the grammar was worked out again")


def test_a_grammar_is_worked_out_once(cache, monkeypatch):
    first = parsed_anew(monkeypatch)
    monkeypatch.setattr(lark.Lark, "__init__", refuse)
    again = parsed_anew(monkeypatch)
    assert again.workflow.digest == first.workflow.digest
    assert [comment.text for comment in again.source_comments if comment] == ["# said"]


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x05}."])
def test_what_is_no_grammar_is_made_anew(cache, monkeypatch, content):
    parsed_anew(monkeypatch)
    (kept,) = cache.iterdir()
    kept.write_bytes(content)
    assert parsed_anew(monkeypatch).workflow.name == "w"
    assert kept.stat().st_size > 1000


def test_what_others_can_write_is_not_believed(cache, monkeypatch):
    parsed_anew(monkeypatch)
    (kept,) = cache.iterdir()
    kept.chmod(0o666)
    monkeypatch.setattr(lark.Lark, "__init__", refuse)
    with pytest.raises(AssertionError, match="worked out again"):
        parsed_anew(monkeypatch)


def test_without_a_place_to_keep_it_all_works(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert parsed_anew(monkeypatch).workflow.name == "w"
