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
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, StepPatch
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox, BboxBase
from numpy.typing import NDArray

from perfsim.report.colours import INK, MUTED, WARNING

__all__ = [
    "Picture", "along", "boxes_of_line", "byte_axis", "device_axis", "does_not_fit", "fresh", "hatched", "heading",
    "legend_above", "limit",
    "pixels_wide", "place_names", "seconds_text", "settle", "stacked_bars", "steps", "time_axis", "write_png",
]  # fmt: skip

_TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_BYTE_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_MOST_BARS = 64  # more bars than this touch
_MOST_TICKS = 17  # labels that have room
_MOST_LARGE, _MOST_UPRIGHT = 10, 16  # names of groups that have room beside each other, in large and in small letters
_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


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


def legend_above(ax: Axes, colours: Mapping[str, str], extra: Sequence[Artist] = (), columns: int = 8) -> None:
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


def along(ax: Axes, place: tuple[float, float], slope: float, words: str) -> Text:
    """Write words above a line through the origin, along it, on logarithmic axes that are settled."""
    ends = ax.transData.transform([place, (2 * place[0], 2 * place[0] * slope)])
    angle = float(np.degrees(np.arctan2(*(ends[1] - ends[0])[::-1])))
    return ax.annotate(
        words, place, (-2 * np.sin(np.radians(angle)), 2 * np.cos(np.radians(angle))), textcoords="offset points",
        rotation=angle, rotation_mode="anchor", ha="center", va="bottom", fontsize=9, color=INK, in_layout=False,
    )  # fmt: skip


def settle(ax: Axes) -> None:
    """Let the layout find the place of the axes, which texts that avoid each other must know; none may change it."""
    figure = ax.get_figure(root=True)
    engine = None if figure is None else figure.get_layout_engine()
    if figure is not None and engine is not None:
        engine.execute(figure)


def boxes_of_line(ax: Axes, line: Line2D) -> list[Bbox]:
    """Give the pixels that a straight line takes, in small boxes."""
    (x0, y0), (x1, y1) = ax.transData.transform(line.get_xydata())
    pieces = max(int(np.hypot(x1 - x0, y1 - y0) / 4), 1)
    points = np.stack([np.linspace(x0, x1, pieces), np.linspace(y0, y1, pieces)], axis=1)
    return [Bbox([point - 1, point + 1]) for point in points]


def place_names(
    ax: Axes, x: NDArray[np.float64], y: NDArray[np.float64], names: Mapping[int, str], *, radii: NDArray[np.float64],
    taken: Sequence[BboxBase],
) -> list[Text]:  # fmt: skip
    """Write names beside markers so that they cover no marker, no name and nothing else; after `settle`.

    Parameters
    ----------
    x, y : ndarray, shape (markers,)
    names : mapping of int to str
        By the index of the marker; the first are placed first.
    radii : ndarray, shape (markers,)
        Of the markers, in points.
    taken : sequence of BboxBase
        What else is there, in pixels.

    Returns
    -------
    list of Text
        Those for which there was room.
    """
    figure: Any = ax.get_figure(root=True)
    point = figure.dpi / 72
    middle = ax.transData.transform(np.column_stack([x, y]))
    boxes = [
        *(Bbox([place - radius * point, place + radius * point]) for place, radius in zip(middle, radii, strict=True)),
        *taken,
    ]
    placed: list[Text] = []
    for index, name in names.items():
        text = ax.annotate(
            name, (x[index], y[index]), (0, 0), textcoords="offset points", fontsize=9, color=INK, va="center",
            ha="left", zorder=9, in_layout=False,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.3},
        )  # fmt: skip
        extent = text.get_window_extent()
        size = np.array([extent.width, extent.height]) + 2 * point
        corner = _free_corner(ax.bbox, middle[index], radii[index] * point, size, boxes)
        if corner is None:
            text.remove()
            continue
        offset = (corner + np.array([point, size[1] / 2]) - middle[index]) / point
        text.set_position((float(offset[0]), float(offset[1])))
        boxes.append(Bbox([corner, corner + size]))
        _lead(ax, middle[index], radii[index] * point, boxes[-1])
        placed.append(text)
    return placed


def _free_corner(
    inside: BboxBase, middle: NDArray[np.float64], radius: float, size: NDArray[np.float64], boxes: Sequence[BboxBase]
) -> NDArray[np.float64] | None:
    """Find the lower left corner of a text near a marker, where it is inside and overlaps none of the boxes."""
    for distance in (3, 8, 16, 26, 38, 52, 68, 86, 106, 130, 160):
        for angle in np.radians([0, 180, 90, 270, 35, 325, 145, 215, 60, 300, 120, 240]):
            towards = np.array([np.cos(angle), np.sin(angle)])
            centre = middle + towards * (radius + distance + np.abs(towards) @ size / 2)
            box = Bbox([centre - size / 2, centre + size / 2])
            within = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            if within and not box.count_overlaps(boxes):
                return np.asarray(box.p0)
    return None


def _lead(ax: Axes, middle: NDArray[np.float64], radius: float, box: BboxBase) -> None:
    """Draw a thin line from a marker to its name where they are apart."""
    end = np.clip(middle, box.p0, box.p1)
    if np.hypot(*(end - middle)) > radius + 9:  # pixels at which the eye still joins them
        (x0, y0), (x1, y1) = ax.transData.inverted().transform([middle, end])
        ax.plot([x0, x1], [y0, y1], color=MUTED, linewidth=0.6, zorder=2.5)


def device_axis(ax: Axes, labels: Sequence[str]) -> None:
    """Label the horizontal axis with the devices of each bar, one unit each; of many bars only some have room."""
    whole = any("\n" in label for label in labels)  # names of groups, of which none can be inferred
    step = 1 if whole else next(step for step in (*_STEPS, len(labels)) if len(labels) <= _MOST_TICKS * step)
    ax.set_xticks(range(0, len(labels), step), list(labels[::step]))
    if whole and len(labels) > _MOST_LARGE:
        ax.tick_params(axis="x", labelrotation=90 * (len(labels) > _MOST_UPRIGHT), labelsize=8)
    ax.set_xlim(-0.6, len(labels) - 0.4)
    ax.set_xlabel("GPU")
    ax.spines[["top", "right"]].set_visible(False)
