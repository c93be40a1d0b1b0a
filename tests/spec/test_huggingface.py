"""Hugging Face's config.json: parameters of every family in closed form, defaults, windows, refusals and faults.

All families share the sizes below where they can, so that the closed forms read alike.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.errors import InputError
from perfsim.spec.huggingface.config import is_hugging_face, read_config
from perfsim.spec.model import Model

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD, WIDTH, VOCAB = 3, 64, 4, 2, 16, 96, 100
EXPERTS, EXPERT_WIDTH = 8, 40

SIZES = {
    "num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": WIDTH,
    "vocab_size": VOCAB,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": KV_HEADS}
ROUTED = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": EXPERT_WIDTH}
LOCAL = {"num_local_experts": EXPERTS, "num_experts_per_tok": 2}
LATENT = {"kv_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12}
DEEPSEEK = {
    **SIZES, **LATENT, "q_lora_rank": 20, "n_routed_experts": EXPERTS, "num_experts_per_tok": 2,
    "moe_intermediate_size": EXPERT_WIDTH, "n_shared_experts": 2, "first_k_dense_replace": 1,
}  # fmt: skip

EMBEDDING = VOCAB * HIDDEN
FULL = 4 * HIDDEN * HIDDEN
ATTENTION = HIDDEN * (HEADS + 2 * KV_HEADS) * HEAD + HIDDEN * HIDDEN
QKV_BIAS = (HEADS + 2 * KV_HEADS) * HEAD
PLAIN, GATED = 2 * HIDDEN * WIDTH, 3 * HIDDEN * WIDTH
PLAIN_BIAS = WIDTH + HIDDEN
ROUTER, EXPERT = HIDDEN * EXPERTS, 3 * HIDDEN * EXPERT_WIDTH
LATENT_ATTENTION = HIDDEN * 20 + 20 + 20 * HEADS * 24 + HIDDEN * 32 + 24 + 24 * HEADS * (16 + 12) + HEADS * 12 * HIDDEN
DEEPSEEK_LAYERS = LAYERS * (LATENT_ATTENTION + 2 * HIDDEN) + GATED + 2 * (ROUTER + (EXPERTS + 2) * EXPERT)


def untied(layer, norm=HIDDEN):
    """Count a model of equal layers with embedding, final norm and head."""
    return LAYERS * layer + 2 * EMBEDDING + norm


def tied(layer, norm=HIDDEN):
    """Count a model of equal layers whose head is the embedding."""
    return LAYERS * layer + EMBEDDING + norm


FAMILIES = {
    "LlamaForCausalLM": (GROUPED, untied(ATTENTION + GATED + 2 * HIDDEN)),
    "MistralForCausalLM": (GROUPED, untied(ATTENTION + GATED + 2 * HIDDEN)),
    "MinistralForCausalLM": (GROUPED, untied(ATTENTION + GATED + 2 * HIDDEN)),
    "Qwen2ForCausalLM": (GROUPED, untied(ATTENTION + QKV_BIAS + GATED + 2 * HIDDEN)),
    "MiMoForCausalLM": (
        {**GROUPED, "num_nextn_predict_layers": 1}, untied(ATTENTION + QKV_BIAS + GATED + 2 * HIDDEN),
    ),
    "Qwen3ForCausalLM": ({**GROUPED, "head_dim": HEAD}, untied(ATTENTION + 2 * HEAD + GATED + 2 * HIDDEN)),
    "GemmaForCausalLM": ({**GROUPED, "head_dim": HEAD}, tied(ATTENTION + GATED + 2 * HIDDEN)),
    "Gemma2ForCausalLM": ({**GROUPED, "head_dim": HEAD}, tied(ATTENTION + GATED + 4 * HIDDEN)),
    "Gemma3ForCausalLM": ({**GROUPED, "head_dim": HEAD}, tied(ATTENTION + 2 * HEAD + GATED + 4 * HIDDEN)),
    "Phi3ForCausalLM": (SIZES, untied(FULL + GATED + 2 * HIDDEN)),
    "GlmForCausalLM": ({**GROUPED, "head_dim": HEAD}, untied(ATTENTION + QKV_BIAS + GATED + 2 * HIDDEN)),
    "Glm4ForCausalLM": (
        {**GROUPED, "head_dim": HEAD, "attention_bias": False}, untied(ATTENTION + GATED + 4 * HIDDEN),
    ),
    "NemotronForCausalLM": (GROUPED, untied(ATTENTION + PLAIN + 4 * HIDDEN, norm=2 * HIDDEN)),
    "CohereForCausalLM": (
        {**GROUPED, "use_qk_norm": True}, tied(ATTENTION + (HEADS + KV_HEADS) * HEAD + GATED + HIDDEN),
    ),
    "Cohere2ForCausalLM": (GROUPED, tied(ATTENTION + GATED + HIDDEN)),
    "PhiForCausalLM": (
        SIZES, untied(FULL + 4 * HIDDEN + PLAIN + PLAIN_BIAS + 2 * HIDDEN, norm=2 * HIDDEN) + VOCAB,
    ),
    "GPT2LMHeadModel": (
        {"n_layer": LAYERS, "n_embd": HIDDEN, "n_head": HEADS, "vocab_size": VOCAB, "n_positions": 30},
        tied(FULL + 4 * HIDDEN + 8 * HIDDEN**2 + 5 * HIDDEN + 4 * HIDDEN, norm=2 * HIDDEN) + 30 * HIDDEN,
    ),
    "GPTJForCausalLM": (
        {"n_layer": LAYERS, "n_embd": HIDDEN, "n_head": HEADS, "vocab_size": VOCAB, "n_inner": WIDTH},
        untied(FULL + PLAIN + PLAIN_BIAS + 2 * HIDDEN, norm=2 * HIDDEN) + VOCAB,
    ),
    "OPTForCausalLM": (
        {**SIZES, "ffn_dim": WIDTH, "max_position_embeddings": 30},
        tied(FULL + 4 * HIDDEN + PLAIN + PLAIN_BIAS + 4 * HIDDEN, norm=2 * HIDDEN) + 32 * HIDDEN,
    ),
    "FalconForCausalLM": (
        {**SIZES, "ffn_hidden_size": WIDTH},
        tied(HIDDEN * (HEADS + 2) * HEAD + HIDDEN * HIDDEN + PLAIN + 2 * HIDDEN, norm=2 * HIDDEN),
    ),
    "GPTNeoXForCausalLM": (
        {**SIZES, "use_parallel_residual": False},
        untied(FULL + 4 * HIDDEN + PLAIN + PLAIN_BIAS + 4 * HIDDEN, norm=2 * HIDDEN),
    ),
    "MixtralForCausalLM": (
        {**GROUPED, **LOCAL}, untied(ATTENTION + ROUTER + EXPERTS * GATED + 2 * HIDDEN),
    ),
    "PhimoeForCausalLM": (
        {**GROUPED, **LOCAL, "attention_bias": True, "lm_head_bias": True},
        untied(ATTENTION + QKV_BIAS + HIDDEN + ROUTER + EXPERTS * GATED + 4 * HIDDEN, norm=2 * HIDDEN) + VOCAB,
    ),
    "Qwen2MoeForCausalLM": (
        {**GROUPED, **ROUTED, "shared_expert_intermediate_size": 50},
        untied(ATTENTION + QKV_BIAS + ROUTER + EXPERTS * EXPERT + 3 * HIDDEN * 50 + HIDDEN + 2 * HIDDEN),
    ),
    "Qwen3MoeForCausalLM": (
        {**GROUPED, **ROUTED, "mlp_only_layers": [1]},
        untied(ATTENTION + 2 * HEAD + 2 * HIDDEN) + 2 * (ROUTER + EXPERTS * EXPERT) + GATED,
    ),
    "GptOssForCausalLM": (
        {**GROUPED, **LOCAL, "head_dim": HEAD},
        untied(
            ATTENTION + QKV_BIAS + HIDDEN + HEADS + ROUTER + EXPERTS + EXPERTS * (GATED + 2 * WIDTH + HIDDEN)
            + 2 * HIDDEN
        ),
    ),
    "DeepseekV2ForCausalLM": (DEEPSEEK, DEEPSEEK_LAYERS + 2 * EMBEDDING + HIDDEN),
    "DeepseekV3ForCausalLM": (
        {**DEEPSEEK, "num_nextn_predict_layers": 1}, DEEPSEEK_LAYERS + 2 * EXPERTS + 2 * EMBEDDING + HIDDEN,
    ),
    "Glm4MoeForCausalLM": (
        {**DEEPSEEK, "num_key_value_heads": KV_HEADS, "attention_bias": True, "use_qk_norm": True},
        untied(ATTENTION + QKV_BIAS + 2 * HEAD + 2 * HIDDEN)
        + GATED + 2 * (ROUTER + EXPERTS + (EXPERTS + 2) * EXPERT),
    ),
    "MiniMaxM2ForCausalLM": (
        {**GROUPED, **LOCAL, "head_dim": HEAD},
        untied(ATTENTION + (HEADS + KV_HEADS) * HEAD + ROUTER + EXPERTS + EXPERTS * GATED + 2 * HIDDEN),
    ),
    "Gemma4ForCausalLM": (
        {
            **GROUPED, **ROUTED, "head_dim": HEAD, "hidden_size_per_layer_input": 0, "enable_moe_block": True,
            "attention_k_eq_v": True, "global_head_dim": 32, "num_global_key_value_heads": 1,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
        2 * (ATTENTION + 2 * HEAD) + HIDDEN * (HEADS + 1) * 32 + HEADS * 32 * HIDDEN + 2 * 32
        + tied(GATED + ROUTER + EXPERTS + EXPERTS * EXPERT + 8 * HIDDEN),
    ),
}  # fmt: skip


@pytest.fixture
def load(tmp_path):
    """Give a function that loads a config of some architecture from a file."""

    def load(architecture, config, name="model.json"):
        path = tmp_path / name
        path.write_text(json.dumps({"architectures": [architecture], **config}), encoding="utf-8")
        return perfsim.load_model(path)

    return load


@pytest.fixture
def faults(load, refused):
    """Give a function that gives the faults of a config, by field."""

    def faults(architecture, config):
        return {fault.field: fault for fault in refused(load, architecture, config)}

    return faults


@pytest.mark.parametrize("architecture", FAMILIES)
def test_parameters_of_every_family_in_closed_form(load, architecture):
    """Matrices, biases, norms, experts, embedding and head, to the last number."""
    config, parameters = FAMILIES[architecture]
    assert load(architecture, config).num_parameters == parameters


def test_every_architecture_has_a_closed_form_here():
    """A new family comes with its count."""
    from perfsim.spec.huggingface import config

    assert set(config._FAMILIES) == set(FAMILIES)


# Defaults: what a file leaves out


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("LlamaForCausalLM", (32, 24, False, 2048)),
        ("MistralForCausalLM", (8, 24, False, 131_072)),
        ("Qwen2ForCausalLM", (32, 24, False, 32_768)),
        ("Qwen3ForCausalLM", (32, 128, False, 32_768)),
        ("GemmaForCausalLM", (16, 256, True, 8192)),
        ("Gemma2ForCausalLM", (4, 256, True, 8192)),
        ("Gemma3ForCausalLM", (4, 256, True, 131_072)),
        ("Phi3ForCausalLM", (32, 24, False, 4096)),
        ("GlmForCausalLM", (2, 128, False, 131_072)),
        ("CohereForCausalLM", (32, 24, True, 8192)),
    ],
)
def test_defaults_are_those_of_the_classes(load, architecture, expected):
    """KV heads, head width, tied head and context, each as its class has it."""
    model = load(architecture, {**SIZES, "hidden_size": 768, "num_attention_heads": 32})
    found = (model.kv_heads, model.head_size, model.tie_word_embeddings, model.max_position_embeddings)
    assert found == expected


def test_a_null_is_not_what_is_left_out(load):
    """Mistral has a window unless the file says null; Qwen3's heads are 128 wide unless it says null."""
    assert load("MistralForCausalLM", GROUPED).sliding_window == 4096
    assert load("MistralForCausalLM", {**GROUPED, "sliding_window": None}).sliding_window is None
    assert load("Qwen3ForCausalLM", {**SIZES, "num_key_value_heads": None, "head_dim": None}).head_size == HEAD
    assert load("DeepseekV3ForCausalLM", {**DEEPSEEK, "q_lora_rank": None}).q_lora_rank is None
    without_rank = {key: value for key, value in DEEPSEEK.items() if key != "q_lora_rank"}
    assert load("DeepseekV3ForCausalLM", without_rank).q_lora_rank == 1536


def test_the_dtype_has_two_names_and_a_default(load):
    """Older files say torch_dtype, newer ones dtype, some nothing."""
    for config, dtype in (({"torch_dtype": "float16"}, "fp16"), ({"dtype": "float32"}, "fp32"), ({}, "bf16")):
        assert load("LlamaForCausalLM", {**GROUPED, **config}).dtype == dtype


def test_activations_that_cost_the_same_are_one(load):
    """An approximated GELU is a GELU."""
    assert load("GPT2LMHeadModel", FAMILIES["GPT2LMHeadModel"][0]).hidden_act == "gelu"
    assert load("LlamaForCausalLM", {**GROUPED, "hidden_act": "swish"}).hidden_act == "silu"


def test_model_type_stands_in_for_the_architecture(tmp_path):
    """Files without a class still say their family."""
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"model_type": "qwen3", **GROUPED}), encoding="utf-8")
    assert perfsim.load_model(path).qk_norm == "head"
    assert is_hugging_face({"model_type": "qwen3"})
    assert not is_hugging_face({"num_hidden_layers": 1})


def test_keys_that_perfsim_does_not_know_are_passed_over(load):
    """Files of Hugging Face hold dozens of them."""
    assert load("LlamaForCausalLM", {**GROUPED, "rope_theta": 1e6, "bos_token_id": 1}) == load(
        "LlamaForCausalLM", GROUPED
    )


# Windows and experts by layer


def windows(model):
    """Give the window of every layer."""
    return [kind.window for kind in model.layers]


@pytest.mark.parametrize(
    ("architecture", "config", "expected"),
    [
        ("LlamaForCausalLM", {}, [None] * 7),
        ("MistralForCausalLM", {"sliding_window": 8}, [8] * 7),
        ("MinistralForCausalLM", {"sliding_window": 8}, [8] * 7),
        ("Phi3ForCausalLM", {"sliding_window": 8}, [8] * 7),
        ("Qwen2ForCausalLM", {"sliding_window": 8}, [None] * 7),
        (
            "Qwen2ForCausalLM", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 5},
            [None] * 5 + [8, 8],
        ),
        ("Gemma2ForCausalLM", {"sliding_window": 8}, [8, None, 8, None, 8, None, 8]),
        ("Gemma3ForCausalLM", {"sliding_window": 8}, [8, 8, 8, 8, 8, None, 8]),
        ("Gemma3ForCausalLM", {"sliding_window": 8, "sliding_window_pattern": 3}, [8, 8, None, 8, 8, None, 8]),
        ("Cohere2ForCausalLM", {"sliding_window": 8}, [8, 8, 8, None, 8, 8, 8]),
        ("GptOssForCausalLM", LOCAL, [128, None, 128, None, 128, None, 128]),
        (
            "GptOssForCausalLM", {**LOCAL, "layer_types": ["full_attention"] * 6 + ["sliding_attention"]},
            [None] * 6 + [128],
        ),
        ("GptOssForCausalLM", {**LOCAL, "layer_types": ["full_attention"] * 7}, [None] * 7),
        ("MixtralForCausalLM", {**LOCAL, "sliding_window": 8}, [8] * 7),
        ("Qwen3MoeForCausalLM", {**ROUTED, "sliding_window": 8, "use_sliding_window": True}, [8] * 7),
        (
            "Qwen2MoeForCausalLM",
            {**ROUTED, "sliding_window": 8, "use_sliding_window": True, "max_window_layers": 4},
            [8, None, 8, None, None, None, None],
        ),
    ],
)  # fmt: skip
def test_windows_are_those_of_the_family(load, architecture, config, expected):
    """By the rule of the class, or by the list in the file."""
    assert windows(load(architecture, {**GROUPED, "num_hidden_layers": 7, **config})) == expected


@pytest.mark.parametrize(
    ("architecture", "config", "sparse"),
    [
        ("MixtralForCausalLM", {**GROUPED, **LOCAL}, range(7)),
        ("Qwen3MoeForCausalLM", {**GROUPED, **ROUTED, "decoder_sparse_step": 2}, (1, 3, 5)),
        ("Qwen3MoeForCausalLM", {**GROUPED, **ROUTED, "mlp_only_layers": [0, 4]}, (1, 2, 3, 5, 6)),
        ("DeepseekV3ForCausalLM", {**DEEPSEEK, "first_k_dense_replace": 3}, (3, 4, 5, 6)),
        ("DeepseekV3ForCausalLM", {**DEEPSEEK, "moe_layer_freq": 3}, (3, 6)),
        (
            "DeepseekV3ForCausalLM", {**DEEPSEEK, "mlp_layer_types": ["dense"] * 5 + ["sparse"] * 2}, (5, 6),
        ),
        ("DeepseekV2ForCausalLM", {**DEEPSEEK, "n_routed_experts": None}, ()),
    ],
)  # fmt: skip
def test_experts_are_in_the_layers_of_the_family(load, architecture, config, sparse):
    """Dense layers first, every n-th, or by a list."""
    model = load(architecture, {**config, "num_hidden_layers": 7})
    assert [layer for layer, kind in enumerate(model.layers) if kind.experts] == list(sparse)


# Multimodal files


def test_the_text_model_of_a_multimodal_file_is_read(load):
    """Its own keys first, those beside it where it has none; the name says so."""
    text = {**GROUPED, "head_dim": HEAD, "dtype": "float16"}
    config = {"text_config": text, "tie_word_embeddings": True, "vision_config": {"depth": 24}}
    model = load("Qwen3VLForConditionalGeneration", config)
    assert (model.name, model.dtype, model.tie_word_embeddings) == ("model (text)", "fp16", True)
    assert model.num_parameters == FAMILIES["Qwen3ForCausalLM"][1] - EMBEDDING


def test_a_multimodal_file_may_hold_its_text_model_at_the_top(load):
    """As Qwen2-VL's do."""
    model = load("Qwen2VLForConditionalGeneration", GROUPED)
    assert model.num_parameters == FAMILIES["Qwen2ForCausalLM"][1]


def test_gemma_3_leaves_out_sizes_that_its_class_has(load):
    """As the file of the 4B model does."""
    text = {"hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34, "sliding_window": 1024}
    model = load("Gemma3ForConditionalGeneration", {"text_config": text})
    assert model.num_parameters == 3_880_263_168


# Files and folders


def test_a_folder_means_the_config_in_it(tmp_path, load):
    """As Hugging Face lays out a model; its name is that of the folder."""
    (tmp_path / "my-model").mkdir()
    model = load("LlamaForCausalLM", GROUPED, "my-model/config.json")
    assert model.name == "my-model"
    assert perfsim.load_model(tmp_path / "my-model") == model


def test_a_folder_without_a_config_is_refused_by_its_path(refused, tmp_path):
    """The path that was looked for."""
    (fault,) = refused(perfsim.load_model, tmp_path)
    assert fault.value == str(tmp_path / "config.json")


PRESETS = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "gpt-oss-120b": 116_829_156_672,
    "deepseek-v3": 671_026_419_200,
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_parameters_of_the_checkpoints(name):
    """To the last one."""
    assert perfsim.load_model(name).num_parameters == PRESETS[name]


def test_every_preset_of_a_public_model_has_its_count_here():
    """A new preset comes with its count."""
    assert set(perfsim.list_models()) == {"llm-16l-8192", *PRESETS}


# Refusals


@pytest.mark.parametrize(
    ("architecture", "what"),
    [
        ("Qwen3NextForCausalLM", "linear attention"),
        ("NemotronHForCausalLM", "Mamba"),
        ("DeepseekV32ForCausalLM", "indexer"),
        ("Llama4ForConditionalGeneration", "chunks"),
        ("DeciLMForCausalLM", "different shapes"),
        ("Gemma3nForConditionalGeneration", "every layer"),
        ("T5ForConditionalGeneration", "encoder"),
    ],
)
def test_what_is_not_supported_is_named(faults, architecture, what):
    """With the architectures that are supported."""
    (fault,) = faults(architecture, SIZES).values()
    assert (fault.field, fault.value) == ("model.architectures", architecture)
    assert what in fault.allowed
    assert "LlamaForCausalLM" in fault.way_out


def test_an_unknown_architecture_is_named_with_the_nearest(faults):
    """And all that are known."""
    (fault,) = faults("LlamaForCasualLM", SIZES).values()
    assert fault.field == "model.architectures"
    assert "MixtralForCausalLM" in fault.allowed
    assert fault.way_out == "did you mean 'LlamaForCausalLM'?"


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"model_type": "llamas"}, "model_type"),
        ({"architectures": None}, "model_type"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"architectures": [5]}, "architectures"),
    ],
)
def test_a_file_that_names_no_family_is_refused(refused, tmp_path, table, field):
    """Neither by class nor by type."""
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**GROUPED, **table}), encoding="utf-8")
    (fault,) = refused(perfsim.load_model, path)
    assert fault.field == f"model.{field}"


@pytest.mark.parametrize(
    ("architecture", "config", "field"),
    [
        ("GPTNeoXForCausalLM", {}, "use_parallel_residual"),
        ("FalconForCausalLM", {"new_decoder_architecture": True}, "num_ln_in_parallel_attn"),
        ("OPTForCausalLM", {"ffn_dim": 96, "do_layer_norm_before": False}, "do_layer_norm_before"),
        ("OPTForCausalLM", {"ffn_dim": 96, "word_embed_proj_dim": 32}, "word_embed_proj_dim"),
        ("PhiForCausalLM", {"qk_layernorm": True}, "qk_layernorm"),
        ("GPT2LMHeadModel", {**FAMILIES["GPT2LMHeadModel"][0], "add_cross_attention": True}, "add_cross_attention"),
        ("GptOssForCausalLM", {**LOCAL, "layer_types": ["linear_attention"] * 3}, "layer_types"),
        ("MiniMaxM2ForCausalLM", {**LOCAL, "attn_type_list": [1, 0, 1]}, "attn_type_list"),
        ("MiniMaxM2ForCausalLM", {**LOCAL, "qk_norm_type": "per_head"}, "qk_norm_type"),
        ("MiniMaxM2ForCausalLM", {**LOCAL, "shared_intermediate_size": 8}, "shared_intermediate_size"),
        ("Gemma4ForCausalLM", {}, "hidden_size_per_layer_input"),
        ("Gemma4ForCausalLM", {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 1}, "num_kv_shared_layers"),
        ("Gemma4ForCausalLM", {"hidden_size_per_layer_input": 0, "per_layer_config": {"05": {}}}, "per_layer_config"),
    ],
)
def test_what_a_field_says_that_is_not_supported_is_named(faults, architecture, config, field):
    """A family is supported, and something in it is not."""
    found = faults(architecture, {**GROUPED, **config})
    assert set(found) == {f"model.{field}"}
    assert "is not supported: " in found[f"model.{field}"].allowed


# Faults


def test_missing_wrong_and_contradictory_fields_come_together(faults):
    """Under the names of the file, each once."""
    config = {**GROUPED, **ROUTED, "num_key_value_heads": 3, "num_experts_per_tok": 9, "hidden_act": "silo"}
    del config["vocab_size"]
    found = faults("Qwen3MoeForCausalLM", {**config, "attention_bias": "no", "mlp_only_layers": 1, "head_dim": -1})
    assert set(found) == {
        "model.vocab_size", "model.num_key_value_heads", "model.num_experts_per_tok", "model.hidden_act",
        "model.attention_bias", "model.mlp_only_layers", "model.head_dim",
    }  # fmt: skip
    assert found["model.num_key_value_heads"].way_out == "the divisors are 1, 2, 4"
    assert found["model.num_experts_per_tok"].way_out == "the nearest is 8"
    assert found["model.hidden_act"].way_out == "did you mean 'silu'?"


def test_faults_bear_the_names_of_the_file(faults):
    """GPT-2's sizes are called as in 2019."""
    found = faults("GPT2LMHeadModel", {"n_layer": 0, "n_embd": 66, "n_head": 4, "vocab_size": 100})
    assert set(found) == {"model.n_layer", "model.n_embd"}


def test_faults_of_a_text_model_say_where_it_is(faults):
    """Below text_config."""
    found = faults("Qwen3VLForConditionalGeneration", {"text_config": {**GROUPED, "hidden_size": 0}})
    assert set(found) == {"model.text_config.hidden_size"}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"layer_types": ["full_attention"] * 2}, "layer_types"),
        ({"layer_types": "full_attention"}, "layer_types"),
        ({"layer_types": ["full_attention", "sliding_attention"] * 2, "num_hidden_layers": 4, "sliding_window": None},
         "sliding_window"),
        ({"sliding_window": -1}, "sliding_window"),
        ({"num_experts_per_tok": 2.5}, "num_experts_per_tok"),
        ({"num_local_experts": 0}, "num_experts_per_tok"),
        ({"torch_dtype": "bfloat32"}, "torch_dtype"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
    ],
)  # fmt: skip
def test_wrong_fields_are_refused(faults, config, field):
    """Lists of another length, windows that are missing, numbers that are none."""
    assert f"model.{field}" in faults("GptOssForCausalLM", {**GROUPED, **LOCAL, **config})


def test_dense_layers_may_not_be_all(faults):
    """A mixture of experts has some."""
    found = faults("DeepseekV3ForCausalLM", {**DEEPSEEK, "first_k_dense_replace": 3})
    assert set(found) == {"model.first_k_dense_replace"}


def test_latent_attention_has_no_groups(faults):
    """The key is written for other programs, and must not say anything else."""
    assert set(faults("DeepseekV3ForCausalLM", {**DEEPSEEK, "num_key_value_heads": 2})) == {"model.num_key_value_heads"}


def faults_of(table):
    """Give the faults of a table, as loading it would."""
    try:
        reading = read_config(table, "m")
    except InputError as error:
        return error.faults
    try:
        Model(**reading.fields)
    except InputError as error:
        reading.adopt(error)
    return reading.faults.found


KEYS = sorted(
    {key for config, _parameters in FAMILIES.values() for key in config}
    | {
        "architectures", "model_type", "text_config", "torch_dtype", "layer_types", "mlp_layer_types", "sliding_window",
        "max_window_layers", "use_sliding_window", "sliding_window_pattern", "quantization_config", "attn_type_list",
        "decoder_sparse_step", "moe_layer_freq", "tie_word_embeddings", "word_embed_proj_dim", "topk_method",
    }
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["quant_method", "weights"]), inner),
    max_leaves=4,
)


@settings(max_examples=150)
@given(st.sampled_from(sorted(FAMILIES)), st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=3))
def test_nothing_in_a_file_breaks_the_reader(architecture, changes):
    """Whatever stands where, a file is a model or has faults with names."""
    table = {"architectures": [architecture], **FAMILIES[architecture][0], **changes}
    fields = [fault.field for fault in faults_of(table)]
    assert all(field.startswith("model.") for field in fields)
    assert len(set(fields)) == len(fields)
