"""Kernels bound by memory: the soft maximum and the cache by hand, bounds, monotony, and tables at fault."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.cost.memory_bound import CLASSES, MemoryBoundCoefficients, memory_bound_time
from perfsim.spec.profiles import profile_folder
from perfsim.spec.tables import read_toml

BYTES = st.floats(0, 1e11)


@pytest.fixture(scope="module")
def shipped():
    """Give every shipped class of every device."""
    devices = read_toml(profile_folder() / "kernels" / "memory-bound.toml")
    return {
        f"{device}.{name}": MemoryBoundCoefficients.from_table(table)
        for device, classes in devices.items()
        if isinstance(classes, dict)
        for name, table in classes.items()
    }


def test_the_soft_maximum_by_hand(h100):
    """Three and four microseconds make five with sharpness 2, and seven with 1."""
    moved = 4e-6 * 0.5 * h100.accelerator.memory_bytes_per_s
    for sharpness, wanted in ((1.0, 7e-6), (2.0, 5e-6)):
        coefficients = MemoryBoundCoefficients(3e-6, 0.5, sharpness)
        time = memory_bound_time(h100.accelerator, coefficients, moved)
        assert time.seconds == pytest.approx(wanted, rel=1e-12)
        assert (time.memory_s, time.overhead_s) == pytest.approx((4e-6, 3e-6), rel=1e-12)
        assert time.roofline_s == pytest.approx(2e-6, rel=1e-12)


def test_nothing_to_move_takes_the_fixed_time(h100):
    """An empty kernel."""
    assert memory_bound_time(h100.accelerator, MemoryBoundCoefficients(3e-6, 0.5), 0).seconds == 3e-6


def test_the_cache_serves_what_fits_into_it(h100):
    """Twice as fast inside, as from memory far beyond, half of both at its size."""
    coefficients = MemoryBoundCoefficients(1e-12, 1.0, 1.0, l2_speedup=2.0)
    device = h100.accelerator
    moved = device.l2_bytes * np.array([0.01, 1.0, 100.0])
    hot, cold = (memory_bound_time(device, coefficients, moved, in_l2=in_l2).memory_s for in_l2 in (True, False))
    assert hot / cold == pytest.approx([0.5, 0.75, 1.0], rel=1e-9)


def test_arrays_are_scalars_side_by_side(h100):
    """Each point costs what it costs alone."""
    coefficients = MemoryBoundCoefficients(3e-6, 0.7, 1.7)
    moved = np.geomspace(1, 1e11, 12).reshape(3, 4)
    whole = memory_bound_time(h100.accelerator, coefficients, moved).seconds
    assert whole.shape == (3, 4)
    for index, value in np.ndenumerate(moved):
        alone = memory_bound_time(h100.accelerator, coefficients, value).seconds
        assert whole[index] == pytest.approx(float(alone), rel=1e-14)


@given(moved=BYTES, more=BYTES)
def test_shipped_classes_grow_and_obey_light(h100, shipped, moved, more):
    """Cold, nothing beats the datasheet bandwidth; and more bytes take no less."""
    assert shipped
    for coefficients in shipped.values():
        time = memory_bound_time(h100.accelerator, coefficients, [moved, moved + more])
        assert (time.seconds >= time.roofline_s).all()
        assert time.roofline_s[0] == pytest.approx(moved / h100.accelerator.memory_bytes_per_s, rel=1e-12)
        assert time.seconds[0] <= time.seconds[1] * (1 + 1e-12)


def test_every_device_has_every_class_that_operators_take(shipped):
    """So that no operator of a model falls back."""
    devices = {name.split(".")[0] for name in shipped}
    assert {"a100", "h100", "h200", "b200", "gb200", "l40s"} <= devices
    assert all(f"{device}.{name}" in shipped for device in devices for name in CLASSES.values())


def test_a_table_reads_back_what_was_written():
    """With what files say about the coefficients beside them."""
    coefficients = MemoryBoundCoefficients(3e-6, 0.7, 1.7, 2.0, includes_gap=True)
    table = {**coefficients.to_table(), "fit": {}, "source": "calibrated"}
    assert MemoryBoundCoefficients.from_table(table) == coefficients


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"fixed_s": 0.0}, "fixed_s"),
        ({"fixed_s": 3.0}, "fixed_s"),
        ({"efficiency": 1.1}, "efficiency"),
        ({"sharpness": 0.5}, "sharpness"),
        ({"l2_speedup": math.nan}, "l2_speedup"),
        ({"includes_gap": 1}, "includes_gap"),
        ({"exponent": 2.0}, "exponent"),
    ],
    ids=str,
)
def test_tables_at_fault_are_refused(refused, change, field):
    """With the name of what is wrong."""
    faults = refused(MemoryBoundCoefficients.from_table, {"fixed_s": 3e-6, "efficiency": 0.7, **change})
    assert field in [fault.field for fault in faults]
