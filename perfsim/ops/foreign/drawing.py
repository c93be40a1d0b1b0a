"""A graph as somebody drew it: nodes with what their labels say, and the edges between them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from perfsim.ops.foreign.labels import EVERYWHERE, Label, layers_in, read_label
from perfsim.ops.foreign.roles import role_of
from perfsim.ops.foreign.shapes import Extent, Shape

__all__ = ["Drawing", "Finding", "Node", "fault", "gap", "node_of"]

_ABBREVIATED = re.compile(
    r"similar|abbreviat|simplif|same as|repeat|\betc\b|\.\.\.|…|omitted|placeholder", re.IGNORECASE
)


class Finding(NamedTuple):
    """Something that is wrong with a drawing, or else keeps a check from being told."""

    is_fault: bool
    text: str


def fault(text: str) -> Finding:
    """Make a finding of what contradicts a claim."""
    return Finding(is_fault=True, text=text)


def gap(text: str) -> Finding:
    """Make a finding of what cannot be told."""
    return Finding(is_fault=False, text=text)


@dataclass(frozen=True)
class Node:
    """One operator as it is drawn.

    Attributes
    ----------
    name, title : str
    role : str
        What it does, as `perfsim.ops.foreign.roles` names it; empty where its words do not say.
    inputs, outputs : tuple of Shape
    device_inputs, device_outputs : tuple of Shape
        What one GPU holds of them, where the label says that beside the whole.
    devices, targets : frozenset of int or None
        Where it runs and where its output lies; None where nothing is said.
    layers : tuple of int
        The layer that it belongs to; several for a node that stands for several layers.
    """

    name: str
    title: str
    role: str
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    device_inputs: tuple[Shape, ...]
    device_outputs: tuple[Shape, ...]
    devices: frozenset[int] | None
    targets: frozenset[int] | None
    layers: tuple[int, ...]

    @property
    def layer(self) -> int | None:
        """Its layer, if it is one operator of one."""
        return self.layers[0] if len(self.layers) == 1 else None

    @property
    def gives(self) -> tuple[Shape, ...]:
        """What comes out: the model's input may say only what goes in."""
        return self.outputs or (self.inputs if self.role in {"input", "output"} else ())

    @property
    def takes(self) -> tuple[Shape, ...]:
        """What goes in."""
        return self.inputs or (self.outputs if self.role in {"input", "output"} else ())

    @property
    def is_abbreviated(self) -> bool:
        """Whether it says that it stands for more than is drawn."""
        return len(self.layers) > 1 or _ABBREVIATED.search(self.title) is not None


def node_of(name: str, label: Label | str, inherited: tuple[int, ...] = ()) -> Node:
    """Make a node of its label; a layer that neither name nor title gives is inherited from a frame around it."""
    label = read_label(label) if isinstance(label, str) else label
    title = label.title.replace("\\N", name)
    scores = any(shape.is_scores for shape in label.inputs)
    role = role_of(title, name, takes_scores=scores)
    # What moves tensors from layer to layer belongs to neither.
    layers = layers_in(name) or layers_in(title) or inherited
    if role in {"send", "input", "output"}:
        layers = ()
    return Node(
        name, title, role, tuple(label.inputs), tuple(label.outputs), tuple(label.device_inputs),
        tuple(label.device_outputs), label.devices, label.targets, layers,
    )  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """Nodes and edges.

    Attributes
    ----------
    nodes : dict of str to Node
    edges : tuple of (str, str)
        Names of producer and consumer; as many between two nodes as are drawn.
    claimed_layers : frozenset of int
        Layers that the labels of frames speak of, such as ``Stage 0: layers 0-7``.
    """

    nodes: Mapping[str, Node]
    edges: tuple[tuple[str, str], ...]
    claimed_layers: frozenset[int] = frozenset()

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    @cached_property
    def producers(self) -> dict[str, list[Node]]:
        """What feeds each node, one entry an edge."""
        found: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for producer, consumer in self.edges:
            found[consumer].append(self.nodes[producer])
        return found

    @cached_property
    def consumers(self) -> dict[str, list[Node]]:
        """What each node feeds, one entry an edge."""
        found: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for producer, consumer in self.edges:
            found[producer].append(self.nodes[consumer])
        return found

    @cached_property
    def devices(self) -> frozenset[int]:
        """All GPUs that any node names."""
        return frozenset().union(*(node.devices or () for node in self)) - EVERYWHERE

    def devices_of(self, node: Node) -> frozenset[int] | None:
        """GPUs on which a node runs; None where its label does not say."""
        return self.devices if node.devices == EVERYWHERE else node.devices

    def targets_of(self, node: Node) -> frozenset[int] | None:
        """GPUs that hold what a node gives."""
        return self.devices if node.targets == EVERYWHERE else node.targets

    @cached_property
    def hidden(self) -> Extent | None:
        """Width of the hidden state: that of the model's input, or else the most frequent one of norms and sums."""
        roles: tuple[tuple[str, ...], ...] = (("input",), ("norm", "residual"))
        for wanted in roles:
            widths = Counter(
                shape.width
                for node in self
                if node.role in wanted
                for shape in node.gives
                if isinstance(shape.width, int) and shape.width > 1
            )
            if widths:
                return widths.most_common(1)[0][0]
        return None

    @cached_property
    def groups(self) -> dict[str, frozenset[int]]:
        """GPUs that carry an operator out together: those of its node, or of all nodes that stand for one GPU each."""
        found: dict[tuple[object, ...], frozenset[int]] = {}
        keys = {}
        for node in self:
            devices = self.devices_of(node) or frozenset()
            words = re.sub(r"\d+", "#", node.title or node.name)
            apart = (node.layers, node.role, words) if node.layers and len(devices) == 1 else (node.name,)
            keys[node.name] = apart
            found[apart] = found.get(apart, frozenset()) | devices
        return {name: found[key] for name, key in keys.items()}

    @cached_property
    def local(self) -> bool:
        """Whether labels show what one GPU holds: heads of several GPUs are narrower than the hidden state."""
        return any(
            isinstance(shape.width, int) and shape.width * len(self.groups[node.name]) == self.hidden
            for node in self
            if node.role in {"q", "attention", "value"} and len(self.groups[node.name]) > 1
            for shape in node.outputs
        )
