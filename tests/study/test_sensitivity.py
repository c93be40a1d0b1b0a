"""Sensitivities: the derivatives that finite differences of the whole simulation give, and what is really simulated."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.report.critical import CriticalPath
from perfsim.schedule.program import make_program
from perfsim.study.hardware_numbers import hardware_numbers, scaled
from perfsim.study.rerun import in_double_precision

ROUNDING = 1e-10
"""Of a finite difference, relative to the makespan: that of two floats, over the step between them."""


def longest_path(scenario, cluster):
    """Simulate in floats that nobody rounds: the makespan in seconds, and how often the path does which work."""
    program = make_program(dataclasses.replace(scenario, cluster=cluster))
    prices = np.stack([np.broadcast_to(price.seconds, len(program.sizes)) for price in program.prices], axis=1)
    graph = program.task_graph
    variant, operator = program.variant[graph.microbatch], program.template.operator[graph.label]
    seconds = prices[variant, operator].tolist()
    before, ends, held_by = graph.predecessors, [], []
    for task, length in enumerate(seconds):
        last = max(before[task].tolist(), key=lambda other: ends[other], default=None)
        held_by.append(last)
        ends.append(length + (0.0 if last is None else ends[last]))
    task, works = max(range(len(ends)), key=ends.__getitem__), Counter()
    while task is not None:
        works[program.graphs[program.graph_of[variant[task]]].operators[operator[task]].work] += 1
        task = held_by[task]
    return max(ends), works


def works_of(result):
    """How often the critical path of a simulation does which work."""
    works, program = Counter(), result.run.program
    for variant, counts in enumerate(CriticalPath(result.run).executions.tolist()):
        for operator, count in enumerate(counts):
            if count:
                works[program.graphs[program.graph_of[variant]].operators[operator].work] += count
    return works


def finite_difference(scenario, fields, step):
    """Give the derivative of the makespan by the logarithm of some numbers; None where the path changes.

    Where layers and stages are alike several paths are as long; as long as they do the same works it is the same path.
    """
    cluster = in_double_precision(scenario.cluster)
    less, same, more = (longest_path(scenario, scaled(cluster, fields, 1 + change)) for change in (-step, 0, step))
    if less[1] != more[1] or same[1] != more[1]:
        return None
    # Where paths are equally long but for what is rounded away, the simulation may have followed another one.
    if same[1] != works_of(perfsim.simulate(scenario)):
        return None
    return (more[0] - less[0]) / (2 * step)


@settings(max_examples=12)
@given(data=st.data())
def test_slopes_are_finite_differences(data, small_scenarios):
    """To 1e-6 relative, by a step of another size than the one that they are computed with."""
    scenario = data.draw(small_scenarios)
    result = perfsim.simulate(scenario)
    table = perfsim.sensitivity(result)
    numbers = hardware_numbers(scenario.cluster, scenario.dtype)
    assert numbers.keys() <= set(table.index)
    compared = 0
    for name, number in numbers.items():
        wanted = finite_difference(scenario, number.fields, 7e-6)
        if wanted is not None:
            assert table.loc[name, "slope_s"] == pytest.approx(wanted, rel=1e-6, abs=ROUNDING * result.makespan_s)
            compared += 1
    assume(compared)


@pytest.mark.parametrize("name", ["seed-baseline", "seed-layerwise-pipelined", "seed-improved"])
def test_slopes_of_the_seeds_are_finite_differences(seeds, name):
    """With a few microbatches, every number of the cluster."""
    scenario = seeds[name].with_(batch_size=4)
    result = perfsim.simulate(scenario)
    table = perfsim.sensitivity(result)
    for number in hardware_numbers(scenario.cluster, scenario.dtype).values():
        wanted = finite_difference(scenario, number.fields, 1e-5)
        assert wanted is not None
        assert table.loc[number.name, "slope_s"] == pytest.approx(wanted, rel=1e-6, abs=ROUNDING * result.makespan_s)


@settings(max_examples=10)
@given(data=st.data())
def test_kinds_of_operators_add_up(data, small_scenarios):
    """Their times fill the path: elasticities add up to 1, slopes to the makespan."""
    result = perfsim.simulate(data.draw(small_scenarios))
    table = perfsim.sensitivity(result)
    kinds = table[table.index.str.endswith("_time")]
    assert kinds["elasticity"].sum() == pytest.approx(1, rel=1e-12)
    assert kinds["slope_s"].sum() == pytest.approx(result.makespan_s, rel=1e-12)
    by_kind = result.critical_path.assign(took=lambda path: path["end_s"] - path["start_s"]).groupby(
        "kind", observed=True
    )["took"].sum()  # fmt: skip
    for kind, took in by_kind.items():
        if took:
            assert kinds.loc[f"{kind}_time", "slope_s"] == pytest.approx(took, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["seed-baseline", "seed-layerwise-pipelined", "seed-improved"])
def test_rates_and_times_share_the_whole_makespan(seeds, documented, name):
    """With all rates doubled and all fixed times halved everything takes half the time: Euler's theorem."""
    table = perfsim.sensitivity(perfsim.simulate(seeds[name].with_(cluster=documented, batch_size=8)))
    numbers = hardware_numbers(documented, "bf16")
    signs = {name: 1 if number.less_is_better else -1 for name, number in numbers.items()}
    assert sum(sign * table.loc[name, "elasticity"] for name, sign in signs.items()) == pytest.approx(1, rel=1e-7)
    assert all(sign * table.loc[name, "elasticity"] >= 0 for name, sign in signs.items())


@settings(max_examples=6)
@given(data=st.data())
def test_changes_are_really_simulated(data, small_scenarios):
    """With 10 % more of each number, by `simulate` itself."""
    scenario = data.draw(small_scenarios)
    result = perfsim.simulate(scenario)
    table = perfsim.sensitivity(result)
    for name, number in hardware_numbers(scenario.cluster, scenario.dtype).items():
        more = perfsim.simulate(dataclasses.replace(scenario, cluster=scaled(scenario.cluster, number.fields, 1.1)))
        wanted = 100 * (more.run.makespan_ps / result.run.makespan_ps - 1)
        assert table.loc[name, "change_percent"] == pytest.approx(wanted, abs=1e-9)


@pytest.fixture(scope="module")
def seed_result():
    """Give the result of the improved seed scenario, all of its 1024 microbatches."""
    return perfsim.simulate(perfsim.load_scenario("seed-improved"))


@pytest.fixture(scope="module")
def seed_table(seed_result):
    """Give its sensitivities."""
    return perfsim.sensitivity(seed_result)


def test_a_small_change_follows_the_slope(seed_result, seed_table):
    """Half a percent more of the bandwidth gives about half of the elasticity; ten percent about ten times it."""
    found = perfsim.what_if(seed_result, nvlink=1.005)
    assert found.change_percent == pytest.approx(0.5 * seed_table.loc["nvlink_bandwidth", "elasticity"], rel=0.01)
    rates = seed_table[(seed_table["elasticity"] < -0.01)]
    assert (rates["change_percent"] / rates["elasticity"]).between(8, 10).all()


def test_the_table_says_what_helps_most(seed_table):
    """The largest effect first, each in words; what does nothing says so."""
    sizes = seed_table["change_percent"].abs()
    assert sizes.is_monotonic_decreasing
    assert seed_table.index[0] == "flops"
    row = seed_table.loc["nvlink_bandwidth"]
    assert row["text"] == f"NVLink bandwidth +10 % gives {row['change_percent']:.1f} %"
    assert row["text"].count("-") == 1
    assert seed_table.loc["vector_flops", "text"] == "vector FLOP/s +10 % changes nothing"
    assert seed_table.loc["transfer_time", "text"] == "transfer time +10 % gives less than 0.1 %"
    assert seed_table.loc["matmul_time", "text"].startswith("matmul time +10 % gives +")


def test_values_and_derivatives(seed_table, h100):
    """The derivative by a value is the slope over it; what stands for many numbers has none."""
    row = seed_table.loc["hbm_bandwidth"]
    assert (row["value"], row["unit"]) == (h100.accelerator.memory_bytes_per_s, "B/s")
    assert row["derivative_s"] == pytest.approx(row["slope_s"] / row["value"])
    assert math.isnan(seed_table.loc["launch", "value"])
    assert math.isnan(seed_table.loc["launch", "derivative_s"])
    assert seed_table.loc["launch", "slope_s"] > 0


@pytest.mark.parametrize("name", ["flops", "matmul_time"])
def test_the_next_bottleneck_takes_over_where_it_says(seed_result, seed_table, name):
    """Just before that factor the largest part is the old one, from there on the new one."""
    row = seed_table.loc[name]
    assert CriticalPath(seed_result.run).bound == "compute"
    assert row["next_bottleneck"] == "network"
    if name == "matmul_time":
        assert 0.01 < row["takes_over_at"] < 1
        return
    for factor, bound in ((0.998 * row["takes_over_at"], "compute"), (1.0001 * row["takes_over_at"], "network")):
        assert CriticalPath(perfsim.what_if(seed_result, flops=factor).after.run).bound == bound


def test_what_is_no_bottleneck_has_none_next(seed_table):
    """More of it moves the others only further behind."""
    for name in ("nvlink_bandwidth", "hbm_bandwidth", "launch"):
        assert math.isnan(seed_table.loc[name, "takes_over_at"])
        assert seed_table["next_bottleneck"].isna()[name]


def test_full_detail_and_the_other_engine_give_the_same(improved):
    """Times are the same to the bit, so what follows is."""
    scenario = improved.with_(num_hidden_layers=2, batch_size=3)
    wanted = perfsim.sensitivity(perfsim.simulate(scenario))
    assert perfsim.sensitivity(perfsim.simulate(scenario, detail="full")).equals(wanted)
    assert perfsim.sensitivity(perfsim.simulate(scenario, engine="simpy")).equals(wanted)


def test_a_result_under_conditions_is_refused(refused, improved):
    """Prices do not explain its times."""
    conditions = perfsim.Conditions(jitter=0.1)
    scenario = improved.with_(num_hidden_layers=1, pipeline=1, tensor=1, batch_size=1)
    result = perfsim.simulate(scenario, engine="simpy", detail="full", conditions=conditions)
    (fault,) = refused(perfsim.sensitivity, result)
    assert fault.field == "sensitivity.result.conditions"


def test_what_is_no_result_is_refused(refused, improved):
    """A scenario, say."""
    (fault,) = refused(perfsim.sensitivity, improved)
    assert fault.field == "sensitivity.result"
