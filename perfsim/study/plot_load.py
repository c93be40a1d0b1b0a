"""The picture of a search for the largest load: throughput against latency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfsim.errors import Faults
from perfsim.report.colours import KIND_COLOURS, MUTED, WARNING
from perfsim.report.sweep_table import words_of
from perfsim.study.serving_figures import SERVED_FIGURES
from perfsim.units import format_seconds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_load"]

_COLOUR = KIND_COLOURS["matmul"]


def plot_load(
    table: pd.DataFrame, name: str, latency: str, *, load: float, limit_s: float | None, ax: Axes | None = None
) -> Axes:
    """Draw throughput against a latency for the loads that were tried.

    Parameters
    ----------
    table : DataFrame
        That of a `perfsim.MaxLoad`.
    name, latency : str
        Columns of it: the load, and what to draw the throughput against.
    load : float
        The load whose marker is labelled.
    limit_s : float, optional
        The objective of the latency.
    ax : Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    Axes
    """
    from perfsim.report.canvas import fresh, heading

    faults = Faults("plot")
    faults.choice("latency", latency, [name for name in SERVED_FIGURES if name.endswith("_s") and "per_s" not in name])
    faults.raise_if_any()
    ax = fresh(ax, 8, 4.5)
    ax.plot(table[latency], table["tokens_per_s"], color=MUTED, linewidth=1.0, zorder=1)
    for meets, face in ((True, _COLOUR), (False, "white")):
        some = table[table["meets"] == meets]
        ax.plot(some[latency], some["tokens_per_s"], "o", color=_COLOUR, markerfacecolor=face, zorder=2)
    at = table[table[name] == load].iloc[0]
    ax.annotate(f"{load:,.4g}", (at[latency], at["tokens_per_s"]), (6, -10), textcoords="offset points", fontsize=9)
    if limit_s is not None:
        ax.axvline(limit_s, color=WARNING, linewidth=1)
    ax.set_xlabel(f"{words_of(latency)} (s)")
    ax.set_ylabel("throughput (tokens/s)")
    ax.set_ylim(bottom=0)
    ax.grid(color="#E0E0E0", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    limit = f"; the objective is {format_seconds(limit_s)}" if limit_s is not None else ""
    heading(ax, f"Loads by {words_of(name)}: filled where they meet the service level{limit}")
    return ax
