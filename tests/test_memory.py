"""HOW BIG: weights, KV cache and buffers against closed forms, and what each operator allocates and frees."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim.memory import activation_buffers, resident_memory, tile_bytes, working_set_bytes
from perfsim.units import DTYPE_BYTES, GB, KIB

NO_PLACE = {"split", "slice", "last", "transfer", "receive", "gather", "output"}


def resident_of(scenario):
    """Give what stays in memory for a device of each stage."""
    return resident_memory(scenario, perfsim.operator_graph(scenario))


@given(data=st.data())
def test_the_weights_of_all_devices_are_the_models(data, plain_scenarios):
    """Matrices are shared by the ranks of a group, norms are on each of them, replicas have everything."""
    scenario = data.draw(plain_scenarios)
    model, tensor = scenario.model, scenario.plan.tensor
    norms = 2 * model.hidden_size * model.num_hidden_layers
    held = sum(stage.weights_bytes for stage in resident_of(scenario)) * tensor
    assert held == (model.num_parameters - norms + tensor * norms) * DTYPE_BYTES[scenario.dtype]


@given(data=st.data())
def test_the_kv_cache_of_a_replica_is_the_closed_form(data, plain_scenarios):
    """K and V of every token in every layer, nothing twice, in the data type of the cache."""
    scenario = data.draw(plain_scenarios)
    stages = resident_of(scenario)
    tokens = scenario.replica_batch * scenario.workload.sequence_length
    total = tokens * scenario.model.kv_cache_bytes_per_token(scenario.kv_dtype)
    assert sum(stage.kv_cache_if_kept_bytes for stage in stages) * scenario.plan.tensor == total
    kept = [stage.kv_cache_if_kept_bytes if scenario.workload.keep_kv_cache else 0 for stage in stages]
    assert [stage.kv_cache_bytes for stage in stages] == kept


def test_the_kv_cache_of_the_seed_takes_335_gb_a_gpu(seed):
    """5.37 TB in all: 2 tensors x 1024 x 10000 tokens x 8192 x 16 layers x 2 bytes."""
    a_gpu = {stage.kv_cache_if_kept_bytes for stage in resident_of(seed)}
    assert a_gpu == {335_544_320_000}
    assert 16 * 335_544_320_000 == 2 * 1024 * 10_000 * 8192 * 16 * 2 == pytest.approx(5.37e12, rel=1e-3)


@given(data=st.data())
def test_receive_buffers_hold_hand_overs(data, plain_scenarios):
    """The first stage has none; the others hold as many as the plan says, whole or a share."""
    scenario = data.draw(plain_scenarios)
    model, plan = scenario.model, scenario.plan
    hand_over = scenario.microbatch_size * scenario.workload.query_tokens * model.hidden_size
    share = plan.tensor if plan.scatter_gather else 1
    buffers = plan.receive_buffers * (hand_over // share) * DTYPE_BYTES[scenario.dtype]
    assert [stage.buffer_bytes for stage in resident_of(scenario)] == [0] + [buffers] * (plan.pipeline - 1)


def test_resident_memory_adds_up(improved):
    """With the framework's reserve; 2 GiB unless the profile says otherwise."""
    stage = resident_of(improved.with_(keep_kv_cache=True))[1]
    parts = (stage.weights_bytes, stage.kv_cache_bytes, stage.buffer_bytes, stage.reserve_bytes)
    assert stage.total_bytes == sum(parts)
    assert all(parts)
    assert stage.reserve_bytes == 2 * 2**30


def test_grouped_heads_keep_less(improved):
    """Four heads of K and V take a quarter of what sixteen take."""
    grouped = improved.with_(num_key_value_heads=4, tensor=4)
    whole = improved.with_(tensor=4)
    assert 4 * resident_of(grouped)[0].kv_cache_if_kept_bytes == resident_of(whole)[0].kv_cache_if_kept_bytes


@given(data=st.data())
def test_every_output_has_a_place(data, small_scenarios):
    """Once, on its stage, except where an all-reduce works in place or a hand-over lies in its receive buffer.

    What is cut out of a tensor lies in its memory; experts have a place for what stands between their matrices.
    """
    graph = perfsim.operator_graph(data.draw(small_scenarios))
    buffers = activation_buffers(graph)
    names = [buffer.name for buffer in buffers]
    expected = {
        f"{operator.name}: {tensor.name}"
        for operator in graph
        if operator.kind not in NO_PLACE and getattr(operator.work, "op", "") != "all_reduce"
        for tensor in operator.outputs
    } | {f"{operator.name}: workspace" for operator in graph if operator.kind == "experts"}
    assert len(names) == len(set(names))
    assert set(names) == expected
    for buffer in buffers:
        assert buffer.bytes > 0
        assert {graph.operators[user].stage for user in buffer.users} == {buffer.stage}
        assert buffer.allocated_by == min(buffer.users)


def test_a_buffer_lives_until_its_last_user(improved):
    """The layer's input waits for the residual; what an all-reduce completes is the projection's own memory."""
    graph = perfsim.operator_graph(improved)
    users = {b.name: {graph.operators[user].op for user in b.users} for b in activation_buffers(graph)}
    assert users["input: hidden"] == {"attention_norm", "attention_residual"}
    completed = users["layer_00.output_proj: output_proj_out"]
    assert completed == {"output_proj", "attention_all_reduce", "attention_residual"}
    assert users["layer_07.mlp_residual: mlp_residual_out"] == {"mlp_residual", "send"}
    assert users["layer_15.mlp_residual: mlp_residual_out"] == {"mlp_residual"}


def test_buffers_come_in_the_order_of_allocation(improved):
    """So that a table of them reads like the layer."""
    allocated = [buffer.allocated_by for buffer in activation_buffers(perfsim.operator_graph(improved))]
    assert all(before <= after for before, after in pairwise(allocated))


def test_working_sets_are_operands_and_results(improved):
    """In bytes of one execution on one device, worked out by hand."""
    graph = perfsim.operator_graph(improved)
    tokens, hidden = 10_000, 8192
    qkv = tokens * hidden + hidden * 3072 + tokens * 3072
    assert working_set_bytes(graph["layer_03.qkv_proj"]) == 2 * qkv
    assert working_set_bytes(graph["layer_03.attention"]) == 2 * 4 * tokens * 1024
    assert working_set_bytes(graph["layer_03.mlp_residual"]) == 2 * 3 * tokens * hidden
    assert working_set_bytes(graph["split"]) == 0


def test_tiles_are_those_of_common_kernels(improved):
    """Two buffers of two 128 x 64 tiles; 64 queries, keys and values of a head; a row of a norm."""
    graph = perfsim.operator_graph(improved)
    tiles = {op: tile_bytes(graph[f"layer_00.{op}"], 512) for op in ("mlp_up", "attention", "mlp_norm", "gelu")}
    assert tiles == {"mlp_up": 64 * KIB, "attention": 192 * KIB, "mlp_norm": 16 * KIB, "gelu": 0}


def test_one_layers_weight_shard_is_four_times_l2(improved):
    """201 MB against 52 MB, as the deployment's SRAM claim must be told."""
    graph = perfsim.operator_graph(improved)
    shard = sum(o.weight.device_count for o in graph if o.layer == 0 and o.weight is not None) * 2
    assert shard == pytest.approx(0.201 * GB, rel=0.002)
    assert shard / improved.cluster.accelerator.l2_bytes == pytest.approx(3.84, abs=0.01)
