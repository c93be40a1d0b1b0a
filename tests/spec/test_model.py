"""Models: sizes, closed forms, presets and files."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim import load_model
from perfsim.spec.model import Model

SMALL = {"name": "m", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}


@pytest.mark.parametrize("field", [key for key in SMALL if key != "name"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "4", True, None], ids=repr)
def test_sizes_that_are_none_are_refused(refused, field, value):
    """Sizes are whole numbers of at least 1."""
    (fault,) = refused(Model, **{**SMALL, field: value})
    assert (fault.field, fault.value) == (f"model.{field}", value)


@pytest.mark.parametrize(("field", "value"), [("num_key_value_heads", 0), ("head_dim", -8), ("head_dim", True)])
def test_optional_sizes_are_checked_too(refused, field, value):
    """What may be left out may not be wrong."""
    (fault,) = refused(Model, **SMALL, **{field: value})
    assert (fault.field, fault.value) == (f"model.{field}", value)


def test_kv_heads_that_do_not_divide_the_heads_are_refused_with_the_divisors(refused):
    """Every query head has one KV head."""
    (fault,) = refused(Model, **SMALL, num_key_value_heads=3)
    assert fault.field == "model.num_key_value_heads"
    assert "1, 2, 4" in fault.way_out


def test_a_hidden_size_without_whole_heads_is_refused(refused):
    """Unless the head width is given."""
    (fault,) = refused(Model, **{**SMALL, "hidden_size": 66})
    assert fault.field == "model.hidden_size"
    assert "head_dim" in fault.way_out
    assert Model(**{**SMALL, "hidden_size": 66}, head_dim=16).head_size == 16


def test_all_faults_come_together(refused):
    """Three wrong fields are three faults of one error."""
    faults = refused(Model, **{**SMALL, "hidden_size": 0}, hidden_act="gelo", torch_dtype="bfloat8")
    assert [fault.field for fault in faults] == ["model.hidden_size", "model.hidden_act", "model.torch_dtype"]


def test_one_wrong_size_does_not_hide_what_others_contradict(refused):
    """What is good is compared with what is good."""
    wrong = {**SMALL, "hidden_size": None, "num_key_value_heads": 3, "num_experts": 4, "num_experts_per_token": 5}
    faults = {fault.field: fault for fault in refused(Model, **wrong, moe_intermediate_size=8)}
    assert set(faults) == {"model.hidden_size", "model.num_key_value_heads", "model.num_experts_per_token"}
    assert faults["model.num_experts_per_token"].way_out == "the nearest is 4"


VOCABULARY = {"vocab_size": 100}
LATENT = {"kv_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12}
EXPERTS = {"num_experts": 8, "num_experts_per_token": 2, "moe_intermediate_size": 40}


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"vocab_size": -1}, "vocab_size"),
        ({**VOCABULARY, "learned_positions": 1.5}, "learned_positions"),
        ({**VOCABULARY, "tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"norm": "batchnorm"}, "norm"),
        ({"qk_norm": "heads"}, "qk_norm"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"quantization": "int3"}, "quantization"),
        ({"attention_quantization": "bf16"}, "attention_quantization"),
        ({**EXPERTS, "expert_quantization": "fp7"}, "expert_quantization"),
        ({**EXPERTS, "expert_layers": (True, 1)}, "expert_layers"),
        ({"sliding_window": 8, "windowed_layers": "all"}, "windowed_layers"),
        ({**EXPERTS, "moe_intermediate_size": 0}, "moe_intermediate_size"),
        ({**EXPERTS, "num_experts_per_token": 0}, "num_experts_per_token"),
        # entries for each layer
        ({**EXPERTS, "expert_layers": (True,)}, "expert_layers"),
        ({"sliding_window": 8, "windowed_layers": (True, False, True)}, "windowed_layers"),
        # what means nothing by itself
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"head_bias": True}, "head_bias"),
        ({"learned_positions": 10}, "learned_positions"),
        ({"windowed_layers": (True, False)}, "windowed_layers"),
        ({"global_head_dim": 32}, "global_head_dim"),
        ({"sliding_window": 8, "attention_k_eq_v": True}, "attention_k_eq_v"),
        ({"moe_intermediate_size": 8}, "moe_intermediate_size"),
        ({"router_bias": True}, "router_bias"),
        ({"expert_quantization": "fp8"}, "expert_quantization"),
        ({**EXPERTS, "shared_expert_gate": True}, "shared_expert_gate"),
        ({"q_lora_rank": 8}, "q_lora_rank"),
        ({"v_head_dim": 8}, "v_head_dim"),
        # contradictions
        ({"norm": "rmsnorm", "norm_bias": True}, "norm_bias"),
        ({"post_norms": True, "parallel_block": True}, "parallel_block"),
        ({**LATENT, "qk_norm": "head"}, "qk_norm"),
        ({**LATENT, "attention_sinks": True}, "attention_sinks"),
        ({**LATENT, "v_head_dim": None}, "v_head_dim"),
        ({**LATENT, "head_dim": 16}, "head_dim"),
        ({**LATENT, "num_key_value_heads": 2}, "num_key_value_heads"),
    ],
)
def test_wrong_and_contradictory_fields_are_refused(refused, fields, wrong):
    """One field is at fault, and the error says what is allowed."""
    (fault,) = refused(Model, **SMALL, **fields)
    assert fault.field == f"model.{wrong}"
    assert fault.allowed


def test_numpy_sizes_are_sizes():
    """A model of numpy integers equals that of Python's."""
    sizes = {key: np.int64(value) for key, value in SMALL.items() if key != "name"}
    assert Model("m", **sizes) == Model(**SMALL)


def test_head_fields_have_hugging_faces_defaults():
    """As many KV heads as heads, and heads that share the hidden size."""
    model = Model(**SMALL)
    assert (model.num_key_value_heads, model.head_dim, model.dtype) == (4, 16, "bf16")


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({}, 2 * (4 * 64 * 64 + 2 * 64 * 96 + 2 * 64)),
        ({"num_key_value_heads": 2}, 2 * (2 * 64 * 64 + 2 * 64 * 32 + 2 * 64 * 96 + 2 * 64)),
        ({"head_dim": 40}, 2 * (4 * 64 * 160 + 2 * 64 * 96 + 2 * 64)),
        ({"head_dim": 40, "num_key_value_heads": 1}, 2 * (2 * 64 * 160 + 2 * 64 * 40 + 2 * 64 * 96 + 2 * 64)),
    ],
)
def test_parameters_by_hand(sizes, parameters):
    """Q, K, V, output, two MLP matrices and two norms a layer."""
    assert Model(**SMALL, **sizes).num_parameters == parameters


@pytest.mark.parametrize(
    ("fields", "layer"),
    [
        ({"gated_mlp": True}, 4 * 64 * 64 + 3 * 64 * 96 + 2 * 64),
        ({"norm_bias": True}, 4 * 64 * 64 + 2 * 64 * 96 + 4 * 64),
        ({"post_norms": True}, 4 * 64 * 64 + 2 * 64 * 96 + 4 * 64),
        ({"parallel_block": True}, 4 * 64 * 64 + 2 * 64 * 96 + 64),
        ({"attention_bias": True, "num_key_value_heads": 1}, 2 * 64 * 80 + 64 + 2 * 16 + 2 * 64 * 96 + 2 * 64),
        ({"attention_output_bias": True}, 4 * 64 * 64 + 64 + 2 * 64 * 96 + 2 * 64),
        ({"mlp_bias": True}, 4 * 64 * 64 + 2 * 64 * 96 + 96 + 64 + 2 * 64),
        ({"mlp_bias": True, "gated_mlp": True}, 4 * 64 * 64 + 3 * 64 * 96 + 2 * 96 + 64 + 2 * 64),
        ({"qk_norm": "head"}, 4 * 64 * 64 + 2 * 16 + 2 * 64 * 96 + 2 * 64),
        ({"qk_norm": "width", "num_key_value_heads": 1}, 2 * 64 * 80 + 80 + 2 * 64 * 96 + 2 * 64),
        ({"attention_sinks": True}, 4 * 64 * 64 + 4 + 2 * 64 * 96 + 2 * 64),
        ({"sliding_window": 8}, 4 * 64 * 64 + 2 * 64 * 96 + 2 * 64),
        (LATENT, 64 * 4 * 24 + 64 * 32 + 24 + 24 * 4 * (16 + 12) + 4 * 12 * 64 + 2 * 64 * 96 + 2 * 64),
        (
            {**LATENT, "q_lora_rank": 20, "attention_bias": True},
            65 * 20 + 20 + 20 * 4 * 24 + 65 * 32 + 24 + 24 * 4 * (16 + 12) + 4 * 12 * 64 + 2 * 64 * 96 + 2 * 64,
        ),
        (EXPERTS, 4 * 64 * 64 + 64 * 8 + 8 * 2 * 64 * 40 + 2 * 64),
        ({**EXPERTS, "gated_mlp": True, "router_bias": True}, 4 * 64 * 64 + 65 * 8 + 8 * 3 * 64 * 40 + 2 * 64),
        (
            {**EXPERTS, "gated_mlp": True, "expert_bias": True},
            4 * 64 * 64 + 64 * 8 + 8 * (3 * 64 * 40 + 2 * 40 + 64) + 2 * 64,
        ),
        (
            {**EXPERTS, "shared_expert_intermediate_size": 50, "shared_expert_gate": True},
            4 * 64 * 64 + 64 * 8 + 8 * 2 * 64 * 40 + 2 * 64 * 50 + 64 + 2 * 64,
        ),
        (
            {**EXPERTS, "shared_expert_intermediate_size": 50, "expert_branch_norms": True},
            4 * 64 * 64 + 64 * 8 + 8 * 2 * 64 * 40 + 2 * 64 * 50 + 6 * 64,
        ),
    ],
)
def test_parameters_of_every_part_by_hand(fields, layer):
    """Each field adds what its modules hold, in every layer."""
    model = Model(**SMALL, **fields)
    (kind,) = set(model.layers)
    assert model.layer_parameters(kind) == layer
    assert model.num_parameters == 2 * layer


def test_a_vocabulary_brings_embedding_norm_and_head():
    """A tied head is the embedding, counted once; positions and a bias of the head come on top."""
    bare = Model(**SMALL).num_parameters
    assert Model(**SMALL, **VOCABULARY).num_parameters == bare + 2 * 100 * 64 + 64
    assert Model(**SMALL, **VOCABULARY, tie_word_embeddings=True).num_parameters == bare + 100 * 64 + 64
    assert Model(**SMALL, **VOCABULARY, head_bias=True).num_parameters == bare + 2 * 100 * 64 + 64 + 100
    assert Model(**SMALL, **VOCABULARY, learned_positions=7).num_parameters == bare + 2 * 100 * 64 + 64 + 7 * 64


def test_active_parameters_leave_out_the_other_experts():
    """A token meets two of eight experts, and all else."""
    model = Model(**SMALL, **EXPERTS, **VOCABULARY, expert_layers=(False, True), gated_mlp=True)
    assert model.num_parameters - model.num_active_parameters == 6 * 3 * 64 * 40
    assert [kind.experts for kind in model.layers] == [False, True]
    dense, sparse = model.layers
    assert model.layer_parameters(dense) - 3 * 64 * 96 == model.layer_parameters(sparse) - 8 * 3 * 64 * 40 - 64 * 8
    assert model.active_layer_parameters(dense) == model.layer_parameters(dense)


def test_layers_without_a_window_may_have_other_heads():
    """Gemma 4: wider and fewer heads of K and V, and no projection of V."""
    fields = {
        "num_key_value_heads": 2, "sliding_window": 8, "windowed_layers": (True, False), "global_head_dim": 32,
        "num_global_key_value_heads": 1, "attention_k_eq_v": True, "qk_norm": "head",
    }  # fmt: skip
    model = Model(**SMALL, **fields)
    windowed, full = model.layers
    assert (windowed.window, full.window) == (8, None)
    assert model.attention_parameters(windowed) == 64 * (4 + 2 * 2) * 16 + 64 * 64 + 2 * 16
    assert model.attention_parameters(full) == 64 * (4 + 1) * 32 + 4 * 32 * 64 + 2 * 32
    assert model.kv_cache_bytes_per_token("bf16") == 2 * (2 * 2 * 16 + 2 * 1 * 32)
    assert [(model.kv_heads_in(kind), model.head_size_in(kind)) for kind in model.layers] == [(2, 16), (1, 32)]


def test_a_window_bounds_what_the_cache_keeps():
    """And only in the layers that have it."""
    model = Model(**SMALL, sliding_window=100, windowed_layers=(False, True))
    assert [[model.kv_cache_tokens(kind, context) for kind in model.layers] for context in (50, 100, 1000)] == [
        [50, 50], [100, 100], [1000, 100],
    ]  # fmt: skip


def test_the_cache_of_latent_attention_holds_the_latent_once():
    """DeepSeek-V3: 512 + 64 numbers a token and layer, whatever the heads."""
    assert Model(**SMALL, **LATENT).kv_cache_bytes_per_token("bf16") == 2 * 2 * (24 + 8)
    assert load_model("deepseek-v3").kv_cache_bytes_per_token("fp8") == 61 * 576


@given(
    experts=st.lists(st.booleans(), min_size=2, max_size=2).filter(any),
    windowed=st.lists(st.booleans(), min_size=2, max_size=2),
    tied=st.booleans(),
    per_token=st.integers(1, 8),
)
def test_a_model_is_the_sum_of_its_parts(experts, windowed, tied, per_token):
    """Embedding, layers and head; with all experts chosen every parameter is active."""
    model = Model(
        **SMALL, **{**EXPERTS, **VOCABULARY, "num_experts_per_token": per_token}, expert_layers=experts,
        sliding_window=8, windowed_layers=windowed, tie_word_embeddings=tied,
    )  # fmt: skip
    ends = model.embedding_parameters + model.head_parameters
    assert model.num_parameters == ends + sum(map(model.layer_parameters, model.layers))
    assert model.num_active_parameters == ends + sum(map(model.active_layer_parameters, model.layers))
    assert (model.num_active_parameters == model.num_parameters) == (per_token == 8)


def test_the_kv_cache_of_a_token_by_hand():
    """K and V, every layer, every KV head."""
    assert Model(**SMALL, num_key_value_heads=2).kv_cache_bytes_per_token("fp8") == 2 * 2 * 2 * 16
    assert load_model("llm-16l-8192").kv_cache_bytes_per_token("bf16") * 1024 * 10_000 == 5_368_709_120_000


def test_the_seed_model_has_the_seeds_sizes():
    """16 layers, hidden 8192, 16 heads of 512, MLP 32768, and 12.885e9 weights with the norms."""
    model = load_model("llm-16l-8192")
    sizes = (model.num_hidden_layers, model.hidden_size, model.num_attention_heads, model.head_size)
    assert (*sizes, model.intermediate_size) == (16, 8192, 16, 512, 32768)
    assert model.num_parameters == 16 * (12 * 8192**2 + 2 * 8192)


def test_every_preset_loads():
    """What is listed is there."""
    for name in perfsim.list_models():
        assert load_model(name).name == name


def test_a_model_file_loads_by_path(tmp_path):
    """The name is the file's unless the file gives one."""
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({key: value for key, value in SMALL.items() if key != "name"}), encoding="utf-8")
    assert load_model(path) == load_model(str(path))
    assert load_model(path).name == "mine"


def test_an_unknown_preset_names_the_known_ones(refused):
    """And the nearest of them."""
    (fault,) = refused(load_model, "llm-16l-8129")
    assert (fault.field, fault.value) == ("model", "llm-16l-8129")
    assert "llm-16l-8192" in fault.allowed
    assert fault.way_out == "did you mean 'llm-16l-8192'?"


@pytest.mark.parametrize("name", [5, None, ["llm-16l-8192"]], ids=repr)
def test_a_name_of_another_type_is_refused(refused, name):
    """A name is a text or a path."""
    (fault,) = refused(load_model, name)
    assert fault.field == "model"


def test_a_missing_file_is_refused_by_its_path(refused, tmp_path):
    """The path, the reason and the way out."""
    path = tmp_path / "missing.json"
    (fault,) = refused(load_model, path)
    assert fault.value == str(path)
    assert "No such file" in fault.allowed
    assert fault.way_out


@pytest.mark.parametrize(
    ("content", "reason"), [(b"{", "is not JSON"), (b"[1]", "must hold one JSON object"), (b"\xff", "cannot be read")]
)
def test_a_broken_file_is_refused_by_its_path(refused, tmp_path, content, reason):
    """Broken JSON, JSON of another kind, and bytes that are no text."""
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    (fault,) = refused(load_model, path)
    assert fault.value == str(path)
    assert reason in fault.allowed


def test_unknown_and_missing_keys_of_a_file_come_together(refused, tmp_path):
    """With the spelling that was meant."""
    path = tmp_path / "typo.json"
    table = {"num_hidden_layers": 2, "hiden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}
    path.write_text(json.dumps(table), encoding="utf-8")
    faults = {fault.field: fault for fault in refused(load_model, path)}
    assert set(faults) == {"model.hiden_size", "model.hidden_size"}
    assert faults["model.hiden_size"].way_out == "did you mean 'hidden_size'?"


def test_a_missing_key_does_not_hide_wrong_values(refused, tmp_path):
    """All faults of a file come together."""
    path = tmp_path / "bad.json"
    path.write_text(
        json.dumps({"hidden_size": -64, "num_attention_heads": 4, "intermediate_size": 96}), encoding="utf-8"
    )
    assert {fault.field for fault in refused(load_model, path)} == {"model.num_hidden_layers", "model.hidden_size"}
