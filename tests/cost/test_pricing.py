"""Pricing any work: never faster than light, on any hardware."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.cost import price
from perfsim.ops.operators import Attention, Collective, Elementwise, MatMul, Nothing, Transfer

SIZES = st.integers(1, 50_000)
BYTES = st.integers(1, 10**12)
LIBRARIES = ("trtllm", "vllm", "sglang")


def load_all():
    """Load four domains of every shipped profile, with each of its kernel libraries."""
    for name in perfsim.list_profiles():
        default = perfsim.load_cluster(name)
        for kernels in LIBRARIES if default.kernels else (None,):
            yield (name, kernels), perfsim.load_cluster(name, 4 * default.num_devices, kernels)


CLUSTERS = dict(load_all())


@st.composite
def works(draw, cluster, kind):
    """Draw work of a kind that a cluster can do."""
    dtype = draw(st.sampled_from(sorted(cluster.accelerator.peak_flop_per_s)))
    if kind == "matmul":
        return MatMul(draw(SIZES), draw(SIZES), draw(SIZES), dtype)
    if kind == "attention":
        query, earlier = draw(SIZES), draw(st.integers(0, 50_000))
        heads = draw(st.integers(1, 16))
        groups = draw(st.integers(1, 8))
        sizes = draw(st.integers(1, 64)), query, query + earlier, heads * groups, heads, draw(st.integers(1, 512))
        return Attention(*sizes, dtype, draw(st.sampled_from(["bf16", "fp8"])), draw(st.booleans()))
    if kind == "elementwise":
        return Elementwise("add", draw(BYTES), draw(BYTES), draw(st.integers(0, 10**14)))
    if kind == "transfer":
        return Transfer(draw(BYTES), draw(st.integers(0, len(cluster.tiers) - 1)))
    first = draw(st.integers(0, cluster.num_devices - 1))
    group = range(first, draw(st.integers(first, cluster.num_devices - 1)) + 1)
    op = draw(st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]))
    return Collective(op, draw(BYTES), cluster.span(group))


@pytest.mark.parametrize("kind", ["matmul", "attention", "elementwise", "transfer", "collective"])
@given(data=st.data())
@settings(max_examples=150)
def test_nothing_is_faster_than_light(data, kind):
    """The estimate of any work on any shipped hardware lies at or above its bound, and its parts fit inside it."""
    cluster = CLUSTERS[data.draw(st.sampled_from(list(CLUSTERS)))]
    cost = price(data.draw(works(cluster, kind)), cluster)
    assert cost.seconds >= cost.roofline_s >= 0
    assert cost.source == "roofline" or cluster.kernels
    longest = max(float(np.max(part)) for part in (cost.compute_s, cost.memory_s, cost.network_s, cost.overhead_s))
    assert cost.seconds >= longest
    total = max(cost.compute_s, cost.memory_s) + cost.network_s + cost.overhead_s
    assert cost.seconds == pytest.approx(float(total), rel=1e-12)
    assert np.isfinite(cost.seconds)
    assert cost.source in {"calibrated", "extrapolated", "roofline"}
    if cost.range_factors is not None:
        assert cost.roofline_s <= cost.low_s <= cost.seconds <= cost.high_s


def test_points_take_no_time(h100):
    """Input, split, gather, output, the receiving end of a transfer."""
    cost = price(Nothing(), h100)
    assert (cost.seconds, cost.roofline_s, cost.bound) == (0, 0, "none")


def test_work_of_an_unknown_kind_has_no_price(h100):
    """Rather than a wrong one."""
    with pytest.raises(NotImplementedError, match="str"):
        price("matmul", h100)


@pytest.mark.parametrize(
    ("work", "bound"),
    [
        (MatMul(8192, 8192, 8192, "bf16"), "compute"),
        (MatMul(1, 8192, 8192, "bf16"), "memory"),
        (MatMul(1, 1, 1, "bf16"), "overhead"),
        (Attention(1, 8192, 8192, 8, 8, 128, "bf16", "bf16"), "compute"),
        (Attention(64, 1, 8192, 8, 8, 128, "bf16", "bf16"), "memory"),
        (Elementwise("add", 10**9, 10**9, 1), "memory"),
        (Collective("all_reduce", 10**9, (8, 2)), "network"),
        (Collective("all_reduce", 100, (8, 2)), "overhead"),
        (Transfer(10**9, 1), "network"),
    ],
)
def test_the_bound_is_what_one_expects(h100, work, bound):
    """Large products compute, decoding reads, small messages wait."""
    assert price(work, h100).bound == bound


def test_every_operator_of_every_seed_has_a_price_above_its_bound(seed):
    """And a provenance."""
    for operator in perfsim.operator_graph(seed):
        cost = price(operator.work, seed.cluster)
        assert cost.seconds >= cost.roofline_s
        assert cost.source in {"calibrated", "extrapolated", "roofline"}
