"""Pictures of a result: timelines, load balance, memory, and where the time goes.

Every function draws on the axes it is given or on those of a new figure, and returns them. A notebook shows what is
returned; a script writes ``ax.figure.savefig("picture.png")``.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from perfsim.errors import InputError
from perfsim.report.breakdown import IDLE, KINDS
from perfsim.report.colours import FASTER, INK, KIND_COLOURS, MUTED, SLOWER, TOTAL, ink_on
from perfsim.report.device_groups import bars_of
from perfsim.report.plot_memory import plot_memory, plot_memory_over_time
from perfsim.report.plot_operators import plot_operators
from perfsim.report.plot_roofline import plot_roofline
from perfsim.report.plot_sweep import plot_heatmap, plot_lines, plot_pareto
from perfsim.report.plot_timelines import plot_timeline, plot_timelines
from perfsim.report.zoom import cut_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = [
    "plot_heatmap",
    "plot_lines",
    "plot_load_balance",
    "plot_memory",
    "plot_memory_over_time",
    "plot_operators",
    "plot_pareto",
    "plot_roofline",
    "plot_time_by_kind",
    "plot_timeline",
    "plot_timelines",
    "plot_waterfall",
]

_WIDE_ENOUGH = 0.055  # share of the axis that a number takes


def plot_load_balance(load_balance: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw what each GPU spends the makespan with: kernels, communication that no kernel hides, idling.

    Parameters
    ----------
    load_balance : DataFrame
        As in ``result.load_balance``.
    ax : Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8))
    >>> plot_load_balance(result.load_balance).get_ylabel()
    'time (ms)'
    """
    from perfsim.report.canvas import device_axis, fresh, heading, legend_above, stacked_bars, time_axis

    utilization = load_balance["utilization"].to_numpy()
    least = int(utilization.argmin())
    title = (
        f"Load balance: GPUs busy {utilization.mean():.1%} of the makespan on the mean, "
        f"at least {utilization[least]:.1%} (GPU {load_balance.index[least]})"
    )
    bars = bars_of(load_balance)
    load_balance = bars.frame
    colours = {
        "compute": KIND_COLOURS["matmul"],
        "communication that nothing hides": KIND_COLOURS["collective"],
        "idle": KIND_COLOURS[IDLE],
    }
    busy, compute = load_balance["busy_s"].to_numpy(), load_balance["compute_s"].to_numpy()
    makespan_s = float((busy + load_balance["idle_s"].to_numpy()).max())
    ax = fresh(ax, 10, 4.2)
    parts = dict(zip(colours, (compute, busy - compute, load_balance["idle_s"].to_numpy()), strict=True))
    stacked_bars(ax, parts, colours)
    if bars.named:
        for place, share in enumerate(load_balance["utilization"].tolist()):
            ax.text(place, makespan_s * 1.01, f"{share:.1%}", ha="center", va="bottom", fontsize=8, color=INK)
    ax.set_ylim(0, makespan_s * 1.08)
    time_axis(ax, "y", makespan_s)
    device_axis(ax, bars.labels)
    heading(ax, title, above=18)
    legend_above(ax, colours)
    return ax


def plot_time_by_kind(parts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw where the time of several plans goes, a bar for each plan.

    Parameters
    ----------
    parts : DataFrame
        Seconds; a row for each plan, a column for each of `perfsim.report.breakdown.KINDS`.
    ax : Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import perfsim
    >>> from perfsim.report.breakdown import time_by_kind
    >>> run = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8)).run
    >>> import pandas as pd
    >>> plot_time_by_kind(pd.DataFrame({"improved": time_by_kind(run)}).T).get_xlabel()
    'time of a GPU, mean (ms)'
    """
    from perfsim.report.canvas import fresh, heading, legend_above, seconds_text, time_axis

    table = parts.reindex(columns=list(KINDS), fill_value=0.0).astype(float)
    totals = table.sum(axis=1).to_numpy()
    longest = _shown_s(table)
    ax = fresh(ax, 10, 1.6 + 0.55 * len(table))
    left = np.zeros(len(table))
    for kind in KINDS:
        width = table[kind].to_numpy()
        ax.barh(np.arange(len(table)), width, 0.62, left, color=KIND_COLOURS[kind], label=kind)
        seen = np.minimum(left + width, longest) - left
        for row in np.flatnonzero(seen >= _WIDE_ENOUGH * longest).tolist():
            middle = left[row] + seen[row] / 2
            words = seconds_text(float(width[row]), longest)
            ax.text(middle, row, words, ha="center", va="center", fontsize=9, color=ink_on(KIND_COLOURS[kind]))
        left += width
    for row, total in enumerate(totals.tolist()):
        words, end = seconds_text(total, longest, 4), min(total, longest) + 0.008 * longest
        if total > longest:
            ax.broken_barh([(longest, 0.1 * longest)], (row - 0.4, 0.8), color="white", zorder=2)  # over the rest of it
            _break(ax, longest, row)
        ax.text(end, row, words, va="center", fontsize=9, color=INK, weight="bold")
    ax.set_xlim(0, longest * 1.1)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_yticks(range(len(table)), [str(name) for name in table.index])
    time_axis(ax, "x", longest, "time of a GPU, mean")
    ax.spines[["top", "right"]].set_visible(False)
    cut = "; a bar that is cut goes on to its figure" if totals.max() > longest else ""
    heading(ax, f"Where the time goes{cut}", above=18)
    legend_above(ax, {kind: KIND_COLOURS[kind] for kind in KINDS if table[kind].any()})
    return ax


def _shown_s(table: pd.DataFrame) -> float:
    """Seconds up to which bars are shown: all, unless a long one would squeeze the others and no work is cut."""
    totals = table.sum(axis=1)
    busy = float((totals - table[IDLE]).max())
    cut = cut_of(totals.tolist())
    return float(totals.max()) if cut is None or 2 * max(cut, busy) > totals.max() else max(cut, busy)


def _break(ax: Axes, end: float, row: int) -> None:
    """Mark the end of a bar that is cut by two slanting lines."""
    for shift in (-0.006, 0.0):
        ends = [end * (1 + shift - 0.004), end * (1 + shift + 0.004)]
        ax.plot(ends, [row + 0.4, row - 0.4], color=INK, linewidth=1.2)


def plot_waterfall(waterfall: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how the time of one plan becomes that of another, by kind of operator.

    Parameters
    ----------
    waterfall : DataFrame
        ``kind``, ``change_s``, ``start_s`` and ``end_s``; the first and the last row are the two plans.
    ax : Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    Axes

    Examples
    --------
    >>> rows = [("before", 5.0, 0.0, 5.0), ("matmul", -2.0, 5.0, 3.0), ("after", 3.0, 0.0, 3.0)]
    >>> import pandas as pd
    >>> ax = plot_waterfall(pd.DataFrame(rows, columns=["kind", "change_s", "start_s", "end_s"]))
    >>> [text.get_text() for text in ax.texts]
    ['5 s', '−2 s', '3 s']
    """
    from perfsim.report.canvas import fresh, heading, legend_above, seconds_text, time_axis

    if len(waterfall) < 2:  # noqa: PLR2004 - the two plans
        raise InputError.of("waterfall", len(waterfall), "must have a first and a last row for the two plans")
    start, end = (waterfall[name].to_numpy(dtype=np.float64) for name in ("start_s", "end_s"))
    names = [str(name) for name in waterfall["kind"]]
    highest = float(np.maximum(start, end).max())
    is_plan = np.isin(np.arange(len(names)), [0, len(names) - 1])
    ax = fresh(ax, 10, 4.6)
    colours = np.where(is_plan, TOTAL, np.where(end <= start, FASTER, SLOWER)).tolist()
    ax.bar(np.arange(len(names)), end - start, 0.64, start, color=colours)
    for place in range(len(names) - 1):
        ax.plot([place - 0.32, place + 0.68], [end[place]] * 2, color=MUTED, linewidth=0.8)
    top = np.maximum(start, end) + 0.012 * highest
    for place, change in enumerate((end - start).tolist()):
        sign = "" if is_plan[place] else "−" if change < 0 else "+"
        words = sign + seconds_text(abs(change), highest, 4 if is_plan[place] else 3)
        ax.text(place, float(top[place]), words, ha="center", va="bottom", fontsize=9, color=INK)
    ax.set_xticks(range(len(names)), [textwrap.fill(name, 14) for name in names])
    ax.tick_params(axis="x", length=0)
    ax.set_ylim(min(0.0, float(np.minimum(start, end).min())), highest * 1.1)
    time_axis(ax, "y", highest)
    ax.spines[["top", "right"]].set_visible(False)
    heading(ax, f"From {names[0]} to {names[-1]}: where the time of a GPU changes", above=18)
    legend_above(ax, {"makespan of a plan": TOTAL, "takes less time": FASTER, "takes more time": SLOWER})
    return ax
