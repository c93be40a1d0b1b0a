"""Expansion: a template repeated by array operations equals one that is laid out microbatch by microbatch."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.errors import InputError
from perfsim.schedule.expand import expand
from perfsim.schedule.program import make_program
from perfsim.schedule.taskgraph import Lists, TaskGraph
from perfsim.schedule.template import STREAMS, Template
from perfsim.sim.compiled import run_compiled
from perfsim.sim.events import run_simpy


def template_of(streams, waits, slots=2):
    """Make a template that is not of any model."""
    none = np.empty(0, np.int64)
    return Template(
        graph=SimpleNamespace(plan=SimpleNamespace(pipeline=1, virtual_stages=1, num_devices=slots)),
        slots_per_stage=slots,
        operator=np.zeros(len(streams), np.int32),
        streams=Lists.of(streams),
        waits=np.array(waits, np.int64).reshape(-1, 3),
        entry_row=none,
        entry_slot=none,
        entry_operator=none,
        passed=np.zeros(len(streams), np.int64),
    )


@st.composite
def templates(draw):
    """Draw a template with any streams and any waits, within a microbatch upwards and to earlier ones anywhere."""
    rows, slots = draw(st.integers(1, 6)), draw(st.integers(1, 2))
    stream = st.integers(0, slots * len(STREAMS) - 1)
    streams = [draw(st.lists(stream, unique=True, max_size=3)) for _ in range(rows)]
    index = st.integers(0, rows - 1)
    waits = draw(st.lists(st.tuples(index, index, st.integers(0, 4)), max_size=8, unique=True))
    waits = [(row, earlier, lag) for row, earlier, lag in waits if lag or earlier < row]
    return template_of(streams, waits, slots)


def in_order(template, count):
    """Give microbatch and row of every task: a round goes through all stages before it comes again."""
    tasks = [(microbatch, row) for microbatch in range(count) for row in range(template.num_rows)]
    return sorted(tasks, key=lambda task: (task[0] // template.round_size, template.passed[task[1]], *task))


def naive(template, duration_ps, variant):
    """Lay out all microbatches in plain Python."""
    tasks = in_order(template, len(variant))
    place = {task: index for index, task in enumerate(tasks)}
    waits = defaultdict(list)
    for waiting, earlier, lag in template.waits.tolist():
        waits[waiting].append((earlier, lag))
    durations, streams, dependencies = [], [], []
    for microbatch, row in tasks:
        durations.append(int(duration_ps[variant[microbatch]][row]))
        streams.append(template.streams[row].tolist())
        dependencies.append(
            sorted({place[microbatch - lag, earlier] for earlier, lag in waits[row] if lag <= microbatch})
        )
    return durations, streams, dependencies


def assert_same(template, duration_ps, variant):
    """Compare every column, and the times of all engines."""
    durations, streams, dependencies = naive(template, duration_ps, variant)
    graph, plain = expand(template, duration_ps, variant), TaskGraph.of(durations, streams, dependencies)
    assert graph.duration_ps.tolist() == durations
    assert [graph.streams[i].tolist() for i in range(graph.num_tasks)] == streams
    assert [graph.dependencies[i].tolist() for i in range(graph.num_tasks)] == dependencies
    assert [graph.predecessors[i].tolist() for i in range(graph.num_tasks)] == [
        plain.predecessors[i].tolist() for i in range(graph.num_tasks)
    ]
    tasks = in_order(template, len(variant))
    assert graph.label.tolist() == [row for _, row in tasks]
    assert graph.microbatch.tolist() == [microbatch for microbatch, _ in tasks]
    where = template.locate(np.arange(len(tasks)))
    assert [column.tolist() for column in where] == [list(column) for column in zip(*tasks, strict=True)]
    ends = run_compiled(plain).tolist()
    assert run_compiled(graph).tolist() == run_simpy(graph).tolist() == ends


@given(template=templates(), variant=st.lists(st.integers(0, 1), min_size=1, max_size=9), data=st.data())
def test_random_templates_expand_as_laid_out_by_hand(template, variant, data):
    """Fewer and more microbatches than the longest lag."""
    size = st.lists(st.integers(0, 1000), min_size=template.num_rows, max_size=template.num_rows)
    assert_same(template, np.array([data.draw(size), data.draw(size)]), np.array(variant))


@pytest.mark.parametrize("folded", [True, False])
@given(data=st.data())
def test_plans_expand_as_laid_out_by_hand(data, folded, small_scenarios):
    """Templates of small scenarios of every kind."""
    program = make_program(data.draw(small_scenarios), folded=folded)
    assert_same(program.template, program.operator_ps[:, program.template.operator], program.variant)


def test_streams_are_those_of_the_slots():
    """Also those that nothing runs on."""
    graph = expand(template_of([[0]], [], slots=4), np.array([[1]]), np.array([0, 0]))
    assert graph.num_streams == 4 * len(STREAMS)


def test_more_work_than_whole_picoseconds_hold_is_refused():
    """With how much would do."""
    long = np.array([[2**61]])
    with pytest.raises(InputError, match="must add up to at most") as caught:
        expand(template_of([[0]], []), long, np.array([0, 0, 0]))
    assert caught.value.faults[0].way_out
