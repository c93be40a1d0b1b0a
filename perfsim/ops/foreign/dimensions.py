"""Whether the shapes of a drawing agree: along edges, from input to output of each operator, and from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from perfsim.ops.foreign.drawing import Drawing, Finding, Node, fault, gap
from perfsim.ops.foreign.placement import placement_of
from perfsim.ops.foreign.roles import COMMUNICATION, COMPOSITE, LINEAR
from perfsim.ops.foreign.shapes import Shape, multiple, same
from perfsim.units import ranges

__all__ = ["dimension_findings"]

_KEEPING = {
    "norm": "a norm", "residual": "an addition", "softmax": "a softmax", "all_reduce": "an all-reduce",
    "send": "a transfer", "broadcast": "a broadcast", "shift": "a ring shift", "experts": "a mixture of experts",
    **dict.fromkeys(COMPOSITE, "a block with a residual around it"),
}  # fmt: skip
"""What gives the shape that it takes."""
_JOINING = {"gather", "all_gather"}


def dimension_findings(drawing: Drawing) -> Iterator[Finding]:
    """Say what is wrong with the shapes, and what keeps it from being told."""
    placement = placement_of(drawing)
    yield from map(fault, placement.faults)
    yield from map(gap, placement.gaps)
    for producer, consumer in dict.fromkeys(drawing.edges):
        yield from _edge(drawing, drawing.nodes[producer], drawing.nodes[consumer])
    for node in drawing:
        yield from _operator(node)
    yield from _ends(drawing)


def _edge(drawing: Drawing, producer: Node, consumer: Node) -> Iterator[Finding]:
    """One of the tensors that the producer gives is one that the consumer takes, on the same GPUs."""
    where = f"{producer.name} -> {consumer.name}"
    yield from _crossing(drawing, producer, consumer)
    if not producer.gives or not consumer.takes:
        silent = producer if not producer.gives else consumer
        yield gap(f"{where}: {silent.name} does not say what it {'gives' if silent is producer else 'takes'}")
        return
    found = {same(given, taken) for given, taken in product(producer.gives, consumer.takes)}
    if True in found or _is_part(drawing, producer, consumer):
        return
    given, taken = _texts(producer.gives), _texts(consumer.takes)
    if None in found:
        yield gap(f"{where}: whether {given} is {taken}")
    elif consumer.role not in _KEEPING and len(consumer.inputs) < len(set(drawing.producers[consumer.name])):
        yield gap(f"{where}: {given} is produced, of which {consumer.name} says nothing")
    else:
        yield fault(f"{where}: {given} is produced, {taken} taken")


def _texts(shapes: tuple[Shape, ...]) -> str:
    return " or ".join(dict.fromkeys(map(str, shapes)))


def _is_part(drawing: Drawing, producer: Node, consumer: Node) -> bool:
    """Whether a tensor goes on in parts: a split to each consumer, parts to what joins them, Q, K and V together."""
    for given, taken in product(producer.gives, consumer.takes):
        times = multiple(given.width, taken.width) or 0
        if producer.role == "split" and times == len(set(drawing.consumers[producer.name])):
            return True
        if producer.role == "qkv" and times == 3:  # noqa: PLR2004 - Q, K and V
            return True
        joined = multiple(taken.width, given.width) or 0
        if consumer.role in _JOINING and joined == len(set(drawing.producers[consumer.name])):
            return True
    return False


def _crossing(drawing: Drawing, producer: Node, consumer: Node) -> Iterator[Finding]:
    """A tensor gets to other GPUs by a communication only, and a communication reaches all that take its result."""
    held, runs = drawing.targets_of(producer), drawing.devices_of(consumer)
    if not held or not runs or {producer.role, consumer.role} & {"input", "output"}:
        return
    missing, moves = runs - held, consumer.role in COMMUNICATION
    if moves and not (runs & held) and producer.role not in COMMUNICATION:
        yield fault(f"{producer.name} -> {consumer.name}: runs on none of the GPUs that hold what it moves")
    elif missing and not moves:
        text = f"on GPU {ranges(held)}, taken on GPU {ranges(missing)} too, with no communication between"
        yield fault(f"{producer.name} -> {consumer.name}: produced {text}")


def _operator(node: Node) -> Iterator[Finding]:
    """What an operator gives follows from what it takes, by its role."""
    if node.role in {"input", "output"}:
        return
    silent = [word for word, shapes in (("takes", node.inputs), ("gives", node.outputs)) if not shapes]
    if silent:
        yield gap(f"{node.name}: does not say what it {' and '.join(silent)}")
        return
    hidden = [str(shape) for shape in (*node.inputs, *node.outputs) if "?" in str(shape)]
    if hidden:
        yield gap(f"{node.name}: leaves an axis open in {hidden[0]}")
    rule = _RULES.get(node.role, _keeps if node.role in _KEEPING else _keeps_rows if node.role in LINEAR else None)
    if rule is not None:
        yield from (fault(f"{node.name}: {text}") for text in rule(node))
    elif node.role == "" and not any(same(taken, given) for taken, given in product(node.inputs, node.outputs)):
        yield gap(f"{node.name}: does not say what makes {node.outputs[0]} of {node.inputs[0]}")


def _keeps(node: Node) -> Iterator[str]:
    """Every tensor that goes in comes out in the same shape; experts take routes beside it."""
    what = _KEEPING[node.role]
    wrong = [taken for taken in node.inputs if all(same(taken, given) is False for given in node.outputs)]
    if wrong and not (node.role == "experts" and len(wrong) < len(node.inputs)):
        hint = ""
        if node.role == "all_reduce" and (multiple(node.outputs[0].width, wrong[0].width) or 0) > 1:
            hint = "; joining shards is what an all-gather does, which adds nothing up"
        yield f"takes {wrong[0]} and gives {node.outputs[0]}, but {what} must not change the shape{hint}"


def _keeps_rows(node: Node) -> Iterator[str]:
    """A matrix changes the width of each token and nothing else."""
    taken, given = node.inputs[0], node.outputs[0]
    if node.role != "head" and multiple(taken.rows, given.rows) not in {1, None}:
        yield f"takes {taken} and gives {given}: a matrix changes the width only, not the tokens"


def _activation(node: Node) -> Iterator[str]:
    """An activation keeps the shape; a gated one may take gate and values side by side."""
    taken, given = node.inputs[0], node.outputs[0]
    halved = multiple(taken.rows, given.rows) in {1, None} and multiple(taken.width, given.width) == 2  # noqa: PLR2004
    if same(taken, given) is False and not halved:
        yield f"takes {taken} and gives {given}, but an activation must not change the shape"


def _attention(node: Node) -> Iterator[str]:
    """Attention gives one vector a query: as many heads as the queries have, or all of them side by side."""
    query = max(node.inputs, key=lambda shape: shape.width if isinstance(shape.width, int) else 0)
    given = node.outputs[0]
    if query.is_scores or given.is_scores:
        return
    if multiple(query.rows, given.rows) not in {1, None}:
        yield f"takes queries {query} and gives {given}: other tokens"
    elif query.heads is not None and given.heads is not None:
        if multiple(query.heads, given.heads) not in {1, None}:
            yield f"takes {query.heads} heads and gives {given.heads}"
    elif not any(multiple(shape.width, given.width) in {1, None} for shape in node.inputs) and (
        multiple(query.width, given.width) != 3  # noqa: PLR2004 - Q, K and V side by side
    ):
        yield f"takes queries {query} and gives {given}: another width"


def _score(node: Node) -> Iterator[str]:
    """Scores pair the tokens of each head."""
    taken, given = node.inputs[0], node.outputs[0]
    if not given.is_scores:
        yield f"gives {given}, but scores have an axis of queries and one of keys"
    elif taken.heads is not None and given.heads is not None and multiple(taken.heads, given.heads) not in {1, None}:
        yield f"takes {taken.heads} heads and gives {given.heads}"


def _widened(node: Node) -> Iterator[str]:
    """What joins shards, along the width or the tokens."""
    if all(multiple(node.outputs[0].size, taken.size) == 0 for taken in node.inputs):
        yield f"takes {node.inputs[0]} and gives {node.outputs[0]}, which is not made of whole shards"


def _narrowed(node: Node) -> Iterator[str]:
    """What gives shards, of the width or the tokens."""
    if all(multiple(node.inputs[0].size, given.size) == 0 for given in node.outputs):
        yield f"takes {node.inputs[0]} and gives {node.outputs[0]}, of which it is no whole number"


def _reshaped(node: Node) -> Iterator[str]:
    if multiple(node.inputs[0].size, node.outputs[0].size) not in {1, None}:
        yield f"takes {node.inputs[0]} and gives {node.outputs[0]}, which has another number of elements"


_RULES = {
    "activation": _activation, "attention": _attention, "score": _score, "gather": _widened, "all_gather": _widened,
    "split": _narrowed, "reduce_scatter": _narrowed, "reshape": _reshaped,
}  # fmt: skip


def _ends(drawing: Drawing) -> Iterator[Finding]:
    """Without an embedding and a head, what comes out of the model has the dimensions of what goes in."""
    roles = {node.role for node in drawing}
    given = [shape for node in drawing if node.role == "input" for shape in node.gives]
    taken = [shape for node in drawing if node.role == "output" for shape in node.takes]
    if roles & {"embedding", "head"} or not given or not taken:
        return
    found = same(given[0], taken[0])
    if found is not True:
        text = f"the model takes {given[0]} and gives {taken[0]}"
        yield fault(text) if found is False else gap(text)
