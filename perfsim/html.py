"""What the objects show of themselves in a notebook: small tables in the colours of the page around them.

Text and lines inherit their colour, and nothing has a background, so that light and dark themes both are legible.
Styles stand at the elements, because notebooks drop style sheets. Every text is escaped; what is already HTML is
`Markup`, which only this module makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from perfsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FITS", "Markup", "bar", "bars", "card", "facts", "fold", "frame", "notes", "quantity", "stack",
    "table", "verdict",
]  # fmt: skip

FITS = {True: "fits", False: "does not fit"}

_LINE = "1px solid color-mix(in srgb, currentColor 25%, transparent)"
_TEXT = "color:inherit;background:none"
_CELL = f"{_TEXT};padding:2px 10px 2px 0;vertical-align:top;border:0"
_BAR_WIDTH, _BAR_HEIGHT = 120, 9
_SYMBOLS = {True: "✓", False: "✗", None: "?"}


class Markup(str):
    """HTML that is not to be escaped again."""

    __slots__ = ()


def _html(content: object) -> str:
    return content if isinstance(content, Markup) else escape(str(content))


def card(title: object, *parts: object) -> Markup:
    """A title and what stands under it; empty parts are left out.

    Examples
    --------
    >>> "<strong>a &lt; b</strong>" in card("a < b")
    True
    """
    below = "".join(f"<div>{_html(part)}</div>" for part in parts if part)
    return Markup(f'<div class="perfsim" style="{_TEXT};line-height:1.45"><strong>{_html(title)}</strong>{below}</div>')


def facts(pairs: Mapping[str, object] | Iterable[tuple[str, object]]) -> Markup:
    """Names and values in two columns."""
    rows = pairs.items() if isinstance(pairs, Mapping) else pairs
    return table((), rows)


def table(header: Sequence[object], rows: Iterable[Iterable[object]], *, numbers: bool = False) -> Markup:
    """A table; the first column heads its rows.

    Parameters
    ----------
    header : sequence
        One text a column; empty for a table without.
    rows : iterable of iterables
        Texts or `Markup`.
    numbers : bool
        Whether the columns after the first are numbers, which stand at the right.

    Examples
    --------
    >>> "<td" in table(("plan", "time"), [("a & b", "1 s")]), "a &amp; b" in table((), [("a & b",)])
    (True, True)
    """
    body = "".join(f"<tr>{_cells('td', row, numbers=numbers)}</tr>" for row in rows)
    head = f"<thead><tr>{_cells('th', header, numbers=numbers)}</tr></thead>" if header else ""
    style = f"border-collapse:collapse;margin:4px 0;{_TEXT};border:0"
    return Markup(f'<table style="{style}">{head}<tbody>{body}</tbody></table>')


def frame(data: pd.DataFrame) -> Markup:
    """A DataFrame with its index, every number in the unit that its column's name ends in."""
    header = (data.index.name or "", *data.columns)
    rows = (
        (name, *(quantity(column, value) for column, value in zip(data.columns, row, strict=True)))
        for name, *row in data.itertuples()
    )
    return table(header, rows, numbers=True)


def quantity(name: object, value: object) -> str:
    """Write a value for people, in the unit that its name ends in.

    Examples
    --------
    >>> quantity("makespan_s", 0.25), quantity("tokens_per_s", 12345.6), quantity("peak_bytes", 5e9)
    ('250 ms', '12,346', '5 GB')
    >>> quantity("mfu", 0.414), quantity("fits", True), quantity("requests", 1000)
    ('41.4%', 'yes', '1,000')
    """
    text = str(name)
    if isinstance(value, str | bool) or type(value).__name__ == "bool":  # NumPy's own too
        return value if isinstance(value, str) else "yes" if value else "no"
    number = float(value)  # type: ignore[arg-type]
    if number != number:  # noqa: PLR0124 - not there
        return "–"
    if text.endswith("_s") and not text.endswith("_per_s"):
        return format_seconds(number)
    if text.endswith("_bytes"):
        return format_bytes(number)
    if text.endswith("_fraction") or text in {"mfu", "mfu_full_attention", "utilization"}:
        return f"{number:.1%}"
    return f"{number:,.0f}" if abs(number) >= 100 or number.is_integer() else f"{number:.4g}"  # noqa: PLR2004


def _cells(tag: str, cells: Iterable[object], *, numbers: bool) -> str:
    line = f";border-bottom:{_LINE}" if tag == "th" else ""
    sides = ("left", "right" if numbers else "left")
    return "".join(
        f'<{"th" if index == 0 else tag} style="{_CELL}{line};text-align:{sides[index > 0]};'
        f'font-weight:{600 if tag == "th" else 400}">{_html(cell)}</{"th" if index == 0 else tag}>'
        for index, cell in enumerate(cells)
    )


def verdict(good: bool | None, words: str) -> Markup:
    """A verdict as a symbol and in words, because colours are not for everybody; None where it cannot be told.

    Examples
    --------
    >>> verdict(True, "fits")
    '<span style="white-space:nowrap"><strong>✓</strong> fits</span>'
    """
    return Markup(f'<span style="white-space:nowrap"><strong>{_SYMBOLS[good]}</strong> {escape(words)}</span>')


def bar(share: float, text: object = "") -> Markup:
    """A bar for a share between 0 and 1, with its text behind it.

    Examples
    --------
    >>> bar(0.5, "50 %").count("<rect")
    2
    """
    filled = _BAR_WIDTH * min(max(share, 0.0), 1.0)
    size = f'height="{_BAR_HEIGHT}" fill="currentColor"'
    picture = (
        f'<svg width="{_BAR_WIDTH}" height="{_BAR_HEIGHT}" role="img" aria-label="{share:.0%}" '
        f'style="vertical-align:middle;margin-right:8px"><rect width="{_BAR_WIDTH}" {size} fill-opacity="0.15"/>'
        f'<rect width="{filled:.1f}" {size} fill-opacity="0.75"/></svg>'
    )
    return Markup(f'<span style="white-space:nowrap">{picture}{_html(text)}</span>')


def bars(shares: Mapping[str, float], texts: Mapping[str, str]) -> Markup:
    """A row with a bar for each share."""
    return table((), ((name, bar(share, texts[name])) for name, share in shares.items()))


def notes(texts: Iterable[str]) -> Markup:
    """Sentences, one a line."""
    return Markup("".join(f'<div style="margin:2px 0">{escape(text)}</div>' for text in texts))


def fold(name: str, texts: Sequence[str]) -> Markup:
    """A list, named in the plural, that opens at a click and shows how long it is; nothing for an empty one."""
    if not texts:
        return Markup()
    name = name.removesuffix("s") if len(texts) == 1 else name
    lines = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return Markup(
        f'<details><summary style="cursor:pointer">{len(texts):,} {escape(name)}</summary>'
        f'<ul style="margin:2px 0 2px 1.2em;padding:0">{lines}</ul></details>'
    )


def stack(*parts: object) -> Markup:
    """Parts under each other; empty ones are left out."""
    return Markup("".join(f"<div>{_html(part)}</div>" for part in parts if part))
