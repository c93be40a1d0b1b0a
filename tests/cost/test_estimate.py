"""Costs: which part of them is the longest, that the parts add up, and their ranges."""

import numpy as np
import pytest

from perfsim.cost import Cost
from perfsim.cost.estimate import error_range
from perfsim.cost.launch import LaunchCosts


@pytest.mark.parametrize("part", ["compute", "memory", "network", "overhead"])
def test_the_bound_is_the_longest_part(part):
    """By its name."""
    parts = {f"{name}_s": 2.0 if name == part else 1.0 for name in ("compute", "memory", "network", "overhead")}
    assert Cost(seconds=2.0, **parts).bound == part


def test_nothing_bounds_what_takes_no_time():
    """A point of the graph has no bound."""
    assert Cost(seconds=0.0).bound == "none"


def test_the_bound_of_arrays_is_an_array():
    """One name a point."""
    cost = Cost(seconds=np.ones(3), compute_s=np.array([3.0, 1.0, 0.0]), memory_s=np.array([1.0, 3.0, 0.0]))
    assert cost.bound.tolist() == ["compute", "memory", "none"]


def test_parts_of_a_form_add_up_and_stay_above_the_speed_of_light():
    """What is beyond the longer part is overhead, and no part is longer than the whole."""
    cost = Cost.of_parts(
        np.array([5.0, 5.0, 1.0]),
        compute_s=np.array([3.0, 9.0, 0.5]),
        memory_s=np.array([1.0, 1.0, 0.5]),
        roofline_s=2.0,
        source="calibrated",
    )
    assert cost.seconds.tolist() == [5.0, 5.0, 2.0]
    assert cost.compute_s.tolist() == [3.0, 5.0, 0.5]
    assert cost.overhead_s.tolist() == [2.0, 0.0, 1.5]
    assert cost.bound.tolist() == ["compute", "compute", "overhead"]
    assert cost.source == "calibrated"


def test_a_range_is_known_where_measurements_were_held_back():
    """It does not go below the speed of light, and is NaN where nothing is known."""
    cost = Cost(seconds=np.array([1.0, 2.0]), roofline_s=0.9, range_factors=(0.8, 1.5))
    assert cost.low_s.tolist() == [0.9, 1.6]
    assert cost.high_s.tolist() == [1.5, 3.0]
    assert (cost.at(1).low_s, cost.at(1).high_s) == (1.6, 3.0)
    unknown = Cost(seconds=1.0)
    assert np.isnan(unknown.low_s)
    assert np.isnan(unknown.high_s)


def test_a_section_keeps_what_is_no_array():
    """One operator of many that were priced together."""
    whole = Cost(seconds=np.arange(6.0), compute_s=np.arange(6.0), overhead_s=1.0, source="calibrated")
    part = whole.section(slice(2, 6), (2, 2))
    assert part.seconds.tolist() == part.compute_s.tolist() == [[2, 3], [4, 5]]
    assert (part.overhead_s, part.source) == (1.0, "calibrated")
    assert whole.section(slice(3, 4), ()).seconds.shape == ()


def test_the_host_holds_up_short_operators_only():
    """And does not start what takes no time."""
    cost = Cost(seconds=np.array([0.0, 1.0, 9.0]), compute_s=np.array([0.0, 1.0, 9.0]))
    issued = cost.issued(LaunchCosts(host_s=0.5), in_graph=False)
    assert issued.seconds.tolist() == [0, 1, 9]
    late = Cost(seconds=np.array([0.0, 0.1]), memory_s=np.array([0.0, 0.1])).issued(
        LaunchCosts(host_s=0.5), in_graph=False
    )
    assert late.seconds.tolist() == [0, 0.5]
    assert late.overhead_s == pytest.approx([0, 0.4])
    assert late.bound.tolist() == ["none", "overhead"]


def test_the_widest_range_of_several_devices_counts():
    """Those without percentiles say nothing."""
    errors = {"a": {"log_p10": -0.1, "log_p90": 0.3}, "b": {"log_p10": -0.2, "log_p90": 0.1}, "c": {"mape": 4.0}}
    assert error_range({"fit": {"errors": errors}}) == pytest.approx((np.exp(-0.2), np.exp(0.3)))
    assert error_range({"fit": {"errors": {"c": {"mape": 4.0}}}}) is None
    assert error_range({}) is None
