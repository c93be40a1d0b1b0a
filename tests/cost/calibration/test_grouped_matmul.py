"""Fits of mixtures of experts."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from perfsim.cost.calibration.grouped_matmul import (
    DEFAULT_LAYER,
    MeasuredLayers,
    choose_grouped_tiles,
    fit_grouped_matmul,
)
from perfsim.cost.grouped_matmul import grouped_matmul
from perfsim.cost.tiled_coefficients import Tile
from perfsim.errors import InputError

CHIP = SimpleNamespace(sm_count=132, clock_hz=1.8e9, l2_bytes=50_000_000, memory_bytes_per_s=3.3e12)
PEAK = 990e12


def measured(layer, rows=60):
    """Make measurements that a device with these coefficients would give."""
    random = np.random.default_rng(0)
    loads = random.poisson(2.0 ** random.uniform(-1, 11, (rows, 1)), (rows, 16)).astype(float)
    loads[:, 0] += 1
    hidden, width = 2.0 ** random.integers(11, 14, rows), 2.0 ** random.integers(9, 13, rows)
    time = grouped_matmul(CHIP, layer, loads, hidden, width, peak_flop_per_s=PEAK, weights_in_l2=True)
    return MeasuredLayers(CHIP, loads, hidden, width, np.full(rows, 16.0), time.seconds, PEAK)


def test_a_fit_recovers_what_differs_from_the_prior():
    """A later launch and slower matrix units."""
    matmul = replace(DEFAULT_LAYER.matmul, launch_s=22e-6, compute_efficiency=0.7)
    true = replace(DEFAULT_LAYER, matmul=matmul)
    found = fit_grouped_matmul([measured(true)], DEFAULT_LAYER, prior_width=0.3, soft=0.1)
    assert found.coefficients.matmul.launch_s == pytest.approx(22e-6, rel=0.05)
    assert found.coefficients.matmul.compute_efficiency == pytest.approx(0.7, rel=0.05)
    assert np.abs(measured(true).log_errors(found.coefficients)).mean() < 0.01


def test_one_layer_over_and_over_keeps_the_prior_and_says_so():
    """And is itself predicted."""
    true = replace(DEFAULT_LAYER, matmul=replace(DEFAULT_LAYER.matmul, memory_efficiency=0.7))
    rows = measured(true).take(np.zeros(20, int))
    found = fit_grouped_matmul([rows], DEFAULT_LAYER, prior_width=0.3, soft=0.1)
    assert {"throttling", "traffic_from_memory", "l2_sharpness"} <= set(found.posterior.undetermined)
    assert found.coefficients.traffic_from_memory == pytest.approx(DEFAULT_LAYER.traffic_from_memory, rel=0.05)
    assert np.abs(rows.log_errors(found.coefficients)).max() < 0.03


def test_the_search_finds_the_candidates_that_matter():
    """It starts with one wrong candidate."""
    true = replace(DEFAULT_LAYER, matmul=replace(DEFAULT_LAYER.matmul, tiles=(Tile(16, 128), Tile(128, 128))))
    rows = [measured(true, 40)]
    start = replace(true, matmul=replace(true.matmul, tiles=(Tile(256, 32),)))
    found = choose_grouped_tiles(rows, start)
    assert np.abs(rows[0].log_errors(found)).mean() < 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency_s": np.array([1.0])}, "same number of rows"),
        ({"hidden_size": np.zeros(60)}, "measurements.hidden_size"),
        ({"tokens_of_expert": -np.ones((60, 16))}, "measurements.tokens_of_expert"),
    ],
)
def test_impossible_measurements_are_refused(change, message):
    """With the name of the column."""
    with pytest.raises(InputError, match=message):
        replace(measured(DEFAULT_LAYER), **change)
