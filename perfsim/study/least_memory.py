"""A lower bound of the memory of a plan, from one layer of each kind: hopeless plans need no simulation."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.memory import kv_token_bytes
from perfsim.ops.build import tokens_of
from perfsim.ops.layers import embedding_operators, head_operators, layer_operators, stage_placement
from perfsim.ops.slots import SHARDED, LayerOperator, Precision, Sharding, Slot, Tokens
from perfsim.spec.model import LayerKind, Model
from perfsim.spec.scenario import Scenario

__all__ = ["LeastMemory", "is_hopeless", "least_bytes", "least_memory"]


class LeastMemory(NamedTuple):
    """Bytes that a device of each stage needs at least, as arrays over the stages.

    Attributes
    ----------
    weights_bytes, kv_cache_bytes, buffer_bytes, reserve_bytes : ndarray of float64
        As in the memory report, but without a head that is tied to the embedding, and with the buffers of one pass.
    touched_bytes : ndarray of float64
        Tensors that the largest operator of a layer touches.
    """

    weights_bytes: NDArray[np.float64]
    kv_cache_bytes: NDArray[np.float64]
    buffer_bytes: NDArray[np.float64]
    reserve_bytes: NDArray[np.float64]
    touched_bytes: NDArray[np.float64]


def least_memory(scenario: Scenario) -> LeastMemory:
    """Bound the memory of a plan from below.

    Of the activations there are only the tensors that one operator touches, because these live together whatever the
    timeline. So the peak of a simulation is never below the sum.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    LeastMemory
    """
    model, plan, workload = scenario.model, scenario.plan, scenario.workload
    sharding = _sharding(scenario)
    tokens = tokens_of(scenario, scenario.microbatch_size, workload.sequence_length)
    weights, kept, touched = np.zeros((3, plan.pipeline))
    weights[0] += _size(embedding_operators(model, tokens, sharding), tokens, sharding)[0]
    weights[-1] += _size(head_operators(model, tokens, sharding), tokens, sharding)[0]
    for stage, kinds in enumerate(_kinds_of_stages(scenario)):
        for kind, number in kinds.items():
            layer_weights, most = _layer_size(model, kind, tokens, sharding)
            weights[stage] += number * layer_weights
            if workload.keep_kv_cache:
                num_tokens = scenario.replica_batch * _tokens_kept(scenario, kind)
                kept[stage] += number * num_tokens * kv_token_bytes(model, kind, plan.tensor, scenario.kv_dtype)
            touched[stage] = max(touched[stage], most)
    received = Slot("hidden", model.hidden_size, SHARDED if plan.scatter_gather else stage_placement(sharding))
    buffers = np.full(plan.pipeline, plan.receive_buffers * received.num_bytes(tokens, plan.tensor), dtype=float)
    buffers[0] = 0  # nothing comes before the first stage
    reserve = np.array([scenario.segment(stage).reserve_bytes for stage in range(plan.pipeline)], dtype=float)
    return LeastMemory(weights, kept, buffers, reserve, touched)


def least_bytes(scenario: Scenario) -> NDArray[np.float64]:
    """Give bytes that a device of each stage needs at least, shape (stages,).

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved")
    >>> [round(stage / 1e9, 2) for stage in least_bytes(scenario).tolist()]
    [4.25, 4.58]
    """
    return np.sum(least_memory(scenario), axis=0)


def is_hopeless(scenario: Scenario) -> bool:
    """Whether a plan cannot fit, whatever a simulation would find."""
    capacity = [scenario.segment(stage).accelerator.memory_bytes for stage in range(scenario.plan.pipeline)]
    return bool((least_bytes(scenario) > capacity).any())


def _sharding(scenario: Scenario) -> Sharding:
    """How ranks share a layer, without the tiers that their groups span: these cost time to find, and no memory."""
    plan = scenario.plan
    return Sharding(
        Precision(*scenario.linear_precision), Precision(*scenario.attention_precision),
        Precision(*scenario.expert_precision),
        plan.tensor, plan.context, plan.expert, plan.sequence_parallel, plan.overlap_chunks,
    )  # fmt: skip


def _kinds_of_stages(scenario: Scenario) -> list[Counter[LayerKind]]:
    """How many layers of each kind a stage has, over all passes."""
    pipeline, stages = scenario.plan.pipeline, len(scenario.layers_per_stage)
    kinds: list[Counter[LayerKind]] = [Counter() for _ in range(pipeline)]
    layers = scenario.model.layers
    for index in range(stages):
        held = scenario.stage_layers(index)
        kinds[index % pipeline].update(layers[held.start : held.stop])
    return kinds


def _tokens_kept(scenario: Scenario, kind: LayerKind) -> int:
    """Tokens of one sequence that one context rank keeps in a layer."""
    kept = int(scenario.model.kv_cache_tokens(kind, scenario.workload.context_length))
    return -(-kept // scenario.plan.context)


@lru_cache(maxsize=256)
def _layer_size(model: Model, kind: LayerKind, tokens: Tokens, sharding: Sharding) -> tuple[int, int]:
    """Bytes of the weights of a layer, and of what its largest operator touches; many plans have the same layers."""
    return _size(layer_operators(model, kind, tokens, sharding), tokens, sharding)


def _size(operators: tuple[LayerOperator, ...], tokens: Tokens, sharding: Sharding) -> tuple[int, int]:
    """Bytes of the weights of some operators, and of the tensors of the largest one."""
    weights = sum(o.weight.device_bytes(tokens.dtype) for o in operators if o.weight is not None and not o.weight.tied)
    touched = 0
    for operator in operators:
        # Points have no memory of their own, an all-reduce works in place, and what enters the first layer of a stage
        # lies in its buffers.
        if operator.point or getattr(operator.work, "op", "") == "all_reduce":
            continue
        slots = {slot for slot in (*operator.inputs, *operator.outputs) if slot.name != "layer_input"}
        touched = max(touched, sum(slot.num_bytes(tokens, sharding.tensor) for slot in slots))
    return weights, int(touched)
