"""From a scenario to its operator graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from perfsim.errors import Faults
from perfsim.ops.graph import OperatorGraph
from perfsim.ops.layers import embedding_operators, head_operators, layer_operators, stage_placement
from perfsim.ops.nodes import Edge, Operator, Tensor
from perfsim.ops.operators import Collective, Nothing, Quantity, Transfer, Work
from perfsim.ops.slots import REPLICATED, SHARDED, LayerOperator, Precision, Sharding, Slot, Tokens, Weight
from perfsim.ops.structure_rules import pass_name
from perfsim.spec.scenario import Scenario

__all__ = ["operator_graph", "sharding_of", "sized_graph", "tokens_of"]

_Listed = list[tuple[LayerOperator, tuple[Tensor, ...]]]


def operator_graph(scenario: Scenario, microbatch_size: int | None = None) -> OperatorGraph:
    """Make the operator graph of a scenario; of a generation, that of its prefill.

    Parameters
    ----------
    scenario : Scenario
    microbatch_size : int, optional
        Sequences of the microbatch whose device shapes and work the graph carries; the scenario's when left out. The
        ragged last microbatch has a graph of its own, with the same operators in the same order.

    Returns
    -------
    OperatorGraph

    Raises
    ------
    InputError
        The microbatch size is not a whole number of at least 1.
    """
    size = scenario.microbatch_size if microbatch_size is None else microbatch_size
    faults = Faults()
    faults.integer("microbatch_size", size)
    faults.raise_if_any()
    return sized_graph(scenario, tokens_of(scenario, int(size), scenario.workload.sequence_length))


def tokens_of(
    scenario: Scenario, microbatch_size: Quantity, sequence_length: Quantity, *, decoding: Quantity | None = None
) -> Tokens:
    """Give the tokens of a microbatch on one context rank; sizes may be arrays.

    `decoding` says where one token of each sequence is computed; by the phase of the workload when left out.
    """
    workload, context = scenario.workload, scenario.plan.context
    if decoding is None:
        decoding = workload.phase == "decode"
    seen = sequence_length // context if context > 1 else sequence_length
    query = np.where(decoding, 1, seen) if np.ndim(decoding) else 1 if decoding else seen
    return Tokens(
        microbatch_size, query, seen, workload.causal, scenario.dtype, scenario.kv_dtype,
        workload.expert_imbalance, workload.expert_skew,
    )  # fmt: skip


def sharding_of(scenario: Scenario, stage: int) -> Sharding:
    """Say how the ranks of a stage share its layers; where groups differ, the widest spans."""
    plan = scenario.plan
    spans = {}
    for kind, size in (("tensor", plan.tensor), ("context", plan.context), ("expert", plan.expert)):
        found = {scenario.span(group) for group in scenario.group_devices(kind, stage)} if size > 1 else {(1,)}
        spans[kind] = max(found, key=lambda span: (len(span), span))
    return Sharding(
        Precision(*scenario.linear_precision), Precision(*scenario.attention_precision),
        Precision(*scenario.expert_precision),
        plan.tensor, plan.context, plan.expert, plan.sequence_parallel, plan.overlap_chunks,
        spans["tensor"], spans["context"], spans["expert"],
    )  # fmt: skip


def sized_graph(scenario: Scenario, tokens: Tokens) -> OperatorGraph:
    """Make the graph of a scenario for the given tokens.

    With arrays of sizes in `tokens`, the works of its operators and the device shapes of its tensors hold arrays: one
    graph then stands for many sizes.
    """
    return _Builder(scenario, tokens).build()


class _Builder:
    """Strings the operators of all stages together; `held` is the output that the next operator takes."""

    def __init__(self, scenario: Scenario, tokens: Tokens) -> None:
        self.scenario, self.tokens = scenario, tokens
        self.tensor = scenario.plan.tensor
        stages = range(scenario.plan.pipeline)
        self.devices = [tuple(scenario.stage_devices(stage)) for stage in stages]
        self.shardings = [sharding_of(scenario, stage) for stage in stages]
        # Layers of a kind on the same tiers are alike, down to the identity of their works: each is priced once.
        self.listed = {
            (sharding, kind): self._with_tensors(layer_operators(scenario.model, kind, tokens, sharding))
            for sharding in set(self.shardings)
            for kind in set(scenario.model.layers)
        }
        self.operators: list[Operator] = []
        self.outputs: dict[str, tuple[Tensor, ...]] = {}
        self.edges: list[Edge] = []

    def build(self) -> OperatorGraph:
        scenario, model, last = self.scenario, self.scenario.model, self.scenario.plan.pipeline - 1
        given = Slot("token_ids", 1, dtype="int32") if model.vocab_size else Slot("hidden", model.hidden_size)
        held = self._point("input", "input", 0, (), self._tensor(given))
        held = self._point("split", "split", 0, (held,), self._tensor(given))
        held = self._ends(embedding_operators(model, self.tokens, self.shardings[0]), 0, held)
        layers, num_passes = iter(enumerate(model.layers)), scenario.plan.num_passes
        for index, number in enumerate(scenario.layers_per_stage):
            stage = index % scenario.plan.pipeline
            for layer, kind in (next(layers) for _ in range(number)):
                listed = self.listed[self.shardings[stage], kind]
                held = self._string(listed, f"layer_{layer:02d}.", stage, held, layer)
            if index < num_passes - 1:
                held = self._hand_over(index, held)
        held = self._ends(head_operators(model, self.tokens, self.shardings[last]), last, held)
        result = self.outputs[held[0]][held[1]]
        held = self._point("gather", "gather", last, (held,), result)
        self._point("output", "output", last, (held,), None)
        resolved = dataclasses.replace(
            scenario.plan, microbatch_size=scenario.microbatch_size, layers_per_stage=scenario.layers_per_stage
        )
        workload = dataclasses.replace(scenario.workload, dtype=scenario.dtype, kv_dtype=scenario.kv_dtype)
        return OperatorGraph(tuple(self.operators), tuple(self.edges), model, resolved, workload)

    def _tensor(self, slot: Slot) -> Tensor:
        batch, query = self.scenario.workload.batch_size, self.tokens.query * self.scenario.plan.context
        shape = (batch, 1 if slot.last_only else query, slot.width)
        device_shape = slot.device_shape(self.tokens, self.tensor)
        return Tensor(slot.name, shape, device_shape, slot.placement, slot.dtype or self.tokens.dtype, slot.part)

    def _with_tensors(self, operators: Sequence[LayerOperator]) -> _Listed:
        return [(o, tuple(self._tensor(slot) for slot in o.outputs)) for o in operators]

    def _add(
        self,
        name: str,
        op: str,
        kind: str,
        stage: int,
        *,
        work: Work,
        inputs: tuple[tuple[str, int], ...],
        outputs: tuple[Tensor, ...],
        layer: int | None = None,
        weight: Weight | None = None,
        group: str | None = None,
    ) -> None:
        """Append an operator and the edges from where its inputs come."""
        tensors = tuple([self.outputs[producer][output] for producer, output in inputs])
        self.outputs[name] = outputs
        self.operators.append(
            Operator(name, op, kind, stage, layer, self.devices[stage], tensors, outputs, work, weight, group)
        )
        self.edges += [Edge(producer, output, name, i) for i, (producer, output) in enumerate(inputs)]

    def _point(
        self, name: str, kind: str, stage: int, inputs: tuple[tuple[str, int], ...], output: Tensor | None
    ) -> tuple[str, int]:
        """Append an operator without cost."""
        outputs = () if output is None else (output,)
        self._add(name, kind, kind, stage, work=Nothing(), inputs=inputs, outputs=outputs)
        return name, 0

    def _ends(self, operators: Sequence[LayerOperator], stage: int, held: tuple[str, int]) -> tuple[str, int]:
        """Append what stands before the first layer or after the last."""
        return self._string(self._with_tensors(operators), "", stage, held, None)

    def _string(
        self, listed: _Listed, prefix: str, stage: int, held: tuple[str, int], layer: int | None
    ) -> tuple[str, int]:
        """Append listed operators; what they take and do not make is what is held."""
        where: dict[str, tuple[str, int]] = {}
        for operator, outputs in listed:
            name = f"{prefix}{operator.op}"
            inputs = tuple([where.get(slot.name, held) for slot in operator.inputs])
            self._add(
                name, operator.op, operator.kind, stage, work=operator.work, inputs=inputs, outputs=outputs,
                layer=layer, weight=operator.weight, group=operator.group,
            )  # fmt: skip
            for i, slot in enumerate(operator.outputs):
                where[slot.name] = name, i
        return (f"{prefix}{listed[-1][0].op}", 0) if listed else held

    def _hand_over(self, index: int, held: tuple[str, int]) -> tuple[str, int]:
        """Send the hidden state to the stage of the next pass, whole or in shares that the receivers gather."""
        scenario, stages = self.scenario, self.scenario.plan.pipeline
        stage, following = index % stages, (index + 1) % stages
        shared = scenario.plan.scatter_gather and self.tensor > 1
        placement = SHARDED if shared else stage_placement(self.shardings[stage])
        wire = self._tensor(Slot("hidden", scenario.model.hidden_size, placement))
        pairs = zip(self.devices[stage], self.devices[following], strict=True)
        places = {(scenario.place_of(first), scenario.place_of(second)) for first, second in pairs}
        tier = max(scenario.cluster.tier_between(first, second) for first, second in places)
        send = f"{pass_name(index, stages)}.send"
        receive = f"{pass_name(index + 1, stages)}.receive"
        self._add(
            send, "send", "transfer", stage,
            work=Transfer(wire.device_bytes, tier), inputs=(held,), outputs=(wire,),
        )  # fmt: skip
        held = self._point(receive, "receive", following, ((send, 0),), wire)
        if not shared:
            return held
        gather = f"{pass_name(index + 1, stages)}.all_gather"
        hidden = self._tensor(Slot("hidden", scenario.model.hidden_size, REPLICATED))
        work = Collective("all_gather", hidden.device_bytes, self.shardings[following].tensor_span)
        self._add(
            gather, "all_gather", "collective", following, work=work, inputs=(held,), outputs=(hidden,), group="tensor"
        )
        return gather, 0
