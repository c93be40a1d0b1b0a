"""Where the nodes of the DAG picture stand and how its edges run: columns of layers in rows, edges in the gutters between.

Graphviz's own `dot` orders clusters as it likes and leads edges between columns across the whole picture, so the places
are computed here. Lengths are points; x grows to the right and y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import Operator

__all__ = ["GUTTER", "LANE", "Column", "Grid", "Point", "Rectangle", "Spot", "columns_of", "lay_out"]

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

    Whole stages fill a row; a stage that is longer than a row has several to itself.
    """
    stages: dict[int, dict[int | None, list[Operator]]] = {}
    for operator in graph:
        stages.setdefault(operator.stage, {}).setdefault(operator.layer, []).append(operator)
    number = sum(max(1, sum(layer is not None for layer in held)) for held in stages.values())
    rows = math.ceil(number / math.ceil(math.sqrt(number * _COLUMN_ASPECT)))
    widest = math.ceil(number / rows)
    columns: list[Column] = []
    row, index = 0, 0
    for stage, held in sorted(stages.items()):
        layers: list[int | None] = [layer for layer in held if layer is not None] or [None]
        if index and index + len(layers) > widest:
            row, index = row + 1, 0
        for layer in layers:
            if index == widest:
                row, index = row + 1, 0
            before, after = _around(graph, stage, layer == layers[0], layer == layers[-1])
            columns.append(Column(stage, layer, row, index, before, tuple(held[layer]) if layer is not None else (), after))
            index += 1
        if len(layers) > widest:
            row, index = row + 1, 0
    return columns


def _around(graph: OperatorGraph, stage: int, first: bool, last: bool) -> tuple[tuple[Operator, ...], tuple[Operator, ...]]:
    """Operators of a stage outside its layers: those before the layers for the first, those after for the last."""
    before: list[Operator] = []
    after: list[Operator] = []
    begun = False
    for operator in (operator for operator in graph if operator.stage == stage):
        begun = begun or operator.layer is not None
        if operator.layer is None:
            (after if begun else before).append(operator)
    return tuple(before if first else ()), tuple(after if last else ())


def lay_out(
    columns: Sequence[Column], heights: Mapping[str, float], width: float, lanes: int, labelled: set[str], head: float
) -> Grid:
    """Give every operator, layer and stage its place.

    Parameters
    ----------
    columns : sequence of Column
    heights : mapping of str to float
        Of each operator's node.
    width : float
        Of every node.
    lanes : int
        Edges that run side by side at the right of a column.
    labelled : set of str
        Operators whose outgoing edges carry labels, and need room.
    head : float
        Room for the title.
    """
    grid = Grid(columns)
    frame = width + 2 * _LAYER_PAD + lanes * LANE
    top = head
    for row in sorted({column.row for column in columns}):
        members = [(number, column) for number, column in enumerate(columns) if column.row == row]
        lead = max(_stack(column.before, heights, labelled) for _, column in members)
        body_top = top + _STAGE_HEAD + lead
        bottom = body_top
        for number, column in members:
            left = GUTTER + column.index * (frame + GUTTER)
            y = body_top - _stack(column.before, heights, labelled)
            x = left + _LAYER_PAD + width / 2
            y = _place(grid, number, column.before, heights, labelled, x, y, width)
            if column.body:
                y = _place(grid, number, column.body, heights, labelled, x, y + _LAYER_HEAD, width)
                grid.layers[number] = Rectangle(left, body_top, left + frame, y - _GAP + _LAYER_PAD)
                y += _LAYER_PAD
            y = _place(grid, number, column.after, heights, labelled, x, y, width)
            bottom = max(bottom, y - _GAP + _STAGE_PAD if column.after else y - _GAP + _LAYER_PAD)
            grid.width = max(grid.width, left + frame + GUTTER)
        for number, column in members:
            left = GUTTER + column.index * (frame + GUTTER)
            whole = Rectangle(left - _STAGE_PAD, top, left + frame + _STAGE_PAD, bottom)
            known = grid.stages.get(column.stage)
            grid.stages[column.stage] = Rectangle.around([whole, *([known] if known else [])])
        top = bottom + _ROW_GAP
    grid.height = top - _ROW_GAP + _STAGE_PAD
    return grid


def _room(operator: Operator, heights: Mapping[str, float], labelled: set[str]) -> float:
    return heights[operator.name] + (_GAP_WITH_LABELS if operator.name in labelled else _GAP)


def _stack(operators: Sequence[Operator], heights: Mapping[str, float], labelled: set[str]) -> float:
    return sum(_room(operator, heights, labelled) for operator in operators)


def _place(
    grid: Grid, number: int, operators: Sequence[Operator], heights: Mapping[str, float], labelled: set[str],
    x: float, y: float, width: float,
) -> float:  # fmt: skip
    """Stand operators under each other; give where the next one would begin."""
    for operator in operators:
        height = heights[operator.name]
        grid.spots[operator.name] = Spot(x, y + height / 2, width, height, number)
        y += _room(operator, heights, labelled)
    return y
