"""SI constants and the text of quantities for people.

Inside perfsim every quantity is in SI units and its name ends in the unit. GB is 1e9 bytes and GiB is 2**30 bytes,
everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "DTYPE_BYTES",
    "GB",
    "GIB",
    "KIB",
    "MAX_SIZE",
    "MIB",
    "PICOSECONDS_PER_SECOND",
    "format_bytes",
    "format_count",
    "format_seconds",
    "picoseconds",
    "ranges",
    "seconds",
]

KIB = 2**10
MIB = 2**20
GIB = 2**30
GB = 10**9
PICOSECONDS_PER_SECOND = 10**12

MAX_SIZE = 10**9
"""Largest batch, sequence or microbatch: the product of two still is a 64-bit number."""

DTYPE_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
"""Bytes of one element, for every dtype that weights, activations and caches may have."""

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def format_count(value: float, unit: str = "") -> str:
    """Write a quantity with a decimal prefix and four digits.

    Examples
    --------
    >>> format_count(3.176e17, "FLOP")
    '317.6 PFLOP'
    >>> format_count(12, "B")
    '12 B'
    """
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.4g} {prefix}{unit}".rstrip()
    return f"{value:.4g} {unit}".rstrip()


def format_bytes(value: float) -> str:
    """Write a number of bytes with decimal prefixes (1 GB is 1e9 bytes).

    Examples
    --------
    >>> format_bytes(85_520_809_984)
    '85.52 GB'
    """
    return format_count(value, "B")


def format_seconds(value: float) -> str:
    """Write a duration in the unit that reads best.

    Examples
    --------
    >>> format_seconds(0.0123)
    '12.3 ms'
    >>> format_seconds(528.1)
    '528.1 s'

    What is not there is a dash.

    >>> format_seconds(float("nan"))
    '–'
    """
    if math.isnan(value):
        return "–"
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if abs(value) >= size:
            return f"{value / size:.4g} {unit}"
    return "0 s" if value == 0 else f"{value / 1e-12:.4g} ps"


def ranges(numbers: Iterable[int]) -> str:
    """Write whole numbers as ranges.

    Examples
    --------
    >>> ranges([0, 1, 2, 3, 8])
    '0-3, 8'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def picoseconds(duration_s: ArrayLike) -> NDArray[np.int64]:
    """Round seconds to whole picoseconds, the time of task graphs.

    Sums of whole numbers are exact, so every engine, every folding and every sweep gives the same times to the bit.
    A time that 64 bits cannot hold becomes the largest that they can, which no task graph takes.

    Examples
    --------
    >>> picoseconds([1.5e-6, 0.0])
    array([1500000,       0])
    """
    held = np.minimum(np.asarray(duration_s, dtype=np.float64), 2.0**62 / PICOSECONDS_PER_SECOND)
    return np.rint(held * PICOSECONDS_PER_SECOND).astype(np.int64)


def seconds(duration_ps: ArrayLike) -> NDArray[np.float64]:
    """Convert picoseconds to seconds.

    Examples
    --------
    >>> float(seconds(1_500_000))
    1.5e-06
    """
    return np.asarray(duration_ps) / float(PICOSECONDS_PER_SECOND)
