"""Lanes of a timeline: which GPUs share one, which time they show, and how they are drawn.

Where there are fewer bars than pixels, bars stand at their true simulated times. Where there are more, every pixel mixes
the colours of what goes on in it, by its exact share of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import InputError
from perfsim.report.breakdown import IDLE, KINDS
from perfsim.report.colours import INK, KIND_COLOURS, MUTED, mix
from perfsim.report.labels import ranges
from perfsim.report.lanes import Run
from perfsim.report.strips import PARTS, Executions, Strip, mean_shares
from perfsim.units import PICOSECONDS_PER_SECOND, format_seconds, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MOST_LANES", "Lanes", "draw_lanes", "groups_of", "mark_microbatches", "mark_stages", "window_of"]

MOST_LANES = 48
"""Of one picture: more would be thinner than their labels."""

_PIXELS_PER_BAR = 3  # with less room a bar is not seen for what it is
_TOP = {"compute": -0.44, "communication": 0.16}
_HEIGHT = {"compute": 0.58, "communication": 0.28}


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
    """

    run: Run
    groups: list[list[int]]
    window_ps: tuple[int, int]
    first: float = 0.0

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
        raise InputError.of("start_s, end_s", (start_s, end_s), f"must be a time within the run, which takes {makespan}")
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


def draw_lanes(ax: Axes, lanes: Lanes, pixels: int) -> set[str]:
    """Draw the lanes on so many pixels, as bars or as mixed pixels, and give the kinds that are there."""
    executions = Executions(lanes.run)
    low_ps, high_ps = lanes.window_ps
    pixel_ps = np.linspace(low_ps, high_ps, max(2 * pixels, 1) + 1)  # two a pixel, so that larger copies are sharp too
    known: dict[tuple[int, str], Strip] = {}
    seen = {IDLE}
    for lane in range(len(lanes.groups)):
        slots, counts = lanes.slots(lane)
        for part in PARTS:
            for slot in slots.tolist():
                if (slot, part) not in known:
                    known[slot, part] = executions.strip(slot, part, lanes.window_ps)
                    seen |= {KINDS[kind] for kind in np.unique(known[slot, part].kind)}
            strips = [known[slot, part] for slot in slots.tolist()]
            if len(strips) == 1 and strips[0].bars * _PIXELS_PER_BAR <= pixels:
                _draw_bars(ax, lanes, lane, part, strips[0])
            else:
                _draw_pixels(ax, lanes, lane, part, mean_shares(strips, counts, pixel_ps))
    return seen


def _draw_bars(ax: Axes, lanes: Lanes, lane: int, part: str, strip: Strip) -> None:
    """Draw a strip as rectangles, one collection a kind, over an idle background."""
    span = (lanes.first + lane + _TOP[part], _HEIGHT[part])
    low_s, high_s = lanes.window_s
    ax.broken_barh([(low_s, high_s - low_s)], span, facecolors=KIND_COLOURS[IDLE], linewidth=0)
    for kind in PARTS[part]:
        start, end = strip.pieces(kind) if kind in KINDS else (np.empty(0), np.empty(0))
        if len(start):
            ranges_s = list(zip(seconds(start).tolist(), seconds(end - start).tolist(), strict=True))
            ax.broken_barh(ranges_s, span, facecolors=KIND_COLOURS[kind], linewidth=0, label=f"_{part} {lane} {kind}")


def _draw_pixels(ax: Axes, lanes: Lanes, lane: int, part: str, shares: NDArray[np.float64]) -> None:
    """Draw the mixed colours of a part of a lane, one row of pixels stretched over its height."""
    top = lanes.first + lane + _TOP[part]
    ax.imshow(
        mix(shares)[np.newaxis],
        extent=(*lanes.window_s, top + _HEIGHT[part], top),
        aspect="auto",
        label=f"_{part} {lane}",
    )


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
            ax.plot([0, 1], [lanes.first + mine[0] - 0.5] * 2, transform=ax.get_yaxis_transform(), color=INK, linewidth=0.8)


def mark_microbatches(ax: Axes, lanes: Lanes, pixels: int) -> None:
    """Write its number where a microbatch begins on a lane, when there is room for the numbers."""
