"""HTML as nested calls: everything that is not markup already is escaped, and so are characters that XML forbids."""

from __future__ import annotations

from html import escape

from toilfn.text import visible

__all__ = ["Markup", "element"]


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, *content: object, **attributes: object) -> Markup:
    """Build an element.

    Parameters
    ----------
    tag : str
    *content : object
        Text, which is escaped, or `Markup`, which is not.
    **attributes : object
        An underscore stands for a hyphen, and one at the end is left out: ``class_="box"``, ``stroke_width=2``.

    Examples
    --------
    >>> element("p", "1 < 2", element("b", "!"), class_="note")
    '<p class="note">1 &lt; 2<b>!</b></p>'
    """
    words = [f' {_name(name)}="{escape(visible(_text(value)))}"' for name, value in attributes.items()]
    inner = "".join(part if isinstance(part, Markup) else escape(visible(str(part))) for part in content)
    return Markup(f"<{tag}{''.join(words)}>{inner}</{tag}>")


def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
