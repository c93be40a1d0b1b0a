"""The words and colours that the pictures share: how tensors, devices and operators are written in labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import Operator, Tensor
from perfsim.ops.operators import Collective, Elementwise, ExpertExchange, Experts, Transfer
from perfsim.units import format_bytes, ranges

__all__ = [
    "FONT", "INK", "Axes", "devices_text", "family", "fill", "heads_axes", "html", "inputs_of", "legend",
    "outputs_of", "parallelism", "per_device_text", "quote", "ranges", "shape_of", "shape_text", "wide_table",
]  # fmt: skip

FONT = "Helvetica,Arial,sans-serif"
INK = "#1A1A1A"

Axes = Mapping[Tensor, tuple[int, int]]
"""Heads and head size of the tensors that attention takes and gives."""

# Fill and border of each family: Okabe and Ito's palette for the colour-blind, the fills mixed with white.
_COLOURS = {
    "matmul": ("#CCE3F0", "#0072B2"),
    "attention": ("#CCECE3", "#009E73"),
    "elementwise": ("#FCFAD9", "#8A8200"),
    "collective": ("#FAE5CC", "#D55E00"),
    "transfer": ("#F5E4ED", "#B0487F"),
    "split or gather": ("#E6E6E6", "#4D4D4D"),
    "input or output": ("#FFFFFF", "#1A1A1A"),
}
_SHAPES = {
    "collective": "ellipse",
    "transfer": "ellipse",
    "split or gather": "parallelogram",
    "input or output": "hexagon",
}
_FAMILIES = {
    "receive": "transfer",
    "split": "split or gather",
    "gather": "split or gather",
    "input": "input or output",
    "output": "input or output",
}


def quote(text: str) -> str:
    r"""Write a text as a quoted DOT string; its line breaks become centred lines.

    Examples
    --------
    >>> quote('a "b"')
    '"a \\"b\\""'
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def html(text: str) -> str:
    """Escape a text for an HTML-like label.

    Examples
    --------
    >>> html("[1, 8] -> <q>")
    '[1, 8] -&gt; &lt;q&gt;'
    """
    for plain, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(plain, entity)
    return text


def devices_text(devices: Iterable[int]) -> str:
    """Write which devices carry something out.

    Examples
    --------
    >>> devices_text(range(8))
    'GPU: 0-7'
    """
    return f"GPU: {ranges(devices)}"


def family(operator: Operator) -> str:
    """Colour family of an operator, as the legend names it."""
    return _FAMILIES.get(operator.kind, operator.kind)


def shape_of(operator: Operator) -> str:
    """Shape of an operator's node: ellipses communicate, boxes compute, parallelograms split and gather."""
    return _SHAPES.get(family(operator), "box")


def fill(name: str) -> tuple[str, str]:
    """Fill and border of a colour family."""
    return _COLOURS.get(name, ("#FFFFFF", INK))


def heads_axes(graph: OperatorGraph) -> Axes:
    """Find the tensors whose last axis is made of heads: what attention takes and gives."""
    found: dict[Tensor, tuple[int, int]] = {}
    for operator in graph:
        if operator.kind == "attention":
            model, heads = graph.model, graph.model.num_attention_heads
            for tensor in (*operator.inputs, *operator.outputs):
                # Latent attention has heads of several widths; the rotary part of its keys is one for all of them.
                size = tensor.shape[-1] // heads if model.is_latent else model.head_size_in(graph.kind_of(operator))
                if size:
                    found[tensor] = (tensor.shape[-1] // size, size)
    return found


_WIDTHS = {"logits": "vocabulary", "router_logits": "experts", "chosen_experts": "chosen", "token_ids": "ids"}
"""What the last axis of some tensors counts."""


def shape_text(graph: OperatorGraph, tensor: Tensor, axes: Axes) -> str:
    """Write the shape of the whole batch with the names of its axes."""
    batch, tokens, width = tensor.shape
    if tensor in axes:
        heads, size = axes[tensor]
        last = f"heads={heads}, head_dim={size}"
    elif width == graph.model.intermediate_size != graph.model.hidden_size:
        last = f"ffn={width}"
    else:
        name = _WIDTHS.get(tensor.name, "hidden" if width == graph.model.hidden_size else "width")
        last = f"{name}={width}"
    return f"[batch={batch}, seq={tokens}, {last}]"


def inputs_of(operator: Operator) -> tuple[Tensor, ...]:
    """Tensors that go in; the model's input has none of its own, and shows what it hands on."""
    return operator.inputs or operator.outputs


def outputs_of(operator: Operator) -> tuple[Tensor, ...]:
    """Tensors that come out; the model's output has none of its own, and shows what it takes."""
    return operator.outputs or operator.inputs


def per_device_text(operator: Operator) -> str:
    """Write what one device takes and gives of one microbatch.

    Examples
    --------
    >>> import perfsim
    >>> graph = perfsim.operator_graph(perfsim.load_scenario("seed-improved"))
    >>> per_device_text(graph["layer_00.qkv_proj"])
    'per GPU: [1, 10000, 8192] → 3 × [1, 10000, 1024]'
    """
    return f"per GPU: {_device_shapes(inputs_of(operator))} → {_device_shapes(outputs_of(operator))}"


def _device_shapes(tensors: Sequence[Tensor]) -> str:
    counts: dict[tuple[int, ...], int] = {}
    for tensor in tensors:
        counts[tensor.device_shape] = counts.get(tensor.device_shape, 0) + 1
    return ", ".join(f"{count} × {list(shape)}" if count > 1 else f"{list(shape)}" for shape, count in counts.items())


def parallelism(graph: OperatorGraph, operator: Operator) -> str:
    """Say in a few words how the tensor ranks share an operator.

    Examples
    --------
    >>> import perfsim
    >>> graph = perfsim.operator_graph(perfsim.load_scenario("seed-improved"))
    >>> parallelism(graph, graph["layer_00.mlp_down"])
    'row-parallel matmul'
    """
    plan, work = graph.plan, operator.work
    words = operator.kind
    if operator.kind == "matmul" and operator.weight is not None and plan.tensor > 1:
        axis = operator.weight.shard_axis
        words = {0: "row-parallel matmul", 1: "column-parallel matmul", None: "matmul, whole on each GPU"}[axis]
    elif operator.kind == "attention" and plan.tensor > 1:
        heads = graph.model.num_attention_heads
        words = f"attention, {heads // plan.tensor} of {heads} heads on each GPU"
    elif isinstance(work, Elementwise):
        words = f"elementwise {work.op}"
    elif isinstance(work, Transfer):
        following = (operator.stage + 1) % plan.pipeline
        words = f"{format_bytes(work.payload_bytes)} from each GPU to its peer in stage {following}"
    elif isinstance(work, Experts):
        words = f"{work.num_experts} of {graph.model.num_experts} experts on each GPU"
    elif isinstance(work, Collective | ExpertExchange):
        words = f"{work.op.replace('_', '-')} of {format_bytes(work.payload_bytes)} over {work.group_size} GPUs"
    elif operator.kind == "split":
        words = _split(graph)
    return words


def _split(graph: OperatorGraph) -> str:
    plan, batch = graph.plan, graph.workload.batch_size
    size = plan.microbatch_size or batch
    count = math.ceil(batch / plan.data / size)
    replicas = f"{plan.data} × " if plan.data > 1 else ""
    copies = f", each on {plan.tensor} GPUs" if plan.tensor > 1 else ""
    return f"{replicas}{count} microbatch{'es' if count > 1 else ''} of {size}{copies}"


def wide_table(rows: str, width: float) -> str:
    """Write rows of cells as an HTML-like label of a given width, so that left is left in whatever font.

    Examples
    --------
    >>> wide_table("<TR><TD>a</TD></TR>", 80)
    '<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" WIDTH="80"><TR><TD>a</TD></TR></TABLE>'
    """
    return f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" WIDTH="{width:.0f}">{rows}</TABLE>'


def legend(families: Iterable[str]) -> str:
    """Write the cells of a legend: one a colour family, with the shape that goes with it."""
    cells = []
    for name in families:
        light, border = fill(name)
        text = html(f"{name} ({_SHAPES.get(name, 'box')})")
        cells.append(f'<TD BGCOLOR="{light}" COLOR="{border}">{text}</TD>')
    return f'<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="4" CELLPADDING="5"><TR>{"".join(cells)}</TR></TABLE>'
