"""Every point of a sweep equals `simulate` of its scenario to the bit, whatever varies."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.errors import InputError
from perfsim.spec.hardware import NetworkTier
from perfsim.study.points import Sizes, evaluate
from perfsim.study.sweep import sweep


@pytest.fixture(scope="module")
def base(improved):
    """Give the improved plan with four layers and a ragged batch of short sequences."""
    return improved.with_(num_hidden_layers=4, batch_size=11, sequence_length=700, microbatch_size=2)


def simulated(scenario):
    """Give the figures of one point, from `simulate`; those of an impossible one are missing."""
    try:
        result = perfsim.simulate(scenario())
    except InputError:
        return {"makespan_s": None, "fits": False}
    names = ("makespan_s", "first_sequence_s", "tokens_per_s", "mfu", "mfu_full_attention", "fits")
    memory = {"peak_bytes": result.memory["peak_bytes"].max(), "capacity_bytes": result.memory["capacity_bytes"].min()}
    return {**{name: getattr(result, name) for name in names}, **memory}


def assert_equals_simulate(scenario, axes):
    """Compare every row of a sweep with the simulation of its point; the points are told apart without the table."""
    table = sweep(scenario, progress=False, **axes)
    points = list(itertools.product(*axes.values()))
    assert len(table) == len(points)
    possible = 0
    for (_, row), values in zip(table.iterrows(), points, strict=True):
        wanted = simulated(lambda values=values: scenario.with_(**dict(zip(axes, values, strict=True))))
        possible += wanted["makespan_s"] is not None
        found = {name: None if pd.isna(row[name]) else row[name] for name in wanted}
        assert found == wanted, f"{dict(zip(axes, values, strict=True))}: {row['reason']}"
    assert possible, "a test without a possible point compares nothing"


def changed(value, **changes):
    """Copy a part of a scenario."""
    return dataclasses.replace(value, **changes)


AXES = {
    "batch": lambda _: {"batch_size": [1, 2, 3, 11, 64, 257]},
    "sequence": lambda _: {"sequence_length": [1, 2, 127, 128, 4096, 131_072]},
    "microbatch, with none given": lambda _: {"microbatch_size": [None, 1, 2, 3, 5, 11, 12, 10_000]},
    "phase": lambda _: {"phase": ["prefill", "decode"], "keep_kv_cache": [True]},
    "decoding over contexts": lambda base: {
        "workload": [changed(base.workload, phase="decode", keep_kv_cache=True)],
        "sequence_length": [1, 1000, 100_000],
        "batch_size": [1, 16],
    },
    "mask": lambda _: {"causal": [True, False]},
    "cache": lambda _: {"keep_kv_cache": [True, False], "batch_size": [11, 1024]},
    "data type": lambda _: {"dtype": [None, "fp8", "fp16", "int8", "fp32"]},
    "data type of the cache": lambda _: {"kv_dtype": [None, "fp8", "bf16", "fp32"], "keep_kv_cache": [True]},
    "tensor": lambda _: {"tensor": [1, 2, 3, 4, 8, 16]},
    "pipeline": lambda _: {"pipeline": [1, 2, 3, 4, 5], "tensor": [2]},
    "data": lambda _: {"data": [1, 2, 3, 4], "tensor": [2], "batch_size": [12, 11]},
    "schedule": lambda _: {"schedule": ["pipelined", "sequential"]},
    "uneven stages": lambda _: {"layers_per_stage": [None, (2, 2), (1, 3), (3, 1)]},
    "uneven stages of many": lambda _: {
        "plan": [perfsim.Plan(2, 3, layers_per_stage=layers) for layers in ((1, 1, 2), (1, 2, 1), (2, 1, 1))],
        "batch_size": [5, 61],
    },
    "hand-over": lambda _: {"scatter_gather": [False, True], "tensor": [1, 4]},
    "receive buffers": lambda _: {"receive_buffers": [1, 2, 3, 7], "layers_per_stage": [(1, 3), (2, 2)]},
    "whole plans": lambda base: {
        "plan": [
            base.plan,
            perfsim.Plan(),
            perfsim.Plan(4, 2, 2),
            perfsim.Plan(tensor=2, pipeline=4, schedule="sequential"),
            perfsim.Plan(tensor=4, pipeline=4, scatter_gather=True, receive_buffers=1, microbatch_size=3),
        ],
        "batch_size": [12],
    },
    "whole models": lambda base: {
        "model": [base.model, changed(base.model, name="narrow", hidden_size=1024, head_dim=64, intermediate_size=8)]
    },
    "whole clusters": lambda base: {
        "cluster": [
            base.cluster,
            perfsim.load_cluster("dgx-a100-80gb", num_devices=16),
            perfsim.load_cluster("dgx-h100", num_devices=8),
            changed(base.cluster, name="one tier", tiers=(NetworkTier("flat", 1e10, 1e-5),)),
        ]
    },
    "whole workloads": lambda base: {
        "workload": [base.workload, perfsim.Workload(phase="decode", batch_size=9), perfsim.Workload(batch_size=4)]
    },
    "bandwidth of a tier": lambda _: {"cluster.tiers.0.bytes_per_s": [1e10, 4.5e11, 1e13]},
    "bandwidth between the stages": lambda _: {"cluster.tiers.1.bytes_per_s": [1e8, 1e9, 5e10]},
    "latency of a tier": lambda _: {"cluster.tiers.0.latency_s": [1e-9, 1e-3]},
    "reach of a tier": lambda _: {
        "cluster.tiers.0.domain_size": [2, 4, 8],
        "cluster.tiers.0.bytes_per_s": [1e11, 2e11],
    },
    "reducing switch": lambda _: {"cluster.tiers.0.reduces_in_switch": [True, False]},
    "memory bandwidth": lambda _: {"cluster.accelerator.memory_bytes_per_s": [1e11, 3.35e12]},
    "memory": lambda _: {"cluster.accelerator.memory_bytes": [2**30, 4 * 2**30, 2**40]},
    "reserve": lambda _: {"reserve_bytes": [0, 2**31, 2**37]},
    "peak": lambda _: {"cluster.accelerator.peak_flop_per_s.bf16": [1e14, 2e15]},
    "efficiency": lambda _: {"cluster.efficiency.matmul": [0.1, 0.5, 1.0], "cluster.efficiency.network": [0.5, 1.0]},
    "time of a kernel": lambda _: {"cluster.efficiency.kernel_s": [0.0, 1e-6, 1e-3]},
    "devices": lambda _: {"num_devices": [8, 16, 64]},
    "layers": lambda _: {"model.num_hidden_layers": [1, 2, 3, 7]},
    "width": lambda _: {"hidden_size": [1024, 8192], "intermediate_size": [8, 4096]},
    "heads": lambda _: {"num_attention_heads": [16, 32], "num_key_value_heads": [8, 16], "head_dim": [64, 512]},
    "data type of the model": lambda _: {"torch_dtype": ["bfloat16", "float16", "float32"]},
    "batch and sequence": lambda _: {"batch_size": [1, 5, 64], "sequence_length": [1, 1000, 50_000]},
    "three sizes": lambda _: {
        "sequence_length": [64, 999],
        "microbatch_size": [None, 1, 3],
        "batch_size": [2, 7, 30],
    },
    "sizes around a plan": lambda _: {"batch_size": [4, 11], "tensor": [2, 8], "sequence_length": [100, 2000]},
    "a cluster inside of a plan": lambda _: {
        "schedule": ["pipelined", "sequential"],
        "cluster.tiers.0.bytes_per_s": [5e10, 4.5e11],
        "microbatch_size": [1, 4],
    },
    "one field over another": lambda base: {
        "plan": [base.plan, changed(base.plan, tensor=4, microbatch_size=None)],
        "microbatch_size": [1, None],
        "layers_per_stage": [(1, 3), None],
    },
}


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_points_equal_simulate(base, axes):
    """To the bit: times, throughput, utilization, memory and whether it fits."""
    assert_equals_simulate(base, axes(base))


def test_points_of_the_seeds_equal_simulate(seed):
    """With all of their layers; the largest has 1024 microbatches, the others are ragged."""
    ragged = seed.with_(microbatch_size=3)
    assert_equals_simulate(seed, {"batch_size": [1, 1024]})
    assert_equals_simulate(ragged, {"batch_size": [2, 100], "sequence_length": [333, 10_000]})


@settings(max_examples=25)
@given(data=st.data())
def test_points_of_small_scenarios_equal_simulate(data, small_scenarios):
    """Of every kind of model, plan and phase; its own sizes are possible, of the others some are not."""
    scenario = data.draw(small_scenarios)
    plan, workload = scenario.plan, scenario.workload
    batches = {
        workload.batch_size,
        *(plan.data * batch for batch in data.draw(st.sets(st.integers(1, 40), max_size=2))),
    }
    assert_equals_simulate(
        scenario,
        {
            "sequence_length": sorted({workload.sequence_length, data.draw(st.integers(1, 3000))}),
            "microbatch_size": list({plan.microbatch_size, data.draw(st.sampled_from([None, 1, 2, 5]))}),
            "batch_size": sorted(batches),
        },
    )


KINDS = {
    "tensor": {"tensor": 4},
    "sequence": {"tensor": 2, "sequence_parallel": True},
    "overlap": {"tensor": 2, "overlap_chunks": 3},
    "pipeline": {"pipeline": 2, "layers_per_stage": (3, 1)},
    "interleaved": {"tensor": 2, "pipeline": 2, "virtual_stages": 2},
    "context": {"data": 2, "context": 2},
    "experts of a group": {"tensor": 4, "expert": 2},
    "experts of replicas": {"tensor": 2, "data": 2, "expert": 4, "sequence_parallel": True, "overlap_chunks": 2},
    "rank order": {"tensor": 2, "pipeline": 2, "data": 2, "rank_order": ("data", "pipeline", "tensor", "context")},
}


@pytest.mark.parametrize("phase", ["prefill", "decode", "generation"])
@pytest.mark.parametrize("plan", KINDS.values(), ids=KINDS)
def test_points_of_every_kind_of_plan_equal_simulate(families, h100, phase, plan):
    """On a mixture with shared experts; some sizes cannot be divided, and a plan with rings only has a prefill."""
    workload = perfsim.Workload(phase=phase, output_length=3 if phase == "generation" else 1, expert_imbalance=1.5)
    scenario = perfsim.Scenario(h100, families["qwen2-moe"], perfsim.Plan(), workload)
    ringless = {**plan, "context": 1} if phase != "prefill" else plan
    axes = {
        "plan": list(dict.fromkeys([perfsim.Plan(**plan), perfsim.Plan(**ringless)])),
        "microbatch_size": [None, 3],
        "sequence_length": [2, 3, 500],
        "batch_size": [4, 7, 12],
    }
    assert_equals_simulate(scenario, axes)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_points_of_every_family_equal_simulate(family, h100, phase):
    """Arrays of sizes go through the same lists of operators: windows shorter and longer than the sequence."""
    scenario = perfsim.Scenario(h100, family, perfsim.Plan(tensor=2, pipeline=2), perfsim.Workload(phase=phase))
    assert_equals_simulate(scenario, {"sequence_length": [1, 95, 97, 2000], "batch_size": [1, 7]})


@pytest.mark.parametrize(
    ("changes", "link_bytes_per_s"),
    [
        ({"tensor": 2, "pipeline": 2}, 50e9),
        ({"tensor": 4, "pipeline": 3}, 42e9),
        ({"tensor": 2, "pipeline": 4, "receive_buffers": 3}, 46e9),
    ],
    ids=str,
)
def test_one_layer_a_stage_behind_a_slow_link_equals_simulate(base, changes, link_bytes_per_s):
    """The hand-over takes about as long as the layer: two circuits of waits take turns in setting the pace."""
    tiers = (
        NetworkTier("nvlink", 200e9, 1e-7, domain_size=changes["tensor"]),
        NetworkTier("ib", link_bytes_per_s, 1e-6),
    )
    model = changed(base.model, num_hidden_layers=changes["pipeline"], hidden_size=2048, head_dim=128)
    scenario = perfsim.Scenario(
        changed(base.cluster, tiers=tiers),
        changed(model, intermediate_size=4096),
        perfsim.Plan(**changes, microbatch_size=1),
        changed(base.workload, sequence_length=1000),
    )
    assert_equals_simulate(scenario, {"batch_size": [1, 2, 5, 40, 41]})


def sizes_of(points):
    """Give the sizes of points (batch, sequence, microbatch)."""
    return Sizes(*(np.array(column) for column in zip(*points, strict=True)))


@settings(max_examples=20)
@given(
    points=st.lists(
        st.tuples(st.integers(1, 60), st.sampled_from([1, 7, 512]), st.sampled_from([0, 1, 4])), min_size=1, max_size=8
    )
)
def test_a_point_does_not_depend_on_the_others(base, points):
    """In any order, alone or among others, also among its like."""
    together = evaluate(base, sizes_of(points))
    for position, point in enumerate(points):
        alone = evaluate(base, sizes_of([point]))
        assert {name: column[position] for name, column in together.items()} == {
            name: column[0] for name, column in alone.items()
        }


def test_the_sizes_of_the_scenario_itself_do_not_matter(base):
    """All of them come from the points."""
    points = sizes_of([(8, 100, 0), (8, 100, 3)])
    found = [evaluate(scenario, points) for scenario in (base, base.with_(batch_size=999, sequence_length=3))]
    for name, column in found[0].items():
        assert column.tolist() == found[1][name].tolist()


def test_work_beyond_whole_picoseconds_is_marked_where_simulate_refuses_it(improved, refused):
    """Three sequences of seventy million tokens take some weeks; many more are too much."""
    long = improved.with_(sequence_length=7 * 10**7)
    found = evaluate(long, sizes_of([(3, 7 * 10**7, 1), (8, 7 * 10**7, 1)]))
    assert found["too_long"].tolist() == [False, True]
    assert found["makespan_s"][0] == perfsim.simulate(long.with_(batch_size=3)).makespan_s
    refused(perfsim.simulate, long.with_(batch_size=8))


def test_a_ragged_last_microbatch_counts_at_its_size(improved):
    """What `simulate` takes is not too long: two sequences and one make three."""
    long = improved.with_(sequence_length=88 * 10**6, microbatch_size=2, batch_size=3)
    found = evaluate(long, sizes_of([(3, 88 * 10**6, 2)]))
    assert found["makespan_s"].tolist() == [perfsim.simulate(long).makespan_s]
    assert found["too_long"].tolist() == [False]
