"""Paper for the charts: the only module that imports matplotlib, and itself imported only when something is drawn.

The figures are not pyplot's: nothing stays open, no state is shared, and a script needs no display. A notebook shows
the axes that a function returns.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, StepPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from perfsim.report.colours import INK, MUTED, WARNING

__all__ = [
    "Picture", "byte_axis", "device_axis", "does_not_fit", "fresh", "hatched", "heading", "legend_above", "limit",
    "pixels_wide", "seconds_text", "stacked_bars", "steps", "time_axis", "write_png",
]  # fmt: skip

_TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_BYTE_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_MOST_BARS = 64  # more bars than this touch
_MOST_TICKS = 17  # labels that have room


class Picture(Axes):
    """Axes that a notebook shows as the picture of their figure."""

    name = "perfsim.picture"

    def _repr_png_(self) -> bytes:
        """Draw the figure as PNG."""
        buffer = io.BytesIO()
        write_png(self, buffer)
        return buffer.getvalue()


def fresh(ax: Axes | None, width: float, height: float) -> Axes:
    """Give the axes that were asked for, or those of a new figure of a size in inches."""
    if ax is not None:
        return ax
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot(axes_class=Picture)


def write_png(ax: Axes, target: Path | IO[bytes]) -> None:
    """Write the figure of an axes as PNG; a figure's own `savefig` takes twice as long, for it draws all twice."""
    figure = ax.get_figure(root=True)
    if figure is not None:
        FigureCanvasAgg(figure).print_png(target)  # type: ignore[no-untyped-call]


def pixels_wide(ax: Axes) -> int:
    """Pixels that an axes may be wide; before the layout is known, those of the whole figure."""
    figure = ax.get_figure(root=True)
    return max(int(np.ceil(figure.bbox.width)), 1) if figure else 1


def heading(ax: Axes, title: str, *, above: float = 0.0) -> None:
    """Write a title at the left, over a line of height `above` (in points) for the legend."""
    ax.set_title(title, loc="left", fontsize=11, color=INK, pad=8 + above, y=1.0)  # or it would be looked for


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


def seconds_text(value_s: float, span_s: float, digits: int = 3) -> str:
    """Write a time in the unit of an axis with such a span; see `time_axis`."""
    size, unit = _unit(span_s, _TIME_UNITS)
    return f"{float(f'{value_s / size:.{digits}g}'):g} {unit}"


def _unit(span: float, units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """Choose the largest unit of which the span is at least two."""
    return next((pair for pair in units if span >= 2 * pair[0]), units[-1])


def _unit_axis(ax: Axes, which: str, span: float, label: str, units: Sequence[tuple[float, str]]) -> None:
    size, unit = _unit(span, units)
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(MaxNLocator(nbins=10 if which == "x" else 7, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:.10g}"))
    axis.set_label_text(f"{label} ({unit})")


def steps(
    ax: Axes, values: NDArray[np.float64], edges: NDArray[np.float64], baseline: float | None, **style: Any
) -> None:
    """Draw a step curve, over a baseline or as a line, on axes whose limits are set.

    `Axes.stairs` would look for limits of its own at every step, which takes longer than all else about the picture.
    """
    ax.add_artist(StepPatch(values, edges, baseline=baseline, fill=baseline is not None, **style))  # type: ignore[arg-type]


def stacked_bars(ax: Axes, parts: Mapping[str, NDArray[np.float64]], colours: Mapping[str, str]) -> None:
    """Stack a bar for each device; with many devices the bars touch and make steps."""
    bottom = np.zeros(len(next(iter(parts.values()))))
    places = np.arange(len(bottom))
    for name, size in parts.items():
        if len(bottom) <= _MOST_BARS:
            ax.bar(places, size, 0.8, bottom, color=colours[name], label=name)
        else:
            edges = np.arange(len(bottom) + 1) - 0.5
            ax.stairs(bottom + size, edges, baseline=bottom, fill=True, color=colours[name], linewidth=0, label=name)
        bottom = bottom + size


def hatched(ax: Axes, low: NDArray[np.float64], high: NDArray[np.float64]) -> Patch:
    """Hatch the devices' bars from `low` to `high`, where these are numbers, and give the entry of the legend."""
    over = np.flatnonzero(np.isfinite(low))
    if len(low) <= _MOST_BARS:
        ax.bar(over, (high - low)[over], 0.8, low[over], facecolor="none", hatch="////", edgecolor=WARNING)
    else:
        edges = np.arange(len(low) + 1) - 0.5
        ax.stairs(high, edges, baseline=low, fill=True, facecolor="none", hatch="////", edgecolor=WARNING)
    return does_not_fit()


def does_not_fit() -> Patch:
    """Entry of the legend for what is hatched."""
    return Patch(facecolor="white", edgecolor=WARNING, hatch="////", linewidth=0.8, label="does not fit")


def limit(ax: Axes, value: float, words: str) -> None:
    """Name a horizontal limit at the right of the picture, where nothing is drawn."""
    ax.text(1.008, value, words, transform=ax.get_yaxis_transform(), ha="left", va="center", fontsize=9, color=WARNING)


def device_axis(ax: Axes, devices: NDArray[np.int64]) -> None:
    """Label the horizontal axis with the devices, one unit each."""
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, len(devices)) if len(devices) <= _MOST_TICKS * step)
    ax.set_xticks(range(0, len(devices), step), [str(device) for device in devices[::step]])
    ax.set_xlim(-0.6, len(devices) - 0.4)
    ax.set_xlabel("GPU")
    ax.spines[["top", "right"]].set_visible(False)
