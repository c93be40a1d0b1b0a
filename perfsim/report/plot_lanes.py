"""Lanes of a timeline: which GPUs share one, which time they show, and how they are drawn.

GPUs that do the same at the same times share a lane. Bars stand at their true simulated times as long as each is at
least a pixel wide. Then every pixel mixes the colours of what goes on in it, by its exact share of the time. And where
most of the time is in bars hardly wider, so that a mixture no longer tells of what it is made, the lane becomes
columns, each of one or more microbatches, that stack the kinds, each as high as its share.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfsim.report.breakdown import IDLE, KINDS
from perfsim.report.colours import INK, KIND_COLOURS, mix
from perfsim.report.lanes import Run
from perfsim.report.strips import PARTS, Executions, Strip, mean_shares
from perfsim.units import ranges, seconds

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
]

MOST_LANES = 48
"""Of one picture: more would be thinner than their labels."""

_NARROW = 1.5  # pixels: narrower bars are not seen for what they are
_COLUMN_PIXELS = 12  # about the least width of a column of a crowded lane
_MOST_NUMBERED = 16  # lanes
_NUMBER_PIXELS = 20  # room that the number of a microbatch takes
_LONGEST_LABEL = 20  # letters of the numbers of the GPUs
_ROWS = 50  # into which a lane is cut, about as many as it has pixels
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
        Where the first lane begins; the next stand below it.
    height : float
        Of a lane.
    numbered : bool
        Whether the lanes have a line for the numbers of the microbatches.
    """

    run: Run
    groups: list[list[int]]
    window_ps: tuple[int, int]
    first: float = 0.0
    height: float = 1.0
    numbered: bool = False

    @property
    def window_s(self) -> tuple[float, float]:
        """Start and end in seconds."""
        return float(seconds(self.window_ps[0])), float(seconds(self.window_ps[1]))

    @property
    def bottom(self) -> float:
        """Where the last lane ends."""
        return self.first + self.height * len(self.groups)

    @property
    def middles(self) -> list[float]:
        """Middle of each lane."""
        return [self.first + self.height * (lane + 0.5) for lane in range(len(self.groups))]

    @property
    def labels(self) -> list[str]:
        """Devices of each lane and their stage, in words."""
        stages = [sorted({self._stage_of(device) for device in group}) for group in self.groups]
        words = [_stages_in_words(own) if self.run.program.scenario.plan.pipeline > 1 else "" for own in stages]
        return [_gpus_in_words(group) + own for group, own in zip(self.groups, words, strict=True)]

    def span(self, lane: int, part: str) -> tuple[float, float]:
        """Top and height of a part of a lane."""
        first, rows = _SPANS[self.numbered][part]
        return self.first + self.height * (lane + first / _ROWS), self.height * rows / _ROWS

    def slots(self, lane: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Slots of a lane, and for how many of its devices each stands."""
        slot = np.array([self.run.slot_of(device) for device in self.groups[lane]], dtype=np.int64)
        return np.unique(slot, return_counts=True)

    def models(self, lane: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same without slots that do what another does."""
        slot, count = self.slots(lane)
        model, place = np.unique(np.array(self.run.models)[slot], return_inverse=True)
        return model, np.bincount(place, weights=count).astype(np.int64)

    def stage(self, lane: int) -> int:
        """Stage of the first device of a lane."""
        return self._stage_of(self.groups[lane][0])

    def _stage_of(self, device: int) -> int:
        return self.run.slot_of(device) // self.run.program.template.slots_per_stage


def _gpus_in_words(group: Sequence[int]) -> str:
    words = ranges(group).replace("-", "–")
    if len(words) > _LONGEST_LABEL:
        return f"{len(group)} GPUs from {min(group)}"
    return f"GPU{'s' * (len(group) > 1)} {words}"


def _stages_in_words(stages: Sequence[int]) -> str:
    return f" (stage{'s' * (len(stages) > 1)} {ranges(stages).replace('-', '–')})"


def groups_of(run: Run, devices: Sequence[int], *, apart: bool = False, most: int = MOST_LANES) -> list[list[int]]:
    """Devices of each lane: those of a stage that do the same; neighbours, too, where that is too many lanes.

    Parameters
    ----------
    run : Run
    devices : sequence of int
    apart : bool
        Whether each device has a lane of its own, as far as there are lanes.
    most : int
        Lanes.

    Examples
    --------
    >>> import perfsim
    >>> run = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8)).run
    >>> groups_of(run, range(16))
    [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]]
    >>> groups_of(run, range(16), apart=True, most=6)
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    """
    alike: dict[int, list[int]] = {}
    for device in devices:
        alike.setdefault(device if apart else run.models[run.slot_of(device)], []).append(device)
    if len(alike) <= most:
        return list(alike.values())
    stage = run.num_devices // run.program.scenario.plan.pipeline
    least = -(-len(devices) // most)
    # Preferably a lane lies within one stage, or holds whole stages.
    size = next((s for s in range(least, 2 * least + 1) if not stage % s or not s % stage), least)
    return [list(devices[first : first + size]) for first in range(0, len(devices), size)]


def draw_lanes(ax: Axes, lanes: Lanes, pixels: int) -> tuple[set[str], bool]:
    """Draw the lanes on so many pixels; give the kinds that are there, and whether columns stack them."""
    executions = Executions(lanes.run)
    members = [lanes.models(lane) for lane in range(len(lanes.groups))]
    slots = sorted({int(slot) for lane_slots, _ in members for slot in lane_slots})
    strips = {(slot, part): executions.strip(slot, part, lanes.window_ps) for slot in slots for part in PARTS}
    kinds = {IDLE} | {KINDS[kind] for strip in strips.values() for kind in np.unique(strip.kind)}
    pixel_ps = (lanes.window_ps[1] - lanes.window_ps[0]) / pixels
    lengths_ps = np.concatenate([strip.lengths_ps for strip in strips.values()])
    if all(len(own) == 1 for own, _ in members) and (lengths_ps >= pixel_ps).all():
        for lane, (own, _) in enumerate(members):
            for part in PARTS:
                _draw_bars(ax, lanes, lane, part, strips[int(own[0]), part])
        return kinds, False
    crowded = bool(lengths_ps[lengths_ps < _NARROW * pixel_ps].sum() > lengths_ps.sum() / 2)
    if crowded:
        for lane in range(len(lanes.groups)):
            _draw_columns(ax, lanes, lane, strips, _columns(lanes, lane, executions, pixel_ps))
    else:
        _draw_pixels(ax, lanes, _picture(lanes, strips, 2 * pixels))  # two a pixel: larger copies are sharp too
    return kinds, crowded


def _draw_bars(ax: Axes, lanes: Lanes, lane: int, part: str, strip: Strip) -> None:
    """Draw a strip as rectangles, one collection a kind, over an idle background."""
    span = _draw_idle(ax, lanes, lane, part)
    for kind in PARTS[part]:
        start, end = strip.pieces(kind)
        if len(start):
            bars = list(zip(seconds(start).tolist(), seconds(end - start).tolist(), strict=True))
            ax.broken_barh(bars, span, facecolors=KIND_COLOURS[kind], linewidth=0, label=f"_{lane} {part} {kind}")


def _draw_idle(ax: Axes, lanes: Lanes, lane: int, part: str) -> tuple[float, float]:
    """Draw the background of a part of a lane, and give its top and height."""
    span, (low_s, high_s) = lanes.span(lane, part), lanes.window_s
    ax.broken_barh([(low_s, high_s - low_s)], span, facecolors=KIND_COLOURS[IDLE], linewidth=0)
    return span


def _columns(lanes: Lanes, lane: int, executions: Executions, pixel_ps: float) -> NDArray[np.float64]:
    """Edges of the columns of a crowded lane: where microbatches begin, so that one column is like the next.

    Short microbatches share a column, and long ones have several, of equal width.
    """
    (low, high), least = lanes.window_ps, _COLUMN_PIXELS * pixel_ps
    slot = int(lanes.slots(lane)[0][0])
    starts, end = executions.microbatch_starts_ps(slot), float(np.clip(executions.end_ps(slot), low, high))
    edges = [float(low)]
    for start in np.sort(starts[(starts > low) & (starts <= end - least)]).tolist():
        if len(edges) == 1 or start - edges[-1] >= least:
            edges.append(start)
    bounds = sorted({*edges, end, float(high)})
    pieces = [np.linspace(a, b, max(round((b - a) / least), 1), endpoint=False) for a, b in itertools.pairwise(bounds)]
    return np.concatenate([*pieces, [float(high)]])


def _draw_columns(
    ax: Axes, lanes: Lanes, lane: int, strips: Mapping[tuple[int, str], Strip], edge_ps: NDArray[np.float64]
) -> None:
    """Stack the kinds in each column of a lane, the first of `KINDS` at the bottom, each as high as its share."""
    from perfsim.report.canvas import steps

    slots, counts = lanes.models(lane)
    for part, kinds in PARTS.items():
        top, height = _draw_idle(ax, lanes, lane, part)
        shares = mean_shares([strips[slot, part] for slot in slots.tolist()], counts.tolist(), edge_ps)
        stacked = np.cumsum([shares[KINDS.index(kind)] for kind in kinds], axis=0)
        # The highest first, and all down to the bottom: no light shines through between two of them.
        for kind, share in reversed(list(zip(kinds, stacked, strict=True))):
            if shares[KINDS.index(kind)].any():
                level, bottom = top + height * (1 - share), top + height
                look = {"color": KIND_COLOURS[kind], "linewidth": 0, "snap": False, "label": f"_{lane} {part} {kind}"}
                steps(ax, level, seconds(edge_ps), bottom, **look)


def _picture(lanes: Lanes, strips: Mapping[tuple[int, str], Strip], columns: int) -> NDArray[np.uint8]:
    """Colours of all lanes, shape (rows, columns, 4)."""
    pixel_ps = np.linspace(*lanes.window_ps, columns + 1)
    picture = np.full((len(lanes.groups), _ROWS, columns, 4), 255, dtype=np.uint8)
    for lane in range(len(lanes.groups)):
        slots, counts = lanes.models(lane)
        for part, (first, rows) in _SPANS[lanes.numbered].items():
            shares = mean_shares([strips[slot, part] for slot in slots.tolist()], counts.tolist(), pixel_ps)
            picture[lane, first : first + rows, :, :3] = mix(shares)
    return picture.reshape(-1, columns, 4)


def _draw_pixels(ax: Axes, lanes: Lanes, picture: NDArray[np.uint8]) -> None:
    """Put a picture of all lanes where they stand."""
    ax.imshow(picture, extent=(*lanes.window_s, lanes.bottom, lanes.first), aspect="auto", label="_lanes")


def mark_stages(ax: Axes, lanes: Lanes) -> None:
    """Draw a line between stages where they have several lanes."""
    stages = [lanes.stage(lane) for lane in range(len(lanes.groups))]
    if len(set(stages)) == len(stages):
        return
    for lane in range(1, len(stages)):
        if stages[lane] != stages[lane - 1]:
            ax.axhline(lanes.first + lanes.height * lane, color=INK, linewidth=0.8)


def have_room_for_numbers(lanes: Lanes, pixels: int) -> bool:
    """Say whether every microbatch has room for its number where it begins on a lane."""
    room_ps = (lanes.window_ps[1] - lanes.window_ps[0]) * _NUMBER_PIXELS / pixels
    alike = all(len(lanes.models(lane)[0]) == 1 for lane in range(len(lanes.groups)))
    if len(lanes.groups) > _MOST_NUMBERED or not alike:
        return False
    starts = [starts for _, starts in _starts(lanes)]
    return any(map(len, starts)) and all((np.diff(some) >= room_ps).all() for some in starts)


def number_microbatches(ax: Axes, lanes: Lanes, pixels: int) -> None:
    """Write its number above each microbatch, where it begins on a lane, unless the picture ends there."""
    room_ps = (lanes.window_ps[1] - lanes.window_ps[0]) * _NUMBER_PIXELS / pixels
    for lane, (microbatches, starts) in enumerate(_starts(lanes)):
        for microbatch, start in zip(microbatches.tolist(), starts.tolist(), strict=True):
            if start + room_ps <= lanes.window_ps[1]:
                place = float(seconds(start)), lanes.span(lane, "compute")[0]
                ax.text(*place, str(microbatch), fontsize=7, color=INK, va="bottom", ha="left")


def _starts(lanes: Lanes) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Microbatches that begin in the window, and when, for each lane."""
    executions, (low, high) = Executions(lanes.run), lanes.window_ps
    all_starts = [executions.microbatch_starts_ps(lanes.run.slot_of(group[0])) for group in lanes.groups]
    shown = [np.flatnonzero((starts >= low) & (starts < high)) for starts in all_starts]
    return [(chosen, starts[chosen]) for chosen, starts in zip(shown, all_starts, strict=True)]
