"""Pricing any work: never faster than light, on any hardware."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.cost import price
from perfsim.cost.pricing import price_all
from perfsim.ops.operators import (
    Attention,
    Collective,
    Elementwise,
    ExpertExchange,
    Experts,
    MatMul,
    Nothing,
    Transfer,
)

SIZES = st.integers(1, 50_000)
BYTES = st.integers(1, 10**12)
LIBRARIES = ("trtllm", "vllm", "sglang")
STORED = (None, "fp8", "int8", "fp4", "int4")


def load_all():
    """Load four domains of every shipped profile, with each of its kernel libraries."""
    for name in perfsim.list_profiles():
        default = perfsim.load_cluster(name)
        for kernels in LIBRARIES if default.kernels else (None,):
            yield (name, kernels), perfsim.load_cluster(name, 4 * default.num_devices, kernels)


CLUSTERS = dict(load_all())


def matmuls(draw, cluster):
    """Draw a matrix multiplication, of weights that may be stored in fewer bits."""
    return MatMul(draw(SIZES), draw(SIZES), draw(SIZES), dtype_of(draw, cluster), draw(st.sampled_from(STORED)))


def mixtures(draw, cluster):
    """Draw experts, most of them with few pairs or with none."""
    sizes = draw(st.floats(0, 1e6)), draw(st.integers(1, 512)), draw(SIZES), draw(SIZES)
    types = dtype_of(draw, cluster), draw(st.sampled_from(STORED))
    return Experts(*sizes, *types, draw(st.booleans()), draw(st.floats(0, 2)), draw(st.floats(1, 4)))


def attentions(draw, cluster, *, latent=False):
    """Draw attention of either phase, with a window or with a V that is narrower than K."""
    query, earlier = draw(st.one_of(st.just(1), SIZES)), draw(st.integers(0, 50_000))
    heads, groups, width = draw(st.integers(1, 16)), draw(st.integers(1, 8)), draw(st.integers(1, 512))
    sizes = draw(st.integers(1, 64)), query, query + earlier, heads * groups, heads, width
    types = draw(st.sampled_from(sorted(cluster.accelerator.peak_flop_per_s))), draw(st.sampled_from(["bf16", "fp8"]))
    if latent:
        return Attention(*sizes, *types, value_dim=draw(st.integers(1, width)), latent=draw(st.booleans()))
    causal = draw(st.booleans())
    return Attention(*sizes, *types, causal, draw(st.integers(0, 60_000)) if causal else 0)


def streams(draw, _cluster):
    """Draw a kernel bound by memory."""
    op = draw(st.sampled_from(["add", "rmsnorm", "gated", "rotary", "topk", "other"]))
    return Elementwise(op, draw(BYTES), draw(BYTES), draw(st.integers(0, 10**14)))


def collectives(draw, cluster):
    """Draw an operation of a group that may cross tiers."""
    op = draw(st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "ring_shift"]))
    return Collective(op, draw(BYTES), span_of(draw, cluster))


def exchanges(draw, cluster):
    """Draw an exchange of tokens."""
    sizes = draw(st.floats(0, 1e6)), draw(SIZES), draw(st.integers(1, 16)), draw(st.integers(16, 512))
    return ExpertExchange(draw(st.sampled_from(["dispatch", "combine"])), *sizes, "bf16", span_of(draw, cluster))


def transfers(draw, cluster):
    """Draw a send and its receive."""
    return Transfer(draw(BYTES), draw(st.integers(0, len(cluster.tiers) - 1)))


def dtype_of(draw, cluster):
    """Draw a data type that a cluster multiplies in."""
    peaks = set(cluster.accelerator.peak_flop_per_s)
    return draw(st.sampled_from(sorted(peaks | ({"fp8_block"} if "fp8" in peaks else set()))))


def span_of(draw, cluster):
    """Draw a group of neighbours."""
    first = draw(st.integers(0, cluster.num_devices - 1))
    return cluster.span(range(first, draw(st.integers(first, cluster.num_devices - 1)) + 1))


WORKS = {
    "matmul": matmuls, "experts": mixtures, "attention": attentions, "elementwise": streams, "transfer": transfers,
    "latent": functools.partial(attentions, latent=True), "collective": collectives, "exchange": exchanges,
}  # fmt: skip
KINDS = tuple(WORKS)


@st.composite
def works(draw, cluster, kind):
    """Draw work of a kind that a cluster can do."""
    return WORKS[kind](draw, cluster)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=150)
def test_nothing_is_faster_than_light(data, kind):
    """The estimate of any work on any shipped hardware lies at or above its bound, and its parts fit inside it."""
    cluster = CLUSTERS[data.draw(st.sampled_from(list(CLUSTERS)))]
    work = data.draw(works(cluster, kind))
    cost = price(work, cluster)
    assert cost.seconds >= cost.roofline_s >= 0
    assert cost.source == "roofline" or cluster.kernels or work.head_dim > 256
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


@given(data=st.data())
def test_many_works_cost_what_each_costs_alone(data):
    """To the bit, in any order, whatever their kinds, types and shapes."""
    cluster = CLUSTERS[data.draw(st.sampled_from(list(CLUSTERS)))]
    drawn = [data.draw(works(cluster, data.draw(st.sampled_from([*KINDS, "matmul", "matmul"])))) for _ in range(5)]
    drawn.append(MatMul(np.array([[1.0], [100.0]]), np.array([64.0, 1000.0, 8192.0]), 4096, "bf16"))
    for work, cost in zip(drawn, price_all(drawn, cluster), strict=True):
        alone = price(work, cluster)
        for name in ("seconds", "compute_s", "memory_s", "network_s", "overhead_s", "roofline_s"):
            assert np.array_equal(getattr(cost, name), getattr(alone, name))
        assert (cost.source, cost.range_factors) == (alone.source, alone.range_factors)


@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_without_graphs_the_host_sets_the_pace(data, kind):
    """An operator takes the time of its kernel or that of the host, whichever is longer; the parts still add up."""
    cluster = CLUSTERS[data.draw(st.sampled_from(list(CLUSTERS)))]
    eager = dataclasses.replace(cluster, host_s=2e-5)
    work = data.draw(works(cluster, kind))
    kernel, cost = price(work, cluster), price(work, eager)
    assert cost.seconds == (max(float(kernel.seconds), 2e-5) if kernel.seconds > 0 else 0)
    total = max(cost.compute_s, cost.memory_s) + cost.network_s + cost.overhead_s
    assert cost.seconds == pytest.approx(float(total), rel=1e-9)
    assert price_all([work], eager)[0].seconds == cost.seconds


def test_nothing_is_not_issued(h100):
    """Neither a point of the graph nor a group of one."""
    eager = dataclasses.replace(h100, host_s=1e-3)
    assert price(Nothing(), eager).seconds == price(Collective("all_reduce", 1e6, (1,)), eager).seconds == 0


def test_a_ring_shift_waits_for_the_outermost_tier(h100):
    """A device whose neighbour sits in the next node passes its payload over InfiniBand."""
    shift, transfer = Collective("ring_shift", 1e8, (8, 2)), Transfer(1e8, 1)
    assert price(shift, h100).seconds == price(transfer, h100).seconds > 1e8 / 50e9
    assert price(Collective("ring_shift", 1e8, (8,)), h100).seconds == price(Transfer(1e8, 0), h100).seconds


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
        (Collective("ring_shift", 10**9, (8, 2)), "network"),
        (MatMul(1, 8192, 8192, "bf16", "int4"), "memory"),
        (Experts(64, 64, 4096, 1536, "bf16"), "memory"),
        (Experts(10**6, 8, 4096, 14_336, "bf16"), "compute"),
        (Experts(0.1, 64, 4096, 1536, "bf16"), "overhead"),
        (ExpertExchange("dispatch", 4096, 7168, 8, 256, "fp8", (8, 2)), "network"),
        (ExpertExchange("dispatch", 1, 7168, 8, 256, "fp8", (8, 2)), "overhead"),
        (Attention(64, 1, 8192, 16, 1, 576, "bf16", "bf16", value_dim=512, latent=True), "memory"),
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
