"""THE operator list of a model: what one rank computes for one microbatch, in order.

Everything else (graph, costs, memory, sweeps, serving) reads these lists, so an operator is described once. Sizes may
be arrays; where one token a sequence is computed (decode) and where there are more, the same operators stand in the
same order, so a whole generation is one list.
"""

from __future__ import annotations

import numpy as np

from perfsim.ops.blocks import Blocks
from perfsim.ops.operators import Attention, ExpertExchange, Experts, Quantity
from perfsim.ops.slots import (
    PARTIAL,
    REPLICATED,
    ROUTED,
    SEQUENCE,
    SHARDED,
    LayerOperator,
    Precision,
    Sharding,
    Slot,
    Tokens,
    Weight,
)
from perfsim.spec.model import LayerKind, Model

__all__ = ["attention_work", "embedding_operators", "head_operators", "layer_operators", "stage_placement"]


def stage_placement(sharding: Sharding) -> str:
    """How tensor ranks hold the hidden state between layers."""
    return SEQUENCE if sharding.sequence_parallel and sharding.tensor > 1 else REPLICATED


def layer_operators(model: Model, kind: LayerKind, tokens: Tokens, sharding: Sharding) -> tuple[LayerOperator, ...]:
    """List the operators of one layer on one rank.

    Parameters
    ----------
    model : Model
    kind : LayerKind
        Which of the model's kinds of layer.
    tokens : Tokens
        What goes through; its sizes may be arrays.
    sharding : Sharding

    Returns
    -------
    tuple of LayerOperator
        In an order in which every input is there before it is used. The first input slot is ``layer_input``.
    """
    layer = _Layer(model, tokens, sharding)
    x = Slot("layer_input", model.hidden_size, stage_placement(sharding))
    normed = layer.gather("attention_all_gather", layer.norm("attention_norm", x))
    parts = layer.attend(kind, normed)
    if model.post_norms:
        parts = (layer.norm("attention_post_norm", *parts),)
    x = layer.residual("attention_residual", x, *parts)
    if not model.parallel_block:
        normed = layer.gather("mlp_all_gather", layer.norm("mlp_norm", x))
    parts = layer.mixture(normed) if kind.experts else layer.mlp(normed)
    if model.post_norms:
        parts = (layer.norm("mlp_post_norm", *parts),)
    layer.residual("mlp_residual", x, *parts)
    return tuple(layer.operators)


def embedding_operators(model: Model, tokens: Tokens, sharding: Sharding) -> tuple[LayerOperator, ...]:
    """List what stands before the first layer: the embedding of the tokens, its rows shared by tensor ranks.

    A model without a vocabulary takes hidden states; sequence-parallel ranks then take their shares of them.
    """
    ends = Blocks(model, tokens, sharding)
    placement = stage_placement(sharding)
    if not model.vocab_size:
        if placement == SEQUENCE:
            ends.point("input_slice", "slice", Slot("layer_input", model.hidden_size), placement=SEQUENCE)
        return tuple(ends.operators)
    ids = Slot("token_ids", 1, dtype="int32")
    out = Slot("embedding_out", model.hidden_size, PARTIAL if sharding.tensor > 1 else REPLICATED)
    rows = -(-model.vocab_size // sharding.tensor)
    positions = model.learned_positions * model.hidden_size
    weight = Weight(
        (model.vocab_size, model.hidden_size), 0, (rows, model.hidden_size), bias=positions, device_bias=positions
    )
    read = ends.num_bytes(ids) + ends.num_bytes(out) * (2 if positions else 1)
    ends.lookup("embedding", ids, out, read, weight)
    ends.complete("embedding", out)
    return tuple(ends.operators)


def head_operators(model: Model, tokens: Tokens, sharding: Sharding) -> tuple[LayerOperator, ...]:
    """List what stands after the last layer: the final norm, and the logits of the last token of each sequence.

    A model without a vocabulary gives its hidden states, which sequence-parallel ranks bring together.
    """
    ends = Blocks(model, tokens, sharding)
    x = Slot("layer_input", model.hidden_size, stage_placement(sharding))
    if not model.vocab_size:
        ends.gather("output_all_gather", x)
        return tuple(ends.operators)
    normed = ends.gather("final_all_gather", ends.norm("final_norm", x))
    last = ends.point("last_token", "last", normed, last_only=True)
    share = -(-model.vocab_size // sharding.tensor)
    logits = Slot("logits", model.vocab_size, SHARDED, device_width=share, last_only=True)
    (logits,) = ends.head("lm_head", last, logits)
    ends.gather("logits_all_gather", logits, placement=SHARDED)
    return tuple(ends.operators)


def attention_work(model: Model, kind: LayerKind, tokens: Tokens, tensor: int) -> Attention:
    """Give the attention of one layer on one tensor rank.

    Latent attention (DeepSeek-V2, 2024, section 2.1) multiplies whole keys and values in prefill. In decode the
    projections of K and V are absorbed: queries meet the latent vectors themselves, which all heads share.
    """
    heads = model.num_attention_heads // tensor
    shared = {"dtype": tokens.dtype, "kv_dtype": tokens.kv_dtype, "causal": tokens.causal}
    if not model.is_latent:
        kv_heads = max(1, model.kv_heads_in(kind) // tensor)
        return Attention(
            tokens.sequences, tokens.query, tokens.context, heads, kv_heads, model.head_size_in(kind),
            window=kind.window or 0, **shared,  # type: ignore[arg-type]
        )  # fmt: skip
    rank, rope = model.kv_lora_rank or 0, model.qk_rope_head_dim or 0
    decoding = np.equal(tokens.query, 1)

    def choose(latent: int, whole: int) -> Quantity:
        return np.where(decoding, latent, whole) if decoding.ndim else latent if decoding else whole

    return Attention(
        tokens.sequences, tokens.query, tokens.context, heads, choose(1, heads),
        choose(rank + rope, (model.qk_nope_head_dim or 0) + rope), value_dim=choose(rank, model.value_head_size),
        latent=decoding if decoding.ndim else bool(decoding), **shared,  # type: ignore[arg-type]
    )  # fmt: skip


class _Layer(Blocks):
    """The two halves of a layer."""

    def attend(self, kind: LayerKind, x: Slot) -> tuple[Slot, ...]:
        """Attention from its input, already normalised, to its output in parts."""
        model, tokens = self.model, self.tokens
        inputs = self._latent_qkv(x) if model.is_latent else self._qkv(kind, x)
        work = attention_work(model, kind, tokens, self.tensor)
        heads, size = model.num_attention_heads, model.value_head_size if model.is_latent else model.head_size_in(kind)
        out = Slot("attention_out", heads * size, SHARDED)
        sinks = Weight((heads,), 0, (heads // self.tensor,)) if model.attention_sinks else None
        attended = self.attention(work, inputs, out, sinks)
        bias = model.attention_output_bias
        return self.row_parallel("output_proj", "attention", attended, self.sharding.attention, bias=bias)

    def _qkv(self, kind: LayerKind, x: Slot) -> tuple[Slot, Slot, Slot]:
        """Queries, keys and values; ranks beyond the number of heads of K and V hold copies of them."""
        model, size, heads = self.model, self.model.head_size_in(kind), self.model.kv_heads_in(kind)
        query, kv, mine = model.num_attention_heads * size, heads * size, max(1, heads // self.tensor) * size
        slots = (Slot("q", query, SHARDED), *(Slot(name, kv, SHARDED, device_width=mine) for name in ("k", "v")))
        if model.attention_k_eq_v and not kind.window:
            slots = slots[:2]
        q, k, *own = self.column_parallel("qkv_proj", x, slots, self.sharding.attention, bias=model.attention_bias)
        v = own[0] if own else k
        if model.qk_norm or (model.vocab_size and not model.learned_positions):
            q, k = self.rotary("rotary", q, k, head_size=size)
        return q, k, v

    def _latent_qkv(self, x: Slot) -> tuple[Slot, Slot, Slot, Slot]:
        """Queries, keys, values and the rotary part of all keys, from latent vectors that every rank holds.

        In decode the projection of K and V is absorbed into the queries and the result: the same multiplications with
        the same weights, before and after the attention.
        """
        model, heads = self.model, self.model.num_attention_heads
        nope, rope, rank = model.qk_nope_head_dim or 0, model.qk_rope_head_dim or 0, model.kv_lora_rank or 0
        down: tuple[Slot, ...] = (Slot("kv_latent", rank), Slot("rotary_key", rope))
        if model.q_lora_rank:
            down = (Slot("q_latent", model.q_lora_rank), *down)
        bias = sum(slot.width for slot in down) if model.attention_bias else 0
        precision = self.sharding.attention
        *latent, key = self.replicated("qkv_down_proj", x, down, precision, bias=bias)
        normed = tuple(Slot(f"{slot.name}_normed", slot.width) for slot in latent)
        width = sum(slot.width for slot in latent)
        flop = 4 * self.rows(x) * width
        self.elementwise("latent_norm", "rmsnorm", tuple(latent), normed, flop=flop, weight=Weight((width,)))
        source = normed[0] if model.q_lora_rank else x
        (q,) = self.column_parallel("q_up_proj", source, (Slot("q", heads * (nope + rope), SHARDED),), precision)
        q, key = self.rotary("rotary", q, key, head_size=nope + rope)
        outputs = Slot("k", heads * nope, SHARDED), Slot("v", heads * model.value_head_size, SHARDED)
        k, v = self.column_parallel("kv_up_proj", normed[-1], outputs, precision)
        return q, k, v, key

    def mlp(self, x: Slot, prefix: str = "mlp", width: int = 0) -> tuple[Slot, ...]:
        """A dense MLP, plain or gated."""
        act = self.activated(x, prefix, width or self.model.intermediate_size)
        return self.row_parallel(f"{prefix}_down", prefix, act, self.sharding.linear, bias=self.model.mlp_bias)

    def activated(self, x: Slot, prefix: str, width: int) -> Slot:
        """The first half of a dense MLP."""
        model, plain = self.model, self.model.hidden_act
        slots: tuple[Slot, ...] = (Slot(f"{prefix}_up_out", width, SHARDED),)
        if model.gated_mlp:
            slots = Slot(f"{prefix}_gate_out", width, SHARDED), *slots
        slots = self.column_parallel(f"{prefix}_up", x, slots, self.sharding.linear, bias=model.mlp_bias)
        op = f"{plain}_gate" if model.gated_mlp else plain
        return self.activation(op if prefix == "mlp" else f"{prefix}_{op}", *slots)

    def mixture(self, x: Slot) -> tuple[Slot, ...]:
        """A mixture of experts, with shared experts where the model has them."""
        model, width = self.model, self.model.shared_expert_intermediate_size
        if model.expert_branch_norms:
            found = self._routed(self.norm("experts_norm", x), self.norm("router_norm", x))
            found = self.norm("experts_post_norm", found)
            return (found, self.norm("shared_post_norm", *self.mlp(x, "shared", width))) if width else (found,)
        if self.sharding.exchanges_tokens:
            found = self._routed(x, x)
            return (found, *self.mlp(x, "shared", width)) if width else (found,)
        partial = self._experts((x, *self._route(x)))
        if not width:
            return (self.complete("mlp", partial),)
        # Partial sums of both kinds of experts are added first, so that one all-reduce completes them.
        act = self.activated(x, "shared", width)
        (shared,) = self.partial_sums("shared_down", act, self.sharding.linear, bias=model.mlp_bias, whole=True)
        both = Slot("shared_add_out", model.hidden_size, shared.placement)
        self.elementwise("shared_add", "add", (partial, shared), (both,), flop=self.rows(both) * both.width)
        return (self.complete("mlp", both),)

    def _routed(self, x: Slot, routing: Slot) -> Slot:
        """The routed experts from their input, and that of the router, to their completed sum."""
        if not self.sharding.exchanges_tokens:
            return self.complete("experts", self._experts((x, *self._route(routing))))
        if self.tensor > 1:
            share = self.point("token_slice", "slice", x, placement=SEQUENCE)
            routing = share if routing is x else self.point("router_slice", "slice", routing, placement=SEQUENCE)
            x = share
        found = self._combine(self._experts(self._dispatch(x, self._route(routing))))
        placement = stage_placement(self.sharding)
        return self.gather("experts_all_gather", found) if placement == REPLICATED else found

    def _route(self, x: Slot) -> tuple[Slot, ...]:
        """Choose the experts of each token. Routers are not quantised."""
        model = self.model
        logits = [Slot("router_logits", model.num_experts, x.placement)]
        if model.shared_expert_gate:
            logits.append(Slot("shared_expert_gate", 1, x.placement))
        bias = model.num_experts if model.router_bias else 0
        found = self.replicated("router", x, tuple(logits), Precision(self.tokens.dtype), bias=bias)
        chosen = Slot("chosen_experts", model.num_experts_per_token, x.placement)
        self.elementwise("choose_experts", "topk", found, (chosen,), flop=self.rows(x) * model.num_experts)
        return (chosen,)

    def _dispatch(self, x: Slot, routes: tuple[Slot, ...]) -> tuple[Slot, ...]:
        """Send each rank's tokens to the ranks of their experts."""
        out = Slot("dispatched", x.width, ROUTED, copies=self.model.num_experts_per_token)
        self.append("dispatch", self._exchange("dispatch", x), (x, *routes), (out,), group="expert")
        return (out,)

    def _combine(self, x: Slot) -> Slot:
        """Send the results back to the ranks of the tokens, and add them up there."""
        out = Slot("combined", x.width, SEQUENCE if self.tensor > 1 else REPLICATED)
        self.append("combine", self._exchange("combine", out), (x,), (out,), group="expert")
        return out

    def _exchange(self, op: str, x: Slot) -> ExpertExchange:
        model, precision = self.model, self.sharding.experts
        # What is multiplied in fewer bits is sent in fewer bits; results come back as activations.
        dtype = precision.dtype if op == "dispatch" else self.tokens.dtype
        return ExpertExchange(
            op, self.rows(x), model.hidden_size, model.num_experts_per_token, model.num_experts, dtype,
            self.sharding.expert_span,
        )  # fmt: skip

    def _experts(self, inputs: tuple[Slot, ...]) -> Slot:
        """Multiply by the experts of this rank."""
        model, sharding, precision = self.model, self.sharding, self.sharding.experts
        x, held = inputs[0], model.num_experts // sharding.expert
        width = model.moe_intermediate_size // sharding.expert_tensor
        routed = x.placement == ROUTED
        pairs = self.rows(x) if routed else self.rows(x) * model.num_experts_per_token / sharding.expert
        work = Experts(
            pairs, held, model.hidden_size, width, precision.dtype, precision.weight_dtype, model.gated_mlp,
            self.tokens.expert_skew, self.tokens.expert_imbalance,
        )  # fmt: skip
        out = Slot("experts_out", x.width, ROUTED if routed else self._partial(), copies=x.copies)
        up = work.matrices - 1
        weight = Weight(
            (model.num_experts, x.width, work.matrices * model.moe_intermediate_size), 0,
            (held, x.width, work.matrices * width), dtype=self.stored(precision),
            bias=model.num_experts * (up * model.moe_intermediate_size + x.width) if model.expert_bias else 0,
            device_bias=held * (up * width + x.width) if model.expert_bias else 0,
        )  # fmt: skip
        self.append("experts", work, inputs, (out,), weight=weight)
        return out

    def _partial(self) -> str:
        return PARTIAL if self.tensor > 1 else REPLICATED
