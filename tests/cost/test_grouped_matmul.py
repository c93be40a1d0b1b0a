"""Mixtures of experts: by hand, arrays and scalars, empty experts, and never faster than light."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.cost.grouped_matmul import GroupedMatmul, grouped_matmul
from perfsim.cost.tiled_coefficients import Tile, TiledMatmul
from perfsim.errors import InputError

CHIP = SimpleNamespace(sm_count=100, clock_hz=1e9, l2_bytes=50_000_000, memory_bytes_per_s=2e12)
PEAK = 500e12
NEVER = 1e30
LAYER = GroupedMatmul(
    matmul=TiledMatmul(
        launch_s=20e-6,
        compute_efficiency=0.8,
        memory_efficiency=0.9,
        l2_bytes_per_clock=50,
        staging_bytes_per_clock=300,
        epilogue_bytes_per_clock=100,
        k_step_s=20e-9,
        cold_k_step_s=20e-9,
        wave_overlap=0.2,
        split_s=1e-6,
        split_step_s=1e-8,
        split_traffic=1,
        throttling=0.01,
        l2_share=0.7,
        l2_sharpness=3,
        result_l2_weight=1,
        tile_s=1e-6,
        tiles=(Tile(16, 128), Tile(64, 128), Tile(256, 256)),
    ),
    expert_s=1e-7,
    traffic_from_memory=2.0,
    traffic_from_l2=1.0,
)
LOADS = st.lists(st.integers(0, 3000), min_size=1, max_size=40)


def time_of(loads, layer=LAYER, hidden=4096, width=2048, **options):
    """Give the time on the small chip."""
    return grouped_matmul(CHIP, layer, loads, hidden, width, peak_flop_per_s=PEAK, **options)


def test_full_waves_by_hand():
    """10 experts of 128 rows make 10 x 2 x 5 tiles of 128 columns in the first, 10 x 5 in the second multiplication.

    The first fills 100 multiprocessors with one wave; the second half of them, which takes as long.
    """
    matmul = replace(
        LAYER.matmul, l2_bytes_per_clock=NEVER, staging_bytes_per_clock=NEVER, epilogue_bytes_per_clock=NEVER,
        k_step_s=1e-20, cold_k_step_s=0.0, throttling=0.0, tile_s=0.0, tiles=(Tile(128, 128),),
    )  # fmt: skip
    layer = GroupedMatmul(matmul, expert_s=1e-7, traffic_from_memory=1e-9, traffic_from_l2=1e-9)
    time = time_of([128] * 10, layer, hidden=640, width=640, weights_in_l2=True)
    multiplied = 2 * (2 * 128 * 128 * 640) / (PEAK / 100 * 0.8)
    assert time.compute_s == pytest.approx(multiplied, rel=1e-6)
    assert time.seconds == pytest.approx(20e-6 + 10 * 1e-7 + multiplied, rel=1e-2)


def test_one_token_streams_the_weights_of_its_experts():
    """Two of eight experts, three matrices each."""
    weights = 2 * 3 * 4096 * 14336 * 2
    time = time_of([1, 1, 0, 0, 0, 0, 0, 0], hidden=4096, width=14336)
    assert time.light_s == pytest.approx(weights / 2e12, rel=1e-12)
    assert time.memory_s == pytest.approx(weights / 1.8e12, rel=1e-2)
    without_gate = time_of([1, 1, 0, 0, 0, 0, 0, 0], hidden=4096, width=14336, gated=False)
    assert without_gate.light_s == pytest.approx(weights * 2 / 3 / 2e12, rel=1e-12)


def test_rows_may_be_filled_up_with_zeros():
    """The number of experts is then given beside."""
    alone = time_of([5, 3, 1])
    filled = time_of([5, 3, 1, 0, 0], num_experts=3)
    assert [float(part) for part in filled] == pytest.approx([float(part) for part in alone], rel=1e-12)
    assert time_of([5, 3, 1, 0, 0]).seconds == pytest.approx(alone.seconds + 2e-7, rel=1e-9)


def test_the_order_of_experts_does_not_matter():
    """Their tiles share the waves."""
    assert time_of([700, 20, 1, 0]).seconds == pytest.approx(time_of([0, 1, 700, 20]).seconds, rel=1e-12)


def test_arrays_are_scalars_side_by_side():
    """In the experts' loads and in both sizes."""
    loads = np.random.default_rng(0).integers(0, 500, (2, 3, 8))
    hidden, width = np.array([2048, 4096, 7168]), np.array([[768], [2048]])
    time = time_of(loads, hidden=hidden, width=width)
    assert time.seconds.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        alone = time_of(loads[i, j], hidden=hidden[j], width=width[i, 0])
        assert [part[i, j] for part in time] == pytest.approx([float(part) for part in alone], rel=1e-9)


@given(loads=LOADS, hot=st.booleans())
def test_never_faster_than_light(loads, hot):
    """The FLOP at the peak, and the weights of experts with tokens, unless they lie in L2."""
    absurd = replace(
        LAYER, matmul=replace(LAYER.matmul, launch_s=1e-12, tiles=(Tile(16, 128, relative_time=1e-3),)), expert_s=1e-15,
        traffic_from_memory=1e-9, traffic_from_l2=1e-9,
    )  # fmt: skip
    flop = 2 * sum(loads) * 3 * 4096 * 2048
    weights = 0 if hot else sum(load > 0 for load in loads) * 3 * 4096 * 2048 * 2
    for layer in (LAYER, absurd):
        time = time_of(loads, layer, weights_in_l2=hot)
        assert time.light_s == pytest.approx(max(flop / PEAK, weights / 2e12), rel=1e-12)
        assert time.seconds >= time.light_s
        assert time.overhead_s >= 0


@given(loads=LOADS, more=st.integers(1, 3000))
def test_more_tokens_for_every_expert_never_take_less_time(loads, more):
    """All tiles stay, and none becomes smaller."""
    assert time_of([load + more for load in loads]).seconds >= time_of(loads).seconds * (1 - 1e-5)


def test_coefficients_survive_their_table():
    """The multiplications' are a table inside; provenance is not a coefficient."""
    assert GroupedMatmul.from_table({**LAYER.to_table(), "source": "calibrated", "fit": {}}) == LAYER


def test_faults_of_a_table_have_their_place():
    """Also inside; and experts have no split-K."""
    table = LAYER.to_table()
    with pytest.raises(InputError, match=r"grouped_matmul\.matmul\.launch_s"):
        GroupedMatmul.from_table({**table, "matmul": {**table["matmul"], "launch_s": -1.0}})
    with pytest.raises(InputError, match="one split each"):
        replace(LAYER, matmul=replace(LAYER.matmul, tiles=(Tile(16, 128, 2),)))
