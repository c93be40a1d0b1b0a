"""Fits of attention: known coefficients come back, what points do not show keeps the prior, bad points are named."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import perfsim
from perfsim.cost.attention_coefficients import DecodeCoefficients, PrefillCoefficients
from perfsim.cost.calibration.attention import calibrate_attention, fit_attention, serving_kernels
from perfsim.cost.calibration.attention_fit import limits_of
from perfsim.cost.decode_attention import decode_attention_time
from perfsim.cost.prefill_attention import prefill_attention_time
from perfsim.errors import InputError

H100, H200 = (perfsim.load_cluster(name).accelerator for name in ("dgx-h100", "dgx-h200"))
PREFILL = PrefillCoefficients(
    kernel="prefill", head_dims=(64, 128), query_tile=(128, 128), key_tile=(96, 128), compute_efficiency=(0.65, 0.7),
    cta_clocks=(3000.0, 2000.0), softmax_clocks=0.09, launch_s=9e-6, activation_bytes_per_clock=12.0,
    kv_write_bytes_per_clock=6.0, token_clocks=100.0, hbm_efficiency=0.7, l2_share=0.6, chain_factor=1.0, overlap=4.0,
)  # fmt: skip
DECODE = DecodeCoefficients(
    kernel="decode", head_dims=(128,), launch_s=(9e-6,), cta_clocks=(5000.0,), key_clocks=(2.0,), head_clocks=40.0,
    wide_group_cost=0.1, chain_clocks=7.0, hbm_efficiency=0.9, l2_speedup=3.0, l2_share=0.7, overlap=3.0,
    overlap_waves=20.0, chain_overlap=2.0, split_s=2e-6,
)  # fmt: skip
TYPES = {"dtype": "bf16", "kv_dtype": "bf16"}


def sizes(count, *, decode=False, head_dims=(64, 128), seed=0):
    """Draw sizes as in a table, from tiny to large."""
    random = np.random.default_rng(seed)
    kv_heads = 2 ** random.integers(0, 4, count)
    context = np.round(2 ** random.uniform(4, 14, count)).astype(int)
    table = pd.DataFrame(
        {
            "batch": 2 ** random.integers(0, 8 if decode else 5, count), "context_tokens": context,
            "num_heads": kv_heads * 2 ** random.integers(0, 4, count), "num_kv_heads": kv_heads,
            "head_dim": random.choice(head_dims, count), "window": 0,
        }
    )  # fmt: skip
    return table if decode else table.assign(query_tokens=context)


def measured(table, kernel, accelerator=H100, noise=0.0):
    """Measure with a kernel that has these coefficients, its cache hot, and with some scatter."""
    price = prefill_attention_time if isinstance(kernel, PrefillCoefficients) else decode_attention_time
    columns = {name: table[name].to_numpy(float) for name in table}
    scatter = np.exp(np.random.default_rng(3).normal(0, noise, len(table)))
    return table.assign(latency_s=price(accelerator, [kernel], **columns, **TYPES, kv_in_l2=True).seconds * scatter)


def pair_s(kernel):
    """Give the time of a pair of a query and a key, for each head dimension: products beside their softmax."""
    product_s = 4 * np.array(kernel.head_dims) / 989.4e12 / np.array(kernel.compute_efficiency)
    return np.hypot(product_s, kernel.softmax_clocks / H100.clock_hz / H100.sm_count)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_prefill_fit_recovers_known_coefficients(noise):
    """Products and softmax only together: each head dimension has an efficiency, so one number is left to the prior."""
    known = dataclasses.replace(
        PREFILL, compute_efficiency=(0.5, 0.8), softmax_clocks=0.07, launch_s=15e-6, kv_write_bytes_per_clock=12.0
    )
    table = measured(sizes(600), known, noise=noise).assign(system="h100", **TYPES)
    fit = fit_attention({"h100": H100}, table, PREFILL)
    found = fit.coefficients
    assert fit.rows_used == 600
    assert pair_s(found) == pytest.approx(pair_s(known), rel=0.02)
    assert found.launch_s == pytest.approx(15e-6, rel=0.03)
    assert found.kv_write_bytes_per_clock == pytest.approx(12.0, rel=0.15)


def test_a_decode_fit_recovers_known_coefficients():
    """Those that many points depend on."""
    known = dataclasses.replace(DECODE, launch_s=(6e-6,), hbm_efficiency=0.8, l2_speedup=2.0, chain_clocks=12.0)
    table = measured(sizes(600, decode=True, head_dims=(128,)), known).assign(system="h100", **TYPES)
    found = fit_attention({"h100": H100}, table, DECODE).coefficients
    assert found.launch_s == pytest.approx(known.launch_s, rel=0.05)
    assert found.hbm_efficiency == pytest.approx(0.8, rel=0.03)
    assert found.chain_clocks == pytest.approx(12.0, rel=0.05)


def test_a_sibling_gets_a_clock_of_its_own():
    """Against the first accelerator, whose clock is what the datasheet says."""
    table = sizes(400)
    slow = dataclasses.replace(PREFILL, clock_ratios={H200.name: 0.93})
    both = [measured(table, slow, chip).assign(system=chip.name, **TYPES) for chip in (H100, H200)]
    fit = fit_attention({chip.name: chip for chip in (H100, H200)}, pd.concat(both), PREFILL)
    assert fit.coefficients.clock_ratios == {H200.name: pytest.approx(0.93, abs=0.01)}


def test_a_few_dozen_points_are_enough():
    """The shipped set moves as a whole, and predicts points that it has not seen."""
    known = dataclasses.replace(PREFILL, compute_efficiency=(0.55, 0.592), launch_s=14e-6, softmax_clocks=0.1)
    (fit,) = calibrate_attention(H100, [PREFILL], measured(sizes(32), known))
    unseen = measured(sizes(500, seed=7), known)
    columns = {name: unseen[name].to_numpy(float) for name in unseen if name != "latency_s"}
    before, after = (
        prefill_attention_time(H100, [kernel], **columns, **TYPES, kv_in_l2=True).seconds / unseen["latency_s"] - 1
        for kernel in (PREFILL, fit.coefficients)
    )
    assert np.abs(before).mean() > 0.12
    assert np.abs(after).mean() < 0.03
    first, second = fit.coefficients.compute_efficiency
    assert second / first == pytest.approx(0.7 / 0.65, rel=1e-9)


def test_points_of_one_size_keep_the_prior():
    """Ten times the same tiny launch-bound point says what a launch takes, and nothing of products or of L2."""
    point = {"batch": 1, "query_tokens": 16, "context_tokens": 16, "num_heads": 1, "num_kv_heads": 1, "head_dim": 128}
    slow = dataclasses.replace(PREFILL, launch_s=12e-6)
    (fit,) = calibrate_attention(H100, [PREFILL], measured(pd.DataFrame([point] * 10), slow))
    assert {"compute_efficiency", "l2_share", "overlap", "hbm_efficiency"} <= set(fit.undetermined)
    assert "launch_s" not in fit.undetermined
    assert fit.coefficients.launch_s == pytest.approx(12e-6, rel=0.15)
    assert fit.coefficients.l2_share == pytest.approx(PREFILL.l2_share, rel=0.01)
    assert fit.coefficients.hbm_efficiency == pytest.approx(PREFILL.hbm_efficiency, rel=0.01)


def test_a_kernel_without_points_keeps_the_prior():
    """Points go to the kernel that serves them; the other one is wholly undetermined."""
    grouped = dataclasses.replace(DECODE, kernel="grouped", group_above=1)
    table = sizes(40, decode=True, head_dims=(128,))
    table = measured(table.assign(num_heads=4 * table["num_kv_heads"]), DECODE)
    assert set(serving_kernels(H100, [grouped, DECODE], table)) == {0}
    first, second = calibrate_attention(H100, [grouped, DECODE], table)
    assert first.rows_used == 40
    assert second.coefficients == DECODE
    assert second.rows_used == 0
    assert set(second.undetermined) == set(limits_of(DECODE))


def test_parts_that_a_kernel_lacks_are_not_fitted():
    """Their coefficient is 0 and stays 0."""
    assert not {"split_s", "uneven_group_penalty"} & limits_of(PREFILL).keys()
    assert not {"regroup_s", "serial_s"} & limits_of(DECODE).keys()
    assert "split_s" in limits_of(dataclasses.replace(PREFILL, splits_keys=True, split_s=2e-6))


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda table: table.drop(columns="head_dim"), "measurements.head_dim"),
        (lambda table: table.drop(columns="latency_s"), "measurements.latency_s"),
        (lambda table: table.drop(columns="query_tokens"), "measurements.query_tokens"),
        (lambda table: table.iloc[:0], "measurements"),
        (lambda table: table.assign(batch=0), "measurements.batch"),
        (lambda table: table.assign(latency_s=np.nan), "measurements.latency_s"),
        (lambda table: table.assign(latency_s=table["latency_s"] * 1e-3), "measurements.latency_s[0]"),
    ],
)
def test_bad_measurements_are_refused(spoil, field):
    """Missing columns, no rows, impossible numbers, and times below the speed of light, as in another unit."""
    table = measured(sizes(20).assign(query_tokens=8192, context_tokens=8192), PREFILL)
    with pytest.raises(InputError) as caught:
        calibrate_attention(H100, [PREFILL], spoil(table))
    assert caught.value.faults[0].field == field
