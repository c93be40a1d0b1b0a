"""The colours of the charts: one for each kind of operator, the same in every picture.

The kinds have Okabe and Ito's palette for the colour-blind, and experts a wine red that is darker than all of it. What
is not a kind of operator has other colours, so that nobody takes the weights for a matmul.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perfsim.report.breakdown import IDLE, KINDS

__all__ = [
    "BOUND_COLOURS",
    "FASTER",
    "INK",
    "KIND_COLOURS",
    "MEMORY_COLOURS",
    "MUTED",
    "SLOWER",
    "TOTAL",
    "WARNING",
    "ink_on",
    "mix",
]

INK = "#1A1A1A"
MUTED = "#6B6B6B"
WARNING = "#B00020"
TOTAL = "#595959"
FASTER, SLOWER = "#56B4E9", "#E69F00"

KIND_COLOURS = {
    "matmul": "#0072B2",
    "attention": "#009E73",
    "experts": "#882255",
    "elementwise": "#F0E442",
    "collective": "#D55E00",
    "transfer": "#CC79A7",
    IDLE: "#EBEBEB",
}

MEMORY_COLOURS = {
    "weights": "#332288",
    "KV cache": "#DDCC77",
    "activations": "#44AA99",
    "buffers": "#CC6677",
    "reserve": "#C4C4C4",
}
"""Paul Tol's muted palette, in the order in which the parts are stacked."""

BOUND_COLOURS = {
    "compute": "#004488",
    "memory": "#DDAA33",
    "network": "#BB5566",
    "overhead": "#8C8C8C",
    "none": "#DDDDDD",
}
"""Of what bounds an operator: Paul Tol's high-contrast palette, and greys."""


def mix(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Mix the colours of the kinds.

    Parameters
    ----------
    shares : ndarray, shape (kinds, ...)
        Share of each of `KINDS` in each pixel; they add up to 1.

    Returns
    -------
    ndarray of uint8, shape (..., 3)
        Red, green and blue.

    Examples
    --------
    >>> mix(np.array([[1.0, 0.5], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0.5]])).tolist()
    [[0, 114, 178], [118, 174, 206]]
    """
    palette = np.array([_rgb(KIND_COLOURS[kind]) for kind in KINDS], dtype=np.float64)
    return np.asarray(np.rint(np.moveaxis(shares, 0, -1) @ palette), dtype=np.uint8)


def ink_on(colour: str) -> str:
    """Colour of a text that is legible on a colour.

    Examples
    --------
    >>> ink_on("#0072B2"), ink_on("#F0E442")
    ('white', '#1A1A1A')
    """
    red, green, blue = _rgb(colour)
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else INK  # noqa: PLR2004 - luma of Rec. 601


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
