"""Text with numbers in it, many lines at once: JSON without a Python call for each number.

JSON allows blanks in front of a number. So all texts of one kind have the same length, and numbers are written into
copies of one text by array operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blank", "Form", "decimal_text"]

Bytes = NDArray[np.uint8]

_MOST_BYTES = 8_000_000
"""Of text that is made at once: it stays small beside the arrays of a run."""
_ZERO, _POINT, _SPACE = b"0. "


def decimal_text(values: NDArray[np.int64], width: int, decimals: int = 0) -> Bytes:
    """Write whole numbers of at least 0 in decimal digits, right-aligned, the last `decimals` behind a point.

    Returns
    -------
    ndarray of uint8, shape (..., width)
        Every digit is that of the number: nothing is rounded.

    Examples
    --------
    >>> decimal_text(np.array([1_500_000, 7]), width=9, decimals=6).tobytes()
    b' 1.500000 0.000007'
    """
    text = np.full((width, values.size), _SPACE, np.uint8)
    left = values.reshape(-1)
    for place in range(width):
        row = text[width - 1 - place]
        if decimals and place == decimals:
            row[:] = _POINT
            continue
        rest = left // 10
        digit = (left - 10 * rest).astype(np.uint8)
        if place <= decimals + (decimals > 0):
            row[:] = digit + _ZERO
        else:
            np.copyto(row, digit + _ZERO, where=left > 0)
        left = rest
    return np.ascontiguousarray(text.T).reshape(*values.shape, width)


@dataclass(frozen=True)
class Blank:
    """A place for a number in a text.

    Attributes
    ----------
    mark : int
        Below 10, another for each kind of number: the text holds this byte, which JSON never does, in its place.
    width : int
    decimals : int
    """

    mark: int
    width: int
    decimals: int = 0

    @classmethod
    def of(cls, mark: int, largest: int, decimals: int = 0) -> Blank:
        """Make one that is wide enough for the numbers up to `largest`."""
        whole = max(len(str(int(largest))) - decimals, 1)
        return cls(mark, whole + decimals + (decimals > 0), decimals)

    def __str__(self) -> str:
        return chr(self.mark) * self.width


@dataclass(frozen=True)
class Form:
    """A text with blanks.

    Attributes
    ----------
    text : str
        ASCII.
    """

    text: str

    @cached_property
    def _page(self) -> Bytes:
        return np.frombuffer(self.text.encode("ascii"), np.uint8)

    def filled(self, numbers: Mapping[Blank, NDArray[np.int64]], count: int) -> Iterator[memoryview]:
        """Give `count` copies of the text, one after the other, in pieces.

        Parameters
        ----------
        numbers : mapping of Blank to ndarray of int64, shape (copies, blanks of that kind)
            In the order in which they stand in the text.
        count : int
        """
        places = {blank: np.flatnonzero(self._page == blank.mark) for blank in numbers}
        step = max(1, _MOST_BYTES // max(1, len(self._page)))
        for first in range(0, count, step):
            copies = np.tile(self._page, (min(step, count - first), 1))
            for blank, values in numbers.items():
                text = decimal_text(values[first : first + step], blank.width, blank.decimals)
                copies[:, places[blank]] = text.reshape(len(copies), -1)
            yield copies.data.cast("B") if copies.size else memoryview(b"")
