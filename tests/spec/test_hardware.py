"""Clusters: what they refuse, who shares a domain, and what a group spans."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim.spec.hardware import Cluster, NetworkTier
from perfsim.spec.tables import FrozenDict

H100 = perfsim.load_cluster("dgx-h100")


def tiers(*sizes):
    """Make tiers with these domain sizes."""
    return tuple(NetworkTier(f"tier {i}", 1e9, 1e-6, domain_size=size) for i, size in enumerate(sizes))


def make(*sizes, num_devices=8, **fields):
    """Make a cluster with tiers of these domain sizes."""
    parts = {"tiers": tiers(*sizes), "num_devices": num_devices, **fields}
    return Cluster(name="c", accelerator=H100.accelerator, efficiency=H100.efficiency, **parts)


@pytest.mark.parametrize("value", [0, -8, 1.0, True, "8", None], ids=repr)
def test_a_cluster_has_a_whole_number_of_devices(refused, value):
    """At least one."""
    (fault,) = refused(make, None, num_devices=value)
    assert (fault.field, fault.value) == ("cluster.num_devices", value)


def test_all_faults_of_a_cluster_come_together(refused):
    """Parts of the wrong type are named one by one."""
    faults = refused(Cluster, name="", accelerator="h100", tiers=(), num_devices=0, efficiency=None, reserve_bytes=-1)
    fields = ["name", "accelerator", "efficiency", "reserve_bytes", "num_devices"]
    assert [fault.field for fault in faults] == [f"cluster.{field}" for field in fields]


@pytest.mark.parametrize("value", ["", "nvlink", 5, [1, 2]], ids=repr)
def test_tiers_of_another_type_are_refused(refused, value):
    """Tiers are a sequence of NetworkTier."""
    (fault,) = refused(make, tiers=value)
    assert (fault.field, fault.value) == ("cluster.tiers", value)


@pytest.mark.parametrize("field", ["sources", "title"])
def test_notes_of_another_type_are_refused(refused, field):
    """Sources are a mapping and the title is a text."""
    (fault,) = refused(make, None, **{field: 5})
    assert fault.field == f"cluster.{field}"


def test_a_source_that_is_no_text_is_refused(refused):
    """Named by the number that it belongs to."""
    (fault,) = refused(make, None, sources={"num_devices": "the rack", "reserve_bytes": 5})
    assert (fault.field, fault.value) == ("cluster.sources.reserve_bytes", 5)


@pytest.mark.parametrize(
    ("coefficients", "field"),
    [
        (5, "coefficients"),
        ({"matmul.bf16": 5}, "coefficients.matmul.bf16"),
        ({"matmul.bf16": {"launch_s": 1e-6}}, "coefficients.matmul.bf16.source"),
        ({"matmul.bf16": {"launch_s": 1e-6, "source": "measured"}}, "coefficients.matmul.bf16.source"),
    ],
)
def test_coefficients_are_tables_with_a_provenance(refused, coefficients, field):
    """Whatever their numbers mean."""
    (fault,) = refused(make, None, coefficients=coefficients)
    assert fault.field == f"cluster.{field}"


def test_a_library_is_a_name(refused):
    """Or blank."""
    (fault,) = refused(make, None, kernels=5)
    assert (fault.field, fault.value) == ("cluster.kernels", 5)


def test_clusters_with_coefficients_are_values():
    """Frozen at every depth, hashed, pickled and compared."""
    table = {"matmul.bf16": {"tiles": [[64, 64], [128, 128]], "source": "calibrated"}}
    cluster, same = make(None, coefficients=table), make(None, coefficients=table)
    assert cluster.coefficients["matmul.bf16"]["tiles"] == ((64, 64), (128, 128))
    assert (cluster, hash(cluster)) == (same, hash(same))
    assert pickle.loads(pickle.dumps(cluster)) == cluster  # noqa: S301
    assert cluster != make(None)
    with pytest.raises(TypeError, match="frozen"):
        cluster.coefficients["matmul.bf16"]["tiles"] = ()


@pytest.mark.parametrize(
    ("sizes", "index", "nearest"), [((8, 4), 1, 16), ((8, 8), 1, 16), ((4, 6), 1, 8), ((4, 8, 30), 2, 32)], ids=repr
)
def test_domains_must_nest(refused, sizes, index, nearest):
    """Each tier joins several whole domains of the one inside it; the nearest size that does is named."""
    (fault,) = refused(make, *sizes, num_devices=2)
    assert (fault.field, fault.value) == (f"cluster.tiers.{index}.domain_size", sizes[index])
    assert f"the {sizes[index - 1]} devices" in fault.allowed
    assert f"nearest is {nearest};" in fault.way_out


@pytest.mark.parametrize(("sizes", "missing"), [((None, 8), [0]), ((None, None, None), [0, 1]), ((4, None, 8), [1])])
def test_only_the_outermost_tier_joins_everything(refused, sizes, missing):
    """Every inner tier without a domain size is named."""
    faults = refused(make, *sizes, num_devices=2)
    assert [(fault.field, fault.value) for fault in faults] == [
        (f"cluster.tiers.{i}.domain_size", None) for i in missing
    ]
    assert all("only the outermost" in fault.allowed for fault in faults)


def test_all_domains_that_do_not_nest_come_together(refused):
    """One after the other, each against the nearest tier inside that says its size."""
    fields = [fault.field for fault in refused(make, 8, None, 12, 6, num_devices=2)]
    assert fields == [f"cluster.tiers.{index}.domain_size" for index in (1, 2, 3)]


def test_more_devices_than_the_outermost_tier_joins_are_refused(refused):
    """With the way out."""
    (fault,) = refused(make, 4, 8, num_devices=9)
    assert (fault.field, fault.value) == ("cluster.num_devices", 9)
    assert "8" in fault.allowed
    assert "domain_size" in fault.way_out


@pytest.mark.parametrize(("first", "second", "tier"), [(0, 3, 0), (3, 4, 1), (0, 7, 1), (7, 8, 2), (5, 5, 0)])
def test_the_tier_between_two_devices_is_the_innermost_that_joins_them(first, second, tier):
    """Either way round."""
    cluster = make(4, 8, None, num_devices=32)
    assert cluster.tier_between(first, second) == cluster.tier_between(second, first) == tier


@pytest.mark.parametrize(
    ("devices", "span"),
    [(range(1), (1,)), (range(4), (4,)), (range(8), (4, 2)), (range(32), (4, 2, 4)), ((0, 4), (1, 2)),
     ((0, 8), (1, 1, 2)), ((2, 3, 4), (2, 2)), (range(4, 8), (4,))],
)  # fmt: skip
def test_a_group_spans_its_members_at_each_tier(devices, span):
    """Domains inside, leaders of domains outside."""
    assert make(4, 8, None, num_devices=32).span(devices) == span


@st.composite
def clusters_and_groups(draw):
    """Draw a cluster of one to three tiers, and some of its devices as a range, a strided range or a list."""
    sizes = [draw(st.integers(2, 6))]
    for _ in range(draw(st.integers(0, 2))):
        sizes.append(sizes[-1] * draw(st.integers(2, 4)))
    count = sizes[-1] * draw(st.integers(1, 3))
    first, step = draw(st.integers(0, count - 1)), draw(st.integers(1, 9))
    group = draw(st.one_of(
        st.just(range(first, count, step)), st.lists(st.integers(0, count - 1), min_size=1, unique=True)
    ))  # fmt: skip
    return make(*sizes[: draw(st.integers(0, len(sizes)))], None, num_devices=count), group


@given(clusters_and_groups())
def test_a_span_counts_the_fullest_domain_of_each_tier(drawn):
    """Counted device by device: the domains of the tier inside that one domain holds."""
    cluster, group = drawn
    expected, inner = [], 1
    for tier in cluster.tiers:
        size = tier.domain_size or cluster.num_devices
        held = {domain: {d // inner for d in group if d // size == domain} for domain in range(cluster.num_devices)}
        expected.append(max(len(members) for members in held.values()))
        inner = size
    while len(expected) > 1 and expected[-1] == 1:
        expected.pop()
    assert cluster.span(group) == tuple(expected)
    assert math.prod(expected) >= len(group)


@given(st.data(), clusters_and_groups())
def test_the_span_of_a_pair_reaches_the_tier_between_them(data, drawn):
    """And it does not matter who is the first."""
    cluster, _ = drawn
    pair = data.draw(st.lists(st.integers(0, cluster.num_devices - 1), min_size=2, max_size=2, unique=True))
    assert cluster.tier_between(*pair) == cluster.tier_between(*reversed(pair)) == len(cluster.span(pair)) - 1


@pytest.mark.parametrize("stride", [1, 2, 8, 64, 128])
@pytest.mark.parametrize("count", [1, 8, 64, 512])
def test_the_span_of_a_regular_group_multiplies_to_its_size(stride, count):
    """Whole domains, or the same part of each."""
    cluster = make(8, 64, 512, None, num_devices=65_536)
    assert math.prod(cluster.span(range(0, stride * count, stride))) == count


def test_a_profile_has_any_number_of_nodes():
    """Half a million devices included: the time of a span grows with the group and no faster."""
    cluster = perfsim.load_cluster("dgx-h100", num_devices=524_288)
    assert cluster.span(range(524_288)) == (8, 65_536)
    assert cluster.span(range(0, 524_288, 8)) == (1, 65_536)
    assert cluster.tier_between(0, 524_287) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda cluster: cluster.span(range(9)),
        lambda cluster: cluster.span([-1, 0]),
        lambda cluster: cluster.tier_between(0, 8),
        lambda cluster: cluster.tier_between(-1, 0),
        lambda cluster: cluster.segment_of(8),
        lambda cluster: cluster.segment_of(-1),
    ],
)
def test_devices_that_a_cluster_does_not_have_are_refused(refused, ask):
    """With those that it has."""
    (fault,) = refused(ask, make(4, None))
    assert fault.field == "devices"
    assert "0 to 7" in fault.allowed


def test_a_uniform_cluster_is_its_only_segment(cluster):
    """So that code which asks for the segment of a device works for every cluster."""
    assert cluster.segments == ()
    assert cluster.segment_of(cluster.num_devices - 1) is cluster
    assert cluster.tiers_of(0) == cluster.tiers
    assert cluster.domains == tuple(tier.domain_size for tier in cluster.tiers)


def test_a_cluster_pickles_hashes_and_equals_its_copy(cluster):
    """Clusters of all profiles travel to worker processes."""
    again = pickle.loads(pickle.dumps(cluster))  # noqa: S301
    assert again == cluster
    assert hash(again) == hash(cluster)
    assert again.sources == cluster.sources


def test_a_changed_cluster_is_another(h100):
    """Every field counts for equality, nested ones too."""
    faster = dataclasses.replace(h100.accelerator, peak_flop_per_s={**h100.accelerator.peak_flop_per_s, "bf16": 1e15})
    assert dataclasses.replace(h100, accelerator=faster) != h100
    assert dataclasses.replace(h100, num_devices=np.int64(16)) == h100


def test_peaks_cannot_change_in_place(h100):
    """A frozen value holds no open dictionary."""
    with pytest.raises(TypeError, match="frozen"):
        h100.accelerator.peak_flop_per_s["bf16"] = 1.0
    assert isinstance(pickle.loads(pickle.dumps(h100.sources)), FrozenDict)  # noqa: S301
