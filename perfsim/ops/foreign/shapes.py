"""Shapes as labels write them, with names or without, in numbers or symbols, and what can be told from two of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

__all__ = [
    "BATCH",
    "SEQUENCE",
    "UNKNOWN",
    "WIDTH",
    "Axis",
    "Extent",
    "Shape",
    "multiple",
    "read_shapes",
    "same",
    "times",
]

Extent = int | str
"""A number, or a symbol that stands for one."""
UNKNOWN = "?"
"""The symbol of which two need not be equal."""

BATCH, SEQUENCE, HEADS, HEAD_SIZE, WIDTH = "batch", "sequence", "heads", "head size", "width"
_NAMES = {
    BATCH: r"b|bs|bsz|(\w+_)?batch(_?size)?",
    SEQUENCE: r"s|t|l|(\w+_)?(seq|sequence|query|context)(_?len(gth)?)?|(\w+_)?tokens?(_per_\w+)?",
    HEADS: r"(\w+_)?n?_?heads?(_per_\w+)?",
    HEAD_SIZE: r"d_?[kqv]|d_?head|head_?(dim|size)|dim_per_head",
}
_SHAPE = re.compile(r"(?:(\d+)\s*[x×*]\s*)?\[([^\[\]]*)\](?:\s*\(?\s*[x×*]\s*(\d+)\b\)?)?")
_TUPLE = re.compile(r"()\(([^()]*,[^()]*)\)()")
_MOST_COPIES = 4096


@dataclass(frozen=True)
class Axis:
    """One axis: what it counts, where its name says so, and how many."""

    name: str
    extent: Extent


@dataclass(frozen=True)
class Shape:
    """A shape as a label has it.

    Attributes
    ----------
    axes : tuple of Axis
        In the order of the label; heads and their size are two axes.
    text : str
        As it was written.
    """

    axes: tuple[Axis, ...]
    text: str

    def __str__(self) -> str:
        return self.text

    @cached_property
    def is_scores(self) -> bool:
        """Whether it pairs tokens with tokens, as attention scores do."""
        tokens = [axis.extent for axis in self.axes if axis.name == SEQUENCE]
        unnamed = [axis.extent for axis in self.axes if not axis.name]
        return len(tokens) > 1 or (len(unnamed) == 4 and unnamed[-1] == unnamed[-2])  # noqa: PLR2004

    @cached_property
    def width(self) -> Extent:
        """What one token has: the last axis, or heads times their size."""
        if self.is_scores or not self.axes:
            return UNKNOWN
        heads = [axis.extent for axis in self.axes if axis.name in {HEADS, HEAD_SIZE}]
        if not any(axis.name for axis in self.axes) and len(self.axes) == 4:  # noqa: PLR2004 - batch, tokens, heads, size
            heads = [axis.extent for axis in self.axes[2:]]
        return times(*(heads or [self.axes[-1].extent]))

    @cached_property
    def heads(self) -> Extent | None:
        """Heads, where an axis says that it counts them."""
        return next((axis.extent for axis in self.axes if axis.name == HEADS), None)

    @cached_property
    def rows(self) -> Extent:
        """Tokens of all sequences: everything but the width."""
        lead = [axis.extent for axis in self.axes if axis.name in {BATCH, SEQUENCE}]
        if not any(axis.name for axis in self.axes):
            lead = [axis.extent for axis in self.axes[: 2 if len(self.axes) == 4 else -1]]  # noqa: PLR2004
        return times(*lead) if lead else UNKNOWN

    @cached_property
    def tokens(self) -> Extent:
        """Tokens of one sequence."""
        named = [axis.extent for axis in self.axes if axis.name == SEQUENCE]
        if not any(axis.name for axis in self.axes) and len(self.axes) > 2:  # noqa: PLR2004 - batch, tokens and more
            named = [self.axes[1].extent]
        return named[-1] if named else UNKNOWN

    @cached_property
    def size(self) -> Extent:
        """Numbers in the whole tensor."""
        return times(*(axis.extent for axis in self.axes))

    @cached_property
    def _meaning(self) -> dict[str, Extent] | None:
        """Extents by what they count, in which heads and their size are one width; None where a name is missing."""
        counts = Counter(axis.name for axis in self.axes)
        if counts[""] or self.is_scores or any(counts[name] > 1 for name in (BATCH, SEQUENCE, WIDTH)):
            return None
        lead = {axis.name: axis.extent for axis in self.axes if axis.name in {BATCH, SEQUENCE}}
        return {**lead, WIDTH: self.width}


def read_shapes(text: str) -> tuple[Shape, ...]:
    """Read all shapes of a line; one that is there several times, as ``[...] × 8`` says, comes as often.

    Examples
    --------
    >>> [shape.width for shape in read_shapes("[batch_size=4, seq_len=S, heads=2, d_k=64] (q), 2 × [4, S, 512]")]
    [128, 512, 512]
    """
    shapes: list[Shape] = []
    for before, inside, after in (_SHAPE if "[" in text else _TUPLE).findall(text):
        parts = [part.strip() for part in inside.split(",") if part.strip()]
        shape = Shape(tuple(map(_axis, parts)), f"[{', '.join(parts)}]")
        shapes += [shape] * min(int(before or after or 1), _MOST_COPIES)
    return tuple(shapes)


def _axis(text: str) -> Axis:
    name, equals, value = (part.strip() for part in text.rpartition("="))
    extent = _extent(value)
    if not equals:  # a symbol may say what it counts, such as seq_len
        name = value if isinstance(extent, str) else ""
    return Axis(_meaning_of(name), extent)


def _meaning_of(name: str) -> str:
    plain = re.sub(r"\W+", "_", name.lower()).strip("_")
    found = (meaning for meaning, pattern in _NAMES.items() if re.fullmatch(pattern, plain))
    return next(found, WIDTH) if plain else ""


def _extent(text: str) -> Extent:
    """Read a number, one that a division or product gives, or a symbol."""
    quotient = re.fullmatch(r"(\d+)\s*([/x×*])\s*(\d+)", text)
    if quotient:
        first, second = int(quotient[1]), int(quotient[3])
        if quotient[2] != "/":
            return first * second
        return first // second if second and first % second == 0 else text
    return int(text) if text.isdecimal() else text or UNKNOWN


def times(*extents: Extent) -> Extent:
    """Multiply extents; symbols stay in the product.

    Examples
    --------
    >>> times(2, "S", 3, "B"), times(2, UNKNOWN)
    ('6 × B × S', '?')
    """
    numbers = math.prod(extent for extent in extents if isinstance(extent, int))
    symbols = sorted(extent for extent in extents if isinstance(extent, str))
    if any(UNKNOWN in symbol for symbol in symbols):
        return UNKNOWN
    return " × ".join([*([str(numbers)] if numbers != 1 else []), *symbols]) if symbols else numbers


def _equal(first: Extent, second: Extent) -> bool | None:
    """Whether two extents are equal; None where a symbol may stand for either."""
    if UNKNOWN in {first, second}:
        return None
    if first == second:
        return True
    return False if isinstance(first, int) and isinstance(second, int) else None


def same(first: Shape, second: Shape) -> bool | None:
    """Whether two shapes are of one tensor, whose heads may be written apart or together; None where symbols hide it.

    Examples
    --------
    >>> given, taken, other = read_shapes("[batch=4, seq=S, heads=2, d_k=64] [batch=4, seq=S, hidden=128] [4, ?, 128]")
    >>> same(given, taken), same(given, other)
    (True, None)
    """
    one, other = first._meaning, second._meaning  # noqa: SLF001
    if one is not None and other is not None and one.keys() == other.keys():
        found = [_equal(one[name], other[name]) for name in one]
    else:
        found = [_equal(first.size, second.size)]
    return False if False in found else None if None in found else True


def multiple(whole: Extent, part: Extent) -> int | None:
    """How many times a part is in a whole; 0 where not a whole number of times, None where symbols hide it.

    Examples
    --------
    >>> multiple(8192, 1024), multiple(8192, 3000), multiple("H", 4)
    (8, 0, None)
    """
    if isinstance(whole, int) and isinstance(part, int):
        return whole // part if part and whole % part == 0 else 0
    return 1 if _equal(whole, part) else None
