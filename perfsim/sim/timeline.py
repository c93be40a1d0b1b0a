"""WHEN: start and end of every task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perfsim.schedule.taskgraph import TaskGraph

__all__ = ["Timeline", "critical_tasks", "union_ps"]


@dataclass(frozen=True, eq=False)
class Timeline:
    """The times of a task graph.

    Attributes
    ----------
    graph : TaskGraph
    end_ps : ndarray of int64, shape (tasks,)
    """

    graph: TaskGraph
    end_ps: NDArray[np.int64]

    @cached_property
    def start_ps(self) -> NDArray[np.int64]:
        """Start of every task."""
        return self.end_ps - self.graph.duration_ps

    @property
    def makespan_ps(self) -> int:
        """End of the last task."""
        return int(self.end_ps.max(initial=0))


def critical_tasks(timeline: Timeline) -> NDArray[np.int64]:
    """Give a chain of tasks that determines the makespan, first to last.

    Each task of the chain starts at the instant at which the one before it ends; the first starts at 0. Where several
    chains are as long, the predecessor in the lowest row is taken.
    """
    from perfsim.sim.critical import critical_chain

    return critical_chain(timeline.graph.predecessors, timeline.start_ps, timeline.end_ps)


def union_ps(start_ps: NDArray[np.int64], end_ps: NDArray[np.int64]) -> int:
    """Length of time that at least one of the intervals covers.

    Examples
    --------
    >>> union_ps(np.array([0, 5, 20]), np.array([10, 12, 25]))
    17
    """
    if not len(start_ps):
        return 0
    order = np.argsort(start_ps, kind="stable")
    start, end = start_ps[order], end_ps[order]
    covered = np.concatenate([start[:1], np.maximum.accumulate(end)[:-1]])
    return int(np.maximum(end - np.maximum(start, covered), 0).sum())
