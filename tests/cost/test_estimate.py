"""Costs: which part of them is the longest."""

import numpy as np
import pytest

from perfsim.cost import Cost


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
