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

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_kv", "plot_latencies", "plot_steps"]

_NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "latency"}
_COLOURS = {"ttft_s": KIND_COLOURS["collective"], "tpot_s": KIND_COLOURS["matmul"], "latency_s": MUTED}
_PROMPTS, _DECODES = KIND_COLOURS["collective"], KIND_COLOURS["matmul"]
_PIXELS = 1600  # columns of a picture: more steps than this are put together


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
    from perfsim.report.canvas import fresh, heading, legend_above

    ax = fresh(ax, 8, 4.5)
    for name, column in columns.items():
        known = np.sort(column[column > 0])
        if len(known):
            share = np.linspace(0, 1, min(len(known), _PIXELS))
            ax.plot(np.quantile(known, share, method="inverted_cdf"), share, color=_COLOURS[name], linewidth=1.6)
    ax.set_xscale("log")
    ax.set_xlabel("time (s)")
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
    """Draw the tokens of each step of a replica over time: those of prompts on those of decodes.

    Where steps are narrower than a pixel, each column of the picture holds their mean, weighted by time.

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
    from perfsim.report.canvas import fresh, heading, legend_above, steps as draw_steps, time_axis  # noqa: I001

    mine = _of_replica(steps, replica)
    end_s = float(mine["end_s"].max()) if end_s is None else end_s
    faults = Faults("plot_steps")
    if not start_s < end_s:
        faults.add("start_s, end_s", (start_s, end_s), "must be in order")
    faults.raise_if_any()
    ax, edges = fresh(ax, 11, 4), np.linspace(start_s, end_s, _PIXELS + 1)
    decodes, prompts = (_mean_over_time(mine, name, edges) for name in ("decodes", "prompt_tokens"))
    top = max(float((decodes + prompts).max()), 1.0)
    ax.set_xlim(start_s, end_s)
    ax.set_yscale("symlog", linthresh=max(float(decodes.max()), 1.0))
    ax.set_ylim(0, top * 1.1)
    draw_steps(ax, decodes + prompts, edges, 0, color=_PROMPTS, linewidth=0)
    draw_steps(ax, decodes, edges, 0, color=_DECODES, linewidth=0)
    time_axis(ax, "x", end_s - start_s)
    ax.set_ylabel("tokens of a step")
    ax.spines[["top", "right"]].set_visible(False)
    heading(ax, f"Steps of replica {replica}: decodes below, prompts on top", above=14)
    legend_above(ax, {"decodes": _DECODES, "prompts": _PROMPTS})
    return ax


def plot_kv(steps: pd.DataFrame, ax: Axes | None = None, *, replica: int = 0) -> Axes:
    """Draw the KV blocks in use and the requests that wait, over time.

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
    from perfsim.report.canvas import fresh, heading, legend_above, limit, steps as draw_steps, time_axis  # noqa: I001

    mine, ax = _of_replica(steps, replica), fresh(ax, 11, 4)
    edges = np.linspace(float(mine["start_s"].min()), float(mine["end_s"].max()), _PIXELS + 1)
    blocks, waiting = (_mean_over_time(mine, name, edges) for name in ("kv_blocks", "waiting"))
    share = float(mine["kv_share"].max())
    capacity = float(mine["kv_blocks"].max()) / share if share > 0 else np.nan
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, 1.08 * np.nanmax([float(blocks.max()), capacity, 1.0]))
    draw_steps(ax, blocks, edges, 0, color=MEMORY_COLOURS["KV cache"], linewidth=0)
    if np.isfinite(capacity):
        ax.axhline(capacity, color=WARNING, linewidth=1)
        limit(ax, capacity, "capacity")
    queue = ax.twinx()
    queue.set_ylim(0, max(float(waiting.max()) * 1.3, 1.0))
    draw_steps(queue, waiting, edges, None, color=WARNING, linewidth=0.9)
    queue.set_ylabel("requests that wait")
    time_axis(ax, "x", float(edges[-1] - edges[0]))
    ax.set_ylabel("KV blocks in use")
    heading(ax, f"KV cache and queue of replica {replica}", above=14)
    legend_above(ax, {"KV cache": MEMORY_COLOURS["KV cache"], "waiting requests": WARNING})
    return ax


def _of_replica(steps: pd.DataFrame, replica: int) -> pd.DataFrame:
    """The steps of one replica."""
    mine = steps[steps["replica"] == replica]
    if mine.empty:
        faults = Faults("plot")
        faults.add("replica", replica, f"must be one of those with steps: {sorted(set(steps['replica']))}")
        faults.raise_if_any()
    return mine


def _mean_over_time(steps: pd.DataFrame, name: str, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of a column over the time of each pixel; 0 where the replica is idle."""
    start, end = steps["start_s"].to_numpy(), steps["end_s"].to_numpy()
    # The integral grows along each step and stands still between two, so its knots are starts and ends in turn.
    knots = np.stack([start, end], axis=1).ravel()
    grown = np.cumsum(steps[name].to_numpy() * (end - start))
    integral = np.stack([np.concatenate([[0.0], grown[:-1]]), grown], axis=1).ravel()
    return np.asarray(np.diff(np.interp(edges, knots, integral)) / np.diff(edges), np.float64)
