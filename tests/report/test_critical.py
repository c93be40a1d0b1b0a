"""What a critical path is made of, and the slack beside it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.report.critical import BUBBLE, PARTS, CriticalPath, composition, slack_frame, slack_ps
from perfsim.report.lanes import Run
from perfsim.sim.compiled import run_compiled
from perfsim.sim.timeline import Timeline

RESULTS = pytest.mark.parametrize("name", ["seed-baseline", "seed-layerwise-pipelined", "seed-improved"])


def bubble_by_hand(result, in_ps):
    """Find the bubble from the table of the critical path, one row at a time."""
    table = result.critical_path
    lengths = (in_ps(table["end_s"]) - in_ps(table["start_s"])).tolist()
    spent = dict.fromkeys(range(result.scenario.plan.pipeline), 0)
    stages = []
    for length, stage, kind in zip(lengths, table["stage"].tolist(), table["kind"], strict=True):
        # A hand-over occupies the stage that sends and the one that receives.
        stages.append({stage, (stage + 1) % len(spent)} if kind == "transfer" else {stage})
        for own in stages[-1]:
            spent[own] += length
    main = max(spent, key=spent.get)
    return sum(length for length, own in zip(lengths, stages, strict=True) if main not in own)


@RESULTS
def test_parts_add_up_to_the_makespan(results, in_ps, name):
    """To the picosecond, and to the last digits of a float."""
    parts = results[name].critical_path_composition
    assert list(parts.index) == [*PARTS, BUBBLE]
    assert in_ps(parts).sum() == results[name].run.makespan_ps
    assert parts.sum() == pytest.approx(results[name].makespan_s, rel=1e-15)
    assert (parts >= 0).all()


@settings(max_examples=40)
@given(data=st.data())
def test_parts_of_any_plan_add_up(data, small_results, in_ps):
    """Ragged batches, both phases, folded and in full."""
    result = data.draw(small_results)
    parts = composition(result.run)
    assert in_ps(parts).sum() == result.run.makespan_ps
    assert in_ps(parts[BUBBLE]) == bubble_by_hand(result, in_ps)
    assert (parts >= 0).all()


@settings(max_examples=30)
@given(data=st.data())
def test_folded_and_full_have_the_same_parts(data, small_scenarios):
    """Devices that do the same have the same path."""
    scenario = data.draw(small_scenarios)
    folded, full = (composition(perfsim.simulate(scenario, detail=detail).run) for detail in ("folded", "full"))
    assert folded.to_numpy() == pytest.approx(full.to_numpy(), rel=1e-9, abs=1e-11)


def test_one_device_has_no_bubble_and_no_network(improved):
    """Everything that it does is on the path; the parts are those of its operators."""
    result = perfsim.simulate(improved.with_(tensor=1, pipeline=1, batch_size=3, microbatch_size=1))
    parts, costs = result.critical_path_composition, [price.at(0) for price in result.run.program.prices]
    assert parts[["network", BUBBLE]].tolist() == [0, 0]
    assert parts["compute"] == pytest.approx(
        3 * sum(cost.compute_s for cost in costs if cost.compute_s >= cost.memory_s), rel=1e-9
    )
    assert parts["overhead"] == pytest.approx(3 * sum(cost.overhead_s for cost in costs), rel=1e-9)


def test_where_one_stage_works_at_a_time_the_rest_is_bubble(results):
    """Of 16 stages one works, with its hand-overs in and out."""
    result = results["seed-baseline"]
    share = result.critical_path_composition[BUBBLE] / result.makespan_s
    assert 1 - 2 / 16 < share < 1 - 1 / 17
    assert share == pytest.approx(result.bubble_fraction, abs=0.02)


def test_a_bubble_shrinks_with_the_number_of_microbatches(improved):
    """It is the time to fill and drain: about one pass through the other stage."""
    few, many = (perfsim.simulate(improved.with_(batch_size=size)) for size in (4, 64))
    one_pass = few.first_sequence_s / 2
    for result in (few, many):
        assert result.critical_path_composition[BUBBLE] == pytest.approx(one_pass, rel=0.1)


def test_the_path_counts_its_executions(improved_result):
    """What `CriticalPath` counts is what the table of the path lists."""
    path = CriticalPath(improved_result.run)
    table = improved_result.critical_path
    assert path.executions.sum() == len(table)
    names = [operator.op for operator in improved_result.dag.operators]
    counted = {op: int(path.executions[0][[name == op for name in names]].sum()) for op in table["op"].unique()}
    assert counted == table["op"].value_counts().to_dict()
    assert path.operator_ps.sum() == improved_result.run.makespan_ps
    assert path.bound == "compute"


@RESULTS
def test_what_is_on_the_path_has_no_slack(results, name):
    """And every operator has one row, those without slack first."""
    result = results[name]
    slack = result.slack
    on_path = set(zip(result.critical_path["op"], result.critical_path["layer"].fillna(-1), strict=True))
    critical = slack[[pair in on_path for pair in zip(slack["op"], slack["layer"].fillna(-1), strict=True)]]
    assert (critical["slack_s"] == 0).all()
    assert slack["slack_s"].is_monotonic_increasing
    assert set(slack.index) == {o.name for o in result.dag.operators if o.name in set(slack.index)}
    assert len(slack) == len(set(result.run.program.template.operator.tolist()))


@settings(max_examples=40)
@given(data=st.data())
def test_an_execution_may_take_as_much_longer_as_its_slack(data, small_results):
    """With its slack the makespan stays, with a nanosecond more it grows by a nanosecond."""
    run = data.draw(small_results).run
    slack = slack_ps(run)[run.timeline.graph.microbatch, run.timeline.graph.label]
    task = data.draw(st.integers(0, len(slack) - 1))
    for longer, expected in ((0, run.makespan_ps), (1000, run.makespan_ps + 1000)):
        durations = run.timeline.graph.duration_ps.copy()
        durations[task] += slack[task] + longer
        assert run_compiled(dataclasses.replace(run.timeline.graph, duration_ps=durations)).max() == expected


@settings(max_examples=30)
@given(data=st.data())
def test_the_table_of_slack_sums_up_the_executions(data, small_results, in_ps):
    """The least, where it is, the mean, and the share without any."""
    run = data.draw(small_results).run
    slack, operator = slack_ps(run), run.program.template.operator
    table = slack_frame(run)
    for name, row in table.iterrows():
        own = slack[:, [run.operators[index].name == name for index in operator]]
        assert in_ps(row["slack_s"]) == own.min()
        assert own[row["microbatch"]].min() == own.min()
        assert row["mean_slack_s"] == pytest.approx(own.mean() / 1e12)
        assert row["critical_share"] == pytest.approx((own == 0).mean())


def test_the_stage_with_fewer_layers_has_slack(improved):
    """The second stage waits for the first, so all but its last microbatch may be late."""
    result = perfsim.simulate(improved.with_(batch_size=8, layers_per_stage=(9, 7)))
    of_stage = result.slack[result.slack["kind"] == "matmul"].groupby("stage")
    assert of_stage["mean_slack_s"].max()[0] == 0
    assert of_stage["mean_slack_s"].min()[1] > 0
    assert of_stage["critical_share"].max()[1] == 1 / 8
    row = result.slack.loc["layer_15.mlp_up"]
    assert (row["op"], row["kind"], row["stage"], row["layer"], row["microbatch"]) == ("mlp_up", "matmul", 1, 15, 7)


def test_a_disturbed_run_adds_up_too(improved, in_ps):
    """What executions took is split, whatever they were priced at."""
    conditions = perfsim.Conditions(slowdowns=(perfsim.Slowdown(device=3, factor=1.5),), jitter=0.1)
    result = perfsim.simulate(
        improved.with_(num_hidden_layers=2, tensor=4, batch_size=3),
        engine="simpy",
        detail="full",
        conditions=conditions,
    )
    assert in_ps(result.critical_path_composition).sum() == result.run.makespan_ps
    assert result.slack["slack_s"].min() == 0


def test_an_operator_that_takes_no_time_is_overhead(improved_result):
    """Nothing is divided by nothing."""
    run = improved_result.run
    free = dataclasses.replace(run.program.prices[2], **dict.fromkeys(("seconds", "compute_s", "memory_s"), 0.0))
    free = dataclasses.replace(free, overhead_s=0.0, network_s=0.0)
    program = dataclasses.replace(run.program, prices=(*run.program.prices[:2], free, *run.program.prices[3:]))
    graph = program.task_graph
    parts = composition(Run(program, Timeline(graph, run_compiled(graph))))
    assert np.isfinite(parts).all()
    assert parts.sum() < improved_result.makespan_s
