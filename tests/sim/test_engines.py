"""The engines: SimPy, the compiled pass and a longest path written here give the same times to the bit."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfsim.errors import DeadlockError
from perfsim.schedule.program import make_program
from perfsim.schedule.taskgraph import TaskGraph
from perfsim.sim.compiled import run_compiled
from perfsim.sim.events import run_simpy

ENGINES = pytest.mark.parametrize("engine", [run_compiled, run_simpy])


def longest_path(durations, streams, dependencies):
    """Compute when each task ends, by peeling off tasks whose waits are over; None for those that never end."""
    waits = [set(earlier) for earlier in dependencies]
    last = {}
    for task, occupied in enumerate(streams):
        for stream in occupied:
            if stream in last:
                waits[task].add(last[stream])
            last[stream] = task
    followers = [[] for _ in durations]
    for task, earlier in enumerate(waits):
        for other in earlier:
            followers[other].append(task)
    ends, left = [None] * len(durations), [len(earlier) for earlier in waits]
    ready = [task for task, count in enumerate(left) if not count]
    while ready:
        task = ready.pop()
        ends[task] = max((ends[other] for other in waits[task]), default=0) + durations[task]
        for follower in followers[task]:
            left[follower] -= 1
            if not left[follower]:
                ready.append(follower)
    return ends


@st.composite
def graphs(draw, *, ordered):
    """Draw tasks on none to several streams, some without duration, with dependencies upwards or on any task."""
    total = draw(st.integers(1, 14))
    durations = draw(st.lists(st.one_of(st.just(0), st.integers(0, 10**13)), min_size=total, max_size=total))
    streams = [draw(st.lists(st.integers(0, 4), unique=True, max_size=4)) for _ in range(total)]
    rows = [range(task if ordered else total) for task in range(total)]
    dependencies = [draw(st.lists(st.sampled_from(row), max_size=3)) if row else [] for row in rows]
    return durations, streams, dependencies


def columns(graph):
    """Give the durations, streams and dependencies of a task graph as Python lists."""
    lists = []
    for column in (graph.streams, graph.dependencies):
        offsets, values = column.offsets.tolist(), column.values.tolist()
        lists.append([values[start:end] for start, end in itertools.pairwise(offsets)])
    return graph.duration_ps.tolist(), *lists


@given(parts=graphs(ordered=True))
@settings(max_examples=300)
def test_engines_agree_on_random_graphs(parts):
    """Rows in topological order, as plans give them."""
    graph = TaskGraph.of(*parts)
    assert run_simpy(graph).tolist() == run_compiled(graph).tolist() == longest_path(*parts)


@given(parts=graphs(ordered=False))
@settings(max_examples=300)
def test_engines_agree_on_graphs_in_any_order_and_on_deadlocks(parts):
    """Either both give the times of the longest path, or both say that tasks can never start."""
    graph, wanted = TaskGraph.of(*parts), longest_path(*parts)
    if None not in wanted:
        assert run_simpy(graph).tolist() == run_compiled(graph).tolist() == wanted
        return
    never = wanted.count(None)
    for engine in (run_simpy, run_compiled):
        with pytest.raises(DeadlockError, match=f"{never} tasks can never start") as caught:
            engine(graph)
        named = [int(name.split()[1]) for name in caught.value.blocked]
        assert named
        assert all(wanted[task] is None for task in named)


def test_engines_agree_on_the_seeds(seed):
    """All 1024 microbatches of the three plans, folded."""
    graph = make_program(seed).task_graph
    wanted = longest_path(*columns(graph))
    assert run_compiled(graph).tolist() == wanted
    assert run_simpy(graph).tolist() == wanted


def test_engines_agree_on_all_devices_of_the_improved_plan(improved):
    """Sixteen GPUs with their rendezvous, a few microbatches."""
    graph = make_program(improved.with_(batch_size=24), folded=False).task_graph
    assert graph.num_streams == 48
    wanted = longest_path(*columns(graph))
    assert run_compiled(graph).tolist() == run_simpy(graph).tolist() == wanted


@given(data=st.data())
def test_engines_agree_on_small_plans(data, small_scenarios):
    """Of every kind, folded and full."""
    graph = make_program(data.draw(small_scenarios), folded=data.draw(st.booleans())).task_graph
    assert run_compiled(graph).tolist() == run_simpy(graph).tolist() == longest_path(*columns(graph))


@ENGINES
def test_a_stream_works_in_the_order_of_the_rows(engine):
    """The second task waits although nothing else keeps it."""
    graph = TaskGraph.of([5, 3, 4], [[0], [1], [0]], [[1], [], []])
    assert engine(graph).tolist() == [8, 3, 12]


@ENGINES
def test_a_rendezvous_starts_when_the_last_stream_has_come(engine):
    """And holds all of its streams until it ends."""
    graph = TaskGraph.of([5, 9, 2, 1, 1], [[0], [1], [0, 1], [0], [1]], [[]] * 5)
    assert engine(graph).tolist() == [5, 9, 11, 12, 12]


@ENGINES
def test_tasks_without_streams_wait_only_for_their_dependencies(engine):
    """Any number at once."""
    assert engine(TaskGraph.of([5, 5, 1], [[], [], []], [[], [], [0]])).tolist() == [5, 5, 6]


@ENGINES
def test_tasks_without_duration_keep_the_order(engine):
    """Nothing takes no time, but not before its turn."""
    assert engine(TaskGraph.of([0, 7, 0], [[0], [0], [0]], [[], [], []])).tolist() == [0, 7, 7]


@ENGINES
def test_times_are_whole_picoseconds(engine):
    """Of a day and more, to the last one."""
    ends = engine(TaskGraph.of([10**17, 1], [[0], [0]], [[], []]))
    assert ends.tolist() == [10**17, 10**17 + 1]
    assert ends.dtype == np.int64


@ENGINES
def test_a_graph_without_tasks_is_over_at_once(engine):
    """Nothing to do."""
    none = np.empty(0, np.int64)
    template = TaskGraph.of([1], [[]], [[]])
    empty = TaskGraph(
        none, *(type(template.streams).of([]) for _ in range(2)), none.astype(np.int32), none.astype(np.int32), 0
    )
    assert engine(empty).tolist() == []


DEADLOCKS = {
    "a stream's first task waits for its second": ([[0], [0]], [[1], []], {0}),
    "two streams issue two collectives in different order": ([[0], [1], [0], [1]], [[3], [2], [], []], {0, 1}),
    "a task waits for itself": ([[0]], [[0]], {0}),
    "two tasks without streams wait for each other": ([[], []], [[1], [0]], {0, 1}),
    "a rendezvous waits for what stands behind it": ([[0, 1], [1]], [[1], []], {0}),
    "a cycle over two streams": ([[0], [1], [2]], [[2], [0], [1]], {0, 1, 2}),
}


@ENGINES
@pytest.mark.parametrize(("streams", "dependencies", "heads"), DEADLOCKS.values(), ids=DEADLOCKS)
def test_a_deadlock_names_the_blocked_tasks(engine, streams, dependencies, heads):
    """At least those at the heads of their streams."""
    with pytest.raises(DeadlockError, match="can never start") as caught:
        engine(TaskGraph.of([1] * len(streams), streams, dependencies))
    named = {int(name.split()[1]) for name in caught.value.blocked}
    assert heads <= named
    assert all(f"task {task}" in str(caught.value) for task in heads)


@ENGINES
def test_a_deadlock_does_not_name_what_had_ended(engine):
    """Tasks before it went well."""
    with pytest.raises(DeadlockError) as caught:
        engine(TaskGraph.of([1, 1, 1, 1], [[0], [0], [0], [1]], [[], [2], [], []]))
    assert not any(name.startswith(("task 0", "task 3")) for name in caught.value.blocked)


def test_a_deadlock_is_told_in_the_words_of_the_plan(improved):
    """With the name of the operator, its microbatch and its stage."""
    program = make_program(improved.with_(batch_size=1))
    graph = TaskGraph.of([1, 1], [[0], [0]], [[1], []])
    with pytest.raises(DeadlockError, match=r"layer_00\.attention_norm of microbatch 0 on stage 0"):
        run_simpy(graph, describe=program.describe)
