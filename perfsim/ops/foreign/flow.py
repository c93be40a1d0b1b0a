"""Whether a drawing goes from an input to an output, without circles and loose ends, and feeds every node."""

from __future__ import annotations

from collections.abc import Iterator

from perfsim.ops.foreign.drawing import Drawing, Finding, Node, fault
from perfsim.ops.foreign.roles import COMMUNICATION
from perfsim.ops.reachability import a_cycle, neighbours, reached

__all__ = ["connection_findings", "cycle_findings"]


def cycle_findings(drawing: Drawing) -> Iterator[Finding]:
    """Name a circle of operators, if there is one."""
    cycle = a_cycle(neighbours(drawing.nodes, drawing.edges))
    if cycle:
        yield fault(f"cycle: {' -> '.join(cycle)}")


def connection_findings(drawing: Drawing) -> Iterator[Finding]:
    """Every operator is reached from a model input, reaches a model output, and is fed all that it takes."""
    backwards = [(end, start) for start, end in drawing.edges]
    for roles, edges, feeds, end, verb in (
        ({"input", "embedding"}, drawing.edges, drawing.producers, "input", "is not reached from"),
        ({"output", "head"}, backwards, drawing.consumers, "output", "does not reach"),
    ):
        loose = [node for node in drawing if not feeds[node.name]]
        ends = [node.name for node in loose if node.role in roles] or [node.name for node in loose if len(loose) == 1]
        if not ends:
            yield fault(f"there is no model {end}: no node at that end is called so")
            continue
        found = reached(neighbours(drawing.nodes, edges), ends)
        yield from (fault(f"{name}: {verb} the model {end}") for name in drawing.nodes if name not in found)
    for node in drawing:
        yield from _unfed(drawing, node)


def _unfed(drawing: Drawing, node: Node) -> Iterator[Finding]:
    """A node takes as many tensors as come to it; an addition at least two."""
    producers = drawing.producers[node.name]
    if not producers:
        return
    taken, come = len(node.inputs), sum(_tensors(drawing, producer, node) for producer in producers)
    if node.role == "residual":
        taken = max(taken, 2)
    if come < taken:
        yield fault(f"{node.name}: takes {taken} tensors, but {come} come{'s' if come == 1 else ''} to it")


def _tensors(drawing: Drawing, producer: Node, consumer: Node) -> int:
    """Tensors that one edge may stand for: Q, K and V, or what each of several GPUs gives to a communication."""
    several = len(drawing.groups[producer.name]) if consumer.role in COMMUNICATION else 1
    given = 3 if producer.role == "qkv" else len(producer.gives)
    return max(given if consumer.role != "residual" else 1, several, 1)
