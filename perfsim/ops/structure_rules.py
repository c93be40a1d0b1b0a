"""What a graph must have to be the whole model: layers, ends, points around and between stages, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from perfsim.ops.nodes import POINTS, Dag, Operator
from perfsim.ops.slots import LayerOperator
from perfsim.spec.plan import Plan

__all__ = ["chain_faults", "end_faults", "layer_faults", "missing_points", "pass_name", "strangers"]


def pass_name(index: int, num_stages: int) -> str:
    """Name one pass of a microbatch through one stage.

    Examples
    --------
    >>> [pass_name(index, 2) for index in range(4)]
    ['stage_0', 'stage_1', 'stage_0.pass_1', 'stage_1.pass_1']
    """
    again, stage = divmod(index, num_stages)
    return f"stage_{stage}.pass_{again}" if again else f"stage_{stage}"


def layer_faults(graph: Dag, layer: int, listed: Sequence[LayerOperator]) -> list[str]:
    """What a layer lacks, has too much of, or takes from the wrong place."""
    nodes = [operator for operator in graph if operator.layer == layer]
    return _faults(graph, f"layer {layer}", nodes, listed) if nodes else [f"layer {layer} is missing"]


def end_faults(graph: Dag, listed: Sequence[LayerOperator]) -> list[str]:
    """The same of what stands before the first layer and after the last."""
    nodes = [o for o in graph if o.layer is None and (o.kind in {"slice", "last"} or not _is_between(o))]
    return _faults(graph, "the ends of the model", nodes, listed)


def _is_between(operator: Operator) -> bool:
    """Whether an operator stands around or between the stages and is not one of the model's own."""
    return operator.kind in {*POINTS, "transfer"} or operator.op == "all_gather"


def _faults(graph: Dag, where: str, nodes: Sequence[Operator], listed: Sequence[LayerOperator]) -> list[str]:
    expected = Counter(operator.op for operator in listed)
    present, found = {operator.op: operator for operator in nodes}, Counter(operator.op for operator in nodes)
    faults = [f"{where}: {op} is missing" for op in expected - found]
    faults += [f"{where}: {op} is not one of its operators, or stands more than once" for op in found - expected]
    sources = {(edge.consumer, edge.input): (edge.producer, edge.output) for edge in graph.edges}
    given = {slot.name: (operator.op, i) for operator in listed for i, slot in enumerate(operator.outputs)}
    for operator in listed:
        node = present.get(operator.op)
        if node is None:
            continue
        if node.weight != operator.weight:
            faults.append(f"{node.name}: holds other parameters than the model")
        does = [(o.kind, getattr(o.work, "op", ""), o.group) for o in (node, operator)]
        if does[0] != does[1]:
            faults.append(f"{node.name}: is {_describe(*does[0])}, in the model {_describe(*does[1])}")
        if len(node.inputs) != len(operator.inputs):
            faults.append(f"{node.name}: takes {len(node.inputs)} tensors, in the model {len(operator.inputs)}")
        for i, slot in enumerate(operator.inputs):
            if slot.name in given and given[slot.name][0] in present:
                wanted = (present[given[slot.name][0]].name, given[slot.name][1])
                if sources.get((node.name, i), wanted) != wanted:
                    faults.append(
                        f"{node.name}: takes {slot.name} from {sources[node.name, i][0]}, not from {wanted[0]}"
                    )
    return faults


def _describe(kind: str, what: str, group: str | None) -> str:
    """Say what an operator does, and who carries it out together."""
    return f"{kind}{f' ({what})' if what else ''}{f' of {group} ranks' if group else ''}"


def chain_faults(
    graph: Dag, first: Sequence[LayerOperator], layers: Sequence[Sequence[LayerOperator]], last: Sequence[LayerOperator]
) -> list[str]:
    """Which parts of the model do not take what the part before them gives.

    Parameters
    ----------
    graph : Dag
    first, last : sequence of LayerOperator
        What stands before the first layer and after the last.
    layers : sequence of sequences of LayerOperator
        The operators of every layer.
    """
    sources = {(edge.consumer, edge.input): (edge.producer, edge.output) for edge in graph.edges}
    held, faults = None, []
    for takers, gives in _parts(graph, first, layers, last):
        for name, index in takers:
            source = sources.get((name, index))
            if held and source and source != (held, 0):
                faults.append(f"{name}: takes what {source[0]} gives, not {held}, which stands before it")
        held = gives
    return faults


def _parts(
    graph: Dag, first: Sequence[LayerOperator], layers: Sequence[Sequence[LayerOperator]], last: Sequence[LayerOperator]
) -> Iterator[tuple[list[tuple[str, int]], str | None]]:
    """The parts of the model in order: the inputs that take what is held, and who gives what the next part takes."""
    plan, names = graph.plan, {(operator.layer, operator.op): operator.name for operator in graph}

    def part(layer: int | None, listed: Sequence[LayerOperator]) -> tuple[list[tuple[str, int]], str | None]:
        made = {slot.name for operator in listed for slot in operator.outputs}
        takers = [(names.get((layer, operator.op), ""), i) for operator in listed
                  for i, slot in enumerate(operator.inputs) if slot.name not in made]  # fmt: skip
        return takers, names.get((layer, listed[-1].op))

    numbered = iter(enumerate(layers))
    yield from (([(name, 0)], name) for name in ("input", "split"))
    if first:
        yield part(None, first)
    for index, number in enumerate(plan.layers_per_stage or (len(layers),)):
        yield from (part(layer, listed) for layer, listed in islice(numbered, number))
        yield from (([(name, 0)], name) for name in _hand_over_points(plan, index))
    if last:
        yield part(None, last)
    yield from (([(name, 0)], name) for name in ("gather", "output"))


def _hand_over_points(plan: Plan, index: int) -> list[str]:
    """Names of the operators that hand over from one pass to the next, in order; none after the last."""
    if index >= plan.num_passes - 1:
        return []
    sender, receiver = pass_name(index, plan.pipeline), pass_name(index + 1, plan.pipeline)
    shared = plan.scatter_gather and plan.tensor > 1
    return [f"{sender}.send", f"{receiver}.receive", *([f"{receiver}.all_gather"] if shared else [])]


def strangers(graph: Dag, ends: Sequence[LayerOperator]) -> list[str]:
    """Operators that belong to no layer of the model and are none of the points and ends around the layers."""
    known, points = {operator.op for operator in ends}, _points(graph.plan)
    strangers = []
    for operator in graph:
        if operator.layer is not None and operator.layer >= graph.model.num_hidden_layers:
            strangers.append(f"{operator.name}: belongs to layer {operator.layer}, which the model does not have")
        elif operator.layer is None and operator.op not in known and operator.name not in points:
            strangers.append(f"{operator.name}: belongs to no layer")
    return strangers


def _points(plan: Plan) -> list[str]:
    """Names of the points around and between the stages."""
    between = [name for index in range(plan.num_passes) for name in _hand_over_points(plan, index)]
    return ["input", "split", *between, "gather", "output"]


def missing_points(graph: Dag) -> list[str]:
    """The points around and between the stages that are not there, and operators on a stage that is not theirs."""
    plan = graph.plan
    names = {operator.name for operator in graph}
    faults = [f"{name} is missing" for name in _points(plan) if name not in names]
    layers = enumerate(plan.layers_per_stage or ())
    stage_of = [index % plan.pipeline for index, number in layers for _ in range(number)]
    width = plan.stage_devices
    for operator in graph:
        stage = operator.stage
        if operator.layer is not None and operator.layer < len(stage_of) and stage != stage_of[operator.layer]:
            faults.append(f"{operator.name}: is on stage {stage}, its layer on stage {stage_of[operator.layer]}")
        if set(operator.devices) != set(range(stage * width, (stage + 1) * width)):
            faults.append(
                f"{operator.name}: runs on devices {list(operator.devices)}, "
                f"its stage on {stage * width} to {(stage + 1) * width - 1}"
            )
    return faults
