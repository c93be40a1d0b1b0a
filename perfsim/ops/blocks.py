"""The building blocks of layers: each appends one operator, or a few, and gives the slots that they make.

Tensor parallelism follows Megatron-LM (Shoeybi et al., 2019, section 3): column-parallel matrices take the whole hidden
vector and give a shard; row-parallel ones take a shard and give a partial sum, which an all-reduce completes. Sequence
parallelism (Korthikanti et al., 2022, section 4.2.2) splits the all-reduce: a reduce-scatter leaves each rank its share
of the tokens, and an all-gather brings them together before the next column-parallel matrix.
"""

from __future__ import annotations

import dataclasses

from perfsim.ops.operators import ELEMENT_BYTES, Attention, Collective, Elementwise, MatMul, Nothing, Quantity, Work
from perfsim.ops.slots import (
    PARTIAL,
    REPLICATED,
    SEQUENCE,
    SHARDED,
    LayerOperator,
    Precision,
    Sharding,
    Slot,
    Tokens,
    Weight,
)
from perfsim.spec.model import Model

__all__ = ["Blocks"]

_NORM_FLOP = {"layernorm": 7, "rmsnorm": 4}
"""An element's share of a norm: sum, squared deviation (3), shift and scale (2), gain; without the mean: square, sum,
scale, gain."""
_ACTIVATION_FLOP = {"gelu": 9, "silu": 4, "relu": 1}
"""An element of an activation: a GELU in its tanh form, tanh counted as one (Hendrycks and Gimpel, 2016); a SiLU as
exponential, sum, quotient and product."""
_ROTARY_FLOP = 3


class Blocks:
    """Appends operators one by one."""

    def __init__(self, model: Model, tokens: Tokens, sharding: Sharding) -> None:
        self.model, self.tokens, self.sharding = model, tokens, sharding
        self.tensor = sharding.tensor
        self.operators: list[LayerOperator] = []

    def num_bytes(self, *slots: Slot) -> Quantity:
        """Bytes of some slots on one rank."""
        return sum(slot.num_bytes(self.tokens, self.tensor) for slot in slots)

    def rows(self, slot: Slot) -> Quantity:
        """Tokens of a slot on one rank."""
        sequences, query, _ = slot.device_shape(self.tokens, self.tensor)
        return sequences * query

    def append(self, op: str, work: Work, inputs: tuple[Slot, ...], outputs: tuple[Slot, ...], **about: object) -> None:
        """Append an operator."""
        self.operators.append(LayerOperator(op, work, inputs, outputs, **about))  # type: ignore[arg-type]

    def stored(self, precision: Precision) -> str | None:
        """How weights are stored; None where they are like activations."""
        dtype = precision.weight_dtype or precision.dtype
        return None if ELEMENT_BYTES[dtype] == ELEMENT_BYTES[self.tokens.dtype] else dtype

    def point(self, op: str, point: str, x: Slot, **changes: object) -> Slot:
        """Append an operator without cost, whose output is its input with some changes."""
        out = dataclasses.replace(x, name=f"{op}_out", **changes)  # type: ignore[arg-type]
        self.append(op, Nothing(), (x,), (out,), point=point)
        return out

    def elementwise(
        self, op: str, what: str, inputs: tuple[Slot, ...], outputs: tuple[Slot, ...], *, flop: Quantity = 0,
        weight: Weight | None = None,
    ) -> None:  # fmt: skip
        """Append a kernel that reads and writes everything once."""
        read = self.num_bytes(*inputs) + (weight.device_bytes(self.tokens.dtype) if weight else 0)
        self.append(op, Elementwise(what, read, self.num_bytes(*outputs), flop), inputs, outputs, weight=weight)

    def norm(self, op: str, *parts: Slot) -> Slot:
        """Normalise a tensor, which may come in parts."""
        x = parts[0]
        out = Slot(f"{op}_out", x.width, x.placement)
        bias = x.width if self.model.norm_bias else 0
        weight = Weight((x.width,), bias=bias, device_bias=bias)
        flop = _NORM_FLOP[self.model.norm] * self.rows(out) * x.width
        self.elementwise(op, self.model.norm, parts, (out,), flop=flop, weight=weight)
        return out

    def column_parallel(
        self, op: str, x: Slot, outputs: tuple[Slot, ...], precision: Precision, *, bias: bool = False
    ) -> tuple[Slot, ...]:
        """Multiply the whole width by shares of the columns."""
        return self._matmul(op, x, outputs, precision, bias=bias, shard_axis=1)

    def replicated(
        self, op: str, x: Slot, outputs: tuple[Slot, ...], precision: Precision, *, bias: int = 0
    ) -> tuple[Slot, ...]:
        """Multiply by a whole matrix on every rank."""
        return self._matmul(op, x, outputs, precision, bias=bool(bias), bias_width=bias)

    def _matmul(
        self, op: str, x: Slot, outputs: tuple[Slot, ...], precision: Precision, *, bias: bool,
        shard_axis: int | None = None, bias_width: int = 0,
    ) -> tuple[Slot, ...]:  # fmt: skip
        width, mine = (sum(sizes) for sizes in zip(*((o.width, o.width_on(self.tensor)) for o in outputs), strict=True))
        weight = Weight(
            (x.width, width), shard_axis, (x.width, mine), dtype=self.stored(precision),
            bias=(bias_width or width) if bias else 0, device_bias=(bias_width or mine) if bias else 0,
        )  # fmt: skip
        work = MatMul(self.rows(outputs[0]), mine, x.width, *precision)
        self.append(op, work, (x,), outputs, weight=weight)
        return outputs

    def row_parallel(
        self, op: str, completion: str, x: Slot, precision: Precision, *, bias: bool = False
    ) -> tuple[Slot, ...]:
        """Multiply shares of the width and complete the partial sums; in parts where the plan overlaps the two."""
        partial = self.partial_sums(op, x, precision, bias=bias)
        return tuple(self.complete(completion, slot) for slot in partial)

    def lookup(self, op: str, ids: Slot, out: Slot, read: Quantity, weight: Weight) -> None:
        """Look rows of a table up."""
        self.append(op, Elementwise("embedding", read, self.num_bytes(out)), (ids,), (out,), weight=weight)

    def head(self, op: str, x: Slot, logits: Slot) -> tuple[Slot, ...]:
        """Multiply by the head, which is not quantised and may be the embedding once more."""
        model = self.model
        share = logits.width_on(self.tensor)
        weight = Weight(
            (x.width, model.vocab_size), 1, (x.width, share), tied=model.tie_word_embeddings,
            bias=model.vocab_size if model.head_bias else 0, device_bias=share if model.head_bias else 0,
        )  # fmt: skip
        self.append(op, MatMul(self.rows(logits), share, x.width, self.tokens.dtype), (x,), (logits,), weight=weight)
        return (logits,)

    def partial_sums(
        self, op: str, x: Slot, precision: Precision, *, bias: bool = False, whole: bool = False
    ) -> tuple[Slot, ...]:
        """Multiply shares of the width, in parts where the plan overlaps unless it must be `whole`."""
        hidden = self.model.hidden_size
        parts = 1 if self.tensor == 1 or whole else self.sharding.overlap_chunks
        weight = Weight(
            (x.width, hidden), 0, (x.width_on(self.tensor), hidden), bias=hidden if bias else 0,
            device_bias=hidden if bias else 0, dtype=self.stored(precision),
        )  # fmt: skip
        outputs = []
        for part in range(parts):
            name = op if parts == 1 else f"{op}.{part}"
            out = Slot(f"{name}_out", hidden, PARTIAL if self.tensor > 1 else REPLICATED, part=(part, parts))
            work = MatMul(self.rows(out), hidden, x.width_on(self.tensor), *precision)
            self.append(name, work, (x,), (out,), weight=weight)
            weight = dataclasses.replace(weight, tied=True, bias=0, device_bias=0)  # the next part takes the same
            outputs.append(out)
        return tuple(outputs)

    def complete(self, base: str, x: Slot) -> Slot:
        """Add the partial sums of the tensor ranks: each gets all of them, or its share of the tokens."""
        if self.tensor == 1:
            return x
        op, placement = ("reduce_scatter", SEQUENCE) if self.sharding.sequence_parallel else ("all_reduce", REPLICATED)
        name = f"{base}_{op}" if x.part[1] == 1 else f"{base}_{op}.{x.part[0]}"
        out = Slot(f"{name}_out", x.width, placement, part=x.part)
        work = Collective(op, self.num_bytes(x), self.sharding.tensor_span)
        self.append(name, work, (x,), (out,), group="tensor")
        return out

    def gather(self, op: str, x: Slot, placement: str = SEQUENCE) -> Slot:
        """Bring together the shares of the tensor ranks, if they have any."""
        if x.placement != placement or self.tensor == 1:
            return x
        out = dataclasses.replace(x, name=f"{op}_out", placement=REPLICATED, device_width=None)
        work = Collective("all_gather", self.num_bytes(out), self.sharding.tensor_span)
        self.append(op, work, (x,), (out,), group="tensor")
        return out

    def rotary(self, op: str, *slots: Slot, head_size: int) -> tuple[Slot, ...]:
        """Rotate queries and keys by their positions, in one kernel with their norms where they have them."""
        outputs = tuple(dataclasses.replace(slot, name=f"{slot.name}_rotated") for slot in slots)
        weight = None
        if self.model.qk_norm == "head":
            weight = Weight((len(slots) * head_size,))
        elif self.model.qk_norm:
            mine = sum(slot.width_on(self.tensor) for slot in slots)
            weight = Weight((sum(slot.width for slot in slots),), 0, (mine,))
        width = sum(slot.width_on(self.tensor) for slot in slots)
        flop = _ROTARY_FLOP * self.rows(slots[0]) * width
        self.elementwise(op, "rotary", slots, outputs, flop=flop, weight=weight)
        return outputs

    def attention(self, work: Attention, inputs: tuple[Slot, ...], out: Slot, sinks: Weight | None) -> Slot:
        """Attend to all keys at once, or to those of one rank of a ring after the other (Liu et al., 2023).

        The keys and values of the next step travel while the present ones are computed. Every step has the same work:
        ranks hold tokens from both ends of a sequence, so that a causal mask leaves each the same.
        """
        steps = self.sharding.context
        if steps == 1:
            self.append("attention", work, inputs, (out,), weight=sinks)
            return out
        q, k, v = inputs
        found: tuple[Slot, ...] = ()
        for step in range(steps):
            mine = dataclasses.replace(out, name=f"attention_{step}_out")
            self.append(f"attention_{step}", work, (q, k, v, *found), (mine,), weight=None if step else sinks)
            found = (mine,)
            if step < steps - 1:
                moved = tuple(dataclasses.replace(slot, name=f"{slot.name[0]}_{step + 1}") for slot in (k, v))
                shift = Collective("ring_shift", self.num_bytes(k, v), self.sharding.context_span)
                self.append(f"kv_shift_{step + 1}", shift, (k, v), moved, group="context")
                k, v = moved
        return found[0]

    def activation(self, op: str, *slots: Slot) -> Slot:
        """Apply the activation to a tensor, or to a gate that multiplies a second one."""
        act = self.model.hidden_act
        out = Slot(f"{op}_out", slots[0].width, SHARDED)
        per_element = _ACTIVATION_FLOP[act] + len(slots) - 1
        flop = per_element * self.rows(out) * out.width_on(self.tensor)
        self.elementwise(op, "gated" if len(slots) > 1 else act, slots, (out,), flop=flop)
        return out

    def residual(self, op: str, x: Slot, *parts: Slot) -> Slot:
        """Add two tensors, of which the second may come in parts."""
        out = Slot(f"{op}_out", x.width, x.placement)
        self.elementwise(op, "add", (x, *parts), (out,), flop=self.rows(out) * x.width)
        return out
