"""Paper for the charts: the only module that imports matplotlib, and itself imported only when something is drawn.

The figures are not pyplot's: nothing stays open, no state is shared, and a script needs no display. A notebook shows the
axes that a function returns.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from perfsim.report.colours import INK, MUTED

__all__ = ["Picture", "byte_axis", "fresh", "heading", "legend_above", "pixels_wide", "time_axis"]

_TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_BYTE_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class Picture(Axes):
    """Axes that a notebook shows as the picture of their figure."""

    name = "perfsim.picture"

    def _repr_png_(self) -> bytes:
        """Draw the figure as PNG."""
        buffer = io.BytesIO()
        FigureCanvasAgg(self.get_figure(root=True) or Figure()).print_png(buffer)
        return buffer.getvalue()


def fresh(ax: Axes | None, width: float, height: float) -> Axes:
    """Give the axes that were asked for, or those of a new figure of a size in inches."""
    if ax is not None:
        return ax
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot(axes_class=Picture)


def pixels_wide(ax: Axes) -> int:
    """Pixels that an axes may be wide; before the layout is known, those of the whole figure."""
    figure = ax.get_figure(root=True)
    return max(int(np.ceil(figure.bbox.width)), 1) if figure else 1


def heading(ax: Axes, title: str, *, above: float = 0.0) -> None:
    """Write a title at the left, over a line of height `above` (in points) for the legend."""
    ax.set_title(title, loc="left", fontsize=11, color=INK, pad=8 + above)


def legend_above(ax: Axes, colours: Mapping[str, str], extra: Sequence[Patch] = (), columns: int = 8) -> None:
    """Put a legend between the title and the data, where it covers neither."""
    handles = [Patch(facecolor=colour, edgecolor=MUTED, linewidth=0.4, label=name) for name, colour in colours.items()]
    ax.legend(
        handles=[*handles, *extra],
        loc="lower left",
        bbox_to_anchor=Bbox.from_bounds(0, 1, 1, 0),
        ncols=columns,
        frameon=False,
        fontsize=9,
        handlelength=1.2,
        handleheight=1.0,
        handletextpad=0.5,
        columnspacing=1.4,
        borderpad=0.2,
        borderaxespad=0.2,
    )


def time_axis(ax: Axes, which: str, span_s: float, label: str = "time") -> None:
    """Label an axis that is in seconds in the unit that suits a span."""
    _unit_axis(ax, which, span_s, label, _TIME_UNITS)


def byte_axis(ax: Axes, which: str, span_bytes: float, label: str = "memory") -> None:
    """Label an axis that is in bytes in the unit that suits a span; 1 GB is 1e9 bytes."""
    _unit_axis(ax, which, span_bytes, label, _BYTE_UNITS)


def _unit_axis(ax: Axes, which: str, span: float, label: str, units: Sequence[tuple[float, str]]) -> None:
    """Choose the largest unit of which the span is at least two."""
    size, unit = next((pair for pair in units if span >= 2 * pair[0]), units[-1])
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(MaxNLocator(nbins=10 if which == "x" else 7, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:.10g}"))
    axis.set_label_text(f"{label} ({unit})")
