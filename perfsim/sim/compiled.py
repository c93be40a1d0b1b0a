"""The compiled engine: one pass over the rows of a task graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import DeadlockError
from perfsim.schedule.taskgraph import TaskGraph
from perfsim.sim.jit import compiled

__all__ = ["run_compiled"]


def run_compiled(graph: TaskGraph) -> NDArray[np.int64]:
    """Compute when each task ends, in picoseconds.

    Parameters
    ----------
    graph : TaskGraph

    Returns
    -------
    ndarray of int64, shape (tasks,)

    Raises
    ------
    DeadlockError
        A task depends on one that stands below it and cannot start.

    Examples
    --------
    >>> run_compiled(TaskGraph.of([5, 3, 4], streams=[[0], [0], [1]], dependencies=[[], [], [0]]))
    array([5, 8, 9])
    """
    before = graph.predecessors
    if graph.merged is None and not graph.is_ordered:
        return _run_unordered(graph)
    ends = np.empty(graph.num_tasks, dtype=np.int64)
    _one_pass(graph.duration_ps, before.offsets, before.values, ends)
    return ends


@compiled
def _one_pass(duration_ps, offsets, predecessors, ends):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Every predecessor stands above its task, so its end is known when the task comes."""
    first = offsets[0]
    for task in range(len(duration_ps)):
        last = offsets[task + 1]
        start = 0
        for position in range(first, last):
            start = max(start, ends[predecessors[position]])
        first = last
        ends[task] = start + duration_ps[task]


def _run_unordered(graph: TaskGraph) -> NDArray[np.int64]:
    """Peel off tasks whose predecessors have ended (Kahn, 1962); for graphs made by hand."""
    before = graph.predecessors
    after: list[list[int]] = [[] for _ in range(graph.num_tasks)]
    for task, earlier in zip(before.rows.tolist(), before.values.tolist(), strict=True):
        after[earlier].append(task)
    waits = before.counts.tolist()
    starts, ends = [0] * graph.num_tasks, [-1] * graph.num_tasks
    ready = [task for task, count in enumerate(waits) if count == 0]
    while ready:
        task = ready.pop()
        ends[task] = starts[task] + int(graph.duration_ps[task])
        for later in after[task]:
            starts[later] = max(starts[later], ends[task])
            waits[later] -= 1
            if waits[later] == 0:
                ready.append(later)
    blocked = [task for task, end in enumerate(ends) if end < 0]
    if blocked:
        raise DeadlockError([f"task {task} (label {graph.label[task]})" for task in blocked], len(blocked))
    return np.array(ends, dtype=np.int64)
