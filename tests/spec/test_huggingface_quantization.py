"""How checkpoints say that their weights are quantised, and which of their layers are not."""

import json

import pytest

import perfsim

SIZES = {
    "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 100,
    "num_key_value_heads": 4,
}  # fmt: skip
ROUTED = {
    **SIZES, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "first_k_dense_replace": 1,
    "q_lora_rank": 20, "kv_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12,
}  # fmt: skip


@pytest.fixture
def load(tmp_path):
    """Give a function that loads a dense or a sparse model with some quantisation, perhaps from a file beside it."""

    def load(table=None, *, sparse=False, side=None):
        config = {"architectures": ["DeepseekV3ForCausalLM"], **ROUTED} if sparse else {"model_type": "llama", **SIZES}
        path = tmp_path / "some_config.json"
        path.write_text(json.dumps({**config, "quantization_config": table}), encoding="utf-8")
        if side is not None:
            (tmp_path / "some_hf_quant_config.json").write_text(json.dumps(side), encoding="utf-8")
        return perfsim.load_model(path)

    return load


def stored(model):
    """Give what MLPs, attention and experts are stored in."""
    common = model.quantization
    return common, model.attention_quantization or common, model.expert_quantization or common


def groups(weights, activations=None):
    """Write what compressed-tensors says of one group of layers."""
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": weights, "input_activations": activations}},
    }


FLOAT_8, INT_8 = {"type": "float", "num_bits": 8}, {"type": "int", "num_bits": 8}
FLOAT_4, INT_4 = {"type": "float", "num_bits": 4}, {"type": "int", "num_bits": 4, "group_size": 32}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "gptq", "bits": 4}, "int4"),
        ({"quant_method": "awq", "w_bit": 4}, "int4"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_algo": "W4A16_AWQ"}, "int4"),
        (groups(FLOAT_8, FLOAT_8), "fp8"),
        (groups({**FLOAT_8, "strategy": "block"}, FLOAT_8), "fp8_block"),
        (groups(INT_8, INT_8), "int8"),
        (groups(INT_4), "int4"),
        (groups({**FLOAT_4, "group_size": 16}, FLOAT_4), "nvfp4"),
        (groups({**FLOAT_4, "group_size": 32}), "mxfp4"),
        (groups({**FLOAT_4, "group_size": 32}, FLOAT_8), "mxfp4"),
    ],
)
def test_every_method_says_how_weights_are_stored(load, table, expected):
    """By its name, by NVIDIA's name of the algorithm, or by type and bits."""
    assert stored(load(table)) == (expected,) * 3


def test_nothing_is_quantised_unless_the_file_says_so(load):
    """Neither the absent table nor a null."""
    assert stored(load()) == ("none",) * 3


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method"),
        ({}, "quant_method"),
        ({"quant_method": "gptq", "bits": 8}, "bits"),
        ({"quant_algo": "MIXED_PRECISION"}, "quant_algo"),
        ({"quant_method": "compressed-tensors"}, "config_groups"),
        (groups(INT_8), "config_groups"),
        (groups(FLOAT_8), "config_groups"),
        (groups(FLOAT_4), "config_groups"),
        (groups(INT_4, FLOAT_8), "config_groups"),
        (groups({"type": "int", "num_bits": [4]}), "config_groups"),
        (groups(None), "config_groups"),
        ({"config_groups": {}}, "config_groups"),
        (
            {"config_groups": {"a": {"weights": INT_4}, "b": {"weights": FLOAT_8, "input_activations": FLOAT_8}}},
            "config_groups",
        ),
        ({"quant_method": "fp8", "ignore": "lm_head"}, "ignore"),
        ({"quant_method": "fp8", "modules_to_not_convert": [1]}, "modules_to_not_convert"),
        ({"quant_method": "fp8", "ignore": ["re:("]}, "ignore"),
    ],
)
def test_what_is_not_known_is_refused_by_its_key(refused, load, table, field):
    """And not taken for something near."""
    (fault,) = refused(load, table)
    assert fault.field == f"model.quantization_config.{field}"


def test_a_table_must_be_one(refused, load):
    """A text is none."""
    (fault,) = refused(load, "fp8")
    assert fault.field == "model.quantization_config"


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        # lists of whole names, in the words of several checkpoints
        (["lm_head", "gate", "e_score_correction_bias"], ("fp8", "fp8", "fp8")),
        ([f"model.layers.{layer}.mlp.gate" for layer in range(4)], ("fp8", "fp8", "fp8")),
        ([f"model.layers.{layer}.self_attn.o_proj" for layer in range(3)], ("fp8", "none", "fp8")),
        ([f"model.layers.{layer}.self_attn.o_proj" for layer in range(1)], ("fp8", "fp8", "fp8")),
        # wildcards, with other words before the layers
        ([f"language_model.model.layers.{layer}.self_attn*" for layer in range(4)], ("fp8", "none", "fp8")),
        (["model.layers.*.self_attn", "model.layers.*.mlp.shared_experts"], ("none", "none", "fp8")),
        (["*.mlp.experts.*"], ("fp8", "fp8", "none")),
        (["model.layers.0*"], ("fp8", "fp8", "fp8")),
        # regular expressions
        (
            ["re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"],
            ("none", "none", "fp8"),
        ),
    ],
)
def test_layers_that_are_left_out_keep_their_dtype(load, left_out, expected):
    """Attention, MLPs and experts each count as most of their layers do."""
    assert stored(load({"quant_method": "fp8", "modules_to_not_convert": left_out}, sparse=True)) == expected


def test_layers_that_are_left_out_with_a_stray_pattern_change_nothing(load):
    """A pattern that no layer matches."""
    assert stored(load({"quant_method": "fp8", "ignore": ["*.vision.*", "re:visual"]}, sparse=True)) == ("fp8",) * 3


def test_mxfp4_of_a_mixture_is_that_of_its_experts(load):
    """The method quantises nothing else, whatever is listed."""
    assert stored(load({"quant_method": "mxfp4"}, sparse=True)) == ("none", "none", "mxfp4")


def test_a_file_beside_the_model_says_it_too(load):
    """NVIDIA's checkpoints have hf_quant_config.json; the model's own table is believed before it."""
    side = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    assert stored(load(side=side)) == ("nvfp4",) * 3
    assert stored(load({"quant_method": "fp8"}, side=side)) == ("fp8",) * 3


def test_faults_of_the_file_beside_the_model_say_so(refused, load):
    """With the whole path."""
    (fault,) = refused(load, side={"quantization": {"quant_algo": "NVFP5"}})
    assert fault.field == "model.hf_quant_config.quantization.quant_algo"
    assert fault.way_out == "did you mean 'NVFP4'?"


def test_quantisation_changes_no_parameter(load):
    """They are counted, not weighed."""
    assert load({"quant_method": "mxfp4"}).num_parameters == load().num_parameters
