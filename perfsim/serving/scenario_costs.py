"""What the steps of an engine take, by the operator lists and the cost formulas of a scenario.

Nothing is listed twice: the layers, the embedding and the head are those of `perfsim.ops.layers`, priced by
`perfsim.cost`. Only the tokens differ from a simulation of one pass: those of a step are of many sequences, so
attention is asked for by itself, and everything else for the tokens of the whole step.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.pricing import price
from perfsim.errors import Faults, InputError
from perfsim.memory import activation_buffers, kv_token_bytes, resident_memory
from perfsim.ops.build import operator_graph, sharding_of
from perfsim.ops.layers import attention_work, embedding_operators, head_operators, layer_operators
from perfsim.ops.operators import Attention, Elementwise, Transfer, Work
from perfsim.ops.slots import LayerOperator, Sharding, Tokens
from perfsim.spec.hardware import Cluster
from perfsim.spec.model import LayerKind
from perfsim.spec.scenario import Scenario
from perfsim.units import MAX_SIZE, format_bytes

__all__ = ["MEMORY_SHARE", "ScenarioCosts", "kv_blocks_of"]

Array = NDArray[np.float64]

MEMORY_SHARE = 0.9
"""Of the memory that an engine takes for weights, activations and the KV cache: vLLM's ``gpu_memory_utilization``."""


@dataclass(frozen=True)
class ScenarioCosts:
    """Step costs of one replica of a scenario; see `perfsim.serving.costs.StepCosts`.

    A plan's tensor and expert degrees count, its sequence parallelism and its chunks too. Replicas (`plan.data`) serve
    by themselves, unless they share experts: then they step together, each with its share of the tokens.

    Of pipeline stages, as many batches are on their way as there are stages: `lanes` of requests, each an engine of its
    own that takes every stage for its share of the time. A step is one batch's way through all stages.

    Attributes
    ----------
    scenario : Scenario
    elementwise_share : float
        See `perfsim.serving.engine_times.EngineTimes`.

    Raises
    ------
    InputError
        The plan has context ranks, virtual stages, or hand-overs in shares, which no schedule for serving has.

    Examples
    --------
    >>> import numpy as np
    >>> import perfsim
    >>> scenario = perfsim.Scenario(
    ...     perfsim.load_cluster("dgx-h100", num_devices=8), perfsim.load_model("llama-3.1-70b"),
    ...     perfsim.Plan(tensor=8), perfsim.Workload())
    >>> costs = ScenarioCosts(scenario)
    >>> bool(costs.linear_s(np.array([64.0]), prompts=False)[0] < costs.linear_s(np.array([8192.0]), prompts=True)[0])
    True
    """

    scenario: Scenario
    elementwise_share: float = 1.0

    def __post_init__(self) -> None:
        faults, plan = Faults("scenario.plan"), self.scenario.plan
        way_out = "use tensor, pipeline, expert and data parallelism"
        for name in ("context", "virtual_stages"):
            if getattr(plan, name) > 1:
                faults.add(name, getattr(plan, name), "must be 1 where requests are served", way_out)
        if plan.scatter_gather:
            faults.add("scatter_gather", True, "must be False where requests are served", way_out)
        faults.raise_if_any()

    @property
    def lanes(self) -> int:
        """Batches of a replica that are on their way through its stages at any time."""
        return self.scenario.plan.pipeline

    @property
    def ranks_in_step(self) -> int:
        """Replicas that step together because they share experts."""
        plan = self.scenario.plan
        return plan.data if plan.expert > plan.tensor else 1

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return self.scenario.model.num_hidden_layers

    @property
    def max_context_tokens(self) -> int:
        """Longest sequence that the model takes; without a limit of its own as many as can be counted."""
        return self.scenario.model.max_position_embeddings or MAX_SIZE

    def linear_s(self, tokens: Array, *, prompts: bool) -> Array:
        """All operators but attention and the logits, for so many tokens."""
        count = np.maximum(np.asarray(tokens, float) / self.ranks_in_step, 1.0)
        ones = np.ones_like(count)
        each = self._tokens(ones, count, count) if prompts else self._tokens(count, ones, ones)
        model, share = self.scenario.model, 1.0 if prompts else self.elementwise_share
        norm, _ = self._ends(each)
        first, last = self._stages[0], self._stages[-1]
        seconds = self._seconds(embedding_operators(model, each, first.sharding), count, first.cluster, share)
        seconds = seconds + self._seconds(norm, count, last.cluster, share)
        for stage in self._stages:
            for kind, number in stage.layers.items():
                operators = layer_operators(model, kind, each, stage.sharding)
                seconds = seconds + number * self._seconds(operators, count, stage.cluster, share)
        for transfer in self._transfers:
            hidden = dataclasses.replace(transfer, payload_bytes=transfer.payload_bytes * count)
            seconds = seconds + _price(hidden, first.cluster, count)
        return seconds

    def head_s(self, sequences: Array) -> Array:
        """Logits for so many sequences; the final norm before is of all tokens."""
        count = np.maximum(np.asarray(sequences, float) / self.ranks_in_step, 1.0)
        _, head = self._ends(self._tokens(count, np.ones_like(count), np.ones_like(count)))
        return self._seconds(head, count, self._stages[-1].cluster)

    def decode_attention_s(self, sequences: Array, context_tokens: Array) -> Array:
        """Attention of one new token of each sequence, all at their mean context."""
        sequences, context = np.broadcast_arrays(np.asarray(sequences, float), np.asarray(context_tokens, float))
        mine = np.maximum(sequences / self.ranks_in_step, 1.0)
        return self._attention_s(self._tokens(mine, np.ones_like(mine), np.maximum(context / sequences, 1.0)))

    def prefill_attention_s(self, new_tokens: Array, context_tokens: Array) -> Array:
        """Causal attention of a chunk of one prompt."""
        new, context = np.broadcast_arrays(np.asarray(new_tokens, float), np.asarray(context_tokens, float))
        return self._attention_s(self._tokens(np.ones_like(new), new, np.maximum(context, new)))

    @cached_property
    def _stages(self) -> tuple[_Stage, ...]:
        """Stages in their order, those in a row that are alike as one."""
        scenario, stages = self.scenario, list[_Stage]()
        for stage in range(scenario.plan.pipeline):
            layers = Counter(scenario.model.layers[layer] for layer in scenario.stage_layers(stage))
            cluster, sharding = scenario.segment(stage), sharding_of(scenario, stage)
            if stages and (stages[-1].cluster, stages[-1].sharding) == (cluster, sharding):
                stages[-1] = stages[-1]._replace(layers=stages[-1].layers + layers)
            else:
                stages.append(_Stage(cluster, sharding, layers))
        return tuple(stages)

    @cached_property
    def _transfers(self) -> tuple[Transfer, ...]:
        """Hand-overs between stages, of one token."""
        if self.scenario.plan.pipeline == 1:
            return ()
        tokens = self.scenario.plan.tensor  # divisible where ranks share the tokens
        works = (operator.work for operator in operator_graph(_one_step(self.scenario, tokens)))
        return tuple(
            dataclasses.replace(work, payload_bytes=work.payload_bytes / tokens)
            for work in works
            if isinstance(work, Transfer)
        )

    def _ends(self, tokens: Tokens) -> tuple[Sequence[LayerOperator], Sequence[LayerOperator]]:
        """Operators after the last layer: those of all tokens, and those of the last token of each sequence."""
        operators = head_operators(self.scenario.model, tokens, self._stages[-1].sharding)
        points = [index for index, operator in enumerate(operators) if operator.kind == "last"]
        first = points[0] if points else len(operators)
        return operators[:first], operators[first:]

    def _tokens(self, sequences: Array, query: Array, context: Array) -> Tokens:
        scenario, workload = self.scenario, self.scenario.workload
        return Tokens(
            sequences, query, context, True, scenario.dtype, scenario.kv_dtype,
            workload.expert_imbalance, workload.expert_skew,
        )  # fmt: skip

    def _attention_s(self, tokens: Tokens) -> Array:
        model, tensor = self.scenario.model, self.scenario.plan.tensor
        seconds = np.zeros_like(tokens.sequences)
        for stage in self._stages:
            for kind, number in stage.layers.items():
                work = attention_work(model, kind, tokens, tensor)
                seconds = seconds + number * _price(work, stage.cluster, tokens.sequences)
        return seconds

    def _seconds(
        self, operators: Sequence[LayerOperator], shape: Array, cluster: Cluster, elementwise_share: float = 1.0
    ) -> Array:
        """Add up all operators but attention, and of memory-bound ones the part that is left."""
        works = [operator.work for operator in operators if not isinstance(operator.work, Attention)]
        parts = (
            _price(work, cluster, shape) * (elementwise_share if isinstance(work, Elementwise) else 1.0)
            for work in works
        )
        return sum(parts, np.zeros_like(shape))


class _Stage(NamedTuple):
    """Layers on devices that are alike."""

    cluster: Cluster
    sharding: Sharding
    layers: Counter[LayerKind]


def _price(work: Work, cluster: Cluster, shape: Array) -> Array:
    return np.broadcast_to(np.asarray(price(work, cluster).seconds, float), shape.shape)


def _one_step(scenario: Scenario, tokens: int) -> Scenario:
    """The pass of one prompt through each replica."""
    return scenario.with_(
        phase="prefill", batch_size=scenario.plan.data, microbatch_size=1, sequence_length=tokens, output_length=1
    )


def kv_blocks_of(scenario: Scenario, token_budget: int, block_tokens: int) -> int:
    """Count the blocks of KV cache that fit beside weights and the activations of a full step, for each lane.

    Parameters
    ----------
    scenario : Scenario
    token_budget : int
        Most tokens of a step.
    block_tokens : int

    Raises
    ------
    InputError
        There is no room for a single block.
    """
    one_step = _one_step(scenario, token_budget)
    graph, model, plan = operator_graph(one_step), scenario.model, scenario.plan
    # At any time few activations of a layer live; twice the largest two bound what engines profile on a dummy step.
    largest = sorted((buffer.bytes for buffer in activation_buffers(graph)), reverse=True)[:2]
    found = []
    for stage, resident in enumerate(resident_memory(one_step, graph, sequences=0)):
        capacity = scenario.segment(stage).accelerator.memory_bytes
        free = MEMORY_SHARE * capacity - resident.total_bytes - 2 * sum(largest)
        token_bytes = sum(
            kv_token_bytes(model, model.layers[layer], plan.tensor, scenario.kv_dtype)
            for layer in scenario.stage_layers(stage)
        )
        found.append((free / (token_bytes * block_tokens), free, capacity, token_bytes))
    room, free, capacity, token_bytes = min(found)
    blocks = int(room // plan.pipeline)  # the batches on their way share the stages' memory
    if blocks < 1:
        raise InputError.of(
            "engine.kv_blocks", f"{format_bytes(max(free, 0))} of {format_bytes(capacity)}",
            f"must hold a block of {block_tokens} tokens, {format_bytes(token_bytes * block_tokens)}",
            "use more GPUs, a smaller token budget, or quantised weights or cache",
        )  # fmt: skip
    return blocks
