"""The nodes and edges of an operator graph, and the bare graph that checks and file formats read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from perfsim.ops.layers import Weight
from perfsim.ops.operators import Work
from perfsim.spec.model import Model
from perfsim.spec.plan import Plan
from perfsim.spec.workload import Workload
from perfsim.units import DTYPE_BYTES

__all__ = ["Dag", "Edge", "Operator", "Tensor"]


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
        How tensor ranks hold the last axis: ``replicated``, ``sharded``, or ``partial`` (each holds a summand).
    dtype : str
    """

    name: str
    shape: tuple[int, int, int]
    device_shape: tuple[int, int, int]
    placement: str
    dtype: str

    @cached_property
    def device_bytes(self) -> int:
        """Bytes on one device, for one microbatch."""
        size = DTYPE_BYTES[self.dtype]
        for extent in self.device_shape:
            size *= extent
        return size


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
        ``matmul``, ``attention``, ``elementwise``, ``collective``, ``transfer``, or the name of a point without cost:
        ``input``, ``split``, ``receive``, ``gather``, ``output``.
    stage : int
    layer : int or None
    devices : tuple of int
        All that carry it out.
    inputs, outputs : tuple of Tensor
    work : Work
        Of one device, for one whole microbatch.
    weight : Weight or None
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

    @cached_property
    def _by_name(self) -> dict[str, Operator]:
        return {operator.name: operator for operator in self.operators}
