"""What producer and consumer owe each other along an edge, and what each kind of operator makes of its inputs."""

from __future__ import annotations

import math
from typing import Any

from perfsim.ops.kind_rules import RULES
from perfsim.ops.nodes import Dag, Edge, Operator, Tensor
from perfsim.ops.operators import (
    ELEMENT_BYTES,
    Attention,
    Collective,
    Elementwise,
    ExpertExchange,
    Experts,
    MatMul,
    Nothing,
    Transfer,
)
from perfsim.ops.slots import ROUTED, SHARDED, Slot, Tokens
from perfsim.spec.model import LayerKind

__all__ = ["edge_faults", "operator_faults"]


def edge_faults(edge: Edge, producer: Operator, consumer: Operator) -> list[str]:
    """Say how producer and consumer of an edge disagree."""
    where = f"{edge.producer} -> {edge.consumer}"
    if edge.output >= len(producer.outputs) or edge.input >= len(consumer.inputs):
        return [f"{where}: names output {edge.output} or input {edge.input}, which is not there"]
    given, taken = producer.outputs[edge.output], consumer.inputs[edge.input]
    faults = [
        f"{where}: {what} {_show(getattr(given, what))} is produced, {_show(getattr(taken, what))} taken"
        for what in ("name", "shape", "device_shape", "placement", "dtype", "part")
        if getattr(given, what) != getattr(taken, what)
    ]
    if producer.devices != consumer.devices and not (producer.kind == "transfer" and consumer.kind == "receive"):
        faults.append(f"{where}: produced on devices {_ranks(producer)}, taken on {_ranks(consumer)}")
    return faults


def _show(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _ranks(operator: Operator) -> str:
    devices = operator.devices
    return f"{devices[0]} to {devices[-1]}" if len(devices) > 1 else str(list(devices))


def operator_faults(operator: Operator, graph: Dag, device_sequences: int) -> list[str]:
    """Say which rules of its kind an operator breaks.

    Parameters
    ----------
    operator : Operator
    graph : OperatorGraph
    device_sequences : int
        Sequences of the microbatch whose shares the device shapes show.
    """
    tensors = (*operator.inputs, *operator.outputs)
    kind = graph.kind_of(operator)
    faults = [fault for tensor in tensors for fault in _tensor_faults(tensor, kind, graph, device_sequences)]
    work = operator.work
    op = work.op if isinstance(work, Elementwise | Collective | ExpertExchange) else operator.kind
    inputs, outputs, rule = RULES.get(op, ((0,), (0,), None))
    found = len(operator.inputs), len(operator.outputs)
    if rule is None:
        faults.append(f"has the unknown kind {operator.kind}")
    elif not all(_is_one_of(count, allowed) for count, allowed in zip(found, (inputs, outputs), strict=True)):
        faults.append(
            f"has {found[0]} inputs and {found[1]} outputs, {op} takes {_some(inputs)} and gives {_some(outputs)}"
        )
    elif not isinstance(work, Nothing) and operator.kind != ("collective" if operator.group else work.kind):
        faults.append(f"is called {operator.kind}, but does the work of a {work.kind}")
    elif all(len(tensor.shape) == len(tensor.device_shape) == _AXES for tensor in tensors):
        faults += rule(operator, graph) + _work_faults(operator, graph)
    return [f"{operator.name}: {fault}" for fault in faults]


def _is_one_of(count: int, allowed: tuple[int, ...]) -> bool:
    """Whether there are as many tensors as a kind allows; a last entry of 0 stands for any number beyond."""
    return count in allowed or (len(allowed) > 1 and allowed[-1] == 0 and count > allowed[0])


def _some(allowed: tuple[int, ...]) -> str:
    counts = [str(count) for count in allowed if count] or ["none"]
    return f"{counts[0]} or more" if len(allowed) > 1 and allowed[-1] == 0 else " or ".join(counts)


def _tensor_faults(tensor: Tensor, kind: LayerKind, graph: Dag, device_sequences: int) -> list[str]:
    """The whole shape is that of the workload; a device's share follows from it, the microbatch and the placement."""
    if len(tensor.shape) != len(tensor.device_shape) or len(tensor.shape) != _AXES:
        return [
            f"{tensor.name} has the shapes {list(tensor.shape)} and {list(tensor.device_shape)}, not three axes each"
        ]
    dtype = "int32" if tensor.name == "token_ids" else _dtype(graph)
    if tensor.dtype != dtype:
        return [f"{tensor.name} is of {tensor.dtype}, the workload computes in {dtype}"]
    batch, query = graph.workload.batch_size, graph.workload.query_tokens
    last_only = tensor.shape[1] == 1 and graph.model.vocab_size > 0
    if tensor.shape[0] != batch or (tensor.shape[1] != query and not last_only):
        found = f"{tensor.shape[0]} sequences of {tensor.shape[1]} tokens"
        return [f"{tensor.name} has {found}, the workload computes {batch} of {query}"]
    mine = query // graph.plan.context if query > 1 else query
    tokens = Tokens(device_sequences, mine, mine, causal=True, dtype=tensor.dtype, kv_dtype=tensor.dtype)
    copies = graph.model.num_experts_per_token if tensor.placement == ROUTED else 1
    width = _device_width(tensor, kind, graph)
    slot = Slot(tensor.name, tensor.shape[2], tensor.placement, width, tensor.part, last_only, copies)
    wanted = slot.device_shape(tokens, graph.plan.tensor)
    if tensor.device_shape != wanted:
        held = f"a device holds {list(wanted)}, not {list(tensor.device_shape)}"
        return [f"{tensor.name} {list(tensor.shape)} is {tensor.placement}, so {held}"]
    return []


def _dtype(graph: Dag) -> str:
    """Data type of activations."""
    return graph.workload.dtype or graph.model.dtype


def _device_width(tensor: Tensor, kind: LayerKind, graph: Dag) -> int:
    """Width that a rank holds: its share of heads, of which each rank has at least one, or of the padded vocabulary."""
    model, ranks, width = graph.model, graph.plan.tensor, tensor.shape[2]
    if tensor.placement != SHARDED:
        return width
    holds_heads = tensor.name.partition("_")[0] in {"k", "v"} and not model.is_latent
    if holds_heads and model.kv_heads_in(kind) < ranks:
        return model.head_size_in(kind)
    return -(-width // ranks)


def _work_faults(operator: Operator, graph: Dag) -> list[str]:
    """The work that is priced is the work that the shapes ask for, of as many ranks as the plan says."""
    faults = _span_faults(operator, graph) + _precision_faults(operator)
    return faults + [
        f"is priced with {name} = {getattr(operator.work, name)}, its shapes ask for {value}"
        for name, value in _asked(operator, graph).items()
        if getattr(operator.work, name) != value
    ]


def _span_faults(operator: Operator, graph: Dag) -> list[str]:
    """Members at each tier can make up the group: as many in every domain as in the fullest, or one in the others."""
    span = getattr(operator.work, "span", (1,))
    ranks = getattr(graph.plan, operator.group) if operator.group in _GROUPS else 1
    if 1 + sum(members - 1 for members in span) <= ranks <= math.prod(span):
        return []
    return [f"is priced for {' x '.join(map(str, span))} ranks, the plan has {ranks} in a group"]


def _precision_faults(operator: Operator) -> list[str]:
    """Weights are multiplied as they are stored, or unpacked to what activations are.

    Scales of whole tensors are static, those of blocks are computed; without quantisation there are none.
    """
    work, weight = operator.work, operator.weight
    if not isinstance(work, MatMul | Experts) or weight is None:
        return []
    dtype, read = operator.outputs[0].dtype, work.weight_dtype or work.dtype
    alike = read == weight.dtype if weight.dtype else ELEMENT_BYTES[read] == ELEMENT_BYTES[dtype]
    static = weight.dtype == work.dtype != "fp8_block"
    if isinstance(work, MatMul) and work.static_scales != static:
        return [f"multiplies in {work.dtype} and has {'' if work.static_scales else 'no '}static scales"]
    if alike and work.dtype in {read, dtype}:
        return []
    return [f"multiplies {read} weights in {work.dtype}, but holds {weight.dtype or dtype} ones and gives {dtype}"]


def _asked(operator: Operator, graph: Dag) -> dict[str, Any]:
    """What shapes ask of the work of an operator."""
    work, inputs, outputs = operator.work, operator.inputs, operator.outputs
    given = outputs[0].device_shape if outputs else (0, 0, 0)
    if isinstance(work, MatMul):
        columns = sum(tensor.device_shape[-1] for tensor in outputs)
        return {"m": given[0] * given[1], "k": inputs[0].device_shape[-1], "n": columns}
    if isinstance(work, Attention):
        return _attention_asked(operator, graph)
    if isinstance(work, Experts):
        return _experts_asked(inputs[0], graph)
    if isinstance(work, Elementwise):
        weight = operator.weight
        gain = 0 if weight is None else weight.device_bytes(outputs[0].dtype)
        read, written = (sum(tensor.device_bytes for tensor in tensors) for tensors in (inputs, outputs))
        if work.op == "embedding":  # of its tables only the rows that are asked for are read
            gain = written * (2 if graph.model.learned_positions else 1)
        return {"read_bytes": gain + read, "written_bytes": written}
    return _communication_asked(operator, graph)


def _communication_asked(operator: Operator, graph: Dag) -> dict[str, Any]:
    work, inputs, outputs = operator.work, operator.inputs, operator.outputs
    if isinstance(work, ExpertExchange):
        mine, model = inputs[0] if work.op == "dispatch" else outputs[0], graph.model
        experts = {"experts_per_token": model.num_experts_per_token, "num_experts": model.num_experts}
        sent = {"tokens": math.prod(mine.device_shape[:2]), "hidden_size": mine.device_shape[-1]}
        return {**experts, **sent, **({"dtype": mine.dtype} if work.op == "combine" else {})}
    if isinstance(work, Collective):
        moved = sum(tensor.device_bytes for tensor in outputs)
        return {"payload_bytes": moved if work.op == "ring_shift" else max(inputs[0].device_bytes, moved)}
    return {"payload_bytes": outputs[0].device_bytes} if isinstance(work, Transfer) else {}


def _experts_asked(taken: Tensor, graph: Dag) -> dict[str, Any]:
    rows, model, plan = math.prod(taken.device_shape[:2]), graph.model, graph.plan
    pairs = rows if taken.placement == ROUTED else rows * model.num_experts_per_token / plan.expert
    return {
        "pairs": pairs,
        "num_experts": model.num_experts // plan.expert,
        "hidden_size": taken.device_shape[-1],
        "expert_width": model.moe_intermediate_size // max(1, plan.tensor // plan.expert),
        "gated": model.gated_mlp,
        "skew": graph.workload.expert_skew,
        "imbalance": graph.workload.expert_imbalance,
    }


def _attention_asked(operator: Operator, graph: Dag) -> dict[str, Any]:
    """Heads by the widths of Q and of the result; latent attention in decode has one head of keys for all."""
    model, workload, (sequences, tokens, width) = graph.model, graph.workload, operator.inputs[0].device_shape
    dtype, latent = _dtype(graph), model.is_latent and workload.query_tokens == 1
    asked = {
        "sequences": sequences,
        "query_tokens": tokens,
        "context_tokens": workload.sequence_length // graph.plan.context,
        "num_heads": width // model.head_size_in(graph.kind_of(operator)),
        "causal": workload.causal,
        "dtype": dtype,
        "kv_dtype": workload.kv_dtype or dtype,
        "latent": latent,
    }
    if latent:
        rank = model.kv_lora_rank or 0
        return {**asked, "num_kv_heads": 1, "head_dim": rank + (model.qk_rope_head_dim or 0), "value_width": rank}
    kind = graph.kind_of(operator)
    size = model.value_head_size if model.is_latent else model.head_size_in(kind)
    asked["num_kv_heads"] = operator.inputs[2].device_shape[-1] // size
    return {**asked, "head_dim": model.head_size_in(kind), "value_width": size, "window": kind.window or 0}


_AXES = 3
_GROUPS = ("tensor", "context", "expert")
