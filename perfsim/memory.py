"""HOW BIG: weights, KV cache, buffers and activations, what operators allocate and free, and what fits on chip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import POINTS, Operator, Tensor
from perfsim.ops.operators import ELEMENT_BYTES, Elementwise, Experts, Quantity
from perfsim.spec.model import LayerKind, Model
from perfsim.spec.scenario import Scenario
from perfsim.units import DTYPE_BYTES

__all__ = [
    "Buffer",
    "Resident",
    "activation_buffers",
    "hidden_state",
    "kv_token_bytes",
    "resident_memory",
    "tile_bytes",
    "working_set_bytes",
]

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
    scenario: Scenario,
    graph: OperatorGraph,
    sequences: Quantity | None = None,
    context: Quantity | None = None,
) -> tuple[Resident, ...]:
    """Size what stays in memory, for a device of each stage.

    Tensor ranks share the heads of K and V as far as there are enough, and hold copies beyond; latent vectors all of
    them hold. Context ranks share the tokens. A layer with a window keeps no more tokens than that.

    Parameters
    ----------
    scenario : Scenario
    graph : OperatorGraph
        Its tensors may hold arrays of sizes; the buffers then are arrays too.
    sequences, context : int or array, optional
        Sequences in the KV cache of a replica, and tokens of each; those of the scenario when left out.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved")
    >>> stages = resident_memory(scenario, perfsim.operator_graph(scenario))
    >>> [stage.kv_cache_if_kept_bytes for stage in stages]
    [335544320000, 335544320000]
    """
    plan, model = scenario.plan, scenario.model
    weights, buffers = [0] * plan.pipeline, [0] * plan.pipeline
    for operator in graph:
        if operator.weight is not None:
            held = operator.weight.device_bias_bytes if _is_there_already(operator) else operator.weight.device_bytes
            weights[operator.stage] += held(scenario.dtype)
        if operator.kind == "receive":
            buffers[operator.stage] += _receive_buffers(scenario, operator.stage) * operator.outputs[0].device_bytes
    sequences = scenario.replica_batch if sequences is None else sequences
    context = scenario.workload.context_length if context is None else context
    kept: list[Quantity] = [0] * plan.pipeline
    layers = iter(model.layers)
    for index, number in enumerate(scenario.layers_per_stage):
        for kind in (next(layers) for _ in range(number)):
            tokens = context if kind.window is None else np.minimum(context, kind.window)
            token_bytes = kv_token_bytes(model, kind, plan.tensor, scenario.kv_dtype)
            stage = index % plan.pipeline
            kept[stage] = kept[stage] + sequences * -(-tokens // plan.context) * token_bytes
    return tuple(
        Resident(
            weights_bytes=weights[stage],
            kv_cache_bytes=kept[stage] if scenario.workload.keep_kv_cache else 0,
            kv_cache_if_kept_bytes=kept[stage],
            buffer_bytes=buffers[stage],
            reserve_bytes=scenario.segment(stage).reserve_bytes,
        )
        for stage in range(plan.pipeline)
    )


def kv_token_bytes(model: Model, kind: LayerKind, tensor: int, kv_dtype: str) -> int:
    """Bytes that one token leaves in one layer's cache on one tensor rank.

    Examples
    --------
    >>> import perfsim
    >>> model = perfsim.load_model("llm-16l-8192")
    >>> [kv_token_bytes(model, model.layers[0], tensor, "bf16") for tensor in (1, 16)]
    [32768, 2048]
    """
    if model.is_latent:
        return model.kv_cache_elements_in(kind) * DTYPE_BYTES[kv_dtype]
    return 2 * max(1, model.kv_heads_in(kind) // tensor) * model.head_size_in(kind) * DTYPE_BYTES[kv_dtype]


def _is_there_already(operator: Operator) -> bool:
    """Whether the matrix of an operator is that of another on the same stage: the embedding is on the first."""
    tied = operator.weight is not None and operator.weight.tied
    return tied and (operator.layer is not None or operator.stage == 0)


def _receive_buffers(scenario: Scenario, stage: int) -> int:
    """Buffers of a stage; the first one holds a round of microbatches that come back for their next pass."""
    plan = scenario.plan
    comes_back = plan.virtual_stages > 1 and stage == 0
    return max(plan.receive_buffers, plan.pipeline) if comes_back else plan.receive_buffers


def hidden_state(graph: OperatorGraph) -> Tensor:
    """The tensor that enters the first layer: what a microbatch is between the layers.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved")
    >>> hidden_state(perfsim.operator_graph(scenario)).shape
    (1024, 10000, 8192)
    """
    return next(operator for operator in graph if operator.layer is not None).inputs[0]


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

    An all-reduce works in place. Experts have a workspace for what stands between their two multiplications. The model
    input is there from its first use, the model output until it is made: both pass on to the host at once. What a stage
    receives lies in its receive buffers, which are resident.
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
        if operator.kind not in POINTS:
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
    for i, operator in enumerate(graph):
        if isinstance(operator.work, Experts):
            work = operator.work
            rows = np.ceil(work.pairs * work.imbalance) * work.expert_width * (work.matrices - 1)
            num_bytes = rows * ELEMENT_BYTES[operator.inputs[0].dtype]
            buffers.append(Buffer(f"{operator.name}: workspace", operator.stage, _whole(num_bytes), i, (i,)))
    return tuple(sorted(buffers, key=lambda buffer: (buffer.allocated_by, buffer.name)))


def _whole(num_bytes: Quantity) -> Quantity:
    return np.asarray(num_bytes).astype(np.int64) if np.ndim(num_bytes) else int(num_bytes)


def _passes_on(operator: Operator) -> bool:
    """Whether the output of an operator is the memory of its input."""
    in_place = operator.kind == "collective" and getattr(operator.work, "op", "") in _IN_PLACE
    return in_place or (operator.kind in POINTS and operator.kind != "receive")


def working_set_bytes(operator: Operator) -> int:
    """Bytes that one execution touches on one device: inputs, outputs and weight."""
    return int(operator.work.read_bytes + operator.work.written_bytes)


def tile_bytes(operator: Operator, head_size: int) -> int:
    """On-chip memory of one multiprocessor that a tile of the operator takes, 0 where it works element by element.

    A double-buffered 128 x 128 x 64 tile for a matrix multiplication; 64 queries and 64 keys and values of whole heads
    for attention; a whole row for a norm, which reads it twice.
    """
    element = int(max((ELEMENT_BYTES[tensor.dtype] for tensor in operator.inputs), default=0))
    if operator.kind in {"matmul", "experts"}:
        return 2 * 2 * _TILE * _TILE_DEPTH * element
    if operator.kind == "attention":
        return 3 * _ATTENTION_TILE * head_size * element
    if isinstance(operator.work, Elementwise) and operator.work.op in {"layernorm", "rmsnorm"}:
        return operator.inputs[0].device_shape[-1] * element
    return 0
