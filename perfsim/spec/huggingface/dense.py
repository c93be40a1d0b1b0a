"""Families with one MLP a layer: what the classes of Hugging Face call their fields, and what they take as default."""

from __future__ import annotations

from collections.abc import Mapping

from perfsim.spec.huggingface.reading import NEEDED, Reading
from perfsim.spec.tables import FrozenDict

__all__ = [
    "biases",
    "cohere",
    "cohere2",
    "decoder",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3",
    "glm",
    "glm4",
    "gpt2",
    "gpt_neox",
    "gptj",
    "llama",
    "mimo",
    "ministral",
    "mistral",
    "nemotron",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
]  # fmt: skip


def decoder(
    reading: Reading,
    *,
    context: int,
    kv_heads: int | None = None,
    ties: bool = False,
    activation: str = "silu",
    sizes: Mapping[str, int] = FrozenDict(),
) -> None:
    """Read what nearly all families have under the same names: rotary positions, RMS norms, a gated MLP.

    The sizes of a model are needed; only those in `sizes` may be left out.
    """
    for field in ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size"):
        reading.take(field, default=sizes.get(field, NEEDED))
    reading.take("num_key_value_heads", default=kv_heads, null=None)
    reading.take("head_dim", default=None)
    reading.take("max_position_embeddings", default=context)
    reading.take("tie_word_embeddings", default=ties)
    reading.take_activation("hidden_activation", "hidden_act", default=activation)
    reading.fields |= {"gated_mlp": True, "norm": "rmsnorm"}


def biases(reading: Reading, *, default: bool = False, output: bool = True) -> None:
    """Read whether Q, K and V have biases; the projection after attention shares the switch in most families."""
    reading.take("attention_bias", default=default)
    if output:
        reading.take("attention_output_bias", "attention_bias", default=default)


def llama(reading: Reading) -> None:
    """Llama 2 and 3, and all that were saved as Llama."""
    decoder(reading, context=2048)
    biases(reading)
    reading.take("mlp_bias", default=False)


def mistral(reading: Reading) -> None:
    """Mistral; without the key every layer has a window."""
    decoder(reading, context=131_072, kv_heads=8)
    reading.take("sliding_window", default=4096, null=None)


def ministral(reading: Reading) -> None:
    """Ministral 8B: windows by layer."""
    decoder(reading, context=131_072, kv_heads=8)
    reading.take_windows(4096, lambda _layer: True)


def qwen2(reading: Reading) -> None:
    """Qwen2 and 2.5: biases of Q, K and V that no key switches off."""
    decoder(reading, context=32_768, kv_heads=32)
    reading.fields["attention_bias"] = True
    _late_windows(reading)


def mimo(reading: Reading) -> None:
    """MiMo 7B: Qwen2 with a draft layer, which is not counted."""
    qwen2(reading)
    reading.take("attention_bias", default=True)


def qwen3(reading: Reading) -> None:
    """Qwen3: norms of queries and keys, a head width of its own."""
    decoder(reading, context=32_768, kv_heads=32)
    reading.take("head_dim", default=128, null=None)
    biases(reading)
    reading.fields["qk_norm"] = "head"
    _late_windows(reading)


def _late_windows(reading: Reading) -> None:
    """Qwen's windows begin at a layer, and only where they are switched on."""
    if reading.flag("use_sliding_window", default=False):
        first = reading.integer("max_window_layers", 28)
        reading.take_windows(4096, lambda layer: layer >= first)


def gemma(reading: Reading) -> None:
    """Gemma 1; it multiplies embeddings by a constant, which has no parameter."""
    _gemma(reading, context=8192, kv_heads=16)


def gemma2(reading: Reading) -> None:
    """Gemma 2: every other layer has a window, and attention and MLP have a norm behind them too."""
    _gemma(reading, context=8192, kv_heads=4)
    reading.fields["post_norms"] = True
    reading.take_windows(4096, lambda layer: layer % 2 == 0)


def gemma3(reading: Reading) -> None:
    """Gemma 3: all but every sixth layer have a window.

    Its files leave out what the class has as default, sizes too.
    """
    _gemma(reading, context=131_072, kv_heads=4, sizes={"vocab_size": 262_208, "num_attention_heads": 8})
    reading.fields |= {"post_norms": True, "qk_norm": "head"}
    period = reading.integer("sliding_window_pattern", 6, minimum=1)
    reading.take_windows(4096, lambda layer: (layer + 1) % period != 0)


def _gemma(reading: Reading, *, context: int, kv_heads: int, sizes: Mapping[str, int] = FrozenDict()) -> None:
    decoder(reading, context=context, kv_heads=kv_heads, ties=True, activation="gelu_pytorch_tanh", sizes=sizes)
    reading.take("head_dim", default=256)
    biases(reading)


def phi3(reading: Reading) -> None:
    """Phi-3 and 4: fused projections, which have the parameters of separate ones."""
    decoder(reading, context=4096)
    reading.take("sliding_window", default=None)


def glm(reading: Reading) -> None:
    """GLM-4 9B as first published."""
    decoder(reading, context=131_072, kv_heads=2)
    reading.take("head_dim", default=128)
    biases(reading, default=True, output=False)


def glm4(reading: Reading) -> None:
    """GLM-4 of 2025: a norm behind attention and MLP too."""
    glm(reading)
    reading.fields["post_norms"] = True


def nemotron(reading: Reading) -> None:
    """Nemotron 4 and Minitron: layer norms with shifts, a plain MLP with a squared ReLU."""
    decoder(reading, context=4096, activation="relu2")
    biases(reading)
    reading.take("mlp_bias", default=False)
    reading.fields |= {"gated_mlp": False, "norm": "layernorm", "norm_bias": True}


def cohere(reading: Reading) -> None:
    """Command R: attention and MLP side by side, layer norms without shifts."""
    decoder(reading, context=8192, ties=True)
    biases(reading)
    reading.fields |= {"norm": "layernorm", "parallel_block": True}
    if reading.flag("use_qk_norm", default=False):
        reading.fields["qk_norm"] = "width"


def cohere2(reading: Reading) -> None:
    """Command R7B and A: three layers with a window, one without."""
    decoder(reading, context=8192, ties=True)
    biases(reading)
    reading.fields |= {"norm": "layernorm", "parallel_block": True}
    period = reading.integer("sliding_window_pattern", 4, minimum=1)
    reading.take_windows(4096, lambda layer: (layer + 1) % period != 0)


def phi(reading: Reading) -> None:
    """Phi-1.5 and 2: attention and MLP side by side, and biases everywhere, the head included."""
    decoder(reading, context=2048, activation="gelu_new")
    _classic(reading)
    reading.fields |= {"parallel_block": True, "head_bias": True}
    if reading.flag("qk_layernorm", default=False):
        reading.refuse("qk_layernorm", "norms of queries and keys with shifts")


def gpt2(reading: Reading) -> None:
    """GPT-2 and what keeps its names."""
    _gpt_sizes(reading, context=1024, ties=True)
    _classic(reading)
    reading.take("learned_positions", "n_positions", "n_ctx", default=1024)
    if reading.flag("add_cross_attention", default=False):
        reading.refuse("add_cross_attention", "attention to an encoder")


def gptj(reading: Reading) -> None:
    """GPT-J: attention without biases and MLP side by side, a head with a bias."""
    _gpt_sizes(reading, context=2048, ties=False)
    _classic(reading)
    reading.fields |= {
        "attention_bias": False, "attention_output_bias": False, "parallel_block": True, "head_bias": True,
    }  # fmt: skip


def _gpt_sizes(reading: Reading, *, context: int, ties: bool) -> None:
    """Read the sizes under the names of 2019; the MLP is four times as wide as the model unless it says otherwise."""
    reading.take("num_hidden_layers", "n_layer")
    reading.take("hidden_size", "n_embd")
    reading.take("num_attention_heads", "n_head")
    reading.take("vocab_size")
    _wide_mlp(reading, "n_inner")
    reading.take("max_position_embeddings", "n_positions", "n_ctx", default=context)
    reading.take("tie_word_embeddings", default=ties)
    reading.take_activation("activation_function", default="gelu_new")


def _wide_mlp(reading: Reading, key: str) -> None:
    hidden = reading.fields["hidden_size"]
    reading.take("intermediate_size", key, default=4 * hidden if isinstance(hidden, int) else 1)


def _classic(reading: Reading) -> None:
    """Layer norms with shifts, a plain MLP, and biases throughout."""
    reading.fields |= {
        "gated_mlp": False, "norm": "layernorm", "norm_bias": True, "attention_bias": True,
        "attention_output_bias": True, "mlp_bias": True,
    }  # fmt: skip


def opt(reading: Reading) -> None:
    """OPT: two more rows of positions than tokens."""
    for field in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"):
        reading.take(field)
    reading.take("intermediate_size", "ffn_dim")
    reading.take("max_position_embeddings", default=2048)
    reading.take("tie_word_embeddings", default=True)
    reading.take_activation("activation_function", default="relu")
    _classic(reading)
    reading.put("learned_positions", reading.integer("max_position_embeddings", 2048) + 2, "max_position_embeddings")
    for key, needed, otherwise in (
        ("do_layer_norm_before", True, "norms behind the residual additions"),
        ("_remove_final_layer_norm", False, "a stack without its last norm"),
        ("enable_bias", True, "layers without biases"),
        ("layer_norm_elementwise_affine", True, "norms without gains"),
    ):
        if reading.flag(key, default=needed) is not needed:
            reading.refuse(key, otherwise)
    if reading.table.get("word_embed_proj_dim") not in (None, reading.table.get("hidden_size")):
        reading.refuse("word_embed_proj_dim", "an embedding of another width than hidden_size")


def falcon(reading: Reading) -> None:
    """Falcon with attention and MLP side by side behind one norm: 7B and 11B, not 40B and 180B."""
    for field in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"):
        reading.take(field, *_FALCON_NAMES.get(field, ()))
    _wide_mlp(reading, "ffn_hidden_size")
    grouped = reading.flag("new_decoder_architecture", default=False)
    if grouped:
        reading.take("num_key_value_heads", "num_kv_heads", default=None)
    elif reading.flag("multi_query", default=True):
        reading.fields["num_key_value_heads"] = 1
    reading.take("max_position_embeddings", default=2048)
    reading.take("tie_word_embeddings", default=True)
    reading.take_activation("activation", default="gelu")
    reading.fields |= {"norm": "layernorm", "norm_bias": True, "parallel_block": True}
    for field in ("attention_bias", "attention_output_bias", "mlp_bias"):
        reading.take(field, "bias", default=False)
    if not (grouped or reading.flag("parallel_attn", default=True)):
        reading.fields["parallel_block"] = False
    if grouped and reading.integer("num_ln_in_parallel_attn", 2) != 1:
        reading.refuse("num_ln_in_parallel_attn", "two norms before attention and MLP side by side", value=2)


_FALCON_NAMES = {
    "num_hidden_layers": ("num_hidden_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_head"),
    "hidden_size": ("hidden_size", "n_embed"),
}


def gpt_neox(reading: Reading) -> None:
    """GPT-NeoX whose MLP follows attention; Pythia and NeoX-20B have both side by side behind two norms."""
    decoder(reading, context=2048, activation="gelu")
    _classic(reading)
    biases(reading, default=True)
    if reading.flag("use_parallel_residual", default=True):
        reading.refuse("use_parallel_residual", "two norms before attention and MLP side by side", value=True)
