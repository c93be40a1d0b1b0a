"""Pipeline schedules: which microbatch waits for which."""

import pytest

from perfsim.schedule.pipeline import SCHEDULE_FUNCTIONS, Wait, pipelined, sequential
from perfsim.spec.plan import SCHEDULES


def test_every_schedule_of_a_plan_has_its_function():
    """And no function is out of reach."""
    assert set(SCHEDULE_FUNCTIONS) == set(SCHEDULES)


@pytest.mark.parametrize("stages", [1, 2, 5])
@pytest.mark.parametrize("buffers", [1, 2, 4])
def test_a_pipelined_sender_waits_for_a_free_buffer_and_for_its_link(stages, buffers):
    """Its link waits with the buffers as the lag, its computation for the hand-over before the last."""
    links = {Wait("send", stage, "release", stage + 1, buffers) for stage in range(stages - 1)}
    computations = {Wait("enter", stage, "send", stage, 2) for stage in range(stages - 1)}
    waits = pipelined(stages, receive_buffers=buffers)
    assert set(waits) == links | computations
    assert len(waits) == 2 * (stages - 1)


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_a_sequential_microbatch_enters_when_the_one_before_has_left(stages):
    """Besides what a pipeline waits for."""
    waits = sequential(stages, receive_buffers=2)
    assert waits[:-1] == pipelined(stages, receive_buffers=2)
    assert waits[-1] == Wait("enter", 0, "leave", stages - 1, 1)
