"""Which tasks a slot of a program takes part in, and when: what every report about devices starts from."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import InputError
from perfsim.ops.nodes import Operator
from perfsim.schedule.program import Program
from perfsim.sim.timeline import Timeline

__all__ = ["COMMUNICATION", "COMPUTE", "Run"]

COMPUTE = ("matmul", "attention", "experts", "elementwise")
COMMUNICATION = ("collective", "transfer", "receive")


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
        return self._by_microbatch(self.timeline.start_ps)

    @cached_property
    def end_ps(self) -> NDArray[np.int64]:
        """End of every task, shape (microbatches, rows of the template)."""
        return self._by_microbatch(self.timeline.end_ps)

    def _by_microbatch(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        template = self.program.template
        if template.round_size > 1:
            times = times.reshape(-1, template.position.size)[:, template.position.ravel()]
        return times.reshape(-1, template.num_rows)

    @property
    def makespan_ps(self) -> int:
        """End of the last task."""
        return self.timeline.makespan_ps

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Operators of the graph, for the usual microbatch size."""
        return self.program.graphs[0].operators

    @cached_property
    def _kind_codes(self) -> NDArray[np.int64]:
        """Position in `KINDS` of the kind of each entry's operator."""
        codes = {kind: code for code, kind in enumerate(COMPUTE + COMMUNICATION)}
        operator_codes = np.array([codes.get(operator.kind, -1) for operator in self.operators])
        return operator_codes[self.program.template.entry_operator]

    @cached_property
    def _slot_entries(self) -> list[NDArray[np.int64]]:
        """Entries of each slot, in the order of the template."""
        slots = self.program.template.entry_slot
        order = np.argsort(slots, kind="stable")
        bounds = np.searchsorted(slots[order], np.arange(1, self.program.template.num_slots))
        return np.split(order, bounds)

    def entries(self, slot: int, kinds: tuple[str, ...] = COMPUTE + COMMUNICATION) -> NDArray[np.int64]:
        """Entries of the template in which a slot carries out operators of some kinds."""
        mine = self._slot_entries[slot]
        codes = [(COMPUTE + COMMUNICATION).index(kind) for kind in kinds]
        return mine[np.isin(self._kind_codes[mine], codes)]

    @cached_property
    def models(self) -> tuple[int, ...]:
        """For each slot the first slot of its stage that does the same operators at the same times: itself, or another.

        Slots that do the same have the same reports, which need to be made only once.
        """
        width = self.program.template.slots_per_stage
        models: list[int] = []
        for slot in range(self.program.template.num_slots):
            earlier = sorted(set(models[slot - slot % width :]))
            models.append(next((model for model in earlier if self._alike(slot, model)), slot))
        return tuple(models)

    def _alike(self, slot: int, other: int) -> bool:
        mine, theirs = self._slot_entries[slot], self._slot_entries[other]
        template = self.program.template
        if not np.array_equal(template.entry_operator[mine], template.entry_operator[theirs]):
            return False
        rows, other_rows = template.entry_row[mine], template.entry_row[theirs]
        differ = rows != other_rows
        return all(
            np.array_equal(times[:, rows[differ]], times[:, other_rows[differ]])
            for times in (self.start_ps, self.end_ps)
        )

    def intervals(self, slot: int, kinds: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and ends of all executions of some kinds on a slot."""
        rows = self.program.template.entry_row[self.entries(slot, kinds)]
        return self.start_ps[:, rows].ravel(), self.end_ps[:, rows].ravel()

    @property
    def num_devices(self) -> int:
        """Devices of the plan."""
        return self.program.scenario.plan.num_devices

    def slot_of(self, device: int) -> int:
        """The slot that stands for a device.

        Raises
        ------
        InputError
            The plan has no such device.
        """
        if not isinstance(device, numbers.Integral) or not 0 <= device < self.num_devices:
            allowed = f"must be one of the plan's devices, 0 to {self.num_devices - 1}"
            raise InputError.of("device", device, allowed)
        return device // self.program.template.devices_per_slot

    def devices_of(self, slot: int) -> range:
        """The devices that a slot stands for."""
        width = self.program.template.devices_per_slot
        return range(slot * width, (slot + 1) * width)
