"""Verification: the five claims that a deployment's DAG makes, each computed, each with its evidence.

The checks read shapes, placements and devices from the nodes and edges as they stand, not from the code that made
them, so a graph from a file or from somebody else is judged by the same rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfsim.ops.flop import closed_form_flop, device_flop
from perfsim.ops.layers import Tokens, layer_operators
from perfsim.ops.nodes import Dag
from perfsim.ops.shape_rules import edge_faults, operator_faults
from perfsim.ops.structure_rules import layer_faults, missing_points, strangers
from perfsim.units import format_count

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BALANCE_TOLERANCE", "Check", "VerificationReport", "verify_graph"]

BALANCE_TOLERANCE = 0.01
"""How far the busiest device's FLOP may lie above the mean."""

_SHOWN = 12


@dataclass(frozen=True)
class Check:
    """One claim.

    Attributes
    ----------
    name : str
        ``acyclic``, ``connected``, ``dimensions``, ``balance`` or ``structure``.
    claim : str
        In words.
    passed : bool
    evidence : str
        What was counted.
    faults : tuple of str
        What contradicts the claim, each naming its operator; empty where the claim holds.
    """

    name: str
    claim: str
    passed: bool
    evidence: str
    faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        mark = "pass" if self.passed else "FAIL"
        lines = [f"[{mark}] {self.claim}: {self.evidence}", *(f"       - {fault}" for fault in self.faults[:_SHOWN])]
        if len(self.faults) > _SHOWN:
            lines.append(f"       - and {len(self.faults) - _SHOWN} more")
        return "\n".join(lines)


@dataclass(frozen=True)
class VerificationReport:
    """The five checks of a graph; prints itself.

    Attributes
    ----------
    checks : tuple of Check
    """

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def __str__(self) -> str:
        held = sum(check.passed for check in self.checks)
        return "\n".join([f"Verification: {held} of {len(self.checks)} checks hold", *map(str, self.checks)])

    __repr__ = __str__

    def to_frame(self) -> pd.DataFrame:
        """Give the checks as a table, one row each."""
        import pandas as pd

        return pd.DataFrame([vars(check) for check in self.checks]).set_index("name")


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


def _check(name: str, claim: str, evidence: str, faults: list[str]) -> Check:
    return Check(name, claim, not faults, evidence, tuple(faults))


def _neighbours(graph: Dag, *, backwards: bool = False) -> dict[str, list[str]]:
    """Names of the consumers (or producers) of every operator; edges to unknown names are left to other checks."""
    after: dict[str, list[str]] = {operator.name: [] for operator in graph}
    for edge in graph.edges:
        start, end = (edge.consumer, edge.producer) if backwards else (edge.producer, edge.consumer)
        if start in after and end in after:
            after[start].append(end)
    return after


def _acyclic(graph: Dag) -> Check:
    """Peel off operators without open inputs (Kahn, 1962); what cannot be peeled off lies on or behind a cycle."""
    after, before = _neighbours(graph), _neighbours(graph, backwards=True)
    open_inputs = {name: len(producers) for name, producers in before.items()}
    ready = [name for name, count in open_inputs.items() if count == 0]
    peeled = 0
    while ready:
        peeled += 1
        for consumer in after[ready.pop()]:
            open_inputs[consumer] -= 1
            if open_inputs[consumer] == 0:
                ready.append(consumer)
    left = {name for name, count in open_inputs.items() if count > 0}
    faults = [f"cycle: {' -> '.join(_a_cycle(before, left))}"] if left else []
    found = "a cycle" if left else "no cycle"
    evidence = f"{len(graph.operators)} operators, {len(graph.edges)} edges, {found}"
    return _check("acyclic", "No cycles in the DAG", evidence, faults)


def _a_cycle(before: dict[str, list[str]], left: set[str]) -> list[str]:
    """Walk against the edges among operators that could not be peeled off until one comes again."""
    walk = [min(left)]
    while True:
        producer = next(name for name in before[walk[-1]] if name in left)
        if producer in walk:
            return [producer, *reversed(walk[walk.index(producer) :])]
        walk.append(producer)


def _reach(after: dict[str, list[str]], start: str) -> set[str]:
    seen, stack = {start}, [start]
    while stack:
        for name in after[stack.pop()]:
            if name not in seen:
                seen.add(name)
                stack.append(name)
    return seen


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
        reached = _reach(_neighbours(graph, backwards=backwards), ends[0])
        faults += [f"{operator.name}: {verb} the model {end}" for operator in graph if operator.name not in reached]
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
    return _check("connected", "All nodes properly connected", evidence, faults)


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
    if given != taken:
        faults.append(f"model output {taken} differs from model input {given}")
    shape = f"model input and output {list(given[0])}" if len(given) == 1 and given == taken else "see the faults"
    evidence = f"shapes, placements and devices compared along {len(graph.edges)} edges; {shape}"
    return _check("dimensions", "Input/output dimensions preserved", evidence, faults)


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
    return _check("balance", "GPU load balancing achieved", evidence, faults)


def _structure(graph: Dag) -> Check:
    """Layers have their operators, wired as they must be; stages hand over; parameters and FLOP are the model's."""
    model, plan = graph.model, graph.plan
    dtype = graph.workload.dtype or model.dtype
    tokens = Tokens(1, 1, 1, graph.workload.causal, dtype, graph.workload.kv_dtype or dtype)
    listed = layer_operators(model, tokens, plan.tensor, (plan.tensor,))
    faults = [fault for layer in range(model.num_hidden_layers) for fault in layer_faults(graph, layer, listed)]
    faults += strangers(graph) + missing_points(graph)
    parameters = sum(operator.weight.count for operator in graph if operator.weight is not None)
    if parameters != model.num_parameters:
        faults.append(f"the graph holds {parameters:,} parameters, the model {model.num_parameters:,}")
    flop, wanted = sum(device_flop(graph).values()), closed_form_flop(model, graph.workload)
    if abs(flop - wanted) > 1e-12 * wanted:
        faults.append(f"the graph computes {flop:.6e} FLOP, the model {wanted:.6e}")
    evidence = (
        f"{model.num_hidden_layers} layers of {len(listed)} operators; "
        f"{parameters:,} parameters and {flop:.4e} FLOP against the closed form"
    )
    return _check("structure", "Complete model structure maintained", evidence, faults)
