"""The splits of the public tables, and their faults, on small tables of our own."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

from perfsim.cost.calibration.grouped_matmul import DEFAULT_LAYER
from perfsim.errors import InputError
from perfsim.study.silicon import grouped_tables, matmul_tables
from perfsim.study.silicon.systems import PROFILES, accelerator_of


def test_a_weight_is_fitted_or_judged_by_with_all_its_rows():
    """Half of the weights, whatever the order of the rows."""
    table = pd.DataFrame(itertools.product([1, 8, 64], [128, 256, 512], [128, 4096]), columns=["m", "n", "k"])
    marked = matmul_tables.training_rows(table)
    assert marked.sum() == len(table) / 2
    assert table.assign(marked=marked).groupby(["n", "k"])["marked"].nunique().eq(1).all()
    shuffled = table.sample(frac=1, random_state=1)
    assert (matmul_tables.training_rows(shuffled) == marked[shuffled.index]).all()
    assert (matmul_tables.training_rows(table, seed=1) != marked).any()


def test_measurements_have_the_state_of_their_benchmark():
    """Sizes, seconds, the device's own peak, and how operands take turns."""
    table = pd.DataFrame({"m": [64], "n": [4096], "k": [4096], "latency_s": [1e-4]})
    rows = matmul_tables.measured_matmuls(table, "h100_sxm", "sglang", "fp8_block")
    assert rows.peak_flop_per_s == accelerator_of("h100_sxm").peak_flop_per_s["fp8"]
    assert (rows.operand_bytes, rows.rotation.activations, rows.latency_s.tolist()) == (1, True, [1e-4])


@pytest.fixture
def layers():
    """Give times of one configuration, split 1 to 8 ways, that a fast kernel gives."""
    rows = [
        {"hidden_size": 4096, "inter_size": 8192, "topk": 2, "num_experts": 8, "distribution": "balanced",
         "num_tokens": tokens, "moe_tp_size": split, "latency_s": 1e-4 + 1e-6 * tokens / split}
        for tokens in (1, 64, 1024) for split in (1, 2, 4, 8)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_series_that_contradict_their_table_are_found(layers):
    """A split that takes five times as long as no split at all; the others stay, whichever the faulty one is."""
    assert not contradictory(layers).any()
    for split in (2, 8):
        faulty = layers["moe_tp_size"] == split
        slow = layers.assign(latency_s=layers["latency_s"].where(~faulty, 5 * layers["latency_s"]))
        assert (contradictory(slow) == faulty).all()


def contradictory(layers):
    """Mark the rows as those of an H100 with weights of one byte."""
    return grouped_tables.contradictory_rows(layers, grouped_tables.measured_layers(layers, "h100_sxm", "fp8"))


def test_loads_that_memory_cannot_feed_are_found(layers):
    """The weights of 8 experts beyond what L2 holds need 225 us unsplit, which 131 us are too few for."""
    other = layers.assign(distribution="power_law_1.2")
    for fastest_s, faulty in ((2e-4, False), (8e-5, True)):
        fast = layers.assign(latency_s=layers["latency_s"] * fastest_s / layers["latency_s"].min())
        both = pd.concat([fast, other.assign(latency_s=1e-3)], ignore_index=True)
        assert contradictory(both).tolist() == [faulty] * len(fast) + [False] * len(other)


def test_packed_weights_pass_memory_as_they_are_stored(layers):
    """A kernel that multiplies in bf16 reads 4.5 bits of a weight; at equal widths it is the kernel without packing."""
    packed = grouped_tables.measured_layers(layers, "h100_sxm", "bf16-fp4")
    whole = grouped_tables.measured_layers(layers, "h100_sxm", "bf16")
    assert (packed.weight_bytes, packed.operand_bytes, packed.peak_flop_per_s) == (0.5625, 2, whole.peak_flop_per_s)
    assert (packed.log_errors(DEFAULT_LAYER) < whole.log_errors(DEFAULT_LAYER)).all()
    same = dataclasses.replace(packed, weight_bytes=2.0).log_errors(DEFAULT_LAYER)
    assert same == pytest.approx(whole.log_errors(DEFAULT_LAYER), abs=1e-9)


def test_layers_have_the_loads_of_their_routers(layers):
    """64 tokens for two of eight experts each, and the width that a split leaves."""
    rows = grouped_tables.measured_layers(layers[4:5], "h100_sxm", "bf16")
    assert rows.tokens_of_expert.tolist() == [[16.0] * 8]
    assert rows.expert_width.tolist() == [8192]
    assert rows.latency_s == pytest.approx([1.64e-4])


@pytest.mark.parametrize("system", PROFILES)
def test_measured_systems_have_a_profile(system):
    """Of the right device."""
    assert accelerator_of(system).name.lower().startswith(system.split("_", maxsplit=1)[0])


def test_a_table_that_is_not_there_is_named():
    """With the library and the version."""
    pytest.importorskip("aiconfigurator_core", reason="the public tables come with the extra 'silicon'")
    with pytest.raises(InputError, match=r"h999.*trtllm 1\.3"):
        matmul_tables.read_matmuls("h999", "trtllm", "bf16")


@pytest.mark.parametrize("read", [matmul_tables.read_matmuls, grouped_tables.read_layers])
def test_public_tables_are_tidy(read):
    """Seconds, one row a shape."""
    pytest.importorskip("aiconfigurator_core", reason="the public tables come with the extra 'silicon'")
    kernel = ["moe_torch_flow_cutlass"] if read is grouped_tables.read_layers else []
    table = read("h100_sxm", "trtllm", *kernel, "bf16")
    assert len(table) > 1000
    assert table["latency_s"].between(1e-6, 1).all()
    assert not table.drop(columns="latency_s").duplicated().any()
    assert np.isfinite(table["latency_s"]).all()


def test_models_without_a_gate_are_left_out():
    """Where the kernels of a library have the same name for both."""
    pytest.importorskip("aiconfigurator_core", reason="the public tables come with the extra 'silicon'")
    table = grouped_tables.read_layers("h200_sxm", "vllm", "vllm_unquantizedfusedmoe_triton_tritonexperts", "bf16")
    assert set(table["inter_size"]) >= {1536, 2048}
    assert not {1856, 2688, 5120} & set(table["inter_size"])
