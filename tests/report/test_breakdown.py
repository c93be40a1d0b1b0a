"""Where the time goes: every instant of every device counts once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfsim.report.breakdown import IDLE, KINDS, time_by_kind


@settings(max_examples=30)
@given(data=st.data())
def test_every_instant_counts_for_the_first_kind(data, small_results, rows_of, sweep, in_ps):
    """A sweep over the timeline, device by device, finds the same; the mean over devices is the makespan."""
    result = data.draw(small_results)
    devices = range(result.scenario.plan.num_devices)
    totals = dict.fromkeys(KINDS, 0)
    for device in devices:
        for length, kinds in sweep([(start, end, row.kind) for start, end, row in rows_of(result, device)]):
            totals[next((kind for kind in KINDS if kind in kinds), IDLE)] += length
    totals[IDLE] = len(devices) * int(in_ps(result.makespan_s)) - sum(totals[kind] for kind in KINDS if kind != IDLE)
    found = time_by_kind(result.run)
    assert list(found.index) == list(KINDS)
    for kind in KINDS:
        assert found[kind] == pytest.approx(totals[kind] / len(devices) / 1e12, rel=1e-12, abs=1e-18)
    idle_s = result.bubble_fraction * result.makespan_s
    assert found[IDLE] == pytest.approx(idle_s, rel=1e-9, abs=1e-15), "no kind of operator is forgotten"


def test_the_parts_make_the_makespan(results):
    """For every seed plan; nothing is below zero."""
    for result in results.values():
        parts = time_by_kind(result.run)
        assert (parts >= 0).all()
        assert parts.sum() == pytest.approx(result.makespan_s, rel=1e-12)


def test_the_seed_plans_spend_their_time_as_known(results):
    """The baseline waits; layer by layer there is nothing to reduce; tensor parallelism pays for its all-reduces."""
    parts = {name: time_by_kind(result.run) / result.makespan_s for name, result in results.items()}
    assert parts["seed-baseline"].idxmax() == IDLE
    assert parts["seed-layerwise-pipelined"]["collective"] == 0
    assert parts["seed-layerwise-pipelined"].idxmax() == "matmul"
    assert parts["seed-improved"]["collective"] > 0.1
    assert parts["seed-improved"][IDLE] == pytest.approx(results["seed-improved"].bubble_fraction)
