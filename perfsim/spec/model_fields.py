"""The fields of a model, in the names of Hugging Face's ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass

from perfsim.errors import Faults
from perfsim.spec.model_checks import check_together, default_head_dim, good_fields
from perfsim.spec.tables import freeze_fields

__all__ = ["ModelFields"]


@dataclass(frozen=True)
class ModelFields:
    """What a decoder-only transformer is made of.

    What is left out is not there: the four sizes alone are a bare stack of layers with plain MLPs, layer norms
    without shifts and no other biases, that takes and gives hidden states.

    Attributes
    ----------
    name : str
    num_hidden_layers, hidden_size, num_attention_heads : int
    intermediate_size : int
        Width of a dense MLP; without effect where every layer has experts.
    num_key_value_heads : int, optional
        Heads of K and V (grouped-query attention); as many as attention heads when left out.
    head_dim : int, optional
        ``hidden_size / num_attention_heads`` when left out, or the width of a latent query head.
    hidden_act : str
        Activation of the MLP: ``gelu`` (exact or approximated), ``silu``, ``relu``.
    torch_dtype : str
        Data type of activations, and of weights that are not quantised.
    vocab_size : int
        Rows of the embedding; 0: neither embedding nor final norm nor head.
    tie_word_embeddings : bool
        Whether the head multiplies by the embedding.
    learned_positions : int
        Rows of a learned table of positions (GPT-2, OPT); 0: rotary positions, or none.
    gated_mlp : bool
        Whether MLPs have a gate beside the up projection; that of experts too.
    norm : str
        ``layernorm`` or ``rmsnorm``; `norm_bias`: a layer norm with a shift.
    post_norms : bool
        Whether attention and MLP are followed by a norm too (Gemma 2 and 3: four norms a layer).
    parallel_block : bool
        Whether attention and MLP take the same normed input and are added together (Phi-2): one norm a layer.
    attention_bias, attention_output_bias, mlp_bias, head_bias : bool
        Biases of Q, K and V (with latent attention: of the two down projections), of the projection after attention,
        of a dense MLP and a shared expert, and of the head.
    qk_norm : str
        Norm of queries and of keys: ``""`` (none), ``head`` (gains of one head: Qwen3, Gemma 3) or ``width`` (gains of
        all heads: MiniMax-M2).
    attention_sinks : bool
        Whether each head has a learned logit beside those of the keys (gpt-oss).
    sliding_window : int, optional
        Tokens that a token attends to, itself included, in layers with a window.
    windowed_layers : tuple of bool, optional
        Which layers have the window; all when left out.
    global_head_dim, num_global_key_value_heads : int, optional
        Width of a head, and heads of K and V, in layers without the window where they differ (Gemma 4).
    attention_k_eq_v : bool
        Whether layers without the window have no projection of V: it is what K is before its norm (Gemma 4).
    kv_lora_rank, q_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim : int, optional
        Multi-head latent attention (DeepSeek), if `kv_lora_rank` is given; queries are low-rank if `q_lora_rank` is.
    num_experts, num_experts_per_token, moe_intermediate_size : int
        Routed experts of a layer, those that a token takes, and the width of one.
    shared_expert_intermediate_size : int
        Width of all shared experts together; `shared_expert_gate`: they are weighted by a gate (Qwen2-MoE).
    router_bias, expert_bias : bool
        Whether the router has a number for every expert (a bias, or a correction as DeepSeek-V3's), and the matrices
        of experts have biases.
    expert_branch_norms : bool
        Whether router, routed experts and shared experts have norms of their own (Gemma 4): before the router, before
        and after the routed experts, and after the shared ones.
    expert_layers : tuple of bool, optional
        Which layers have experts in place of a dense MLP; all, if there are experts, when left out.
    max_position_embeddings : int
        The longest context; 0: not known.
    quantization : str
        How weights of linear layers are stored and multiplied: ``none``, ``fp8`` (one scale a tensor), ``fp8_block``,
        ``int8``, ``int4`` (weights only), ``mxfp4``, ``nvfp4``. Embedding, norms, router and head are not quantised.
    attention_quantization, expert_quantization : str, optional
        The same for the projections of attention, and for routed experts; as `quantization` when left out.
    """

    name: str
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "gelu"
    torch_dtype: str = "bfloat16"
    vocab_size: int = 0
    tie_word_embeddings: bool = False
    learned_positions: int = 0
    gated_mlp: bool = False
    norm: str = "layernorm"
    norm_bias: bool = False
    post_norms: bool = False
    parallel_block: bool = False
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: str = ""
    attention_sinks: bool = False
    sliding_window: int | None = None
    windowed_layers: tuple[bool, ...] | None = None
    global_head_dim: int | None = None
    num_global_key_value_heads: int | None = None
    attention_k_eq_v: bool = False
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    qk_nope_head_dim: int | None = None
    qk_rope_head_dim: int | None = None
    v_head_dim: int | None = None
    num_experts: int = 0
    num_experts_per_token: int = 0
    moe_intermediate_size: int = 0
    shared_expert_intermediate_size: int = 0
    shared_expert_gate: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    expert_branch_norms: bool = False
    expert_layers: tuple[bool, ...] | None = None
    max_position_embeddings: int = 0
    quantization: str = "none"
    attention_quantization: str | None = None
    expert_quantization: str | None = None

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("model")
        good = good_fields(vars(self), faults)
        if self.num_key_value_heads is None and "num_attention_heads" in good:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if self.head_dim is None and {"hidden_size", "num_attention_heads"} <= good:
            object.__setattr__(self, "head_dim", default_head_dim(vars(self), faults))
        check_together(vars(self), good, faults)
        faults.raise_if_any()
