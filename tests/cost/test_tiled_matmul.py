"""Tiled multiplication: by hand, arrays and scalars, monotone where hardware is, and never faster than light."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.cost.tiled_coefficients import Quantiser, Tile, TiledMatmul, nearest_table, tiled_matmul_for
from perfsim.cost.tiled_matmul import tiled_matmul
from perfsim.errors import InputError

CHIP = SimpleNamespace(sm_count=100, clock_hz=1e9, l2_bytes=50_000_000, memory_bytes_per_s=2e12)
PEAK = 500e12
NEVER = 1e30  # a rate that takes no time
FORM = TiledMatmul(
    launch_s=2e-6,
    compute_efficiency=0.8,
    memory_efficiency=0.9,
    l2_bytes_per_clock=100,
    staging_bytes_per_clock=400,
    epilogue_bytes_per_clock=20,
    k_step_s=50e-9,
    cold_k_step_s=20e-9,
    wave_overlap=0.5,
    split_s=2e-6,
    split_step_s=1e-8,
    split_traffic=3,
    throttling=0.05,
    l2_share=0.7,
    l2_sharpness=8,
    result_l2_weight=1,
    tile_edge_cost=0.01,
    tiles=(Tile(64, 64), Tile(64, 128, 8), Tile(128, 256)),
)
COMPUTE_ONLY = replace(
    FORM,
    l2_bytes_per_clock=NEVER,
    staging_bytes_per_clock=NEVER,
    epilogue_bytes_per_clock=NEVER,
    k_step_s=1e-20,
    cold_k_step_s=0.0,
    throttling=0.0,
    tile_edge_cost=0.0,
    tiles=(Tile(128, 128),),
)
SIZES = st.integers(1, 30_000)


def seconds(form=FORM, m=4096, n=4096, k=4096, **options):
    """Give the seconds on the small chip."""
    return tiled_matmul(CHIP, form, m, n, k, peak_flop_per_s=PEAK, **options).seconds


def test_full_waves_by_hand():
    """100 tiles on 100 multiprocessors: one wave at 0.8 of the peak, and so little memory that the 4-norm hides it."""
    multiplied = 2 * 1280 * 1280 * 8192 / (PEAK * 0.8)
    assert seconds(COMPUTE_ONLY, 1280, 1280, 8192, weights_in_l2=True) == pytest.approx(2e-6 + multiplied, rel=1e-3)


def test_a_broken_wave_by_hand():
    """110 tiles: half of the second wave is hidden where the overlap is a half, ``0.5 x 2 + 0.5 x 1.1`` waves."""
    wave = 2 * 128 * 128 * 8192 / (PEAK / 100 * 0.8)
    time = tiled_matmul(CHIP, COMPUTE_ONLY, 1280, 1408, 8192, peak_flop_per_s=PEAK, weights_in_l2=True)
    assert time.compute_s == pytest.approx(1.55 * wave, rel=1e-5)
    assert time.seconds == pytest.approx(2e-6 + 1.55 * wave, rel=1e-4)


def test_a_cold_vector_streams_its_weight():
    """512 MB at 0.9 of 2 TB/s; what is on the chip is hidden."""
    form = replace(COMPUTE_ONLY, tiles=(Tile(1, 1),))
    time = tiled_matmul(CHIP, form, 1, 16_000, 16_000, peak_flop_per_s=PEAK)
    assert time.memory_s == pytest.approx(512e6 / 1.8e12, rel=1e-3)
    assert time.seconds == pytest.approx(2e-6 + 512e6 / 1.8e12, rel=1e-3)


def test_split_k_by_hand():
    """8 splits of one tile: 1/8 of the depth, and a reduction; the library refuses splits of less than 128."""
    alone, split = replace(COMPUTE_ONLY, tiles=(Tile(128, 128),)), replace(COMPUTE_ONLY, tiles=(Tile(128, 128, 8),))
    both = replace(COMPUTE_ONLY, tiles=(*alone.tiles, *split.tiles))
    shape = {"m": 128, "n": 128, "k": 65536, "weights_in_l2": True}
    saved = 2 * 128 * 128 * 65536 / (PEAK / 100 * 0.8) * 7 / 8
    assert seconds(alone, **shape) - seconds(split, **shape) == pytest.approx(saved - 2e-6 - 8e-8, rel=1e-2)
    assert seconds(both, **shape) == seconds(split, **shape)
    assert seconds(both, **{**shape, "k": 512}) == seconds(alone, **{**shape, "k": 512})


def test_the_fastest_candidate_counts():
    """However many there are; a relative time makes one slower."""
    one_by_one = [seconds(replace(FORM, tiles=(tile,))) for tile in FORM.tiles]
    assert seconds() == min(one_by_one)
    slow = replace(FORM, tiles=tuple(replace(tile, relative_time=1.5) for tile in FORM.tiles))
    assert seconds(slow) - 2e-6 == pytest.approx(1.5 * (seconds() - 2e-6), rel=1e-5)


def test_arrays_are_scalars_side_by_side():
    """Over several blocks of shapes too."""
    random = np.random.default_rng(0)
    m, n, k = (random.integers(1, 9000, 40_000) for _ in range(3))
    time = tiled_matmul(CHIP, FORM, m, n, k, peak_flop_per_s=PEAK)
    for index in (0, 16_383, 16_384, 39_999):
        alone = tiled_matmul(CHIP, FORM, m[index], n[index], k[index], peak_flop_per_s=PEAK)
        assert [part[index] for part in time] == pytest.approx([float(part) for part in alone], rel=1e-6)


def test_no_size_is_too_large():
    """Beside small ones, and with no sizes at all."""
    time = tiled_matmul(CHIP, FORM, [1, 1e12], [1, 1e12], [1, 1e12], peak_flop_per_s=PEAK)
    assert np.isfinite(time.seconds).all()
    assert (time.seconds >= time.light_s).all()
    assert seconds(m=[], n=128).shape == (0,)


def test_sizes_broadcast():
    """Also with the working set, and down to no dimension at all."""
    assert seconds(m=[[1], [64]], n=[128, 256, 512]).shape == (2, 3)
    assert seconds(m=[1, 64], working_set_bytes=[[1e6], [1e9]]).shape == (2, 2)
    assert seconds().shape == ()


@given(sizes=st.tuples(SIZES, SIZES, SIZES), hot=st.booleans(), operand_bytes=st.sampled_from([0.5, 1, 2, 4]))
def test_never_faster_than_light(sizes, hot, operand_bytes):
    """Not even with coefficients that promise the impossible; overhead is what is beyond the longer part."""
    m, n, k = sizes
    absurd = replace(FORM, launch_s=1e-12, tiles=tuple(replace(tile, relative_time=1e-3) for tile in FORM.tiles))
    for form in (FORM, absurd):
        time = tiled_matmul(CHIP, form, m, n, k, peak_flop_per_s=PEAK, operand_bytes=operand_bytes, weights_in_l2=hot)
        moved = operand_bytes * k * (m if hot else m + n) + 2 * m * n
        assert time.light_s == pytest.approx(max(2 * m * n * k / PEAK, moved / 2e12), rel=1e-12)
        assert time.seconds >= time.light_s
        assert time.overhead_s >= 0


@given(sizes=st.tuples(st.integers(9, 30_000), SIZES, SIZES), axis=st.sampled_from("mn"), more=SIZES)
def test_more_results_never_take_less_time(sizes, axis, more):
    """From 9 rows on: for fewer, libraries have kernels of their own. Along k they may pass to splits and gain."""
    small = dict(zip("mnk", sizes, strict=True))
    large = {**small, axis: small[axis] + more}
    assert seconds(**large) >= seconds(**small) * (1 - 1e-5)


@given(sizes=st.tuples(SIZES, SIZES, SIZES), more=SIZES)
def test_without_splits_more_depth_never_takes_less_time(sizes, more):
    """The candidates are the same then."""
    m, n, k = sizes
    form = replace(FORM, tiles=(Tile(64, 64), Tile(128, 256)))
    assert seconds(form, m, n, k + more) >= seconds(form, m, n, k) * (1 - 1e-5)


@given(sizes=st.tuples(SIZES, SIZES, SIZES))
def test_hot_weights_take_less_time_than_cold_ones(sizes):
    """A working set of a benchmark lies between."""
    m, n, k = sizes
    hot = seconds(m=m, n=n, k=k, weights_in_l2=True)
    between = seconds(m=m, n=n, k=k, working_set_bytes=20e6)
    cold = seconds(m=m, n=n, k=k)
    assert between <= cold * (1 + 1e-5)
    assert hot <= cold * (1 + 1e-5)


def test_l2_serves_what_fits():
    """A weight of 8 MB that a benchmark repeats comes from L2, one of 200 MB from memory."""
    small = tiled_matmul(CHIP, FORM, 1, 2000, 2000, peak_flop_per_s=PEAK, working_set_bytes=8e6)
    large = tiled_matmul(CHIP, FORM, 1, 10_000, 10_000, peak_flop_per_s=PEAK, working_set_bytes=200e6)
    assert small.memory_s < 0.01 * 8e6 / 2e12
    assert large.memory_s == pytest.approx(200e6 / 1.8e12, rel=1e-2)


def test_the_quantiser_can_be_left_out():
    """It costs its launch and its traffic: 5 bytes for each activation, half as much time where L2 has them all."""
    form = replace(FORM, quantiser=Quantiser(launch_s=10e-6, memory_efficiency=0.5, bytes_per_element=5.0))
    shape = {"m": 16384, "n": 1024, "k": 16384, "operand_bytes": 1}
    assert seconds(form, **shape, quantised=False) == seconds(**shape)
    extra = 10e-6 + 5 * 16384**2 / 1e12
    assert seconds(form, **shape) == pytest.approx(seconds(**shape) + extra, rel=1e-3)
    few = {"m": 16, "n": 1024, "k": 1024, "operand_bytes": 1}
    assert seconds(form, **few) == pytest.approx(seconds(**few) + 10e-6 + 0.5 * 5 * 16 * 1024 / 1e12, rel=1e-6)


def test_data_types_without_data_scale_those_of_bf16():
    """Half the bytes and twice the peak halve everything but what is fixed, and say that they are extrapolated."""
    tables = {"matmul.bf16": {**FORM.to_table(), "source": "calibrated", "fit": {"rows_used": 1}}}
    assert tiled_matmul_for(tables, "bf16") == (FORM, "calibrated")
    assert tiled_matmul_for(tables, "fp16") == (FORM, "calibrated")
    assert tiled_matmul_for(tables, "int8") == (FORM, "extrapolated")
    assert tiled_matmul_for({}, "bf16") is None
    compute = replace(COMPUTE_ONLY, launch_s=1e-20)
    bf16 = tiled_matmul(CHIP, compute, 12_800, 12_800, 8192, peak_flop_per_s=PEAK)
    int8 = tiled_matmul(CHIP, compute, 12_800, 12_800, 8192, peak_flop_per_s=2 * PEAK, operand_bytes=1)
    assert int8.compute_s == pytest.approx(bf16.compute_s / 2, rel=1e-6)


def test_the_nearest_table_of_a_data_type():
    """Its own, another eight bits with other scales, and bf16 in the end."""
    tables: dict = {key: {} for key in ("matmul.bf16", "matmul.fp8", "grouped_matmul.fp8_block")}
    nearest = {dtype: nearest_table(tables, "matmul", dtype) for dtype in ("fp16", "fp8", "fp8_block", "int8", "fp4")}
    assert nearest == {
        "fp16": ("matmul.bf16", True), "fp8": ("matmul.fp8", True), "fp8_block": ("matmul.fp8", False),
        "int8": ("matmul.bf16", False), "fp4": ("matmul.bf16", False),
    }  # fmt: skip
    assert nearest_table(tables, "grouped_matmul", "fp8") == ("grouped_matmul.fp8_block", False)
    assert nearest_table(tables, "grouped_matmul", "bf16") is None


def test_weights_that_are_unpacked_pass_memory_as_they_are_stored():
    """A quarter of the bytes take a quarter of the time of a memory-bound product, and the chip does as before."""
    whole, packed = (
        tiled_matmul(CHIP, FORM, 1, 8192, 8192, peak_flop_per_s=PEAK, weight_bytes=size) for size in (None, 0.5)
    )
    assert packed.compute_s == whole.compute_s
    assert packed.memory_s == pytest.approx(whole.memory_s / 4, rel=1e-2)
    assert packed.light_s == pytest.approx((8192 * 2 + 8192 * 8192 * 0.5 + 8192 * 2) / 2e12, rel=1e-12)
    assert packed.seconds < whole.seconds


def test_coefficients_survive_their_table():
    """With a quantiser and without."""
    for form in (FORM, replace(FORM, quantiser=Quantiser(1e-5, 0.5))):
        assert TiledMatmul.from_table(form.to_table()) == form


def test_a_table_with_faults_names_them_all():
    """An unknown key, a missing one, and one that is out of range."""
    table = {**FORM.to_table(), "lunch_s": 1.0, "compute_efficiency": 1.5}
    del table["k_step_s"]
    with pytest.raises(InputError) as caught:
        TiledMatmul.from_table(table)
    fields = {fault.field for fault in caught.value.faults}
    assert {"matmul.lunch_s", "matmul.k_step_s", "matmul.compute_efficiency"} <= fields


@pytest.mark.parametrize("tiles", [(), ({"rows": 64},), ({"rows": 0, "columns": 64},), "64x64"])
def test_candidates_have_rows_and_columns(tiles):
    """And there is at least one."""
    with pytest.raises(InputError, match=r"matmul\.tiles"):
        TiledMatmul.from_table({**FORM.to_table(), "tiles": tiles})
