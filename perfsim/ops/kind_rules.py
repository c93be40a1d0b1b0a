"""What each kind of operator makes of its inputs."""

from __future__ import annotations

from collections.abc import Callable

from perfsim.ops.nodes import Dag, Operator, Tensor
from perfsim.ops.slots import PARTIAL, REPLICATED, ROUTED, SEQUENCE, SHARDED

__all__ = ["RULES"]

_COPIED_MATRICES = ("router", "qkv_down_proj")
"""Matrices that every tensor rank holds whole: they are small, and what they give is needed everywhere."""


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


def _slice(operator: Operator, _graph: Dag) -> list[str]:
    return _same(operator, placement=False) + _expect(operator, REPLICATED, SEQUENCE, "a slice")


def _last(operator: Operator, graph: Dag) -> list[str]:
    taken, given = operator.inputs[0], operator.outputs[0]
    wanted = (graph.workload.batch_size, 1, taken.shape[2])
    faults = _expect(operator, REPLICATED, REPLICATED, "the last token of each sequence")
    return faults if given.shape == wanted else [*faults, f"gives {list(given.shape)}, not {list(wanted)}"]


def _elementwise(operator: Operator, _graph: Dag) -> list[str]:
    return _same(operator) + _partial_sums(operator)


def _partial_sums(operator: Operator) -> list[str]:
    return [
        f"takes the partial sums {tensor.name}, which an all-reduce must complete first"
        for tensor in operator.inputs
        if tensor.placement == PARTIAL
    ]


def _add(operator: Operator, graph: Dag) -> list[str]:
    """Two tensors of one placement are added; sums of summands are summands. The second may come in parts."""
    first, *parts = operator.inputs
    faults = _same(operator) + _whole(parts)
    if operator.outputs[0].placement == PARTIAL and all(tensor.placement == PARTIAL for tensor in operator.inputs):
        return faults if graph.plan.tensor > 1 else [*faults, "adds partial sums on a single rank"]
    if first.placement == PARTIAL:
        return faults + _partial_sums(operator)
    return faults + [fault for fault in _partial_sums(operator) if fault not in faults]


def _whole(parts: list[Tensor]) -> list[str]:
    """Each tensor is whole, or followed by all other parts of its own."""
    found = [tensor.part for tensor in parts]
    left = found
    while left:
        number = left[0][1]
        if left[:number] != [(index, number) for index in range(number)]:
            return [f"takes the parts {found}, not each part once and in order"]
        left = left[number:]
    return []


def _norm(operator: Operator, graph: Dag) -> list[str]:
    """A norm takes the whole width of some tokens; of several tensors, each by itself, if it gives as many."""
    gain = operator.weight
    faults = [
        f"normalises over the whole width, but takes it {tensor.placement}"
        for tensor in operator.inputs
        if tensor.placement not in {REPLICATED, SEQUENCE}
    ]
    if faults:
        return faults
    faults = _each(operator) if len(operator.outputs) > 1 else _elementwise(operator, graph)
    faults += _whole(list(operator.inputs)) if len(operator.outputs) == 1 else []
    width = sum(tensor.shape[-1] for tensor in operator.outputs)
    if gain is None or gain.shape != (width,):
        faults.append(f"has the gain {None if gain is None else list(gain.shape)} for a width of {width}")
    return faults


def _each(operator: Operator, _graph: Dag | None = None) -> list[str]:
    """Output and input of each number are alike."""
    if len(operator.inputs) != len(operator.outputs):
        return [f"takes {len(operator.inputs)} tensors and gives {len(operator.outputs)}"]
    return [
        f"takes {taken.name} {list(taken.shape)} {taken.placement} and gives {list(given.shape)} {given.placement}"
        for taken, given in zip(operator.inputs, operator.outputs, strict=True)
        if (taken.shape, taken.placement, taken.device_shape) != (given.shape, given.placement, given.device_shape)
    ]


def _choose(operator: Operator, graph: Dag) -> list[str]:
    given, logits = operator.outputs[0], operator.inputs[0]
    faults = [] if given.placement == logits.placement else [f"takes {logits.placement} and gives {given.placement}"]
    if logits.shape[-1] != graph.model.num_experts or given.shape[-1] != graph.model.num_experts_per_token:
        faults.append(f"chooses {given.shape[-1]} of {logits.shape[-1]}, not as many experts as the model")
    return faults


def _embedding(operator: Operator, graph: Dag) -> list[str]:
    model, weight = graph.model, operator.weight
    given = PARTIAL if graph.plan.tensor > 1 else REPLICATED
    faults = _expect(operator, REPLICATED, given, "an embedding whose rows the ranks share")
    if weight is None or weight.shape != (model.vocab_size, model.hidden_size):
        faults.append(f"has no table of {model.vocab_size} x {model.hidden_size}")
    if operator.outputs[0].shape[-1] != model.hidden_size:
        faults.append(f"gives a width of {operator.outputs[0].shape[-1]}, not {model.hidden_size}")
    return faults


def _matmul(operator: Operator, graph: Dag) -> list[str]:
    taken, weight, tensor = operator.inputs[0], operator.weight, graph.plan.tensor
    if weight is None:
        return ["has no weight"]
    width = sum(output.shape[-1] for output in operator.outputs)
    faults = []
    if weight.shape != (taken.shape[-1], width):
        faults.append(f"has the weight {list(weight.shape)}, its input and outputs ask for {[taken.shape[-1], width]}")
    mine = (taken.device_shape[-1], sum(output.device_shape[-1] for output in operator.outputs))
    if (weight.device_shape or weight.shape) != mine:
        faults.append(f"holds {list(weight.device_shape or weight.shape)} of it, its shapes ask for {list(mine)}")
    if weight.shard_axis == 1:
        faults += _expect(operator, REPLICATED, SHARDED, "column-parallel")
    elif weight.shard_axis == 0:
        faults += _expect(operator, SHARDED, PARTIAL if tensor > 1 else REPLICATED, "row-parallel")
    elif operator.op in _COPIED_MATRICES:
        faults += _copied(operator)
    elif tensor > 1:
        faults.append("has a weight that no rank shares")
    return faults


def _copied(operator: Operator) -> list[str]:
    """A matrix that every rank holds gives what it takes, whole tokens."""
    taken = operator.inputs[0].placement
    if taken not in {REPLICATED, SEQUENCE}:
        return [f"is held whole by every rank and takes its input replicated, not {taken}"]
    return [f"takes {taken} and gives {tensor.placement}" for tensor in operator.outputs if tensor.placement != taken]


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
    heads = [tensor for tensor in (*operator.inputs, *operator.outputs) if tensor.name != "rotary_key_rotated"]
    faults = [f"is parallel over heads and has {t.name} sharded, not {t.placement}" for t in heads
              if t.placement != SHARDED]  # fmt: skip
    kind = graph.kind_of(operator)
    query = model.num_attention_heads * model.head_size_in(kind)
    keys = values = model.kv_heads_in(kind) * model.head_size_in(kind)
    size = model.head_size_in(kind)
    if model.is_latent:
        size = model.value_head_size
        keys, values = (model.num_attention_heads * width for width in (model.qk_nope_head_dim or 0, size))
        if len(operator.inputs) < 4:  # noqa: PLR2004  (Q, K, V and the rotary part of the keys)
            faults.append("takes no rotary part of the keys")
    wanted, widths = (query, keys, values), (q.shape[-1], k.shape[-1], v.shape[-1])
    if widths != wanted:
        faults.append(f"takes Q, K and V of widths {list(widths)}, the heads ask for {list(wanted)}")
    result = (*q.shape[:2], model.num_attention_heads * size)
    if operator.outputs[0].shape != result:
        faults.append(f"gives {list(operator.outputs[0].shape)}, its heads {list(result)}")
    return faults


def _experts(operator: Operator, graph: Dag) -> list[str]:
    taken, given, model, weight = operator.inputs[0], operator.outputs[0], graph.model, operator.weight
    faults = [] if taken.shape == given.shape else [f"takes {list(taken.shape)} and gives {list(given.shape)}"]
    faults += _routes(operator)
    sums = PARTIAL if graph.plan.tensor > 1 else REPLICATED
    wanted = {REPLICATED: sums, ROUTED: ROUTED}.get(taken.placement)
    if given.placement != wanted:
        faults.append(f"takes {taken.placement} and gives {given.placement}")
    shape = (model.num_experts, model.hidden_size, (3 if model.gated_mlp else 2) * model.moe_intermediate_size)
    if weight is None or weight.shape != shape:
        faults.append(f"holds no weights of the shape {list(shape)}")
    elif weight.device_shape is None or weight.device_shape[0] * graph.plan.expert != model.num_experts:
        faults.append(f"holds other experts than a share of {model.num_experts} over {graph.plan.expert} ranks")
    return faults


def _collective(taken: str | None, given: str, what: str) -> _Rule:
    def rule(operator: Operator, _graph: Dag) -> list[str]:
        faults = _same(operator, placement=False) + _same_part(operator)
        return faults if taken is None else faults + _expect(operator, taken, given, what)

    return rule


def _same_part(operator: Operator) -> list[str]:
    taken, given = operator.inputs[0].part, operator.outputs[0].part
    return [] if taken == given else [f"takes the part {taken} of the tokens and gives {given}"]


def _all_gather(operator: Operator, _graph: Dag) -> list[str]:
    faults = _same(operator, placement=False) + _same_part(operator)
    if operator.inputs[0].placement not in {SHARDED, SEQUENCE}:
        faults.append(f"is an all-gather and takes its input in shares, not {operator.inputs[0].placement}")
    if operator.outputs[0].placement != REPLICATED:
        faults.append(f"is an all-gather and gives its output {REPLICATED}, not {operator.outputs[0].placement}")
    return faults


def _transfer(operator: Operator, graph: Dag) -> list[str]:
    return _same(operator, placement=not graph.plan.scatter_gather)


def _dispatch(operator: Operator, graph: Dag) -> list[str]:
    placement = SEQUENCE if graph.plan.tensor > 1 else REPLICATED
    return _exchange(operator, placement, ROUTED)


def _combine(operator: Operator, graph: Dag) -> list[str]:
    return _exchange(operator, ROUTED, SEQUENCE if graph.plan.tensor > 1 else REPLICATED)


def _exchange(operator: Operator, taken: str, given: str) -> list[str]:
    first, out = operator.inputs[0], operator.outputs[0]
    faults = [] if first.shape == out.shape else [f"takes {list(first.shape)} and gives {list(out.shape)}"]
    if (first.placement, out.placement) != (taken, given):
        faults.append(f"takes {first.placement} and gives {out.placement}, not {taken} and {given}")
    return faults + _routes(operator)


def _routes(operator: Operator) -> list[str]:
    """Where tokens go is known for just the tokens that are there."""
    tokens, *chosen = operator.inputs
    return [
        f"takes {tokens.name} {tokens.placement} and {routes.name} {routes.placement}, which must be of the same tokens"
        for routes in chosen
        if (routes.placement, routes.device_shape[:2]) != (tokens.placement, tokens.device_shape[:2])
    ]


_Rule = Callable[[Operator, Dag], list[str]]
RULES: dict[str, tuple[tuple[int, ...], tuple[int, ...], _Rule]] = {
    "input": ((0,), (1,), _point),
    "split": ((1,), (1,), _point),
    "slice": ((1,), (1,), _slice),
    "last": ((1,), (1,), _last),
    "receive": ((1,), (1,), _point),
    "gather": ((1,), (1,), _point),
    "output": ((1,), (0,), _point),
    "layernorm": ((1, 0), (1,), _norm),
    "rmsnorm": ((1, 0), (1, 0), _norm),
    "gelu": ((1,), (1,), _elementwise),
    "silu": ((1,), (1,), _elementwise),
    "relu": ((1,), (1,), _elementwise),
    "gated": ((2,), (1,), _elementwise),
    "rotary": ((1, 0), (1, 0), _each),
    "topk": ((1, 2), (1,), _choose),
    "embedding": ((1,), (1,), _embedding),
    "add": ((2, 0), (1,), _add),
    "matmul": ((1,), (1, 0), _matmul),
    "attention": ((3, 4), (1,), _attention),
    "experts": ((1, 2), (1,), _experts),
    "dispatch": ((2,), (1,), _dispatch),
    "combine": ((1,), (1,), _combine),
    "all_reduce": ((1,), (1,), _collective(PARTIAL, REPLICATED, "an all-reduce")),
    "reduce_scatter": ((1,), (1,), _collective(PARTIAL, SEQUENCE, "a reduce-scatter")),
    "all_gather": ((1,), (1,), _all_gather),
    "ring_shift": ((2,), (2,), _each),
    "transfer": ((1,), (1,), _transfer),
}
"""Numbers of inputs and of outputs (a last 0: any number beyond the first), and the rule of each kind; for kernels and
collectives, of what they do."""
