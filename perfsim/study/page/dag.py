"""The DAG on the page: every operator of every layer, with search, zoom and hover."""

from __future__ import annotations

from typing import Any

from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import Edge, Operator
from perfsim.report.grid import Grid, Sizes, columns_of, lay_out
from perfsim.report.labels import INK, devices_text, family, fill, parallelism, per_device_text, ranges
from perfsim.report.routes import edge_lanes, routes
from perfsim.simulation import Result
from perfsim.study.page.figures import MARK, TIP, figure, script, themed, tip
from perfsim.units import format_bytes, format_count, format_seconds

__all__ = ["dag_layout"]

_WIDTH, _HEIGHT = 220.0, 56.0
_LETTER = 0.75
"""Width of a letter over its height, in the widest fonts that browsers fall back on."""


def dag_layout(result: Result, key: str) -> tuple[Any, dict[str, str]]:
    """Draw the operator graph, with a field to search in it; give the colours with it.

    Parameters
    ----------
    result : Result
    key : str
        Begins the names by which the page's script finds the parts.
    """
    from bokeh.layouts import column
    from bokeh.models import ColumnDataSource, HoverTool, Range1d, TextInput

    graph = result.dag
    grid, lanes = _places(graph)
    nodes = ColumnDataSource(_nodes(result, grid))
    edges = ColumnDataSource(_edges(graph, grid, lanes))
    plot = figure(height=560, tools="pan,wheel_zoom,box_zoom,zoom_in,zoom_out,reset,tap", active_drag="pan",
                  active_scroll="wheel_zoom", x_range=Range1d(0, grid.width), y_range=Range1d(-grid.height, 0),
                  name=f"{key}-dag")  # fmt: skip
    plot.axis.visible = False
    plot.grid.visible = False
    plot.min_border_left = plot.min_border_right = 0
    frames = _frames(plot, result, grid)
    plot.multi_line("xs", "ys", line_color=MARK, line_width=1, source=edges)
    arrows = plot.scatter("x", "y", marker="inverted_triangle", angle="angle", fill_color=MARK, line_color=None,
                          size=6, source=edges)  # fmt: skip
    boxes = plot.rect("x", "y", _WIDTH, "height", fill_color="fill", line_color="line", line_width=1.2,
                      nonselection_fill_alpha=0.35, nonselection_line_alpha=0.3, source=nodes)  # fmt: skip
    style = {
        "text_align": "center",
        "text_baseline": "middle",
        "text_color": INK,
        "selection_text_alpha": 1.0,
        "nonselection_text_alpha": 0.6,
    }
    names = plot.text("x", "name_y", "name", source=nodes, text_font_style="bold", **style)
    shapes = plot.text("x", "shape_y", "shape", source=nodes, **style)
    plot.add_tools(HoverTool(renderers=[boxes], tooltips=TIP, point_policy="follow_mouse"))
    fit = script("perfsim.dagFit", plot=plot, width=grid.width, height=grid.height)
    longest = max(*map(len, nodes.data["name"]), *(0.9 * len(text) for text in nodes.data["shape"]))
    scale = script("perfsim.dagScale", plot=plot, names=names, shapes=shapes, frames=frames, arrows=arrows,
                   letters=min(16.0, 0.94 * _WIDTH / (_LETTER * longest)))  # fmt: skip
    plot.js_on_change("inner_width", fit, scale)
    plot.x_range.js_on_change("start", scale)
    plot.x_range.js_on_change("end", scale)
    search = TextInput(title="Search", placeholder="name, kind, shape or bound, such as all_reduce or layer_03",
                       width=420, name=f"{key}-search", stylesheets=themed())  # fmt: skip
    find = script("perfsim.dagSearch", plot=plot, nodes=nodes, status=f"{key}-found")
    search.js_on_change("value_input", find)
    search.js_on_change("value", find)
    colours = {name: fill(name)[0] for name in dict.fromkeys(family(operator) for operator in graph)}
    return column(search, plot, sizing_mode="stretch_width"), colours


def _places(graph: OperatorGraph) -> tuple[Grid, dict[Edge, int]]:
    """Where the operators stand, and the lanes of edges that skip some: as in the DOT picture, but smaller."""
    columns = columns_of(graph)
    places = {o.name: (number, at) for number, column in enumerate(columns) for at, o in enumerate(column.operators)}
    skipping: dict[int, list[tuple[Edge, int, int]]] = {}
    for edge in graph.edges:
        (column, start), (other, end) = places[edge.producer], places[edge.consumer]
        if column == other and end != start + 1:
            skipping.setdefault(column, []).append((edge, start, end))
    lanes = {edge: lane for edges in skipping.values() for edge, lane in edge_lanes(edges).items()}
    heights = {operator.name: _HEIGHT for operator in graph}
    sizes = Sizes(_WIDTH, heights, frozenset(), max(lanes.values(), default=0) + 1, 20.0)
    return lay_out(columns, sizes), lanes


def _nodes(result: Result, grid: Grid) -> dict[str, Any]:
    graph = result.dag
    table = dict(zip((operator.name for operator in graph), result.operators.itertuples(), strict=False))
    spots = [grid.spots[operator.name] for operator in graph]
    facts = [_facts(graph, operator, table[operator.name]) for operator in graph]
    return {
        "x": [spot.x for spot in spots],
        "y": [-spot.y for spot in spots],
        "name_y": [-spot.y + spot.height / 5 for spot in spots],
        "shape_y": [-spot.y - spot.height / 5 for spot in spots],
        "height": [spot.height for spot in spots],
        "name": [operator.op for operator in graph],
        "shape": [_short(operator) for operator in graph],
        "fill": [fill(family(operator))[0] for operator in graph],
        "line": [fill(family(operator))[1] for operator in graph],
        "words": [" ".join([operator.name, operator.kind, *of.values()]).lower()
                  for operator, of in zip(graph, facts, strict=True)],
        "tip": [tip(operator.name, of) for operator, of in zip(graph, facts, strict=True)],
    }  # fmt: skip


def _short(operator: Operator) -> str:
    """Device shape of the first result."""
    tensors = operator.outputs or operator.inputs
    several = f"{len(tensors)} × " if len(tensors) > 1 else ""
    return f"→ {several}{list(tensors[0].device_shape)}" if tensors else ""


def _facts(graph: OperatorGraph, operator: Operator, row: Any) -> dict[str, str]:
    return {
        "does": parallelism(graph, operator),
        "devices": devices_text(operator.devices),
        "shapes": per_device_text(operator),
        "work": format_count(row.flop, "FLOP") if row.flop else "",
        "bytes": format_bytes(row.bytes) if row.bytes else "",
        "weight": format_bytes(row.weight_bytes) if row.weight_bytes else "",
        "time": format_seconds(row.seconds) if row.seconds else "",
        "bound by": row.bound if row.seconds else "",
    }


def _edges(graph: OperatorGraph, grid: Grid, lanes: dict[Edge, int]) -> dict[str, Any]:
    """Corners of the edges, and the place and direction of their heads: an angle of 0 points down."""
    shapes = {operator.name: "box" for operator in graph}
    corners = routes(grid, graph.edges, shapes, lanes)
    angles = []
    for path in corners:
        (before_x, _), (x, _) = path[-2:]
        angles.append(0.0 if abs(x - before_x) < 1 else (-1.5708 if x < before_x else 1.5708))
    return {
        "xs": [[x for x, _ in path] for path in corners],
        "ys": [[-y for _, y in path] for path in corners],
        "x": [path[-1][0] for path in corners],
        "y": [-path[-1][1] for path in corners],
        "angle": angles,
    }


def _frames(plot: Any, result: Result, grid: Grid) -> Any:
    """Draw the frames of stages and layers; give the texts above them."""
    from bokeh.models import ColumnDataSource

    stages = [(frame, f"stage {stage}, GPU {ranges(result.scenario.stage_devices(stage))}")
              for stage, frame in grid.stages.items()]  # fmt: skip
    layers = [(frame, f"layer {grid.columns[number].layer}") for number, frame in grid.layers.items()]
    for frames, alpha in ((stages, 0.10), (layers, 0.08)):
        plot.quad(left=[f.left for f, _ in frames], right=[f.right for f, _ in frames], top=[-f.top for f, _ in frames],
                  bottom=[-f.bottom for f, _ in frames], fill_color=MARK, fill_alpha=alpha, line_color=MARK,
                  line_alpha=0.6)  # fmt: skip
    texts = ColumnDataSource({
        "x": [frame.left + 12 for frame, _ in (*stages, *layers)],
        "y": [-frame.top - 5 for frame, _ in (*stages, *layers)],
        "text": [text for _, text in (*stages, *layers)],
    })  # fmt: skip
    return plot.text("x", "y", "text", source=texts, text_baseline="top", text_color=MARK, text_font_style="bold")
