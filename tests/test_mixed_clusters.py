"""Plans on clusters of two kinds of device: each stage is priced on its own, and measured against its own memory."""

import dataclasses

import numpy as np
import pytest

import perfsim
from perfsim.cost import price
from perfsim.ops.flop import closed_form_flop
from perfsim.ops.operators import Transfer
from perfsim.schedule.program import make_program
from perfsim.spec.hardware import NetworkTier

ETHERNET = NetworkTier("ethernet", 12.5e9, 2e-5)
PLAN = perfsim.Plan(tensor=8, pipeline=2, microbatch_size=2)


@pytest.fixture(scope="module")
def fast(h100):
    """Give a node of eight H100."""
    return dataclasses.replace(h100, num_devices=8)


@pytest.fixture(scope="module")
def slow():
    """Give a node of eight L40S."""
    return perfsim.load_cluster("l40s-pcie-8x", num_devices=8)


@pytest.fixture(scope="module")
def mixed(fast, slow):
    """Give both, joined by Ethernet."""
    return perfsim.join_clusters(fast, slow, tier=ETHERNET)


@pytest.fixture(scope="module")
def scenario(mixed, families):
    """Give a model of four layers on both nodes, two layers on each."""
    return perfsim.Scenario(mixed, families["llama"], PLAN, perfsim.Workload(batch_size=7, sequence_length=300))


def test_each_stage_is_priced_on_its_own_device(scenario, fast, slow, mixed):
    """Kernels, and collectives over the network of its own node; what is handed over passes the joining tier."""
    program = make_program(scenario)
    joining = len(mixed.tiers) - 1
    for operator, cost in zip(program.graphs[0], program.costs(0), strict=True):
        crosses = isinstance(operator.work, Transfer)
        cluster = mixed if crosses else (fast, slow)[operator.stage]
        assert float(cost.seconds) == float(price(operator.work, cluster).seconds)
        if crosses:
            assert operator.work.tier == joining
            assert cost.seconds >= operator.work.payload_bytes / ETHERNET.bytes_per_s
    seconds = {operator.name: float(cost.seconds) for operator, cost in zip(program.graphs[0], program.costs(0),
                                                                            strict=True)}  # fmt: skip
    assert seconds["layer_02.mlp_up"] > seconds["layer_01.mlp_up"]
    assert seconds["layer_02.mlp_all_reduce"] > seconds["layer_01.mlp_all_reduce"]


def test_a_stage_does_as_on_a_cluster_of_its_own_kind(scenario, fast, slow):
    """Its operators take what they take there; only the hand-over differs."""
    durations = {}
    for name, cluster in (("mixed", scenario.cluster), ("fast", fast), ("slow", slow)):
        whole = cluster if name == "mixed" else dataclasses.replace(cluster, num_devices=16)
        program = make_program(scenario.with_(cluster=whole))
        durations[name] = {
            operator.name: program.operator_ps[:, index].tolist()
            for index, operator in enumerate(program.graphs[0])
            if operator.kind != "transfer"
        }
    stage = {operator.name: operator.stage for operator in perfsim.operator_graph(scenario)}
    for name, found in durations["mixed"].items():
        assert found == durations[("fast", "slow")[stage[name]]][name]


def test_the_other_way_round_the_other_stage_is_slow(scenario, fast, slow):
    """The order in which clusters are joined is that of the stages."""
    scenario = scenario.with_(sequence_length=8192)
    turned = scenario.with_(cluster=perfsim.join_clusters(slow, fast, tier=ETHERNET))
    busy = [
        perfsim.simulate(given).load_balance.groupby("stage")["compute_s"].mean().tolist()
        for given in (scenario, turned)
    ]
    assert busy[0][0] < busy[0][1]
    assert busy[1][0] > busy[1][1]


def test_layers_can_be_moved_to_the_faster_stage(scenario):
    """Three layers on the H100s and one on the L40S: the pipeline gets faster, and its verification says why it may."""
    balanced, moved = (perfsim.simulate(scenario.with_(layers_per_stage=layers)) for layers in ((2, 2), (3, 1)))
    assert moved.makespan_s < balanced.makespan_s
    failed = [check.name for check in moved.dag.verify().checks if not check.passed]
    assert failed == ["balance"]
    assert balanced.dag.verify()["structure"].passed


@pytest.mark.parametrize("detail", ["folded", "full"])
def test_memory_is_measured_against_the_device_of_the_stage(scenario, fast, slow, detail):
    """A capacity and a reserve for each kind."""
    result = perfsim.simulate(scenario, detail=detail)
    for stage, cluster in enumerate((fast, slow)):
        rows = result.memory[result.memory["stage"] == stage]
        assert set(rows["capacity_bytes"]) == {cluster.accelerator.memory_bytes}
        assert set(rows["reserve_bytes"]) == {cluster.reserve_bytes}
    assert result.fits


def test_a_plan_that_fits_on_one_kind_only_does_not_fit(scenario):
    """60 GB of cache a device fit on an H100, not on an L40S."""
    sequences = 60 * 10**9 // (2 * 300 * 128)
    kept = scenario.with_(batch_size=sequences, microbatch_size=2000)
    memory = perfsim.simulate(kept).memory
    assert memory.groupby("stage")["fits"].all().tolist() == [True, False]
    assert not perfsim.simulate(kept).fits


def test_utilisation_is_of_the_peaks_of_all_devices(scenario, fast, slow):
    """Eight of each."""
    result = perfsim.simulate(scenario)
    peak = 8 * sum(cluster.accelerator.peak_flop_per_s["bf16"] for cluster in (fast, slow))
    flop = closed_form_flop(scenario.model, scenario.workload)
    assert result.mfu == flop / (result.makespan_s * peak)


@pytest.mark.parametrize("phase", ["prefill", "decode", "generation"])
@pytest.mark.parametrize(
    "order", [("tensor", "context", "data", "pipeline"), ("data", "tensor", "context", "pipeline")]
)
def test_points_of_a_sweep_equal_simulate(scenario, phase, order):
    """To the bit, with the capacity of the stage that has the least room."""
    plan = dataclasses.replace(PLAN, tensor=4, data=2, rank_order=order)
    output_length = 3 if phase == "generation" else 1
    base = scenario.with_(plan=plan, batch_size=8, phase=phase, output_length=output_length)
    axes = {"batch_size": [2, 10, 600_000], "sequence_length": [100, 900]} if phase == "prefill" else {
        "batch_size": [2, 10], "sequence_length": [100, 900]}  # fmt: skip
    axes["microbatch_size"] = [None, 2] if phase != "prefill" else [None, 150_000]
    table = perfsim.sweep(base, progress=False, **axes)
    for _, row in table.iterrows():
        result = perfsim.simulate(perfsim.scenario_at(row))
        fullest = (result.memory["peak_bytes"] - result.memory["capacity_bytes"]).idxmax()
        assert row["makespan_s"] == result.makespan_s
        assert row["mfu"] == result.mfu
        assert row["peak_bytes"] == result.memory.loc[fullest, "peak_bytes"]
        assert row["capacity_bytes"] == result.memory.loc[fullest, "capacity_bytes"]
        assert row["fits"] == result.fits
    if phase == "prefill":
        assert set(table["fits"]) == {True, False}


def test_speeds_of_one_kind_are_a_matter_of_its_own_stage(scenario, fast, slow):
    """A faster memory of the second kind leaves the first stage as it is, in a sweep over clusters too."""
    accelerator = dataclasses.replace(slow.accelerator, memory_bytes_per_s=2 * slow.accelerator.memory_bytes_per_s)
    faster = perfsim.join_clusters(fast, dataclasses.replace(slow, accelerator=accelerator), tier=ETHERNET)
    programs = [make_program(scenario.with_(cluster=cluster)) for cluster in (scenario.cluster, faster)]
    first = [operator.stage == 0 for operator in programs[0].graphs[0]]
    durations = [program.operator_ps for program in programs]
    assert np.array_equal(durations[0][:, first], durations[1][:, first])
    assert not np.array_equal(durations[0], durations[1])
    table = perfsim.sweep(scenario, progress=False, cluster={"as it is": scenario.cluster, "faster": faster})
    wanted = [perfsim.simulate(scenario.with_(cluster=cluster)).makespan_s for cluster in (scenario.cluster, faster)]
    assert table["makespan_s"].tolist() == wanted


def test_quantised_weights_are_multiplied_as_every_device_can(mixed, fast, families):
    """DeepSeek's FP8 weights are multiplied in FP8 where both kinds can, else unpacked on both."""
    old = perfsim.load_cluster("dgx-a100-80gb", num_devices=8)
    workload = perfsim.Workload(batch_size=2, sequence_length=64)
    for cluster, dtype in ((mixed, "fp8_block"), (perfsim.join_clusters(fast, old, tier=ETHERNET), "bf16")):
        scenario = perfsim.Scenario(cluster, families["deepseek"], PLAN, workload)
        works = {operator.op: operator.work for operator in perfsim.operator_graph(scenario) if operator.layer == 1}
        assert works["kv_up_proj"].dtype == dtype
        assert (works["kv_up_proj"].weight_dtype or works["kv_up_proj"].dtype).startswith("fp8")
        assert works["router"].dtype == "bf16"
        assert perfsim.simulate(scenario).dag.verify()["dimensions"].passed
