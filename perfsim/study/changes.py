"""The changes of a scenario that an adviser tries: each of one kind, from the nearest to the farthest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any, NamedTuple

from perfsim.errors import InputError
from perfsim.spec.scenario import Scenario
from perfsim.study.least_memory import least_bytes
from perfsim.study.limits import max_batch
from perfsim.study.smallest import divisors, grown
from perfsim.units import DTYPE_BYTES

__all__ = ["CLUSTER", "FASTER", "SMALLER", "Change", "changed_by", "changes_of", "largest_batch"]

DEGREES = ("tensor", "pipeline", "data", "context", "expert")
CLUSTER = "cluster.num_devices"
_FACTORS = (2, 3, 4)
_CHUNKS = (2, 4)
_FEWER = "fewer sequences hold less at once; the others need another run"

Changes = dict[str, Any]


class Change(NamedTuple):
    """A scenario that differs from another.

    Attributes
    ----------
    kinds : tuple of str
        What was changed, in the words of the table.
    changes : dict
        What `Scenario.with_` takes.
    scenario : Scenario
    reason : str
        Why it helps, and what it asks for.
    """

    kinds: tuple[str, ...]
    changes: Changes
    scenario: Scenario
    reason: str

    def then(self, other: Change) -> Change:
        """Give this change and one of the changed scenario together."""
        kinds, reason = (*self.kinds, *other.kinds), f"{self.reason}; {other.reason}"
        return Change(kinds, {**self.changes, **other.changes}, other.scenario, reason)


def changed_by(scenario: Scenario, changes: Mapping[str, Any]) -> Scenario | None:
    """Change a scenario as `Scenario.with_` does, if what comes out is possible."""
    others = {name: value for name, value in changes.items() if name != CLUSTER}
    try:
        if CLUSTER in changes:
            others["cluster"] = grown(scenario.cluster, changes[CLUSTER])
        return scenario.with_(**others)
    except InputError:
        return None


def changes_of(scenario: Scenario, kind: str) -> Iterator[Change]:
    """Give the possible changes of one kind, the nearest first."""
    for changes, reason in _KINDS[kind](scenario):
        made = changed_by(scenario, changes)
        if made is not None:
            yield Change((kind,), changes, made, reason)


def largest_batch(scenario: Scenario) -> Iterator[Change]:
    """Give the change to the largest batch that fits, if that is smaller and there is one."""
    try:
        changes = {"batch_size": max_batch(scenario)}
    except InputError:
        return
    made = changed_by(scenario, changes)
    if made is not None and changes["batch_size"] < scenario.workload.batch_size:
        yield Change(("batch",), changes, made, _FEWER)


def _smaller_microbatch(scenario: Scenario) -> Iterator[tuple[Changes, str]]:
    for size in reversed(_powers_of_two(scenario.microbatch_size - 1)):
        yield {"microbatch_size": size}, "fewer sequences go through together, with fewer activations"


def _microbatch(scenario: Scenario) -> Iterator[tuple[Changes, str]]:
    for size in _powers_of_two(scenario.replica_batch):
        if size > scenario.microbatch_size:
            yield {"microbatch_size": size}, "more sequences go through together, in larger kernels"
        elif size < scenario.microbatch_size:
            yield {"microbatch_size": size}, "more microbatches fill the pipeline better"


def _powers_of_two(most: int) -> list[int]:
    return [1 << exponent for exponent in range(most.bit_length())]


def _sequence_parallel(scenario: Scenario) -> Iterator[tuple[Changes, str]]:
    plan = scenario.plan
    if plan.tensor > 1 and not plan.sequence_parallel:
        off = {"scatter_gather": False} if plan.scatter_gather else {}
        yield {"sequence_parallel": True, **off}, "tensor ranks share the tokens between matrices instead of copies"


def _layers(scenario: Scenario) -> Iterator[tuple[Changes, str]]:
    """Move layers one by one from the stage with the least room to that with the most, as long as this helps."""
    pipeline, room = scenario.plan.pipeline, _room(scenario)
    for moved in count(1):
        fullest, emptiest = room.index(min(room)), room.index(max(room))
        layers = list(scenario.layers_per_stage)
        source = max(range(fullest, len(layers), pipeline), key=lambda index: layers[index])
        target = min(range(emptiest, len(layers), pipeline), key=lambda index: layers[index])
        layers[source] -= 1
        layers[target] += 1
        changes = {"layers_per_stage": tuple(layers)}
        following = changed_by(scenario, changes) if layers[source] else None
        if following is None or min(_room(following)) <= min(room):
            return
        scenario, room = following, _room(following)
        yield changes, f"{moved} of the layers move from the fullest stages to emptier ones"


def _room(scenario: Scenario) -> list[float]:
    """Bytes that are left on a device of each stage, by the least that it holds."""
    least = least_bytes(scenario).tolist()
    return [scenario.segment(stage).accelerator.memory_bytes - held for stage, held in enumerate(least)]


def _degrees(scenario: Scenario) -> Iterator[tuple[Changes, str]]:
    """Share the same devices out otherwise; near is what moves few factors from one degree to another."""
    now = _degrees_of(scenario)

    def distance(degrees: tuple[int, ...]) -> float:
        return sum(abs(math.log2(new / old)) for old, new in zip(now.values(), degrees, strict=True))

    for degrees in sorted(_shared_out(scenario), key=lambda degrees: (distance(degrees), degrees)):
        changes = _with_degrees(scenario, dict(zip(DEGREES, degrees, strict=True)))
        if changes:
            yield changes, "the same devices share otherwise"


def _degrees_of(scenario: Scenario) -> dict[str, int]:
    return {name: getattr(scenario.plan, name) for name in DEGREES}


def _shared_out(scenario: Scenario) -> Iterator[tuple[int, ...]]:
    """Give the degrees of all plans with as many devices that the model and the workload may allow."""
    model, workload, number = scenario.model, scenario.workload, scenario.plan.num_devices
    experts = divisors(model.num_experts) if model.num_experts else [1]
    for tensor in divisors(math.gcd(number, model.num_attention_heads)):
        for pipeline in divisors(number // tensor, model.num_hidden_layers):
            for data in divisors(math.gcd(number // tensor // pipeline, workload.batch_size)):
                context = number // tensor // pipeline // data
                if context == 1 or workload.phase == "prefill":
                    yield from ((tensor, pipeline, data, context, expert) for expert in experts)


def _with_degrees(scenario: Scenario, degrees: Mapping[str, int]) -> Changes:
    """Change degrees, and whatever else in the plan means nothing with the new ones."""
    plan = scenario.plan
    changes: Changes = {name: new for name, new in degrees.items() if getattr(plan, name) != new}
    if "pipeline" in changes and plan.layers_per_stage is not None:
        changes["layers_per_stage"] = None
    meaningless: Changes = {"virtual_stages": 1} if degrees["pipeline"] == 1 else {}
    if degrees["tensor"] == 1:
        meaningless |= {"sequence_parallel": False, "overlap_chunks": 1}
    return changes | {name: value for name, value in meaningless.items() if getattr(plan, name) != value}


def _kv_cache(scenario: Scenario) -> Iterator[tuple[Changes, str]]:
    workload = scenario.workload
    if not workload.keep_kv_cache:
        return
    if DTYPE_BYTES[scenario.kv_dtype] > DTYPE_BYTES["fp8"]:
        yield {"kv_dtype": "fp8"}, "an element of the KV cache takes one byte; its accuracy is not modelled"
    if workload.phase == "prefill":
        yield {"keep_kv_cache": False}, "K and V are dropped, so that no decode can follow"


def _halved_batch(scenario: Scenario) -> Iterator[tuple[Changes, str]]:
    for shift in range(1, scenario.replica_batch.bit_length()):
        yield {"batch_size": (scenario.replica_batch >> shift) * scenario.plan.data}, _FEWER


def _weights(scenario: Scenario) -> Iterator[tuple[Changes, str]]:
    if scenario.model.quantization == "none" and scenario.workload.dtype is None:
        for quantization in ("fp8", "int4"):
            reason = f"weights in {quantization} take another checkpoint, whose accuracy is not modelled"
            yield {"quantization": quantization}, reason


def _devices(scenario: Scenario) -> Iterator[tuple[Changes, str]]:
    """Multiply one degree; experts are shared by more replicas too."""
    plan, cluster = scenario.plan, scenario.cluster
    for factor in _FACTORS:
        number = plan.num_devices * factor
        more: Changes = {} if number <= cluster.num_devices else {CLUSTER: number}
        if more and cluster.segments:
            return
        for name in ("tensor", "pipeline", "data", "context"):
            degrees = _degrees_of(scenario)
            degrees[name] *= factor
            experts = {degrees["expert"], degrees["expert"] * factor} if scenario.model.num_experts else {1}
            for expert in sorted(experts):
                changes = _with_degrees(scenario, {**degrees, "expert": expert})
                yield {**changes, **more}, f"{number} devices share instead of {plan.num_devices}"


def _schedule(scenario: Scenario) -> Iterator[tuple[Changes, str]]:
    if scenario.plan.schedule != "pipelined":
        yield {"schedule": "pipelined"}, "microbatches follow each other through the stages"


def _overlap(scenario: Scenario) -> Iterator[tuple[Changes, str]]:
    for chunks in _CHUNKS:
        if chunks != scenario.plan.overlap_chunks:
            yield {"overlap_chunks": chunks}, "collectives of one part run beside the matrices of the next"


def _scatter_gather(scenario: Scenario) -> Iterator[tuple[Changes, str]]:
    plan = scenario.plan
    if plan.pipeline > 1 and plan.tensor > 1 and not plan.scatter_gather:
        yield {"scatter_gather": True}, "each tensor rank sends its share of the hand-over only"


_KINDS: dict[str, Callable[[Scenario], Iterator[tuple[Changes, str]]]] = {
    "smaller microbatch": _smaller_microbatch,
    "sequence parallelism": _sequence_parallel,
    "layers": _layers,
    "degrees": _degrees,
    "KV cache": _kv_cache,
    "batch": _halved_batch,
    "weights": _weights,
    "devices": _devices,
    "microbatch": _microbatch,
    "schedule": _schedule,
    "overlap": _overlap,
    "hand-over": _scatter_gather,
}
SMALLER = tuple(_KINDS)[:8]
"""Kinds of changes that may make a scenario fit."""
FASTER = ("microbatch", "sequence parallelism", "degrees", "schedule", "overlap", "hand-over")
"""Kinds of changes that may make it faster, with the same work on the same devices."""
