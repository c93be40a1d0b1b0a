"""How GPUs share the tensors of a drawing: who holds whole vectors, who a shard, and who a summand.

Labels rarely say it. It follows from what is drawn: a split that narrows a tensor gives shards, a matrix whose sums
an all-reduce completes took shards, heads that are fewer than the hidden state has are a shard. What follows from
nothing stays open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from perfsim.ops.foreign.drawing import Drawing, Node
from perfsim.ops.foreign.roles import COLUMNS, LINEAR, PASSING, REDUCING, says
from perfsim.ops.foreign.shapes import Extent, Shape

__all__ = ["PARTIAL", "SHARD", "WHOLE", "Placement", "placement_of"]

WHOLE, SHARD, PARTIAL = "whole", "shard", "partial"


@dataclass
class Placement:
    """What is found, and what contradicts itself.

    Attributes
    ----------
    held : dict of str to str or None
        How GPUs hold what a node gives; None where it cannot be told.
    faults, gaps : list of str
        What is wrong, and what cannot be told.
    """

    held: dict[str, str | None] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)


def placement_of(drawing: Drawing) -> Placement:
    """Follow shards and partial sums through a drawing."""
    try:
        order = [
            *TopologicalSorter({name: {p.name for p in ps} for name, ps in drawing.producers.items()}).static_order()
        ]
    except CycleError:
        return Placement(gaps=["shards and partial sums cannot be followed round a cycle"])
    return _Follower(drawing, order).follow()


class _Follower:
    """Goes through the operators in order, then back from the sums to what must have been shared."""

    def __init__(self, drawing: Drawing, order: list[str]) -> None:
        self.drawing, self.order = drawing, order
        self.found = Placement()
        self.open: list[Node] = []

    def follow(self) -> Placement:
        for name in self.order:
            node = self.drawing.nodes[name]
            self.found.held[name] = self._held(node)
        self._resolve()
        for node in self.open:
            if self.found.held[node.name] is None:
                self.found.gaps.append(f"{node.name}: does not say how {len(self._ranks(node))} GPUs share its matrix")
        return self.found

    def _ranks(self, node: Node) -> frozenset[int]:
        return self.drawing.groups[node.name]

    def _fault(self, node: Node, text: str) -> None:
        self.found.faults.append(f"{node.name}: {text}")

    def _held(self, node: Node) -> str | None:
        """How what a node gives is held, by its role."""
        taken = self._taken(node)
        if self._adds_summands(node):
            return PARTIAL
        if node.role in LINEAR:
            return self._linear(node, taken)
        if node.role in {"split", "gather", "all_gather", "exchange"}:
            return self._moved(node, taken)
        if node.role in REDUCING or node.role == "input":
            return WHOLE
        if node.role in {"attention", "score", "value", *PASSING}:
            return taken
        return None

    def _taken(self, node: Node) -> str | None:
        """How what a node takes is held; None where its producers differ or nothing is known."""
        if node.device_inputs:
            return SHARD if _is_narrower(node.device_inputs, node.takes) else WHOLE
        found = {self.found.held[producer.name] for producer in self.drawing.producers[node.name]}
        found |= {SHARD} if found == {None} and any(map(self._looks_shared, node.takes)) else set()
        return next(iter(found - {None})) if len(found - {None}) == 1 else None

    def _looks_shared(self, shape: Shape) -> bool:
        """Whether a tensor is part of a hidden state: an axis of that name, narrower than the state."""
        hidden = self.drawing.hidden
        named = shape.text.rpartition(",")[2].partition("=")[0].strip().lower()
        narrow = isinstance(hidden, int) and isinstance(shape.width, int) and 1 < shape.width < hidden
        return narrow and named in {"hidden", "hidden_size", "d_model", "embed_dim"}

    def _moved(self, node: Node, taken: str | None) -> str | None:
        """What splits and gathers give: a narrower tensor is a shard, a wider one is whole again."""
        if node.device_inputs and node.device_outputs:
            return SHARD if _is_narrower(node.device_outputs, node.gives) else WHOLE
        widths = _widths(node)
        if widths is None or widths[0] == widths[1]:
            return taken
        return SHARD if widths[1] < widths[0] else WHOLE

    def _linear(self, node: Node, taken: str | None) -> str | None:
        """What a matrix gives, of one GPU or of several."""
        ranks = len(self._ranks(node))
        if ranks < 2:  # noqa: PLR2004
            return taken if taken == WHOLE else None
        if node.device_outputs:
            narrower = _is_narrower(node.device_outputs, node.gives)
            row = taken == SHARD and not narrower
            self._judge(node, taken, row=row, ranks=ranks)
            return PARTIAL if row else SHARD if narrower else WHOLE
        completes = node.role == "linear" and taken == SHARD and _width(node.gives) == self.drawing.hidden
        row = says(node.title, "row") or node.role in {"out_proj", "down"} or self._is_summed(node) or completes
        column = not row and (says(node.title, "column") or node.role in COLUMNS)
        self._judge(node, taken, row=row, ranks=ranks)
        if row and (taken == SHARD or self._is_summed(node) or says(node.title, "row")):
            return PARTIAL
        if column and (says(node.title, "column") or self._has_few_heads(node, ranks)):
            return SHARD
        if node.role not in {"router", "head"}:
            self.open.append(node)
        return None

    def _judge(self, node: Node, taken: str | None, *, row: bool, ranks: int) -> None:
        """A column-parallel matrix takes whole vectors; a row-parallel one takes shards and gives whole summands."""
        width, hidden = _width(node.takes), self.drawing.hidden
        if says(node.title, "column") and says(node.title, "row"):
            self._fault(node, "is called column-parallel and row-parallel at once")
        elif not row and taken == SHARD:
            what = "column-parallel" if node.role in COLUMNS or says(node.title, "column") else "shared by its columns"
            self._fault(
                node, f"is {what} over {ranks} GPUs, but its input is sharded ({width} of {hidden}): it must take the "
                "whole vector",
            )  # fmt: skip
        elif row and taken == WHOLE and self._is_summed(node):
            self._fault(
                node, f"takes whole vectors on {ranks} GPUs, whose results an all-reduce then adds {ranks} times"
            )
        elif row and says(node.title, "row") and taken == WHOLE:
            self._fault(node, "is row-parallel, but its input is not sharded")
        given = _width(node.gives)
        if row and taken == SHARD and isinstance(given, int) and isinstance(hidden, int) and given < hidden:
            self._fault(
                node, f"is row-parallel over {ranks} GPUs, but gives a width of {given}: its partial sums are of the "
                f"whole width of {hidden}",
            )  # fmt: skip

    def _is_summed(self, node: Node) -> bool:
        consumers = self.drawing.consumers[node.name]
        return bool(consumers) and all(consumer.role in REDUCING for consumer in consumers)

    def _has_few_heads(self, node: Node, ranks: int) -> bool:
        """Whether a GPU has its share of the heads: as many as there are times the GPUs make up the hidden state."""
        width = _width(node.gives)
        return isinstance(width, int) and width * ranks == self.drawing.hidden

    def _adds_summands(self, node: Node) -> bool:
        """Whether a node adds summands to summands; any other use of partial sums before an all-reduce is a fault."""
        producers = self.drawing.producers[node.name]
        partial = [producer for producer in producers if self.found.held.get(producer.name) == PARTIAL]
        if not partial or node.role in REDUCING:
            return False
        if node.role == "residual" and all(self.found.held[producer.name] in {PARTIAL, None} for producer in producers):
            return True
        for producer in partial:
            self._fault(node, f"takes the partial sums of {producer.name}, which an all-reduce must complete first")
        return False

    def _resolve(self) -> None:
        """What a row-parallel matrix takes was shared by the columns of the matrix before it."""
        for node in self.open:
            if any(map(self._wants_shards, self.drawing.consumers[node.name])):
                self.found.held[node.name] = SHARD

    def _wants_shards(self, node: Node) -> bool:
        """Whether a node is a row-parallel matrix, or leads to one with nothing but its own token's numbers between."""
        if node.role in LINEAR:
            return self.found.held[node.name] == PARTIAL
        between = node.role in {"attention", "score", "value", "activation", "softmax", "rotary", "reshape"}
        return between and any(map(self._wants_shards, self.drawing.consumers[node.name]))


def _width(shapes: tuple[Shape, ...]) -> Extent | None:
    """The largest width among shapes, where all are numbers."""
    widths = [shape.width for shape in shapes]
    numbers = [width for width in widths if isinstance(width, int)]
    return max(numbers) if numbers and len(numbers) == len(widths) else None


def _widths(node: Node) -> tuple[int, int] | None:
    taken, given = _width(node.takes), _width(node.gives)
    return (taken, given) if isinstance(taken, int) and isinstance(given, int) else None


def _is_narrower(mine: tuple[Shape, ...], whole: tuple[Shape, ...]) -> bool:
    """Whether a GPU holds less than the whole width of some tensors."""
    held, all_ = ([shape.width for shape in shapes] for shapes in (mine, whole))
    if any(isinstance(width, str) for width in (*held, *all_)):
        return False
    return 0 < sum(held) < sum(all_)  # type: ignore[arg-type]
