"""Families with experts: which layers have them, how wide they are, what stands beside them."""

from __future__ import annotations

from perfsim.spec.huggingface.dense import biases, decoder
from perfsim.spec.huggingface.reading import Reading

__all__ = [
    "deepseek_v2", "deepseek_v3", "gemma4", "glm4_moe", "gpt_oss", "minimax_m2", "mixtral", "phimoe", "qwen2_moe",
    "qwen3_moe",
]  # fmt: skip

_NUMBERS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Names of the number of routed experts; classes rename it and read the older ones."""

_SPARSE_BLOCK = "block_sparse_moe.experts.0.w2"


def _routed(reading: Reading, width: str = "moe_intermediate_size", per_token: tuple[str, ...] = ()) -> None:
    """Read how many experts there are, how many a token takes, and how wide one is."""
    reading.take("num_experts", *_NUMBERS)
    reading.take("num_experts_per_token", *(per_token or ("num_experts_per_tok",)))
    reading.take("moe_intermediate_size", width)


def mixtral(reading: Reading) -> None:
    """Mixtral: experts in every layer, as wide as ``intermediate_size``."""
    decoder(reading, context=131_072, kv_heads=8)
    reading.take("sliding_window", default=None)
    _routed(reading, "intermediate_size")
    reading.expert_path = _SPARSE_BLOCK


def phimoe(reading: Reading) -> None:
    """Phi-3.5-MoE: Mixtral with layer norms."""
    mixtral(reading)
    biases(reading)
    reading.take("head_bias", "lm_head_bias", default=False)
    reading.fields |= {"norm": "layernorm", "norm_bias": True}


def qwen2_moe(reading: Reading) -> None:
    """Qwen1.5 and 2 with experts: a shared one behind a gate."""
    decoder(reading, context=32_768, kv_heads=16)
    reading.take("attention_bias", "qkv_bias", default=True)
    _routed(reading)
    reading.take("shared_expert_intermediate_size", default=5632)
    reading.fields["shared_expert_gate"] = True
    _sparse_steps(reading)
    if reading.flag("use_sliding_window", default=False):
        most = reading.integer("max_window_layers", 28)
        reading.take_windows(None, lambda layer: layer % 2 == 0 and layer < most)


def qwen3_moe(reading: Reading) -> None:
    """Qwen3 with experts and no shared one."""
    decoder(reading, context=32_768, kv_heads=4)
    biases(reading)
    reading.fields["qk_norm"] = "head"
    _routed(reading)
    _sparse_steps(reading)
    if reading.flag("use_sliding_window", default=False):
        reading.take("sliding_window", default=None)


def _sparse_steps(reading: Reading) -> None:
    """Read Qwen's rule: experts in every n-th layer, unless a list names the layer as dense."""
    step = reading.integer("decoder_sparse_step", 1, minimum=1)
    dense = reading.table.get("mlp_only_layers") or ()
    if not isinstance(dense, list | tuple) or not all(type(layer) is int for layer in dense):
        reading.fault("mlp_only_layers", "must be a list of layers, counted from 0")
        dense = ()
    reading.take_expert_layers(
        "mlp_only_layers" if dense else "decoder_sparse_step",
        lambda layer: (layer + 1) % step == 0 and layer not in dense,
    )


def gpt_oss(reading: Reading) -> None:
    """gpt-oss: every other layer with a window, a sink for every head, and biases throughout."""
    decoder(reading, context=131_072, kv_heads=8)
    reading.take("head_dim", default=64)
    biases(reading, default=True)
    _routed(reading, "intermediate_size", ("num_experts_per_tok", "experts_per_token"))
    reading.fields |= {"attention_sinks": True, "router_bias": True, "expert_bias": True}
    reading.take_windows(128, lambda layer: layer % 2 == 0)


def deepseek_v2(reading: Reading) -> None:
    """DeepSeek-V2: latent attention, shared experts, the first layers dense."""
    _deepseek(reading, context=2048, dense_layers=0, shared=2)
    reading.put("router_bias", reading.table.get("topk_method") == "noaux_tc", "topk_method")


def deepseek_v3(reading: Reading) -> None:
    """DeepSeek-V3 and Kimi-K2: DeepSeek-V2 with a correction for every expert."""
    _deepseek(reading, context=4096, dense_layers=3, shared=1)
    reading.put("router_bias", reading.table.get("topk_method", "noaux_tc") == "noaux_tc", "topk_method")


def _deepseek(reading: Reading, *, context: int, dense_layers: int, shared: int) -> None:
    decoder(reading, context=context)
    reading.take("q_lora_rank", default=1536, null=None)
    for field, default in (
        ("kv_lora_rank", 512), ("qk_nope_head_dim", 128), ("qk_rope_head_dim", 64), ("v_head_dim", 128),
    ):  # fmt: skip
        reading.take(field, default=default)
    reading.fields["head_dim"] = None  # the key, where it is written, holds the rotary part only
    biases(reading)
    if reading.table.get("n_routed_experts", ...) is None:  # a null: the whole stack is dense
        return
    _routed(reading)
    _shared(reading, shared)
    _dense_first(reading, dense_layers)


def _shared(reading: Reading, default: int) -> None:
    """Count shared experts as one as wide as all of them."""
    number = (
        0 if reading.table.get("n_shared_experts", default) is None else reading.integer("n_shared_experts", default)
    )
    width = reading.fields["moe_intermediate_size"]
    if number and isinstance(width, int):
        reading.put("shared_expert_intermediate_size", number * width, "n_shared_experts")


def _dense_first(reading: Reading, default: int) -> None:
    first = reading.integer("first_k_dense_replace", default)
    step = reading.integer("moe_layer_freq", 1, minimum=1)
    reading.take_expert_layers("first_k_dense_replace", lambda layer: layer >= first and layer % step == 0)


def glm4_moe(reading: Reading) -> None:
    """GLM-4.5 and 4.6: grouped queries, experts as in DeepSeek-V3."""
    decoder(reading, context=131_072, kv_heads=8)
    biases(reading, output=False)
    if reading.flag("use_qk_norm", default=False):
        reading.fields["qk_norm"] = "head"
    _routed(reading)
    _shared(reading, 1)
    _dense_first(reading, 1)
    reading.fields["router_bias"] = True


def minimax_m2(reading: Reading) -> None:
    """MiniMax-M2: norms over all heads of queries and of keys, a correction for every expert."""
    decoder(reading, context=196_608, kv_heads=8)
    reading.take("head_dim", default=128, null=None)
    _routed(reading, "intermediate_size")
    reading.expert_path = _SPARSE_BLOCK
    reading.take("router_bias", "use_routing_bias", default=True)
    if reading.flag("use_qk_norm", default=True):
        reading.fields["qk_norm"] = "width"
    kind = reading.table.get("qk_norm_type")
    if kind not in (None, "per_layer"):
        reading.refuse("qk_norm_type", "norms of queries and keys other than per_layer")
    if reading.integer("shared_intermediate_size", 0):
        reading.refuse("shared_intermediate_size", "shared experts in MiniMax-M2")
    attention = reading.table.get("attn_type_list")
    if isinstance(attention, list | tuple) and any(kind != 1 for kind in attention):
        reading.refuse("attn_type_list", "linear attention", "a list with entries other than 1")


def gemma4(reading: Reading) -> None:
    """Gemma 4: layers without a window have other heads, and experts stand beside the dense MLP."""
    decoder(reading, context=131_072, kv_heads=4, ties=True, activation="gelu_pytorch_tanh")
    reading.take("head_dim", default=256)
    biases(reading)
    reading.fields |= {"post_norms": True, "qk_norm": "head"}
    last = reading.layers - 1
    reading.take_windows(512, lambda layer: (layer + 1) % 6 != 0 and layer != last)
    if "windowed_layers" in reading.fields:
        reading.take("global_head_dim", default=512)
        if reading.flag("attention_k_eq_v", default=False):
            reading.fields["attention_k_eq_v"] = True
            reading.take("num_global_key_value_heads", default=None)
    if reading.flag("enable_moe_block", default=False):
        _routed(reading, per_token=("top_k_experts", "num_experts_per_tok"))
        reading.put("shared_expert_intermediate_size", reading.fields["intermediate_size"], "intermediate_size")
        reading.fields |= {"expert_branch_norms": True, "router_bias": True}
        reading.expert_path, reading.shared_path = "experts.0.down_proj", "mlp.down_proj"
    for key, default, what in (
        ("hidden_size_per_layer_input", 256, "embeddings of their own for every layer"),
        ("num_kv_shared_layers", 0, "layers that share the K and V of another"),
    ):
        number = reading.integer(key, default)
        if number:
            reading.refuse(key, what, number)
    if reading.table.get("per_layer_config"):
        reading.refuse("per_layer_config", "sizes by layer", "sizes by layer")
