"""The task graph: lists in compressed form, and what a graph made by hand may hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.schedule.taskgraph import Lists, TaskGraph

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=8)


@given(rows=ROWS)
def test_lists_give_back_what_they_were_made_of(rows):
    """Row by row, empty ones too."""
    lists = Lists.of(rows)
    assert len(lists) == len(rows)
    assert [lists[i].tolist() for i in range(len(rows))] == rows
    assert lists.rows.tolist() == [i for i, row in enumerate(rows) for _ in row]


@given(rows=ROWS)
def test_pairs_are_sorted_without_duplicates(rows):
    """In whatever order they come."""
    pairs = [(i, value) for i, row in enumerate(rows) for value in row][::-1]
    lists = Lists.from_pairs([row for row, _ in pairs], [value for _, value in pairs], len(rows))
    assert [lists[i].tolist() for i in range(len(rows))] == [sorted(set(row)) for row in rows]


@given(data=st.data())
def test_predecessors_are_dependencies_and_the_tasks_before_on_each_stream(data):
    """Without duplicates."""
    total = data.draw(st.integers(1, 10))
    streams = data.draw(st.lists(st.lists(st.integers(0, 3), unique=True), min_size=total, max_size=total))
    dependencies = [data.draw(st.lists(st.integers(0, total - 1), max_size=3)) for _ in range(total)]
    graph = TaskGraph.of([1] * total, streams, dependencies)
    for task in range(total):
        wanted = set(dependencies[task])
        for stream in streams[task]:
            wanted |= {max((earlier for earlier in range(task) if stream in streams[earlier]), default=task)} - {task}
        assert graph.predecessors[task].tolist() == sorted(wanted)


def test_a_graph_is_columnar():
    """Whole picoseconds, codes and numbers of streams in arrays."""
    graph = TaskGraph.of([5, 0, 3], [[0], [0, 2], []], [[], [], [1]])
    assert (graph.num_tasks, graph.num_streams) == (3, 3)
    assert (graph.duration_ps.dtype, graph.label.dtype, graph.microbatch.dtype) == (np.int64, np.int32, np.int32)
    assert graph.label.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("dependencies", "ordered"), [([[], [0]], True), ([[1], []], False), ([[0], []], False), ([[], []], True)]
)
def test_a_graph_knows_whether_one_pass_suffices(dependencies, ordered):
    """Every dependency stands above its task."""
    assert TaskGraph.of([1, 1], [[], []], dependencies).is_ordered is ordered


def test_a_graph_may_be_empty():
    """No tasks, no streams."""
    graph = TaskGraph.of([], [], [])
    assert (graph.num_tasks, graph.num_streams) == (0, 0)


@pytest.mark.parametrize(
    ("durations", "streams", "dependencies", "fields"),
    [
        ([-1], [[]], [[]], ["duration_ps"]),
        ([1.5], [[]], [[]], ["duration_ps"]),
        ([True], [[]], [[]], ["duration_ps"]),
        ([1, 2], [[]], [[]], ["streams", "dependencies"]),
        ([1], [[-1]], [[]], ["streams"]),
        ([1], [[0, 0]], [[]], ["streams"]),
        ([1], [[0.5]], [["a"]], ["dependencies", "streams"]),
        ([], [[]], [], ["streams"]),
        ([1], [[]], [[1]], ["dependencies"]),
        ([1], [[]], [[-1]], ["dependencies"]),
        ([-1], [[-1]], [[7]], ["duration_ps", "dependencies", "streams"]),
    ],
)
def test_a_graph_that_does_not_fit_together_is_refused(refused, durations, streams, dependencies, fields):
    """All faults together, each by its column."""
    faults = refused(TaskGraph.of, durations, streams, dependencies)
    assert [fault.field for fault in faults] == [f"tasks.{field}" for field in fields]
