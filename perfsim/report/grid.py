"""Where the nodes of the DAG picture stand: columns of layers in rows, with gutters between for the edges.

Graphviz's own `dot` orders clusters as it likes and leads edges between columns across the whole picture, so the places
are computed here. Lengths are points; x grows to the right and y downwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from perfsim.errors import InputError
from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import Operator

__all__ = ["GUTTER", "LANE", "Column", "Grid", "Point", "Rectangle", "Sizes", "Spot", "columns_of", "lay_out"]

Point = tuple[float, float]

LANE = 12.0
GUTTER = 64.0
_GAP = 24.0
_GAP_WITH_LABELS = 38.0
_LAYER_PAD = 14.0
_LAYER_HEAD = 30.0
_STAGE_PAD = 14.0
_STAGE_HEAD = 44.0
_ROW_GAP = 48.0
_COLUMN_ASPECT = 3.0
"""Height of a layer's column over its width, so that rows of columns make a picture that is about square."""


@dataclass(frozen=True)
class Column:
    """One layer, with the operators outside the layers that stand before and after it."""

    stage: int
    layer: int | None
    row: int
    index: int
    before: tuple[Operator, ...]
    body: tuple[Operator, ...]
    after: tuple[Operator, ...]

    @property
    def operators(self) -> tuple[Operator, ...]:
        """All of them, from top to bottom."""
        return (*self.before, *self.body, *self.after)


@dataclass(frozen=True)
class Spot:
    """Where an operator stands: its centre, its size and the number of its column."""

    x: float
    y: float
    width: float
    height: float
    column: int


@dataclass(frozen=True)
class Rectangle:
    """The frame of a cluster."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, frames: Iterable[Rectangle]) -> Rectangle:
        """Frame that holds several."""
        held = list(frames)
        return cls(
            min(f.left for f in held), min(f.top for f in held), max(f.right for f in held), max(f.bottom for f in held)
        )


@dataclass
class Grid:
    """The places of everything in the picture."""

    columns: Sequence[Column]
    spots: dict[str, Spot] = field(default_factory=dict)
    layers: dict[int, Rectangle] = field(default_factory=dict)
    stages: dict[int, Rectangle] = field(default_factory=dict)
    width: float = 0.0
    height: float = 0.0

    def same_row(self, first: Spot, second: Spot) -> bool:
        """Whether two spots are in the same row of columns."""
        return self.columns[first.column].row == self.columns[second.column].row

    def above(self, spot: Spot) -> float:
        """Height of the free space over the row in which something stands."""
        row, stage = self.columns[spot.column].row, self.columns[spot.column].stage
        tops = [self.stages[column.stage].top for column in self.columns if column.row == row]
        starts = min(column.row for column in self.columns if column.stage == stage)
        if row == starts:
            return min(tops) - _ROW_GAP / 2
        heads = [self.layers[i].top for i, column in enumerate(self.columns) if column.row == row and i in self.layers]
        return min(heads) - _ROW_GAP / 2


def columns_of(graph: OperatorGraph) -> list[Column]:
    """Put the layers of a graph into columns, and the columns into rows.

    Whole stages fill a row; a stage that is longer than a row has several to itself. Rows are as long as makes the
    picture about square.
    """
    if not graph.operators:
        raise InputError.of("graph", graph, "must have operators to draw")
    stages: dict[int, dict[int | None, list[Operator]]] = {}
    for operator in graph:
        stages.setdefault(operator.stage, {}).setdefault(operator.layer, []).append(operator)
    layers = {stage: _layers(held) for stage, held in sorted(stages.items())}
    lengths = [len(held) for held in layers.values()]
    packings = (_pack(lengths, widest) for widest in range(1, sum(lengths) + 1))
    cells = min(packings, key=lambda cells: max(index for _, index in cells) + cells[-1][0] * _COLUMN_ASPECT)
    columns: list[Column] = []
    for stage, held in layers.items():
        for layer in held:
            row, index = cells[len(columns)]
            before, after = _around(graph, stage, layer == held[0], layer == held[-1])
            body = stages[stage][layer] if layer is not None else ()
            columns.append(Column(stage, layer, row, index, before, tuple(body), after))
    return columns


def _layers(held: Mapping[int | None, object]) -> list[int | None]:
    """Layers of a stage; a stage without any has one column all the same."""
    layers: list[int | None] = [layer for layer in held if layer is not None]
    return layers or [None]


def _pack(lengths: Sequence[int], widest: int) -> list[tuple[int, int]]:
    """Row and index of every layer of stages of given lengths, in rows of at most `widest` layers."""
    cells: list[tuple[int, int]] = []
    row, index = 0, 0
    for length in lengths:
        if index and index + length > widest:
            row, index = row + 1, 0
        for _ in range(length):
            if index == widest:
                row, index = row + 1, 0
            cells.append((row, index))
            index += 1
        if length > widest:
            row, index = row + 1, 0
    return cells


def _around(
    graph: OperatorGraph, stage: int, first: bool, last: bool
) -> tuple[tuple[Operator, ...], tuple[Operator, ...]]:
    """Operators of a stage outside its layers: those before the layers for the first, those after for the last."""
    before: list[Operator] = []
    after: list[Operator] = []
    begun = False
    for operator in (operator for operator in graph if operator.stage == stage):
        begun = begun or operator.layer is not None
        if operator.layer is None:
            (after if begun else before).append(operator)
    return tuple(before if first else ()), tuple(after if last else ())


@dataclass(frozen=True)
class Sizes:
    """The sizes from which places follow.

    Attributes
    ----------
    width : float
        Of every node.
    heights : mapping of str to float
        Of each operator's node.
    labelled : set of str
        Operators whose outgoing edges carry labels, and need room.
    lanes : int
        Edges that run side by side at the right of a column.
    head : float
        Room for the title.
    """

    width: float
    heights: Mapping[str, float]
    labelled: frozenset[str]
    lanes: int
    head: float

    @property
    def frame(self) -> float:
        """Width of a layer's frame."""
        return self.width + 2 * _LAYER_PAD + self.lanes * LANE

    def room(self, operator: Operator) -> float:
        """Height of a node and of the gap below it."""
        return self.heights[operator.name] + (_GAP_WITH_LABELS if operator.name in self.labelled else _GAP)

    def stack(self, operators: Sequence[Operator]) -> float:
        """Height of nodes under each other."""
        return sum(self.room(operator) for operator in operators)


def lay_out(columns: Sequence[Column], sizes: Sizes) -> Grid:
    """Give every operator, layer and stage its place."""
    grid = Grid(columns)
    top = sizes.head
    for row in sorted({column.row for column in columns}):
        members = [(number, column) for number, column in enumerate(columns) if column.row == row]
        body_top = top + _STAGE_HEAD + max(sizes.stack(column.before) for _, column in members)
        bottom = max(_stand(grid, sizes, number, body_top) for number, _ in members)
        for _, column in members:
            left = GUTTER + column.index * (sizes.frame + GUTTER)
            whole = Rectangle(left - _STAGE_PAD, top, left + sizes.frame + _STAGE_PAD, bottom)
            known = grid.stages.get(column.stage)
            grid.stages[column.stage] = Rectangle.around([whole, *([known] if known else [])])
            grid.width = max(grid.width, left + sizes.frame + GUTTER)
        top = bottom + _ROW_GAP
    grid.height = top - _ROW_GAP + _STAGE_PAD
    return grid


def _stand(grid: Grid, sizes: Sizes, number: int, body_top: float) -> float:
    """Stand the operators of a column under each other; give where the frame of its stage may end."""
    column = grid.columns[number]
    left = GUTTER + column.index * (sizes.frame + GUTTER)
    y = body_top - sizes.stack(column.before)
    for part in (column.before, column.body, column.after):
        y += _LAYER_HEAD if part and part is column.body else 0.0
        for operator in part:
            height = sizes.heights[operator.name]
            x = left + _LAYER_PAD + sizes.width / 2
            grid.spots[operator.name] = Spot(x, y + height / 2, sizes.width, height, number)
            y += sizes.room(operator)
        if part and part is column.body:
            grid.layers[number] = Rectangle(left, body_top, left + sizes.frame, y - _GAP + _LAYER_PAD)
            y += _LAYER_PAD
    return y - _GAP + _STAGE_PAD
