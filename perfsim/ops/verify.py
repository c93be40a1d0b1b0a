"""Verification: the five claims that a deployment's DAG makes, each computed, each with its evidence.

The checks read shapes, placements and devices from the nodes and edges as they stand, not from the code that made
them, so a graph from a file or from somebody else is judged by the same rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from perfsim.ops.checks import BALANCE_TOLERANCE, Check, VerificationReport, check_of
from perfsim.ops.flop import closed_form_flop, device_flop, useful_flop
from perfsim.ops.layers import embedding_operators, head_operators, layer_operators
from perfsim.ops.nodes import Dag
from perfsim.ops.reachability import a_cycle, neighbours, reached
from perfsim.ops.shape_rules import edge_faults, operator_faults
from perfsim.ops.slots import Precision, Sharding, Tokens
from perfsim.ops.structure_rules import chain_faults, end_faults, layer_faults, missing_points, strangers
from perfsim.units import format_count

__all__ = ["verify_graph"]


def verify_graph(graph: Dag) -> VerificationReport:
    """Compute the five checks on a graph.

    Parameters
    ----------
    graph : OperatorGraph

    Returns
    -------
    VerificationReport

    Examples
    --------
    >>> import perfsim
    >>> report = perfsim.operator_graph(perfsim.load_scenario("seed-improved")).verify()
    >>> report.passed
    True
    >>> report["acyclic"].evidence
    '198 operators, 261 edges, no cycle'
    """
    checks: tuple[Callable[[Dag], Check], ...] = (_acyclic, _connected, _dimensions, _balance, _structure)
    return VerificationReport(tuple(check(graph) for check in checks))


def _neighbours(graph: Dag, *, backwards: bool = False) -> dict[str, list[str]]:
    """Names of the consumers (or producers) of every operator; edges to unknown names are left to other checks."""
    ends = ((edge.producer, edge.consumer) for edge in graph.edges)
    names = (operator.name for operator in graph)
    return neighbours(names, ((end, start) for start, end in ends) if backwards else ends)


def _acyclic(graph: Dag) -> Check:
    cycle = a_cycle(_neighbours(graph))
    found = "a cycle" if cycle else "no cycle"
    evidence = f"{len(graph.operators)} operators, {len(graph.edges)} edges, {found}"
    return check_of("acyclic", evidence, [f"cycle: {' -> '.join(cycle)}"] if cycle else [])


def _connected(graph: Dag) -> Check:
    """Every operator is reached from the input and reaches the output; every input of an operator has one source."""
    faults = []
    names = Counter(operator.name for operator in graph)
    faults += [f"{name}: stands {count} times in the graph" for name, count in names.items() if count > 1]
    for end, kind, backwards, verb in (
        ("input", "input", False, "not reached from"),
        ("output", "output", True, "does not reach"),
    ):
        ends = [operator.name for operator in graph if operator.kind == kind]
        if len(ends) != 1:
            faults.append(f"the graph has {len(ends)} model {end}s instead of one")
            continue
        found = reached(_neighbours(graph, backwards=backwards), ends)
        faults += [f"{operator.name}: {verb} the model {end}" for operator in graph if operator.name not in found]
    sources = Counter((edge.consumer, edge.input) for edge in graph.edges)
    for edge in graph.edges:
        faults += [f"edge {edge.producer} -> {edge.consumer}: {end} is not an operator of the graph"
                   for end in (edge.producer, edge.consumer) if end not in names]  # fmt: skip
    for operator in graph:
        for index, tensor in enumerate(operator.inputs):
            if sources[operator.name, index] != 1:
                faults.append(
                    f"{operator.name}: input {tensor.name} has {sources[operator.name, index]} sources, not one"
                )
    evidence = f"{len(graph.operators)} operators between the model input and the model output"
    return check_of("connected", evidence, faults)


def _dimensions(graph: Dag) -> Check:
    """Producer and consumer agree on every edge, operators keep the rules of their kind, output and input are alike."""
    by_name = {operator.name: operator for operator in graph}
    faults = []
    for edge in graph.edges:
        if edge.producer in by_name and edge.consumer in by_name:
            faults += edge_faults(edge, by_name[edge.producer], by_name[edge.consumer])
    sequences = {tensor.device_shape[0] for o in graph if o.kind == "input" for tensor in o.outputs}
    for operator in graph:
        faults += operator_faults(operator, graph, min(sequences, default=0))
    given = [tensor.shape for operator in graph if operator.kind == "input" for tensor in operator.outputs]
    taken = [tensor.shape for operator in graph if operator.kind == "output" for tensor in operator.inputs]
    wanted = [(graph.workload.batch_size, 1, graph.model.vocab_size)] if graph.model.vocab_size else given
    if taken != wanted:
        faults.append(
            f"model output {taken} differs from {'the logits' if given != wanted else 'model input'} {wanted}"
        )
    shape = "see the faults"
    if len(given) == 1 and taken == wanted:
        kept = f"model input and output {list(given[0])}"
        shape = kept if given == wanted else f"token ids {list(given[0])[:2]}, logits {list(taken[0])}"
    evidence = f"shapes, placements and devices compared along {len(graph.edges)} edges; {shape}"
    return check_of("dimensions", evidence, faults)


def _balance(graph: Dag) -> Check:
    flop = device_flop(graph)
    mean = sum(flop.values()) / len(flop)
    ratio = max(flop.values()) / mean if mean else 0.0
    faults = []
    if ratio == 0 or ratio > 1 + BALANCE_TOLERANCE:
        faults = [
            f"device {device}: {format_count(work, 'FLOP')}, {work / mean if mean else 0:.3f} of the mean"
            for device, work in flop.items()
            if not mean or abs(work / mean - 1) > BALANCE_TOLERANCE
        ]
    evidence = f"max/mean FLOP per GPU {ratio:.4f} over {len(flop)} GPUs (tolerance {1 + BALANCE_TOLERANCE:g})"
    return check_of("balance", evidence, faults)


def _structure(graph: Dag) -> Check:
    """Layers have their operators, wired as they must be; stages hand over; parameters and FLOP are the model's."""
    model, workload = graph.model, graph.workload
    tokens, sharding = _reference(graph)
    listed = {kind: layer_operators(model, kind, tokens, sharding) for kind in set(model.layers)}
    first, last = embedding_operators(model, tokens, sharding), head_operators(model, tokens, sharding)
    ends = (*first, *last)
    faults = [fault for layer, kind in enumerate(model.layers) for fault in layer_faults(graph, layer, listed[kind])]
    faults += chain_faults(graph, first, [listed[kind] for kind in model.layers], last)
    faults += end_faults(graph, ends) + strangers(graph, ends) + missing_points(graph)
    weights = [operator.weight for operator in graph if operator.weight is not None]
    parameters = sum(weight.own_count for weight in weights)
    if parameters != model.num_parameters:
        faults.append(f"the graph holds {parameters:,} parameters, the model {model.num_parameters:,}")
    if workload.phase == "generation":  # the graph is that of its prefill
        workload = replace(workload, phase="prefill", output_length=1)
    flop, wanted = useful_flop(graph), closed_form_flop(model, workload)
    if abs(flop - wanted) > 1e-12 * wanted:
        faults.append(f"the graph computes {flop:.6e} FLOP, the model {wanted:.6e}")
    sizes = sorted({len(operators) for operators in listed.values()})
    evidence = (
        f"{model.num_hidden_layers} layers of {' or '.join(map(str, sizes))} operators; "
        f"{parameters:,} parameters and {flop:.4e} FLOP against the closed form"
    )
    return check_of("structure", evidence, faults)


def _reference(graph: Dag) -> tuple[Tokens, Sharding]:
    """What the lists of a sound graph are made with, as far as they do not depend on sizes."""
    plan, dtype = graph.plan, graph.workload.dtype or graph.model.dtype
    tokens = Tokens(1, 1, 1, graph.workload.causal, dtype, graph.workload.kv_dtype or dtype)
    held = {operator.op.partition(".")[0]: operator.weight.dtype for operator in graph if operator.weight is not None}
    linear, attention, experts = (
        Precision(dtype, next((held[op] for op in ops if op in held), None))
        for ops in (("mlp_down", "shared_down"), ("output_proj",), ("experts",))
    )
    return tokens, Sharding(
        linear, attention, experts, plan.tensor, plan.context, plan.expert, plan.sequence_parallel, plan.overlap_chunks,
        (plan.tensor,), (plan.context,), (plan.expert,),
    )  # fmt: skip
