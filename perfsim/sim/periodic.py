"""Repetition solved exactly: makespans and memory peaks for any number of microbatches, without running them all.

The times of a period follow from those of the periods before by additions and maxima only. So once every row of
``lags`` periods in a row stands exactly the same time after its counterpart `cycle` periods earlier, it does so for
ever (Baccelli et al., "Synchronization and Linearity", 1992, chapter 3), in whole picoseconds without any error. What
comes before, and a ragged last microbatch after it, is computed period by period.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.schedule.taskgraph import Period
from perfsim.sim.jit import compiled

__all__ = ["Lifetimes", "Points", "solve_points"]

Integers = NDArray[np.int64]


class Lifetimes(NamedTuple):
    """Which rows allocate and free what, in one period.

    Attributes
    ----------
    place : ndarray of int64, shape (buffers,)
        The memory that each buffer lies in, from 0.
    allocated_by : ndarray of int64, shape (buffers,)
        Row at whose start it is allocated.
    offsets, users : ndarray of int64
        Rows after the last of which it is freed, in compressed form.
    size_bytes : ndarray of int64, shape (shapes, buffers)
    """

    place: Integers
    allocated_by: Integers
    offsets: Integers
    users: Integers
    size_bytes: Integers


class Points(NamedTuple):
    """What is asked for: `repeats` periods of one shape and perhaps one more of another.

    Attributes
    ----------
    shape : ndarray of int64, shape (points,)
        Index of the shape; points of one shape stand together, in the order of `rest` and `repeats`.
    rest : ndarray of int64, shape (points,)
        Index of the shape of the last period where it differs, else -1.
    repeats : ndarray of int64, shape (points,)
        Periods of the first shape.
    """

    shape: Integers
    rest: Integers
    repeats: Integers


def solve_points(
    period: Period, duration_ps: Integers, lifetimes: Lifetimes, points: Points
) -> tuple[Integers, Integers, Integers]:
    """Compute the makespan, the end of the first period and the memory peaks of many points.

    Parameters
    ----------
    period : Period
    duration_ps : ndarray of int64, shape (shapes, rows)
    lifetimes : Lifetimes
    points : Points

    Returns
    -------
    makespan_ps, first_ps : ndarray of int64, shape (points,)
    peak_bytes : ndarray of int64, shape (points, places)
        Most bytes that live at once; what is freed at an instant makes room for what is allocated then.
    """
    num_points, num_places = len(points.shape), int(lifetimes.place.max(initial=-1)) + 1
    makespan_ps, first_ps = np.empty(num_points, np.int64), np.empty(num_points, np.int64)
    peak_bytes = np.zeros((num_points, num_places), np.int64)
    lags = max(1, int(period.lag.max(initial=0)))
    waits = (period.offsets, period.row, period.lag)
    _solve(waits, lags, duration_ps, lifetimes, points, makespan_ps, first_ps, peak_bytes)
    return makespan_ps, first_ps, peak_bytes


@compiled
def _solve(waits, lags, durations, lifetimes, points, makespan, first, peak):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Run each shape once, as far as its points need, and read every point off."""
    num_points, rows = len(points.shape), durations.shape[1]
    last = np.empty(rows, np.int64)
    begin = 0
    while begin < num_points:
        end, most = begin, 0
        while end < num_points and points.shape[end] == points.shape[begin]:
            most = max(most, points.repeats[end])
            end += 1
        shape = points.shape[begin]
        ends, cycle, growth = _run(waits, lags, durations[shape], most)
        enough = _enough_periods(ends, cycle, growth, durations[shape], lifetimes)
        seen = np.int64(-1), np.int64(0)
        for point in range(begin, end):
            rest, count = points.rest[point], points.repeats[point]
            first[point] = _row_max(ends, cycle, growth, 0)
            if rest < 0:
                makespan[point] = _row_max(ends, cycle, growth, count - 1)
            else:
                _step(waits, durations[rest], ends, cycle, growth, count, last)
                makespan[point] = _largest(last)
            # As few periods as show all that ever lives together, in phase with the point's last.
            shown = count if growth == 0 or count <= enough else enough + (count - enough) % cycle
            if point > begin and seen == (rest, shown):
                for place in range(peak.shape[1]):
                    peak[point, place] = peak[point - 1, place]
                continue
            seen = rest, shown
            shift = (count - shown) // cycle * growth
            for place in range(peak.shape[1]):
                peak[point, place] = _peak(
                    place, shown, ends, cycle, growth, last, shift, rest, durations, lifetimes, shape
                )
        begin = end


@compiled
def _end(ends, cycle, growth, index, row):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """End of a row in any period: recorded, or so many cycles after a recorded one."""
    known = len(ends)
    if index < known:
        return ends[index, row]
    cycles = (index - known) // cycle + 1
    return ends[index - cycles * cycle, row] + cycles * growth


@compiled
def _largest(values):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The largest of some numbers that are at least 0."""
    largest = 0
    for value in values:
        largest = max(largest, value)
    return largest


@compiled
def _row_max(ends, cycle, growth, index):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """End of a period; every row ends after its counterpart in the period before, so this is the makespan so far."""
    latest = 0
    for row in range(ends.shape[1]):
        latest = max(latest, _end(ends, cycle, growth, index, row))
    return latest


@compiled
def _step(waits, durations, ends, cycle, growth, index, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Compute the ends of one period from those before it."""
    offsets, rows, lags = waits
    for row in range(len(out)):
        start = 0
        for position in range(offsets[row], offsets[row + 1]):
            lag = lags[position]
            if lag == 0:
                start = max(start, out[rows[position]])
            elif lag <= index:
                start = max(start, _end(ends, cycle, growth, index - lag, rows[position]))
        out[row] = start + durations[row]


@compiled
def _run(waits, lags, durations, most):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Compute periods until they repeat or there are `most`; the ends, and the cycle with its growth (0 where none)."""
    rows = len(durations)
    ends = np.empty((min(most, 16), rows), np.int64)
    # For each length of a cycle, by how much the last period grew with it, and how many in a row grew by so much.
    grown, alike = np.zeros(lags + 1, np.int64), np.zeros(lags + 1, np.int64)
    for index in range(most):
        if index == len(ends):
            longer = np.empty((min(most, 2 * len(ends)), rows), np.int64)
            # Element by element: slices that are assigned take Numba seconds to compile.
            for earlier in range(index):
                for row in range(rows):
                    longer[earlier, row] = ends[earlier, row]
            ends = longer
        _step(waits, durations, ends[:index], 1, 0, index, ends[index])
        for cycle in range(1, min(lags, index) + 1):
            growth = ends[index, 0] - ends[index - cycle, 0]
            same = growth > 0
            for row in range(rows):
                same = same and ends[index, row] - ends[index - cycle, row] == growth
            if growth != grown[cycle]:
                grown[cycle], alike[cycle] = growth, 0
            alike[cycle] = alike[cycle] + 1 if same else 0
            if alike[cycle] >= lags:
                return ends[: index + 1], cycle, growth
    return ends[:most], 1, 0


@compiled
def _enough_periods(ends, cycle, growth, durations, lifetimes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Periods after which nothing new lives together: the recorded ones and those that overlap them."""
    known = len(ends)
    if growth == 0:
        return known
    longest = 0
    for place in range(_largest(lifetimes.place) + 1):
        earliest, latest = 2**62, 0
        for buffer in range(len(lifetimes.place)):
            if lifetimes.place[buffer] == place:
                row = lifetimes.allocated_by[buffer]
                earliest = min(earliest, ends[known - 1, row] - durations[row])
                for position in range(lifetimes.offsets[buffer], lifetimes.offsets[buffer + 1]):
                    latest = max(latest, ends[known - 1, lifetimes.users[position]])
        longest = max(longest, latest - earliest)
    return known + cycle * (longest // growth + 3)


@compiled
def _peak(place, shown, ends, cycle, growth, last, shift, rest, durations, lifetimes, shape):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Sweep over the instants of one place, allocations after what is freed at the same instant."""
    periods = shown + (1 if rest >= 0 else 0)
    buffers = len(lifetimes.place)
    key, change = np.empty(2 * periods * buffers, np.int64), np.empty(2 * periods * buffers, np.int64)
    events = 0
    for index in range(periods):
        ragged = index == shown
        kind = rest if ragged else shape
        for buffer in range(buffers):
            if lifetimes.place[buffer] != place:
                continue
            row = lifetimes.allocated_by[buffer]
            end = last[row] - shift if ragged else _end(ends, cycle, growth, index, row)
            freed = np.int64(0)
            for position in range(lifetimes.offsets[buffer], lifetimes.offsets[buffer + 1]):
                user = lifetimes.users[position]
                freed = max(freed, last[user] - shift if ragged else _end(ends, cycle, growth, index, user))
            size = lifetimes.size_bytes[kind, buffer]
            events = _insert(key, change, events, 2 * (end - durations[kind, row]) + 1, size)
            events = _insert(key, change, events, 2 * freed, -size)
    live, most = np.int64(0), np.int64(0)
    for event in range(events):
        live += change[event]
        # Bytes that are freed and allocated at one instant count together.
        if event + 1 == events or key[event + 1] // 2 != key[event] // 2:
            most = max(most, live)
    return most


@compiled
def _insert(key, change, events, new_key, new_change):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Insert an event in order; periods follow each other, so it belongs near the end."""
    position = events
    while position > 0 and key[position - 1] > new_key:
        key[position], change[position] = key[position - 1], change[position - 1]
        position -= 1
    key[position], change[position] = new_key, new_change
    return events + 1
