"""The fewest devices are those that trying every plan finds."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.errors import InputError
from perfsim.spec.hardware import NetworkTier
from perfsim.study.smallest import min_devices, smallest_plan

MOST = 5
"""Devices up to which every plan is tried."""


def plans_on(number, scenario):
    """Give every plan with microbatches of one sequence for so many devices, the impossible ones left out."""
    for tensor, pipeline, data, context in itertools.product(range(1, number + 1), repeat=4):
        if tensor * pipeline * data * context != number:
            continue
        for expert, shared in itertools.product(range(1, number + 1), (False, True)):
            plan = perfsim.Plan(
                tensor=tensor, pipeline=pipeline, data=data, context=context, expert=expert, sequence_parallel=shared,
                microbatch_size=1,
            )  # fmt: skip
            try:
                yield scenario.with_(plan=plan, **{"cluster.num_devices": number})
            except InputError:
                continue


def fits_on(number, scenario):
    """Say whether any of these plans fits, from a simulation of each."""
    return any(perfsim.simulate(plan).fits for plan in plans_on(number, scenario))


@pytest.fixture(scope="module")
def workloads():
    """Give a strategy of small workloads of every phase."""

    @st.composite
    def draw_workload(draw):
        phase = draw(st.sampled_from(["prefill", "decode", "generation"]))
        return perfsim.Workload(
            phase=phase,
            batch_size=draw(st.integers(1, 6)),
            sequence_length=draw(st.sampled_from([2, 128, 600])),
            keep_kv_cache=phase != "prefill" or draw(st.booleans()),
            output_length=2 if phase == "generation" else 1,
        )

    return draw_workload()


@settings(max_examples=15)
@given(data=st.data())
def test_they_are_the_fewest_of_all_plans(data, families, small_cluster, workloads):
    """For every family and phase, by a simulation of each plan; memory is such that one device may not suffice."""
    model = data.draw(st.sampled_from(sorted(families.items())))[1]
    workload = data.draw(workloads)
    alone = perfsim.Scenario(small_cluster, model, perfsim.Plan(microbatch_size=1), workload)
    memory = perfsim.simulate(alone).memory.iloc[0]
    share = data.draw(st.sampled_from([0.3, 0.5, 0.7, 1.0]))
    room = int(memory["reserve_bytes"] + share * (memory["peak_bytes"] - memory["reserve_bytes"]))
    scenario = alone.with_(**{"cluster.accelerator.memory_bytes": room})
    wanted = next((number for number in range(1, MOST + 1) if fits_on(number, scenario)), None)
    try:
        found = min_devices(scenario)
    except InputError:
        found = MOST + 1
    assert found == wanted if wanted else found > MOST


@pytest.mark.parametrize("phase", ["prefill", "decode", "generation"])
@pytest.mark.parametrize("name", ["llama-3.1-70b", "gpt-oss-120b", "deepseek-v3"])
def test_the_plan_fits_on_a_cluster_of_its_size(phase, name, h100):
    """Models of today; the plan is one that simulates and fits."""
    workload = perfsim.Workload(phase, batch_size=64, sequence_length=2048, output_length=3 if phase[0] == "g" else 1)
    scenario = perfsim.Scenario(h100, perfsim.load_model(name), perfsim.Plan(), workload)
    found = smallest_plan(scenario)
    assert found.cluster.num_devices == found.plan.num_devices == min_devices(scenario)
    assert (found.model, found.workload) == (scenario.model, scenario.workload)
    assert perfsim.simulate(found).fits


def test_the_plan_is_the_fastest_of_those_that_fit(h100, families):
    """Of all plans on as many devices, with any of the microbatches that are tried."""
    workload = perfsim.Workload(batch_size=8, sequence_length=512)
    scenario = perfsim.Scenario(h100, families["llama"], perfsim.Plan(), workload)
    memory = perfsim.simulate(scenario.with_(plan=perfsim.Plan(tensor=2, microbatch_size=4))).memory
    scenario = scenario.with_(**{"cluster.accelerator.memory_bytes": int(memory["peak_bytes"].max())})
    found = smallest_plan(scenario)
    rivals = [
        perfsim.simulate(plan.with_(microbatch_size=size))
        for plan in plans_on(found.plan.num_devices, scenario)
        for size in (1, 4)
    ]
    assert perfsim.simulate(found).makespan_s == min(rival.makespan_s for rival in rivals if rival.fits)


def test_what_the_search_takes_over_from_the_plan(improved):
    """Schedule, buffers and the order of ranks; nothing else."""
    order = ("pipeline", "tensor", "context", "data")
    plan = perfsim.Plan(
        tensor=8, pipeline=2, schedule="sequential", receive_buffers=1, rank_order=order, layers_per_stage=(7, 9)
    )
    found = smallest_plan(improved.with_(plan=plan)).plan
    assert (found.schedule, found.receive_buffers, found.rank_order) == ("sequential", 1, order)
    assert found.layers_per_stage is None


def test_a_sequence_that_nothing_holds_is_refused(refused):
    """With what is too large, and at once: no number of devices is tried."""
    workload = perfsim.Workload(batch_size=7, sequence_length=9_999_991)
    model, cluster = perfsim.load_model("llama-3.1-8b"), perfsim.load_cluster("l40s-pcie-8x")
    scenario = perfsim.Scenario(cluster, model, perfsim.Plan(microbatch_size=1), workload)
    for function in (min_devices, smallest_plan):
        (fault,) = refused(function, scenario)
        assert fault.field == "scenario"
        assert fault.value == "llama-3.1-8b, prefill of 7 x 9999991"
        assert "one operator with one sequence of 9999991 tokens takes 10" in fault.allowed
        assert "of the 48.31 GB of a device" in fault.allowed
        assert "shorter sequences" in fault.way_out


def test_a_network_sets_an_end(refused, h100):
    """Where its outermost tier joins eight devices there are no more."""
    tiers = (NetworkTier("island", 400e9, 1e-6, domain_size=8),)
    workload = perfsim.Workload(batch_size=64, sequence_length=4096)
    island = perfsim.Cluster("island", h100.accelerator, tiers, 8, h100.efficiency)
    scenario = perfsim.Scenario(island, perfsim.load_model("llama-3.1-405b"), perfsim.Plan(), workload)
    (fault,) = refused(min_devices, scenario)
    assert "does not fit on up to 8 x H100 SXM5 80GB, whatever the plan" in fault.allowed
    assert "weights and KV cache need more devices" in fault.allowed
    assert min_devices(scenario.with_(quantization="fp8")) == 7  # 410 GB of weights and 135 GB of KV cache


def test_a_mixed_cluster_is_refused(refused, h100):
    """It says what to ask instead."""
    tier = NetworkTier("ethernet", bytes_per_s=25e9, latency_s=5e-6)
    cluster = perfsim.join_clusters(h100, perfsim.load_cluster("l40s-pcie-8x"), tier=tier)
    scenario = perfsim.load_scenario("seed-improved").with_(cluster=cluster)
    (fault,) = refused(min_devices, scenario)
    assert (fault.field, fault.way_out) == ("min_devices.scenario.cluster", "ask for each of its segments")


@pytest.mark.parametrize("function", [min_devices, smallest_plan])
def test_what_is_no_scenario_is_refused(refused, function):
    """With the name of the argument."""
    (fault,) = refused(function, "seed-improved")
    assert fault.field == f"{function.__name__}.scenario"
    assert "load_scenario" in fault.way_out
