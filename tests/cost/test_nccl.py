"""Measured collectives: bounds of every shipped system, monotony, arrays, tiers by hand, send and receive."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.cost.custom_all_reduce import CustomAllReduce
from perfsim.cost.nccl import nccl_time, send_receive_time
from perfsim.cost.protocols import CollectiveCoefficients, Protocols
from perfsim.spec.hardware import Efficiency, NetworkTier
from perfsim.spec.profiles import profile_folder
from perfsim.spec.tables import read_toml

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
RATES = {
    "a100": 300e9, "h100": 450e9, "h200": 450e9, "b200": 900e9, "b300": 900e9, "gb200": 900e9, "gb300": 900e9,
    "l40s": 31.5e9, "rtx-pro-6000": 63e9,
}  # fmt: skip
SWITCHED = {"h100", "h200", "b200", "b300", "gb200", "gb300"}
SPANS = [(2,), (3,), (4,), (5,), (7,), (8,), (12,), (16,), (8, 2), (3, 4), (8, 32), (1, 2), (1, 16)]
EFFICIENCY = Efficiency(matmul=1.0, attention=1.0, memory=1.0, network=0.8)
BYTES = st.floats(0, 1e11)


@pytest.fixture(scope="module", params=RATES)
def system(request):
    """Give every shipped system in turn: its tables and its tiers."""
    inner = NetworkTier("nvlink", RATES[request.param], 1e-6, 16, reduces_in_switch=request.param in SWITCHED)
    tables = read_toml(profile_folder() / "kernels" / f"{request.param}-nccl.toml")
    return tables, (inner, NetworkTier("infiniband", 50e9, 2.7e-6))


@pytest.fixture(scope="module")
def hopper():
    """Give the tables and the tiers of an H100."""
    tables = read_toml(profile_folder() / "kernels" / "h100-nccl.toml")
    inner = NetworkTier("nvlink", 450e9, 1e-6, 8, reduces_in_switch=True)
    return tables, (inner, NetworkTier("infiniband", 50e9, 2.7e-6))


def times(system, op, payload, span, **options):
    """Price payloads by the tables of a system."""
    tables, tiers = system
    coefficients = CollectiveCoefficients.from_table(tables[op])
    return nccl_time(op, payload, coefficients, span=span, tiers=tiers, efficiency=EFFICIENCY, **options)


def light_factor(op, members, *, in_switch):
    """Bytes on one link for each byte of the payload, written out."""
    ring = {"all_reduce": 2}.get(op, 1) * (members - 1) / members
    return min(ring, 1) if in_switch else ring


@given(op=st.sampled_from(OPS), span=st.sampled_from(SPANS), payload=st.lists(BYTES, min_size=1, max_size=9))
def test_nothing_is_faster_than_light(system, op, span, payload):
    """Every tier's links carry what they must, at the datasheet rate."""
    _, (inner, outer) = system
    time = times(system, op, payload, span)
    count, inside = np.prod(span), span[0]
    share = np.array(payload) * (inside / count if op == "all_to_all" else 1)
    bounds = [share * light_factor(op, inside, in_switch=inner.reduces_in_switch) / inner.bytes_per_s]
    if len(span) > 1:
        share = np.array(payload) / (1 if op == "all_to_all" else inside)
        bounds.append(share * light_factor(op, span[1], in_switch=False) / outer.bytes_per_s)
    assert (time.seconds >= np.max(bounds, axis=0) * (1 - 1e-12)).all()
    assert (time.seconds >= time.roofline_s).all()
    assert time.roofline_s == pytest.approx(np.max(bounds, axis=0), rel=1e-12)
    assert (time.seconds > 0).all()


@given(op=st.sampled_from(OPS), span=st.sampled_from(SPANS), payload=BYTES, more=BYTES)
def test_more_bytes_never_take_less_time(system, op, span, payload, more):
    """At any group size, inside a node and across."""
    small, large = times(system, op, [payload, payload + more], span).seconds
    assert small <= large * (1 + 1e-12)


@pytest.mark.parametrize("op", OPS)
def test_a_sweep_falls_nowhere(system, op):
    """Over all payloads, switches included, and the three measured group sizes."""
    for members in (2, 4, 8):
        seconds = times(system, op, np.geomspace(1, 1e11, 20_001), (members,)).seconds
        assert np.diff(seconds).min() >= -1e-12 * seconds.max()


@given(payload=BYTES, more=BYTES, members=st.integers(2, 8))
def test_more_bytes_never_take_less_time_in_an_engine(system, payload, more, members):
    """Its own kernels, at every payload."""
    for table in system[0].get("custom_all_reduce", {}).values():
        custom = CustomAllReduce.from_table(table)
        options = {"custom": custom, "algorithm": "custom"}
        time = times(system, "all_reduce", [payload, payload + more], (members,), **options)
        assert time.seconds[0] <= time.seconds[1] * (1 + 1e-12)
        assert (time.seconds >= time.roofline_s).all()


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("op", OPS)
def test_arrays_are_scalars_side_by_side(hopper, op, span):
    """Each point costs what it costs alone, also beyond one block."""
    payload = np.geomspace(1, 1e10, 5_000).reshape(50, 100)
    whole = times(hopper, op, payload, span)
    assert whole.seconds.shape == payload.shape
    for i, j in [(0, 0), (10, 3), (40, 95), (41, 1), (49, 99)]:
        alone = times(hopper, op, payload[i, j], span)
        assert alone.seconds.shape == ()
        for name in ("seconds", "network_s", "overhead_s", "roofline_s"):
            assert getattr(whole, name)[i, j] == pytest.approx(float(getattr(alone, name)), rel=1e-14)


@pytest.mark.parametrize("span", SPANS)
def test_the_parts_add_up(hopper, span):
    """Network and overhead, unless light is slower still."""
    time = times(hopper, "all_reduce", np.geomspace(1, 1e10, 50), span)
    assert time.seconds == pytest.approx(np.maximum(time.network_s + time.overhead_s, time.roofline_s), rel=1e-12)


@pytest.fixture(scope="module")
def plain():
    """Give two tiers and one protocol a group: 1 us of launch, 1 us a hop, half of 100 GB/s."""
    groups = {n: Protocols((n * 1e-6,), (0.5,), (0.0,), (False,)) for n in (2, 4)}
    tiers = (NetworkTier("inner", 100e9, 1e-6, domain_size=4), NetworkTier("outer", 10e9, 5e-6))
    return CollectiveCoefficients(groups), tiers


def plain_seconds(plain, op, payload, span):
    """Price by hand-made coefficients."""
    coefficients, tiers = plain
    return float(nccl_time(op, payload, coefficients, span=span, tiers=tiers, efficiency=EFFICIENCY).seconds)


def test_tiers_start_one_after_the_other_and_the_slowest_sets_the_pace(plain):
    """4 us inside and two hops outside; then a quarter of the payload at 0.8 of 10 GB/s, or six quarters at 50."""
    outside = 2 * (1 / 2) * 2e9 / 8e9
    assert plain_seconds(plain, "all_reduce", 8e9, (4, 2)) == pytest.approx(4e-6 + 2 * 5e-6 + outside, rel=1e-12)
    inside = 3 / 4 * 4e9 / 50e9  # what is meant for the own domain
    outside = 1 / 2 * 8e9 / 8e9
    assert plain_seconds(plain, "all_to_all", 8e9, (4, 2)) == pytest.approx(
        4e-6 + 4 * 5e-6 + max(inside, outside), rel=1e-12
    )


def test_a_group_with_one_member_a_node_takes_a_launch_and_the_ring(plain):
    """One microsecond is left of the smallest group when its hop is taken off; seven hops of 5 us."""
    wanted = 1e-6 + 7 * 5e-6 + 7 / 8 * 8e9 / 8e9
    assert plain_seconds(plain, "all_gather", 8e9, (1, 8)) == pytest.approx(wanted, rel=1e-12)


def test_two_tiers_cost_more_than_the_inner_one_alone(system):
    """The same payload over two domains."""
    payload = np.geomspace(1e3, 1e9, 20)
    for op in ("all_reduce", "all_gather", "reduce_scatter"):
        assert (times(system, op, payload, (8, 2)).seconds > times(system, op, payload, (8,)).seconds).all()


def test_a_send_inside_a_node_is_an_all_to_all_of_two_devices(plain):
    """Of twice the payload, half of which stays at home: the payload at half of the rate."""
    all_to_all, tiers = plain
    time = send_receive_time([0, 1e9], all_to_all, tier=0, tiers=tiers, efficiency=EFFICIENCY)
    assert time.seconds.tolist() == pytest.approx([2e-6, 2e-6 + 1e9 / 50e9], rel=1e-12)
    assert time.roofline_s.tolist() == pytest.approx([0, 1e9 / 100e9], rel=1e-12)


def test_a_send_across_nodes_by_hand(plain):
    """A launch, a hop and the payload at 0.8 of 10 GB/s."""
    all_to_all, tiers = plain
    time = send_receive_time(1e9, all_to_all, tier=1, tiers=tiers, efficiency=EFFICIENCY)
    assert time.seconds == pytest.approx(1e-6 + 5e-6 + 1e9 / 8e9, rel=1e-12)


@given(payload=BYTES, more=BYTES, tier=st.sampled_from([0, 1]))
def test_sends_obey_light_and_grow(system, payload, more, tier):
    """On every shipped system."""
    tables, tiers = system
    all_to_all = CollectiveCoefficients.from_table(tables["all_to_all"])
    time = send_receive_time([payload, payload + more], all_to_all, tier=tier, tiers=tiers, efficiency=EFFICIENCY)
    assert (time.seconds >= time.roofline_s).all()
    assert time.roofline_s[0] == pytest.approx(payload / tiers[tier].bytes_per_s, rel=1e-12)
    assert time.seconds[0] <= time.seconds[1] * (1 + 1e-12)


def test_the_pace_across_nodes_is_that_of_the_outer_tier():
    """NCCL's maintainers measure 192 GB/s of bus bandwidth between DGX A100 with 200 Gb/s a GPU."""
    tables = read_toml(profile_folder() / "kernels" / "a100-nccl.toml")
    tiers = (NetworkTier("nvlink", 300e9, 1e-6, 8), NetworkTier("infiniband", 25e9, 2.7e-6))
    efficiency = Efficiency(matmul=1.0, attention=1.0, memory=1.0, network=0.96)
    coefficients = CollectiveCoefficients.from_table(tables["all_reduce"])
    time = nccl_time("all_reduce", 8e9, coefficients, span=(8, 16), tiers=tiers, efficiency=efficiency)
    bus = 8e9 * 2 * 127 / 128 / float(time.seconds)
    assert bus == pytest.approx(192e9, rel=0.1)
