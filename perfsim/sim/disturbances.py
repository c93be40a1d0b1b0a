"""What changes while tasks run: resources whose speed varies, and resources that running tasks share.

A task draws on resources, each with a weight. At any instant a resource serves its tasks at its speed, divided among
them where their weights add up to more than its capacity; a task advances at the rate of its slowest resource. This is
the fluid model of shared links (Casanova et al., "Versatile, scalable, and accurate simulation of distributed
applications and platforms", JPDC 74(10), 2014), with equal shares.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.schedule.taskgraph import Lists

if TYPE_CHECKING:
    import simpy

__all__ = ["Disturbances", "Resources", "SpeedChange"]


class SpeedChange(NamedTuple):
    """A resource works at `speed`, as a share of its own, from `time_ps` on."""

    time_ps: int
    resource: int
    speed: float


@dataclass(frozen=True, eq=False)
class Disturbances:
    """What disturbs the tasks of a graph.

    Attributes
    ----------
    work_ps : ndarray of int64, shape (tasks,)
        Time that each task takes while nothing slows it down.
    resources : Lists
        Resources that each task draws on.
    weights : ndarray of float64
        How much of each, in the order of ``resources.values``.
    capacity : ndarray of float64, shape (resources,)
        Weight that each resource serves at full speed.
    changes : sequence of SpeedChange
        In the order of time. Every resource begins with speed 1.
    """

    work_ps: NDArray[np.int64]
    resources: Lists
    weights: NDArray[np.float64]
    capacity: NDArray[np.float64]
    changes: Sequence[SpeedChange] = ()


class Resources:
    """The state of the resources while a simulation runs."""

    def __init__(self, env: simpy.Environment, disturbances: Disturbances) -> None:
        self.env = env
        self.work = disturbances.work_ps.tolist()
        self.offsets = disturbances.resources.offsets.tolist()
        self.values, self.weights = disturbances.resources.values.tolist(), disturbances.weights.tolist()
        self.capacity = disturbances.capacity.tolist()
        self.speed, self.load = [1.0] * len(self.capacity), [0.0] * len(self.capacity)
        self.changed = [env.event() for _ in self.capacity]
        if disturbances.changes:
            env.process(self._follow(disturbances.changes))

    def carry_out(self, task: int) -> Generator[simpy.Event, Any, None]:
        """Wait until a task is done, at the rates that its resources give it on the way."""
        drawn = range(self.offsets[task], self.offsets[task + 1])
        if not drawn:
            yield self.env.timeout(self.work[task])
            return
        self._draw(drawn, 1)
        left = float(self.work[task])
        while True:
            rate = min(self._rate(self.values[position]) for position in drawn)
            began = self.env.now
            done = self.env.timeout(math.ceil(left / rate))
            yield self.env.any_of([done, *(self.changed[self.values[position]] for position in drawn)])
            if done.processed:
                break
            left = max(left - (self.env.now - began) * rate, 0.0)
        self._draw(drawn, -1)

    def _rate(self, resource: int) -> float:
        return self.speed[resource] * min(1.0, self.capacity[resource] / self.load[resource])

    def _draw(self, drawn: range, sign: int) -> None:
        """Take or give back what a task draws, and wake those that share it where that changes their rate."""
        for position in drawn:
            resource = self.values[position]
            before = max(self.load[resource], self.capacity[resource])
            self.load[resource] += sign * self.weights[position]
            if max(self.load[resource], self.capacity[resource]) != before:
                self._wake(resource)

    def _wake(self, resource: int) -> None:
        event, self.changed[resource] = self.changed[resource], self.env.event()
        event.succeed()

    def _follow(self, changes: Sequence[SpeedChange]) -> Generator[simpy.Event, Any, None]:
        """Set speeds when their time comes."""
        for change in changes:
            if change.time_ps > self.env.now:
                yield self.env.timeout(change.time_ps - int(self.env.now))
            self.speed[change.resource] = change.speed
            self._wake(change.resource)
