"""What producer and consumer owe each other along an edge, and what each kind of operator makes of its inputs."""

from __future__ import annotations

from collections.abc import Callable

from perfsim.ops.layers import PARTIAL, REPLICATED, SHARDED
from perfsim.ops.nodes import Dag, Edge, Operator, Tensor
from perfsim.ops.operators import Attention, Collective, Elementwise, MatMul, Nothing, Transfer
from perfsim.units import DTYPE_BYTES

__all__ = ["edge_faults", "operator_faults"]


def edge_faults(edge: Edge, producer: Operator, consumer: Operator) -> list[str]:
    """Say how producer and consumer of an edge disagree."""
    where = f"{edge.producer} -> {edge.consumer}"
    if edge.output >= len(producer.outputs) or edge.input >= len(consumer.inputs):
        return [f"{where}: names output {edge.output} or input {edge.input}, which is not there"]
    given, taken = producer.outputs[edge.output], consumer.inputs[edge.input]
    faults = [
        f"{where}: {what} {_show(getattr(given, what))} is produced, {_show(getattr(taken, what))} taken"
        for what in ("name", "shape", "device_shape", "placement", "dtype")
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
    faults = [fault for tensor in tensors for fault in _tensor_faults(tensor, graph, device_sequences)]
    work = operator.work
    op = work.op if isinstance(work, Elementwise | Collective) else operator.kind
    inputs, outputs, rule = _RULES.get(op, (0, 0, None))
    if rule is None:
        faults.append(f"has the unknown kind {operator.kind}")
    elif len(operator.inputs) != inputs or (len(operator.outputs) != outputs and outputs is not None):
        found = f"{len(operator.inputs)} inputs and {len(operator.outputs)} outputs"
        faults.append(f"has {found}, {op} takes {inputs} and gives {outputs or 'some'}")
    elif not isinstance(work, Nothing) and operator.kind != work.kind:
        faults.append(f"is called {operator.kind}, but does the work of a {work.kind}")
    elif all(len(tensor.shape) == len(tensor.device_shape) == _AXES for tensor in tensors):
        faults += rule(operator, graph) + _work_faults(operator)
    return [f"{operator.name}: {fault}" for fault in faults]


def _tensor_faults(tensor: Tensor, graph: Dag, device_sequences: int) -> list[str]:
    """The whole shape is that of the workload; a device's share follows from it, the microbatch and the placement."""
    if len(tensor.shape) != len(tensor.device_shape) or len(tensor.shape) != _AXES:
        return [
            f"{tensor.name} has the shapes {list(tensor.shape)} and {list(tensor.device_shape)}, not three axes each"
        ]
    batch, query = graph.workload.batch_size, graph.workload.query_tokens
    if tensor.shape[:2] != (batch, query):
        found = f"{tensor.shape[0]} sequences of {tensor.shape[1]} tokens"
        return [f"{tensor.name} has {found}, the workload computes {batch} of {query}"]
    shares = graph.plan.tensor if tensor.placement == SHARDED else 1
    wanted = (device_sequences, query, tensor.shape[2] // shares)
    if tensor.device_shape != wanted:
        held = f"a device holds {list(wanted)}, not {list(tensor.device_shape)}"
        return [f"{tensor.name} {list(tensor.shape)} is {tensor.placement}, so {held}"]
    return []


def _work_faults(operator: Operator) -> list[str]:
    """The work that is priced is the work that the shapes ask for."""
    work = operator.work
    inputs, outputs = operator.inputs, operator.outputs
    wanted: dict[str, float] = {}
    if isinstance(work, MatMul):
        sequences, tokens, width = inputs[0].device_shape
        wanted = {"m": sequences * tokens, "k": width, "n": sum(tensor.device_shape[-1] for tensor in outputs)}
    elif isinstance(work, Attention):
        sequences, tokens, width = inputs[0].device_shape
        wanted = {"sequences": sequences, "query_tokens": tokens, "num_heads": width // work.head_dim}
        wanted["num_kv_heads"] = inputs[1].device_shape[-1] // work.head_dim
    elif isinstance(work, Elementwise):
        gain = 0 if operator.weight is None else operator.weight.count * DTYPE_BYTES[inputs[0].dtype]
        wanted = {"read_bytes": gain + sum(tensor.device_bytes for tensor in inputs)}
        wanted["written_bytes"] = outputs[0].device_bytes
    elif isinstance(work, Collective):
        wanted = {"payload_bytes": max(inputs[0].device_bytes, outputs[0].device_bytes)}
    elif isinstance(work, Transfer):
        wanted = {"payload_bytes": outputs[0].device_bytes}
    return [
        f"is priced with {name} = {getattr(work, name)}, its shapes ask for {value}"
        for name, value in wanted.items()
        if getattr(work, name) != value
    ]


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
    taken, gain = operator.inputs[0], operator.weight
    if taken.placement != REPLICATED:
        return [f"normalises over the whole width, but takes it {taken.placement}"]
    faults = _elementwise(operator, graph)
    if gain is None or gain.shape != (taken.shape[-1],):
        faults.append(f"has the gain {None if gain is None else list(gain.shape)} for a width of {taken.shape[-1]}")
    return faults


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


_AXES = 3

_Rule = Callable[[Operator, Dag], list[str]]
_RULES: dict[str, tuple[int, int | None, _Rule]] = {
    "input": (0, 1, _point),
    "split": (1, 1, _point),
    "receive": (1, 1, _point),
    "gather": (1, 1, _point),
    "output": (1, 0, _point),
    "layernorm": (1, 1, _norm),
    "gelu": (1, 1, _elementwise),
    "add": (2, 1, _elementwise),
    "matmul": (1, None, _matmul),
    "attention": (3, 1, _attention),
    "all_reduce": (1, 1, _all_reduce),
    "all_gather": (1, 1, _all_gather),
    "transfer": (1, 1, _transfer),
}
"""Inputs, outputs (None for any number) and rule of each kind; for kernels and collectives, of what they do."""
