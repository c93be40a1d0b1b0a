"""The nodes and edges of an operator graph, and the bare graph that checks and file formats read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from perfsim.ops.operators import ELEMENT_BYTES, Work
from perfsim.ops.slots import Weight
from perfsim.spec.model import LayerKind, Model
from perfsim.spec.plan import Plan
from perfsim.spec.workload import Workload

__all__ = ["POINTS", "Dag", "Edge", "Operator", "Tensor"]

POINTS = ("input", "split", "slice", "last", "receive", "gather", "output")
"""Kinds of operators that take no time."""


@dataclass(frozen=True)
class Tensor:
    """A tensor on an edge.

    Attributes
    ----------
    name : str
    shape : tuple of three int
        Of the whole batch: sequences, tokens, width.
    device_shape : tuple of three int
        What one device holds of one microbatch.
    placement : str
        How tensor ranks hold it: ``replicated``, ``sharded`` (shares of the last axis), ``partial`` (each holds a
        summand), ``sequence`` (shares of the tokens), or ``routed`` (the tokens that came for a rank's experts, once
        for each of them).
    dtype : str
    part : tuple of two int
        Which of how many parts of the tokens it has; device shapes are those of the part.
    """

    name: str
    shape: tuple[int, int, int]
    device_shape: tuple[int, int, int]
    placement: str
    dtype: str
    part: tuple[int, int] = (0, 1)

    @cached_property
    def device_bytes(self) -> int:
        """Bytes on one device, for one microbatch."""
        size = ELEMENT_BYTES[self.dtype]
        for extent in self.device_shape:
            size *= extent
        return size  # type: ignore[return-value]  # tensors have whole bytes


@dataclass(frozen=True)
class Operator:
    """A node of the graph.

    Attributes
    ----------
    name : str
        Unique, such as ``layer_03.qkv_proj``.
    op : str
        What it is within a layer, such as ``qkv_proj``.
    kind : str
        ``matmul``, ``attention``, ``experts``, ``elementwise``, ``collective``, ``transfer``, or the name of a point
        without cost: ``input``, ``split``, ``slice``, ``last``, ``receive``, ``gather``, ``output``.
    stage : int
    layer : int or None
    devices : tuple of int
        All that carry it out.
    inputs, outputs : tuple of Tensor
    work : Work
        Of one device, for one whole microbatch.
    weight : Weight or None
    group : str or None
        Ranks that carry out a collective together: ``tensor``, ``context`` or ``expert``.
    """

    name: str
    op: str
    kind: str
    stage: int
    layer: int | None
    devices: tuple[int, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    work: Work
    weight: Weight | None = None
    group: str | None = None


@dataclass(frozen=True)
class Edge:
    """Output number `output` of `producer` is input number `input` of `consumer`."""

    producer: str
    output: int
    consumer: str
    input: int


@dataclass(frozen=True)
class Dag:
    """Operators, the edges between them, and what they were made for.

    Attributes
    ----------
    operators : tuple of Operator
        In an order in which producers stand before their consumers.
    edges : tuple of Edge
    model : Model
    plan : Plan
        With the microbatch size and the layers of each stage filled in.
    workload : Workload
    """

    operators: tuple[Operator, ...]
    edges: tuple[Edge, ...]
    model: Model
    plan: Plan
    workload: Workload

    def __len__(self) -> int:
        return len(self.operators)

    def __iter__(self) -> Iterator[Operator]:
        return iter(self.operators)

    def __getitem__(self, name: str) -> Operator:
        return self._by_name[name]

    def kind_of(self, operator: Operator) -> LayerKind:
        """Give the kind of the layer to which an operator belongs; a plain one for what stands between the layers."""
        layers = self.model.layers
        return LayerKind() if operator.layer is None else layers[operator.layer % len(layers)]

    @cached_property
    def _by_name(self) -> dict[str, Operator]:
        return {operator.name: operator for operator in self.operators}
