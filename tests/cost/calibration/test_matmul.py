"""Fits of multiplications: few points with a prior, points that determine little, and points that cannot be."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from perfsim.cost.calibration.matmul import BOUNDS, DEFAULT_FORM, MeasuredMatmuls, Rotation, fit_matmul
from perfsim.cost.calibration.tile_choice import choose_tiles
from perfsim.cost.tiled_coefficients import Quantiser, Tile
from perfsim.cost.tiled_matmul import tiled_matmul
from perfsim.errors import InputError

CHIP = SimpleNamespace(sm_count=132, clock_hz=1.8e9, l2_bytes=50_000_000, memory_bytes_per_s=3.3e12)
PEAK = 990e12
ROTATION = Rotation(max_copies=5, fills_l2=True)


def measured(form, sizes, rotation=None, noise=0.0):
    """Make measurements that a device with these coefficients would give."""
    m, n, k = (np.asarray(size, float) for size in sizes)
    passed = rotation.working_set_bytes(CHIP.l2_bytes, 2 * m * k, 2 * n * k) if rotation else None
    time = tiled_matmul(CHIP, form, m, n, k, peak_flop_per_s=PEAK, working_set_bytes=passed)
    factor = np.exp(noise * np.random.default_rng(1).standard_normal(len(m)))
    return MeasuredMatmuls(CHIP, m, n, k, time.seconds * factor, PEAK, rotation=rotation)


def some_sizes(count, seed=0):
    """Draw m, n and k between 1 and 16384, evenly in their logarithms."""
    return np.round(2 ** np.random.default_rng(seed).uniform([[0], [7], [7]], [[14], [14], [14]], (3, count)))


@pytest.mark.parametrize("rotation", [None, ROTATION])
def test_32_points_recover_what_differs_from_the_prior(rotation):
    """A device that multiplies and streams worse and launches later; new shapes are then predicted within 2 %."""
    true = replace(DEFAULT_FORM, compute_efficiency=0.66, memory_efficiency=0.70, launch_s=4e-6)
    found = fit_matmul([measured(true, some_sizes(32), rotation, noise=0.01)], DEFAULT_FORM, prior_width=0.3, soft=0.1)
    assert found.rows == 32
    assert found.coefficients.compute_efficiency == pytest.approx(0.66, rel=0.04)
    assert found.coefficients.memory_efficiency == pytest.approx(0.70, rel=0.04)
    assert found.coefficients.launch_s == pytest.approx(4e-6, rel=0.06)
    new = measured(true, some_sizes(300, seed=7), rotation)
    assert np.abs(new.log_errors(DEFAULT_FORM)).mean() > 0.1
    assert np.abs(new.log_errors(found.coefficients)).mean() < 0.02
    determined = found.posterior.determined
    assert min(determined["compute_efficiency"], determined["memory_efficiency"], determined["launch_s"]) > 0.3


def test_hundreds_of_points_recover_the_candidates_too():
    """With a wide prior: relative times, latencies and rates."""
    tiles = (Tile(64, 64, 1, 1.1), Tile(64, 128, 4, 0.95), Tile(128, 256, 1, 0.97))
    true = replace(DEFAULT_FORM, tiles=tiles, k_step_s=50e-9, epilogue_bytes_per_clock=30)
    prior = replace(DEFAULT_FORM, tiles=tuple(replace(tile, relative_time=1.0) for tile in tiles))
    found = fit_matmul([measured(true, some_sizes(800), ROTATION)], prior)
    assert found.coefficients.k_step_s == pytest.approx(50e-9, rel=0.05)
    assert np.abs(measured(true, some_sizes(300, seed=7), ROTATION).log_errors(found.coefficients)).mean() < 0.005


def test_one_shape_over_and_over_keeps_the_prior_and_says_so():
    """A decode shape determines the memory's share and little else; all else stays where it was."""
    true = replace(DEFAULT_FORM, memory_efficiency=0.6)
    sizes = np.array([[1.0], [16384], [16384]]).repeat(40, axis=1)
    found = fit_matmul([measured(true, sizes)], DEFAULT_FORM, prior_width=0.3, soft=0.1)
    kept = set(BOUNDS) - {"memory_efficiency", "single_row_bandwidth", "launch_s", "cold_k_step_s", "k_step_s"}
    assert kept <= set(found.posterior.undetermined)
    for name in kept:
        assert getattr(found.coefficients, name) == pytest.approx(getattr(DEFAULT_FORM, name), rel=0.03), name
    assert np.abs(measured(true, sizes).log_errors(found.coefficients)).max() < 0.02


def test_a_single_point_is_enough_for_an_answer():
    """Which is the prior, nearly."""
    found = fit_matmul([measured(DEFAULT_FORM, [[64], [4096], [4096]])], DEFAULT_FORM, prior_width=0.3, soft=0.1)
    assert found.coefficients.compute_efficiency == pytest.approx(DEFAULT_FORM.compute_efficiency, rel=1e-3)
    assert len(found.posterior.undetermined) >= len(BOUNDS) - 3


def test_coefficients_that_run_into_a_wall_are_named():
    """Matrix units that reach their very peak: the fraction can only be said to be about 1."""
    true = replace(DEFAULT_FORM, compute_efficiency=1.0, throttling=0.0)
    sizes = np.array([[8192.0], [8192], [8192]]) * 2.0 ** np.arange(3)
    found = fit_matmul([measured(true, sizes)], DEFAULT_FORM, relative_times=False)
    assert "compute_efficiency" in found.posterior.at_bound
    assert found.coefficients.compute_efficiency <= 1


def test_fixed_coefficients_stay_and_a_quantiser_is_fitted():
    """Launch time known from bf16 leaves the rest of the fixed time to the quantiser."""
    prior = replace(DEFAULT_FORM, quantiser=Quantiser(5e-6, 0.6, 5.0))
    true = replace(prior, quantiser=Quantiser(10e-6, 0.5, 5.0))
    found = fit_matmul([measured(true, some_sizes(200), ROTATION)], prior, fixed=("launch_s",))
    assert found.coefficients.launch_s == prior.launch_s
    assert found.coefficients.quantiser.launch_s == pytest.approx(10e-6, rel=0.03)
    assert found.coefficients.quantiser.memory_efficiency == pytest.approx(0.5, rel=0.05)


def test_the_same_measurements_give_the_same_fit():
    """To the last bit."""
    rows = [measured(DEFAULT_FORM, some_sizes(50), noise=0.05)]
    assert fit_matmul(rows, DEFAULT_FORM, prior_width=0.3) == fit_matmul(rows, DEFAULT_FORM, prior_width=0.3)


@pytest.mark.parametrize(
    ("rotation", "between"),
    [
        (Rotation(5, fills_l2=True), [6e6, 61e6, 101e6]),
        (Rotation(6), [7e6, 121e6, 601e6]),
        (Rotation(6, activations=True), [12e6, 126e6, 606e6]),
    ],
)
def test_working_sets_by_hand(rotation, between):
    """Weights of 1, 20 and 100 MB, activations of 1 MB and an L2 of 50 MB."""
    assert rotation.working_set_bytes(50e6, 1e6, [1e6, 20e6, 100e6]) == pytest.approx(between)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency_s": np.array([1e-9, 1.0])}, "below the speed of light.*row 0.*seconds"),
        ({"latency_s": np.array([np.nan, 1.0])}, "latency_s.*finite"),
        ({"m": np.array([0, 1])}, "measurements.m"),
        ({"n": np.array([128])}, "one length"),
        ({name: np.array([]) for name in ("m", "n", "k", "latency_s")}, "not empty"),
    ],
)
def test_impossible_measurements_are_refused(change, message):
    """Milliseconds taken for seconds are too slow to be noticed, but microseconds for milliseconds are too fast."""
    good = measured(DEFAULT_FORM, [[64, 64], [4096, 4096], [4096, 4096]])
    with pytest.raises(InputError, match=message):
        replace(good, **change)


def test_the_search_finds_the_candidates_that_matter():
    """It starts with one wrong candidate."""
    true = replace(DEFAULT_FORM, tiles=(Tile(64, 64), Tile(128, 256)))
    rows = [measured(true, some_sizes(300), ROTATION)]
    found = choose_tiles(rows, replace(true, tiles=(Tile(16, 32),)))
    assert np.abs(rows[0].log_errors(found)).mean() < 1e-3
    assert len(found.tiles) <= 3
