"""The range of a makespan: the ranges of the operators on its critical path, in quadrature."""

import dataclasses
import math

import numpy as np
import pytest

import perfsim
from perfsim.report.uncertainty import makespan_range_s


@pytest.fixture
def single(improved):
    """One GPU, one microbatch: everything is on the critical path."""
    return improved.with_(tensor=1, pipeline=1, batch_size=1, sequence_length=512)


def ranged(result, factors):
    """Give the run of a result with other ranges for its operators, by op."""
    program = result.run.program
    prices = tuple(
        dataclasses.replace(price, range_factors=factors.get(operator.op))
        for price, operator in zip(program.prices, program.graphs[0], strict=True)
    )
    return dataclasses.replace(result.run, program=dataclasses.replace(program, prices=prices))


def test_one_operator_gives_its_share(single):
    """All its executions are off by the same factor."""
    result = perfsim.simulate(single)
    took = result.operators.query("op == 'mlp_up'")["seconds"].sum()
    low, high = makespan_range_s(ranged(result, {"mlp_up": (0.9, 1.2)}))
    assert result.makespan_s - low == pytest.approx(0.1 * took)
    assert high - result.makespan_s == pytest.approx(0.2 * took)


def test_two_operators_add_in_quadrature(single):
    """Their errors are their own."""
    result = perfsim.simulate(single)
    took = result.operators.groupby("op")["seconds"].sum()
    _, high = makespan_range_s(ranged(result, {"mlp_up": (0.9, 1.2), "mlp_down": (0.8, 1.1)}))
    assert high - result.makespan_s == pytest.approx(math.hypot(0.2 * took["mlp_up"], 0.1 * took["mlp_down"]))


def test_without_measured_errors_there_is_no_range(single):
    """Both ends are the makespan, and the text says nothing."""
    bare = perfsim.simulate(single.with_(cluster=dataclasses.replace(single.cluster, kernels="", coefficients={})))
    assert bare.makespan_range_s == (bare.makespan_s, bare.makespan_s)
    assert "range" not in str(bare)


def test_the_seeds_have_ranges(seed):
    """Around their makespans, of some per cent."""
    result = perfsim.simulate(seed)
    low, high = result.makespan_range_s
    assert 0.7 * result.makespan_s < low < result.makespan_s < high < 1.4 * result.makespan_s
    assert "80 % range" in str(result)
    operators = result.operators[np.isfinite(result.operators["low_s"])]
    assert (operators["low_s"] <= operators["high_s"]).all()
    assert (operators["low_s"] >= operators["roofline_s"]).all()
