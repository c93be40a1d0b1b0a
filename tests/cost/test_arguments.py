"""Checks of arguments: numbers and arrays of them, one fault each that names the first wrong entry."""

import math
import re

import numpy as np
import pytest

from perfsim.cost.arguments import check_quantities
from perfsim.errors import Faults


@pytest.mark.parametrize(
    "values",
    [1, 0.5, np.int8(3), np.float32(2), [1, 2.5], (3,), np.ones((2, 3)), np.array([1, 2], np.uint64), [], 1e308],
    ids=repr,
)
@pytest.mark.parametrize("zero", [False, True])
def test_numbers_above_zero_pass(values, zero):
    """Alone and in arrays of any shape and type."""
    faults = Faults()
    assert faults.quantities("size", values, zero=zero)
    assert faults.found == []


@pytest.mark.parametrize("values", [0, 0.0, -0.0, [1, 0], np.zeros(3)], ids=repr)
def test_zero_passes_only_where_it_is_said_to(values):
    """A payload may be empty, a size may not."""
    assert Faults().quantities("size", values, zero=True)
    assert not Faults().quantities("size", values)


@pytest.mark.parametrize(
    ("values", "value", "index"),
    [
        (-1, -1, None),
        (math.inf, math.inf, None),
        ([4, -8], -8, [1]),
        (np.array([[1.0, 2.0], [-3.0, -4.0]]), -3.0, [1, 0]),
        ([1, math.inf], math.inf, [1]),
        (np.array([5, -5], np.int32), -5, [1]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("zero", [False, True])
def test_the_first_wrong_entry_is_named(values, value, index, zero):
    """By its value and its place, not by a million entries."""
    faults = Faults("f")
    assert not faults.quantities("size", values, zero=zero)
    (fault,) = faults.found
    assert (fault.field, fault.value) == ("f.size", value)
    assert fault.way_out == ("" if index is None else f"mend the entry at {index}")
    assert ("at least 0" in fault.allowed) is zero


@pytest.mark.parametrize("values", [math.nan, [1.0, math.nan]], ids=repr)
def test_not_a_number_is_wrong(values):
    """It compares with nothing."""
    faults = Faults()
    assert not faults.quantities("size", values, zero=True)
    assert math.isnan(faults.found[0].value)


@pytest.mark.parametrize(
    "values", ["8", ["8"], None, True, [True, False], 1j, [[1, 2], [3]], {"a": 1}, [None, 1], np.datetime64(1, "s")],
    ids=repr,
)  # fmt: skip
def test_what_is_no_number_is_wrong(values):
    """Texts that look like numbers and truth values, too."""
    faults = Faults()
    assert not faults.quantities("size", values)
    assert faults.found[0].value is values
    assert "an array of such numbers" in faults.found[0].allowed


def test_quantities_that_do_not_broadcast_are_one_fault():
    """With the shapes of all."""
    faults = Faults("f")
    assert not check_quantities(faults, m=np.ones((2, 3)), n=4, k=[1, 2])
    (fault,) = faults.found
    assert (fault.field, fault.value) == ("f.m, n, k", ((2, 3), (), (2,)))
    assert re.search("broadcast", fault.allowed)


def test_wrong_quantities_are_all_named():
    """Shapes are compared only when the numbers are right."""
    faults = Faults()
    assert not check_quantities(faults, m=[0, 1], n=[1, 2, 3], k="x")
    assert [fault.field for fault in faults.found] == ["m", "k"]
    assert check_quantities(Faults(), m=[[1], [2]], n=[1, 2, 3])
