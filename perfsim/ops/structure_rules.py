"""What a graph must have to be the whole model: layers, points around and between the stages, and nothing else."""

from __future__ import annotations

from collections import Counter

from perfsim.ops.layers import LayerOperator
from perfsim.ops.nodes import Dag

__all__ = ["layer_faults", "missing_points", "strangers"]


def layer_faults(graph: Dag, layer: int, listed: tuple[LayerOperator, ...]) -> list[str]:
    """What a layer lacks, has too much of, or takes from the wrong place."""
    expected = Counter(operator.op for operator in listed)
    present = {operator.op: operator for operator in graph if operator.layer == layer}
    found = Counter(operator.op for operator in graph if operator.layer == layer)
    if not found:
        return [f"layer {layer} is missing"]
    faults = [f"layer {layer}: {op} is missing" for op in expected - found]
    faults += [f"layer {layer}: {op} is not one of its operators, or stands more than once" for op in found - expected]
    sources = {(edge.consumer, edge.input): (edge.producer, edge.output) for edge in graph.edges}
    given = {slot.name: (operator.op, i) for operator in listed for i, slot in enumerate(operator.outputs)}
    for operator in listed:
        node = present.get(operator.op)
        if node is None:
            continue
        if node.weight != operator.weight:
            faults.append(f"{node.name}: holds other parameters than the model")
        for i, slot in enumerate(operator.inputs):
            if slot.name in given and given[slot.name][0] in present:
                wanted = (present[given[slot.name][0]].name, given[slot.name][1])
                if sources.get((node.name, i), wanted) != wanted:
                    faults.append(
                        f"{node.name}: takes {slot.name} from {sources[node.name, i][0]}, not from {wanted[0]}"
                    )
    return faults


def strangers(graph: Dag) -> list[str]:
    """Operators that belong to no layer of the model and are none of the points around the layers."""
    points = {"input", "split", "transfer", "receive", "gather", "output"}
    strangers = []
    for operator in graph:
        if operator.layer is not None and operator.layer >= graph.model.num_hidden_layers:
            strangers.append(f"{operator.name}: belongs to layer {operator.layer}, which the model does not have")
        elif operator.layer is None and operator.kind not in points and operator.op != "all_gather":
            strangers.append(f"{operator.name}: belongs to no layer")
    return strangers


def missing_points(graph: Dag) -> list[str]:
    """The points around and between the stages that are not there, and operators on a stage that is not theirs."""
    plan = graph.plan
    names = {operator.name for operator in graph}
    hand_overs = [n for s in range(plan.pipeline - 1) for n in (f"stage_{s}.send", f"stage_{s + 1}.receive")]
    if plan.scatter_gather and plan.tensor > 1:
        hand_overs += [f"stage_{s}.all_gather" for s in range(1, plan.pipeline)]
    faults = [f"{name} is missing" for name in ("input", "split", *hand_overs, "gather", "output") if name not in names]
    stage_of = [stage for stage, layers in enumerate(plan.layers_per_stage or ()) for _ in range(layers)]
    width = plan.tensor * plan.data
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
