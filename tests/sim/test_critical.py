"""The chain that fills a makespan, and how late every task may end: against networkx and by trying it out."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.schedule.taskgraph import Lists, TaskGraph
from perfsim.sim.compiled import run_compiled
from perfsim.sim.critical import critical_chain, latest_ends


@st.composite
def graphs(draw):
    """Draw tasks on streams, some without duration, shuffled so that dependencies may stand below their tasks."""
    total = draw(st.integers(1, 12))
    durations = draw(st.lists(st.integers(0, 9), min_size=total, max_size=total))
    earlier = [draw(st.lists(st.integers(0, max(task - 1, 0)), max_size=3)) if task else [] for task in range(total)]
    if draw(st.booleans()):
        streams = [draw(st.lists(st.integers(0, 3), unique=True, max_size=2)) for _ in range(total)]
        return TaskGraph.of(durations, streams=streams, dependencies=earlier)
    order = draw(st.permutations(range(total)))
    mixed = [[] for _ in range(total)]
    for task, tasks in enumerate(earlier):
        mixed[order[task]] = [order[other] for other in tasks]
    return TaskGraph.of(durations, streams=[[] for _ in range(total)], dependencies=mixed)


def as_network(graph):
    """Give the tasks as a networkx graph, an edge as long as the task that it leads to."""
    network = nx.DiGraph()
    network.add_nodes_from(range(graph.num_tasks))
    before = graph.predecessors
    for task, earlier in zip(before.rows.tolist(), before.values.tolist(), strict=True):
        network.add_edge(earlier, task)
    return network


@given(graph=graphs())
def test_the_chain_fills_the_makespan(graph):
    """Each task starts where the one before ends, and waits for it."""
    ends = run_compiled(graph)
    starts = ends - graph.duration_ps
    chain = critical_chain(graph.predecessors, starts, ends)
    assert starts[chain[0]] == 0
    assert ends[chain[-1]] == ends.max()
    for earlier, task in itertools.pairwise(chain.tolist()):
        assert ends[earlier] == starts[task]
        assert earlier in graph.predecessors[task]
    assert graph.duration_ps[chain].sum() == ends.max()


@given(graph=graphs())
def test_latest_ends_are_those_of_networkx(graph):
    """The longest way from a task's end to the end of everything is what must still fit behind it."""
    makespan = int(run_compiled(graph).max())
    latest = latest_ends(graph.predecessors, graph.duration_ps, makespan)
    network = as_network(graph)
    behind = {}
    for task in reversed(list(nx.topological_sort(network))):
        behind[task] = max(
            (behind[other] + int(graph.duration_ps[other]) for other in network.successors(task)), default=0
        )
    assert latest.tolist() == [makespan - behind[task] for task in range(graph.num_tasks)]


@given(graph=graphs(), data=st.data())
def test_slack_is_what_a_task_may_take_longer(graph, data):
    """With all of its slack the makespan stays, with more it grows by as much."""
    ends = run_compiled(graph)
    makespan = int(ends.max())
    task = data.draw(st.integers(0, graph.num_tasks - 1))
    slack = int((latest_ends(graph.predecessors, graph.duration_ps, makespan) - ends)[task])
    assert slack >= 0
    for longer, expected in ((slack, makespan), (slack + 3, makespan + 3)):
        durations = graph.duration_ps.copy()
        durations[task] += longer
        changed = TaskGraph(
            durations, graph.streams, graph.dependencies, graph.label, graph.microbatch, graph.num_streams, graph.merged
        )
        assert run_compiled(changed).max() == expected


def test_of_equal_chains_the_lowest_row_is_taken():
    """Tasks 0 and 1 are as long; task 2 waits for both."""
    before = Lists.of([[], [], [0, 1]])
    assert critical_chain(before, np.array([0, 0, 5]), np.array([5, 5, 6])).tolist() == [0, 2]


def test_no_tasks_have_no_chain():
    """An empty graph is allowed."""
    nothing = np.empty(0, np.int64)
    assert critical_chain(Lists.of([]), nothing, nothing).size == 0
    assert latest_ends(Lists.of([]), nothing, 0).size == 0


@pytest.mark.parametrize("durations", [[0], [7]])
def test_one_task_is_the_chain(durations):
    """Also where it takes no time."""
    assert critical_chain(Lists.of([[]]), np.array([0]), np.array(durations)).tolist() == [0]
