"""What producer and consumer owe each other along an edge, and what each kind of operator makes of its inputs."""

from __future__ import annotations

from collections.abc import Callable

from perfsim.ops.layers import PARTIAL, REPLICATED, SHARDED
from perfsim.ops.nodes import Dag, Edge, Operator, Tensor
from perfsim.ops.operators import Collective, Elementwise

__all__ = ["edge_faults", "operator_faults"]


def edge_faults(edge: Edge, producer: Operator, consumer: Operator) -> list[str]:
    """Say how producer and consumer of an edge disagree."""
    where = f"{edge.producer} -> {edge.consumer}"
    if edge.output >= len(producer.outputs) or edge.input >= len(consumer.inputs):
        return [f"{where}: names output {edge.output} or input {edge.input}, which is not there"]
    given, taken = producer.outputs[edge.output], consumer.inputs[edge.input]
    faults = [
        f"{where}: {what} {_show(getattr(given, what))} is produced, {_show(getattr(taken, what))} taken"
        for what in ("shape", "device_shape", "placement", "dtype")
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


def operator_faults(operator: Operator, graph: Dag) -> list[str]:
    """Say which rules of its kind an operator breaks."""
    faults = [fault for tensor in (*operator.inputs, *operator.outputs) for fault in _tensor_faults(tensor, graph)]
    work = operator.work
    rule = _RULES.get(work.op if isinstance(work, Elementwise | Collective) else operator.kind)
    if rule is None:
        faults.append(f"has the unknown kind {operator.kind}")
    elif len(operator.inputs) < _INPUTS.get(operator.kind, 1) or (not operator.outputs and operator.kind != "output"):
        faults.append(f"has {len(operator.inputs)} inputs and {len(operator.outputs)} outputs, too few")
    else:
        faults += rule(operator, graph)
    return [f"{operator.name}: {fault}" for fault in faults]


def _tensor_faults(tensor: Tensor, graph: Dag) -> list[str]:
    """A device's share follows from the whole shape, the microbatch and the placement."""
    shares = graph.plan.tensor if tensor.placement == SHARDED else 1
    rows = graph.plan.microbatch_size
    wanted = (rows, tensor.shape[1], tensor.shape[2] // shares)
    sequences = graph.workload.batch_size
    if tensor.shape[0] != sequences:
        return [f"{tensor.name} has {tensor.shape[0]} sequences, the workload {sequences}"]
    if tensor.device_shape[1:] != wanted[1:]:
        held = f"a device holds {list(wanted)}, not {list(tensor.device_shape)}"
        return [f"{tensor.name} {list(tensor.shape)} is {tensor.placement}, so {held}"]
    return []


def _same(operator: Operator, *, placement: bool = True) -> list[str]:
    """Output and inputs have the same shapes (and placements)."""
    out, faults = operator.outputs[0], []
    for tensor in operator.inputs:
        if tensor.shape != out.shape:
            faults.append(f"takes {list(tensor.shape)} and gives {list(out.shape)}, which must be the same")
        if placement and tensor.placement != out.placement:
            faults.append(f"takes {tensor.name} {tensor.placement} and gives {out.placement}")
    return faults


def _point(operator: Operator, _graph: Dag) -> list[str]:
    return _same(operator) if operator.inputs and operator.outputs else []


def _elementwise(operator: Operator, _graph: Dag) -> list[str]:
    partial = [tensor.name for tensor in operator.inputs if tensor.placement == PARTIAL]
    return _same(operator) + [
        f"takes the partial sums {name}, which an all-reduce must complete first" for name in partial
    ]


def _norm(operator: Operator, graph: Dag) -> list[str]:
    if operator.inputs[0].placement != REPLICATED:
        return [f"normalises over the whole width, but takes it {operator.inputs[0].placement}"]
    return _elementwise(operator, graph)


def _matmul(operator: Operator, graph: Dag) -> list[str]:
    taken, weight, tensor = operator.inputs[0], operator.weight, graph.plan.tensor
    if weight is None:
        return ["has no weight"]
    width = sum(output.shape[-1] for output in operator.outputs)
    faults = []
    if weight.shape != (taken.shape[-1], width):
        faults.append(f"has the weight {list(weight.shape)}, its input and outputs ask for {[taken.shape[-1], width]}")
    if weight.shard_axis == 1:
        faults += _expect(operator, REPLICATED, SHARDED, "column-parallel")
    elif weight.shard_axis == 0:
        faults += _expect(operator, SHARDED, PARTIAL if tensor > 1 else REPLICATED, "row-parallel")
    elif tensor > 1:
        faults.append("has a weight that no rank shares")
    return faults


def _expect(operator: Operator, taken: str, given: str, what: str) -> list[str]:
    """Inputs and outputs have the placements that the kind of parallelism asks for."""
    return [
        f"is {what} and {verb} {placement}, not {tensor.placement}"
        for tensors, verb, placement in (
            (operator.inputs, "takes its input", taken),
            (operator.outputs, "gives its output", given),
        )
        for tensor in tensors
        if tensor.placement != placement
    ]


def _attention(operator: Operator, graph: Dag) -> list[str]:
    model = graph.model
    q, k, v = operator.inputs[:3]
    faults = _expect(operator, SHARDED, SHARDED, "parallel over heads")
    wanted = (model.num_attention_heads * model.head_size, *[model.kv_heads * model.head_size] * 2)
    widths = (q.shape[-1], k.shape[-1], v.shape[-1])
    if widths != wanted:
        faults.append(f"takes Q, K and V of widths {list(widths)}, the heads ask for {list(wanted)}")
    if operator.outputs[0].shape != q.shape:
        faults.append(f"gives {list(operator.outputs[0].shape)}, Q is {list(q.shape)}")
    return faults


def _all_reduce(operator: Operator, _graph: Dag) -> list[str]:
    return _same(operator, placement=False) + _expect(operator, PARTIAL, REPLICATED, "an all-reduce")


def _all_gather(operator: Operator, _graph: Dag) -> list[str]:
    return _same(operator, placement=False) + _expect(operator, SHARDED, REPLICATED, "an all-gather")


def _transfer(operator: Operator, graph: Dag) -> list[str]:
    return _same(operator, placement=not graph.plan.scatter_gather)


_Rule = Callable[[Operator, Dag], list[str]]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("input", "split", "receive", "gather", "output"), _point),
    "layernorm": _norm,
    "gelu": _elementwise,
    "add": _elementwise,
    "matmul": _matmul,
    "attention": _attention,
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "transfer": _transfer,
}
_INPUTS = {"input": 0, "attention": 3}
