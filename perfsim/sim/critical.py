"""What holds the makespan: the chain of tasks that fills it, and how long every other task could wait.

Kelley and Walker, "Critical-path planning and scheduling", Eastern Joint Computer Conference, 1959.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perfsim.schedule.taskgraph import Lists
from perfsim.sim.jit import compiled

__all__ = ["critical_chain", "latest_ends"]


def critical_chain(before: Lists, start_ps: NDArray[np.int64], end_ps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give a chain of tasks that determines the makespan, first to last.

    Parameters
    ----------
    before : Lists
        Predecessors of each task.
    start_ps, end_ps : ndarray of int64, shape (tasks,)

    Examples
    --------
    >>> critical_chain(Lists.of([[], [0], [0]]), np.array([0, 5, 5]), np.array([5, 8, 9]))
    array([0, 2])
    """
    chain = np.empty(len(end_ps), dtype=np.int64)
    length = _walk_back(start_ps, end_ps, before.offsets, before.values, chain) if len(end_ps) else 0
    return chain[:length][::-1]


def latest_ends(before: Lists, duration_ps: NDArray[np.int64], makespan_ps: int) -> NDArray[np.int64]:
    """Give the instant at which each task must have ended, so that the makespan stays what it is.

    Parameters
    ----------
    before : Lists
        Predecessors of each task.
    duration_ps : ndarray of int64, shape (tasks,)
    makespan_ps : int

    Examples
    --------
    >>> latest_ends(Lists.of([[], [0], [0]]), np.array([5, 3, 4]), 9)
    array([5, 9, 9])
    """
    latest = np.full(len(duration_ps), makespan_ps, dtype=np.int64)
    while not _pass_back(duration_ps, before.offsets, before.values, latest):
        pass
    return latest


@compiled
def _walk_back(starts, ends, offsets, predecessors, chain):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Go from the task that ends last to the predecessor that let each start, up to one that starts at 0."""
    task = np.int64(0)
    for other in range(len(ends)):
        if ends[other] > ends[task]:
            task = np.int64(other)
    length = 1
    chain[0] = task
    while starts[task] > 0:
        first = offsets[task]
        held_by = predecessors[first]
        for position in range(first + 1, offsets[task + 1]):
            if ends[predecessors[position]] > ends[held_by]:
                held_by = predecessors[position]
        task = np.int64(held_by)
        chain[length] = task
        length += 1
    return length


@compiled
def _pass_back(durations, offsets, predecessors, latest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Let each task ask its predecessors to end before it must start; True when nobody was asked too late.

    Predecessors stand above their tasks in every graph that a plan makes, so one pass from below suffices there.
    """
    settled = True
    for task in range(len(durations) - 1, -1, -1):
        start = latest[task] - durations[task]
        for position in range(offsets[task], offsets[task + 1]):
            earlier = predecessors[position]
            if start < latest[earlier]:
                latest[earlier] = start
                settled = settled and earlier < task
    return settled
