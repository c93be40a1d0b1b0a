"""What of a run a timeline shows: a time, some stages, some microbatches, some GPUs."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import Faults
from perfsim.report.lanes import Run
from perfsim.units import PICOSECONDS_PER_SECOND, format_seconds, ranges, seconds

__all__ = ["Zoom", "cut_of"]

_MUCH_LONGER = 3.0
_BEYOND = 1.25  # how far behind the end of the longest of the others a picture is cut


@dataclass(frozen=True)
class Zoom:
    """What of a run to show; what is left out shows all of it.

    Attributes
    ----------
    time_s : (float, float), optional
        Seconds between which the run is shown; cut to the run.
    stage : int or sequence of int, optional
        Pipeline stages whose GPUs are shown.
    microbatch : int or sequence of int, optional
        Microbatches of which the first start and the last end bound the time, on the GPUs that are shown.
    devices : int or sequence of int, optional
        The GPUs that are shown, instead of `stage`.

    Examples
    --------
    >>> import perfsim
    >>> run = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8)).run
    >>> Zoom(stage=1).devices_of(run)
    [8, 9, 10, 11, 12, 13, 14, 15]
    >>> low, high = Zoom(stage=1, microbatch=0).window_of(run)
    >>> 0 < low < high < run.makespan_ps
    True
    """

    time_s: tuple[float, float] | None = None
    stage: int | Sequence[int] | None = None
    microbatch: int | Sequence[int] | None = None
    devices: int | Sequence[int] | None = None

    def check(self, run: Run, faults: Faults) -> None:
        """Record everything that the run does not have."""
        _check_numbers("stage", self.stage, run.program.scenario.plan.pipeline, "stages", faults)
        _check_numbers("microbatch", self.microbatch, len(run.end_ps), "microbatches", faults)
        _check_numbers("devices", self.devices, run.num_devices, "GPUs", faults)
        if self.stage is not None and self.devices is not None:
            faults.add("stage, devices", (self.stage, self.devices), "must not both be given", "leave one out")
        if self.time_s is None:
            return
        if self.microbatch is not None:
            faults.add("time_s, microbatch", (self.time_s, self.microbatch), "must not both be given", "leave one out")
        makespan_s = float(seconds(run.makespan_ps))
        if not _is_span(self.time_s) or self.time_s[1] <= 0 or self.time_s[0] >= makespan_s:
            allowed = f"must be a start and a later end, in seconds, within the run, which takes {makespan_s:.6g} s"
            faults.add("time_s", self.time_s, allowed, f"such as (0, {makespan_s / 4:.3g})")

    def devices_of(self, run: Run) -> list[int]:
        """GPUs that are shown."""
        if self.devices is not None:
            return _listed(self.devices)
        width = run.num_devices // run.program.scenario.plan.pipeline
        stages = set(range(run.program.scenario.plan.pipeline) if self.stage is None else _listed(self.stage))
        return [device for device in range(run.num_devices) if device // width in stages]

    def window_of(self, run: Run) -> tuple[int, int]:
        """Time that is shown, in picoseconds and within the run."""
        if self.time_s is not None:
            low, high = (round(bound * PICOSECONDS_PER_SECOND) for bound in self.time_s)
            return max(low, 0), min(max(high, low + 1), run.makespan_ps)
        if self.microbatch is None:
            return 0, run.makespan_ps
        chosen = np.ix_(np.array(_listed(self.microbatch)), self._rows(run))
        return int(run.start_ps[chosen].min()), int(run.end_ps[chosen].max())

    def _rows(self, run: Run) -> NDArray[np.int64]:
        """Tasks of a microbatch that the GPUs that are shown take part in, and that take time."""
        template = run.program.template
        slots = sorted({run.slot_of(device) for device in self.devices_of(run)})
        rows = np.unique(template.entry_row[np.isin(template.entry_slot, slots)])
        lasts = (run.end_ps[:, rows] > run.start_ps[:, rows]).any(axis=0)
        return rows[lasts] if lasts.any() else rows

    @property
    def words(self) -> str:
        """What is shown, for a title."""
        parts = []
        if self.stage is not None:
            parts.append(f"stage{'s' * (len(_listed(self.stage)) > 1)} {_words(self.stage)}")
        if self.microbatch is not None:
            parts.append(f"microbatch{'es' * (len(_listed(self.microbatch)) > 1)} {_words(self.microbatch)}")
        if self.time_s is not None:
            low, high = self.time_s
            parts.append(
                f"{format_seconds(low)} to {format_seconds(high)}" if low > 0 else f"the first {format_seconds(high)}"
            )
        return ", ".join(parts)


def cut_of(lengths_s: Sequence[float]) -> float | None:
    """Where to cut an axis of time so that a length far beyond the others does not squeeze them; None for nowhere.

    Examples
    --------
    >>> cut_of([40.0, 470.0, 30.0]), cut_of([40.0, 90.0])
    (50.0, None)
    """
    ordered = sorted(lengths_s, reverse=True)
    for longer, length in itertools.pairwise(ordered):
        if longer > _MUCH_LONGER * length > 0:
            return _BEYOND * length
    return None


def _listed(numbers_given: int | Sequence[int]) -> list[int]:
    """Give the numbers as a list, of one or of several."""
    return list(numbers_given) if isinstance(numbers_given, Iterable) else [int(numbers_given)]


def _words(numbers_given: int | Sequence[int]) -> str:
    return ranges(_listed(numbers_given)).replace("-", "–")


def _check_numbers(field: str, value: object, count: int, what: str, faults: Faults) -> None:
    """Record numbers that are none, or not below the count."""
    if value is None:
        return
    given = value if isinstance(value, Iterable) else [value]
    chosen = [isinstance(number, numbers.Integral) and 0 <= int(number) < count for number in given]
    if not chosen or not all(chosen):
        faults.add(field, value, f"must be one or some of the {count:,} {what}, 0 to {count - 1}")


def _is_span(value: object) -> bool:
    """Say whether something is two finite numbers in order."""
    pair = list(value) if isinstance(value, Iterable) else []
    if len(pair) != 2 or not all(isinstance(bound, numbers.Real) and math.isfinite(bound) for bound in pair):  # noqa: PLR2004
        return False
    return bool(pair[0] < pair[1])
