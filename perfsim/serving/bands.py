"""Curves over time on top of each other, each with a scale of its own: what a replica does and holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Band", "draw_bands", "mean_over_time", "most_over_time"]

_FEW = 4  # rows for each column up to which the picture is exact enough for fine columns
_FINE, _COARSE = 1600, 320  # columns of a picture
_GAP = 0.14  # between bands, which are 1 high
_TICKS = 5
_PALE = 0.35


class Band(NamedTuple):
    """One of the curves.

    Attributes
    ----------
    column : str
        Of the steps.
    label, colour : str
    limit : float
        Up to which the band goes at least, and where a line is drawn; NaN for none.
    """

    column: str
    label: str
    colour: str
    limit: float = np.nan


def draw_bands(ax: Axes, steps: pd.DataFrame, bands: Sequence[Band], window_s: tuple[float, float]) -> bool:
    """Draw bands from the bottom up: the mean of each column of the picture, and pale behind it the most.

    Parameters
    ----------
    ax : Axes
    steps : DataFrame
        Of one replica.
    bands : sequence of Band
    window_s : tuple of float
        From when to when.

    Returns
    -------
    bool
        Whether columns hold several steps, so that their mean and most differ.
    """
    from matplotlib.ticker import MaxNLocator

    from perfsim.report.canvas import limit, time_axis
    from perfsim.report.canvas import steps as draw_steps
    from perfsim.report.colours import INK, WARNING

    seen = steps[(steps["start_s"] < window_s[1]) & (steps["end_s"] > window_s[0])]
    coarse = len(seen) > _FEW * _FINE
    edges = np.linspace(*window_s, (_COARSE if coarse else _FINE) + 1)
    ax.set_xlim(*window_s)
    ax.set_ylim(0, len(bands) * (1 + _GAP))
    places, labels = [], []
    for number, band in enumerate(bands):
        floor = number * (1 + _GAP)
        most = most_over_time(seen, band.column, edges)
        top = float(np.nanmax([most.max(), band.limit, 1.0]))
        if coarse:
            draw_steps(ax, floor + most / top, edges, floor, color=band.colour, alpha=_PALE, linewidth=0)
        mean = mean_over_time(seen, band.column, edges)
        draw_steps(ax, floor + mean / top, edges, floor, color=band.colour, linewidth=0)
        if np.isfinite(band.limit):
            ax.axhline(floor + band.limit / top, color=WARNING, linewidth=1)
            limit(ax, floor + band.limit / top, "capacity")
        ticks = [
            tick
            for tick in MaxNLocator(_TICKS, integer=True, steps=[1, 2, 5, 10]).tick_values(0, top)
            if 0 <= tick <= top
        ]
        places += [floor + tick / top for tick in ticks]
        labels += [f"{tick:,.0f}" for tick in ticks]
        ax.annotate(band.label, (0, floor + 0.5), (-52, 0), xycoords=ax.get_yaxis_transform(),
                    textcoords="offset points", rotation=90, ha="center", va="center", color=INK)  # fmt: skip
        if number:
            ax.axhline(floor, color=INK, linewidth=0.6)
    ax.set_yticks(places, labels)
    ax.spines[["top", "right"]].set_visible(False)
    time_axis(ax, "x", window_s[1] - window_s[0])
    return coarse


def mean_over_time(steps: pd.DataFrame, name: str, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of a column over the time from each edge to the next; 0 where the replica is idle."""
    start, end = steps["start_s"].to_numpy(), steps["end_s"].to_numpy()
    # The integral grows along each step and stands still between two, so its knots are starts and ends in turn.
    knots = np.stack([start, end], axis=1).ravel()
    grown = np.cumsum(steps[name].to_numpy() * (end - start))
    integral = np.stack([np.concatenate([[0.0], grown[:-1]]), grown], axis=1).ravel()
    if not len(knots):
        return np.zeros(len(edges) - 1)
    return np.asarray(np.diff(np.interp(edges, knots, integral)) / np.diff(edges), np.float64)


def most_over_time(steps: pd.DataFrame, name: str, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Most of a column in any step from each edge to the next; 0 where the replica is idle."""
    start, end = steps["start_s"].to_numpy(), steps["end_s"].to_numpy()
    values = np.append(steps[name].to_numpy(dtype=np.float64), 0.0)
    first, last = np.searchsorted(end, edges[:-1], side="right"), np.searchsorted(start, edges[1:])
    # Of each pair of bounds `reduceat` takes the rows between; where there is none it takes the first, which is void.
    bounds = np.stack([first, last], axis=1).ravel()
    return np.where(last > first, np.maximum.reduceat(values, bounds)[::2], 0.0)
