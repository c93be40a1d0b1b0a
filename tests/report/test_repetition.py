"""Repetition: what is kept gives the whole sequence back, and short cycles are found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.report.repetition import codes_of, find_repetition

CODES = st.lists(st.integers(0, 4), max_size=12)


def unrolled(codes, found):
    """Write a sequence out again from what is kept of it."""
    cycle = codes[found.first : found.first + found.cycle]
    return [*codes[: found.first], *cycle * found.times, *codes[found.first + found.cycle * found.times :]]


@given(CODES, CODES.filter(len), st.integers(0, 40), CODES)
def test_what_is_kept_gives_the_sequence_back(before, cycle, times, after):
    """Whatever is found: the parts make the sequence, and `kept` and `repeats` count every item once."""
    codes = [*before, *cycle * times, *after]
    found = find_repetition(np.array(codes, dtype=np.int64))
    assert unrolled(codes, found) == codes
    assert found.repeats.sum() == len(codes) == found.length
    rest = found.first + found.cycle * found.times
    assert [codes[place] for place in found.kept] == [*codes[: found.first + found.cycle], *codes[rest:]]


@given(CODES.filter(len), st.integers(30, 60), st.integers(0, 6), st.integers(0, 6))
def test_a_cycle_that_fills_most_of_a_sequence_is_found(cycle, times, before, after):
    """No longer than the cycle that was put in."""
    codes = [*range(100, 100 + before), *cycle * times, *range(200, 200 + after)]
    found = find_repetition(np.array(codes, dtype=np.int64))
    assert found.times >= times - 1
    assert 1 <= found.cycle <= len(cycle)
    assert len(found.kept) <= before + after + 2 * len(cycle)


@pytest.mark.parametrize("codes", [[], [5], [1, 2], list(range(50)), [*range(30), 7, 7, 7, *range(40, 70)]])
def test_what_does_not_repeat_is_kept_as_it_is(codes):
    """A short run in the middle of much else is no cycle of the sequence."""
    found = find_repetition(np.array(codes, dtype=np.int64))
    assert (found.times, found.cycle, found.first) == (0, 0, len(codes))
    assert found.kept.tolist() == list(range(len(codes)))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20))
def test_equal_rows_have_equal_numbers(rows):
    """And different rows different ones."""
    codes = codes_of(np.array(rows, dtype=np.int64)).tolist()
    assert all((rows[i] == rows[j]) == (codes[i] == codes[j]) for i in range(len(rows)) for j in range(len(rows)))
