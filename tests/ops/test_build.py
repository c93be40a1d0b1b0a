"""Building the graph: where ranks are placed unevenly over the network, the slowest of them counts."""

import dataclasses

import pytest

from perfsim import Plan, Scenario, Workload, operator_graph
from perfsim.spec.hardware import NetworkTier
from perfsim.spec.model import Model


@pytest.fixture
def graph(h100):
    """Give a graph of three ranks a group on domains of four: groups and hand-overs straddle them unevenly."""
    tiers = (NetworkTier("inner", 400e9, 1e-6, domain_size=4), NetworkTier("outer", 5e9, 5e-6))
    model = Model("m", num_hidden_layers=2, hidden_size=24, num_attention_heads=3, intermediate_size=24)
    cluster = dataclasses.replace(h100, tiers=tiers)
    return lambda **degrees: operator_graph(Scenario(cluster, model, Plan(tensor=3, **degrees), Workload(batch_size=2)))


def test_the_widest_span_of_all_replicas_counts(graph):
    """Ranks 0 to 2 share a domain, ranks 3 to 5 do not."""
    assert graph()["layer_00.mlp_all_reduce"].work.span == (3,)
    assert graph(data=2)["layer_00.mlp_all_reduce"].work.span == (2, 2)


def test_the_outermost_tier_of_all_pairs_counts(graph):
    """Rank 0 reaches its peer 3 inside its domain, the others reach theirs only outside."""
    assert graph(pipeline=2)["stage_0.send"].work.tier == 1
