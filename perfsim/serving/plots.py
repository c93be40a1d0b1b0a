"""Pictures of a served load: latencies, steps, KV cache.

Every function draws on the axes it is given or on those of a new figure, and returns them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import Faults
from perfsim.report.colours import KIND_COLOURS, MEMORY_COLOURS, MUTED, WARNING
from perfsim.serving.bands import Band, draw_bands

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_kv", "plot_latencies", "plot_steps"]

_NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "latency"}
_COLOURS = {"ttft_s": KIND_COLOURS["collective"], "tpot_s": KIND_COLOURS["matmul"], "latency_s": MUTED}
_PROMPTS, _DECODES = KIND_COLOURS["collective"], KIND_COLOURS["matmul"]
_PIXELS = 1600  # points of a curve
_SHADES = "; mean of each column of the picture, pale the most"
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


def plot_latencies(columns: Mapping[str, NDArray[np.float64]], ax: Axes | None = None) -> Axes:
    """Draw which share of the requests takes at most how long.

    Parameters
    ----------
    columns : mapping
        Seconds of each request, by ``ttft_s``, ``tpot_s`` and ``latency_s``; NaN where there is none.
    ax : Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    Axes
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from perfsim.report.canvas import fresh, heading, legend_above

    ax = fresh(ax, 8, 4.5)
    for name, column in columns.items():
        known = np.sort(column[column > 0])
        if len(known):
            share = np.linspace(0, 1, min(len(known), _PIXELS) + 1)
            times = np.quantile(known, share, method="inverted_cdf")
            ax.plot(times, share, color=_COLOURS[name], linewidth=1.6, drawstyle="steps-post")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _time_text(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("time")
    ax.set_ylabel("share of the requests")
    ax.set_ylim(0, 1)
    ax.grid(color="#E0E0E0", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    heading(ax, "Latencies of the requests", above=14)
    legend_above(ax, {_NAMES[name]: _COLOURS[name] for name in columns})
    return ax


def plot_steps(
    steps: pd.DataFrame, ax: Axes | None = None, *, replica: int = 0, start_s: float = 0.0, end_s: float | None = None
) -> Axes:
    """Draw what each step of a replica holds over time: decodes below, tokens of prompts above, each with its scale.

    Of many steps each column of the picture shows the mean, weighted by time, and pale behind it the most.

    Parameters
    ----------
    steps : DataFrame
        As in ``result.steps``.
    ax : Axes, optional
    replica : int
    start_s, end_s : float, optional
        The time that is shown; to the last step when left out.

    Returns
    -------
    Axes
    """
    from perfsim.report.canvas import fresh, heading

    mine = _of_replica(steps, replica)
    end_s = float(mine["end_s"].max()) if end_s is None else end_s
    faults = Faults("plot_steps")
    if not start_s < end_s:
        faults.add("start_s, end_s", (start_s, end_s), "must be in order")
    faults.raise_if_any()
    ax = fresh(ax, 11, 4)
    bands = Band("decodes", "decodes", _DECODES), Band("prompt_tokens", "prompt tokens", _PROMPTS)
    coarse = draw_bands(ax, mine, bands, (start_s, end_s))
    heading(ax, f"Steps of replica {replica}: what each holds{_SHADES * coarse}")
    return ax


def plot_kv(steps: pd.DataFrame, ax: Axes | None = None, *, replica: int = 0) -> Axes:
    """Draw the KV blocks in use and the requests that run and wait, over time, each with its scale.

    Parameters
    ----------
    steps : DataFrame
        As in ``result.steps``.
    ax : Axes, optional
    replica : int

    Returns
    -------
    Axes
    """
    from perfsim.report.canvas import fresh, heading

    mine, ax = _of_replica(steps, replica), fresh(ax, 11, 4)
    share = float(mine["kv_share"].max())
    capacity = float(mine["kv_blocks"].max()) / share if share > 0 else np.nan
    bands = (
        Band("kv_blocks", "KV blocks", MEMORY_COLOURS["KV cache"], capacity),
        Band("running", "running", KIND_COLOURS["attention"]),
        Band("waiting", "waiting", WARNING),
    )
    coarse = draw_bands(ax, mine, bands, (float(mine["start_s"].min()), float(mine["end_s"].max())))
    heading(ax, f"KV cache and requests of replica {replica}{_SHADES * coarse}")
    return ax


def _time_text(value_s: float) -> str:
    size, unit = next((pair for pair in _UNITS if value_s >= 0.999 * pair[0]), _UNITS[-1])
    return f"{value_s / size:.3g} {unit}"


def _of_replica(steps: pd.DataFrame, replica: int) -> pd.DataFrame:
    """The steps of one replica."""
    mine = steps[steps["replica"] == replica]
    if mine.empty:
        faults = Faults("plot")
        faults.add("replica", replica, f"must be one of those with steps: {sorted(set(steps['replica']))}")
        faults.raise_if_any()
    return mine
