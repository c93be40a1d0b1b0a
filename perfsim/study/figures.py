"""Time and memory of many scenarios, as `simulate` finds them, each in the cheapest way that is exact."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from perfsim.memory import Resident, resident_memory
from perfsim.simulation import simulate
from perfsim.spec.scenario import Scenario
from perfsim.study.points import Sizes, evaluate

__all__ = ["Figures", "StageMemory", "estimates", "figures", "has_period", "stage_memory"]

_ROUNDS = 4
"""Rounds of microbatches through all stages after which what lives together has long repeated itself."""
_STEPS = 3
"""Tokens of a generation after which its steps are alike in memory: the prefill, and two steps of decode."""


class Figures(NamedTuple):
    """What a simulation found; `peak_bytes` and `capacity_bytes` are those of the device with the least room."""

    makespan_s: float
    peak_bytes: int
    capacity_bytes: int

    @property
    def fits(self) -> bool:
        """Whether every device has memory enough."""
        return self.peak_bytes <= self.capacity_bytes


class StageMemory(NamedTuple):
    """Memory of a device of one stage."""

    resident: Resident
    activation_bytes: int
    capacity_bytes: int

    @property
    def peak_bytes(self) -> int:
        """All together."""
        return int(self.resident.total_bytes) + self.activation_bytes

    @property
    def fits(self) -> bool:
        """Whether the device has memory enough."""
        return self.peak_bytes <= self.capacity_bytes

    @property
    def largest_part(self) -> tuple[str, int]:
        """Name and bytes of what takes most."""
        parts = {
            "the weights": self.resident.weights_bytes, "the KV cache": self.resident.kv_cache_bytes,
            "activations": self.activation_bytes, "receive buffers": self.resident.buffer_bytes,
            "the framework's reserve": self.resident.reserve_bytes,
        }  # fmt: skip
        name = max(parts, key=lambda part: parts[part])
        return name, int(parts[name])


def has_period(scenario: Scenario) -> bool:
    """Whether microbatches simply repeat: steps of a generation grow, virtual stages go in rounds."""
    return scenario.workload.phase != "generation" and scenario.plan.virtual_stages == 1


def figures(scenarios: Sequence[Scenario]) -> list[Figures | None]:
    """Find time and memory of scenarios; those that differ in batch or microbatch alone are computed together.

    Parameters
    ----------
    scenarios : sequence of Scenario

    Returns
    -------
    list of Figures or None
        What `simulate` gives, to the bit; None where that refuses more work than 64 bits can count.
    """
    found: list[Figures | None] = [None] * len(scenarios)
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, scenario in enumerate(scenarios):
        if has_period(scenario):
            groups.setdefault(_structure(scenario), []).append(index)
        else:
            found[index] = _simulated(scenario)
    for members in groups.values():
        sizes = [(s.workload.batch_size, s.workload.sequence_length, s.plan.microbatch_size or 0)
                 for s in (scenarios[index] for index in members)]  # fmt: skip
        columns = evaluate(scenarios[members[0]], Sizes(*np.array(sizes, dtype=np.int64).T))
        for row, index in enumerate(members):
            if not columns["too_long"][row]:
                found[index] = Figures(
                    float(columns["makespan_s"][row]), int(columns["peak_bytes"][row]),
                    int(columns["capacity_bytes"][row]),
                )  # fmt: skip
    return found


def _structure(scenario: Scenario) -> tuple[object, ...]:
    """What scenarios that are computed together have in common; parts that are copies count as different."""
    plan = dataclasses.replace(scenario.plan, microbatch_size=None)
    workload = dataclasses.replace(scenario.workload, batch_size=1)
    return id(scenario.cluster), id(scenario.model), plan, workload


def _simulated(scenario: Scenario) -> Figures:
    result = simulate(scenario)
    memory = result.memory
    worst = memory.loc[(memory["peak_bytes"] - memory["capacity_bytes"]).idxmax()]
    return Figures(result.makespan_s, int(worst["peak_bytes"]), int(worst["capacity_bytes"]))


def estimates(scenarios: Sequence[Scenario]) -> list[Figures | None]:
    """Estimate time and memory of scenarios: `figures` where these come cheap, else from stand-ins.

    A generation is taken as its prefill and so many times its last step, virtual stages as plain ones. This tells
    which of many plans are worth a simulation, no more.
    """
    stand_ins = [_stand_ins(scenario) for scenario in scenarios]
    found = iter(figures([part for parts in stand_ins for _, part in parts]))
    return [_together([(times, next(found)) for times, _ in parts]) for parts in stand_ins]


def _together(parts: list[tuple[int, Figures | None]]) -> Figures | None:
    known = [(times, part) for times, part in parts if part is not None]
    if len(known) < len(parts):
        return None
    worst = max((part for _, part in known), key=lambda part: part.peak_bytes - part.capacity_bytes)
    return worst._replace(makespan_s=sum(times * part.makespan_s for times, part in known))


def _stand_ins(scenario: Scenario) -> list[tuple[int, Scenario]]:
    """Scenarios with a period that together are like a scenario, and how many times each counts."""
    plan, workload = scenario.plan, scenario.workload
    if plan.virtual_stages > 1:
        passes = scenario.layers_per_stage
        layers = tuple(sum(passes[stage :: plan.pipeline]) for stage in range(plan.pipeline))
        plan = dataclasses.replace(plan, virtual_stages=1, layers_per_stage=layers)
    if workload.phase != "generation":
        return [(1, dataclasses.replace(scenario, plan=plan))]
    prefill = dataclasses.replace(workload, phase="prefill", output_length=1)
    decode = dataclasses.replace(prefill, phase="decode", sequence_length=workload.context_length)
    parts = [(1, prefill)] + [(workload.output_length - 1, decode)] * (workload.output_length > 1)
    return [(times, dataclasses.replace(scenario, plan=plan, workload=part)) for times, part in parts]


def stage_memory(scenario: Scenario) -> list[StageMemory]:
    """Find what fills the memory of each stage, from a simulation of a few rounds of microbatches.

    A round is one microbatch for every stage. However many follow, no more than some of them are in flight at once, so
    a few rounds have the activations of all; a generation has those of its prefill and its first steps.
    """
    plan, workload = scenario.plan, scenario.workload
    round_size = scenario.microbatch_size * plan.pipeline
    left_out = max(0, scenario.replica_batch // round_size - _ROUNDS) * round_size * plan.data
    few = dataclasses.replace(
        workload, batch_size=workload.batch_size - left_out, output_length=min(workload.output_length, _STEPS)
    )
    short_plan = dataclasses.replace(plan, microbatch_size=scenario.microbatch_size)
    result = simulate(dataclasses.replace(scenario, plan=short_plan, workload=few))
    activations = result.memory.groupby("stage")["activation_bytes"].max()
    return [
        StageMemory(resident, int(activations[stage]), scenario.segment(stage).accelerator.memory_bytes)
        for stage, resident in enumerate(resident_memory(scenario, result.dag))
    ]
