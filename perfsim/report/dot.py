"""The complete DAG of a deployment as a Graphviz picture, and Graphviz itself.

`dag_dot` lays the layers out in columns, read from the top left: down a column, then over to the next, then to the
next row. `overview_dot` and `layer_dot` draw the same deployment from further away and from closer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from perfsim.errors import InputError
from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import Edge, Operator
from perfsim.report.labels import (
    FONT, INK, devices_text, family, fill, heads_axes, html, inputs_of, legend, outputs_of, parallelism,
    per_device_text, quote, ranges, shape_text,
)  # fmt: skip

__all__ = ["dag_dot", "render_svg"]

_SHAPES = {
    "collective": "ellipse",
    "transfer": "ellipse",
    "receive": "ellipse",
    "split": "parallelogram",
    "gather": "parallelogram",
    "input": "hexagon",
    "output": "hexagon",
}
_COLUMN_ASPECT = 3.3
"""Height of a layer's column over its width, so that rows of columns make a picture that is about square."""


def dag_dot(graph: OperatorGraph, title: str = "") -> str:
    """Write the complete operator graph in DOT.

    Every operator of every layer is a node: ellipses communicate, boxes compute, parallelograms split and gather,
    hexagons are where the model begins and ends. Clusters are the stages, and in them the layers.

    Parameters
    ----------
    graph : OperatorGraph
    title : str
        Stands over the picture; a line about the model and the plan when left out.

    Returns
    -------
    str
        DOT text, which `render_svg` draws.

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


@dataclass(frozen=True)
class _Place:
    """Where an operator stands: its row of layers, and the column in it."""

    row: int
    column: int


@dataclass(frozen=True)
class _DagPicture:
    graph: OperatorGraph
    title: str

    def text(self) -> str:
        lines = ["digraph deployment {", *self._head()]
        for stage in sorted(self._stages):
            lines += self._stage(stage)
        lines += [*self._rows(), *self._edges(), "}"]
        return "\n".join(lines) + "\n"

    @cached_property
    def _stages(self) -> dict[int, dict[int | None, list[Operator]]]:
        """Operators of each stage and each layer in it; None holds those outside the layers."""
        stages: dict[int, dict[int | None, list[Operator]]] = {}
        for operator in self.graph:
            stages.setdefault(operator.stage, {}).setdefault(operator.layer, []).append(operator)
        return stages

    @cached_property
    def _layer_places(self) -> dict[tuple[int, int], _Place]:
        """Place of each layer of each stage: whole stages fill a row, and a stage longer than a row takes several."""
        layers = [(stage, [layer for layer in held if layer is not None]) for stage, held in sorted(self._stages.items())]
        number = sum(len(held) for _, held in layers)
        widest = math.ceil(math.sqrt(number * _COLUMN_ASPECT)) or 1
        widest = math.ceil(number / math.ceil(number / widest)) if number else 1
        places, row, column = {}, 0, 0
        for stage, held in layers:
            if column and column + len(held) > widest:
                row, column = row + 1, 0
            for layer in held:
                if column == widest:
                    row, column = row + 1, 0
                places[stage, layer] = _Place(row, column)
                column += 1
        return places

    @cached_property
    def _places(self) -> dict[str, _Place]:
        """Place of each operator; those outside the layers stand in the column of the layer beside them."""
        places: dict[str, _Place] = {}
        for stage, held in self._stages.items():
            columns = [self._layer_places[stage, layer] for layer in held if layer is not None] or [_Place(stage, 0)]
            begun = False
            for operator in (operator for operator in self.graph if operator.stage == stage):
                begun = begun or operator.layer is not None
                if operator.layer is not None:
                    places[operator.name] = self._layer_places[stage, operator.layer]
                else:
                    places[operator.name] = columns[-1 if begun else 0]
        return places

    def _head(self) -> Iterator[str]:
        graph, plan = self.graph, self.graph.plan
        title = self.title or (
            f"{graph.model.name}: tensor {plan.tensor} × pipeline {plan.pipeline} × data {plan.data}, "
            f"microbatches of {plan.microbatch_size}"
        )
        families = legend(dict.fromkeys(family(operator) for operator in graph))
        note = "Input and Output: whole batch. per GPU: one microbatch on one device. Read down a column, then the next."
        yield "  graph ["
        yield f"    fontname={quote(FONT)}, fontsize=14, fontcolor={quote(INK)}, labelloc=t, labeljust=l,"
        yield "    newrank=true, compound=true, nodesep=0.3, ranksep=0.28, pad=0.3, splines=true,"
        yield (
            f'    label=<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="6" CELLPADDING="4">'
            f'<TR><TD COLSPAN="8" ALIGN="LEFT"><FONT POINT-SIZE="22">{html(title)}</FONT></TD></TR>'
            f'<TR><TD COLSPAN="8" ALIGN="LEFT">{html(note)}</TD></TR><TR>{families}</TR></TABLE>>'
        )
        yield "  ];"
        yield f"  node [fontname={quote(FONT)}, fontsize=10, fontcolor={quote(INK)}, style=filled, "
        yield '    margin="0.2,0.06", penwidth=1.2];'
        yield f"  edge [fontname={quote(FONT)}, fontsize=10, color={quote('#4D4D4D')}, arrowsize=0.7];"

    def _stage(self, stage: int) -> Iterator[str]:
        held = self._stages[stage]
        layers = [layer for layer in held if layer is not None]
        devices = {device for operators in held.values() for operator in operators for device in operator.devices}
        label = f"Stage {stage}  |  layers {ranges(layers)}  |  {devices_text(devices)}"
        yield f"  subgraph cluster_stage_{stage} {{"
        yield f"    label={quote(label)}; labeljust=l; fontsize=18; margin=16; style=rounded; color={quote('#4D4D4D')};"
        yield f"    bgcolor={quote('#FAFAFA')}; penwidth=1.5;"
        yield from (f"    {self._node(operator)}" for operator in held.get(None, []))
        for layer in layers:
            yield f"    subgraph cluster_stage_{stage}_layer_{layer} {{"
            yield f"      label={quote(f'Layer {layer}')}; labeljust=l; fontsize=14; margin=12;"
            yield f"      style=rounded; color={quote('#999999')}; bgcolor={quote('#FFFFFF')}; penwidth=1;"
            yield from (f"      {self._node(operator)}" for operator in held[layer])
            yield "    }"
        yield "  }"

    @cached_property
    def _axes(self) -> dict[int, tuple[int, int]]:
        return dict(heads_axes(self.graph))

    def _node(self, operator: Operator) -> str:
        light, border = fill(family(operator))
        shape = _SHAPES.get(operator.kind, "box")
        label = quote("\n".join(self._label(operator)))
        return f"{quote(operator.name)} [shape={shape}, fillcolor={quote(light)}, color={quote(border)}, label={label}];"

    def _label(self, operator: Operator) -> Iterator[str]:
        yield operator.name
        words = parallelism(self.graph, operator)
        if words != operator.op:
            yield words
        for word, tensors in (("Input", inputs_of(operator)), ("Output", outputs_of(operator))):
            for tensor in tensors:
                name = f" ({tensor.name})" if len(tensors) > 1 else ""
                yield f"{word}: {shape_text(self.graph, tensor, self._axes)}{name}"
        yield per_device_text(operator)
        yield devices_text(operator.devices)

    def _rows(self) -> Iterator[str]:
        """Put the heads of a row's layers side by side, in their order."""
        heads: dict[int, list[str]] = {}
        for (stage, layer), place in self._layer_places.items():
            heads.setdefault(place.row, []).append(self._stages[stage][layer][0].name)
        for names in heads.values():
            chain = " -> ".join(quote(name) for name in names)
            yield f"  {{ rank=same; {chain}{' [style=invis, weight=0]' if len(names) > 1 else ''}; }}"

    def _edges(self) -> Iterator[str]:
        before = {operator.name: previous.name for previous, operator in zip(self.graph, list(self.graph)[1:], strict=False)}
        for edge in self.graph.edges:
            yield f"  {quote(edge.producer)} -> {quote(edge.consumer)} [{', '.join(self._edge(edge, before))}];"

    def _edge(self, edge: Edge, before: dict[str, str]) -> Iterator[str]:
        """Attributes of an edge: the main chain is straight, what skips operators is dashed, rows stand below rows."""
        producer, start, end = self.graph[edge.producer], self._places[edge.producer], self._places[edge.consumer]
        main = before[edge.consumer] == edge.producer
        if len(producer.outputs) > 1:
            yield f"label={quote(f' {producer.outputs[edge.output].name} ')}"
        if producer.kind == "transfer":
            yield f"color={quote(fill('transfer')[1])}, penwidth=2"
        elif not main:
            yield f"color={quote('#0072B2')}, style=dashed"
        if start == end:
            yield f"weight={20 if main else 1}"
        elif start.row == end.row:
            yield "constraint=false, tailport=e, headport=w"
        else:
            yield "weight=0"


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
        drawn: bytes = pygraphviz.AGraph(string=dot).draw(format="svg", prog="dot")
    except ValueError as error:
        shown = dot if len(dot) <= 60 else f"{dot[:57]}..."
        raise InputError.of("dot", shown, "must be a graph in the DOT language", str(error)) from error
    return drawn.decode("utf-8")
