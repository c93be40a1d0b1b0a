"""Scenarios: what the parts do not allow of each other, what follows from them, and changed copies."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim import Plan, Scenario, Workload
from perfsim.spec.model import Model


def test_more_devices_than_the_cluster_has_are_refused(refused, improved):
    """The product is shown, and the way out."""
    (fault,) = refused(improved.with_, data=2)
    assert fault.field == "plan"
    assert fault.value == "8 tensor x 2 pipeline x 2 data = 32 devices"
    assert "16 devices" in fault.allowed
    assert "num_devices=32" in fault.way_out


def test_heads_that_the_tensor_degree_does_not_divide_are_refused(refused, improved):
    """The legal degrees are the way out."""
    (fault,) = refused(improved.with_, tensor=8, num_attention_heads=12, num_key_value_heads=4, intermediate_size=24)
    assert (fault.field, fault.value) == ("plan.tensor", 8)
    assert "num_attention_heads = 12" in fault.allowed
    assert fault.way_out == "use one of 1, 2, 4, 12"


@pytest.mark.parametrize(
    ("tensor", "changes", "field"),
    [
        (8, {"num_attention_heads": 24, "num_key_value_heads": 3}, "num_key_value_heads = 3"),
        (8, {"intermediate_size": 1004}, "intermediate_size = 1004"),
        (8, {"hidden_size": 8196, "scatter_gather": True}, "hidden_size = 8196"),
        (
            5,
            {"num_attention_heads": 1, "num_key_value_heads": 1, "hidden_size": 5, "intermediate_size": 5},
            "heads = 1",
        ),
    ],
)
def test_every_size_that_ranks_share_must_be_divisible(refused, improved, tensor, changes, field):
    """KV heads of which ranks have neither shares nor copies, the MLP's width, the hidden size where it is shared."""
    (fault,) = refused(improved.with_, tensor=tensor, **changes)
    assert fault.field == "plan.tensor"
    assert fault.way_out
    assert field in fault.allowed


@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8, 16])
def test_ranks_beyond_the_heads_of_k_and_v_hold_copies(improved, kv_heads):
    """So grouped heads may be fewer than ranks."""
    assert improved.with_(num_key_value_heads=kv_heads).plan.tensor == 8


def test_more_stages_than_layers_are_refused(refused, improved):
    """Each stage needs a layer."""
    (fault,) = refused(improved.with_, tensor=1, pipeline=16, num_hidden_layers=15)
    assert (fault.field, fault.value) == ("plan.pipeline", 16)
    assert "15 layers" in fault.allowed
    assert fault.way_out


@pytest.mark.parametrize("layers", [(8, 7), (8, 9)])
def test_stages_must_hold_all_layers(refused, improved, layers):
    """No layer is left out and none is there twice."""
    (fault,) = refused(improved.with_, layers_per_stage=layers)
    assert (fault.field, fault.value) == ("plan.layers_per_stage", list(layers))
    assert "16 layers" in fault.allowed


def test_replicas_take_equal_shares(refused, improved):
    """The batch is a multiple of the replicas."""
    (fault,) = refused(improved.with_, tensor=4, data=2, batch_size=1023)
    assert (fault.field, fault.value) == ("workload.batch_size", 1023)
    assert "plan.data = 2" in fault.allowed


def test_a_dtype_that_the_device_lacks_is_refused(refused, improved):
    """Whether the workload asks for it or the model."""
    a100 = perfsim.load_cluster("dgx-a100-80gb", num_devices=16)
    (fault,) = refused(improved.with_, cluster=a100, dtype="fp8")
    assert (fault.field, fault.value) == ("workload.dtype", "fp8")
    assert "bf16" in fault.allowed


def test_faults_between_parts_come_together(refused, improved):
    """Devices, heads, stages, replicas and dtype in one error."""
    a100 = perfsim.load_cluster("dgx-a100-80gb")
    faults = refused(improved.with_, cluster=a100, tensor=5, pipeline=17, data=3, dtype="fp8")
    assert {fault.field for fault in faults} == {
        "plan", "plan.tensor", "plan.pipeline", "workload.batch_size", "workload.dtype",
    }  # fmt: skip


@pytest.mark.parametrize("part", ["cluster", "model", "plan", "workload"])
def test_a_part_of_another_type_is_refused(refused, improved, part):
    """A name is not a cluster."""
    (fault,) = refused(dataclasses.replace, improved, **{part: "dgx-h100"})
    assert (fault.field, fault.value) == (part, "dgx-h100")
    assert part.capitalize() in fault.allowed


def test_all_parts_of_another_type_are_refused_together(refused):
    """Four wrong parts are four faults."""
    assert len(refused(Scenario, 1, 2, 3, 4)) == 4


def test_with_finds_fields_by_their_name(improved):
    """In the workload, the plan, the model and the cluster."""
    changed = improved.with_(batch_size=64, tensor=4, num_hidden_layers=8, reserve_bytes=0)
    assert (changed.workload.batch_size, changed.plan.tensor) == (64, 4)
    assert (changed.model.num_hidden_layers, changed.cluster.reserve_bytes) == (8, 0)
    assert improved.workload.batch_size == 1024


def test_with_takes_whole_parts_and_fields_of_them(improved):
    """A new plan, and a change to it, in one step."""
    changed = improved.with_(plan=Plan(tensor=2, pipeline=4), receive_buffers=5)
    assert changed.plan == Plan(tensor=2, pipeline=4, receive_buffers=5)


def test_with_takes_dotted_names(improved):
    """Down to a field of a tier and a peak of the device."""
    changed = improved.with_(**{
        "plan.tensor": 4, "cluster.accelerator.tdp_watt": 500, "cluster.accelerator.peak_flop_per_s.bf16": 1e15,
        "cluster.tiers.1.bytes_per_s": 25e9, "cluster.efficiency.matmul": 0.5, "cluster.name": "x",
    })  # fmt: skip
    cluster = changed.cluster
    assert (changed.plan.tensor, cluster.accelerator.tdp_watt, cluster.name) == (4, 500, "x")
    assert cluster.accelerator.peak_flop_per_s["bf16"] == 1e15
    assert cluster.accelerator.peak_flop_per_s["fp8"] == improved.cluster.accelerator.peak_flop_per_s["fp8"]
    assert [tier.bytes_per_s for tier in cluster.tiers] == [450e9, 25e9]
    assert cluster.efficiency.matmul == 0.5
    assert hash(changed) != hash(improved)


def test_with_refuses_unknown_names_together(refused, improved):
    """Each with the spelling that was meant."""
    faults = {fault.field: fault.way_out for fault in refused(improved.with_, tenser=4, batchsize=3)}
    assert faults == {"tenser": "did you mean 'tensor'?", "batchsize": "did you mean 'batch_size'?"}


@pytest.mark.parametrize("name", ["plan.tenser", "plann.tensor", "hardware.name", "plan.", ".tensor"])
def test_with_refuses_unknown_dotted_names(refused, improved, name):
    """The part and the field must both be there."""
    (fault,) = refused(improved.with_, **{name: 4})
    assert fault.field == name


@pytest.mark.parametrize(
    "name",
    ["cluster.accelerator.tdp_wat", "cluster.efficiency.matmull", "cluster.tiers.5.bytes_per_s",
     "cluster.tiers.x.bytes_per_s", "cluster.tiers.7", "cluster.tiers.0.bytes", "plan.tensor.x"],
)  # fmt: skip
def test_with_refuses_unknown_nested_names(refused, improved, name):
    """However deep; nothing is dropped without a word."""
    assert refused(improved.with_, **{name: 5})


def test_with_names_the_whole_path_of_every_fault(refused, improved):
    """Unknown and wrong nested fields come together."""
    changes = {
        "cluster.tiers.1.bytes_per_s": 0, "cluster.efficiency.matmul": 2, "cluster.accelerator.tdp_wat": 5,
        "cluster.accelerator.peak_flop_per_s.bf17.dense": 1e15, "cluster.num_devices": 0,
    }  # fmt: skip
    faults = {fault.field: fault for fault in refused(improved.with_, **changes)}
    assert faults.keys() == changes.keys()
    assert faults["cluster.accelerator.tdp_wat"].way_out == "did you mean 'tdp_watt'?"


def test_with_takes_a_nested_part_and_a_field_of_it(improved):
    """The field changes the part that was given, not the one that was there."""
    given = dataclasses.replace(improved.cluster.efficiency, attention=0.25)
    changed = improved.with_(**{"cluster.efficiency.matmul": 0.5, "cluster.efficiency": given})
    assert changed.cluster.efficiency == dataclasses.replace(given, matmul=0.5)


def test_with_refuses_a_name_that_stands_in_two_parts(refused, improved):
    """And says how to write it."""
    (fault,) = refused(improved.with_, name="x")
    assert fault.field == "name"
    assert fault.way_out == "write cluster.name or model.name"


def test_with_refuses_fields_of_a_part_of_another_type(refused, improved):
    """A wrong part is named, whatever else is asked for."""
    faults = refused(improved.with_, plan=5, tensor=2)
    assert ("plan", 5) in [(fault.field, fault.value) for fault in faults]


def test_with_reports_the_faults_of_all_parts_together(refused, improved):
    """A wrong plan does not hide a wrong workload."""
    faults = refused(improved.with_, tensor=0, batch_size=-1, hidden_size="x")
    assert {fault.field for fault in faults} == {"plan.tensor", "workload.batch_size", "model.hidden_size"}


def test_numpy_sizes_are_sizes(improved):
    """A sweep over an array gives equal scenarios with equal hashes."""
    given = improved.with_(batch_size=np.int64(64), tensor=np.int32(4), microbatch_size=np.int8(2))
    wanted = improved.with_(batch_size=64, tensor=4, microbatch_size=2)
    assert given == wanted
    assert hash(given) == hash(wanted)
    assert given.microbatch_sizes == wanted.microbatch_sizes


@pytest.mark.parametrize("field", ["batch_size", "tensor", "num_hidden_layers"])
def test_booleans_are_no_sizes(refused, improved, field):
    """True is not 1."""
    (fault,) = refused(improved.with_, **{field: True})
    assert fault.value is True


def test_the_seeds_are_what_the_design_says(seeds):
    """16 GPUs each; one layer a GPU, twice, and TP8 x PP2."""
    for scenario in seeds.values():
        assert scenario.cluster == perfsim.load_cluster("dgx-h100", num_devices=16)
        assert scenario.model == perfsim.load_model("llm-16l-8192")
        assert scenario.workload == Workload(batch_size=1024, sequence_length=10_000, keep_kv_cache=False)
        assert scenario.num_microbatches == 1024
    plans = {name.removeprefix("seed-"): scenario.plan for name, scenario in seeds.items()}
    assert plans == {
        "baseline": Plan(pipeline=16, microbatch_size=1, schedule="sequential"),
        "layerwise-pipelined": Plan(pipeline=16, microbatch_size=1),
        "improved": Plan(tensor=8, pipeline=2, microbatch_size=1),
    }


@pytest.mark.parametrize(
    ("plan", "batch", "sizes"),
    [
        (Plan(), 7, (7,)),
        (Plan(pipeline=3), 7, (3, 3, 1)),
        (Plan(pipeline=2, data=2), 8, (2, 2)),
        (Plan(pipeline=2, microbatch_size=4), 10, (4, 4, 2)),
        (Plan(microbatch_size=4), 3, (3,)),
        (Plan(data=3, microbatch_size=2), 9, (2, 1)),
    ],
)
def test_microbatches_cut_the_batch_of_a_replica(h100, plan, batch, sizes):
    """The last may be ragged."""
    model = Model("m", num_hidden_layers=4, hidden_size=8, num_attention_heads=1, intermediate_size=8)
    scenario = Scenario(h100, model, plan, Workload(batch_size=batch))
    assert scenario.microbatch_sizes == sizes
    assert scenario.num_microbatches == len(sizes)


def test_layers_are_as_even_as_possible(h100):
    """The first stages take what is left over."""
    model = Model("m", num_hidden_layers=11, hidden_size=8, num_attention_heads=1, intermediate_size=8)
    scenario = Scenario(h100, model, Plan(pipeline=4), Workload())
    assert scenario.layers_per_stage == (3, 3, 3, 2)
    assert [list(scenario.stage_layers(stage)) for stage in (0, 3)] == [[0, 1, 2], [9, 10]]


@given(data=st.data())
def test_parts_of_a_scenario_are_partitions(data, small_scenarios):
    """Every layer, device and sequence is somewhere exactly once."""
    scenario = data.draw(small_scenarios)
    plan = scenario.plan
    stages = range(plan.pipeline)
    layers = [layer for number in range(plan.num_passes) for layer in scenario.stage_layers(number)]
    assert layers == [*range(scenario.model.num_hidden_layers)]
    assert [device for stage in stages for device in scenario.stage_devices(stage)] == [*range(plan.num_devices)]
    for stage in stages:
        groups = [scenario.tensor_group(stage, number) for number in range(plan.data * plan.context)]
        assert groups == scenario.group_devices("tensor", stage)
        for kind in ("tensor", "context", "expert"):
            members = [device for group in scenario.group_devices(kind, stage) for device in group]
            assert sorted(members) == [*scenario.stage_devices(stage)]
            assert {len(group) for group in scenario.group_devices(kind, stage)} == {getattr(plan, kind)}
    assert sorted(map(scenario.place_of, range(plan.num_devices))) == [*range(plan.num_devices)]
    assert sum(scenario.microbatch_sizes) * plan.data == scenario.workload.batch_size


@given(data=st.data())
def test_a_scenario_pickles_hashes_and_equals_its_copy(data, small_scenarios):
    """Scenarios travel to worker processes and serve as keys."""
    scenario = data.draw(small_scenarios)
    again = pickle.loads(pickle.dumps(scenario))  # noqa: S301
    assert again == scenario
    assert hash(again) == hash(scenario)
    assert again.microbatch_sizes == scenario.microbatch_sizes


def test_a_scenario_is_frozen(improved):
    """A change is a copy."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        improved.plan = Plan()
