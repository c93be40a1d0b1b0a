"""Timelines as pictures: a lane for each GPU, coloured by what it does, of one plan or of several on one axis."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from perfsim.errors import Faults, InputError
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
)
from perfsim.report.zoom import Zoom, cut_of
from perfsim.units import format_seconds, picoseconds, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_timeline", "plot_timelines"]

_LANE_INCHES = 0.17  # of one of many lanes
_NAME_ROOM = 2.4  # in heights of a lane
_FEW = 8  # lanes of a plan: fewer are higher


def plot_timeline(
    run: Run,
    ax: Axes | None = None,
    *,
    time_s: tuple[float, float] | None = None,
    stage: int | Sequence[int] | None = None,
    microbatch: int | Sequence[int] | None = None,
    devices: int | Sequence[int] | None = None,
) -> Axes:
    """Draw what each GPU does over time.

    The upper part of a lane is the GPU's kernels, the lower and thinner part its collectives and transfers, so that
    what overlaps is seen. Where two kernels run at once, the first of ``perfsim.report.breakdown.KINDS`` is shown. GPUs
    of a stage that do the same at the same times share a lane. Where that gives more than 48 lanes, neighbours share
    one that shows their mean.

    Parameters
    ----------
    run : Run
        As in ``result.run``.
    ax : Axes, optional
        Where to draw; a new figure when left out.
    time_s : (float, float), optional
        Show only the time between these seconds of the run.
    stage : int or sequence of int, optional
        Show only the GPUs of these pipeline stages.
    microbatch : int or sequence of int, optional
        Show only the time from the first start to the last end of these microbatches on the GPUs shown, such as
        ``range(3)``. What other microbatches do in that time is shown too.
    devices : int or sequence of int, optional
        Show only these GPUs, each on a lane of its own; not together with `stage`.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        There is no such time, stage, microbatch or GPU in the run.

    Examples
    --------
    >>> import perfsim
    >>> run = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8)).run
    >>> ax = plot_timeline(run, microbatch=range(3))
    >>> ax.get_xlabel(), [label.get_text() for label in ax.get_yticklabels()]
    ('time (ms)', ['GPUs 0–7 (stage 0)', 'GPUs 8–15 (stage 1)'])
    """
    from perfsim.report.canvas import fresh, pixels_wide, time_axis

    zoom, faults = Zoom(time_s, stage, microbatch, devices), Faults()
    zoom.check(run, faults)
    faults.raise_if_any()
    lanes = Lanes(run, groups_of(run, zoom.devices_of(run), apart=devices is not None), zoom.window_of(run))
    count = len(lanes.groups)
    ax = fresh(ax, 11, 1.4 + 0.7 * min(count, 4) + 0.36 * min(max(count - 4, 0), 12) + 0.15 * max(count - 16, 0))
    pixels = pixels_wide(ax)
    lanes = dataclasses.replace(lanes, numbered=have_room_for_numbers(lanes, pixels))
    seen, stacked = draw_lanes(ax, lanes, pixels)
    mark_stages(ax, lanes)
    if lanes.numbered:
        number_microbatches(ax, lanes, pixels)
    ax.set_xlim(*lanes.window_s)
    ax.set_ylim(lanes.bottom + 0.1, lanes.first - 0.1)
    ax.set_yticks(lanes.middles, lanes.labels, fontsize=9)
    time_axis(ax, "x", lanes.window_s[1] - lanes.window_s[0])
    _dress(ax, seen, _title(run) + f", {zoom.words}" * bool(zoom.words))
    _explain(ax, [lanes], stacked)
    return ax


def plot_timelines(
    runs: Mapping[str, Run],
    ax: Axes | None = None,
    *,
    time_s: tuple[float, float] | None = None,
    stage: int | Sequence[int] | None = None,
    microbatch: int | Sequence[int] | None = None,
) -> Axes:
    """Draw the timelines of several plans on one axis of time, a group of lanes each.

    A plan that takes more than three times as long as the others would squeeze them, so the picture is cut behind the
    others unless `time_s` or `microbatch` says what to show; the plan's name then says so.

    Parameters
    ----------
    runs : mapping of str to Run
        By the name of the plan.
    ax : Axes, optional
        Where to draw; a new figure when left out.
    time_s : (float, float), optional
        Show only the time between these seconds: the pipelines fill in the first instants.
    stage : int or sequence of int, optional
        Show only the GPUs of these pipeline stages of each plan.
    microbatch : int or sequence of int, optional
        Show only the time that these microbatches take, from their first start to their last end under any plan.

    Returns
    -------
    Axes

    Raises
    ------
    InputError
        There is no run, or no such time, stage or microbatch in one of the runs.

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
    zoom = Zoom(time_s, stage, microbatch)
    low_s, high_s = _shown_s(runs, zoom)
    plans = _stacked(runs, zoom, (low_s, high_s))
    bottom = plans[-1].bottom
    ax = fresh(ax, 11, 1.4 + _LANE_INCHES * (bottom + 2))
    seen: set[str] = set()
    stacked = False
    for name, lanes in zip(runs, plans, strict=True):
        share = (lanes.window_s[1] - lanes.window_s[0]) / (high_s - low_s)
        kinds, crowded = draw_lanes(ax, lanes, max(round(pixels_wide(ax) * share), 1))
        seen, stacked = seen | kinds, stacked or crowded
        _name_plan(ax, name, lanes, (low_s, high_s))
    ticks = [label for lanes in plans for label in _some_labels(lanes)]
    ax.set_yticks([y for y, _ in ticks], [label for _, label in ticks], fontsize=8)
    ax.set_ylim(bottom + 0.3, -1.5)
    ax.set_xlim(low_s, high_s)
    time_axis(ax, "x", high_s - low_s)
    _dress(ax, seen, "What each GPU does under each plan" + f", {zoom.words}" * bool(zoom.words))
    _explain(ax, plans, stacked)
    return ax


def _shown_s(runs: Mapping[str, Run], zoom: Zoom) -> tuple[float, float]:
    """Seconds from which and until which the plans are shown."""
    longest = max(runs.values(), key=lambda run: run.makespan_ps)
    faults = Faults()
    for name, run in runs.items():
        # A time need not lie within the shorter plans.
        own = Zoom(zoom.time_s if run is longest else None, zoom.stage, zoom.microbatch)
        own.check(run, faults.inside(f"runs[{name!r}]") if run is not longest or zoom.time_s is None else faults)
    faults.raise_if_any()
    ends_s = [float(seconds(run.makespan_ps)) for run in runs.values()]
    if zoom.time_s is not None:
        return max(float(zoom.time_s[0]), 0.0), min(float(zoom.time_s[1]), max(ends_s))
    if zoom.microbatch is not None:
        windows = [zoom.window_of(run) for run in runs.values()]
        return float(seconds(min(low for low, _ in windows))), float(seconds(max(high for _, high in windows)))
    return 0.0, cut_of(ends_s) or max(ends_s)


def _stacked(runs: Mapping[str, Run], zoom: Zoom, shown_s: tuple[float, float]) -> list[Lanes]:
    """Stand the plans one below the other, with room for a name above each; those of few lanes have higher ones."""
    plans: list[Lanes] = []
    top = 0.0
    low, high = (int(picoseconds(bound)) for bound in shown_s)
    for run in runs.values():
        groups = groups_of(run, zoom.devices_of(run), most=MOST_LANES // max(len(runs), 2))
        height = min(max(_FEW / len(groups), 1.0), 3.0)
        # A plan that is over before the picture begins has one instant at its left.
        window = min(low, run.makespan_ps - 1), max(min(high, run.makespan_ps), min(low, run.makespan_ps - 1) + 1)
        plans.append(Lanes(run, groups, window, top, height))
        top = plans[-1].bottom + _NAME_ROOM
    return plans


def _name_plan(ax: Axes, name: str, lanes: Lanes, shown_s: tuple[float, float]) -> None:
    """Write the name and the makespan of a plan above its lanes, and say at its right where it ends."""
    makespan_s = float(seconds(lanes.run.makespan_ps))
    top, bottom = lanes.first - 0.1, lanes.bottom + 0.1
    words = f"{name}: makespan {format_seconds(makespan_s)}"
    ax.text(shown_s[0], top - 0.1, words, fontsize=10, color=INK, va="bottom")
    if makespan_s > shown_s[1]:
        more = f"goes on until {format_seconds(makespan_s)} →"
        ax.text(shown_s[1], top - 0.1, more, fontsize=9, color=MUTED, va="bottom", ha="right")
    elif makespan_s > shown_s[0]:
        ax.plot([makespan_s] * 2, (top, bottom), color=INK, linewidth=1.5, solid_capstyle="butt")


def _some_labels(lanes: Lanes) -> list[tuple[float, str]]:
    """Labels of the lanes with their places: of all when they are few, else of every fourth."""
    step = 1 if len(lanes.groups) <= _FEW else 4
    return list(zip(lanes.middles, lanes.labels, strict=True))[::step]


def _title(run: Run) -> str:
    scenario = run.program.scenario
    plan = scenario.plan
    kinds = Counter[str]()
    for stage in range(plan.pipeline):
        kinds[scenario.segment(stage).accelerator.name] += plan.stage_devices
    devices = " and ".join(f"{count:,} × {name}" for name, count in kinds.items())
    degrees = f"TP{plan.tensor} × PP{plan.pipeline}" + (f" × DP{plan.data}" if plan.data > 1 else "")
    makespan = format_seconds(float(seconds(run.makespan_ps)))
    return f"{degrees} {plan.schedule} on {devices}, makespan {makespan}"


def _explain(ax: Axes, plans: Sequence[Lanes], stacked: bool) -> None:
    """Say how to read a lane, below the right end of the axis of time."""
    notes = ["a lane: kernels above, communication below"]
    mixed = any(len(lanes.models(lane)[0]) > 1 for lanes in plans for lane in range(len(lanes.groups)))
    if mixed:
        notes.append("the mean of its GPUs")
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

    ax.set_xlabel(ax.get_xlabel(), loc="left")
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", colors=INK)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(MUTED)
    heading(ax, title, above=18)
    legend_above(ax, {kind: colour for kind, colour in KIND_COLOURS.items() if kind in seen})
