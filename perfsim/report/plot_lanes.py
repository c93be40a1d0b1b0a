"""Lanes of a timeline: which GPUs share one, which time they show, and how they are drawn.

Bars stand at their true simulated times as long as each is at least a pixel wide. Then every pixel mixes the colours of
what goes on in it, by its exact share of the time. And where most pixels hold several bars, so that a mixture no longer
tells of what it is made, a pixel's column stacks the kinds instead, each as high as its share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import InputError
from perfsim.report.breakdown import IDLE, KINDS
from perfsim.report.colours import INK, KIND_COLOURS, MUTED, mix
from perfsim.report.labels import ranges
from perfsim.report.lanes import Run
from perfsim.report.strips import PARTS, Executions, Strip, mean_shares, stack
from perfsim.units import PICOSECONDS_PER_SECOND, format_seconds, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "MOST_LANES",
    "Lanes",
    "draw_lanes",
    "groups_of",
    "have_room_for_numbers",
    "mark_stages",
    "number_microbatches",
    "window_of",
]

MOST_LANES = 48
"""Of one picture: more would be thinner than their labels."""

_PIXELS_PER_BAR = 3  # with less room a bar is not seen for what it is
_CROWDED = 2.0  # bars a pixel from which on a mixture of colours is read by nobody
_MOST_NUMBERED = 16  # lanes
_NUMBER_PIXELS = 20  # room that the number of a microbatch takes
_ROWS = 50  # of pixels that a lane has before the picture is scaled to its size
_SPANS = {
    False: {"compute": (3, 29), "communication": (32, 15)},
    True: {"compute": (17, 20), "communication": (37, 10)},
}
"""First row and rows of the parts of a lane, without and with a line for the numbers of the microbatches above them."""


@dataclass(frozen=True)
class Lanes:
    """Where the lanes of a run stand in the picture, and which time they show.

    Attributes
    ----------
    run : Run
    groups : list of list of int
        Devices of each lane.
    window_ps : tuple of int
        Start and end, within the run.
    first : float
        Vertical position of the first lane; the next stand below it, one unit each.
    numbered : bool
        Whether the lanes have a line for the numbers of the microbatches.
    """

    run: Run
    groups: list[list[int]]
    window_ps: tuple[int, int]
    first: float = 0.0
    numbered: bool = False

    @property
    def window_s(self) -> tuple[float, float]:
        """Start and end in seconds."""
        return float(seconds(self.window_ps[0])), float(seconds(self.window_ps[1]))

    @property
    def labels(self) -> list[str]:
        """Devices of each lane, in words."""
        return [ranges(group).replace("-", "–") for group in self.groups]

    def slots(self, lane: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Slots of a lane, and for how many of its devices each stands."""
        slot = np.array([self.run.slot_of(device) for device in self.groups[lane]], dtype=np.int64)
        return np.unique(slot, return_counts=True)

    def stage(self, lane: int) -> int:
        """Stage of the first device of a lane."""
        return self.run.slot_of(self.groups[lane][0]) // self.run.program.template.slots_per_stage


def window_of(
    run: Run, start_s: float | None, end_s: float | None, microbatches: Sequence[int] | None
) -> tuple[int, int]:
    """Time to show, in picoseconds and within the run.

    Raises
    ------
    InputError
        There is no such time or microbatch.
    """
    low, high = 0, run.makespan_ps
    if microbatches is not None:
        chosen = list(microbatches)
        if not chosen or min(chosen) < 0 or max(chosen) >= len(run.end_ps):
            raise InputError.of("microbatches", microbatches, f"must be some of 0 to {len(run.end_ps) - 1}")
        low, high = int(run.start_ps[chosen].min()), int(run.end_ps[chosen].max())
    if start_s is not None:
        low = max(0, round(start_s * PICOSECONDS_PER_SECOND))
    if end_s is not None:
        high = min(run.makespan_ps, round(end_s * PICOSECONDS_PER_SECOND))
    if low >= high:
        makespan = format_seconds(float(seconds(run.makespan_ps)))
        allowed = f"must be a time within the run, which takes {makespan}"
        raise InputError.of("start_s, end_s", (start_s, end_s), allowed)  # noqa: TRY003 - not a message, its parts
    return low, high


def groups_of(run: Run, devices: Iterable[int] | None, most: int = MOST_LANES) -> list[list[int]]:
    """Devices of each lane: one, or as many neighbours as it takes to have few enough lanes.

    Raises
    ------
    InputError
        There is no such device.

    Examples
    --------
    >>> import perfsim
    >>> run = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8)).run
    >>> groups_of(run, None, most=6)
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    """
    chosen = list(range(run.num_devices)) if devices is None else list(devices)
    if not chosen or min(chosen) < 0 or max(chosen) >= run.num_devices:
        raise InputError.of("devices", devices, f"must be some of 0 to {run.num_devices - 1}")
    stage = run.num_devices // run.program.scenario.plan.pipeline
    least = -(-len(chosen) // most)
    # Preferably a lane lies within one stage, or holds whole stages.
    size = next((s for s in range(least, 2 * least + 1) if not stage % s or not s % stage), least)
    return [chosen[first : first + size] for first in range(0, len(chosen), size)]


def draw_lanes(ax: Axes, lanes: Lanes, pixels: int) -> tuple[set[str], bool]:
    """Draw the lanes on so many pixels; give the kinds that are there, and whether pixels stack them."""
    executions = Executions(lanes.run)
    members = [lanes.slots(lane) for lane in range(len(lanes.groups))]
    slots = sorted({int(slot) for lane_slots, _ in members for slot in lane_slots})
    strips = {(slot, part): executions.strip(slot, part, lanes.window_ps) for slot in slots for part in PARTS}
    kinds = {IDLE} | {KINDS[kind] for strip in strips.values() for kind in np.unique(strip.kind)}
    pixel_ps = (lanes.window_ps[1] - lanes.window_ps[0]) / pixels
    if all(len(own) == 1 for own, _ in members) and all(strip.shortest_ps >= pixel_ps for strip in strips.values()):
        for lane, (own, _) in enumerate(members):
            for part in PARTS:
                _draw_bars(ax, lanes, lane, part, strips[int(own[0]), part])
        return kinds, False
    crowded = max(strip.bars for strip in strips.values()) > _CROWDED * pixels
    _draw_pixels(ax, lanes, _picture(lanes, strips, 2 * pixels, crowded))  # two a pixel: larger copies are sharp too
    return kinds, crowded


def _draw_bars(ax: Axes, lanes: Lanes, lane: int, part: str, strip: Strip) -> None:
    """Draw a strip as rectangles, one collection a kind, over an idle background."""
    first, rows = _SPANS[lanes.numbered][part]
    span, (low_s, high_s) = (lanes.first + lane - 0.5 + first / _ROWS, rows / _ROWS), lanes.window_s
    ax.broken_barh([(low_s, high_s - low_s)], span, facecolors=KIND_COLOURS[IDLE], linewidth=0)
    for kind in PARTS[part]:
        start, end = strip.pieces(kind)
        if len(start):
            bars = list(zip(seconds(start).tolist(), seconds(end - start).tolist(), strict=True))
            ax.broken_barh(bars, span, facecolors=KIND_COLOURS[kind], linewidth=0, label=f"_{lane} {part} {kind}")


def _picture(lanes: Lanes, strips: Mapping[tuple[int, str], Strip], columns: int, crowded: bool) -> NDArray[np.uint8]:
    """Colours of all lanes, shape (rows, columns, 4); lanes of the same slots are computed once."""
    pixel_ps = np.linspace(*lanes.window_ps, columns + 1)
    picture = np.full((len(lanes.groups), _ROWS, columns, 4), 255, dtype=np.uint8)
    same: dict[bytes, int] = {}
    for lane in range(len(lanes.groups)):
        slots, counts = lanes.slots(lane)
        twin = same.setdefault(slots.tobytes() + counts.tobytes(), lane)
        if twin != lane:
            picture[lane] = picture[twin]
            continue
        for part, (first, rows) in _SPANS[lanes.numbered].items():
            shares = mean_shares([strips[slot, part] for slot in slots.tolist()], counts.tolist(), pixel_ps)
            picture[lane, first : first + rows, :, :3] = mix(stack(shares, rows if crowded else 1))
    return picture.reshape(-1, columns, 4)


def _draw_pixels(ax: Axes, lanes: Lanes, picture: NDArray[np.uint8]) -> None:
    """Put a picture of all lanes where they stand."""
    top = lanes.first - 0.5
    ax.imshow(picture, extent=(*lanes.window_s, top + len(lanes.groups), top), aspect="auto", label="_lanes")


def mark_stages(ax: Axes, lanes: Lanes, size: float = 9) -> None:
    """Name the stages at the right, and draw a line between them where they have several lanes."""
    stages = [lanes.stage(lane) for lane in range(len(lanes.groups))]
    if len(set(stages)) == 1 and lanes.run.program.scenario.plan.pipeline == 1:
        return
    for stage in sorted(set(stages)):
        mine = [lane for lane, other in enumerate(stages) if other == stage]
        ax.text(
            1.006, lanes.first + (mine[0] + mine[-1]) / 2, f"stage {stage}", transform=ax.get_yaxis_transform(),
            va="center", ha="left", fontsize=size, color=MUTED,
        )  # fmt: skip
        if len(mine) > 1 and mine[0] > 0:
            ax.axhline(lanes.first + mine[0] - 0.5, color=INK, linewidth=0.8)


def have_room_for_numbers(lanes: Lanes, pixels: int) -> bool:
    """Say whether every microbatch has room for its number where it begins on a lane."""
    room_ps = (lanes.window_ps[1] - lanes.window_ps[0]) * _NUMBER_PIXELS / pixels
    if len(lanes.groups) > _MOST_NUMBERED or any(len(group) > 1 for group in lanes.groups):
        return False
    starts = [starts for _, starts in _starts(lanes)]
    return any(map(len, starts)) and all((np.diff(some) >= room_ps).all() for some in starts)


def number_microbatches(ax: Axes, lanes: Lanes, pixels: int) -> None:
    """Write its number above each microbatch, where it begins on a lane, unless the picture ends there."""
    room_ps = (lanes.window_ps[1] - lanes.window_ps[0]) * _NUMBER_PIXELS / pixels
    for lane, (microbatches, starts) in enumerate(_starts(lanes)):
        for microbatch, start in zip(microbatches.tolist(), starts.tolist(), strict=True):
            if start + room_ps <= lanes.window_ps[1]:
                place = float(seconds(start)), lanes.first + lane - 0.18
                ax.text(*place, str(microbatch), fontsize=7, color=INK, va="bottom", ha="left")


def _starts(lanes: Lanes) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Microbatches that begin in the window, and when, for each lane."""
    executions, (low, high) = Executions(lanes.run), lanes.window_ps
    all_starts = [executions.microbatch_starts_ps(lanes.run.slot_of(group[0])) for group in lanes.groups]
    shown = [np.flatnonzero((starts >= low) & (starts < high)) for starts in all_starts]
    return [(chosen, starts[chosen]) for chosen, starts in zip(shown, all_starts, strict=True)]
