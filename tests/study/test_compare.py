"""Comparisons: the table, the waterfall, and what is said about them."""

import pandas as pd
import pytest

import perfsim
from perfsim.report.breakdown import IDLE, KINDS


def test_one_row_a_plan_against_the_named_baseline(comparison):
    """Speed-ups are ratios of times, the baseline's own is one, the rest is each plan's summary."""
    table = comparison.table
    assert list(table.index) == ["seed-baseline", "seed-layerwise-pipelined", "seed-improved"]
    assert table.loc["seed-baseline", ["speedup", "first_sequence_speedup"]].tolist() == [1, 1]
    for name, result in comparison.results.items():
        base = comparison["seed-baseline"]
        assert table.loc[name, "speedup"] == base.makespan_s / result.makespan_s
        assert table.loc[name, "first_sequence_speedup"] == base.first_sequence_s / result.first_sequence_s
        assert table.loc[name, list(result.summary.index)].tolist() == result.summary.tolist()


def test_the_table_has_numbers_and_flags(comparison):
    """Columns that can be computed with, as a notebook does."""
    table = comparison.table
    assert table["fits"].dtype == bool
    assert all(pd.api.types.is_numeric_dtype(table[column]) for column in table if column != "fits")


def test_time_by_kind_adds_up_to_the_makespan(comparison):
    """Of every plan."""
    parts = comparison.time_by_kind
    assert list(parts.columns) == list(KINDS)
    for name, result in comparison.results.items():
        assert parts.loc[name].sum() == pytest.approx(result.makespan_s, rel=1e-12)


@pytest.mark.parametrize(
    ("start", "end"), [(None, "seed-improved"), ("seed-improved", "seed-layerwise-pipelined"), (None, "seed-baseline")]
)
def test_a_waterfall_connects(comparison, start, end):
    """From the one makespan over a step for each kind to the other makespan."""
    steps = comparison.waterfall(end, start)
    first, last = comparison[start or "seed-baseline"], comparison[end]
    assert list(steps.columns) == ["kind", "change_s", "start_s", "end_s"]
    assert list(steps["kind"]) == [start or "seed-baseline", *KINDS, end]
    assert steps["end_s"].iloc[0] == first.makespan_s
    assert steps["start_s"].iloc[1:-1].to_numpy() == pytest.approx(steps["end_s"].iloc[:-2].to_numpy())
    assert steps["end_s"].iloc[-2] == pytest.approx(last.makespan_s)
    assert steps["change_s"].iloc[0] == first.makespan_s
    assert steps["change_s"].iloc[-1] == last.makespan_s
    assert (steps["start_s"].iloc[[0, -1]] == 0).all()


def test_the_waterfall_from_the_baseline_is_mostly_less_waiting(comparison):
    """The improved plan's gain is its full GPUs, its price the all-reduces."""
    change = comparison.waterfall("seed-improved").set_index("kind")["change_s"]
    assert change[list(KINDS)].idxmin() == IDLE
    assert change["collective"] > 0


def test_findings_name_the_winners(comparison):
    """Throughput and latency have different ones."""
    throughput, latency, *shares = comparison.findings
    assert "seed-layerwise-pipelined is fastest" in throughput
    assert "soonest under seed-improved" in latency
    assert "seed-baseline: a GPU is idle for 9" in shares[0]
    assert len(shares) == 3


def test_a_comparison_prints_itself(comparison):
    """With its baseline, and as a table in a notebook."""
    assert str(comparison).startswith("Comparison with seed-baseline as the baseline")
    assert all(name in str(comparison) for name in comparison.results)
    assert "<table" in comparison._repr_html_()


def test_results_are_taken_as_they_are(small_result):
    """No second simulation."""
    comparison = perfsim.compare({"a": small_result, "b": small_result.scenario}, baseline="a")
    assert comparison["a"] is small_result
    assert comparison.table.loc["b", "speedup"] == 1


def test_plans_with_other_work_are_held_against_each_other_by_tokens(small_result):
    """Half of the work in half of the time is not faster."""
    plans = {"all": small_result, "half": small_result.scenario.with_(batch_size=3)}
    comparison = perfsim.compare(plans, baseline="all")
    every, half = comparison["all"], comparison["half"]
    assert half.makespan_s < every.makespan_s
    assert comparison.table.loc["half", "speedup"] == pytest.approx(half.tokens_per_s / every.tokens_per_s)
    assert comparison.table.loc["half", "speedup"] < 1
    assert "Throughput: all is fastest" in comparison.findings[0]


def test_an_unknown_plan_is_refused(refused, comparison):
    """With those that there are."""
    (fault,) = refused(comparison.__getitem__, "improved")
    assert (fault.field, fault.way_out) == ("comparison.plan", "did you mean 'seed-improved'?")


@pytest.mark.parametrize("plans", [{}, None, [1], "seed-improved", {1: None}])
def test_nothing_to_compare_is_refused(refused, plans):
    """With an example of what would be something."""
    (fault,) = refused(perfsim.compare, plans, baseline="a")
    assert fault.field == "compare.scenarios"


def test_all_faults_of_a_comparison_come_together(refused, improved):
    """An unknown baseline and what is neither a scenario nor a result."""
    plans = {"improved": improved, "other": "seed-baseline"}
    first, second = refused(perfsim.compare, plans, baseline="improve")
    assert (first.field, first.way_out) == ("compare.baseline", "did you mean 'improved'?")
    assert (second.field, second.value) == ("compare.scenarios['other']", "seed-baseline")


def test_a_waterfall_of_unknown_plans_is_refused(refused, comparison):
    """Both ends are checked."""
    first, second = refused(comparison.waterfall, "improved", "baseline")
    assert (first.field, second.field) == ("waterfall.plan", "waterfall.start")
    assert "seed-improved" in first.allowed


def test_the_timelines_zoom(refused, comparison):
    """An end is short for a time from 0; what else is given goes on to the picture."""
    ax = comparison.plot_timelines(end_s=0.5, stage=0)
    assert ax.get_xlim() == (0, 0.5)
    assert len(ax.get_yticks()) == len(comparison.results)
    assert [fault.field for fault in refused(comparison.plot_timelines, end_s=-1.0)] == ["end_s"]
    assert [fault.field for fault in refused(comparison.plot_timelines, end_s=1, time_s=(0, 1))] == ["end_s, time_s"]
