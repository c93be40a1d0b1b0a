"""Pictures of a sweep: a heat map over two axes, lines over one, and the Pareto front of gain against cost.

A point that does not fit keeps its figures in the table, but nobody can have them. So the heat map does not show its
colour, its marker is open and its line broken, and it is never on the front.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import InputError
from perfsim.report.colours import INK, MUTED, WARNING
from perfsim.report.sweep_table import (
    DOES_NOT_FIT,
    FITS,
    IMPOSSIBLE,
    Column,
    Numbers,
    Scale,
    check_table,
    check_unique,
    is_wide,
    numbers_of,
    states_of,
    varying,
    words_of,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["plot_heatmap", "plot_lines", "plot_pareto"]

_NO_VALUE = -1
_CELLS: dict[int, dict[str, Any]] = {
    DOES_NOT_FIT: {"label": "does not fit in memory", "hatch": "////", "edgecolor": WARNING, "facecolor": "white"},
    IMPOSSIBLE: {"label": "impossible", "hatch": "....", "edgecolor": MUTED, "facecolor": "white"},
    _NO_VALUE: {"label": "no value", "hatch": "", "edgecolor": MUTED, "facecolor": "#EBEBEB"},
}
"""Cells of a heat map that do not show a value."""
_BEST = {
    "makespan_s": min,
    "first_sequence_s": min,
    "peak_bytes": min,
    "tokens_per_s": max,
    "mfu": max,
    "mfu_full_attention": max,
    **{f"{name}{which}_s": min for name in ("ttft", "tpot", "latency") for which in ("", "_p50", "_p90", "_p99")},
    "tokens_per_s_per_gpu": max,
    "completed_requests_per_s": max,
    "goodput_requests_per_s": max,
    "goodput_share": max,
}

_COLOURS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#CCBB44", "#66CCEE")
"""Of lines: Paul Tol's bright palette for the colour-blind."""
_MARKERS = "osD^v"
_MOST_LINES = len(_COLOURS) * len(_MARKERS)  # each has a look of its own
_MOST_MARKERS = 64  # on a line: more touch
_MOST_LABELS = 17  # on an axis: more numbers have ticks at round ones
_LETTER, _LINE = 5.4, 15.0  # room for a letter and a line of text, in points
_NARROW = 12  # letters: narrower columns of text are not read


def plot_heatmap(table: pd.DataFrame, x: str, y: str, value: str = "tokens_per_s", ax: Axes | None = None) -> Axes:
    """Draw a figure over two axes of a sweep; where a plan does not fit or is impossible, the cell is hatched.

    Parameters
    ----------
    table : DataFrame
        As from `perfsim.sweep`, with one row for each pair of values of `x` and `y`.
    x, y : str
        Columns that vary.
    value : str
        Column of numbers that the colours show, on the scale of the points that fit.
    ax : Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        There is no such column, or another axis varies too.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved").with_(keep_kv_cache=True)
    >>> table = perfsim.sweep(scenario, batch_size=[16, 64, 256], sequence_length=[4096, 16384])
    >>> ax = plot_heatmap(table, "batch_size", "sequence_length")
    >>> ax.get_xlabel(), [text.get_text() for text in ax.get_legend().get_texts()]
    ('batch size (sequences)', ['does not fit in memory'])
    """
    from perfsim.report.canvas import fresh

    check_table(table, {"x": x, "y": y, "value": value}, numeric=["value"])
    check_unique(table, [x, y])
    across, up = (Column.of(table, name, most_even=_MOST_LABELS) for name in (x, y))
    values, states = numbers_of(table[value]), states_of(table)
    states[(states == FITS) & np.isnan(values)] = _NO_VALUE
    state = np.full((len(up.values), len(across.values)), _NO_VALUE)
    state[up.row, across.row] = states
    shown = np.full(state.shape, np.nan)
    shown[up.row, across.row] = np.where(states == FITS, values, np.nan)
    room_for_names = 0.0 if across.numeric else 1.0
    ax = fresh(ax, 10, float(np.clip(1.6 + 0.32 * len(up.values), 3.2, 6.5)) + room_for_names)
    _column_axis(ax, "x", across)
    _column_axis(ax, "y", up)
    title = f"{words_of(value)} over {words_of(x)} and {words_of(y)}: {_verdict(states)}"
    if np.isfinite(shown).any():
        _fill(ax, across.edges, up.edges, shown, value)
        if value in _BEST:
            best = _BEST[value](shown[state == FITS])
            row, column = np.argwhere(shown == best)[0].tolist()
            where = f"{across.phrases[column]}, {up.phrases[row]}"
            title = f"{words_of(value)}: best {Scale.of(value, best).text(best, digits=4)}, at {where}"
    entries = [_hatch(ax, across.edges, up.edges, state == kind, kind) for kind in _CELLS if (state == kind).any()]
    ax.set(xlim=across.edges[[0, -1]], ylim=up.edges[[0, -1]])
    return _finished(ax, title, entries)


def plot_lines(
    table: pd.DataFrame, x: str, value: str = "tokens_per_s", by: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a figure over one axis of a sweep, a line for each value of another.

    Where a point does not fit, its marker is open and the line to it broken; where it is impossible, there is none.

    Parameters
    ----------
    table : DataFrame
        As from `perfsim.sweep`, with one row for each value of `x`, or for each pair of values of `x` and `by`.
    x : str
        Column that varies.
    value : str
        Column of numbers.
    by : str, optional
        Column with a line for each of its values.
    ax : Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        There is no such column, another axis varies too, or `by` has more values than lines can be told apart.

    Examples
    --------
    >>> import perfsim
    >>> plans = {"TP8": perfsim.Plan(tensor=8, pipeline=2), "TP4": perfsim.Plan(tensor=4, pipeline=4)}
    >>> table = perfsim.sweep(perfsim.load_scenario("seed-improved"), batch_size=[16, 32, 64], plan=plans)
    >>> [text.get_text() for text in plot_lines(table, "batch_size", by="plan").get_legend().get_texts()]
    ['TP8', 'TP4']
    """
    from perfsim.report.canvas import fresh

    check_table(table, {"x": x, "value": value, "by": by}, numeric=["value"])
    check_unique(table, [x] if by is None else [x, by])
    across, lines = Column.of(table, x), None if by is None else Column.of(table, by)
    names = ["fits in memory"] if lines is None else lines.phrases
    if len(names) > _MOST_LINES:
        allowed = f"has {len(names):,} values, and no more than {_MOST_LINES} lines can be told apart"
        raise InputError.of("by", by, allowed, f"select some with table[table[{by!r}].isin([...])]")
    states = states_of(table)
    values = np.where(states == IMPOSSIBLE, np.nan, numbers_of(table[value]))
    ax = fresh(ax, 10, 4.6)
    _column_axis(ax, "x", across)
    order = np.argsort(across.row, kind="stable")
    entries = []
    for index, name in enumerate(names):
        mine = order if lines is None else order[lines.row[order] == index]
        line = _draw_line(ax, across.place[across.row[mine]], values[mine], states[mine] == FITS, index)
        line.set_label(name + " (impossible)" * bool((states[mine] == IMPOSSIBLE).all()))
        entries.append(line)
    if (states == DOES_NOT_FIT).any():
        entries += ax.plot([], [], "o--", color=MUTED, markerfacecolor="white", label="does not fit in memory")
    _number_axis(ax, "y", value, values, log=is_wide(values))
    if ax.get_yscale() == "linear" and not (values < 0).any():
        ax.set_ylim(bottom=0)
    return _finished(ax, f"{words_of(value)} over {words_of(x)}: {_verdict(states)}", entries)


def plot_pareto(
    table: pd.DataFrame, x: str = "first_sequence_s", y: str = "tokens_per_s", label: str | None = None,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw every point that fits, and the front of those that no other beats in both `x` and `y`.

    Parameters
    ----------
    table : DataFrame
        As from `perfsim.sweep`.
    x : str
        Column of numbers that should be small: a latency, or ``peak_bytes``. Of tokens a second and MFU more is better,
        on either axis.
    y : str
        Column of numbers that should be large; of times and bytes less is better, on either axis.
    label : str, optional
        Column that names the points of the front, as far as there is room; the axes of the sweep when left out.
    ax : Axes, optional
        Where to draw; a new figure when left out.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        There is no such column.

    Examples
    --------
    >>> import perfsim
    >>> fast, slow = perfsim.Plan(tensor=8, pipeline=2, microbatch_size=1), perfsim.Plan(pipeline=16, microbatch_size=1)
    >>> scenario = perfsim.load_scenario("seed-improved").with_(batch_size=64)
    >>> table = perfsim.sweep(scenario, plan={"TP8": fast, "PP16": slow})
    >>> sorted(text.get_text() for text in plot_pareto(table).texts)
    ['PP16', 'TP8']
    """
    from perfsim.report.canvas import fresh

    check_table(table, {"x": x, "y": y, "label": label}, numeric=["x", "y"])
    cost, gain = numbers_of(table[x]), numbers_of(table[y])
    fine = np.flatnonzero((states_of(table) == FITS) & np.isfinite(cost) & np.isfinite(gain))
    worse = -1.0 if _BEST.get(x) is max else 1.0
    better = -1.0 if _BEST.get(y) is min else 1.0
    front = fine[_front(worse * cost[fine], better * gain[fine])]
    ax = fresh(ax, 10, 5.2)
    entries = ax.plot(cost[fine], gain[fine], "o", color="#AAAAAA", markersize=4, mew=0, label="fits in memory")
    entries += ax.plot(cost[front], gain[front], "o-", color=_COLOURS[0], drawstyle="steps-post", label="Pareto front")
    _number_axis(ax, "x", x, cost[fine], log=is_wide(cost[fine]))
    _number_axis(ax, "y", y, gain[fine], log=is_wide(gain[fine]))
    if len(front):
        columns = [Column.of(table, name) for name in ([label] if label else varying(table))]
        phrases = [np.array(column.phrases, dtype=object)[column.row[front]] for column in columns]
        names = [", ".join(some[point] for some in phrases) for point in range(len(front))]
        _name_points(ax, cost[front], gain[front], names)
    else:
        ax.text(0.5, 0.5, "no point fits", transform=ax.transAxes, ha="center", color=WARNING)
    counts = f"{len(front):,} of the {len(fine):,} points that fit are on the front"
    return _finished(ax, f"{words_of(y)} against {words_of(x)}: {counts}", entries)


def _fill(ax: Axes, x_edges: Numbers, y_edges: Numbers, shown: Numbers, value: str) -> None:
    """Colour the cells that have a value, and say by a bar what the colours mean."""
    figure, log = ax.get_figure(), is_wide(shown)
    norm = "log" if log else "linear"
    mesh = ax.pcolormesh(x_edges, y_edges, np.ma.masked_invalid(shown), norm=norm, cmap="viridis")
    if figure is not None:
        _number_axis(figure.colorbar(mesh, ax=ax, pad=0.02).ax, "y", value, shown, log=log)


def _hatch(ax: Axes, x_edges: Numbers, y_edges: Numbers, chosen: NDArray[np.bool_], kind: int) -> Any:
    """Hatch some cells, neighbours in one piece, and give the entry of the legend."""
    from perfsim.report.canvas import does_not_fit

    look = _CELLS[kind]
    for row in np.flatnonzero(chosen.any(axis=1)):
        bounds = x_edges[np.flatnonzero(np.diff(chosen[row], prepend=False, append=False))].reshape(-1, 2)
        spans = [(low, high - low) for low, high in bounds.tolist()]
        ax.broken_barh(spans, (y_edges[row], y_edges[row + 1] - y_edges[row]), linewidth=0, **look)
    entry = does_not_fit()
    entry.set(**look)
    return entry


def _draw_line(ax: Axes, place: Numbers, value: Numbers, fits: NDArray[np.bool_], index: int) -> Any:
    """Draw a line, whole between points that fit and broken elsewhere, and give the whole one."""
    look: dict[str, Any] = {"color": _COLOURS[index % len(_COLOURS)], "marker": _MARKERS[index % len(_MARKERS)]}
    look["markersize"] = 5 if len(place) <= _MOST_MARKERS else 1.5
    ax.plot(place, value, linestyle="--", linewidth=1.2, markerfacecolor="white", **look)
    return ax.plot(place, np.where(fits, value, np.nan), linewidth=1.8, **look)[0]


def _front(cost: Numbers, gain: Numbers) -> NDArray[np.int64]:
    """Points that no other beats, by rising cost; of equal ones the first."""
    order = np.lexsort((-gain, cost))
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(gain[order])])[: len(order)]
    return order[gain[order] > best_before]


def _name_points(ax: Axes, cost: Numbers, gain: Numbers, names: list[str]) -> None:
    """Write names up and left of the front, where nothing is: those of its ends, and then what has room."""
    width, height = _size(ax)
    ax.margins(y=max(0.05, 1.5 * _LINE / height))
    _widen_left(ax, min(max(map(len, names)) * _LETTER / width, 0.5))
    at = ax.transAxes.inverted().transform(ax.transData.transform(np.column_stack([cost, gain]))) * (width, height)
    right, bottom = at.T
    left = right - np.array([len(name) for name in names]) * _LETTER
    named: list[int] = []
    for index in dict.fromkeys([len(names) - 1, 0, *range(len(names))]):
        above = np.abs(bottom[named] - bottom[index]) >= _LINE
        if (above | (right[named] < left[index]) | (right[index] < left[named])).all():
            named.append(index)
            ax.annotate(
                names[index], (cost[index], gain[index]), (-4, 3), textcoords="offset points",
                ha="right", va="bottom", fontsize=9, color=INK,
            )  # fmt: skip


def _widen_left(ax: Axes, share: float) -> None:
    """Give a share of the picture to names at its left; the axis has no ticks there."""
    low, high = ax.get_xlim()
    ticks = ax.get_xticks()
    ax.set_xticks(ticks[(ticks >= low) & (ticks <= high)])
    scale = ax.xaxis.get_transform()
    start, end = scale.transform(np.array([low, high]))
    ax.set_xlim(left=float(scale.inverted().transform(np.array([start - (end - start) * share / (1 - share)]))[0]))


def _number_axis(ax: Axes, which: str, name: str, values: Numbers, *, log: bool) -> None:
    """Label an axis of numbers, with ticks at round ones in the unit that suits them."""
    axis, scale = ax.xaxis if which == "x" else ax.yaxis, Scale.of(name, values)
    axis.set_label_text(scale.label(name))
    if log:
        getattr(ax, f"set_{which}scale")("log")
        low, high = np.nanmin(values), np.nanmax(values)
        ticks = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        ticks = np.outer(ticks, [1, 2, 5]).ravel() if len(ticks) <= 5 else ticks[:: len(ticks) // 10 + 1]  # noqa: PLR2004
        axis.set_ticks(ticks[(ticks >= low) & (ticks <= high)])
        axis.set_ticks([], minor=True)
    elif not np.isfinite(values).any():
        axis.set_ticks([])
    axis.set_major_formatter(lambda value, _: scale.number(value))


def _column_axis(ax: Axes, which: str, column: Column) -> None:
    """Label an axis with the values of a column, as far as there is room; many numbers have ticks at round ones."""
    if column.numeric and len(column.values) > _MOST_LABELS:
        _number_axis(ax, which, column.name, column.place, log=column.log)
        return
    if column.log:
        getattr(ax, f"set_{which}scale")("log")
        getattr(ax, f"set_{which}ticks")([], minor=True)
    getattr(ax, f"set_{which}label")(column.scale.label(column.name))
    names, look = column.texts, {}
    along = np.log(column.place) if column.log else column.place
    room = _size(ax)[which == "y"] / len(names) / (float(np.ptp(along)) / max(len(names) - 1, 1) or 1.0)
    need = max(map(len, names)) * _LETTER + 6 if which == "x" else _LINE
    if which == "x" and not column.numeric and need > room:
        if room > _NARROW * _LETTER:
            names = [textwrap.fill(name, int(room / _LETTER) - 1) for name in names]
        else:
            look = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
        need = _LINE
    kept = [0]
    for index in range(1, len(names)):
        if (along[index] - along[kept[-1]]) * room >= need:
            kept.append(index)
    getattr(ax, f"set_{which}ticks")(column.place[kept], [names[index] for index in kept], **look)


def _finished(ax: Axes, title: str, entries: list[Any]) -> Axes:
    """Give a picture its title and, where there is something to explain, a legend in as many rows as it takes."""
    from perfsim.report.canvas import heading, legend_above

    width, _ = _size(ax)
    widest = max((len(str(entry.get_label())) for entry in entries), default=0) * _LETTER + 26
    columns = max(int(width / widest), 1)
    if entries:
        legend_above(ax, {}, entries, columns)
    title = textwrap.fill(title[0].upper() + title[1:], max(int(width / 5.2), 20))
    heading(ax, title, above=3 + _LINE * -(-len(entries) // columns))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _size(ax: Axes) -> tuple[float, float]:
    """Width and height of an axes in points; about, before the layout is known."""
    figure = ax.get_figure(root=True)
    points = 72 / figure.dpi if figure else 1.0
    return ax.bbox.width * points, ax.bbox.height * points


def _verdict(states: NDArray[np.int64]) -> str:
    """Count the points that fit."""
    fit, impossible = (states == FITS).sum(), (states == IMPOSSIBLE).sum()
    return f"{fit:,} of {len(states):,} points fit in memory" + f", {impossible:,} impossible" * bool(impossible)
