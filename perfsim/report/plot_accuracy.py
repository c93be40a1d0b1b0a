"""Predicted against measured times, one panel an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_accuracy"]

_MOST_POINTS = 3000
"""Of a panel: more hide each other."""
_COLUMNS = 3
_SPAN = (0.25, 4.0)
"""Factors that are shown; beyond them lie on the edge."""
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#882255")


def plot_accuracy(rows: pd.DataFrame) -> Axes:
    """Draw predicted over measured time against measured time, a panel for each operator, a colour for each system.

    Factors beyond 4 either way lie on the edge.

    Parameters
    ----------
    rows : DataFrame
        ``operator``, ``system``, ``latency_s`` and ``predicted_s``; of many rows some are drawn.

    Returns
    -------
    Axes
        The first panel, whose figure has all.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({
    ...     "operator": "matmul", "system": ["a", "b"], "latency_s": [1e-5, 1e-4], "predicted_s": [1.1e-5, 0.9e-4]})
    >>> plot_accuracy(rows).get_title(loc="left")
    'matmul: 2 rows, MAPE 10.0 %'
    """
    from perfsim.report.canvas import Picture, fresh

    operators, systems = rows["operator"].unique(), list(rows["system"].unique())
    lines = -(-len(operators) // _COLUMNS)
    across = min(len(operators), _COLUMNS)
    whole = fresh(None, max(4.2 * across, 6.5), 2.9 * lines + 0.4)
    figure: Any = whole.get_figure(root=True)
    whole.remove()
    panels = figure.subplots(lines, across, squeeze=False, subplot_kw={"axes_class": Picture}).ravel()
    for ax, operator in zip(panels, operators, strict=False):
        _panel(ax, rows[rows["operator"] == operator], operator, systems)
    for ax in panels[len(operators) :]:
        ax.remove()
    handles = [
        panels[0].plot([], [], "o", color=_COLOURS[index % len(_COLOURS)], label=system)[0]
        for index, system in enumerate(systems)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(systems), frameon=False, fontsize=8)
    return panels[0]


def _panel(ax: Axes, rows: pd.DataFrame, operator: str, systems: list[str]) -> None:
    """Draw one operator on logarithmic axes, with the line of no error and those of a factor of 1.2."""
    error = 100 * (rows["predicted_s"] / rows["latency_s"] - 1).abs().mean()
    shown = rows
    if len(rows) > _MOST_POINTS:
        shown = rows.iloc[np.sort(np.random.default_rng(0).choice(len(rows), _MOST_POINTS, replace=False))]
    for index, system in enumerate(systems):
        own = shown[shown["system"] == system]
        factor, colour = np.clip(own["predicted_s"] / own["latency_s"], *_SPAN), _COLOURS[index % len(_COLOURS)]
        ax.plot(own["latency_s"] * 1e6, factor, ".", color=colour, markersize=2.5, alpha=0.5, rasterized=True)
    for level, style in ((1.0, "-"), (1 / 1.2, ":"), (1.2, ":")):
        ax.axhline(level, color="#222222", linewidth=0.8, linestyle=style)
    ax.set(
        xscale="log",
        yscale="log",
        ylim=(_SPAN[0] * 0.95, _SPAN[1] * 1.05),
        xlabel="measured (us)",
        ylabel="predicted / measured",
    )
    ax.set_yticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
    ax.set_yticks([], minor=True)
    ax.set_title(f"{operator}: {len(rows):,} rows, MAPE {error:.1f} %", loc="left", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
