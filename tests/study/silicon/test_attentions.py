"""The public tables of attention, and the shipped sets beside them."""

import re

import numpy as np
import pytest

import perfsim
from perfsim.cost.attention_kernels import read_kernels
from perfsim.spec.tables import read_toml
from perfsim.study.silicon.attention_tables import read_attention, some_rows, training_rows
from perfsim.study.silicon.fit_attentions import (
    AttentionSet,
    fit_shipped_attention,
    held_back_errors,
    shipped_attention_sets,
)

pytest.importorskip("aiconfigurator_core")

KERNELS_OF_A100 = AttentionSet("ampere", "vllm", "decode", "bf16", "bf16")


@pytest.fixture(scope="module")
def decode_rows():
    """Give the decode tables of all systems."""
    return read_attention("decode")


def test_rows_are_tidy(decode_rows):
    """Positive sizes, seconds, known data types; a group has at least one query head."""
    assert set(decode_rows["dtype"]) == {"bf16"}
    assert set(decode_rows["kv_dtype"]) == {"bf16", "fp8"}
    assert (decode_rows["query_tokens"] == 1).all()
    assert (decode_rows["num_heads"] >= decode_rows["num_kv_heads"]).all()
    assert decode_rows["latency_s"].between(1e-6, 10).all()


def test_configurations_are_wholly_on_one_side(decode_rows):
    """Half of those of each head dimension, the same for every system; what the forms were drawn from is fitted."""
    sides = decode_rows.groupby(["head_dim", "num_heads", "num_kv_heads"])["trained"]
    assert (sides.nunique() == 1).all()
    share = sides.first().groupby("head_dim").mean()
    assert share.between(0.4, 0.65).all()
    looked_at = (decode_rows["num_heads"] == 32) & (decode_rows["num_kv_heads"] == 8)
    assert decode_rows["trained"][looked_at].all()


def test_another_seed_gives_another_half(decode_rows):
    """And the same seed the same one."""
    rows = decode_rows[decode_rows["system"] == "h100_sxm"]
    assert np.array_equal(training_rows(rows), training_rows(rows))
    assert not np.array_equal(training_rows(rows), training_rows(rows, seed=1))


def test_a_sample_has_few_rows_of_each_kind(decode_rows):
    """So many of each system and head dimension, and some with a window."""
    rows = some_rows(decode_rows, 20, 5)
    counts = rows.groupby(["system", "head_dim", rows["window"] > 0]).size()
    assert (counts[:, :, False] <= 20).all()
    assert (counts[:, :, True] <= 5).all()
    assert rows.index.is_unique


def test_a_shipped_error_is_what_its_rows_show(decode_rows):
    """The file's numbers, from the file's coefficients."""
    stated = read_toml(KERNELS_OF_A100.file)["decode"]["bf16-bf16"]["fit"]["errors"]
    found = held_back_errors(KERNELS_OF_A100, KERNELS_OF_A100.shipped(), decode_rows, windowed=False)
    assert stated["a100_sxm"]["n"] == found["a100_sxm"]["n"] > 1000
    assert stated["a100_sxm"]["mape"] == pytest.approx(found["a100_sxm"]["mape"], abs=0.01)


@pytest.mark.parametrize("phase", ["latent_prefill", "latent_decode"])
def test_latent_rows_have_the_sizes_of_grouped_queries(phase):
    """Of DeepSeek-V3: FLOP and bytes stay, each row once, half of the numbers of heads to fit."""
    rows = read_attention(phase)
    heads = {n * (1088 / 576 if phase == "latent_decode" else 1) for n in (1, 2, 4, 8, 16, 32, 64, 128)}
    assert rows["num_heads"].unique() == pytest.approx(sorted(heads))
    assert set(rows["head_dim"]) == ({288} if phase == "latent_decode" else {160})
    assert rows["latency_s"].between(1e-6, 10).all()
    assert rows.groupby("num_heads")["trained"].first().mean() == pytest.approx(0.5)
    keys = ["system", "library", "kernel", "kv_dtype", "batch", "query_tokens", "context_tokens", "num_heads"]
    assert not rows.duplicated(keys).any()


@pytest.mark.parametrize(("phase", "most"), [("latent_prefill", 7), ("latent_decode", 12)])
@pytest.mark.parametrize("architecture", ["hopper", "blackwell"])
@pytest.mark.parametrize("library", ["trtllm", "sglang"])
def test_latent_errors_are_what_their_rows_show(phase, most, architecture, library):
    """The file's numbers, from the file's coefficients; and they are small."""
    one = AttentionSet(architecture, library, phase, "bf16", "bf16")
    stated = read_toml(one.file)[phase]["bf16-bf16"]["fit"]["errors"]
    found = held_back_errors(one, one.shipped(), read_attention(phase), windowed=False)
    assert stated.keys() == found.keys() == set(one.systems)
    for system, error in found.items():
        assert stated[system]["mape"] == pytest.approx(error["mape"], abs=0.01)
        assert error["mape"] < most


@pytest.mark.slow
def test_a_shipped_set_comes_out_of_its_rows_again(decode_rows):
    """From nothing but the structure of its kernels."""
    shipped = KERNELS_OF_A100.shipped()
    fits = fit_shipped_attention(KERNELS_OF_A100, shipped, decode_rows)
    for fit, kernel in zip(fits, shipped, strict=True):
        found, wanted = fit.coefficients.to_table(), kernel.to_table()
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert found[name] == (value if isinstance(value, str) else pytest.approx(value, rel=2e-3)), name


def test_every_shipped_set_is_read_and_written_alike():
    """Tables have no infinity and no unknown key, and clocks only of devices that there are."""
    devices = {perfsim.load_cluster(name).accelerator.name for name in perfsim.list_profiles()}
    sets = shipped_attention_sets()
    assert len(sets) == 67
    for attention_set in sets:
        table = read_toml(attention_set.file)[attention_set.phase][attention_set.types]
        kernels = attention_set.shipped()
        assert read_kernels(type(kernels[0]), {"kernels": [kernel.to_table() for kernel in kernels]}) == kernels
        assert not re.search(r"\b(inf|nan)\b", str(table))
        for kernel in kernels:
            assert kernel.clock_ratios.keys() <= devices
