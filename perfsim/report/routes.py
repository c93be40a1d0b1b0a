"""How the edges of the DAG picture run from node to node, and how Graphviz wants to be told.

Edges down a column are straight. What skips operators takes a lane at the right of its column; what goes to the next
column takes the gutter between the two; what goes to the next row takes the free space between the rows. Lanes are
ordered so that edges with the same ends do not cross.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perfsim.ops.nodes import Edge
from perfsim.report.grid import GUTTER, LANE, Grid, Point, Spot

__all__ = ["edge_lanes", "needed_height", "needed_width", "routes", "spline"]

_ARROW = 7.0
_RADIUS = 7.0
_PORT = 11.0
_SLANT = 0.2
"""Share of a parallelogram's width by which its upper side is shifted."""


def needed_width(shape: str, text: float) -> float:
    """Width of a node in whose middle a line of text fits."""
    return text * {"box": 1.0, "ellipse": 1.2, "parallelogram": 1 / (1 - 2 * _SLANT), "hexagon": 1.25}[shape] + 20


def needed_height(shape: str, width: float, lines: Sequence[float], line_height: float) -> float:
    """Height of a node in which lines of text of given widths fit, one under the other."""
    plain = len(lines) * line_height + 12
    if shape != "ellipse":
        return plain
    height = plain
    for index, line in enumerate(lines):
        edge = max(abs(index - len(lines) / 2), abs(index + 1 - len(lines) / 2)) * line_height
        height = max(height, 2 * edge / math.sqrt(1 - min(0.9, (line + 8) / width) ** 2) + 4)
    return height


def _side(spot: Spot, shape: str, right: bool, dy: float) -> Point:
    """Point of a node's outline, `dy` below its centre."""
    sign, half = (1 if right else -1), spot.width / 2
    if shape == "ellipse":
        reach = half * math.sqrt(max(0.0, 1 - (2 * dy / spot.height) ** 2))
    elif shape == "parallelogram":
        reach = half * (1 - _SLANT) - sign * dy / spot.height * _SLANT * spot.width
    else:
        reach = half
    return spot.x + sign * reach, spot.y + dy


def edge_lanes(edges: Sequence[tuple[Edge, int, int]]) -> dict[Edge, int]:
    """Give edges that skip operators of a column the first lane that is free from their start to their end.

    Parameters
    ----------
    edges : sequence of (Edge, int, int)
        With the positions of producer and consumer in the column.

    Examples
    --------
    >>> first, second = Edge("a", 0, "c", 0), Edge("b", 0, "d", 0)
    >>> list(edge_lanes([(first, 0, 2), (second, 1, 3)]).values())
    [0, 1]
    """
    ends: list[int] = []
    lanes: dict[Edge, int] = {}
    for edge, start, end in sorted(edges, key=lambda item: (item[1], item[2])):
        lane = next((number for number, busy in enumerate(ends) if busy <= start), len(ends))
        ends[lane : lane + 1] = [end]
        lanes[edge] = lane
    return lanes


@dataclass(frozen=True)
class _Router:
    grid: Grid
    shapes: Mapping[str, str]
    lanes: Mapping[Edge, int]

    def route(self, edge: Edge, turn: int, share: float) -> list[Point]:
        """Corners of an edge: `turn` counts those between the same columns, `share` spreads those between two nodes."""
        start, end = self.grid.spots[edge.producer], self.grid.spots[edge.consumer]
        if edge in self.lanes:
            return self._skip(edge, start, end)
        if start.column == end.column:
            x = start.x + share * start.width
            return [(x, start.y + start.height / 2), (x, end.y - end.height / 2)]
        if self.grid.same_row(start, end):
            return self._next_column(edge, start, end, turn)
        if self.grid.columns[start.column].stage == self.grid.columns[end.column].stage:
            return self._next_row(edge, start, end, turn)
        return self._next_stage(edge, start, end)

    def _out(self, edge: Edge, start: Spot, dy: float) -> Point:
        return _side(start, self.shapes[edge.producer], True, dy)

    def _in(self, edge: Edge, end: Spot, right: bool, dy: float) -> Point:
        return _side(end, self.shapes[edge.consumer], right, dy)

    def _skip(self, edge: Edge, start: Spot, end: Spot) -> list[Point]:
        x = start.x + start.width / 2 + (self.lanes[edge] + 1) * LANE
        first, last = self._out(edge, start, _PORT), self._in(edge, end, True, -2 * _PORT)
        return [first, (x, first[1]), (x, last[1]), last]

    def _next_column(self, edge: Edge, start: Spot, end: Spot, turn: int) -> list[Point]:
        x = self._gutter(end) + (turn - 0.5) * LANE
        first, last = self._out(edge, start, (turn + 1) * _PORT), self._in(edge, end, False, 0)
        return [first, (x, first[1]), (x, last[1]), last]

    def _next_row(self, edge: Edge, start: Spot, end: Spot, turn: int) -> list[Point]:
        first, last = self._out(edge, start, (turn + 1) * _PORT), self._in(edge, end, False, 0)
        right = self._right_gutter(start) + (0.5 - turn) * LANE
        left = self._gutter(end) + (0.5 - turn) * LANE
        y = self.grid.above(end) + (0.5 - turn) * LANE
        return [first, (right, first[1]), (right, y), (left, y), (left, last[1]), last]

    def _next_stage(self, edge: Edge, start: Spot, end: Spot) -> list[Point]:
        x = end.x + end.width / 2 + LANE
        y, last = self.grid.above(end), self._in(edge, end, True, -_PORT)
        return [(start.x, start.y + start.height / 2), (start.x, y), (x, y), (x, last[1]), last]

    def _gutter(self, spot: Spot) -> float:
        return self.grid.layers[spot.column].left - GUTTER / 2 if spot.column in self.grid.layers else spot.x

    def _right_gutter(self, spot: Spot) -> float:
        return self.grid.layers[spot.column].right + GUTTER / 2 if spot.column in self.grid.layers else spot.x


def routes(
    grid: Grid, edges: Sequence[Edge], shapes: Mapping[str, str], lanes: Mapping[Edge, int]
) -> list[list[Point]]:
    """Corners of every edge, from the producer's outline to the consumer's."""
    router = _Router(grid, shapes, lanes)
    parallel: dict[tuple[str, str], int] = {}
    turning: dict[tuple[int, int], list[float]] = {}
    for edge in edges:
        ends = (edge.producer, edge.consumer)
        parallel[ends] = parallel.get(ends, 0) + 1
        start, end = grid.spots[edge.producer], grid.spots[edge.consumer]
        turning.setdefault((start.column, end.column), []).append(end.y)
    seen: dict[tuple[str, str], int] = {}
    corners = []
    for edge in edges:
        ends = (edge.producer, edge.consumer)
        number = seen[ends] = seen.get(ends, 0) + 1
        share = (number - (parallel[ends] + 1) / 2) * 0.2
        start, end = grid.spots[edge.producer], grid.spots[edge.consumer]
        turn = sorted(turning[start.column, end.column]).index(end.y)
        corners.append(router.route(edge, turn, share))
    return corners


def spline(corners: Sequence[Point], height: float) -> str:
    """Write a path with rounded corners as the B-spline that Graphviz reads, y upwards, the arrow at its end.

    Examples
    --------
    >>> spline([(0, 0), (0, 30)], height=100)
    'e,0,70 0,100 0,92.33 0,84.67 0,77'
    """
    ends = [corners[0], *corners[1:-1], _towards(corners[-1], corners[-2], _ARROW)]
    at = ends[0]
    points = [at]
    for before, corner, after in zip(ends, ends[1:], ends[2:], strict=False):
        radius = min(_RADIUS, math.dist(before, corner) / 2, math.dist(corner, after) / 2)
        enter, leave = _towards(corner, before, radius), _towards(corner, after, radius)
        points += [*_thirds(at, enter), enter, corner, corner, leave]
        at = leave
    points += [*_thirds(at, ends[-1]), ends[-1]]
    return " ".join([f"e,{_point(corners[-1], height)}", *(_point(point, height) for point in points)])


def _towards(point: Point, other: Point, length: float) -> Point:
    part = length / (math.dist(point, other) or 1.0)
    return point[0] + (other[0] - point[0]) * part, point[1] + (other[1] - point[1]) * part


def _thirds(first: Point, second: Point) -> tuple[Point, Point]:
    step = math.dist(first, second) / 3
    return _towards(first, second, step), _towards(second, first, step)


def _point(point: Point, height: float) -> str:
    return f"{round(point[0], 2):g},{round(height - point[1], 2):g}"
