"""Prepare text from tasks and documents for terminals: escape control characters, shorten it, and build tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TextIO, cast

__all__ = ["VisibleStream", "abridged", "checked_variables", "last_lines", "table", "visible"]

_LONGEST_LINE = 500
"""Maximum number of characters of a line that `abridged` and `last_lines` show."""

_INVISIBLE = [
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)),  # order of writing, line separators
    0xFEFF,
    *range(0xD800, 0xE000),  # lone surrogates, which no stream can encode
]
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _INVISIBLE if chr(code) not in "\n\t"
}
_ESCAPES_IN_LINE = {**_ESCAPES, 0x0A: "\\n", 0x09: "\\t"}


def visible(text: str, *, one_line: bool = False) -> str:
    r"""Return a text with its control characters escaped, so that it cannot change the state of a terminal.

    Parameters
    ----------
    text : str
        A name, a message or a log. Line breaks and tabs stay; a carriage return before a line break is dropped.
    one_line : bool
        Whether to escape line breaks and tabs, too.

    Examples
    --------
    >>> print(visible("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    if one_line:
        return text.translate(_ESCAPES_IN_LINE)
    return text.replace("\r\n", "\n").translate(_ESCAPES)


def abridged(text: str, first: int, last: int) -> str:
    r"""Return the first and the last lines of a text, with the number of lines that are left out between them.

    Parameters
    ----------
    text : str
    first, last : int
        Numbers of lines. Lines of more than 500 characters are cut.

    Examples
    --------
    >>> abridged("1\n2\n3\n4\n5", 1, 2).splitlines()
    ['1', '... 2 lines left out ...', '4', '5']
    """
    lines = text.splitlines()
    left_out = len(lines) - first - last
    if left_out > 1:
        lines[first : len(lines) - last] = [f"... {left_out} lines left out ..."]
    return "\n".join(map(_cut, lines))


def last_lines(text: str, count: int) -> str:
    """Return the last lines of a text, each cut to 500 characters."""
    return "\n".join(map(_cut, text.rstrip().splitlines()[-count:]))


def checked_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Check that the system accepts environment variables, and return them.

    Raises
    ------
    ValueError
        If a name is empty or contains an equals sign, or a name or value contains a null character.
    """
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name + value:
            why = "is not a name and value that an environment variable can have"
            raise ValueError(f"{name!r}: {value!r:.80} {why}")
    return dict(variables)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    r"""Return a table of aligned columns; those whose indexes are in `right` are aligned to the right.

    Examples
    --------
    >>> table(["task", "tries"], [["a", "1"]], right={1}).splitlines()
    ['task  tries', 'a         1']
    """
    lines = [list(headings), *([visible(cell, one_line=True) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = (
        [cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    )
    return "".join(f"{'  '.join(cells).rstrip()}\n" for cells in aligned)


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}... ({len(line)} characters)"


class VisibleStream:
    """A text stream that escapes control characters and writes the text to another stream.

    All other attributes, such as `buffer`, are those of the other stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @classmethod
    def over(cls, stream: TextIO) -> TextIO:
        """Return a stream that escapes text and writes it to `stream`."""
        return cast(TextIO, cls(stream))

    def write(self, text: str) -> int:
        """Write a text, escaped."""
        self._stream.write(visible(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
