"""What operators of a layer pass on to each other, and how the ranks of a stage share it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from perfsim.ops.operators import ELEMENT_BYTES, Quantity, Work

__all__ = [
    "PARTIAL", "REPLICATED", "ROUTED", "SEQUENCE", "SHARDED",
    "LayerOperator", "Precision", "Sharding", "Slot", "Tokens", "Weight",
]  # fmt: skip

REPLICATED, SHARDED, PARTIAL = "replicated", "sharded", "partial"
SEQUENCE, ROUTED = "sequence", "routed"
"""Tensor ranks hold copies, shares of the last axis, summands, shares of the tokens, or the tokens that came for the
experts of each."""


@dataclass(frozen=True)
class Tokens:
    """The tokens that go through together: `sequences` of `query` new tokens over `context` keys each.

    Under context parallelism they are one rank's share, and so are the keys that it sees at a time.
    """

    sequences: Quantity
    query: Quantity
    context: Quantity
    causal: bool
    dtype: str
    kv_dtype: str
    expert_imbalance: float = 1.0
    expert_skew: float = 0.0

    @property
    def count(self) -> Quantity:
        """New tokens."""
        return self.sequences * self.query


class Precision(NamedTuple):
    """How matrices are multiplied, how their weights are stored where that differs, and whether scales are static."""

    dtype: str
    weight_dtype: str | None = None
    static_scales: bool = False


@dataclass(frozen=True)
class Sharding:
    """How the ranks of a stage share a layer; each span has the members of a group at each network tier."""

    linear: Precision
    attention: Precision
    experts: Precision
    tensor: int = 1
    context: int = 1
    expert: int = 1
    sequence_parallel: bool = False
    overlap_chunks: int = 1
    tensor_span: tuple[int, ...] = (1,)
    context_span: tuple[int, ...] = (1,)
    expert_span: tuple[int, ...] = (1,)

    @property
    def exchanges_tokens(self) -> bool:
        """Whether tokens travel to the experts' ranks, because these do not hold all tokens already."""
        return self.expert > self.tensor or (self.sequence_parallel and self.expert > 1)

    @property
    def expert_tensor(self) -> int:
        """Ranks that share the matrices of one expert."""
        return max(1, self.tensor // self.expert)


@dataclass(frozen=True)
class Slot:
    """A tensor between operators of a layer.

    Attributes
    ----------
    name : str
    width : int
        Of its last axis, on all ranks together.
    placement : str
        How tensor ranks hold it.
    device_width : int, optional
        Width that one rank holds; what the placement says when left out. Heads of K and V, and the padded vocabulary,
        have one of their own.
    part : tuple of (int, int)
        Which of how many parts of the tokens it has.
    last_only : bool
        Whether it has the last token of each sequence only.
    copies : int
        Ranks to which each token goes, where it is routed.
    dtype : str, optional
        That of the activations when left out.
    """

    name: str
    width: int
    placement: str = REPLICATED
    device_width: int | None = None
    part: tuple[int, int] = (0, 1)
    last_only: bool = False
    copies: int = 1
    dtype: str | None = None

    def width_on(self, tensor: int) -> int:
        """Width that one tensor rank holds."""
        if self.device_width is not None:
            return self.device_width
        return self.width // tensor if self.placement == SHARDED else self.width

    def device_shape(self, tokens: Tokens, tensor: int) -> tuple[Quantity, Quantity, int]:
        """Sequences, tokens and width that one rank holds. Shares of tokens that do not come out even are padded."""
        sequences, query = tokens.sequences, tokens.query
        if self.last_only:
            query = query * 0 + 1
        index, parts = self.part
        if parts > 1:
            share = [_share(size, index, parts) for size in (sequences, query)]
            sequences, query = _pick(query, share[0], sequences), _pick(query, query, share[1])
        if self.placement in {SEQUENCE, ROUTED} and tensor > 1:
            sequences, query = (
                _pick(query, -(-sequences // tensor), sequences), _pick(query, query, -(-query // tensor)),
            )  # fmt: skip
        return sequences * self.copies, query, self.width_on(tensor)

    def num_bytes(self, tokens: Tokens, tensor: int) -> Quantity:
        """Bytes that one rank holds."""
        return math.prod(self.device_shape(tokens, tensor)) * ELEMENT_BYTES[self.dtype or tokens.dtype]


def _share(size: Quantity, index: int, parts: int) -> Quantity:
    """Size of one of `parts` shares that add up exactly."""
    return size * (index + 1) // parts - size * index // parts


def _pick(query: Quantity, decoding: Quantity, prefilling: Quantity) -> Quantity:
    """Take one value where a single token of each sequence is computed, another where there are more."""
    if np.ndim(query) == 0:
        return decoding if query == 1 else prefilling
    return np.where(np.equal(query, 1), decoding, prefilling)


@dataclass(frozen=True)
class Weight:
    """Parameters of an operator, and how tensor ranks share them.

    Attributes
    ----------
    shape : tuple of int
    shard_axis : int, optional
        Axis over which ranks share them.
    device_shape : tuple of int, optional
        What one rank holds; `shape` when left out.
    bias, device_bias : int
        Parameters beside the matrix.
    dtype : str, optional
        How they are stored; like activations when left out.
    tied : bool
        Whether another operator has the same matrix; biases are its own.
    """

    shape: tuple[int, ...]
    shard_axis: int | None = None
    device_shape: tuple[int, ...] | None = None
    bias: int = 0
    device_bias: int = 0
    dtype: str | None = None
    tied: bool = False

    @property
    def count(self) -> int:
        """Parameters on all ranks together, copies counted once."""
        return math.prod(self.shape) + self.bias

    @property
    def own_count(self) -> int:
        """Parameters on all ranks together that no other operator has."""
        return self.bias if self.tied else self.count

    @property
    def device_count(self) -> int:
        """Parameters that one rank holds."""
        return math.prod(self.device_shape or self.shape) + self.device_bias

    def device_bytes(self, dtype: str) -> int:
        """Bytes that one rank holds; biases are stored like activations, in `dtype`."""
        matrix = math.prod(self.device_shape or self.shape) * ELEMENT_BYTES[self.dtype or dtype]
        return math.ceil(matrix) + self.device_bias_bytes(dtype)

    def device_bias_bytes(self, dtype: str) -> int:
        """Bytes of the biases that one rank holds."""
        return int(self.device_bias * ELEMENT_BYTES[dtype])


@dataclass(frozen=True)
class LayerOperator:
    """One operator of a layer on one device.

    `kind` is that of its work, or the name of a point without cost; `group` says which ranks carry out a collective
    together: ``tensor``, ``context`` or ``expert``.
    """

    op: str
    work: Work
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    weight: Weight | None = None
    group: str | None = None
    point: str = ""

    @property
    def kind(self) -> str:
        """Kind of the operator; whatever a group carries out together is a collective."""
        return "collective" if self.group else self.point or self.work.kind
