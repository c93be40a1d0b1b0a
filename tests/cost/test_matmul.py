"""Matrix multiplications: the speed of light by hand, arrays, monotony and bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim.cost import matmul_seconds, price
from perfsim.cost.residual_trees import LIMIT
from perfsim.ops.operators import MatMul

SIZES = st.integers(1, 30_000)


def test_the_speed_of_light_of_a_large_product_is_its_flop(h100):
    """2 x 10000 x 3072 x 8192 FLOP at 989.4 TFLOP/s."""
    cost = price(MatMul(10_000, 3072, 8192, "bf16"), h100)
    assert cost.roofline_s == pytest.approx(503_316_480_000 / 989.4e12, rel=1e-12)


def test_the_speed_of_light_of_a_thin_product_is_its_bytes(h100):
    """The weight of 8192 x 8192, the vector and the result, at 3.35 TB/s."""
    cost = price(MatMul(1, 8192, 8192, "bf16"), h100)
    assert cost.roofline_s == pytest.approx((8192 * 8192 + 2 * 8192) * 2 / 3.35e12, rel=1e-12)


def test_the_estimate_by_hand(documented):
    """A documented fraction of the peak, and a fixed time."""
    wanted = 2 * 8192**3 / (989.4e12 * documented.efficiency.matmul) + documented.efficiency.kernel_s
    assert matmul_seconds(documented, m=8192, n=8192, k=8192) == pytest.approx(wanted, rel=1e-12)


def test_weights_in_l2_do_not_pass_memory(documented):
    """A thin product is then bound by its arithmetic; a vector and a result are all that it reads and writes."""
    efficiency = documented.efficiency
    arithmetic = 2 * 8192 * 8192 / (989.4e12 * efficiency.matmul)
    passed = (8192 + 8192) * 2 / (3.35e12 * efficiency.memory)
    seconds = matmul_seconds(documented, m=1, n=8192, k=8192, weights_in_l2=True)
    assert seconds == pytest.approx(max(arithmetic, passed) + efficiency.kernel_s, rel=1e-12)
    assert seconds < matmul_seconds(documented, m=1, n=8192, k=8192)


def test_weights_in_l2_are_faster(library):
    """By whichever library."""
    hot, cold = (matmul_seconds(library, m=8, n=4096, k=4096, weights_in_l2=in_l2) for in_l2 in (True, False))
    assert hot < cold


@pytest.mark.parametrize(
    ("kernels", "dtype", "source"),
    [
        ("trtllm", "bf16", "calibrated"),
        ("trtllm", "fp16", "calibrated"),
        ("trtllm", "fp8", "calibrated"),
        ("trtllm", "int8", "extrapolated"),
        ("vllm", "bf16", "calibrated"),
        ("vllm", "fp8", "calibrated"),
    ],
)
def test_dtypes_without_measurements_are_marked(kernels, dtype, source):
    """They are priced by the tiles of bf16, or by another library's kernels."""
    cost = price(MatMul(4096, 4096, 4096, dtype), perfsim.load_cluster("dgx-h100", kernels=kernels))
    assert cost.source == source
    assert cost.low_s < cost.seconds < cost.high_s


def test_a_device_without_measurements_is_marked():
    """The H20 has its siblings' coefficients, the MI300X none."""
    sources = [price(MatMul(64, 64, 64, "bf16"), perfsim.load_cluster(name)).source for name in ("h20-8x", "mi300x-8x")]
    assert sources == ["extrapolated", "roofline"]


@pytest.mark.parametrize(("n", "k"), [(8192, 8192), (1024, 8192), (28_672, 4096)])
def test_a_sweep_of_rows_has_no_cliff(library, n, k):
    """A few rows more never take much less, and at most another wave of tiles more.

    Past 8 rows libraries leave their kernels for few rows: in the public table SGLang on a B200 takes 12 us for 8 rows
    of 1024 x 8192, and 8 us for 9.
    """
    rows = np.unique(np.geomspace(1, 16_384, 500).astype(int))
    steps = np.diff(np.log(matmul_seconds(library, m=rows, n=n, k=k)))
    assert steps[rows[:-1] != 8].min() > -0.06
    assert steps.min() > -0.12
    assert steps.max() < 0.6


def test_arrays_broadcast_against_each_other(cluster):
    """Each point costs what it costs alone."""
    m, n, k = np.array([1, 64, 4096]), np.array([[128], [8192]]), 1024
    seconds = matmul_seconds(cluster, m=m, n=n, k=k)
    assert seconds.shape == (2, 3)
    for (i, j), value in np.ndenumerate(seconds):
        assert value == pytest.approx(float(matmul_seconds(cluster, m=m[j], n=n[i, 0], k=k)), rel=1e-6)


@given(sizes=st.tuples(SIZES, SIZES, SIZES), axis=st.sampled_from("mnk"), more=SIZES)
def test_more_work_never_takes_less_time(documented, sizes, axis, more):
    """In each of the three sizes."""
    small = dict(zip("mnk", sizes, strict=True))
    large = {**small, axis: small[axis] + more}
    assert matmul_seconds(documented, **large) >= matmul_seconds(documented, **small)


def test_half_precision_prices_as_bfloat(h100):
    """The tensor cores run both at one rate."""
    sizes = {"m": 4096, "n": 4096, "k": 4096}
    assert matmul_seconds(h100, **sizes, dtype="fp16") == matmul_seconds(h100, **sizes, dtype="bf16")


def test_a_dtype_that_the_device_lacks_is_refused(refused):
    """With those that it has."""
    (fault,) = refused(matmul_seconds, perfsim.load_cluster("dgx-a100-80gb"), m=1, n=1, k=1, dtype="fp8")
    assert (fault.field.split(".")[-1], fault.value) == ("dtype", "fp8")
    assert "bf16" in fault.allowed


def test_a_dtype_that_nobody_has_is_refused(refused, h100):
    """A typo is bad input, too."""
    (fault,) = refused(matmul_seconds, h100, m=1, n=1, k=1, dtype="bf17")
    assert fault.value == "bf17"


@pytest.mark.parametrize("name", perfsim.list_profiles())
def test_every_dtype_that_a_device_has_can_be_priced(name):
    """A profile names only dtypes that have a size."""
    cluster = perfsim.load_cluster(name)
    for dtype in cluster.accelerator.peak_flop_per_s:
        assert matmul_seconds(cluster, m=64, n=64, k=64, dtype=dtype) > 0


@pytest.mark.parametrize("value", [0, -8, float("nan"), "8", [64, -1]], ids=repr)
def test_sizes_that_are_none_are_refused(refused, h100, value):
    """A size is above zero, in each point of an array."""
    (fault,) = refused(matmul_seconds, h100, m=value, n=64, k=64)
    assert fault.field.split(".")[-1] == "m"


@pytest.mark.parametrize("stored", ["fp8", "int8", "fp4", "int4"])
def test_the_speed_of_light_counts_weights_as_they_are_stored(h100, stored):
    """Four bits and their scales are 9/16 of a byte; vector and result stay bf16."""
    stored_bytes = {"fp8": 1, "int8": 1, "fp4": 0.5625, "int4": 0.5625}[stored]
    cost = price(MatMul(1, 8192, 8192, "bf16", stored), h100)
    assert cost.roofline_s == pytest.approx((8192 * 8192 * stored_bytes + 2 * 8192 * 2) / 3.35e12, rel=1e-12)
    assert cost.source == "extrapolated"


def test_stored_weights_save_time_where_they_are_read(library):
    """A thin product by half, but on the H20, whose memory is fast; a thick one multiplies as before."""
    sizes = {"m": [1, 16_384], "n": 8192, "k": 8192}
    whole, packed = (matmul_seconds(library, **sizes, weight_dtype=stored) for stored in (None, "int4"))
    assert packed[0] < (0.9 if library.name == "h20-8x" else 0.6) * whole[0]
    assert packed[1] == pytest.approx(whole[1], rel=0.05)


def test_weights_stored_as_they_are_multiplied_change_nothing(library):
    """Neither the time nor its provenance."""
    plain, said = (price(MatMul(64, 4096, 4096, "bf16", stored), library) for stored in (None, "bf16"))
    assert (plain.seconds, plain.source) == (said.seconds, said.source)


@pytest.mark.parametrize(
    ("name", "kernels", "source"),
    [
        ("dgx-h100", "trtllm", "calibrated"),
        ("dgx-h100", "sglang", "calibrated"),
        ("l40s-pcie-8x", "trtllm", "extrapolated"),
        ("mi300x-8x", None, "roofline"),
    ],
)
def test_fp8_in_blocks_is_priced_everywhere_where_fp8_is(name, kernels, source):
    """By its own kernels, else by those of fp8 with one scale, else by the peak of fp8."""
    cluster = perfsim.load_cluster(name, kernels=kernels)
    blocks, one_scale = (price(MatMul(4096, 8192, 8192, dtype), cluster) for dtype in ("fp8_block", "fp8"))
    assert blocks.source == source
    assert blocks.roofline_s == one_scale.roofline_s
    assert source == "calibrated" or blocks.seconds == one_scale.seconds


def test_trees_are_a_small_correction():
    """Of every shape within their limit, off where they are not asked for, and never faster than light."""
    sizes = {"m": np.array([1, 17, 300, 4096, 16_384]), "n": np.array([[512], [3072], [8192]]), "k": 4096}
    for name in ("dgx-h100", "dgx-b200", "l40s-pcie-8x", "dgx-a100-80gb"):
        cluster = perfsim.load_cluster(name)
        plain, learned = (matmul_seconds(cluster, **sizes, residual=residual) for residual in (None, "trees"))
        change = np.abs(np.log(learned / plain))
        assert change.shape == (3, 5)
        assert 0 < change.max() <= LIMIT + 1e-9
        light = price(MatMul(sizes["m"], sizes["n"], 4096, "bf16"), cluster).roofline_s
        assert (learned >= light).all()


@pytest.mark.parametrize(
    ("name", "kernels", "asked"),
    [
        ("dgx-h100", "trtllm", {"residual": "forest"}),
        ("dgx-h100", "vllm", {"residual": "trees"}),
        ("mi300x-8x", None, {"residual": "trees"}),
        ("dgx-h100", "trtllm", {"residual": "trees", "dtype": "fp8"}),
        ("dgx-h100", "trtllm", {"residual": "trees", "weight_dtype": "int4"}),
    ],
)
def test_trees_that_there_are_not_are_refused(refused, name, kernels, asked):
    """Another layer, another library, another data type."""
    (fault,) = refused(matmul_seconds, perfsim.load_cluster(name, kernels=kernels), m=64, n=64, k=64, **asked)
    assert fault.field == "matmul_seconds.residual"


def test_types_that_nobody_stores_weights_in_are_refused(refused, h100):
    """With those that there are."""
    (fault,) = refused(matmul_seconds, h100, m=1, n=1, k=1, weight_dtype="int3")
    assert "int4" in fault.allowed


def test_a_dtype_to_store_in_is_the_way_out(refused):
    """An A100 unpacks fp8 to bf16."""
    a100 = perfsim.load_cluster("dgx-a100-80gb")
    for dtype in ("fp8", "fp8_block", "fp4", "int4"):
        (fault,) = refused(matmul_seconds, a100, m=1, n=64, k=64, dtype=dtype)
        assert "weight_dtype" in fault.way_out
        assert matmul_seconds(a100, m=1, n=64, k=64, weight_dtype=dtype) > 0
