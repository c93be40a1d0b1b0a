"""Dispatch and combine: bytes by hand, published times, tiers, monotony, provenance and bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim.cost import collective_seconds, expert_exchange_seconds, price
from perfsim.ops.operators import ExpertExchange

DEEPSEEK = {"tokens": 128, "hidden_size": 7168, "experts_per_token": 8, "num_experts": 256}
TYPES = {"dispatch": "fp8", "combine": "bf16"}


def exchange(direction, tokens, span, experts=256):
    """Give the exchange of DeepSeek-V3."""
    return ExpertExchange(direction, tokens, 7168, 8, experts, TYPES[direction], span)


@pytest.fixture(scope="module")
def nodes():
    """Give sixteen nodes of eight H100 with InfiniBand of 50 GB/s a GPU."""
    return perfsim.load_cluster("dgx-h100", num_devices=128)


@pytest.mark.parametrize(
    ("num_nodes", "published_us"), [(2, (118, 195)), (4, (155, 273)), (8, (173, 314)), (16, (192, 369))]
)
def test_published_times_over_infiniband(nodes, num_nodes, published_us):
    """DeepEP's README: low latency, H800 with ConnectX-7, 128 tokens. No fit has seen them."""
    for direction, microseconds in zip(TYPES, published_us, strict=True):
        seconds = price(exchange(direction, 128, (8, num_nodes)), nodes).seconds
        assert seconds == pytest.approx(microseconds * 1e-6, rel=0.14)


def test_the_speed_of_light_is_one_copy_for_each_node_that_needs_it(nodes):
    """Seven other nodes, each missed by eight experts with (7/8)^8, at 50 GB/s."""
    cost = price(exchange("combine", 4096, (8, 8)), nodes)
    copies = 7 * (1 - (7 / 8) ** 8)
    assert cost.roofline_s == pytest.approx(4096 * 7168 * 2 * copies / 50e9, rel=1e-12)


def test_the_speed_of_light_inside_a_node(nodes):
    """One copy for each of the other seven devices that holds any of the experts, at 450 GB/s."""
    cost = price(exchange("dispatch", 4096, (8,)), nodes)
    assert cost.roofline_s == pytest.approx(4096 * 7168 * 7 * (1 - (7 / 8) ** 8) / 450e9, rel=1e-12)


def test_without_measured_kernels_it_is_an_all_to_all():
    """Of all copies of the tokens."""
    l40s = perfsim.load_cluster("l40s-pcie-8x", num_devices=16)
    for size in (4, 16):
        seconds = expert_exchange_seconds(l40s, direction="dispatch", group_size=size, **DEEPSEEK)
        wanted = collective_seconds(l40s, kind="all_to_all", payload_bytes=128 * 7168 * 8 * 2, group_size=size)
        assert seconds == wanted


@pytest.mark.parametrize(
    ("name", "size", "source"),
    [
        ("dgx-h100", 8, "calibrated"), ("dgx-h100", 16, "extrapolated"), ("gb200-nvl72", 4, "calibrated"),
        ("gb200-nvl72", 64, "extrapolated"), ("h20-8x", 8, "extrapolated"), ("dgx-a100-80gb", 8, "extrapolated"),
        ("mi300x-8x", 8, "roofline"),
    ],
)  # fmt: skip
def test_the_provenance(name, size, source):
    """Measured inside a node of some devices."""
    cluster = perfsim.load_cluster(name, num_devices=72)
    assert price(exchange("dispatch", 128, cluster.span(range(size))), cluster).source == source


def test_a_group_of_one_has_nothing_to_send(nodes):
    """All experts are at home."""
    assert price(exchange("dispatch", np.array([1.0, 1e4]), (1,)), nodes).seconds.tolist() == [0, 0]


@pytest.mark.parametrize("direction", list(TYPES))
@given(tokens=st.floats(0, 1e6), more=st.floats(0, 1e6), size=st.integers(2, 16))
def test_more_tokens_never_take_less_time(cluster, direction, *, tokens, more, size):
    """Also where engines change kernels."""
    group = cluster.span(range(min(size, cluster.num_devices)))
    cost = price(exchange(direction, np.array([tokens, tokens + more]), group), cluster)
    assert cost.seconds[0] <= cost.seconds[1] * (1 + 1e-12)
    assert (cost.seconds >= cost.roofline_s).all()


def test_a_sweep_of_tokens_jumps_only_where_engines_change_kernels(nodes):
    """Inside a node and across nodes; upwards by less than a fifth."""
    tokens = np.unique(np.geomspace(1, 65_536, 800).astype(int)).astype(float)
    for span in ((8,), (8, 8)):
        steps = np.diff(np.log(price(exchange("combine", tokens, span), nodes).seconds))
        growth = np.diff(np.log(tokens))
        assert (steps > growth + 1e-9).sum() <= 1
        assert (steps - growth).max() < 0.2


def test_arrays_broadcast_against_each_other(cluster):
    """Each point costs what it costs alone."""
    tokens, hidden = np.array([1, 128, 8192]), np.array([[2048], [7168]])
    sizes = {**DEEPSEEK, "tokens": tokens, "hidden_size": hidden}
    seconds = expert_exchange_seconds(cluster, direction="combine", group_size=4, **sizes)
    assert seconds.shape == (2, 3)
    for (i, j), value in np.ndenumerate(seconds):
        alone = {**DEEPSEEK, "tokens": tokens[j], "hidden_size": hidden[i, 0]}
        wanted = expert_exchange_seconds(cluster, direction="combine", group_size=4, **alone)
        assert value == pytest.approx(float(wanted), rel=1e-12)


def test_all_faults_come_together(refused, nodes):
    """Direction, sizes, type and group in one error."""
    sizes = {**DEEPSEEK, "tokens": 0, "experts_per_token": 300}
    faults = refused(expert_exchange_seconds, nodes, direction="send", group_size=256, dtype="fp3", **sizes)
    names = [fault.field.split(".")[-1] for fault in faults]
    assert names == ["direction", "tokens", "dtype", "group_size"]
    (fault,) = refused(expert_exchange_seconds, nodes, direction="combine", group_size=8, **{**sizes, "tokens": 1})
    assert fault.field.endswith("experts_per_token")
