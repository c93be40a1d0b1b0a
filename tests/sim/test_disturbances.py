"""Resources whose speed changes and that tasks share: SimPy's fluid model against times worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.errors import DeadlockError
from perfsim.schedule.taskgraph import Lists, TaskGraph
from perfsim.sim.compiled import run_compiled
from perfsim.sim.disturbances import Disturbances, SpeedChange
from perfsim.sim.events import run_disturbed, run_simpy


def disturbed(work, resources, capacity, *, weights=None, changes=(), streams=None, dependencies=None):
    """Run tasks, each on a stream of its own unless told otherwise; give their starts and ends."""
    graph = TaskGraph.of(
        [0] * len(work), streams or [[task] for task in range(len(work))], dependencies or [[] for _ in work]
    )
    drawn = Lists.of(resources)
    shares = np.ones(len(drawn.values)) if weights is None else np.array(weights, float)
    found, ends = run_disturbed(
        graph, Disturbances(np.array(work, np.int64), drawn, shares, np.array(capacity, float), changes)
    )
    return (ends - found.duration_ps).tolist(), ends.tolist()


def test_two_tasks_halve_a_link():
    """Each gets half until the shorter is done; then the other has it alone."""
    assert disturbed([100, 40], [[0], [0]], [1.0])[1] == [140, 80]


def test_a_late_task_slows_down_one_that_runs():
    """The first has 60 of its 100 done when the second comes."""
    streams, dependencies = [[0], [1], [1]], [[], [], []]
    found = disturbed([100, 60, 20], [[0], [], [0]], [1.0], streams=streams, dependencies=dependencies)
    assert found == ([0, 0, 60], [120, 60, 100])


def test_a_link_wide_enough_slows_nobody():
    """Two tasks on a link for two."""
    assert disturbed([100, 40], [[0], [0]], [2.0])[1] == [100, 40]


def test_weights_count():
    """A group of three devices draws three times as much as one; all advance at the same rate."""
    assert disturbed([30, 30], [[0], [0]], [2.0], weights=[3, 1])[1] == [60, 60]


def test_the_slowest_resource_counts():
    """The second link is the narrow one."""
    assert disturbed([50], [[0, 1]], [1.0, 0.25])[1] == [200]


def test_a_device_slows_down_and_recovers():
    """Half of the speed between 40 and 100, in which 30 are done."""
    changes = [SpeedChange(40, 0, 0.5), SpeedChange(100, 0, 1.0)]
    assert disturbed([90], [[0]], [np.inf], changes=changes)[1] == [120]


def test_a_change_before_the_beginning_counts():
    """A device that is slow from the start."""
    assert disturbed([90], [[0]], [np.inf], changes=[SpeedChange(0, 0, 0.5)])[1] == [180]


def test_tasks_without_work_take_no_time_on_a_busy_link():
    """Nothing to carry is carried at once."""
    assert disturbed([10, 0], [[0], [0]], [1.0])[1][1] == 0


TASKS = st.lists(st.tuples(st.integers(0, 10**9), st.lists(st.integers(0, 2), unique=True)), min_size=1, max_size=8)


@given(tasks=TASKS, capacity=st.lists(st.floats(0.25, 4.0), min_size=3, max_size=3), data=st.data())
def test_what_comes_about_is_a_plain_task_graph(tasks, capacity, data):
    """With the durations that came about, every engine gives the disturbed times; no task is faster than its work."""
    work = [amount for amount, _ in tasks]
    streams = [[data.draw(st.integers(0, 3))] for _ in tasks]
    dependencies = [
        data.draw(st.lists(st.integers(0, task - 1), max_size=2)) if task else [] for task in range(len(work))
    ]
    drawn = Lists.of([resources for _, resources in tasks])
    graph = TaskGraph.of([0] * len(work), streams, dependencies)
    disturbances = Disturbances(
        np.array(work, np.int64), drawn, np.ones(len(drawn.values)), np.array(capacity), [SpeedChange(10**6, 1, 0.5)]
    )
    found, ends = run_disturbed(graph, disturbances)
    assert run_compiled(found).tolist() == run_simpy(found).tolist() == ends.tolist()
    assert (found.duration_ps >= work).all()


@given(tasks=TASKS)
def test_without_contention_nothing_changes(tasks):
    """Wide links and full speed give the undisturbed times to the bit."""
    work = [amount for amount, _ in tasks]
    wide = disturbed(work, [resources for _, resources in tasks], [float(len(work))] * 3)
    assert wide == ([0] * len(work), work)


def test_deadlocks_are_named():
    """Two tasks that wait for each other."""
    with pytest.raises(DeadlockError, match="2 tasks"):
        disturbed([1, 1], [[], []], [], dependencies=[[1], [0]])
