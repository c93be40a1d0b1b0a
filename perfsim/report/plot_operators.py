"""The time of a plan by operator, and by what bounds each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perfsim.report.colours import BOUND_COLOURS, INK

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_operators"]

_MOST = 16
"""Bars of one picture: the operators that take longest."""


def plot_operators(operators: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw how much time all GPUs together spend with each operator, and by what it is bound.

    Operators of the same name in all layers, stages and sizes of a microbatch have one bar.

    Parameters
    ----------
    operators : DataFrame
        As in ``result.operators``.
    ax : Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8))
    >>> ax = plot_operators(result.operators)
    >>> ax.get_xlabel(), ax.get_yticklabels()[0].get_text()
    ('time of all GPUs (ms)', 'mlp_down (matmul)')
    """
    from perfsim.report.canvas import fresh, heading, legend_above, time_axis

    table = _by_bound(operators)
    totals = table.sum(axis=1).to_numpy()
    longest, whole = float(totals.max()), float(totals.sum())
    ax = fresh(ax, 10, 1.4 + 0.27 * len(table))
    left = np.zeros(len(table))
    for bound in table.columns:
        ax.barh(np.arange(len(table)), table[bound], 0.7, left, color=BOUND_COLOURS[bound], label=bound)
        left += table[bound].to_numpy()
    for row, total in enumerate(totals.tolist()):
        ax.text(total + 0.006 * longest, row, f"{total / whole:.1%}", va="center", fontsize=9, color=INK)
    ax.set_xlim(0, longest * 1.08)
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_yticks(range(len(table)), [str(name) for name in table.index], fontsize=9)
    ax.tick_params(axis="y", length=0)
    time_axis(ax, "x", longest, "time of all GPUs")
    ax.spines[["top", "right"]].set_visible(False)
    shares = ", ".join(f"{share / whole:.0%} {bound}" for bound, share in table.sum().items())
    heading(ax, f"Time by operator and by what bounds it: {shares}", above=18)
    legend_above(ax, {f"bound by {bound}": BOUND_COLOURS[bound] for bound in table.columns})
    return ax


def _by_bound(operators: pd.DataFrame) -> pd.DataFrame:
    """Seconds of each operator, the longest first, by what bounds it; the short ones in one row."""
    import pandas as pd

    frame = operators.assign(
        name=[
            op if op == kind else f"{op} ({kind})" for op, kind in zip(operators["op"], operators["kind"], strict=True)
        ],
        total_s=operators["seconds"] * operators["executions"],
    )
    frame = frame[frame["total_s"] > 0]
    table = frame.pivot_table("total_s", "name", "bound", aggfunc="sum", fill_value=0.0, observed=True)
    table = table.reindex(columns=[bound for bound in BOUND_COLOURS if bound in table.columns])
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    if len(table) > _MOST:
        rest = table.iloc[_MOST - 1 :]
        others = pd.DataFrame([rest.sum()], index=[f"{len(rest)} others"])
        table = pd.concat([table.iloc[: _MOST - 1], others])
    return table
