"""Accelerators, tiers and clusters: what they refuse, who shares a domain, and what a group spans."""

import dataclasses
import pickle

import numpy as np
import pytest

from perfsim.spec.hardware import Accelerator, Cluster, Efficiency, NetworkTier
from perfsim.spec.tables import FrozenDict

ACCELERATOR = {
    "name": "chip", "vendor": "v", "architecture": "a", "peak_flop_per_s": {"bf16": 1e15}, "vector_flop_per_s": 1e14,
    "sm_count": 100, "clock_hz": 1e9, "shared_memory_bytes_per_sm": 1000, "l2_bytes": 10**6, "memory_bytes": 10**10,
    "memory_bytes_per_s": 1e12, "tdp_watt": 500,
}  # fmt: skip
EFFICIENCY = {"matmul": 0.8, "attention": 0.5, "memory": 0.9, "network": 0.7}
NUMBERS = [key for key, value in ACCELERATOR.items() if isinstance(value, int | float)]


def tiers(*sizes):
    """Make tiers with these domain sizes."""
    return tuple(NetworkTier(f"tier {i}", 1e9, 1e-6, domain_size=size) for i, size in enumerate(sizes))


def make(*sizes, num_devices=8, **fields):
    """Make a cluster with tiers of these domain sizes."""
    parts = {"tiers": tiers(*sizes), "efficiency": Efficiency(**EFFICIENCY), "num_devices": num_devices, **fields}
    return Cluster(name="c", accelerator=Accelerator(**ACCELERATOR), **parts)


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [0, -1, "1", True, None], ids=repr)
def test_datasheet_numbers_are_positive_numbers(refused, field, value):
    """No number of a device may be zero, negative or of another type."""
    (fault,) = refused(Accelerator, **{**ACCELERATOR, field: value})
    assert (fault.field, fault.value) == (f"accelerator.{field}", value)


@pytest.mark.parametrize("peaks", [{}, None, [1e15]], ids=repr)
def test_a_device_without_peaks_is_refused(refused, peaks):
    """A device multiplies in at least one dtype."""
    (fault,) = refused(Accelerator, **{**ACCELERATOR, "peak_flop_per_s": peaks})
    assert fault.field == "accelerator.peak_flop_per_s"


def test_all_faults_of_a_device_come_together(refused):
    """Unknown dtypes and wrong peaks are named one by one."""
    bad = {**ACCELERATOR, "name": "", "sm_count": 1.5, "peak_flop_per_s": {"bf17": 1e15, "fp8": -1}}
    fields = {fault.field.removeprefix("accelerator.") for fault in refused(Accelerator, **bad)}
    assert fields == {"name", "sm_count", "peak_flop_per_s.bf17", "peak_flop_per_s.fp8"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bytes_per_s", 0),
        ("latency_s", 0),
        ("latency_s", 2.0),
        ("domain_size", 1),
        ("reduces_in_switch", 1),
        ("name", ""),
    ],
)
def test_tiers_refuse_what_no_network_has(refused, field, value):
    """A tier joins at least two devices, and a hop takes more than nothing and less than a second."""
    table = {"name": "t", "bytes_per_s": 1e9, "latency_s": 1e-6, "domain_size": 2, field: value}
    (fault,) = refused(NetworkTier, **table)
    assert (fault.field.split(".")[-1], fault.value) == (field, value)


@pytest.mark.parametrize("value", [0, -0.1, 1.01, "0.5", True], ids=repr)
def test_efficiencies_are_fractions(refused, value):
    """Nothing is faster than light."""
    (fault,) = refused(Efficiency, **{**EFFICIENCY, "matmul": value})
    assert (fault.field.split(".")[-1], fault.value) == ("matmul", value)


def test_fixed_times_may_be_zero_but_not_negative(refused):
    """A kernel may start at once, but not before."""
    assert Efficiency(**EFFICIENCY, kernel_s=0).kernel_s == 0
    (fault,) = refused(Efficiency, **EFFICIENCY, kernel_s=-1e-6)
    assert fault.field.endswith("kernel_s")


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


@pytest.mark.parametrize("sizes", [(8, 4), (8, 8), (None, 8), (None, None), (4, 6)], ids=repr)
def test_domains_must_nest(refused, sizes):
    """Each tier joins several whole domains of the one inside it."""
    (fault,) = refused(make, *sizes, num_devices=2)
    assert fault.field == "cluster.tiers"


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
