"""Experts of a mixture: the speed of light by hand, few tokens, provenance, monotony, speed, and bad input."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim.cost import experts_seconds, price
from perfsim.ops.operators import Experts

BASE = {"tokens": 64, "hidden_size": 4096, "expert_width": 1536, "num_experts": 64, "experts_per_token": 4}


def test_the_speed_of_light_of_many_tokens_is_their_flop(h100):
    """Three matrices of 4096 x 14336, two FLOP a weight and pair, at 989.4 TFLOP/s."""
    cost = price(Experts(200_000, 8, 4096, 14_336, "bf16"), h100)
    assert cost.roofline_s == pytest.approx(200_000 * 3 * 2 * 4096 * 14_336 / 989.4e12, rel=1e-12)


def test_the_speed_of_light_of_one_token_is_the_weights_of_its_experts(h100):
    """Two pairs meet 8 (1 - (7/8)^2) experts; their rows come in and go out."""
    cost = price(Experts(2, 8, 4096, 14_336, "bf16"), h100)
    weights = 8 * (1 - (7 / 8) ** 2) * 3 * 4096 * 14_336 * 2
    assert cost.roofline_s == pytest.approx((weights + 2 * 4096 * (2 + 2)) / 3.35e12, rel=1e-12)


def test_the_busiest_device_is_priced(h100):
    """Twice the mean pairs cost as much as a mean of twice as many."""
    busy, mean = Experts(512, 8, 4096, 2048, "bf16", imbalance=2.0), Experts(1024, 8, 4096, 2048, "bf16")
    assert price(busy, h100).seconds == price(mean, h100).seconds
    assert price(busy, h100).roofline_s == price(mean, h100).roofline_s


def test_the_estimate_by_hand(documented):
    """Documented fractions of the peak and of the bandwidth, and two kernels."""
    efficiency = documented.efficiency
    compute_s = 200_000 * 3 * 2 * 4096 * 14_336 / (989.4e12 * efficiency.matmul)
    cost = price(Experts(200_000, 8, 4096, 14_336, "bf16"), documented)
    assert cost.seconds == pytest.approx(compute_s + 2 * efficiency.kernel_s, rel=1e-12)
    assert cost.source == "roofline"


@pytest.mark.parametrize("name", ["dgx-h100", "dgx-a100-80gb"])
def test_few_tokens_leave_most_weights_where_they_are(name):
    """One token of 256 experts reads the weights of four of them; only by and by all are read."""
    cluster = perfsim.load_cluster(name)
    sizes = {**BASE, "num_experts": 256, "tokens": [1, 16, 256, 4096]}
    seconds = experts_seconds(cluster, **sizes)
    all_weights_s = 256 * 3 * 4096 * 1536 * 2 / cluster.accelerator.memory_bytes_per_s
    assert seconds[0] < 0.15 * all_weights_s < 0.5 * all_weights_s < seconds[2] < seconds[3]


def test_popular_experts_spare_the_weights_of_others(library):
    """Few tokens meet fewer experts; the more there are, the less it matters."""
    even, skewed = (experts_seconds(library, **{**BASE, "tokens": [16, 65_536]}, skew=skew) for skew in (0, 1.5))
    assert skewed[0] < even[0]
    assert skewed[1] == pytest.approx(even[1], rel=0.15)


@pytest.mark.parametrize("stored", ["fp8", "int4"])
def test_weights_in_fewer_bits_are_read_faster(library, stored):
    """Where memory sets the pace, as on an H100 and not so much on the slow H20; multiplying stays as it is."""
    few, many = ({**BASE, "tokens": tokens} for tokens in (64, 65_536))
    packed, whole = (experts_seconds(library, **few, weight_dtype=dtype) for dtype in (stored, None))
    assert packed < (0.75 if library.name == "dgx-h100" else 1.0) * whole
    packed, whole = (experts_seconds(library, **many, weight_dtype=dtype) for dtype in (stored, None))
    assert packed == pytest.approx(whole, rel=0.05)


@pytest.mark.parametrize(
    ("name", "dtype", "stored", "source"),
    [
        ("dgx-h100", "bf16", None, "calibrated"),
        ("dgx-h100", "fp16", None, "calibrated"),
        ("dgx-h100", "fp8_block", None, "calibrated"),
        ("dgx-h100", "fp8", None, "calibrated"),
        ("dgx-h100", "bf16", "fp4", "extrapolated"),
        ("dgx-b200", "fp4", None, "calibrated"),
        ("h20-8x", "bf16", None, "extrapolated"),
        ("dgx-a100-80gb", "bf16", None, "roofline"),
        ("mi300x-8x", "bf16", "int4", "roofline"),
    ],
)
def test_the_provenance(name, dtype, stored, source):
    """Measured kernels, those like them, and devices for which nobody has measured any."""
    cost = price(Experts(1000, 8, 4096, 2048, dtype, stored), perfsim.load_cluster(name))
    assert cost.source == source
    assert (cost.range_factors is None) == (source == "roofline")


def test_kernels_that_unpack_their_weights_have_coefficients_of_their_own(h100):
    """They are those of both data types; without them the kernel that unpacks none stands for them."""
    packed, plain = (Experts(1000, 8, 4096, 2048, "bf16", stored) for stored in ("fp4", None))
    tables = {name: table for name, table in h100.coefficients.items() if name != "grouped_matmul.bf16-fp4"}
    own = {**tables["grouped_matmul.bf16"], "expert_s": 1e-5}
    without = dataclasses.replace(h100, coefficients=tables)
    with_own = dataclasses.replace(h100, coefficients={**tables, "grouped_matmul.bf16-fp4": own})
    assert price(plain, with_own).seconds == price(plain, without).seconds
    more_s = 8 * (1e-5 - tables["grouped_matmul.bf16"]["expert_s"])
    assert price(packed, with_own).seconds == pytest.approx(price(packed, without).seconds + more_s, rel=1e-9)
    assert [price(packed, cluster).source for cluster in (with_own, without)] == ["calibrated", "extrapolated"]


@given(
    tokens=st.floats(0.01, 1e5), more=st.floats(1, 3), experts=st.integers(4, 300), skew=st.floats(0, 2),
    field=st.sampled_from(["tokens", "expert_width", "hidden_size"]),
)  # fmt: skip
def test_more_work_never_takes_less_time(h100, *, tokens, more, experts, skew, field):
    """More tokens or wider matrices; up to what a change of tiles may gain."""
    small = {**BASE, "tokens": tokens, "num_experts": experts}
    seconds = [experts_seconds(h100, **sizes, skew=skew) for sizes in (small, {**small, field: small[field] * more})]
    assert seconds[1] >= seconds[0] * 0.98


def test_a_sweep_of_tokens_has_no_cliff(library):
    """A few more tokens never take much less, nor much more; most where a row of tiles of each expert is full."""
    tokens = np.geomspace(0.1, 65_536, 600)
    steps = np.diff(np.log(experts_seconds(library, **{**BASE, "tokens": tokens})))
    assert steps.min() > -0.02
    assert steps.max() < 0.16


def test_arrays_broadcast_against_each_other(cluster):
    """Each point costs what it costs alone; widths may be arrays, too."""
    tokens, width = np.array([1, 64, 4096]), np.array([[768], [2048]])
    seconds = experts_seconds(cluster, **{**BASE, "tokens": tokens, "expert_width": width}, skew=1.0)
    assert seconds.shape == (2, 3)
    for (i, j), value in np.ndenumerate(seconds):
        alone = experts_seconds(cluster, **{**BASE, "tokens": tokens[j], "expert_width": width[i, 0]}, skew=1.0)
        assert value == pytest.approx(float(alone), rel=1e-9)


def test_weights_in_l2_are_faster(cluster):
    """As far as they fit: two experts of a few megabytes."""
    small = {**BASE, "num_experts": 2, "experts_per_token": 1, "hidden_size": 1024}
    hot, cold = (experts_seconds(cluster, **small, weights_in_l2=in_l2) for in_l2 in (True, False))
    assert hot < cold


def test_a_thousand_sizes_of_256_experts_take_milliseconds(h100):
    """Also of a router with preferences."""
    work = Experts(np.geomspace(1, 1e6, 1000), 256, 7168, 2048, "fp8_block", skew=1.0)
    price(work, h100)
    start = time.perf_counter()
    price(work, h100)
    assert time.perf_counter() - start < 0.1


def test_no_pairs_take_the_time_of_a_launch(h100):
    """A device whose experts nobody asks for."""
    cost = price(Experts(0, 8, 4096, 2048, "bf16"), h100)
    assert 0 < cost.seconds < 1e-3
    assert cost.roofline_s < 1e-12


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tokens": 0}, "tokens"),
        ({"hidden_size": [64, -1]}, "hidden_size"),
        ({"num_experts": 2.5}, "num_experts"),
        ({"experts_per_token": 65}, "experts_per_token"),
        ({"dtype": "fp4"}, "dtype"),
        ({"weight_dtype": "int3"}, "weight_dtype"),
        ({"gated": 1}, "gated"),
        ({"skew": -1.0}, "skew"),
        ({"imbalance": 0.5}, "imbalance"),
    ],
    ids=str,
)
def test_bad_input_is_refused(refused, h100, change, field):
    """With the name of what is wrong."""
    (fault,) = refused(experts_seconds, h100, **{**BASE, **change})
    assert fault.field.removeprefix("experts_seconds.") == field


def test_all_faults_come_together(refused, h100):
    """Sizes, types and loads in one error."""
    faults = refused(experts_seconds, h100, **{**BASE, "tokens": -1, "num_experts": 0}, dtype="x", skew="much")
    assert [fault.field.split(".")[-1] for fault in faults] == ["tokens", "num_experts", "dtype", "skew"]


def test_a_dtype_that_the_device_lacks_says_how_to_store_it(refused):
    """An A100 multiplies in bf16 what it holds in fp8."""
    a100 = perfsim.load_cluster("dgx-a100-80gb")
    (fault,) = refused(experts_seconds, a100, **BASE, dtype="fp8_block")
    assert "weight_dtype" in fault.way_out
    assert experts_seconds(a100, **BASE, weight_dtype="fp8_block") < experts_seconds(a100, **BASE)


def test_works_hold_what_experts_seconds_takes(h100):
    """The door prices the same work as a graph does."""
    work = Experts(256.0, 64, 4096, 1536, "bf16", skew=0.5, imbalance=1.5)
    assert experts_seconds(h100, **BASE, skew=0.5, imbalance=1.5) == price(work, h100).seconds
    assert price(dataclasses.replace(work, gated=False), h100).seconds < price(work, h100).seconds
