"""What the fields of a model may be, and what they do not allow of each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfsim.errors import Faults

__all__ = ["QUANTIZATIONS", "TORCH_DTYPES", "check_together", "default_head_dim", "good_fields"]

Fields = Mapping[str, Any]

_MOST, _MOST_LAYERS = 10_000_000, 10_000
"""Far beyond any model; what is larger is a typing error that would take for ever to build."""
TORCH_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
QUANTIZATIONS = ("none", "fp8", "fp8_block", "int8", "int4", "mxfp4", "nvfp4")

_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
_OPTIONAL_SIZES = (
    "num_key_value_heads", "head_dim", "sliding_window", "global_head_dim", "num_global_key_value_heads",
    "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
)  # fmt: skip
_COUNTS = (
    "vocab_size", "learned_positions", "num_experts", "num_experts_per_token", "moe_intermediate_size",
    "shared_expert_intermediate_size", "max_position_embeddings",
)  # fmt: skip
_FLAGS = (
    "tie_word_embeddings", "gated_mlp", "norm_bias", "post_norms", "parallel_block", "attention_bias",
    "attention_output_bias", "mlp_bias", "head_bias", "attention_sinks", "attention_k_eq_v", "shared_expert_gate",
    "router_bias", "expert_bias", "expert_branch_norms",
)  # fmt: skip
_CHOICES = {
    "hidden_act": ("gelu", "silu", "relu"), "torch_dtype": TORCH_DTYPES, "norm": ("layernorm", "rmsnorm"),
    "quantization": QUANTIZATIONS,
}  # fmt: skip
_OPTIONAL_CHOICES = {
    "qk_norm": ("head", "width"), "attention_quantization": QUANTIZATIONS, "expert_quantization": QUANTIZATIONS,
}  # fmt: skip
_LAYERWISE = ("windowed_layers", "expert_layers")
_LATENT = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_NEEDS = {
    "vocab_size": ("tie_word_embeddings", "head_bias", "learned_positions"),
    "num_experts": (
        "num_experts_per_token", "moe_intermediate_size", "shared_expert_intermediate_size", "router_bias",
        "expert_bias", "expert_layers", "expert_quantization",
    ),
    "shared_expert_intermediate_size": ("shared_expert_gate", "expert_branch_norms"),
    "sliding_window": ("windowed_layers",),
    "windowed_layers": ("global_head_dim", "num_global_key_value_heads", "attention_k_eq_v"),
    "kv_lora_rank": (*_LATENT, "q_lora_rank"),
}  # fmt: skip
"""Fields that mean nothing unless another is set."""
_EXCLUDES = (
    ("post_norms", "parallel_block"), ("kv_lora_rank", "qk_norm"), ("kv_lora_rank", "attention_sinks"),
    ("kv_lora_rank", "windowed_layers"),
)  # fmt: skip
"""Pairs of fields of which a layer has at most one."""


def good_fields(fields: Fields, faults: Faults) -> set[str]:
    """Check the fields one by one; name the good ones, of which alone more can be asked."""
    good = {"name": faults.text("name", fields["name"])}
    for name in _SIZES:
        most = _MOST_LAYERS if name == "num_hidden_layers" else _MOST
        good[name] = faults.integer(name, fields[name], maximum=most)
    for name in _OPTIONAL_SIZES:
        good[name] = fields[name] is None or faults.integer(name, fields[name], maximum=_MOST)
    for name in _COUNTS:
        good[name] = faults.integer(name, fields[name], minimum=0, maximum=_MOST)
    for name in _FLAGS:
        good[name] = faults.flag(name, fields[name])
    for name, choices in _CHOICES.items():
        good[name] = faults.choice(name, fields[name], choices)
    for name, choices in _OPTIONAL_CHOICES.items():
        good[name] = not _is_set(fields[name]) or faults.choice(name, fields[name], choices)
    for name in _LAYERWISE:
        good[name] = _is_layerwise(name, fields[name], faults)
    return {name for name, is_good in good.items() if is_good}


def _is_layerwise(name: str, flags: object, faults: Faults) -> bool:
    good = flags is None or (isinstance(flags, tuple) and all(isinstance(flag, bool) for flag in flags))
    if not good:
        faults.add(name, flags, "must be a list of true or false, layer by layer")
    return good


def _is_set(value: object) -> bool:
    return value is not None and value not in (0, "")


def default_head_dim(fields: Fields, faults: Faults) -> int:
    """Give the width of a head that is not told; the sizes that it follows from must be good."""
    if fields["kv_lora_rank"] is not None:
        return _latent_width(fields)
    heads = fields["num_attention_heads"]
    width, rest = divmod(fields["hidden_size"], heads)
    if rest:
        near = ", ".join(str(multiple * heads) for multiple in (width, width + 1) if multiple)
        faults.add(
            "hidden_size", fields["hidden_size"], f"must be a multiple of the {heads} attention heads",
            f"the nearest are {near}; or give head_dim",
        )  # fmt: skip
    return width


def _latent_width(fields: Fields) -> int:
    """Width of a query head of latent attention, or nonsense where a part of it is wrong."""
    parts = (fields["qk_nope_head_dim"], fields["qk_rope_head_dim"])
    return sum(part for part in parts if isinstance(part, int)) or 1


def check_together(fields: Fields, good: set[str], faults: Faults) -> None:
    """Record what good fields do not allow of each other."""
    _check_heads(fields, good, faults)
    _check_layers(fields, good, faults)
    _check_pairs(fields, good, faults)
    if fields["kv_lora_rank"] is not None:
        _check_latent(fields, good, faults)
    if "num_experts" in good and fields["num_experts"]:
        _check_experts(fields, good, faults)


def _check_heads(fields: Fields, good: set[str], faults: Faults) -> None:
    """Check that every query head has one head of K and V."""
    heads = fields["num_attention_heads"]
    for name in ("num_key_value_heads", "num_global_key_value_heads"):
        kv_heads = fields[name]
        if {name, "num_attention_heads"} <= good and kv_heads is not None and heads % kv_heads:
            divisors = ", ".join(str(divisor) for divisor in range(1, heads + 1) if heads % divisor == 0)
            faults.add(name, kv_heads, f"must divide the {heads} attention heads", f"the divisors are {divisors}")


def _check_layers(fields: Fields, good: set[str], faults: Faults) -> None:
    """Check that what is told layer by layer has an entry for each."""
    layers = fields["num_hidden_layers"]
    for name in _LAYERWISE:
        flags = fields[name]
        if {name, "num_hidden_layers"} <= good and flags is not None and len(flags) != layers:
            faults.add(name, f"{len(flags)} entries", f"must have {layers} entries, one for each layer")


def _check_pairs(fields: Fields, good: set[str], faults: Faults) -> None:
    """Record fields that mean nothing without another, and pairs that a layer cannot have."""
    is_set = {name: _is_set(fields[name]) for name in good}
    for needed, names in _NEEDS.items():
        for name in names:
            if not is_set.get(needed, True) and is_set.get(name):
                way_out = f"give {needed}, or leave it out"
                faults.add(name, fields[name], f"means nothing without {needed}", way_out)
    for one, other in _EXCLUDES:
        if is_set.get(one) and is_set.get(other):
            faults.add(other, fields[other], f"contradicts {one}", "leave one of them out")
    if is_set.get("norm_bias") and fields["norm"] == "rmsnorm":
        faults.add("norm_bias", fields["norm_bias"], "contradicts norm = rmsnorm", "only a layer norm has a shift")


def _check_latent(fields: Fields, good: set[str], faults: Faults) -> None:
    missing = [name for name in _LATENT if fields[name] is None]
    for name in missing:
        faults.add(name, None, "is missing: kv_lora_rank makes this multi-head latent attention", "add it")
    width, heads = _latent_width(fields), fields["num_attention_heads"]
    if not missing and {"head_dim", *_LATENT} <= good and fields["head_dim"] != width:
        way_out = f"use {width} or leave it out"
        faults.add("head_dim", fields["head_dim"], "must be qk_nope_head_dim + qk_rope_head_dim", way_out)
    if {"num_key_value_heads", "num_attention_heads"} <= good and fields["num_key_value_heads"] != heads:
        faults.add(
            "num_key_value_heads", fields["num_key_value_heads"],
            f"must be the {heads} attention heads: with latent attention every head has its own", "leave it out",
        )  # fmt: skip


def _check_experts(fields: Fields, good: set[str], faults: Faults) -> None:
    if fields["moe_intermediate_size"] == 0:
        faults.add("moe_intermediate_size", 0, "must be at least 1", "give the width of one expert")
    number, chosen = fields["num_experts"], fields["num_experts_per_token"]
    if "num_experts_per_token" in good and not 0 < chosen <= number:
        faults.add(
            "num_experts_per_token", chosen, f"must be a whole number of at least 1 and at most the {number} experts",
            f"the nearest is {min(max(chosen, 1), number)}",
        )  # fmt: skip
