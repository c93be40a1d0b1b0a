"""The complete DAG of a deployment as a Graphviz picture, and Graphviz itself.

`dag_dot` lays the layers out in columns, read from the top left: down a column, then over to the next, then to the
next row. `overview_dot` and `layer_dot` draw the same deployment from further away and from closer.
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import shorten

from perfsim.errors import InputError
from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import Edge, Operator
from perfsim.report.grid import Column, Rectangle, Sizes, columns_of, lay_out
from perfsim.report.labels import (
    FONT,
    INK,
    devices_text,
    family,
    fill,
    heads_axes,
    html,
    inputs_of,
    legend,
    outputs_of,
    parallelism,
    per_device_text,
    quote,
    ranges,
    shape_of,
    shape_text,
    wide_table,
)
from perfsim.report.layer_picture import layer_dot
from perfsim.report.overview import overview_dot
from perfsim.report.routes import edge_lanes, needed_height, needed_width, routes, spline

__all__ = ["dag_dot", "layer_dot", "overview_dot", "render_svg"]

_FONT_SIZE = 11
_CHARACTER = 5.9
"""Mean width of a character at that size: DejaVu Sans, the widest of the fonts that browsers fall back on."""
_LINE = 13.5
_HEAD = 100.0
_LEAST_WIDTH = 1250.0
"""Room for the legend in a picture of few layers."""


def dag_dot(graph: OperatorGraph, title: str = "") -> str:
    """Write the complete operator graph in DOT.

    Every operator of every layer is a node: ellipses communicate, boxes compute, parallelograms split and gather,
    hexagons are where the model begins and ends. Clusters are the stages, and in them the layers. Places are written
    out, and Graphviz's ``nop2`` draws them as they stand; without the attribute ``layout`` its ``dot`` finds others.

    Parameters
    ----------
    graph : OperatorGraph
    title : str
        Stands over the picture; a line about the model and the plan when left out.

    Returns
    -------
    str
        DOT text, which `render_svg` draws.

    Raises
    ------
    InputError
        The graph has no operators.

    Examples
    --------
    >>> import perfsim
    >>> text = dag_dot(perfsim.operator_graph(perfsim.load_scenario("seed-improved")))
    >>> text.splitlines()[0]
    'digraph deployment {'
    >>> "Input: [batch=1024, seq=10000, hidden=8192]" in text
    True
    """
    return _DagPicture(graph, title).text()


class _DagPicture:
    """One picture: the labels give the sizes, the sizes the grid, and the grid the places that are written."""

    def __init__(self, graph: OperatorGraph, title: str) -> None:
        self.graph, self.title = graph, title
        columns = columns_of(graph)
        self.axes = heads_axes(graph)
        self.labels = {operator.name: list(self._label(operator)) for operator in graph}
        self.shapes = {operator.name: shape_of(operator) for operator in graph}
        texts = {name: [len(line) * _CHARACTER for line in lines] for name, lines in self.labels.items()}
        self.width = max(needed_width(self.shapes[name], max(lines)) for name, lines in texts.items())
        heights = {name: needed_height(self.shapes[name], self.width, lines, _LINE) for name, lines in texts.items()}
        places = {
            operator.name: (number, position)
            for number, column in enumerate(columns)
            for position, operator in enumerate(column.operators)
        }
        self.lanes = self._lanes(places)
        labelled = frozenset(operator.name for operator in graph if len(operator.outputs) > 1)
        number_of_lanes = max(self.lanes.values(), default=0) + 1
        self.grid = lay_out(columns, Sizes(self.width, heights, labelled, number_of_lanes, _HEAD))
        self.grid.width = max(self.grid.width, _LEAST_WIDTH)

    def _lanes(self, places: dict[str, tuple[int, int]]) -> dict[Edge, int]:
        """Lanes of the edges that stay in their column but not in its chain."""
        skipping: dict[int, list[tuple[Edge, int, int]]] = {}
        for edge in self.graph.edges:
            (column, start), (other, end) = places[edge.producer], places[edge.consumer]
            if column == other and end != start + 1:
                skipping.setdefault(column, []).append((edge, start, end))
        return {edge: lane for edges in skipping.values() for edge, lane in edge_lanes(edges).items()}

    def _label(self, operator: Operator) -> Iterator[str]:
        yield operator.name
        words = parallelism(self.graph, operator)
        if words != operator.op:
            yield words
        for word, tensors in (("Input", inputs_of(operator)), ("Output", outputs_of(operator))):
            for tensor in tensors:
                name = f" ({tensor.name})" if len(tensors) > 1 else ""
                yield f"{word}: {shape_text(self.graph, tensor, self.axes)}{name}"
        yield per_device_text(operator)
        yield devices_text(operator.devices)

    def text(self) -> str:
        """Write the whole picture."""
        lines = ["digraph deployment {", *self._head()]
        for stage, frame in self.grid.stages.items():
            lines += self._stage(stage, frame)
        corners = routes(self.grid, self.graph.edges, self.shapes, self.lanes)
        for edge, path in zip(self.graph.edges, corners, strict=True):
            lines.append(f"  {quote(edge.producer)} -> {quote(edge.consumer)} [{', '.join(self._edge(edge, path))}];")
        return "\n".join([*lines, "}"]) + "\n"

    def _bounds(self, frame: Rectangle) -> str:
        top, bottom = self.grid.height - frame.top, self.grid.height - frame.bottom
        return f'bb="{frame.left:g},{bottom:g},{frame.right:g},{top:g}"'

    def _caption(self, rows: str, frame: Rectangle, height: float) -> str:
        """Write a label that begins at the left of a frame: its table is as wide as the frame, in any font."""
        width, x = frame.right - frame.left - 16, (frame.left + frame.right) / 2
        return f'label=<{wide_table(rows, width)}>, lp="{x:g},{self.grid.height - frame.top - height / 2:g}"'

    def _head(self) -> Iterator[str]:
        graph, plan, grid = self.graph, self.graph.plan, self.grid
        title = self.title or (
            f"{graph.model.name}: tensor {plan.tensor} × pipeline {plan.pipeline} × data {plan.data}, "
            f"microbatches of {plan.microbatch_size}"
        )
        note = (
            "Input and Output are of the whole batch, per GPU is what one device holds of one microbatch. "
            "Read down a column, then the next column. Dashed edges skip operators."
        )
        families = legend(dict.fromkeys(family(operator) for operator in graph))
        texts = (f'<FONT POINT-SIZE="22">{html(title)}</FONT>', html(note), families)
        rows = "".join(f'<TR><TD ALIGN="LEFT" CELLPADDING="4">{text}</TD></TR>' for text in texts)
        frame = Rectangle(0, 0, grid.width, grid.height)
        yield f"  graph [layout=nop2, {self._bounds(frame)}, fontname={quote(FONT)}, fontsize=14,"
        yield f"    fontcolor={quote(INK)}, labeljust=l, labelloc=t, pad=0.2,"
        yield f"    {self._caption(rows, Rectangle(30, 0, grid.width - 30, 0), _HEAD - 10)}];"
        yield f"  node [fontname={quote(FONT)}, fontsize={_FONT_SIZE}, fontcolor={quote(INK)}, style=filled,"
        yield f"    fixedsize=shape, width={self.width / 72:.3f}, penwidth=1.2];"
        yield f"  edge [fontname={quote(FONT)}, fontsize={_FONT_SIZE}, color={quote('#4D4D4D')}, arrowsize=0.7];"

    def _stage(self, stage: int, frame: Rectangle) -> Iterator[str]:
        columns = [(number, column) for number, column in enumerate(self.grid.columns) if column.stage == stage]
        layers = [column.layer for _, column in columns if column.layer is not None]
        devices = {device for _, column in columns for operator in column.operators for device in operator.devices}
        texts = (f"Stage {stage}", f"layer{'s' if len(layers) > 1 else ''} {ranges(layers)}", devices_text(devices))
        caption = f'<TR><TD ALIGN="LEFT"><FONT POINT-SIZE="18">{html("  |  ".join(texts))}</FONT></TD></TR>'
        yield f"  subgraph cluster_stage_{stage} {{"
        yield f'    graph [{self._bounds(frame)}, style="rounded,filled", fillcolor={quote("#F7F7F7")},'
        yield f"      color={quote('#4D4D4D')}, penwidth=1.5, {self._caption(caption, frame, 44)}];"
        for number, column in columns:
            yield from (f"    {self._node(operator)}" for operator in column.before)
            yield from (f"    {line}" for line in self._layer(number, column))
            yield from (f"    {self._node(operator)}" for operator in column.after)
        yield "  }"

    def _layer(self, number: int, column: Column) -> Iterator[str]:
        if number not in self.grid.layers:
            return
        frame = self.grid.layers[number]
        caption = f'<TR><TD ALIGN="LEFT">Layer {column.layer}</TD></TR>'
        yield f"subgraph cluster_stage_{column.stage}_layer_{column.layer} {{"
        yield f'  graph [{self._bounds(frame)}, style="rounded,filled", fillcolor={quote("#FFFFFF")},'
        yield f"    color={quote('#999999')}, penwidth=1, {self._caption(caption, frame, 30)}];"
        yield from (f"  {self._node(operator)}" for operator in column.body)
        yield "}"

    def _node(self, operator: Operator) -> str:
        light, border = fill(family(operator))
        spot = self.grid.spots[operator.name]
        place = f'pos="{spot.x:g},{self.grid.height - spot.y:g}", height={spot.height / 72:.3f}'
        colours = f"fillcolor={quote(light)}, color={quote(border)}"
        label = quote("\n".join(self.labels[operator.name]))
        return f"{quote(operator.name)} [shape={shape_of(operator)}, {colours}, {place}, label={label}];"

    def _skips(self, edge: Edge) -> bool:
        """Whether an edge goes round operators, in its column or from another layer to the middle of one."""
        consumer = self.graph[edge.consumer]
        return edge in self.lanes or (len(consumer.inputs) > 1 and consumer.layer != self.graph[edge.producer].layer)

    def _edge(self, edge: Edge, corners: list[tuple[float, float]]) -> Iterator[str]:
        producer, height = self.graph[edge.producer], self.grid.height
        yield f'pos="{spline(corners, height)}"'
        if len(producer.outputs) > 1:
            (x, top), (_, bottom) = corners[0], corners[-1]
            name = producer.outputs[edge.output].name
            yield f'label={quote(name)}, lp="{x + 4 + 3 * len(name):g},{height - (top + bottom) / 2:g}"'
        if producer.kind == "transfer":
            yield f"color={quote(fill('transfer')[1])}, penwidth=2"
        elif self._skips(edge):
            yield f"color={quote('#0072B2')}, style=dashed"


def render_svg(dot: str) -> str:
    """Draw DOT text as SVG, with the Graphviz that pygraphviz brings along.

    Parameters
    ----------
    dot : str

    Returns
    -------
    str
        SVG text; the same on every call.

    Raises
    ------
    InputError
        The text is not DOT that Graphviz can draw.

    Examples
    --------
    >>> "</svg>" in render_svg("digraph { a -> b }")
    True
    """
    import pygraphviz

    try:
        graph = pygraphviz.AGraph(string=dot)
        graph.has_layout = graph.graph_attr["layout"] == "nop2" if "layout" in graph.graph_attr else False
        drawn: bytes = graph.draw(format="svg", prog=None if graph.has_layout else "dot")
    except ValueError as error:
        raise InputError.of(
            "dot", shorten(dot, 60, placeholder="..."), "must be a graph in the DOT language", str(error)
        ) from error
    return drawn.decode("utf-8")
