"""Matrix FLOP: of every device from the shapes of a graph, and of a workload in closed form from the model's sizes."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np

from perfsim.ops.nodes import Dag, Operator, Tensor
from perfsim.ops.operators import Quantity, attended_pairs
from perfsim.ops.slots import REPLICATED, ROUTED, SEQUENCE
from perfsim.spec.model import LayerKind, Model
from perfsim.spec.workload import Workload

__all__ = ["closed_form_flop", "device_flop", "matrix_flop", "useful_flop"]


def device_flop(graph: Dag) -> dict[int, float]:
    """Matrix FLOP of every device over one pass of the whole batch, counted from the shapes on the nodes.

    Parameters
    ----------
    graph : OperatorGraph

    Returns
    -------
    dict of int to float
    """
    flop: dict[int, float] = dict.fromkeys(range(graph.plan.num_devices), 0.0)
    for operator in graph:
        share = _flop_per_device(operator, graph)
        for device in operator.devices:
            flop[device] = flop.get(device, 0.0) + share
    return flop


def useful_flop(graph: Dag) -> float:
    """Matrix FLOP of all devices, without what ranks compute in copies: this is what the model asks for.

    Routers, latent projections, copied heads of K and V and the padding of a vocabulary are computed more than once.
    """
    return sum(
        _flop_per_device(operator, graph) * len(operator.devices) * _useful_share(operator, graph) for operator in graph
    )


def _useful_share(operator: Operator, graph: Dag) -> float:
    if operator.kind != "matmul" or not operator.inputs:
        return 1.0
    share = 1.0
    if operator.inputs[0].placement == REPLICATED:
        whole, mine = (
            sum(getattr(tensor, shape)[-1] for tensor in operator.outputs) for shape in ("shape", "device_shape")
        )
        share = whole / (mine * graph.plan.tensor) if mine else 1.0
    # Only one context rank has the last token of a sequence, of which the others make copies.
    return share / graph.plan.context if operator.layer is None else share


def _flop_per_device(operator: Operator, graph: Dag) -> float:
    if operator.kind not in {"matmul", "attention", "experts"} or not operator.inputs or not operator.outputs:
        return 0.0
    taken, given = operator.inputs[0], operator.outputs[0]
    if operator.kind == "matmul":
        columns = sum(tensor.device_shape[-1] for tensor in operator.outputs)
        return 2.0 * _rows(given, graph) * taken.device_shape[-1] * columns
    if operator.kind == "experts":
        pairs = _rows(taken, graph)
        if taken.placement != ROUTED:
            pairs *= graph.model.num_experts_per_token / graph.plan.expert
        columns = 0 if operator.weight is None else (operator.weight.device_shape or operator.weight.shape)[-1]
        return 2.0 * pairs * taken.device_shape[-1] * columns
    model, workload = graph.model, graph.workload
    context = workload.sequence_length // graph.plan.context
    window = graph.kind_of(operator).window
    query = 1 if workload.phase == "decode" else context
    pairs = attended_pairs(query, context, causal=workload.causal, window=window or 0)
    width = taken.device_shape[-1] + given.device_shape[-1]
    if model.is_latent and workload.query_tokens == 1:
        heads = given.device_shape[-1] // model.value_head_size
        width = heads * (2 * (model.kv_lora_rank or 0) + (model.qk_rope_head_dim or 0))
    return 2.0 * workload.batch_size / graph.plan.data * width * pairs


def _rows(tensor: Tensor, graph: Dag) -> float:
    """Tokens of one device over the whole batch; shares of tokens are counted without their padding."""
    whole = graph.workload.batch_size / graph.plan.data * tensor.shape[1]
    if tensor.placement == SEQUENCE:
        return whole / graph.plan.context / graph.plan.tensor
    if tensor.placement == ROUTED:
        return whole / graph.plan.context / graph.plan.tensor * graph.model.num_experts_per_token
    if tensor.shape[1] == 1:
        part = tensor.part
        return whole / part[1]
    index, parts = tensor.part
    tokens = tensor.shape[1] // graph.plan.context
    return whole / tensor.shape[1] * (tokens * (index + 1) // parts - tokens * index // parts)


def closed_form_flop(model: Model, workload: Workload) -> float:
    """Matrix FLOP of a workload from the model's sizes alone: two a weight and token, four a pair and head channel.

    Of a generation, all its steps together.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved")
    >>> f"{closed_form_flop(scenario.model, scenario.workload):.4e}"
    '2.9073e+17'
    """
    if workload.phase != "generation":
        return float(matrix_flop(model, workload, workload.batch_size, workload.sequence_length))
    one_pass = {phase: dataclasses.replace(workload, phase=phase, output_length=1) for phase in ("prefill", "decode")}
    contexts = workload.sequence_length + np.arange(1, workload.output_length)
    prefill = matrix_flop(model, one_pass["prefill"], workload.batch_size, workload.sequence_length)
    return float(prefill + np.sum(matrix_flop(model, one_pass["decode"], workload.batch_size, contexts)))


def matrix_flop(model: Model, workload: Workload, batch_size: Quantity, sequence_length: Quantity) -> Quantity:
    """Count as `closed_form_flop` does, with a batch and a sequence that may be arrays."""
    query = 1 if workload.phase == "decode" else sequence_length
    total: Quantity = 2 * batch_size * model.vocab_size * model.hidden_size
    for kind, number in Counter(model.layers).items():
        pairs = attended_pairs(query, sequence_length, causal=workload.causal, window=kind.window or 0)
        linear = 2 * query * _layer_weights(model, kind)
        total = total + number * batch_size * (linear + 2 * _attention_width(model, kind, query) * pairs)
    return total


def _attention_width(model: Model, kind: LayerKind, query: Quantity) -> Quantity:
    """Channels of both products of attention, of all heads; a single new token meets the latent vectors themselves."""
    if not model.is_latent:
        return 2 * model.num_attention_heads * model.head_size_in(kind)
    whole = model.num_attention_heads * (model.head_size + model.value_head_size)
    latent = model.num_attention_heads * (2 * (model.kv_lora_rank or 0) + (model.qk_rope_head_dim or 0))
    return np.where(np.equal(query, 1), latent, whole)


def _layer_weights(model: Model, kind: LayerKind) -> int:
    """Weights of the matrices that a token meets in one layer."""
    hidden, heads, matrices = model.hidden_size, model.num_attention_heads, 3 if model.gated_mlp else 2
    query = heads * model.head_size_in(kind)
    output = heads * model.value_head_size * hidden if model.is_latent else query * hidden
    if model.is_latent:
        rank, rope = model.kv_lora_rank or 0, model.qk_rope_head_dim or 0
        up = heads * ((model.qk_nope_head_dim or 0) + model.value_head_size)
        queries = model.q_lora_rank * (hidden + query) if model.q_lora_rank else hidden * query
        attention = queries + hidden * (rank + rope) + rank * up + output
    else:
        projections = 1 if model.attention_k_eq_v and not kind.window else 2
        attention = hidden * (query + projections * model.kv_heads_in(kind) * model.head_size_in(kind)) + output
    if not kind.experts:
        return attention + matrices * hidden * model.intermediate_size
    router = hidden * (model.num_experts + model.shared_expert_gate)
    width = model.num_experts_per_token * model.moe_intermediate_size + model.shared_expert_intermediate_size
    return attention + router + matrices * hidden * width
