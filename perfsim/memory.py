"""HOW BIG: weights, KV cache, buffers and activations, what operators allocate and free, and what fits on chip."""

from __future__ import annotations

from dataclasses import dataclass

from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import Operator
from perfsim.ops.operators import Quantity
from perfsim.spec.scenario import Scenario
from perfsim.units import DTYPE_BYTES

__all__ = ["Buffer", "Resident", "activation_buffers", "resident_memory", "tile_bytes", "working_set_bytes"]

_TILE = 128
"""Rows and columns of the output tile of a matrix multiplication; a common size in CUTLASS's kernels."""
_TILE_DEPTH = 64
_ATTENTION_TILE = 64
"""Queries and keys of a tile of fused attention; FlashAttention-2 takes 64 or 128."""
_IN_PLACE = ("all_reduce",)
"""Collectives whose result takes the place of their input."""


@dataclass(frozen=True)
class Resident:
    """What stays in the memory of each device of a stage from beginning to end, in bytes; each may be an array.

    Attributes
    ----------
    weights_bytes : int
    kv_cache_bytes : int
        K and V of all tokens of the replica's batch, where the workload keeps them; else 0.
    kv_cache_if_kept_bytes : int
        The same, whether it is kept or not.
    buffer_bytes : int
        Buffers in which hand-overs from the stage before arrive.
    reserve_bytes : int
        What driver context, communication library and framework keep.
    """

    weights_bytes: Quantity
    kv_cache_bytes: Quantity
    kv_cache_if_kept_bytes: Quantity
    buffer_bytes: Quantity
    reserve_bytes: Quantity

    @property
    def total_bytes(self) -> Quantity:
        """All together."""
        return self.weights_bytes + self.kv_cache_bytes + self.buffer_bytes + self.reserve_bytes


def resident_memory(
    scenario: Scenario, graph: OperatorGraph, cached_tokens: Quantity | None = None
) -> tuple[Resident, ...]:
    """Size what stays in memory, for a device of each stage.

    Parameters
    ----------
    scenario : Scenario
    graph : OperatorGraph
        Its tensors may hold arrays of sizes; the buffers then are arrays too.
    cached_tokens : int or array, optional
        Tokens in the KV cache of a replica; those of its whole batch when left out.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved")
    >>> stages = resident_memory(scenario, perfsim.operator_graph(scenario))
    >>> [stage.kv_cache_if_kept_bytes for stage in stages]
    [335544320000, 335544320000]
    """
    plan, model = scenario.plan, scenario.model
    element = DTYPE_BYTES[scenario.dtype]
    weights, buffers = [0] * plan.pipeline, [0] * plan.pipeline
    for operator in graph:
        if operator.weight is not None:
            weights[operator.stage] += operator.weight.device_count(plan.tensor) * element
        if operator.kind == "receive":
            buffers[operator.stage] += plan.receive_buffers * operator.outputs[0].device_bytes
    if cached_tokens is None:
        cached_tokens = scenario.replica_batch * scenario.workload.sequence_length
    token_bytes = 2 * model.kv_heads // plan.tensor * model.head_size * DTYPE_BYTES[scenario.kv_dtype]
    kept = [cached_tokens * token_bytes * layers for layers in scenario.layers_per_stage]
    return tuple(
        Resident(
            weights_bytes=weights[stage],
            kv_cache_bytes=kept[stage] if scenario.workload.keep_kv_cache else 0,
            kv_cache_if_kept_bytes=kept[stage],
            buffer_bytes=buffers[stage],
            reserve_bytes=scenario.cluster.reserve_bytes,
        )
        for stage in range(plan.pipeline)
    )


@dataclass(frozen=True)
class Buffer:
    """An activation of one microbatch on one device.

    Attributes
    ----------
    name : str
        The operator that makes it, and the tensor.
    stage : int
    bytes : int or array
    allocated_by : int
        Index in the graph of the operator at whose start it is allocated.
    users : tuple of int
        Indices of the operators that need it; it is freed when the last of them has ended.
    """

    name: str
    stage: int
    bytes: Quantity
    allocated_by: int
    users: tuple[int, ...]


def activation_buffers(graph: OperatorGraph) -> tuple[Buffer, ...]:
    """List the activations of one microbatch, with the operators between which each lives.

    An all-reduce works in place. The model input is there from its first use, the model output until it is made: both
    pass on to the host at once. What a stage receives lies in its receive buffers, which are resident.
    """
    index = {operator.name: i for i, operator in enumerate(graph)}
    users: dict[tuple[int, int], list[int]] = {}
    place: dict[tuple[int, int], tuple[int, int]] = {}
    for edge in graph.edges:
        producer, consumer = index[edge.producer], index[edge.consumer]
        source = place.get((producer, edge.output), (producer, edge.output))
        operator = graph.operators[consumer]
        users.setdefault(source, [])
        if _passes_on(operator):
            place[consumer, 0] = source
        if operator.kind not in _POINTS:
            users[source].append(consumer)
    buffers = []
    for (producer, output), consumers in users.items():
        operator = graph.operators[producer]
        if operator.kind in {"receive", "transfer"}:
            continue
        first = min(consumers) if operator.kind == "input" else producer
        tensor = operator.outputs[output]
        name = f"{operator.name}: {tensor.name}"
        buffers.append(Buffer(name, operator.stage, tensor.device_bytes, first, tuple({first, *consumers})))
    return tuple(sorted(buffers, key=lambda buffer: (buffer.allocated_by, buffer.name)))


_POINTS = ("input", "split", "receive", "gather", "output")


def _passes_on(operator: Operator) -> bool:
    """Whether the output of an operator is the memory of its input."""
    in_place = operator.kind == "collective" and getattr(operator.work, "op", "") in _IN_PLACE
    return in_place or (operator.kind in _POINTS and operator.kind != "receive")


def working_set_bytes(operator: Operator) -> int:
    """Bytes that one execution touches on one device: inputs, outputs and weight."""
    return int(operator.work.read_bytes + operator.work.written_bytes)


def tile_bytes(operator: Operator, head_size: int) -> int:
    """On-chip memory of one multiprocessor that a tile of the operator takes, 0 where it works element by element.

    A double-buffered 128 x 128 x 64 tile for a matrix multiplication; 64 queries and 64 keys and values of whole heads
    for attention; a whole row for a norm, which reads it twice.
    """
    element = max((DTYPE_BYTES[tensor.dtype] for tensor in operator.inputs), default=0)
    if operator.kind == "matmul":
        return 2 * 2 * _TILE * _TILE_DEPTH * element
    if operator.kind == "attention":
        return 3 * _ATTENTION_TILE * head_size * element
    if operator.kind == "elementwise" and getattr(operator.work, "op", "") == "layernorm":
        return operator.inputs[0].device_shape[-1] * element
    return 0
