"""Text that is shown to a person: no control characters, and bounded."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toilfn.text import VisibleStream, abridged, last_lines, visible


@given(st.text(st.characters(), max_size=50))
def test_visible_text_has_no_control_characters_and_can_be_encoded(text: str) -> None:
    shown = visible(text)
    assert all(unicodedata.category(c) not in ("Cc", "Cs") for c in shown if c not in "\n\t")
    shown.encode()


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), max_size=50))
def test_letters_numbers_and_signs_stay_as_they_are(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b2J", "\\x9b2J"),
        ("a\rb", "a\\x0db"),
        ("a\r\nb", "a\nb"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("\udc80", "\\udc80"),
        ("tab\tand\nline", "tab\tand\nline"),
    ],
)
def test_escapes_are_those_of_python(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_name_stays_on_one_line() -> None:
    assert visible("a\n\tb", one_line=True) == "a\\n\\tb"


def test_a_visible_stream_escapes_text_and_passes_bytes_on() -> None:
    raw = io.BytesIO()
    stream = VisibleStream.over(io.TextIOWrapper(raw, encoding="utf-8"))
    print("\x1b[2J", file=stream, flush=True)
    stream.writelines(["\x07", "\n"])
    stream.flush()
    stream.buffer.write(b"\x1b")
    stream.flush()
    assert raw.getvalue() == b"\\x1b[2J\n\\x07\n\x1b"


def test_long_texts_keep_both_ends() -> None:
    text = "\n".join(map(str, range(1000)))
    assert abridged(text, 2, 1).splitlines() == ["0", "1", "... 997 lines left out ...", "999"]
    assert abridged(text, 2, 998) == text
    assert last_lines(text + "\n", 2) == "998\n999"


def test_long_lines_are_cut() -> None:
    assert len(last_lines("x" * 20_000_000, 1)) < 600
    assert "(20000000 characters)" in abridged("x" * 20_000_000, 1, 1)
