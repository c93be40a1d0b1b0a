"""One layer as a Graphviz picture: what each operator takes, holds and gives, and how the tensor ranks share it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from perfsim.errors import InputError
from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import Operator, Tensor
from perfsim.ops.operators import Elementwise
from perfsim.report.labels import (
    FONT,
    INK,
    Axes,
    devices_text,
    family,
    fill,
    heads_axes,
    html,
    parallelism,
    quote,
    shape_text,
)
from perfsim.units import format_bytes, format_count, format_seconds

__all__ = ["layer_dot"]

_RANKS_SHOWN = 8
_CHARACTER = 6.4
"""Mean width of a character of the text, in the widest of the fonts that browsers fall back on."""
_HOLDS = {
    "replicated": "replicated: each GPU holds the same",
    "sharded": "sharded: each GPU holds its part",
    "partial": "partial: each GPU holds a summand of",
    "sequence": "shared by tokens: each GPU holds its part",
    "routed": "routed: each GPU holds what came for its experts,",
}


def layer_dot(graph: OperatorGraph, layer: int = 0, costs: Mapping[str, float] | None = None) -> str:
    """Write one layer of an operator graph in DOT, in detail.

    Parameters
    ----------
    graph : OperatorGraph
    layer : int
    costs : mapping of str to float, optional
        Seconds of one execution by the operator's name; shown where given.

    Returns
    -------
    str
        DOT text: a table an operator, with its tensors (replicated, sharded or partial), its weight as a whole and on
        each GPU, FLOP and bytes of one execution, and what each tensor rank holds of the result.

    Raises
    ------
    InputError
        The graph has no such layer.

    Examples
    --------
    >>> import perfsim
    >>> graph = perfsim.operator_graph(perfsim.load_scenario("seed-improved"))
    >>> text = layer_dot(graph, 3, costs={"layer_03.mlp_up": 0.0021})
    >>> "column-parallel matmul" in text, "2.1 ms" in text
    (True, True)
    """
    operators = [operator for operator in graph if operator.layer == layer]
    if not operators:
        known = sorted({operator.layer for operator in graph if operator.layer is not None})
        allowed = f"must be a layer of the graph, {known[0]} to {known[-1]}" if known else "the graph has no layers"
        raise InputError.of("layer", layer, allowed)
    axes = heads_axes(graph)
    lines = ["digraph layer {", *_head(graph, layer, operators)]
    facts = {operator.name: list(_facts(graph, operator, axes, costs or {})) for operator in operators}
    width = max(len(text) for texts in facts.values() for text in texts) * _CHARACTER
    lines += [f"  {_node(graph, operator, axes, facts[operator.name], width)}" for operator in operators]
    lines += [f"  {line}" for line in _edges(graph, layer)]
    return "\n".join([*lines, "}"]) + "\n"


def _head(graph: OperatorGraph, layer: int, operators: Sequence[Operator]) -> Iterator[str]:
    tensor = graph.plan.tensor
    sharing = f"tensor parallel over {tensor} GPUs" if tensor > 1 else "each GPU holds the whole layer"
    title = f"{graph.model.name}, layer {layer}: {sharing}"
    note = (
        f"Stage {operators[0].stage}, {devices_text(operators[0].devices)}. Shapes with names are of the whole batch; "
        f"FLOP, bytes and times of one GPU and one microbatch of {graph.plan.microbatch_size}"
        f"{'; the last row of a box is what each GPU holds of the result.' if tensor > 1 else '.'}"
    )
    yield f"  graph [fontname={quote(FONT)}, fontcolor={quote(INK)}, labelloc=t, labeljust=l, pad=0.3,"
    yield (
        f'    nodesep=0.6, ranksep=0.35, label=<<TABLE BORDER="0">'
        f'<TR><TD ALIGN="LEFT"><FONT POINT-SIZE="20">{html(title)}</FONT></TD></TR>'
        f'<TR><TD ALIGN="LEFT"><FONT POINT-SIZE="12">{html(note)}</FONT></TD></TR>'
        '<TR><TD HEIGHT="12"></TD></TR></TABLE>>];'
    )
    yield f"  node [fontname={quote(FONT)}, fontsize=12, fontcolor={quote(INK)}, shape=plain];"
    yield f"  edge [fontname={quote(FONT)}, fontsize=12, color={quote('#4D4D4D')}, fontcolor={quote(INK)}];"


def _node(graph: OperatorGraph, operator: Operator, axes: Axes, facts: Sequence[str], width: float) -> str:
    light, border = fill(family(operator))
    span = min(graph.plan.tensor, _RANKS_SHOWN + 1)
    words = parallelism(graph, operator)
    title = f'<FONT POINT-SIZE="14"><B>{html(operator.name)}</B></FONT>   {html(words)}'
    rows = [f'<TR><TD COLSPAN="{span}" BGCOLOR="{light}" SIDES="B" CELLPADDING="6">{title}</TD></TR>']
    rows += [
        f'<TR><TD COLSPAN="{span}" ALIGN="LEFT" BORDER="0" WIDTH="{width:.0f}">{html(text)}</TD></TR>' for text in facts
    ]
    if span > 1:
        rows.append(_ranks(graph, operator, axes))
    table = (
        f'<TABLE BORDER="2" COLOR="{border}" STYLE="ROUNDED" BGCOLOR="#FFFFFF" CELLBORDER="1" CELLSPACING="0" '
        f'CELLPADDING="4">{"".join(rows)}</TABLE>'
    )
    return f"{quote(operator.name)} [label=<{table}>];"


def _facts(graph: OperatorGraph, operator: Operator, axes: Axes, costs: Mapping[str, float]) -> Iterator[str]:
    """Lines on an operator: tensors, weight, work and time."""
    for word, tensors in (("Input", operator.inputs), ("Output", operator.outputs)):
        for tensor in tensors:
            name = f" ({tensor.name})" if len(tensors) > 1 else ""
            yield f"{word}: {shape_text(graph, tensor, axes)}{name}, {_held(graph, tensor)}"
    yield from _weight(graph, operator)
    work = operator.work
    flop = work.vector_flop if isinstance(work, Elementwise) else work.flop
    moved = f"reads {format_bytes(work.read_bytes)}, writes {format_bytes(work.written_bytes)}"
    yield f"{format_count(flop, 'FLOP')}, {moved}" if flop else moved
    if operator.name in costs:
        yield f"Time: {format_seconds(costs[operator.name])}"


def _held(graph: OperatorGraph, tensor: Tensor) -> str:
    how = _HOLDS.get(tensor.placement, tensor.placement) if graph.plan.tensor > 1 else "one microbatch:"
    return f"{how} {list(tensor.device_shape)}, {format_bytes(tensor.device_bytes)}"


def _weight(graph: OperatorGraph, operator: Operator) -> Iterator[str]:
    weight, tensor = operator.weight, graph.plan.tensor
    if weight is None:
        return
    share = list(weight.device_shape or weight.shape)
    size = format_bytes(weight.device_bytes(graph.workload.dtype or graph.model.dtype))
    if weight.shard_axis is None or tensor == 1:
        how = "replicated" if tensor > 1 else "whole"
    else:
        how = "split by columns" if weight.shard_axis == len(share) - 1 else "split by rows"
    yield f"Weight: {list(weight.shape)}, {how}: each GPU holds {share}, {size}"


def _ranks(graph: OperatorGraph, operator: Operator, axes: Axes) -> str:
    """Write a row of cells: what each tensor rank of the first replica holds of the result."""
    tensor, result = graph.plan.tensor, operator.outputs[0]
    devices = operator.devices[:tensor]
    shown = range(tensor) if tensor <= _RANKS_SHOWN else [*range(_RANKS_SHOWN - 1), -1, tensor - 1]
    light = fill(family(operator))[0] if result.placement == "sharded" else "#FFFFFF"
    cells = []
    for rank in shown:
        text = f"GPU {devices[rank]}<BR/>{_slice(result, rank, axes)}" if rank >= 0 else "..."
        cells.append(f'<TD BGCOLOR="{light}" COLOR="#999999" WIDTH="76"><FONT POINT-SIZE="10">{text}</FONT></TD>')
    return f"<TR>{''.join(cells)}</TR>"


def _slice(tensor: Tensor, rank: int, axes: Axes) -> str:
    """Say which part of a tensor's last axis a rank holds."""
    if tensor.placement == "replicated":
        return "whole"
    if tensor.placement == "partial":
        return f"summand {rank}"
    if tensor.placement == "sequence":
        return f"share {rank} of tokens"
    if tensor.placement == "routed":
        return "tokens routed here"
    width = tensor.device_shape[-1]
    if tensor in axes:
        size = axes[tensor][1]
        first, last = rank * width // size, (rank + 1) * width // size - 1
        return f"head {first}" if first == last else f"heads {first}-{last}"
    return f"{rank * width}-{(rank + 1) * width - 1}"


def _edges(graph: OperatorGraph, layer: int) -> Iterator[str]:
    """Write the edges of a layer, with points for where the layer begins and ends."""
    last: str | None = None
    ends: set[str] = set()
    for edge in graph.edges:
        producer, consumer = graph[edge.producer], graph[edge.consumer]
        if layer not in (producer.layer, consumer.layer):
            continue
        tail = quote(edge.producer if producer.layer == layer else "layer input")
        head = quote(edge.consumer if consumer.layer == layer else "layer output")
        ends |= {end for end in (tail, head) if end in {'"layer input"', '"layer output"'}}
        if head == '"layer output"':
            if last == tail:
                continue  # both consumers in the next layer take the same tensor
            last = tail
        name = f" {producer.outputs[edge.output].name} "
        skips = len(consumer.inputs) > 1 and edge.input == 0 and consumer.kind == "elementwise"
        look = (
            f", style=dashed, color={quote('#0072B2')}, weight=0" if skips and consumer.layer == layer else ", weight=9"
        )
        yield f"{tail} -> {head} [label={quote(name)}{look}];"
    for end in sorted(ends):
        yield f"{end} [shape=hexagon, style=filled, fillcolor={quote('#FFFFFF')}, margin={quote('0.2,0.08')}];"
