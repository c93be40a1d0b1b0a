"""Collectives and transfers: rings by hand, tiers, the reducing switch, arrays, monotony and bad input."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.cost import collective_seconds, price
from perfsim.ops.operators import Collective, Transfer
from perfsim.spec.hardware import NetworkTier

KINDS = ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_receive"]
BYTES = st.integers(1, 10**11)


@pytest.fixture(scope="module")
def ring(documented):
    """Give a cluster of one ring at 100 GB/s, without efficiency or fixed times."""
    efficiency = dataclasses.replace(
        documented.efficiency, network=1.0, network_in_switch=1.0, collective_s=0.0, in_switch_s=0.0
    )
    ring = (NetworkTier("ring", 100e9, 1e-6),)
    return dataclasses.replace(documented, tiers=ring, num_devices=64, efficiency=efficiency)


def seconds(cluster, kind, payload, group):
    """Price one collective."""
    return collective_seconds(cluster, kind=kind, payload_bytes=payload, group_size=group)


@pytest.mark.parametrize(
    ("kind", "trips", "hops"),
    [("all_reduce", 2, 14), ("all_gather", 1, 7), ("reduce_scatter", 1, 7), ("all_to_all", 1, 7)],
)
def test_a_ring_by_hand(ring, kind, trips, hops):
    """Seven eighths of the payload a trip, a hop to each of the others; an all-reduce goes round twice."""
    assert seconds(ring, kind, 8e10, 8) == pytest.approx(trips * 0.7 + hops * 1e-6, rel=1e-12)
    assert price(Collective(kind, 8e10, (8,)), ring).roofline_s == pytest.approx(trips * 0.7, rel=1e-12)


def test_a_small_all_reduce_takes_the_tree(ring):
    """Up and down the tree, with a hop each level."""
    assert seconds(ring, "all_reduce", 8, 64) == pytest.approx(2 * 8 / 100e9 + 2 * 6 * 1e-6, rel=1e-12)


def test_a_transfer_by_hand(ring):
    """The payload once, and one hop."""
    assert seconds(ring, "send_receive", 1e9, 2) == pytest.approx(0.01 + 1e-6, rel=1e-12)
    assert price(Transfer(1e9, 0), ring).roofline_s == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_times_and_efficiencies_count(ring, kind):
    """Half of the bandwidth, and a microsecond more."""
    slower = dataclasses.replace(ring, efficiency=dataclasses.replace(ring.efficiency, network=0.5, collective_s=1e-6))
    fast, slow = (seconds(cluster, kind, 1e11, 8) for cluster in (ring, slower))
    assert slow == pytest.approx(2 * fast, rel=1e-3)
    assert seconds(slower, kind, 1, 8) - seconds(ring, kind, 1, 8) == pytest.approx(1e-6, rel=1e-3)


def test_a_group_of_one_has_nothing_to_do(cluster):
    """No time, no bound."""
    assert seconds(cluster, "all_reduce", 1e9, 1) == 0
    assert price(Collective("all_reduce", 1e9, (1,)), cluster).roofline_s == 0


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"all_to_all"}))
@pytest.mark.parametrize("payload", [1e3, 1e6, 1e9])
def test_two_tiers_cost_more_than_one(cluster, kind, payload):
    """The same payload over two domains."""
    inner = cluster.tiers[0].domain_size
    assert seconds(cluster, kind, payload, 2 * inner) > seconds(cluster, kind, payload, inner)


def test_a_group_spread_over_two_domains_costs_more_than_one_inside(h100):
    """The same eight devices' worth of work."""
    inside, spread = (price(Collective("all_reduce", 1e8, span), h100).seconds for span in ((8,), (4, 2)))
    assert spread > inside


def test_an_all_reduce_over_two_tiers_by_hand(ring):
    """Scatter and gather inside, and an eighth of the payload across."""
    tiers = (NetworkTier("inner", 100e9, 1e-6, domain_size=8), NetworkTier("outer", 10e9, 5e-6))
    cluster = dataclasses.replace(ring, tiers=tiers)
    inner, outer = 2 * 7 / 8 * 8e10 / 100e9 + 14e-6, 2 * 1 / 2 * 1e10 / 10e9 + 2 * 5e-6
    assert seconds(cluster, "all_reduce", 8e10, 16) == pytest.approx(inner + outer, rel=1e-12)


@pytest.fixture(scope="module")
def switches(ring):
    """Give a cluster with a reducing switch and one without, otherwise equal."""
    tier = NetworkTier("switch", 100e9, 1e-6, domain_size=8, reduces_in_switch=True)
    with_switch = dataclasses.replace(ring, tiers=(tier,), num_devices=8)
    return with_switch, dataclasses.replace(with_switch, tiers=(dataclasses.replace(tier, reduces_in_switch=False),))


def test_a_switch_that_adds_up_halves_a_large_all_reduce(switches):
    """Nine eighths of the payload instead of fourteen."""
    with_switch, without = (seconds(cluster, "all_reduce", 8e10, 8) for cluster in switches)
    assert with_switch == pytest.approx(0.9, rel=1e-12)
    assert without == pytest.approx(1.4, rel=1e-4)
    bounds = [price(Collective("all_reduce", 8e10, (8,)), cluster).roofline_s for cluster in switches]
    assert bounds == pytest.approx([0.8, 1.4], rel=1e-12)


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "all_to_all"])
def test_a_switch_that_adds_up_does_not_help_where_nothing_is_added(switches, kind):
    """Gathers are as fast with it as without."""
    with_switch, without = switches
    assert seconds(with_switch, kind, 1e9, 8) == seconds(without, kind, 1e9, 8)


@given(payload=BYTES)
def test_a_switch_is_taken_only_where_it_helps(switches, payload):
    """With it an all-reduce is never slower than without."""
    with_switch, without = switches
    assert seconds(with_switch, "all_reduce", payload, 8) <= seconds(without, "all_reduce", payload, 8)


def test_a_switch_with_a_long_start_up_is_left_alone_for_small_payloads(switches):
    """A ring or a tree is faster there."""
    slow_start = dataclasses.replace(
        switches[0], efficiency=dataclasses.replace(switches[0].efficiency, in_switch_s=1e-3)
    )
    assert seconds(slow_start, "all_reduce", 1e3, 8) == seconds(switches[1], "all_reduce", 1e3, 8)
    assert seconds(slow_start, "all_reduce", 8e10, 8) == pytest.approx(0.901, rel=1e-12)


def test_an_all_to_all_sends_inside_only_what_belongs_inside(ring):
    """Seven of sixteen parts stay in the domain, eight cross; both at once."""
    tiers = (NetworkTier("inner", 10e9, 1e-6, domain_size=8), NetworkTier("outer", 100e9, 5e-6))
    cost = price(Collective("all_to_all", 1.6e10, (8, 2)), dataclasses.replace(ring, tiers=tiers))
    assert cost.roofline_s == pytest.approx(7e9 / 10e9, rel=1e-12)


@pytest.mark.parametrize("payload", [1e3, 1e6, 1e9])
def test_an_all_to_all_over_two_tiers_by_hand(cluster, payload):
    """Both tiers send side by side, so a second link may even help; there is a hop to each of the others."""
    cluster = dataclasses.replace(cluster, kernels="", coefficients={})
    (inner, outer), size, efficiency = cluster.tiers[:2], cluster.tiers[0].domain_size, cluster.efficiency
    parts = ((size - 1) / (2 * size), inner), (1 / 2, outer)
    wire = max(part * payload / (tier.bytes_per_s * efficiency.network) for part, tier in parts)
    fixed = efficiency.collective_s + (size - 1) * inner.latency_s + size * outer.latency_s
    assert seconds(cluster, "all_to_all", payload, 2 * size) == pytest.approx(wire + fixed, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_come_back_as_arrays(cluster, kind):
    """Each point costs what it costs alone."""
    payload = np.array([[1e2, 1e5], [1e7, 1e9], [3e9, 1e10]])
    swept = seconds(cluster, kind, payload, 4)
    assert swept.shape == (3, 2)
    for place, value in np.ndenumerate(swept):
        assert value == seconds(cluster, kind, payload[place], 4)


@pytest.mark.parametrize("kind", KINDS)
@given(payload=BYTES, more=BYTES, group=st.integers(2, 16))
def test_more_bytes_never_take_less_time(h100, kind, payload, more, group):
    """In any group."""
    small, large = seconds(h100, kind, [payload, payload + more], group)
    assert large >= small


def test_an_all_reduce_is_no_faster_than_either_half(cluster):
    """It does what a reduce-scatter does, and more."""
    size = cluster.tiers[0].domain_size
    reduce, scatter = (seconds(cluster, kind, 1e9, size) for kind in ("all_reduce", "reduce_scatter"))
    assert reduce > scatter


def test_all_faults_come_together(refused, h100):
    """Kind, algorithm and group in one error."""
    faults = refused(collective_seconds, h100, kind="allreduce", payload_bytes=1, group_size=17, algorithm="ncl")
    assert [fault.field.split(".")[-1] for fault in faults] == ["kind", "algorithm", "group_size"]
    assert [fault.way_out for fault in faults[:2]] == ["did you mean 'all_reduce'?", "did you mean 'nccl'?"]
    assert "16 devices" in faults[2].allowed
    assert "num_devices=17" in faults[2].way_out


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True], ids=repr)
def test_groups_that_are_none_are_refused(refused, h100, value):
    """A group is a whole number of devices."""
    (fault,) = refused(seconds, h100, "all_reduce", 1e6, value)
    assert fault.field.endswith("group_size")


@pytest.mark.parametrize("value", [-1, math.nan, "8", [8, -1]], ids=repr)
def test_payloads_that_are_none_are_refused(refused, h100, value):
    """Bytes are numbers of at least zero, in each point of an array."""
    (fault,) = refused(seconds, h100, "all_reduce", value, 8)
    assert fault.field.endswith("payload_bytes")


def test_the_hand_over_of_the_seed_by_hand(documented, improved):
    """163.84 MB over the fabric at 50 GB/s."""
    send = perfsim.operator_graph(improved)["stage_0.send"]
    efficiency, fabric = documented.efficiency, documented.tiers[1]
    wanted = 163.84e6 / (50e9 * efficiency.network) + efficiency.collective_s + fabric.latency_s
    assert price(send.work, documented).seconds == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("payload", [4096, 65_536])
def test_the_simulation_takes_the_all_reduce_of_the_engine(payload):
    """It is faster than NCCL for short payloads, which is why engines bring it along."""
    cluster = perfsim.load_cluster("dgx-h100")
    nccl, custom, auto = (
        collective_seconds(cluster, kind="all_reduce", payload_bytes=payload, group_size=8, algorithm=algorithm)
        for algorithm in ("nccl", "custom", "auto")
    )
    assert auto == custom < nccl
    assert price(Collective("all_reduce", payload, (8,)), cluster).seconds == auto


def test_beyond_its_limit_the_engine_hands_over_to_nccl():
    """A large payload takes NCCL's rings or the reducing switch."""
    cluster = perfsim.load_cluster("dgx-h100")
    nccl, auto = (
        collective_seconds(cluster, kind="all_reduce", payload_bytes=1e9, group_size=8, algorithm=algorithm)
        for algorithm in ("nccl", "auto")
    )
    assert auto == nccl


@pytest.mark.parametrize(
    ("name", "kind"), [("mi300x-8x", "all_reduce"), ("dgx-h100", "all_gather"), ("dgx-h100", "send_receive")]
)
def test_an_all_reduce_that_the_engine_does_not_have_is_refused(refused, name, kind):
    """Where there are no kernels, and for other collectives."""
    (fault,) = refused(
        collective_seconds,
        perfsim.load_cluster(name),
        kind=kind,
        payload_bytes=1,
        group_size=2,
        algorithm="custom",
    )
    assert (fault.field.split(".")[-1], fault.value) == ("algorithm", "custom")
    assert "nccl or auto" in fault.allowed


@pytest.mark.parametrize(
    ("name", "work", "source"),
    [
        ("dgx-h100", Collective("all_reduce", 1e6, (8,)), "calibrated"),
        ("dgx-h100", Collective("all_gather", 1e6, (3,)), "calibrated"),
        ("dgx-h100", Collective("all_gather", 1e6, (8, 2)), "extrapolated"),
        ("dgx-h100", Transfer(1e6, 0), "extrapolated"),
        ("gb200-nvl72", Collective("all_gather", 1e6, (72,)), "extrapolated"),
        ("h20-8x", Collective("all_gather", 1e6, (8,)), "extrapolated"),
        ("mi300x-8x", Collective("all_gather", 1e6, (8,)), "roofline"),
    ],
)
def test_the_provenance_says_what_was_measured(name, work, source):
    """Groups inside a node, up to the largest that was measured."""
    assert price(work, perfsim.load_cluster(name, num_devices=144)).source == source


@pytest.mark.parametrize("kind", KINDS)
@given(payload=BYTES, more=BYTES, group=st.integers(2, 16))
@settings(max_examples=15)
def test_more_bytes_never_take_less_time_by_nccl(library, kind, payload, more, group):
    """In any group of any cluster; only an engine may hand over to a faster NCCL."""
    small, large = seconds(library, kind, [payload, payload + more], group)
    assert large >= small * (1 - 1e-9)
