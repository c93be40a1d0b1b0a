"""The comparison of plans on the page: a table and two pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perfsim.report.breakdown import IDLE
from perfsim.report.colours import KIND_COLOURS, TOTAL
from perfsim.study.compare import Comparison
from perfsim.study.page.figures import IDLE_COLOUR, MARK, figure, stacked, tip
from perfsim.units import format_bytes, format_seconds

__all__ = ["comparison_rows", "kinds_figure", "latency_figure"]

_ROWS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "speedup": ("times as fast as {baseline}", "{:.2f}".format),
    "makespan_s": ("makespan", format_seconds),
    "tokens_per_s": ("tokens per second", "{:,.0f}".format),
    "first_sequence_s": ("first sequence done after", format_seconds),
    "ttft_s": ("time to first token, mean over sequences", format_seconds),
    "tpot_s": ("time per output token, mean over sequences", format_seconds),
    "first_sequence_speedup": ("first sequence: times as soon as {baseline}", "{:.2f}".format),
    "mfu": ("MFU, the FLOP that are asked for", "{:.1%}".format),
    "mfu_full_attention": ("MFU, all pairs of tokens counted", "{:.1%}".format),
    "bubble_fraction": ("idle share of the makespan", "{:.1%}".format),
    "communication_fraction": ("communicating share, hidden or not", "{:.1%}".format),
    "busy_max_over_mean": ("busiest GPU over the mean", "{:.3f}".format),
    "peak_bytes": ("peak memory of a GPU", format_bytes),
    "fits": ("fits in memory", {True: "yes", False: "NO"}.get),
}
_BETTER = {"speedup": max, "makespan_s": min, "tokens_per_s": max, "first_sequence_s": min, "ttft_s": min, "mfu": max}


def comparison_rows(comparison: Comparison) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Write the table of a comparison: a row a figure, and for each plan its text and whether it is the best."""
    import pandas as pd

    table = comparison.table
    rows = []
    for column, (label, write) in _ROWS.items():
        if column not in table:
            continue
        values = table[column].tolist()
        best = _BETTER[column](values) if column in _BETTER and len(set(values)) > 1 else None
        cells = [("" if pd.isna(value) else str(write(value)), value == best) for value in values]
        rows.append((label.format(baseline=comparison.baseline), cells))
    return rows


def kinds_figure(comparison: Comparison) -> tuple[Any, dict[str, str]]:
    """Draw the makespan of each plan, by what a GPU does in it; give the colours with it."""
    table = comparison.time_by_kind.loc[:, lambda frame: frame.any()]
    names = list(table.index)
    tips = [
        tip(name, {kind: f"{format_seconds(part)}, {part / parts.sum():.1%}" for kind, part in parts.items()})
        for name, parts in table.iterrows()
    ]
    colours = {kind: IDLE_COLOUR if kind == IDLE else KIND_COLOURS.get(kind, TOTAL) for kind in table.columns}
    plot = _bars(names, "makespan (s), on the mean over GPUs", "comparison-bars")
    columns = {"plan": names, "tip": tips, **{kind: table[kind].to_numpy() for kind in colours}}
    stacked(plot, "hbar_stack", colours, columns, y="plan")
    return plot, colours


def latency_figure(comparison: Comparison) -> Any:
    """Draw when the first sequence is done under each plan."""
    table = comparison.table
    names = list(table.index)
    tips = [tip(name, {"first sequence": format_seconds(time)}) for name, time in table["first_sequence_s"].items()]
    milliseconds = 1e3 * table["first_sequence_s"].to_numpy(dtype=float)
    plot = _bars(names, "first sequence done after (ms)", "comparison-first")
    stacked(plot, "hbar_stack", {"time": MARK}, {"plan": names, "time": milliseconds, "tip": tips}, y="plan")
    return plot


def _bars(names: list[str], label: str, name: str) -> Any:
    """Make an empty picture with a line for each plan."""
    plot = figure(height=90 + 44 * len(names), y_range=names[::-1], tools="", toolbar_location=None, x_axis_label=label,
                  name=name)  # fmt: skip
    plot.x_range.start = 0
    plot.min_border_left = 10
    plot.ygrid.visible = False
    return plot
