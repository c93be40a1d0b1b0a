"""Clusters of several kinds of device: who is whose neighbour, what a group spans, and what is refused."""

import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim.cost.collective import collective_cost, transfer_cost
from perfsim.errors import Faults
from perfsim.ops.operators import Collective, Transfer
from perfsim.spec.files import to_plain
from perfsim.spec.hardware import Cluster, NetworkTier
from perfsim.spec.mixed import join_clusters
from perfsim.spec.tables import build

ETHERNET = NetworkTier("ethernet", 25e9, 5e-6)
FAST = perfsim.load_cluster("dgx-h100", num_devices=16)
CHEAP = perfsim.load_cluster("l40s-pcie-8x", num_devices=24)
MIXED = join_clusters(FAST, CHEAP, tier=ETHERNET)


def flat(num_devices):
    """Make a cluster of a single tier, or of none for a single device."""
    tiers = (NetworkTier("pcie", 31.5e9, 1e-6),) if num_devices > 1 else ()
    return dataclasses.replace(CHEAP, name="flat", tiers=tiers, num_devices=num_devices)


def test_devices_are_numbered_through():
    """Those of the first part first; each belongs to the part as it was before."""
    assert MIXED.num_devices == 40
    assert [MIXED.segment_of(device) for device in (0, 15, 16, 39)] == [FAST, FAST, CHEAP, CHEAP]
    assert MIXED.segments == (FAST, CHEAP)


def test_a_joined_cluster_shows_what_its_first_part_has():
    """Beside the tier that joins, which is the outermost."""
    assert MIXED.name == "dgx-h100 + l40s-pcie-8x"
    assert join_clusters(FAST, CHEAP, tier=ETHERNET, name="mine").name == "mine"
    for field in ("accelerator", "efficiency", "reserve_bytes", "kernels", "coefficients"):
        assert getattr(MIXED, field) == getattr(FAST, field)
    assert MIXED.tiers == (*FAST.tiers, ETHERNET)


@pytest.mark.parametrize(
    ("pair", "tier"), [((0, 7), 0), ((0, 8), 1), ((16, 23), 0), ((23, 24), 1), ((15, 16), 2), ((0, 39), 2)]
)
def test_the_tier_between_devices_is_that_of_their_part_or_the_joining_one(pair, tier):
    """Domains of the second part are counted from its own first device."""
    assert MIXED.tier_between(*pair) == MIXED.tier_between(*reversed(pair)) == tier


@pytest.mark.parametrize(
    ("devices", "span"),
    [(range(8), (8,)), (range(16), (8, 2)), (range(16, 40), (8, 3)), (range(16, 24), (8,)), ((15, 16), (1, 1, 2)),
     (range(40), (8, 3, 2)), (range(0, 40, 8), (1, 3, 2)), (range(8, 24), (8, 1, 2)), ([20], (1,)), ([], (1,))],
)  # fmt: skip
def test_a_group_spans_the_tiers_of_its_part_and_the_joining_one(devices, span):
    """Where the parts hold different numbers of members the largest counts."""
    assert MIXED.span(devices) == span


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_groups_inside_of_a_part_span_what_they_span_there(first, second, data):
    """With indices that are valid in the part, however many tiers the other part has."""
    parts = (dataclasses.replace(FAST, num_devices=8 * first), flat(8 * second))
    joined = join_clusters(*data.draw(st.permutations(parts)), tier=ETHERNET)
    offset = 0
    for part in joined.segments:
        own = data.draw(st.lists(st.integers(0, part.num_devices - 1), min_size=1, max_size=9, unique=True))
        assert joined.span([offset + device for device in own]) == part.span(own)
        assert joined.tier_between(offset + own[0], offset + own[-1]) == part.tier_between(own[0], own[-1])
        offset += part.num_devices


def test_tiers_of_parts_with_fewer_of_them_are_filled_up():
    """So that the joining tier has one index for all devices."""
    (pcie,) = flat(8).tiers
    joined = join_clusters(flat(8), FAST, tier=ETHERNET)
    assert joined.tiers == joined.tiers_of(0) == (pcie, pcie, ETHERNET)
    assert joined.tiers_of(8) == (*FAST.tiers, ETHERNET)
    assert joined.tier_between(7, 8) == 2


def test_single_devices_can_be_joined():
    """The joining tier is never the innermost, whose collectives have fitted coefficients."""
    joined = join_clusters(flat(1), flat(1), flat(1), tier=ETHERNET)
    assert joined.tiers == (ETHERNET, ETHERNET)
    assert joined.span(range(3)) == (1, 3)
    assert joined.tier_between(0, 2) == 1


def test_three_parts_can_be_joined():
    """In any number."""
    joined = join_clusters(FAST, CHEAP, flat(4), tier=ETHERNET)
    assert [joined.segment_of(device).name for device in (15, 16, 39, 40)] == [
        "dgx-h100", "l40s-pcie-8x", "l40s-pcie-8x", "flat",
    ]  # fmt: skip
    assert joined.span(range(44)) == (8, 3, 3)


@pytest.mark.parametrize("kernels", ["trtllm", None])
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
def test_two_equal_parts_cost_what_one_cluster_costs(kind, kernels):
    """Where the tier that joins the nodes is the same, inside of a part and across."""
    whole = FAST if kernels else dataclasses.replace(FAST, kernels="", coefficients={})
    node = dataclasses.replace(whole, num_devices=8)
    joined = join_clusters(node, node, tier=whole.tiers[-1])
    for devices in (range(8), range(8, 16), range(16), range(0, 16, 8), (3, 12)):
        work = [Collective(kind, 1e8, cluster.span(devices)) for cluster in (joined, whole)]
        costs = [collective_cost(cluster, w).seconds for cluster, w in zip((joined, whole), work, strict=True)]
        assert costs[0] == costs[1]
    for pair in ((0, 7), (8, 15), (7, 8)):
        seconds = [transfer_cost(c, Transfer(1e8, c.tier_between(*pair))).seconds for c in (joined, whole)]
        assert seconds[0] == seconds[1]


def test_a_joined_cluster_is_a_value():
    """Pickled, hashed, compared, and written as a table of plain values."""
    again = pickle.loads(pickle.dumps(MIXED))  # noqa: S301
    assert (again, hash(again)) == (MIXED, hash(MIXED))
    faults = Faults()
    assert build(Cluster, to_plain(MIXED), faults) == MIXED
    assert not faults.found
    assert join_clusters(CHEAP, FAST, tier=ETHERNET) != MIXED


def test_domains_tell_clusters_apart_by_who_is_near_whom():
    """And by nothing else: two clusters with other speeds have the same."""
    faster = join_clusters(FAST, CHEAP, tier=NetworkTier("ethernet", 50e9, 5e-6))
    assert faster.domains == MIXED.domains
    assert join_clusters(CHEAP, FAST, tier=ETHERNET).domains != MIXED.domains
    assert dataclasses.replace(FAST, num_devices=40).domains != MIXED.domains


def test_the_tier_that_joins_can_be_changed():
    """It is the one thing of a joined cluster that no part has."""
    tier = NetworkTier("ethernet", 50e9, 5e-6, oversubscription=2)
    assert dataclasses.replace(MIXED, tiers=(*MIXED.tiers[:-1], tier)).tiers[-1] is tier
    assert dataclasses.replace(MIXED, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_devices": 16}, "num_devices"),
        ({"accelerator": CHEAP.accelerator}, "accelerator"),
        ({"efficiency": CHEAP.efficiency}, "efficiency"),
        ({"reserve_bytes": 0}, "reserve_bytes"),
        ({"kernels": ""}, "kernels"),
        ({"coefficients": {}}, "coefficients"),
        ({"tiers": (ETHERNET,)}, "tiers"),
        ({"tiers": ()}, "tiers"),
        ({"segments": 5}, "segments"),
        ({"segments": (FAST, "l40s")}, "segments"),
        ({"segments": (FAST, MIXED)}, "segments"),
    ],
)
def test_a_change_that_the_parts_would_not_know_of_is_refused(refused, changes, field):
    """It would have no effect: the parts are what counts."""
    (fault,) = refused(dataclasses.replace, MIXED, **changes)
    assert fault.field == f"cluster.{field}"
    assert "join_clusters" in fault.way_out


def test_all_changes_that_parts_would_not_know_of_come_together(refused):
    """One fault each."""
    faults = refused(dataclasses.replace, MIXED, num_devices=3, kernels="", efficiency=CHEAP.efficiency)
    assert {fault.field for fault in faults} == {"cluster.num_devices", "cluster.kernels", "cluster.efficiency"}


def test_everything_that_cannot_be_joined_is_named_at_once(refused):
    """Parts of another type, parts that are joined already, and a tier that does not join everything."""
    faults = refused(join_clusters, FAST, MIXED, "l40s-pcie-8x", tier=FAST.tiers[0])
    assert [fault.field.removeprefix("join_clusters.") for fault in faults] == [
        "clusters.1", "clusters.2", "tier.domain_size",
    ]  # fmt: skip
    assert "dgx-h100 + l40s-pcie-8x" in faults[0].way_out
    assert "perfsim.load_cluster" in faults[1].way_out


@pytest.mark.parametrize("clusters", [(), (FAST,)], ids=len)
def test_fewer_than_two_clusters_are_refused(refused, clusters):
    """There is nothing to join."""
    (fault,) = refused(join_clusters, *clusters, tier=ETHERNET)
    assert (fault.field, fault.value) == ("join_clusters.clusters", len(clusters))


@pytest.mark.parametrize("tier", [None, 25e9, "ethernet"], ids=repr)
def test_a_tier_of_another_type_is_refused(refused, tier):
    """It is a NetworkTier."""
    (fault,) = refused(join_clusters, FAST, CHEAP, tier=tier)
    assert (fault.field, fault.value) == ("join_clusters.tier", tier)


def test_devices_beyond_the_parts_are_refused(refused):
    """By their numbers in the whole."""
    for ask in (lambda: MIXED.span([0, 40]), lambda: MIXED.segment_of(40), lambda: MIXED.tier_between(0, 40)):
        (fault,) = refused(ask)
        assert fault.field == "devices"
        assert "0 to 39" in fault.allowed
