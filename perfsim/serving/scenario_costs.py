"""What the steps of an engine take, by the operator lists and the cost formulas of a scenario.

Nothing is listed twice: the layers, the embedding and the head are those of `perfsim.ops.layers`, priced by
`perfsim.cost`. Only the tokens differ from a simulation of one pass: those of a step are of many sequences, so
attention is asked for by itself, and everything else for the tokens of the whole step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.pricing import price
from perfsim.errors import Faults, InputError
from perfsim.memory import activation_buffers, kv_token_bytes, resident_memory
from perfsim.ops.build import operator_graph, sharding_of
from perfsim.ops.layers import attention_work, embedding_operators, head_operators, layer_operators
from perfsim.ops.operators import Attention, Work
from perfsim.ops.slots import LayerOperator, Sharding, Tokens
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

    Attributes
    ----------
    scenario : Scenario

    Raises
    ------
    InputError
        The plan has pipeline stages or context ranks, of which no schedule for serving is modelled.

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

    def __post_init__(self) -> None:
        faults = Faults("scenario.plan")
        for name in ("pipeline", "context"):
            value = getattr(self.scenario.plan, name)
            if value > 1:
                faults.add(
                    name, value, "must be 1 where requests are served", "use tensor, expert and data parallelism"
                )
        faults.raise_if_any()

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
        model, sharding = self.scenario.model, self._sharding
        norm, _ = self._ends(each)
        seconds = self._seconds((*embedding_operators(model, each, sharding), *norm), count)
        for kind, number in Counter(model.layers).items():
            seconds = seconds + number * self._seconds(layer_operators(model, kind, each, sharding), count)
        return seconds

    def head_s(self, sequences: Array) -> Array:
        """Logits for so many sequences; the final norm before is of all tokens."""
        count = np.maximum(np.asarray(sequences, float) / self.ranks_in_step, 1.0)
        _, head = self._ends(self._tokens(count, np.ones_like(count), np.ones_like(count)))
        return self._seconds(head, count)

    def decode_attention_s(self, sequences: Array, context_tokens: Array) -> Array:
        """Attention of one new token of each sequence, all at their mean context."""
        sequences, context = np.broadcast_arrays(np.asarray(sequences, float), np.asarray(context_tokens, float))
        mine = np.maximum(sequences / self.ranks_in_step, 1.0)
        return self._attention_s(self._tokens(mine, np.ones_like(mine), np.maximum(context / sequences, 1.0)))

    def prefill_attention_s(self, new_tokens: Array, context_tokens: Array) -> Array:
        """Causal attention of a chunk of one prompt."""
        new, context = np.broadcast_arrays(np.asarray(new_tokens, float), np.asarray(context_tokens, float))
        return self._attention_s(self._tokens(np.ones_like(new), new, np.maximum(context, new)))

    @property
    def _sharding(self) -> Sharding:
        return sharding_of(self.scenario, 0)

    def _ends(self, tokens: Tokens) -> tuple[Sequence[LayerOperator], Sequence[LayerOperator]]:
        """Operators after the last layer: those of all tokens, and those of the last token of each sequence."""
        operators = head_operators(self.scenario.model, tokens, self._sharding)
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
        return sum(
            (
                number * self._price(attention_work(model, kind, tokens, tensor), tokens.sequences)
                for kind, number in Counter(model.layers).items()
            ),
            np.zeros_like(tokens.sequences),
        )

    def _seconds(self, operators: Sequence[LayerOperator], shape: Array) -> Array:
        """Add up all operators but attention."""
        works = [operator.work for operator in operators if not isinstance(operator.work, Attention)]
        return sum((self._price(work, shape) for work in works), np.zeros_like(shape))

    def _price(self, work: Work, shape: Array) -> Array:
        return np.broadcast_to(np.asarray(price(work, self.scenario.segment(0)).seconds, float), shape.shape)


def kv_blocks_of(scenario: Scenario, token_budget: int, block_tokens: int) -> int:
    """Count the blocks of KV cache that fit on a device beside weights and the activations of a full step.

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
    one_step = scenario.with_(
        phase="prefill", batch_size=scenario.plan.data, microbatch_size=1, sequence_length=token_budget,
        output_length=1,
    )  # fmt: skip
    graph = operator_graph(one_step)
    (resident,) = resident_memory(one_step, graph, sequences=0)
    # At any time few activations of a layer live; twice the largest two bound what engines profile on a dummy step.
    largest = sorted((buffer.bytes for buffer in activation_buffers(graph)), reverse=True)[:2]
    capacity = scenario.segment(0).accelerator.memory_bytes
    free = MEMORY_SHARE * capacity - resident.total_bytes - 2 * sum(largest)
    model, plan = scenario.model, scenario.plan
    token_bytes = sum(
        number * kv_token_bytes(model, kind, plan.tensor, scenario.kv_dtype)
        for kind, number in Counter(model.layers).items()
    )
    blocks = int(free // (token_bytes * block_tokens))
    if blocks < 1:
        raise InputError.of(
            "engine.kv_blocks", f"{format_bytes(max(free, 0))} of {format_bytes(capacity)}",
            f"must hold a block of {block_tokens} tokens, {format_bytes(token_bytes * block_tokens)}",
            "use more GPUs, a smaller token budget, or quantised weights or cache",
        )  # fmt: skip
    return blocks
