"""Kernel launches: the gap of a graph, the pace of the host."""

import pytest

from perfsim.cost.launch import LaunchCosts, launched_seconds

COSTS = LaunchCosts(graph_gap_s=1e-6, host_s=2e-5)


def test_a_graph_adds_its_gap_once():
    """Not to a kernel that was measured in one."""
    assert launched_seconds(COSTS, [4e-6, 0.0], includes_gap=False) == pytest.approx([5e-6, 1e-6], rel=1e-12)
    assert launched_seconds(COSTS, [4e-6, 0.0]).tolist() == [4e-6, 0.0]


@pytest.mark.parametrize("includes_gap", [True, False])
def test_without_a_graph_the_slower_one_sets_the_pace(includes_gap):
    """Host or device."""
    assert launched_seconds(COSTS, [4e-6, 4e-5], in_graph=False, includes_gap=includes_gap).tolist() == [2e-5, 4e-5]


@pytest.mark.parametrize("field", ["graph_gap_s", "host_s"])
@pytest.mark.parametrize("value", [-1e-6, 20.0, "1 us"], ids=repr)
def test_costs_at_fault_are_refused(refused, field, value):
    """Microseconds are not seconds."""
    assert refused(LaunchCosts, **{field: value})[0].field == f"launch.{field}"
