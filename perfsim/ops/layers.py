"""THE operator list of a layer: what a layer computes on one device, in order, for one microbatch.

Everything else (graph, costs, memory, sweeps) reads this list, so an operator is described once. Sizes may be arrays.

Tensor parallelism follows Megatron-LM (Shoeybi et al., 2019, section 3): column-parallel matrices take the whole
hidden vector and give a shard; row-parallel ones take a shard and give a partial sum, which an all-reduce completes.
"""

from __future__ import annotations

from dataclasses import dataclass

from perfsim.ops.operators import Attention, Collective, Elementwise, MatMul, Quantity, Work
from perfsim.spec.model import Model
from perfsim.units import DTYPE_BYTES

__all__ = [
    "PARTIAL",
    "REPLICATED",
    "SHARDED",
    "LayerOperator",
    "Slot",
    "Tokens",
    "Weight",
    "layer_operators",
]

REPLICATED, SHARDED, PARTIAL = "replicated", "sharded", "partial"

_LAYERNORM_FLOP = 7
"""An element's share of a layer norm: sum, squared deviation (3), shift and scale (2), gain."""
_GELU_FLOP = 9
"""An element of a GELU in its tanh form, tanh counted as one (Hendrycks and Gimpel, 2016)."""


@dataclass(frozen=True)
class Tokens:
    """The tokens that go through together: `sequences` of `query` new tokens over `context` keys each."""

    sequences: Quantity
    query: Quantity
    context: Quantity
    causal: bool
    dtype: str
    kv_dtype: str

    @property
    def count(self) -> Quantity:
        """New tokens."""
        return self.sequences * self.query


@dataclass(frozen=True)
class Slot:
    """A tensor between operators of a layer: its name, the width of its last axis and how ranks hold that axis."""

    name: str
    width: int
    placement: str = REPLICATED

    def device_width(self, tensor: int) -> int:
        """Width that one tensor rank holds."""
        return self.width // tensor if self.placement == SHARDED else self.width


@dataclass(frozen=True)
class Weight:
    """A parameter matrix (or vector) of the layer and the axis over which tensor ranks share it, if any."""

    shape: tuple[int, ...]
    shard_axis: int | None = None

    @property
    def count(self) -> int:
        """Parameters of the whole model's matrix."""
        product = 1
        for size in self.shape:
            product *= size
        return product

    def device_count(self, tensor: int) -> int:
        """Parameters that one tensor rank holds."""
        return self.count // tensor if self.shard_axis is not None else self.count


@dataclass(frozen=True)
class LayerOperator:
    """One operator of a layer on one device."""

    op: str
    work: Work
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    weight: Weight | None = None


def layer_operators(model: Model, tokens: Tokens, tensor: int, span: tuple[int, ...]) -> tuple[LayerOperator, ...]:
    """List the operators of one layer on one tensor rank.

    Parameters
    ----------
    model : Model
    tokens : Tokens
        What goes through; its sizes may be arrays.
    tensor : int
        Tensor-parallel degree. The all-reduces are there only when it is above 1.
    span : tuple of int
        Members of the tensor group at each network tier.

    Returns
    -------
    tuple of LayerOperator
        In an order in which every input is there before it is used. The first input slot is ``layer_input``.
    """
    build = _Layer(model, tokens, tensor, span)
    x = Slot("layer_input", model.hidden_size)
    query_width = model.num_attention_heads * model.head_size
    kv_width = model.kv_heads * model.head_size

    normed = build.norm("attention_norm", x)
    q, k, v = build.column_parallel("qkv_proj", normed, {"q": query_width, "k": kv_width, "v": kv_width})
    attended = build.attention("attention", q, k, v)
    projected = build.row_parallel("output_proj", attended)
    x = build.residual("attention_residual", x, build.all_reduce("attention_all_reduce", projected))

    normed = build.norm("mlp_norm", x)
    (up,) = build.column_parallel("mlp_up", normed, {"mlp_up_out": model.intermediate_size})
    down = build.row_parallel("mlp_down", build.gelu("gelu", up))
    build.residual("mlp_residual", x, build.all_reduce("mlp_all_reduce", down))
    return tuple(build.operators)


class _Layer:
    """Appends operators one by one; each method returns the slots that the operator gives."""

    def __init__(self, model: Model, tokens: Tokens, tensor: int, span: tuple[int, ...]) -> None:
        self.model, self.tokens, self.tensor, self.span = model, tokens, tensor, span
        self.operators: list[LayerOperator] = []

    def _bytes(self, slot: Slot) -> Quantity:
        return self.tokens.count * slot.device_width(self.tensor) * DTYPE_BYTES[self.tokens.dtype]

    def _append(
        self, op: str, work: Work, inputs: tuple[Slot, ...], outputs: tuple[Slot, ...], weight: Weight | None = None
    ) -> None:
        self.operators.append(LayerOperator(op, work, inputs, outputs, weight))

    def norm(self, op: str, x: Slot) -> Slot:
        out = Slot(f"{op}_out", x.width)
        gain = Weight((x.width,))
        gain_bytes = x.width * DTYPE_BYTES[self.tokens.dtype]
        flop = _LAYERNORM_FLOP * self.tokens.count * x.width
        self._append(
            op, Elementwise("layernorm", self._bytes(x) + gain_bytes, self._bytes(out), flop), (x,), (out,), gain
        )
        return out

    def column_parallel(self, op: str, x: Slot, widths: dict[str, int]) -> tuple[Slot, ...]:
        outputs = tuple(Slot(name, width, SHARDED) for name, width in widths.items())
        total = sum(widths.values())
        work = MatMul(self.tokens.count, total // self.tensor, x.width, self.tokens.dtype)
        self._append(op, work, (x,), outputs, Weight((x.width, total), shard_axis=1))
        return outputs

    def row_parallel(self, op: str, x: Slot) -> Slot:
        hidden = self.model.hidden_size
        out = Slot(f"{op}_out", hidden, PARTIAL if self.tensor > 1 else REPLICATED)
        work = MatMul(self.tokens.count, hidden, x.device_width(self.tensor), self.tokens.dtype)
        self._append(op, work, (x,), (out,), Weight((x.width, hidden), shard_axis=0))
        return out

    def attention(self, op: str, q: Slot, k: Slot, v: Slot) -> Slot:
        out = Slot(f"{op}_out", q.width, SHARDED)
        tokens, model = self.tokens, self.model
        work = Attention(
            tokens.sequences, tokens.query, tokens.context,
            model.num_attention_heads // self.tensor, model.kv_heads // self.tensor, model.head_size,
            tokens.dtype, tokens.kv_dtype, tokens.causal,
        )  # fmt: skip
        self._append(op, work, (q, k, v), (out,))
        return out

    def all_reduce(self, op: str, x: Slot) -> Slot:
        if self.tensor == 1:
            return x
        out = Slot(f"{op}_out", x.width)
        self._append(op, Collective("all_reduce", self._bytes(x), self.span), (x,), (out,))
        return out

    def gelu(self, op: str, x: Slot) -> Slot:
        out = Slot(f"{op}_out", x.width, SHARDED)
        flop = _GELU_FLOP * self.tokens.count * x.device_width(self.tensor)
        self._append(op, Elementwise("gelu", self._bytes(x), self._bytes(out), flop), (x,), (out,))
        return out

    def residual(self, op: str, x: Slot, y: Slot) -> Slot:
        out = Slot(f"{op}_out", x.width)
        flop = self.tokens.count * x.width
        self._append(op, Elementwise("add", self._bytes(x) + self._bytes(y), self._bytes(out), flop), (x, y), (out,))
        return out
