"""The same program again: the times of a new simulation, to the bit."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.schedule.program import make_program
from perfsim.study.hardware_numbers import hardware_numbers, scaled
from perfsim.study.rerun import Rerun, in_double_precision


@settings(max_examples=30)
@given(data=st.data())
def test_a_rerun_is_a_simulation(data, small_scenarios):
    """On any cluster with other speeds: every task, and the report that is made of them."""
    scenario = data.draw(small_scenarios)
    numbers = hardware_numbers(scenario.cluster, scenario.dtype)
    number = numbers[data.draw(st.sampled_from(sorted(numbers)))]
    cluster = scaled(scenario.cluster, number.fields, data.draw(st.sampled_from([0.25, 1.0, 1.1, 8.0])))
    found = Rerun(perfsim.simulate(scenario).run).on(cluster)
    wanted = perfsim.simulate(dataclasses.replace(scenario, cluster=cluster)).run
    assert found.timeline.end_ps.tobytes() == wanted.timeline.end_ps.tobytes()
    assert found.program.operator_ps.tobytes() == wanted.program.operator_ps.tobytes()
    assert found.program.scenario == wanted.program.scenario


def test_other_durations(improved):
    """Twice as long operators take twice the makespan."""
    run = perfsim.simulate(improved.with_(batch_size=5)).run
    assert Rerun(run).with_durations(2 * run.program.operator_ps).makespan_ps == 2 * run.makespan_ps


def test_double_precision_prices_the_same(library, improved):
    """The times of single precision to its own digits, with more behind them; only multiplications differ."""
    scenario = improved.with_(cluster=library, batch_size=3, microbatch_size=2)
    run = perfsim.simulate(scenario).run
    rounded, precise = (
        Rerun(run).seconds_on(cluster) for cluster in (scenario.cluster, in_double_precision(scenario.cluster))
    )
    assert precise == pytest.approx(rounded, rel=2e-6)
    kinds = np.array([operator.kind for operator in run.operators])
    assert (precise == rounded)[:, kinds != "matmul"].all()
    if any(key.startswith("matmul.") for key in library.coefficients):
        assert (precise != rounded)[:, kinds == "matmul"].any()


def test_prices_are_those_of_the_program(improved):
    """Not rounded."""
    run = perfsim.simulate(improved.with_(batch_size=5, microbatch_size=2)).run
    prices = make_program(run.program.scenario).prices
    found = Rerun(run).seconds_on(run.program.scenario.cluster)
    assert found.shape == (2, len(prices))
    for column, price in zip(found.T, prices, strict=True):
        assert column.tolist() == np.broadcast_to(price.seconds, 2).tolist()
