"""From a scenario to its operator graph."""

from __future__ import annotations

import dataclasses

from perfsim.errors import Faults
from perfsim.ops.graph import OperatorGraph
from perfsim.ops.layers import REPLICATED, SHARDED, Slot, Tokens, Weight, layer_operators
from perfsim.ops.nodes import Edge, Operator, Tensor
from perfsim.ops.operators import Collective, Nothing, Quantity, Transfer, Work
from perfsim.spec.scenario import Scenario

__all__ = ["operator_graph", "sized_graph", "tokens_of"]


def operator_graph(scenario: Scenario, microbatch_size: int | None = None) -> OperatorGraph:
    """Make the operator graph of a scenario.

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


def tokens_of(scenario: Scenario, microbatch_size: Quantity, sequence_length: Quantity) -> Tokens:
    """Give the tokens of a microbatch; both sizes may be arrays."""
    workload = scenario.workload
    query = 1 if workload.phase == "decode" else sequence_length
    return Tokens(microbatch_size, query, sequence_length, workload.causal, scenario.dtype, scenario.kv_dtype)


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
        self.spans = [self._span(stage) for stage in stages]
        # Layers on the same tiers are alike, down to the identity of their works, so that each is priced once.
        listed = {span: layer_operators(scenario.model, tokens, self.tensor, span) for span in set(self.spans)}
        alike = {
            span: [(o, tuple(self._tensor(slot) for slot in o.outputs)) for o in operators]
            for span, operators in listed.items()
        }
        self.layers = [alike[span] for span in self.spans]
        self.operators: list[Operator] = []
        self.outputs: dict[str, tuple[Tensor, ...]] = {}
        self.edges: list[Edge] = []

    def build(self) -> OperatorGraph:
        scenario = self.scenario
        hidden = self._tensor(Slot("hidden", scenario.model.hidden_size))
        held = self._point("input", "input", 0, (), hidden)
        held = self._point("split", "split", 0, (held,), hidden)
        last = scenario.plan.pipeline - 1
        for stage in range(scenario.plan.pipeline):
            for layer in scenario.stage_layers(stage):
                held = self._layer(stage, layer, held)
            if stage < last:
                held = self._hand_over(stage, held, hidden)
        held = self._point("gather", "gather", last, (held,), hidden)
        self._point("output", "output", last, (held,), None)
        resolved = dataclasses.replace(
            scenario.plan, microbatch_size=scenario.microbatch_size, layers_per_stage=scenario.layers_per_stage
        )
        workload = dataclasses.replace(scenario.workload, dtype=scenario.dtype, kv_dtype=scenario.kv_dtype)
        return OperatorGraph(tuple(self.operators), tuple(self.edges), scenario.model, resolved, workload)

    def _span(self, stage: int) -> tuple[int, ...]:
        """Members of a stage's tensor groups at each network tier; where replicas differ, the widest."""
        spans = (
            self.scenario.cluster.span(self.scenario.tensor_group(stage, r)) for r in range(self.scenario.plan.data)
        )
        return max(set(spans), key=lambda span: (len(span), span))

    def _tensor(self, slot: Slot) -> Tensor:
        batch, query = self.scenario.workload.batch_size, self.tokens.query
        device_shape = (self.tokens.sequences, query, slot.device_width(self.tensor))
        return Tensor(slot.name, (batch, query, slot.width), device_shape, slot.placement, self.tokens.dtype)

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
    ) -> None:
        """Append an operator and the edges from where its inputs come."""
        tensors = tuple([self.outputs[producer][output] for producer, output in inputs])
        self.outputs[name] = outputs
        self.operators.append(
            Operator(name, op, kind, stage, layer, self.devices[stage], tensors, outputs, work, weight)
        )
        self.edges += [Edge(producer, output, name, i) for i, (producer, output) in enumerate(inputs)]

    def _point(
        self, name: str, kind: str, stage: int, inputs: tuple[tuple[str, int], ...], output: Tensor | None
    ) -> tuple[str, int]:
        """Append an operator without cost."""
        outputs = () if output is None else (output,)
        self._add(name, kind, kind, stage, work=Nothing(), inputs=inputs, outputs=outputs)
        return name, 0

    def _layer(self, stage: int, layer: int, held: tuple[str, int]) -> tuple[str, int]:
        where = {"layer_input": held}
        for listed, outputs in self.layers[stage]:
            name = f"layer_{layer:02d}.{listed.op}"
            inputs = tuple([where[slot.name] for slot in listed.inputs])
            self._add(
                name, listed.op, listed.work.kind, stage,
                work=listed.work, inputs=inputs, outputs=outputs, layer=layer, weight=listed.weight,
            )  # fmt: skip
            for i, slot in enumerate(listed.outputs):
                where[slot.name] = name, i
        return name, 0

    def _hand_over(self, stage: int, held: tuple[str, int], hidden: Tensor) -> tuple[str, int]:
        """Send the hidden state from a stage to the next, whole or in shares that the receivers gather."""
        scenario = self.scenario
        shared = scenario.plan.scatter_gather and self.tensor > 1
        wire = self._tensor(Slot("hidden", scenario.model.hidden_size, SHARDED if shared else REPLICATED))
        pairs = zip(self.devices[stage], self.devices[stage + 1], strict=True)
        tier = max(scenario.cluster.tier_between(first, second) for first, second in pairs)
        send, receive = f"stage_{stage}.send", f"stage_{stage + 1}.receive"
        self._add(
            send, "send", "transfer", stage,
            work=Transfer(wire.device_bytes, tier), inputs=(held,), outputs=(wire,),
        )  # fmt: skip
        held = self._point(receive, "receive", stage + 1, ((send, 0),), wire)
        if not shared:
            return held
        gather = f"stage_{stage + 1}.all_gather"
        work = Collective("all_gather", hidden.device_bytes, self.spans[stage + 1])
        self._add(gather, "all_gather", "collective", stage + 1, work=work, inputs=(held,), outputs=(hidden,))
        return gather, 0
