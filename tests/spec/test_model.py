"""Models: sizes, closed forms, presets and files."""

import json

import numpy as np
import pytest

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
