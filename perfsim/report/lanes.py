"""Which tasks a slot of a program takes part in, and when: what every report about devices starts from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perfsim.ops.nodes import Operator
from perfsim.schedule.program import Program
from perfsim.sim.timeline import Timeline

__all__ = ["COMMUNICATION", "COMPUTE", "Run"]

COMPUTE, COMMUNICATION = ("matmul", "attention", "elementwise"), ("collective", "transfer", "receive")


@dataclass(frozen=True, eq=False)
class Run:
    """A program and the times at which it ran.

    Attributes
    ----------
    program : Program
    timeline : Timeline
    """

    program: Program
    timeline: Timeline

    @cached_property
    def start_ps(self) -> NDArray[np.int64]:
        """Start of every task, shape (microbatches, rows of the template)."""
        return self.timeline.start_ps.reshape(-1, self.program.template.num_rows)

    @cached_property
    def end_ps(self) -> NDArray[np.int64]:
        """End of every task, shape (microbatches, rows of the template)."""
        return self.timeline.end_ps.reshape(-1, self.program.template.num_rows)

    @property
    def makespan_ps(self) -> int:
        """End of the last task."""
        return self.timeline.makespan_ps

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Operators of the graph, for the usual microbatch size."""
        return self.program.graphs[0].operators

    @cached_property
    def entry_kind(self) -> NDArray[np.str_]:
        """Kind of the operator of each entry of the template."""
        kinds = np.array([operator.kind for operator in self.operators])
        return kinds[self.program.template.entry_operator]

    def entries(self, slot: int, kinds: tuple[str, ...] = COMPUTE + COMMUNICATION) -> NDArray[np.int64]:
        """Entries of the template in which a slot carries out operators of some kinds."""
        mine = self.program.template.entry_slot == slot
        return np.flatnonzero(mine & np.isin(self.entry_kind, kinds))

    def intervals(self, slot: int, kinds: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and ends of all executions of some kinds on a slot."""
        rows = self.program.template.entry_row[self.entries(slot, kinds)]
        return self.start_ps[:, rows].ravel(), self.end_ps[:, rows].ravel()

    @property
    def num_devices(self) -> int:
        """Devices of the plan."""
        return self.program.scenario.plan.num_devices

    def slot_of(self, device: int) -> int:
        """The slot that stands for a device."""
        return device // self.program.template.devices_per_slot

    def devices_of(self, slot: int) -> range:
        """The devices that a slot stands for."""
        width = self.program.template.devices_per_slot
        return range(slot * width, (slot + 1) * width)
