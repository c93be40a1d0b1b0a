"""Each change that an adviser tries is possible, is one, and is of its kind."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.spec.hardware import NetworkTier
from perfsim.study.changes import CLUSTER, DEGREES, FASTER, SMALLER, changed_by, changes_of, largest_batch
from perfsim.study.least_memory import least_bytes

KINDS = sorted({*SMALLER, *FASTER})


def found(scenario, kind):
    """Give what the changes of a kind change, in their order."""
    return [change.changes for change in changes_of(scenario, kind)]


@settings(max_examples=30)
@given(data=st.data())
def test_changes_are_those_that_with_makes(data, small_scenarios):
    """None leaves the scenario as it is, none comes twice, each gives a reason."""
    scenario = data.draw(small_scenarios)
    for kind in KINDS:
        changes = list(changes_of(scenario, kind))
        for change in changes:
            assert change.kinds == (kind,)
            assert change.reason
            assert change.scenario == scenario.with_(**change.changes)
            assert change.scenario != scenario
        assert len({str(change.changes) for change in changes}) == len(changes)


@settings(max_examples=30)
@given(data=st.data())
def test_other_degrees_are_on_the_same_devices(data, small_scenarios):
    """The nearest first."""
    scenario = data.draw(small_scenarios)
    number = scenario.plan.num_devices
    distances = []
    for change in changes_of(scenario, "degrees"):
        plan = change.scenario.plan
        assert plan.num_devices == number
        moved = (getattr(plan, name) / getattr(scenario.plan, name) for name in DEGREES)
        distances.append(sum(abs(math.log2(ratio)) for ratio in moved))
    assert distances == sorted(distances)
    assert all(distances)


def test_degrees_of_a_plan():
    """All ways to share two nodes out, with what means nothing any more put back."""
    scenario = perfsim.load_scenario("seed-improved").with_(phase="decode", keep_kv_cache=True)
    scenario = scenario.with_(sequence_parallel=True, overlap_chunks=1, layers_per_stage=(7, 9), tensor=4)
    assert found(scenario, "degrees") == [
        {"tensor": 2, "data": 2},
        {"tensor": 2, "pipeline": 4, "layers_per_stage": None},
        {"pipeline": 1, "data": 2, "layers_per_stage": None},
        {"tensor": 8, "pipeline": 1, "layers_per_stage": None},
        {"tensor": 1, "data": 4, "sequence_parallel": False},
        {"tensor": 1, "pipeline": 4, "data": 2, "layers_per_stage": None, "sequence_parallel": False},
        {"tensor": 1, "pipeline": 8, "layers_per_stage": None, "sequence_parallel": False},
        {"tensor": 2, "pipeline": 1, "data": 4, "layers_per_stage": None},
        {"tensor": 1, "pipeline": 1, "data": 8, "layers_per_stage": None, "sequence_parallel": False},
    ]


def test_smaller_and_other_microbatches(improved):
    """Powers of two; a plan with its own rule has a size too."""
    scenario = improved.with_(microbatch_size=6, batch_size=20)
    assert found(scenario, "smaller microbatch") == [{"microbatch_size": size} for size in (4, 2, 1)]
    assert found(scenario, "microbatch") == [{"microbatch_size": size} for size in (1, 2, 4, 8, 16)]
    assert found(scenario.with_(microbatch_size=None), "smaller microbatch")[0] == {"microbatch_size": 8}
    assert found(improved, "smaller microbatch") == []


def test_sequence_parallelism_takes_the_place_of_scatter_gather(improved):
    """Where it is there already, or cannot be, it is no change."""
    assert found(improved, "sequence parallelism") == [{"sequence_parallel": True}]
    scattered = found(improved.with_(scatter_gather=True), "sequence parallelism")
    assert scattered == [{"sequence_parallel": True, "scatter_gather": False}]
    assert found(improved.with_(sequence_parallel=True), "sequence parallelism") == []
    assert found(improved.with_(tensor=1), "sequence parallelism") == []


def test_layers_leave_the_fullest_stage_as_long_as_that_helps(improved):
    """Each step leaves more room on the fullest stage; the last stage has receive buffers, and so one layer less."""
    scenario = improved.with_(layers_per_stage=(13, 3))
    changes = list(changes_of(scenario, "layers"))
    assert [change.changes["layers_per_stage"][0] for change in changes] == [12, 11, 10, 9]
    least = [least_bytes(change.scenario).max() for change in changes]
    assert least == sorted(least, reverse=True)
    assert found(improved.with_(layers_per_stage=(9, 7)), "layers") == []


def test_the_head_counts_where_layers_move(h100):
    """A large vocabulary makes the ends of a pipeline full."""
    model = perfsim.load_model("llama-3.1-8b")
    plan = perfsim.Plan(pipeline=16, microbatch_size=1)
    scenario = perfsim.Scenario(h100, model, plan, perfsim.Workload(batch_size=4, sequence_length=64))
    first = found(scenario, "layers")[0]["layers_per_stage"]
    assert sum(first) == 32
    assert (first[0], first[-1]) in {(1, 2), (2, 1)}


def test_kinds_of_kv_cache(improved):
    """Dropping it is for prefill alone, one byte for what has more."""
    kept = improved.with_(keep_kv_cache=True)
    assert found(kept, "KV cache") == [{"kv_dtype": "fp8"}, {"keep_kv_cache": False}]
    assert found(kept.with_(phase="decode", kv_dtype="fp8"), "KV cache") == []
    assert found(improved, "KV cache") == []


def test_weights_are_quantised_once(improved):
    """And not where the workload says in what to compute."""
    assert found(improved, "weights") == [{"quantization": "fp8"}, {"quantization": "int4"}]
    assert found(improved.with_(quantization="fp8"), "weights") == []
    assert found(improved.with_(**{"workload.dtype": "fp8"}), "weights") == []


def test_the_largest_batch_is_smaller_than_the_batch(improved):
    """One that fits already, and one of which nothing fits, are none."""
    kept = improved.with_(keep_kv_cache=True)
    assert [change.changes for change in largest_batch(kept)] == [{"batch_size": perfsim.max_batch(kept)}]
    assert list(largest_batch(improved)) == []
    assert list(largest_batch(kept.with_(**{"cluster.accelerator.memory_bytes": 2**32}))) == []
    assert found(improved.with_(batch_size=12, data=1), "batch") == [{"batch_size": b} for b in (6, 3, 1)]


def test_more_devices_enlarge_the_cluster_where_they_must(h100, improved):
    """Twice to four times as many; those that the cluster has are taken first."""
    changes = found(improved.with_(sequence_length=10_000), "devices")
    assert {"tensor": 16, CLUSTER: 32} in changes
    assert {"data": 4, CLUSTER: 64} in changes
    assert {"pipeline": 4} in found(improved.with_(**{CLUSTER: 32}), "devices")
    mixture = perfsim.Scenario(h100, perfsim.load_model("deepseek-v3"), perfsim.Plan(data=8, expert=8),
                               perfsim.Workload(batch_size=64))  # fmt: skip
    assert {"data": 16, "expert": 16} in found(mixture, "devices")


def test_a_mixed_cluster_is_not_enlarged(h100, improved):
    """There is nobody to ask of which kind the others should be; those that are there may be taken."""
    tier = NetworkTier("ethernet", bytes_per_s=25e9, latency_s=5e-6)
    cluster = perfsim.join_clusters(h100, h100, tier=tier)
    assert {CLUSTER for changes in found(improved.with_(cluster=cluster), "devices") if CLUSTER in changes} == set()
    assert {"pipeline": 4} in found(improved.with_(cluster=cluster), "devices")


@pytest.mark.parametrize("changes", [{"tensor": 3}, {"data": 7}, {CLUSTER: 8}])
def test_what_is_impossible_is_none(changes, improved):
    """Whatever makes it so."""
    assert changed_by(improved, changes) is None


def test_two_changes_make_one(improved):
    """The later one is of what the first one made."""
    (first,) = changes_of(improved, "sequence parallelism")
    second = next(iter(changes_of(first.scenario, "microbatch")))
    both = first.then(second)
    assert both.kinds == ("sequence parallelism", "microbatch")
    assert both.scenario == improved.with_(**both.changes)
    assert first.reason in both.reason
    assert second.reason in both.reason
