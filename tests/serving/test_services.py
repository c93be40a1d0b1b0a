"""Services of one scenario: they share tables, have as many replicas as the plan, and the blocks that fit."""

import pytest

import perfsim
from perfsim.serving.scenario_costs import kv_blocks_of
from perfsim.serving.services import Services


@pytest.fixture(scope="module")
def services():
    """Give those of Llama-3.1-8B on two replicas of two H100s."""
    return Services(
        perfsim.Scenario(
            perfsim.load_cluster("dgx-h100"), perfsim.load_model("llama-3.1-8b"), perfsim.Plan(tensor=2, data=2),
            perfsim.Workload(batch_size=2),
        )
    )  # fmt: skip


def test_tables_are_shared_by_services_with_as_many_pools(services):
    """Whatever deployment, and whatever engine that leaves as much to memory-bound kernels."""
    one, other = services.of(perfsim.Engine("vllm")), services.of(perfsim.Engine("sglang"), perfsim.Deployment(5))
    unfused = services.of(perfsim.Engine("vllm", times="none"))
    assert unfused.tables is not one.tables
    assert unfused.tables.costs[0].elementwise_share == 1.0
    apart = [services.of(perfsim.Engine(), perfsim.Deployment(prefill_replicas=count)) for count in (1, 2)]
    assert one.tables is other.tables
    assert apart[0].tables is apart[1].tables
    assert apart[0].tables is not one.tables
    assert len(apart[0].tables.costs) == len(apart[0].engines) == 2


def test_replicas_are_those_of_the_plan_unless_told_otherwise(services):
    """Replicas that share experts are one."""
    assert services.of(perfsim.Engine()).deployment.replicas == 2
    assert services.of(perfsim.Engine(), perfsim.Deployment(replicas=3)).deployment.replicas == 3
    experts = perfsim.Scenario(
        perfsim.load_cluster("dgx-h100"), perfsim.load_model("qwen3-30b-a3b"), perfsim.Plan(data=8, expert=8),
        perfsim.Workload(batch_size=8),
    )  # fmt: skip
    assert Services(experts).of(perfsim.Engine()).deployment.replicas == 1


def test_blocks_are_those_that_fit_unless_told_otherwise(services):
    """They depend on the budget and the size of a block."""
    scenario = services.costs.scenario
    for engine, budget, block in (
        (perfsim.Engine("vllm"), 8192, 16),
        (perfsim.Engine("trtllm", token_budget=2048), 2048, 32),
    ):
        (ready,) = services.of(engine).engines
        assert ready.kv_blocks == kv_blocks_of(scenario, budget, block)
    assert services.of(perfsim.Engine(kv_blocks=7)).engines[0].kv_blocks == 7
