"""HOW MUCH: the few kinds of work that a device does, and what one execution of each amounts to.

Every size may be an array, so that a sweep prices all its points at once; FLOP and bytes then are arrays too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from perfsim.units import DTYPE_BYTES

__all__ = [
    "ELEMENT_BYTES",
    "Attention",
    "Collective",
    "Elementwise",
    "MatMul",
    "Nothing",
    "Transfer",
    "Work",
    "attended_pairs",
]

ELEMENT_BYTES = {**DTYPE_BYTES, "fp4": 0.5}
"""Bytes of one element in a kernel. In four bits only kernels are priced, without the scales of their blocks: tensors
and caches of a plan have whole bytes."""

Quantity = Any
"""A number or an array of numbers that broadcasts against its neighbours."""


@dataclass(frozen=True)
class MatMul:
    """A matrix multiplication ``[m, k] @ [k, n]`` whose right-hand side is a weight.

    FLOP counts a multiplication and an addition as two; bytes count each operand once.
    """

    kind: ClassVar[str] = "matmul"
    m: Quantity
    n: Quantity
    k: Quantity
    dtype: str

    @property
    def flop(self) -> Quantity:
        """Floating-point operations."""
        return 2 * self.m * self.n * self.k

    @property
    def weight_bytes(self) -> Quantity:
        """Bytes of the weight."""
        return self.k * self.n * ELEMENT_BYTES[self.dtype]

    @property
    def read_bytes(self) -> Quantity:
        """Bytes of both operands."""
        return self.m * self.k * ELEMENT_BYTES[self.dtype] + self.weight_bytes

    @property
    def written_bytes(self) -> Quantity:
        """Bytes of the result."""
        return self.m * self.n * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True)
class Attention:
    """Fused attention of `query_tokens` new tokens a sequence over `context_tokens` keys, the new ones included.

    A causal mask aligns at the end and halves the square of the new tokens (S^2/2, the field's convention, which
    counts half of the diagonal).
    """

    kind: ClassVar[str] = "attention"
    sequences: Quantity
    query_tokens: Quantity
    context_tokens: Quantity
    num_heads: Quantity
    num_kv_heads: Quantity
    head_dim: Quantity
    dtype: str
    kv_dtype: str
    causal: bool = True

    weight_bytes: ClassVar[int] = 0

    @property
    def flop(self) -> Quantity:
        """Floating-point operations of both matrix products, over the pairs that the mask leaves."""
        pairs = attended_pairs(self.query_tokens, self.context_tokens, causal=self.causal)
        return 4 * self.sequences * self.num_heads * self.head_dim * pairs

    @property
    def read_bytes(self) -> Quantity:
        """Bytes of Q, K and V."""
        query = self.sequences * self.query_tokens * self.num_heads * self.head_dim * ELEMENT_BYTES[self.dtype]
        keys = self.sequences * self.context_tokens * self.num_kv_heads * self.head_dim * ELEMENT_BYTES[self.kv_dtype]
        return query + 2 * keys

    @property
    def written_bytes(self) -> Quantity:
        """Bytes of the result."""
        return self.sequences * self.query_tokens * self.num_heads * self.head_dim * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True)
class Elementwise:
    """A kernel bound by memory: norms, activations, additions. `vector_flop` runs outside the matrix units."""

    kind: ClassVar[str] = "elementwise"
    op: str
    read_bytes: Quantity
    written_bytes: Quantity
    vector_flop: Quantity = 0

    flop: ClassVar[int] = 0
    weight_bytes: ClassVar[int] = 0


@dataclass(frozen=True)
class Collective:
    """An operation of a group of devices; the payload is the full tensor, as nccl-tests sizes it.

    `span` has the members of the group at each network tier, innermost first (`Cluster.span`).
    """

    kind: ClassVar[str] = "collective"
    op: str
    payload_bytes: Quantity
    span: tuple[int, ...]

    flop: ClassVar[int] = 0
    weight_bytes: ClassVar[int] = 0

    @property
    def group_size(self) -> int:
        """Devices of the group."""
        return math.prod(self.span)

    @property
    def read_bytes(self) -> Quantity:
        """Bytes that one device puts in."""
        return (
            self.payload_bytes if self.op in {"all_reduce", "reduce_scatter"} else self.payload_bytes / self.group_size
        )

    @property
    def written_bytes(self) -> Quantity:
        """Bytes that one device gets out."""
        return self.payload_bytes / self.group_size if self.op == "reduce_scatter" else self.payload_bytes

    @property
    def tier_payload_bytes(self) -> tuple[Quantity, ...]:
        """Part of the payload that the members of each network tier exchange.

        Rings go from tier to tier: the members of a domain work on shares of the payload, and each passes only its own
        on to the tier above. An all-to-all sends everything at once: what is meant for other domains skips the tier.
        """
        if self.op == "all_to_all":
            return tuple(self.payload_bytes / math.prod(self.span[tier + 1 :]) for tier in range(len(self.span)))
        return tuple(self.payload_bytes / math.prod(self.span[:tier]) for tier in range(len(self.span)))

    @property
    def wire_bytes(self) -> tuple[Quantity, ...]:
        """Bytes that one device sends at each network tier, as rings inside and across the domains send them."""
        trips = 2 if self.op == "all_reduce" else 1
        shares = zip(self.tier_payload_bytes, self.span, strict=True)
        return tuple(trips * (share * (members - 1) / members) for share, members in shares)


@dataclass(frozen=True)
class Transfer:
    """A tensor that one device sends to another over the network tier with index `tier`."""

    kind: ClassVar[str] = "transfer"
    payload_bytes: Quantity
    tier: int

    flop: ClassVar[int] = 0
    weight_bytes: ClassVar[int] = 0

    @property
    def read_bytes(self) -> Quantity:
        """Bytes sent."""
        return self.payload_bytes

    @property
    def written_bytes(self) -> Quantity:
        """Bytes received."""
        return self.payload_bytes


@dataclass(frozen=True)
class Nothing:
    """A point of the graph that takes no time: input, split, gather, output, the receiving end of a transfer."""

    kind: ClassVar[str] = "nothing"
    flop: ClassVar[int] = 0
    weight_bytes: ClassVar[int] = 0
    read_bytes: ClassVar[int] = 0
    written_bytes: ClassVar[int] = 0


Work = MatMul | Attention | Elementwise | Collective | Transfer | Nothing


def attended_pairs(query_tokens: Quantity, context_tokens: Quantity, *, causal: bool) -> Quantity:
    """Count the pairs of a query and a key that attention computes for one head of one sequence.

    Examples
    --------
    >>> attended_pairs(10_000, 10_000, causal=True)
    50000000.0
    >>> attended_pairs(1, 4096, causal=True)
    4096.0
    """
    full = query_tokens * context_tokens
    if not causal:
        return full
    square = np.where(np.equal(query_tokens, 1), 0, np.multiply(query_tokens, query_tokens))
    masked = full - square / 2
    return masked if np.ndim(masked) else float(masked)
