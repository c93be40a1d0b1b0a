"""The SimPy engine: one process a stream, collectives as rendezvous.

It is slower than the compiled engine, readable, and the one that follows what changes on the way: devices that slow
down, links that running tasks share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from perfsim.errors import DeadlockError
from perfsim.schedule.taskgraph import TaskGraph
from perfsim.sim.disturbances import Disturbances, Resources

__all__ = ["run_disturbed", "run_simpy"]

Describe = Callable[[int], str]


def run_simpy(graph: TaskGraph, describe: Describe | None = None) -> NDArray[np.int64]:
    """Simulate a task graph event by event.

    Parameters
    ----------
    graph : TaskGraph
    describe : callable, optional
        Gives the name of a task from its row, for the message about a deadlock.

    Returns
    -------
    ndarray of int64, shape (tasks,)
        When each task ends, in picoseconds.

    Raises
    ------
    DeadlockError
        Tasks wait for each other; the message names them.

    Examples
    --------
    >>> run_simpy(TaskGraph.of([5, 3, 4], streams=[[0], [0], [1]], dependencies=[[], [], [0]]))
    array([5, 8, 9])
    """
    run = _Run(graph)
    run.finish(describe)
    return np.array(run.ends, dtype=np.int64)


def run_disturbed(
    graph: TaskGraph, disturbances: Disturbances, describe: Describe | None = None
) -> tuple[TaskGraph, NDArray[np.int64]]:
    """Simulate a task graph whose tasks are slowed down while they run.

    Parameters
    ----------
    graph : TaskGraph
        Its durations do not matter: ``disturbances.work_ps`` stands in their place.
    disturbances : Disturbances
    describe : callable, optional
        As for `run_simpy`.

    Returns
    -------
    TaskGraph
        The same tasks with the durations that came about; every engine gives the same times for it.
    ndarray of int64, shape (tasks,)
        When each task ends, in picoseconds.

    Raises
    ------
    DeadlockError
        Tasks wait for each other; the message names them.
    """
    run = _Run(graph, disturbances)
    run.finish(describe)
    ends = np.array(run.ends, dtype=np.int64)
    return dataclasses.replace(graph, duration_ps=ends - np.array(run.starts, dtype=np.int64)), ends


class _Run:
    """The state of one simulation; Python lists, since events come one at a time."""

    def __init__(self, graph: TaskGraph, disturbances: Disturbances | None = None) -> None:
        self.env = simpy.Environment()
        self.resources = None if disturbances is None else Resources(self.env, disturbances)
        self.durations = graph.duration_ps.tolist()
        self.offsets, self.dependencies = graph.dependencies.offsets.tolist(), graph.dependencies.values.tolist()
        occupied = graph.streams.counts
        self.missing = occupied.tolist()  # streams that have not come to each task yet
        self.ends = [-1] * graph.num_tasks
        self.starts = [-1] * graph.num_tasks if disturbances is not None else []
        self.done: dict[int, simpy.Event] = {}  # made only where somebody waits
        order = np.argsort(graph.streams.values, kind="stable")
        bounds = np.searchsorted(graph.streams.values[order], np.arange(graph.num_streams + 1))
        tasks = graph.streams.rows[order].tolist()
        self.queues = [tasks[bounds[s] : bounds[s + 1]] for s in range(graph.num_streams)]
        queues = [*self.queues, *([task] for task in np.flatnonzero(occupied == 0).tolist())]
        for queue in queues:
            self.env.process(self._stream(queue))

    def finish(self, describe: Describe | None) -> None:
        """Run to the end, or say which tasks never come to theirs."""
        self.env.run()
        blocked = [task for task, end in enumerate(self.ends) if end < 0]
        if blocked:
            name = describe or (lambda task: f"task {task}")
            # The head of each stream's queue is what waits; the rest only stands behind it.
            raise DeadlockError([name(task) for task in self._heads(blocked)], len(blocked))

    def _stream(self, queue: list[int]) -> Generator[simpy.Event, Any, None]:
        """Work on the tasks of one stream in order. The last stream to come to a rendezvous carries it out."""
        env, ends, missing, resources = self.env, self.ends, self.missing, self.resources
        offsets, dependencies, durations, done = self.offsets, self.dependencies, self.durations, self.done
        for task in queue:
            if missing[task] > 1:
                missing[task] -= 1
                yield self._end_of(task)
                continue
            for position in range(offsets[task], offsets[task + 1]):
                earlier = dependencies[position]
                if ends[earlier] < 0:
                    yield self._end_of(earlier)
            if resources is None:
                yield env.timeout(durations[task])
            else:
                self.starts[task] = int(env.now)
                yield from resources.carry_out(task)
            ends[task] = int(env.now)
            if task in done:
                done.pop(task).succeed()

    def _end_of(self, task: int) -> simpy.Event:
        """The event that a task ends."""
        event = self.done.get(task)
        if event is None:
            event = self.done[task] = self.env.event()
        return event

    def _heads(self, blocked: list[int]) -> list[int]:
        """First task of each stream that never ended, in the order of the rows."""
        waiting = set(blocked)
        heads = {next((task for task in queue if task in waiting), None) for queue in self.queues}
        return sorted(task for task in heads if task is not None) or blocked
