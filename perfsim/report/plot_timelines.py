"""Timelines as pictures: a lane for each GPU, coloured by what it does, of one plan or of several on one axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from perfsim.errors import InputError
from perfsim.report.colours import INK, KIND_COLOURS, MUTED
from perfsim.report.lanes import Run
from perfsim.report.plot_lanes import (
    MOST_LANES,
    Lanes,
    draw_lanes,
    groups_of,
    have_room_for_numbers,
    mark_stages,
    number_microbatches,
    window_of,
)  # fmt: skip
from perfsim.units import PICOSECONDS_PER_SECOND, format_seconds, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_timeline", "plot_timelines"]


def plot_timeline(
    run: Run,
    ax: Axes | None = None,
    *,
    start_s: float | None = None,
    end_s: float | None = None,
    microbatches: Sequence[int] | None = None,
    devices: Iterable[int] | None = None,
) -> Axes:
    """Draw what each GPU does over time.

    The upper part of a lane is the GPU's kernels, the lower and thinner part its collectives and transfers, so that
    what overlaps is seen. Where two kernels run at once, the first of `perfsim.report.breakdown.KINDS` is shown. With
    more than 48 GPUs, neighbours share a lane that shows their mean.

    Parameters
    ----------
    run : Run
        As in ``result.run``.
    ax : Axes, optional
        Where to draw; a new figure when left out.
    start_s, end_s : float, optional
        Show only this time of the run.
    microbatches : sequence of int, optional
        Show only the time from the first start to the last end of these microbatches, such as ``range(3)``. What other
        microbatches do in that time is shown too.
    devices : iterable of int, optional
        Show only these GPUs.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        There is no such time, microbatch or GPU in the run.

    Examples
    --------
    >>> import perfsim
    >>> run = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8)).run
    >>> ax = plot_timeline(run, microbatches=range(3))
    >>> ax.get_xlabel()
    'time (ms)'
    """
    from perfsim.report.canvas import fresh, pixels_wide, time_axis

    lanes = Lanes(run, groups_of(run, devices), window_of(run, start_s, end_s, microbatches))
    count = len(lanes.groups)
    ax = fresh(ax, 11, 1.4 + max(0.36 * min(count, 16) + 0.15 * max(count - 16, 0), 0.6))
    pixels = pixels_wide(ax)
    lanes = dataclasses.replace(lanes, numbered=have_room_for_numbers(lanes, pixels))
    seen, stacked = draw_lanes(ax, lanes, pixels)
    mark_stages(ax, lanes)
    if lanes.numbered:
        number_microbatches(ax, lanes, pixels)
    ax.set_xlim(*lanes.window_s)
    ax.set_ylim(count - 0.4, -0.6)
    ax.set_yticks(range(count), lanes.labels, fontsize=9)
    time_axis(ax, "x", lanes.window_s[1] - lanes.window_s[0])
    _dress(ax, seen, _title(run))
    _explain(ax, [lanes], stacked)
    return ax


def plot_timelines(runs: Mapping[str, Run], ax: Axes | None = None, *, end_s: float | None = None) -> Axes:
    """Draw the timelines of several plans on one axis of time, a group of lanes each.

    Parameters
    ----------
    runs : mapping of str to Run
        By the name of the plan.
    ax : Axes, optional
        Where to draw; a new figure when left out.
    end_s : float, optional
        Show only what comes before it: the pipelines fill in the first instants.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        There is no run, or `end_s` is not above 0.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved").with_(batch_size=8)
    >>> other = perfsim.load_scenario("seed-layerwise-pipelined").with_(batch_size=8)
    >>> ax = plot_timelines({"improved": perfsim.simulate(scenario).run, "layer-wise": perfsim.simulate(other).run})
    >>> [text.get_text() for text in ax.texts if "makespan" in text.get_text()]
    ['improved: makespan ...', 'layer-wise: makespan ...']
    """
    from perfsim.report.canvas import fresh, pixels_wide, time_axis

    if not runs:
        raise InputError.of("runs", dict(runs), "must have at least one run")
    if end_s is not None and not end_s > 0:
        raise InputError.of("end_s", end_s, "must be above 0 seconds")
    last_s = end_s if end_s is not None else max(float(seconds(run.makespan_ps)) for run in runs.values())
    plans, bottom = _stacked(runs, last_s)
    ax = fresh(ax, 11, 1.4 + 0.165 * bottom)
    seen: set[str] = set()
    stacked = False
    for name, lanes in zip(runs, plans, strict=True):
        kinds, crowded = draw_lanes(ax, lanes, max(round(pixels_wide(ax) * lanes.window_s[1] / last_s), 1))
        seen, stacked = seen | kinds, stacked or crowded
        _name_plan(ax, name, lanes, last_s)
    ticks = [(lanes.first + lane, label) for lanes in plans for lane, label in _end_labels(lanes)]
    ax.set_yticks([y for y, _ in ticks], [label for _, label in ticks], fontsize=8)
    ax.set_ylim(bottom - 0.2, -2.0)
    ax.set_xlim(0, last_s)
    time_axis(ax, "x", last_s)
    first = f", the first {format_seconds(last_s)}" if end_s is not None else ""
    _dress(ax, seen, f"What each GPU does under each plan{first}")
    _explain(ax, plans, stacked)
    return ax


def _stacked(runs: Mapping[str, Run], last_s: float) -> tuple[list[Lanes], float]:
    """Stand the plans one below the other, with room for a name above each; gives the bottom too."""
    plans: list[Lanes] = []
    top = 0.0
    for run in runs.values():
        window = 0, min(run.makespan_ps, round(last_s * PICOSECONDS_PER_SECOND))
        plans.append(Lanes(run, groups_of(run, None, MOST_LANES // max(len(runs), 2)), window, top))
        top += len(plans[-1].groups) + 2.4
    return plans, top - 2.4


def _name_plan(ax: Axes, name: str, lanes: Lanes, last_s: float) -> None:
    """Write the name and the makespan of a plan above its lanes, and draw a line where it ends."""
    makespan_s = float(seconds(lanes.run.makespan_ps))
    words = f"{name}: makespan {format_seconds(makespan_s)}"
    ax.text(0, lanes.first - 0.75, words, fontsize=10, color=INK, va="bottom")
    if makespan_s <= last_s:
        ends = lanes.first - 0.6, lanes.first + len(lanes.groups) - 0.4
        ax.plot([makespan_s] * 2, ends, color=INK, linewidth=1.5, solid_capstyle="butt")


def _end_labels(lanes: Lanes) -> list[tuple[int, str]]:
    """Labels of the lanes: of all when they are few, else of every fourth."""
    labels = lanes.labels
    step = 1 if len(labels) <= 8 else 4  # noqa: PLR2004 - as many as have room
    return [(lane, labels[lane]) for lane in range(0, len(labels), step)]


def _title(run: Run) -> str:
    scenario = run.program.scenario
    plan, device = scenario.plan, scenario.cluster.accelerator.name
    degrees = f"TP{plan.tensor} × PP{plan.pipeline}" + (f" × DP{plan.data}" if plan.data > 1 else "")
    makespan = format_seconds(float(seconds(run.makespan_ps)))
    return f"What each GPU does: {degrees} {plan.schedule} on {plan.num_devices} × {device}, makespan {makespan}"


def _explain(ax: Axes, plans: Sequence[Lanes], stacked: bool) -> None:
    """Say how to read a lane, below the right end of the axis of time."""
    notes = ["a lane: kernels above, communication below"]
    sizes = [max(len(group) for group in lanes.groups) for lanes in plans]
    if max(sizes) > 1:
        notes.append(f"the mean of {' or '.join(str(size) for size in dict.fromkeys(sizes))} GPUs")
    if stacked:
        notes.append("a colour is as high as its share of the time")
    if any(lanes.numbered for lanes in plans):
        notes.append("numbers: where a microbatch begins")
    ax.annotate(
        "; ".join(notes), (1, 0), (0, -22), xycoords="axes fraction", textcoords="offset points",
        ha="right", va="top", fontsize=9, color=MUTED,
    )  # fmt: skip


def _dress(ax: Axes, seen: set[str], title: str) -> None:
    """Give a timeline its legend, its title and a quiet frame."""
    from perfsim.report.canvas import heading, legend_above

    ax.set_ylabel("GPU")
    ax.set_xlabel(ax.get_xlabel(), loc="left")
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", colors=INK)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(MUTED)
    heading(ax, title, above=18)
    legend_above(ax, {kind: colour for kind, colour in KIND_COLOURS.items() if kind in seen})
