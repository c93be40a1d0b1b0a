"""Accelerators, tiers and efficiencies: what they refuse, and the units that people mix up."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim.cost.collective import KINDS
from perfsim.spec.components import Accelerator, Efficiency, NetworkTier

ACCELERATOR = {
    "name": "chip", "vendor": "v", "architecture": "a", "peak_flop_per_s": {"bf16": 1e15}, "vector_flop_per_s": 1e14,
    "sm_count": 100, "clock_hz": 1e9, "shared_memory_bytes_per_sm": 1000, "l2_bytes": 10**6, "memory_bytes": 10**10,
    "memory_bytes_per_s": 1e12, "tdp_watt": 500,
}  # fmt: skip
TIER = {"name": "t", "bytes_per_s": 1e9, "latency_s": 1e-6, "domain_size": 2}
EFFICIENCY = {"matmul": 0.8, "attention": 0.5, "memory": 0.9, "network": 0.7}
NUMBERS = [key for key, value in ACCELERATOR.items() if isinstance(value, int | float)]


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
        ("oversubscription", 0),
        ("oversubscription", 0.5),
        ("oversubscription", float("inf")),
        ("oversubscription", "2:1"),
        ("oversubscription", True),
    ],
)
def test_tiers_refuse_what_no_network_has(refused, field, value):
    """A tier joins at least two devices, and a hop takes more than nothing and less than a second."""
    (fault,) = refused(NetworkTier, **{**TIER, field: value})
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


@pytest.mark.parametrize(
    ("field", "value", "way_out"),
    [
        ("memory_bytes_per_s", 3350, "3350 GB/s is 3350e9"),
        ("memory_bytes_per_s", 3.35, "3.35 TB/s is 3.35e12"),
        ("memory_bytes_per_s", 3_350_000, "3350000 MB/s is 3350000e6"),
        ("memory_bytes", 80, "80 GB is 80e9"),
        ("memory_bytes", 81_559, "81559 MB is 81559e6"),
        ("l2_bytes", 50, "50 MB is 50e6"),
        ("shared_memory_bytes_per_sm", 228, "228 kB is 228e3"),
        ("clock_hz", 1.83, "1.83 GHz is 1.83e9"),
        ("clock_hz", 1830, "1830 MHz is 1830e6"),
        ("vector_flop_per_s", 66.9, "66.9 TFLOP/s is 66.9e12"),
    ],
)
def test_a_datasheet_number_in_its_printed_unit_is_refused(refused, field, value, way_out):
    """With the number as it must be."""
    (fault,) = refused(Accelerator, **{**ACCELERATOR, field: value})
    assert (fault.field, fault.value, fault.way_out) == (f"accelerator.{field}", value, way_out)
    assert "must be in" in fault.allowed


def test_a_peak_in_its_printed_unit_is_refused(refused):
    """Each dtype for itself."""
    faults = refused(Accelerator, **{**ACCELERATOR, "peak_flop_per_s": {"bf16": 989.4, "fp8": 1978.9, "fp32": 67e12}})
    assert [(fault.field.rpartition(".")[2], fault.way_out) for fault in faults] == [
        ("bf16", "989.4 TFLOP/s is 989.4e12"), ("fp8", "1978.9 TFLOP/s is 1978.9e12"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "way_out"),
    [
        ("bytes_per_s", 450, "450 GB/s is 450e9"),
        ("bytes_per_s", 1.8, "1.8 TB/s is 1.8e12"),
        ("bytes_per_s", 450_000, "450000 MB/s is 450000e6"),
        ("latency_s", 2.7, "2.7 us is 2.7e-6"),
        ("latency_s", 0.79, "0.79 us is 0.79e-6"),
        ("oversubscription", 0.25, "2:1 is 2: write 4 if the ratio is the other way round"),
    ],
)
def test_a_tier_in_printed_units_is_refused(refused, field, value, way_out):
    """With the number as it must be."""
    (fault,) = refused(NetworkTier, **{**TIER, field: value})
    assert (fault.value, fault.way_out) == (value, way_out)


@pytest.mark.parametrize("field", ["kernel_s", "collective_s", "in_switch_s"])
def test_a_time_in_microseconds_is_refused(refused, field):
    """With the number as it must be."""
    (fault,) = refused(Efficiency, **EFFICIENCY, **{field: 4.9})
    assert (fault.value, fault.way_out) == (4.9, "4.9 us is 4.9e-6")


def test_sizes_may_be_written_with_an_exponent(refused):
    """And are whole numbers all the same; half a byte is refused."""
    device = Accelerator(**{**ACCELERATOR, "memory_bytes": 80e9, "l2_bytes": 50e6})
    assert (device.memory_bytes, device.l2_bytes) == (80_000_000_000, 50_000_000)
    assert isinstance(device.memory_bytes, int)
    assert device == Accelerator(**{**ACCELERATOR, "memory_bytes": 80 * 10**9, "l2_bytes": 50 * 10**6})
    (fault,) = refused(Accelerator, **{**ACCELERATOR, "memory_bytes": 80e9 + 0.5})
    assert fault.field == "accelerator.memory_bytes"


@given(st.floats(1e6, 1e13), st.floats(1, 100))
def test_a_device_gets_its_share_of_an_oversubscribed_tier(rate, ratio):
    """All of it at full bisection, which is the rule."""
    assert NetworkTier("t", rate, 1e-6).device_bytes_per_s == rate
    assert NetworkTier("t", rate, 1e-6, oversubscription=ratio).device_bytes_per_s == pytest.approx(rate / ratio)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fitted", [True, False], ids=["fitted", "documented"])
def test_traffic_over_an_oversubscribed_tier_takes_as_long_as_over_a_slower_one(h100, documented, kind, fitted):
    """Whichever tier it is; a group inside of a node does not notice what lies outside of it."""
    base = h100 if fitted else documented

    def seconds(group_size, index, **changes):
        tiers = list(base.tiers)
        tiers[index] = dataclasses.replace(tiers[index], **changes)
        cluster = dataclasses.replace(base, tiers=tuple(tiers))
        return float(perfsim.cost.collective_seconds(cluster, kind=kind, payload_bytes=1e9, group_size=group_size))

    for index, tier in enumerate(base.tiers):
        for group_size in (8, 16):
            slower = seconds(group_size, index, bytes_per_s=tier.bytes_per_s / 2.5)
            assert seconds(group_size, index, oversubscription=2.5) == slower
    assert seconds(8, 1, oversubscription=2.5) == seconds(8, 1)
    assert seconds(16, 1, oversubscription=2.5) > 1.5 * seconds(16, 1)
