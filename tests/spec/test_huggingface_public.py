"""Public models: their parameters to the last one, and every model file of the optional package of public data.

The counts are those of the modules that Hugging Face's classes build from these sizes, draft layers left out and the
corrections of routers counted.
"""

import json
from pathlib import Path

import pytest

import perfsim

PUBLIC = {
    "GPT-2": ("GPT2LMHeadModel", {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024},
        124_439_808),
    "OPT-125M": ("OPTForCausalLM", {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "ffn_dim":
        3072, "vocab_size": 50272, "max_position_embeddings": 2048, "word_embed_proj_dim": 768}, 125_239_296),
    "Phi-2": ("PhiForCausalLM", {"hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 10240, "vocab_size": 51200}, 2_779_683_840),
    "Phi-3-mini": ("Phi3ForCausalLM", {"hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 8192, "vocab_size": 32064, "sliding_window": 2047}, 3_821_079_552),
    "Phi-3.5-MoE": ("PhimoeForCausalLM", {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 6400, "vocab_size": 32064, "num_local_experts": 16,
        "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True}, 41_873_153_344),
    "GPT-J-6B": ("GPTJForCausalLM", {"n_embd": 4096, "n_layer": 28, "n_head": 16, "vocab_size": 50400, "n_positions":
        2048}, 6_050_882_784),
    "Falcon-7B": ("FalconForCausalLM", {"hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
        "vocab_size": 65024}, 6_921_720_704),
    "Falcon2-11B": ("FalconForCausalLM", {"hidden_size": 4096, "num_hidden_layers": 60, "num_attention_heads": 32,
        "num_kv_heads": 8, "vocab_size": 65024, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1,
        "tie_word_embeddings": False}, 11_102_822_400),
    "Falcon-RW-1B": ("FalconForCausalLM", {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32,
        "vocab_size": 50304, "multi_query": False, "parallel_attn": False, "bias": True}, 1_311_625_216),
    "Command-R": ("CohereForCausalLM", {"hidden_size": 8192, "num_hidden_layers": 40, "num_attention_heads": 64,
        "num_key_value_heads": 64, "intermediate_size": 22528, "vocab_size": 256000}, 34_980_831_232),
    "Command-R+": ("CohereForCausalLM", {"hidden_size": 12288, "num_hidden_layers": 64, "num_attention_heads": 96,
        "num_key_value_heads": 8, "intermediate_size": 33792, "vocab_size": 256000, "use_qk_norm": True},
        103_810_674_688),
    "Command-R7B": ("Cohere2ForCausalLM", {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 256000, "sliding_window": 4096},
        8_028_033_024),
    "Gemma-7B": ("GemmaForCausalLM", {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 16, "head_dim": 256, "intermediate_size": 24576, "vocab_size": 256000}, 8_537_680_896),
    "Gemma-2-9B": ("Gemma2ForCausalLM", {"hidden_size": 3584, "num_hidden_layers": 42, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 256, "intermediate_size": 14336, "vocab_size": 256000}, 9_241_705_984),
    "Gemma-3-27B": ("Gemma3ForCausalLM", {"hidden_size": 5376, "num_hidden_layers": 62, "num_attention_heads": 32,
        "num_key_value_heads": 16, "head_dim": 128, "intermediate_size": 21504, "vocab_size": 262208, "sliding_window":
        1024}, 27_009_346_304),
    "GLM-4-9B": ("GlmForCausalLM", {"hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32,
        "num_key_value_heads": 2, "intermediate_size": 13696, "vocab_size": 151552, "attention_bias": True},
        9_399_951_360),
    "GLM-4-32B": ("Glm4ForCausalLM", {"hidden_size": 6144, "num_hidden_layers": 61, "num_attention_heads": 48,
        "num_key_value_heads": 2, "intermediate_size": 23040, "vocab_size": 151552, "attention_bias": False},
        32_566_081_536),
    "GLM-4.5": ("Glm4MoeForCausalLM", {"hidden_size": 5120, "num_hidden_layers": 92, "num_attention_heads": 96,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 151552, "attention_bias":
        True, "use_qk_norm": True, "n_routed_experts": 160, "num_experts_per_tok": 8, "n_shared_experts": 1,
        "moe_intermediate_size": 1536, "first_k_dense_replace": 3}, 352_797_829_024),
    "Nemotron-Mini-4B": ("NemotronForCausalLM", {"hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads":
        24, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9216, "vocab_size": 256000}, 4_190_509_056),
    "Mistral-7B": ("MistralForCausalLM", {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000}, 7_241_732_096),
    "Mistral-Nemo": ("MistralForCausalLM", {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 14336, "vocab_size": 131072, "sliding_window":
        None}, 12_247_782_400),
    "Ministral-8B": ("MinistralForCausalLM", {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 131072, "sliding_window":
        32768}, 8_019_808_256),
    "Qwen2.5-7B": ("Qwen2ForCausalLM", {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064}, 7_615_616_512),
    "Qwen3-8B": ("Qwen3ForCausalLM", {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 12288, "vocab_size": 151936}, 8_190_735_360),
    "Qwen1.5-MoE-A2.7B": ("Qwen2MoeForCausalLM", {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads":
        16, "num_key_value_heads": 16, "intermediate_size": 5632, "vocab_size": 151936, "num_experts": 60,
        "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
        14_315_784_192),
    "DeepSeek-V2-Lite": ("DeepseekV2ForCausalLM", {"hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads":
        16, "num_key_value_heads": 16, "intermediate_size": 10944, "vocab_size": 102400, "n_routed_experts": 64,
        "num_experts_per_tok": 6, "n_shared_experts": 2, "moe_intermediate_size": 1408, "first_k_dense_replace": 1,
        "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128},
        15_706_484_224),
}  # fmt: skip
"""Architecture, facts of the published file, and parameters."""


@pytest.mark.parametrize("name", PUBLIC)
def test_public_models_have_their_parameters(tmp_path, name):
    """Every family at full size."""
    architecture, config, parameters = PUBLIC[name]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"architectures": [architecture], **config}), encoding="utf-8")
    assert perfsim.load_model(path).num_parameters == parameters


@pytest.mark.parametrize(
    ("name", "active"),
    [("mixtral-8x7b", 12.9e9), ("qwen3-30b-a3b", 3.35e9), ("qwen3-235b-a22b", 22.2e9), ("deepseek-v3", 37.55e9)],
)
def test_active_parameters_are_those_of_the_publications(name, active):
    """The whole embedding counts; publications that leave it out say less."""
    assert perfsim.load_model(name).num_active_parameters == pytest.approx(active, rel=5e-3)


# The model files of aiconfigurator-core

LOADED = {
    "MiniMaxAI--MiniMax-M2.": 228_689_764_864,
    "Qwen--Qwen3-0.6B": 596_049_920,
    "Qwen--Qwen3-1.7B": 1_720_574_976,
    "Qwen--Qwen3-235B-A22B": 235_093_634_560,
    "Qwen--Qwen3-30B-A3B": 30_532_122_624,
    "Qwen--Qwen3-32B": 32_762_123_264,
    "Qwen--Qwen3-8B": 8_190_735_360,
    "Qwen--Qwen3-Coder-480B": 480_154_875_392,
    "Qwen--Qwen3-VL-235B": 235_093_634_560,
    "Qwen--Qwen3-VL-2B": 1_720_574_976,
    "Qwen--Qwen3-VL-30B": 30_532_122_624,
    "Qwen--Qwen3-VL-32B": 32_762_123_264,
    "Qwen--Qwen3-VL-4B": 4_022_468_096,
    "Qwen--Qwen3-VL-8B": 8_190_735_360,
    "XiaomiMiMo--MiMo-7B": 7_622_619_136,
    "deepseek-ai--DeepSeek-R1": 671_026_419_200,
    "deepseek-ai--DeepSeek-V3_": 671_026_419_200,
    "google--gemma-4-26B": 25_233_141_760,
    "meta-llama--Meta-Llama-3.1-405B": 405_853_388_800,
    "meta-llama--Meta-Llama-3.1-70B": 70_553_706_496,
    "meta-llama--Meta-Llama-3.1-8B": 8_030_261_248,
    "mistralai--Mixtral-8x22B": 140_620_634_112,
    "mistralai--Mixtral-8x7B": 46_702_792_704,
    "moonshotai--Kimi-K2": 1_026_408_232_448,
    "nvidia--DeepSeek-V3.1": 671_026_419_200,
    "nvidia--Gemma-4-26B": 25_233_141_760,
    "nvidia--Gemma-4-31B": 30_697_345_280,
    "nvidia--Kimi-K2": 1_026_408_232_448,
    "nvidia--Llama-3.1-70B": 70_553_706_496,
    "nvidia--MiniMax-M2": 228_689_764_864,
    "nvidia--Qwen3-235B": 235_093_634_560,
    "openai--gpt-oss-120b": 116_829_156_672,
    "openai--gpt-oss-20b": 20_914_757_184,
}
"""Beginnings of the names of files, and the parameters of the model."""

REFUSED = {
    "linear attention": ("Qwen--Qwen3.", "nvidia--Qwen3.", "moonshotai--Kimi-K3"),
    "Mamba layers": ("nvidia--NVIDIA-Nemotron-3", "nvidia--Nemotron-H"),
    "an indexer directs": (
        "MiniMaxAI--MiniMax-M3", "nvidia--MiniMax-M3", "deepseek-ai--DeepSeek-V3.2", "deepseek-ai--DeepSeek-V4",
        "nvidia--DeepSeek-V3.2", "nvidia--DeepSeek-V4", "sgl-project--DeepSeek-V4", "zai-org--GLM-5", "nvidia--GLM-5",
    ),
    "attention within chunks": ("meta-llama--Llama-4",),
    "layers of different shapes": ("nvidia--Llama-3_3-Nemotron",),
    "different numbers of heads": ("stepfun-ai--Step",),
    "differ between layers": ("XiaomiMiMo--MiMo-V2",),
}  # fmt: skip

QUANTIZED = {
    "Qwen--Qwen3-32B_": ("none", None, None),
    "Qwen--Qwen3-32B-FP8_": ("fp8_block", None, None),
    "Qwen--Qwen3-32B-FP8-Static": ("fp8", None, None),
    "Qwen--Qwen3-235B-A22B-FP8": ("fp8_block", None, None),
    "deepseek-ai--DeepSeek-V3_": ("fp8_block", None, None),
    "moonshotai--Kimi-K2.5": ("none", None, "int4"),
    "openai--gpt-oss": ("none", None, "mxfp4"),
    "nvidia--DeepSeek-V3.1": ("nvfp4", None, None),
    "nvidia--Gemma-4-26B": ("none", None, "nvfp4"),
    "nvidia--Gemma-4-31B": ("nvfp4", "none", None),
    "nvidia--Kimi-K2.5": ("nvfp4", "none", None),
    "nvidia--Kimi-K2.6": ("none", None, "nvfp4"),
    "nvidia--Llama-3.1-70B": ("fp8", None, None),
    "nvidia--MiniMax-M2": ("none", None, "nvfp4"),
    "nvidia--Qwen3-235B": ("nvfp4", None, None),
}
"""How MLPs, attention and experts are stored; None: as MLPs."""


@pytest.fixture(scope="module")
def files():
    """Give every model file of the package: not those that only tell how one is quantised."""
    package = pytest.importorskip("aiconfigurator_core", reason="an extra: pip install 'perfsim[silicon]'")
    folder = Path(package.__file__).parent / "model_configs"
    return [path for path in sorted(folder.glob("*_config.json")) if not path.name.endswith("_hf_quant_config.json")]


def begins(files, start):
    """Give the files whose names begin so; there must be some."""
    found = [path for path in files if path.name.startswith(start)]
    assert found, f"no file begins with {start}"
    return found


def test_every_file_is_loaded_or_refused(files):
    """None is left to chance: each name has its count or its reason here."""
    starts = [*LOADED, *(start for reason in REFUSED.values() for start in reason)]
    assert [path.name for path in files if not path.name.startswith(tuple(starts))] == []


@pytest.mark.parametrize("start", LOADED)
def test_files_load_with_their_parameters(files, start):
    """The text model's, to the last one; a family is read from the files as they were published."""
    assert {perfsim.load_model(path).num_parameters for path in begins(files, start)} == {LOADED[start]}


@pytest.mark.parametrize("what", REFUSED)
def test_files_are_refused_with_what_is_not_supported(files, refused, what):
    """One fault, that of the architecture."""
    for start in REFUSED[what]:
        for path in begins(files, start):
            (fault,) = refused(perfsim.load_model, path)
            assert fault.field == "model.architectures"
            assert what in fault.allowed


@pytest.mark.parametrize("start", QUANTIZED)
def test_files_are_quantised_as_they_say(files, start):
    """By their own table or by the one beside them."""
    for path in begins(files, start):
        model = perfsim.load_model(path)
        found = (model.quantization, model.attention_quantization, model.expert_quantization)
        assert found == QUANTIZED[start]


@pytest.mark.parametrize(
    ("start", "size"),
    [
        ("meta-llama--Meta-Llama-3.1-70B", 70.6e9),
        ("meta-llama--Meta-Llama-3.1-405B", 406e9),
        ("Qwen--Qwen3-235B-A22B_", 235e9),
        ("Qwen--Qwen3-Coder", 480e9),
        ("mistralai--Mixtral-8x7B", 46.7e9),
        ("mistralai--Mixtral-8x22B", 141e9),
        ("openai--gpt-oss-120b", 116.83e9),
        ("openai--gpt-oss-20b", 20.91e9),
        ("deepseek-ai--DeepSeek-V3_", 671e9),
        ("MiniMaxAI--MiniMax-M2.5", 229e9),
        ("google--gemma-4-26B", 25.2e9),
        ("nvidia--Gemma-4-31B", 30.7e9),
        ("Qwen--Qwen3-32B_", 32.8e9),
        ("Qwen--Qwen3-30B-A3B_", 30.5e9),
        ("Qwen--Qwen3-8B", 8.2e9),
    ],
)
def test_sizes_agree_with_the_model_cards(files, start, size):
    """To half a percent of what the makers say."""
    for path in begins(files, start):
        assert perfsim.load_model(path).num_parameters == pytest.approx(size, rel=5e-3)
