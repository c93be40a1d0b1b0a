"""Drawings from DOT text and from networkx graphs."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from perfsim.errors import InputError
from perfsim.ops.foreign.drawing import Drawing, Node, node_of
from perfsim.ops.foreign.labels import Label, layers_in, read_label
from perfsim.ops.foreign.shapes import Axis, Shape

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["drawing_of_dot", "drawing_of_networkx"]

_WAY_OUT = (
    r'label nodes as in a [label="QKV\nInput: [batch=8, seq=128, hidden=64]\nOutput: [batch=8, seq=128, heads=4, '
    r'd_k=16]\nGPU: 0-3"]'
)


def drawing_of_dot(text: str, field: str = "dot") -> Drawing:
    """Read DOT text.

    Parameters
    ----------
    text : str
    field : str
        What the text is called where it is at fault.

    Raises
    ------
    InputError
        The text is no directed graph in the DOT language, is empty, or has no labels to read.
    """
    import pygraphviz

    shown = shorten(text, 60, placeholder="...")
    try:
        graph = pygraphviz.AGraph(string=text)
    except ValueError as error:
        raise InputError.of(
            field, shown, "must be a graph in the DOT language", "try it with Graphviz: dot -Tcanon"
        ) from error
    if not graph.is_directed():
        raise InputError.of(field, shown, "must be a directed graph", "write digraph, and -> between nodes")
    labels = {str(name): graph.get_node(name).attr["label"] or "" for name in graph.nodes()}
    frames: dict[str, tuple[int, ...]] = {}
    claimed = _frames(graph, frames)
    edges = [(str(producer), str(consumer)) for producer, consumer in graph.edges()]
    nodes = (node_of(name, label, frames.get(name, ())) for name, label in labels.items())
    return _drawing(nodes, edges, claimed, field, shown)


def _frames(graph: Any, frames: dict[str, tuple[int, ...]]) -> set[int]:
    """Layers that the frames around nodes speak of; the innermost frame of one layer is where a node belongs."""
    claimed: set[int] = set()
    for frame in graph.subgraphs():
        title = read_label(frame.graph_attr["label"] or "").title if "label" in frame.graph_attr.keys() else ""  # noqa: SIM118
        layers = layers_in(title) or layers_in(str(frame.name or ""))
        claimed.update(layers)
        if len(layers) == 1:
            frames.update(dict.fromkeys(map(str, frame.nodes()), layers))
        claimed |= _frames(frame, frames)
    return claimed


def drawing_of_networkx(graph: nx.DiGraph) -> Drawing:
    """Read a directed networkx graph.

    Its nodes have either a ``label``, as networkx reads them from DOT, or ``inputs``, ``outputs`` and ``devices``, as
    `perfsim.OperatorGraph.to_networkx` writes them.

    Raises
    ------
    InputError
        The graph is not directed, is empty, or has no labels to read.
    """
    if not graph.is_directed():
        raise InputError.of("graph", str(graph), "must be a directed graph", "give a networkx.DiGraph")
    nodes = [_networkx_node(str(name), fields) for name, fields in graph.nodes(data=True)]
    edges = [(str(producer), str(consumer)) for producer, consumer in graph.edges()]
    return _drawing(nodes, edges, set(), "graph", str(graph))


def _networkx_node(name: str, fields: dict[str, Any]) -> Node:
    if "label" in fields:
        return node_of(name, str(fields["label"]).strip('"'))
    devices = frozenset(int(device) for device in fields.get("devices", ())) or None

    def shapes(side: str, whole: str) -> list[Shape]:
        return [_shape(getattr(tensor, whole), named=whole == "shape") for tensor in fields.get(side, ())]

    weight, words = fields.get("weight"), f"{name} {fields.get('kind', '')}"
    if getattr(weight, "shard_axis", None) is not None:
        words += " (row)" if weight.shard_axis == 0 else " (column)"  # type: ignore[union-attr]
    return node_of(
        name,
        Label(
            words,
            inputs=shapes("inputs", "shape"),
            outputs=shapes("outputs", "shape"),
            device_inputs=shapes("inputs", "device_shape"),
            device_outputs=shapes("outputs", "device_shape"),
            devices=devices,
            targets=devices,
        ),
    )


def _shape(extents: Iterable[int], *, named: bool) -> Shape:
    """Make the shape of a tensor, whose axes are sequences, tokens and width."""
    found = tuple(extents)
    names = ("batch", "sequence", "width") if len(found) == 3 and named else ("",) * len(found)  # noqa: PLR2004
    return Shape(tuple(map(Axis, names, found)), str(list(found)))


def _drawing(nodes: Iterable[Node], edges: list[tuple[str, str]], claimed: set[int], field: str, shown: str) -> Drawing:
    """Leave out notes and legends: nodes that say nothing of an operator and stand alone."""
    joined = {name for edge in edges for name in edge}
    kept = {node.name: node for node in nodes if node.name in joined or node.inputs or node.outputs or node.devices}
    if not kept:
        raise InputError.of(field, shown, "has no operators", _WAY_OUT)
    if not any(node.inputs or node.outputs for node in kept.values()):
        raise InputError.of(field, shown, "has no label with Input: [...] or Output: [...]", _WAY_OUT)
    return Drawing(kept, tuple(edges), frozenset(claimed))
