"""One tier by latency and bandwidth: rings, trees and switches by hand."""

import math

import pytest

from perfsim.cost.ring import ring_parts
from perfsim.ops.operators import Collective
from perfsim.spec.hardware import Efficiency, NetworkTier

TIER = NetworkTier("ring", 100e9, 1e-6)
EFFICIENCY = Efficiency(matmul=1.0, attention=1.0, memory=1.0, network=0.5, network_in_switch=0.8, in_switch_s=5e-6)


def parts(op, payload, span, index=0, tier=TIER):
    """Price one tier's part."""
    found = ring_parts(Collective(op, payload, span), index, payload, tier, EFFICIENCY)
    return tuple(float(part) for part in found)


@pytest.mark.parametrize(("op", "trips"), [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)])
def test_a_ring_sends_its_share_each_trip(op, trips):
    """Seven eighths at half of the rate, a hop to each of the others, and light at the whole rate."""
    wanted = (trips * 0.875 * 8e9 / 50e9, trips * 7e-6, trips * 0.875 * 8e9 / 100e9)
    assert parts(op, 8e9, (8,)) == pytest.approx(wanted, rel=1e-12)


def test_a_short_all_reduce_takes_the_tree_inside_one_tier():
    """Up and down; over several tiers each is a ring."""
    assert parts("all_reduce", 8.0, (64,))[1] == pytest.approx(2 * math.log2(64) * 1e-6, rel=1e-12)
    assert parts("all_reduce", 8.0, (2, 64), 1)[1] == pytest.approx(2 * 63e-6, rel=1e-12)


def test_a_switch_adds_up_where_that_is_faster():
    """Nine eighths of the payload at 0.8 of the rate after 5 us; light is the payload."""
    tier = NetworkTier("switch", 100e9, 1e-6, 8, reduces_in_switch=True)
    wanted = (1.125 * 8e9 / 80e9, 5e-6, 8e9 / 100e9)
    assert parts("all_reduce", 8e9, (8,), tier=tier) == pytest.approx(wanted, rel=1e-12)


def test_an_all_to_all_hops_to_every_peer_that_the_tier_reaches():
    """One other node has eight of them."""
    assert parts("all_to_all", 8e9, (8, 2), 1)[1] == pytest.approx(8e-6, rel=1e-12)
