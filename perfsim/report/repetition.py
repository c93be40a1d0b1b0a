"""Exact repetition in long sequences: what a pipeline does microbatch after microbatch needs to be written down once.

A pipeline that has filled up does the same again and again, in whole picoseconds without any error. So a page can carry
all of a run in the few microbatches that differ, and one cycle of those that repeat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Repetition", "codes_of", "find_repetition"]

_MOST_TRIED = 256
"""Lengths of a cycle that are tried; a pipeline's is short."""


@dataclass(frozen=True)
class Repetition:
    """A sequence in three parts: what comes before, a cycle that repeats, and what comes after.

    Attributes
    ----------
    length : int
        Of the whole sequence.
    first : int
        Where the cycle begins; the length of the sequence where nothing repeats.
    cycle : int
        Items of a cycle.
    times : int
        How often it stands there.
    """

    length: int
    first: int
    cycle: int
    times: int

    @property
    def kept(self) -> NDArray[np.int64]:
        """Items from which the whole sequence follows: those before, one cycle, those after."""
        rest = self.first + self.cycle * self.times
        return np.concatenate([np.arange(self.first + self.cycle), np.arange(rest, self.length)])

    @property
    def repeats(self) -> NDArray[np.int64]:
        """For each item of `kept` how often it stands in the sequence."""
        kept = self.kept
        return np.where((kept >= self.first) & (kept < self.first + self.cycle), self.times, 1)


def find_repetition(codes: NDArray[np.int64]) -> Repetition:
    """Find the shortest cycle that fills at least half of a sequence, its middle among it.

    Parameters
    ----------
    codes : ndarray of int64, shape (items,)
        Equal numbers stand for equal items.

    Examples
    --------
    >>> find_repetition(np.array([7, 1, 2, 1, 2, 1, 2, 9]))
    Repetition(length=8, first=1, cycle=2, times=3)
    >>> find_repetition(np.arange(4))
    Repetition(length=4, first=4, cycle=0, times=0)
    """
    middle = len(codes) // 2
    for cycle in (np.flatnonzero(codes[middle + 1 :] == codes[middle : middle + 1])[:_MOST_TRIED] + 1).tolist():
        differs = np.flatnonzero(codes[:-cycle] != codes[cycle:])
        place = int(np.searchsorted(differs, middle))
        first = int(differs[place - 1]) + 1 if place else 0
        end = int(differs[place]) if place < len(differs) else len(codes) - cycle
        times = (end + cycle - first) // cycle
        if times > 1 and 2 * cycle * times >= len(codes):
            return Repetition(len(codes), first, cycle, times)
    return Repetition(len(codes), len(codes), 0, 0)


def codes_of(columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the rows of a table so that equal rows have equal numbers.

    Parameters
    ----------
    columns : ndarray of int64, shape (rows, columns)

    Examples
    --------
    >>> codes_of(np.array([[1, 2], [3, 4], [1, 2]])).tolist()
    [0, 1, 0]
    """
    rows = np.ascontiguousarray(columns)
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows], dtype=np.int64)
