"""HOW MUCH: the few kinds of work that a device does, and what one execution of each amounts to.

Every size may be an array, so that a sweep prices all its points at once; FLOP and bytes then are arrays too.
"""

from __future__ import annotations

import itertools
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
    "ExpertExchange",
    "Experts",
    "MatMul",
    "Nothing",
    "Transfer",
    "Work",
    "attended_pairs",
    "seen_keys",
]

ELEMENT_BYTES = {**DTYPE_BYTES, "int32": 4, "fp8_block": 1, "fp4": 0.5625, "int4": 0.5625}
"""Bytes of one element in a kernel, the scales of its block included where they count: four bits and eight more for
each 16 or 32 elements. Tensors and caches of a plan have whole bytes."""

Quantity = Any
"""A number or an array of numbers that broadcasts against its neighbours."""


@dataclass(frozen=True)
class MatMul:
    """A matrix multiplication ``[m, k] @ [k, n]`` whose right-hand side is a weight.

    FLOP counts a multiplication and an addition as two; bytes count each operand once. `weight_dtype` says how the
    weight is stored where it is not as it is multiplied: quantised weights that a kernel unpacks.
    With `static_scales` the scales of the activations are known beforehand: the kernel before gives them quantised.
    """

    kind: ClassVar[str] = "matmul"
    m: Quantity
    n: Quantity
    k: Quantity
    dtype: str
    weight_dtype: str | None = None
    static_scales: bool = False

    @property
    def flop(self) -> Quantity:
        """Floating-point operations."""
        return 2 * self.m * self.n * self.k

    @property
    def weight_bytes(self) -> Quantity:
        """Bytes of the weight."""
        return self.k * self.n * ELEMENT_BYTES[self.weight_dtype or self.dtype]

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
    counts half of the diagonal). With a `window` above 0 a token sees at most so many keys. V may have another width
    than Q and K; in `latent` attention (DeepSeek-V2, 2024, section 2.1) V is the first part of K, which is read once.
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
    window: int = 0
    value_dim: Quantity | None = None
    latent: bool = False

    weight_bytes: ClassVar[int] = 0

    @property
    def value_width(self) -> Quantity:
        """Width of one head of V and of the result."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def flop(self) -> Quantity:
        """Floating-point operations of both matrix products, over the pairs that the mask leaves."""
        pairs = attended_pairs(self.query_tokens, self.context_tokens, causal=self.causal, window=self.window)
        return 2 * self.sequences * self.num_heads * (self.head_dim + self.value_width) * pairs

    @property
    def kv_bytes(self) -> Quantity:
        """Bytes of the keys and values that are seen."""
        width = self.head_dim + np.where(self.latent, 0, self.value_width)
        keys = seen_keys(self.query_tokens, self.context_tokens, window=self.window)
        return self.sequences * keys * self.num_kv_heads * width * ELEMENT_BYTES[self.kv_dtype]

    @property
    def read_bytes(self) -> Quantity:
        """Bytes of Q, K and V."""
        query = self.sequences * self.query_tokens * self.num_heads * self.head_dim * ELEMENT_BYTES[self.dtype]
        return query + self.kv_bytes

    @property
    def written_bytes(self) -> Quantity:
        """Bytes of the result."""
        return self.sequences * self.query_tokens * self.num_heads * self.value_width * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True)
class Experts:
    """All experts of one layer on one device: both grouped multiplications, sorting, activation and weighted sum.

    `pairs` of a token and one of its experts is the mean over devices; the busiest device has `imbalance` times as
    many, and as the others wait for it, it is the one that is priced. FLOP count the mean. An expert's popularity
    falls as its rank to the power of ``-skew``.
    """

    kind: ClassVar[str] = "experts"
    pairs: Quantity
    num_experts: int
    hidden_size: int
    expert_width: int
    dtype: str
    weight_dtype: str | None = None
    gated: bool = True
    skew: float = 0.0
    imbalance: float = 1.0

    @property
    def matrices(self) -> int:
        """Matrices of one expert."""
        return 3 if self.gated else 2

    @property
    def flop(self) -> Quantity:
        """Floating-point operations of the pairs."""
        return 2 * self.pairs * self.hidden_size * self.expert_width * self.matrices

    @property
    def weight_bytes(self) -> Quantity:
        """Bytes of the weights of all experts of the device."""
        count = self.num_experts * self.hidden_size * self.expert_width * self.matrices
        return count * ELEMENT_BYTES[self.weight_dtype or self.dtype]

    @property
    def read_bytes(self) -> Quantity:
        """Bytes of the rows and of the weights of the experts that have any, of which no more than there are pairs."""
        used = np.minimum(self.pairs / self.num_experts, 1)
        return self.pairs * self.hidden_size * ELEMENT_BYTES[self.dtype] + self.weight_bytes * used

    @property
    def written_bytes(self) -> Quantity:
        """Bytes of the result of each pair."""
        return self.pairs * self.hidden_size * ELEMENT_BYTES["bf16"]


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

    In a ``ring_shift`` every device passes the payload on to the next one of the ring (context parallelism).
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
        whole = self.op in {"all_reduce", "reduce_scatter", "ring_shift"}
        return self.payload_bytes if whole else self.payload_bytes / self.group_size

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
        """Bytes that one device sends at each network tier, as rings inside and across the domains send them.

        In a ring shift those of the device that stands last in its domain count: they cross the outermost tier.
        """
        if self.op == "ring_shift":
            outermost = max(tier for tier, members in enumerate(self.span) if members > 1)
            return tuple(self.payload_bytes if tier == outermost else 0 for tier in range(len(self.span)))
        trips = 2 if self.op == "all_reduce" else 1
        shares = zip(self.tier_payload_bytes, self.span, strict=True)
        return tuple(trips * (share * (members - 1) / members) for share, members in shares)


@dataclass(frozen=True)
class ExpertExchange:
    """An all-to-all that takes tokens to the devices of their experts (``dispatch``) or results back (``combine``).

    Every device of the group, whose members at each network tier are in `span`, sends its own `tokens` to the
    `experts_per_token` experts of each, which are spread evenly over the group.
    """

    kind: ClassVar[str] = "exchange"
    op: str
    tokens: Quantity
    hidden_size: int
    experts_per_token: int
    num_experts: int
    dtype: str
    span: tuple[int, ...]

    flop: ClassVar[int] = 0
    weight_bytes: ClassVar[int] = 0

    @property
    def group_size(self) -> int:
        """Devices of the group."""
        return math.prod(self.span)

    @property
    def payload_bytes(self) -> Quantity:
        """Bytes of all copies of one device's tokens."""
        return self.tokens * self.experts_per_token * self.hidden_size * ELEMENT_BYTES[self.dtype]

    @property
    def read_bytes(self) -> Quantity:
        """Bytes that one device puts in."""
        return self.payload_bytes

    @property
    def written_bytes(self) -> Quantity:
        """Bytes that one device gets out."""
        return self.payload_bytes

    @property
    def wire_bytes(self) -> tuple[Quantity, ...]:
        """Bytes that one device sends at each network tier: to a share of the group that lies outside of a domain."""
        inside = [math.prod(self.span[:tier]) for tier in range(len(self.span) + 1)]
        size = self.group_size
        return tuple(self.payload_bytes * (outer - inner) / size for inner, outer in itertools.pairwise(inside))


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


Work = MatMul | Attention | Experts | Elementwise | Collective | ExpertExchange | Transfer | Nothing


def seen_keys(query_tokens: Quantity, context_tokens: Quantity, *, window: int = 0) -> Quantity:
    """Count the keys of a sequence that any of its new tokens sees.

    Examples
    --------
    >>> int(seen_keys(1, 4096, window=128)), int(seen_keys(4096, 4096, window=128))
    (128, 4096)
    """
    return np.minimum(context_tokens, window + query_tokens - 1) if window else context_tokens


def attended_pairs(query_tokens: Quantity, context_tokens: Quantity, *, causal: bool, window: int = 0) -> Quantity:
    """Count the pairs of a query and a key that attention computes for one head of one sequence.

    Half of the diagonal counts, with and without a window; a single new token sees itself.

    Examples
    --------
    >>> attended_pairs(10_000, 10_000, causal=True)
    50000000.0
    >>> attended_pairs(1, 4096, causal=True)
    4096.0
    >>> attended_pairs(10_000, 10_000, causal=True, window=1000), attended_pairs(1, 4096, causal=True, window=1000)
    (9500000.0, 1000.0)
    """
    query = np.asarray(query_tokens, float)
    context = np.asarray(context_tokens, float)
    if not causal:
        pairs = query * context
    else:
        # The first new token sees `before` keys besides its own, each further token one more, up to the window.
        before = context - query
        pairs = query * before + np.where(query == 1, 1.0, query * query / 2)
        if window:
            beyond = np.maximum(np.minimum(context - window, query), 0.0)
            late = np.maximum(before - window, 0.0)
            clipped = np.where(query == 1, np.maximum(context - window, 0.0), beyond * beyond / 2 + beyond * late)
            pairs = pairs - clipped
    return pairs if pairs.ndim else float(pairs)
