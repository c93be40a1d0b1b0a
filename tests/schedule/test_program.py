"""Programs: what the simulated times of a plan must keep to, whatever the plan."""

from collections import defaultdict

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.cost import price
from perfsim.ops.build import operator_graph
from perfsim.ops.nodes import POINTS
from perfsim.report.lanes import Run
from perfsim.schedule.program import make_program
from perfsim.schedule.template import STREAMS
from perfsim.sim.compiled import run_compiled
from perfsim.sim.timeline import Timeline
from perfsim.units import picoseconds

ONE_PASS = {"virtual_stages": 1, "layers_per_stage": None}


def timeline_of(program):
    """Simulate; the tasks stand as they were issued."""
    return Timeline(program.task_graph, run_compiled(program.task_graph))


def run(program):
    """Simulate; give starts and ends, by microbatch and row."""
    times = Run(program, timeline_of(program))
    return times.start_ps, times.end_ps


def rows_of(program):
    """Give the row of each operator of a folded program."""
    operators = program.graphs[0].operators
    return {operators[i].name: row for row, i in enumerate(program.template.operator)}


def times_of(program):
    """Give start and end of each operator of a folded program, in each microbatch."""
    starts, ends = run(program)
    return {name: (starts[:, row], ends[:, row]) for name, row in rows_of(program).items()}


def feeders(graph, timed):
    """Give the timed operators that feed each timed one, through the points that take no time."""
    dag = nx.DiGraph(graph.to_networkx())
    for name in list(dag):
        if name not in timed:
            dag.add_edges_from((before, after) for before in dag.predecessors(name) for after in dag.successors(name))
            dag.remove_node(name)
    return {name: set(dag.predecessors(name)) for name in dag}


def consumers(graph, name):
    """Give the operators that take what another gives, also behind points that take no time."""
    found = set()
    for edge in graph.edges:
        if edge.producer == name:
            found |= consumers(graph, edge.consumer) if graph[edge.consumer].kind in POINTS else {edge.consumer}
    return found


def most_at_once(opened, closed):
    """Count how many of these intervals are open at most; one that ends makes room for one that starts."""
    moments = sorted([(time, 1) for time in opened.tolist()] + [(time, -1) for time in closed.tolist()])
    return int(np.cumsum([step for _, step in moments]).max())


@pytest.mark.parametrize("folded", [True, False])
@given(data=st.data())
def test_each_stream_works_in_order_without_overlap(data, folded, small_scenarios):
    """One task at a time, as they were issued."""
    program = make_program(data.draw(small_scenarios), folded=folded)
    graph = program.task_graph
    timeline = timeline_of(program)
    starts, ends = timeline.start_ps.tolist(), timeline.end_ps.tolist()
    free = defaultdict(int)
    for task in range(graph.num_tasks):
        for stream in graph.streams[task].tolist():
            assert starts[task] >= free[stream]
            free[stream] = ends[task]


@pytest.mark.parametrize("folded", [True, False])
@given(data=st.data())
def test_every_dependency_is_respected_and_nothing_waits_for_nothing(data, folded, small_scenarios):
    """A task starts when the last of what it waits for has ended, no later."""
    program = make_program(data.draw(small_scenarios), folded=folded)
    graph = program.task_graph
    timeline = timeline_of(program)
    starts, ends = timeline.start_ps.tolist(), timeline.end_ps.tolist()
    free = defaultdict(int)
    for task in range(graph.num_tasks):
        streams = graph.streams[task].tolist()
        ready = [ends[earlier] for earlier in graph.dependencies[task].tolist()] + [free[stream] for stream in streams]
        assert starts[task] == max(ready, default=0)
        free.update(dict.fromkeys(streams, ends[task]))


@given(data=st.data())
def test_operators_follow_what_feeds_them(data, small_scenarios):
    """Along every path of the operator graph, in every microbatch."""
    program = make_program(data.draw(small_scenarios))
    times = times_of(program)
    for name, sources in feeders(program.graphs[0], times).items():
        for source in sources:
            assert (times[name][0] >= times[source][1]).all()


@given(data=st.data())
def test_sequential_has_one_microbatch_in_flight(data, small_scenarios):
    """The next one starts nowhere before the one before has ended everywhere."""
    starts, ends = run(make_program(data.draw(small_scenarios).with_(**ONE_PASS, schedule="sequential")))
    assert (starts.min(axis=1)[1:] >= ends.max(axis=1)[:-1]).all()


@given(data=st.data())
def test_pipelined_is_never_slower_than_sequential(data, small_scenarios):
    """Waiting for less never takes longer."""
    scenario = data.draw(small_scenarios).with_(**ONE_PASS)
    pipelined, sequential = (
        run(make_program(scenario.with_(schedule=s)))[1].max() for s in ("pipelined", "sequential")
    )
    assert pipelined <= sequential


def most_waiting(program, stage):
    """Count the hand-overs that a stage holds at most, from the start of the sending until the last use."""
    times = times_of(program)
    released = np.max([times[name][1] for name in consumers(program.graphs[0], f"stage_{stage}.receive")], axis=0)
    return most_at_once(times[f"stage_{stage - 1}.send"][0], released)


@given(data=st.data())
def test_a_stage_never_holds_more_hand_overs_than_it_has_buffers(data, small_scenarios):
    """A full set of buffers blocks the sender."""
    program = make_program(data.draw(small_scenarios).with_(schedule="pipelined"))
    for stage in range(1, program.scenario.plan.pipeline):
        assert most_waiting(program, stage) <= program.scenario.plan.receive_buffers


@pytest.mark.parametrize("buffers", [1, 2, 5])
def test_a_fast_stage_fills_the_buffers_and_then_waits(improved, buffers):
    """Two layers before fourteen: the sender runs ahead exactly as far as it may."""
    changes = {"layers_per_stage": (2, 14), "receive_buffers": buffers, "batch_size": 20}
    assert most_waiting(make_program(improved.with_(**changes)), 1) == buffers


def most_in_flight(program, stage):
    """Count the microbatches that a stage has entered and not handed over, at most."""
    times = times_of(program)
    entry = "split" if stage == 0 else f"stage_{stage}.receive"
    entered = np.min([times[name][0] for name in consumers(program.graphs[0], entry)], axis=0)
    return most_at_once(entered, times[f"stage_{stage}.send"][1])


@given(data=st.data())
def test_a_sender_never_has_more_than_two_microbatches_in_flight(data, small_scenarios):
    """One on the link, one in computation, however slow what follows is."""
    program = make_program(data.draw(small_scenarios))
    for stage in range(program.scenario.plan.pipeline - 1):
        assert most_in_flight(program, stage) <= 2


@pytest.mark.parametrize("buffers", [1, 2, 5])
@pytest.mark.parametrize("scatter_gather", [False, True])
def test_a_fast_stage_stands_still_while_its_successor_is_busy(improved, buffers, scatter_gather):
    """Two layers before fourteen: the first stage is ahead by what is buffered and in flight, and by no more."""
    changes = {"layers_per_stage": (2, 14), "receive_buffers": buffers, "batch_size": 40}
    program = make_program(improved.with_(**changes, scatter_gather=scatter_gather))
    times = times_of(program)
    assert most_in_flight(program, 0) == 2
    ahead = most_at_once(times["layer_00.attention_norm"][0], times["layer_02.attention_norm"][0])
    assert ahead <= buffers + 2 + scatter_gather


@given(data=st.data())
def test_more_buffers_never_take_longer(data, small_scenarios):
    """Waiting for less never takes longer."""
    scenario = data.draw(small_scenarios)
    few, many = (run(make_program(scenario.with_(receive_buffers=buffers)))[1].max() for buffers in (1, 3))
    assert many <= few


@given(data=st.data())
def test_folded_and_full_give_the_same_times_to_the_bit(data, small_scenarios):
    """For every microbatch, slot and operator."""
    scenario = data.draw(small_scenarios)
    folded, full = make_program(scenario), make_program(scenario, folded=False)
    wanted = {}
    for times, program in zip((run(folded), run(full)), (folded, full), strict=True):
        template = program.template
        for row, slot, operator in zip(template.entry_row, template.entry_slot, template.entry_operator, strict=True):
            key = slot // template.slots_per_stage, operator
            here = [column[:, row].tolist() for column in times]
            assert here == wanted.setdefault(key, here)
    assert len(wanted) == len(folded.template.entry_row)
    assert len(full.template.entry_row) == len(wanted) * full.template.slots_per_stage


@given(data=st.data())
def test_a_ragged_microbatch_is_priced_at_its_own_size(data, steady_scenarios):
    """Every task of every microbatch takes what its operator costs at the size of the microbatch."""
    program = make_program(data.draw(steady_scenarios))
    scenario, operators = program.scenario, program.template.operator
    durations = program.task_graph.duration_ps.reshape(-1, len(operators))
    for row, size in zip(durations, scenario.microbatch_sizes, strict=True):
        works = [operator.work for operator in operator_graph(scenario, size)]
        seconds = [float(price(works[i], scenario.cluster).seconds) for i in operators]
        assert row.tolist() == picoseconds(seconds).tolist()


def test_a_ragged_last_microbatch_is_shorter(improved):
    """Ten sequences in fours: two are left over."""
    program = make_program(improved.with_(batch_size=10, microbatch_size=4))
    assert program.sizes == (4, 2)
    assert program.variant.tolist() == [0, 0, 1]
    durations = program.task_graph.duration_ps.reshape(3, -1)
    assert (durations[0] == durations[1]).all()
    assert (durations[2] < durations[1]).all()


def test_the_next_microbatch_starts_beside_the_last_all_reduce(improved):
    """Streams allow it: the collective of one and the computation of the next are on different ones."""
    times = times_of(make_program(improved.with_(batch_size=4)))
    norm, reduce = times["layer_00.attention_norm"][0], times["layer_07.mlp_all_reduce"]
    assert (norm[1:] < reduce[1][:-1]).all()
    assert (norm[1:] >= times["layer_07.mlp_down"][1][:-1]).all()


def test_a_send_runs_beside_the_computation_of_the_next_microbatch(improved):
    """The link is a stream of its own."""
    starts, ends = times_of(make_program(improved.with_(batch_size=4)))["stage_0.send"]
    first = times_of(make_program(improved.with_(batch_size=4)))["layer_00.qkv_proj"][0]
    assert (first[1:] < ends[:-1]).all()
    assert (starts < ends).all()


def test_a_task_is_described_by_operator_microbatch_and_stage(improved):
    """For messages about deadlocks."""
    program = make_program(improved.with_(batch_size=4))
    rows = program.template.num_rows
    assert program.describe(2 * rows) == "layer_00.attention_norm of microbatch 2 on stage 0"
    assert program.describe(3 * rows - 1) == "layer_15.mlp_residual of microbatch 2 on stage 1"


def test_the_makespan_of_a_sequential_plan_is_the_sum_of_its_chain(seeds):
    """One GPU a layer, one microbatch at a time: nothing overlaps."""
    program = make_program(seeds["seed-baseline"].with_(batch_size=3))
    assert run(program)[1].max() == program.task_graph.duration_ps.sum()


def test_the_streams_of_a_slot_are_named():
    """Computation, collectives and the link to the next stage."""
    assert STREAMS == ("compute", "collective", "send")
