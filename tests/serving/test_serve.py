"""Serving a scenario: step costs are those of the simulation of one pass, and what cannot be served is refused."""

import dataclasses

import numpy as np
import pytest

import perfsim
from perfsim.cost.pricing import price
from perfsim.ops.operators import MatMul
from perfsim.serving.scenario_costs import ScenarioCosts, kv_blocks_of


@pytest.fixture(scope="module")
def scenario():
    """Give Llama-3.1-8B on two H100s."""
    return perfsim.Scenario(
        perfsim.load_cluster("dgx-h100"), perfsim.load_model("llama-3.1-8b"), perfsim.Plan(tensor=2), perfsim.Workload()
    )


MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-120b", "deepseek-v3")
TRAFFIC = perfsim.ClosedLoop(concurrency=4, prompt_tokens=512, output_tokens=32)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("plan", [perfsim.Plan(tensor=8), perfsim.Plan(tensor=8, expert=8, sequence_parallel=True)])
def test_a_step_is_what_one_pass_takes(scenario, name, plan):
    """A decode step of alike sequences, and the prefill of one prompt.

    One pass lets shared experts run beside the exchange of tokens; steps add them up.
    """
    model = dataclasses.replace(perfsim.load_model(name), num_hidden_layers=2, windowed_layers=None, expert_layers=None)
    if not model.num_experts:
        plan = dataclasses.replace(plan, expert=1)
    costs = ScenarioCosts(perfsim.Scenario(scenario.cluster, model, plan, perfsim.Workload()))
    one, sequences, context = np.array([1.0]), np.array([16.0]), np.array([16 * 1000.0])
    step = costs.linear_s(sequences, prompts=False) + costs.head_s(sequences)
    step = step + costs.decode_attention_s(sequences, context)
    decode = costs.scenario.with_(phase="decode", batch_size=16, sequence_length=1000)
    overlap = 0.05 if model.shared_expert_intermediate_size and plan.expert > 1 else 0.0
    makespan_s = perfsim.simulate(decode).makespan_s
    assert makespan_s * (1 - 1e-6) <= step[0] <= makespan_s * (1 + 1e-6 + overlap)
    tokens = np.array([1024.0])
    whole = costs.linear_s(tokens, prompts=True) + costs.head_s(one) + costs.prefill_attention_s(tokens, tokens)
    prefill = costs.scenario.with_(phase="prefill", batch_size=1, sequence_length=1024)
    makespan_s = perfsim.simulate(prefill).makespan_s
    assert makespan_s * (1 - 1e-6) <= whole[0] <= makespan_s * (1 + 1e-6 + overlap)


@pytest.mark.parametrize("policy", ["vllm", "trtllm", "sglang", "static"])
def test_both_simulators_serve_a_scenario_alike(scenario, policy):
    """To the bit."""
    engine = perfsim.Engine(policy, token_budget=4096, max_sequences=256)
    fast, slow = (perfsim.serve(scenario, TRAFFIC, engine, simulator=name) for name in ("compiled", "simpy"))
    assert fast.requests.equals(slow.requests)
    assert 0 < fast.tpot_s < fast.ttft_s


def test_replicas_share_the_requests(scenario):
    """Twice the GPUs answer sooner, each replica by itself."""
    many = perfsim.ClosedLoop(concurrency=64, prompt_tokens=512, output_tokens=32)
    one = perfsim.serve(scenario, many, perfsim.Engine("vllm"))
    two = perfsim.serve(scenario.with_(data=2, batch_size=2), many, perfsim.Engine("vllm"))
    assert two.ttft_s < one.ttft_s
    assert two.tokens_per_s > 1.2 * one.tokens_per_s


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_a_batch_passes_all_stages(scenario, sequence_parallel):
    """A lane's step takes what one microbatch takes from the first stage to the last, hand-overs included."""
    model = dataclasses.replace(scenario.model, num_hidden_layers=6)
    plan = perfsim.Plan(tensor=2, pipeline=4, sequence_parallel=sequence_parallel)
    costs = ScenarioCosts(dataclasses.replace(scenario, model=model, plan=plan))
    one, tokens = np.array([1.0]), np.array([1024.0])
    whole = costs.linear_s(tokens, prompts=True) + costs.head_s(one) + costs.prefill_attention_s(tokens, tokens)
    prefill = costs.scenario.with_(phase="prefill", batch_size=1, sequence_length=1024)
    assert whole[0] == pytest.approx(perfsim.simulate(prefill).makespan_s, rel=1e-6)
    assert costs.lanes == 4


def test_stages_serve_lanes_that_share_their_memory(scenario):
    """As many engines as stages; each has its part of a cache that grows with the GPUs."""
    stages = scenario.with_(pipeline=2)
    result = perfsim.serve(stages, TRAFFIC, perfsim.Engine("vllm"))
    assert len(result.replicas) == 2
    assert (result.requests["replica"].nunique(), result.requests["lane"].nunique()) == (1, 2)
    assert "1 replica of 2 lanes" in str(result)
    told = perfsim.serve(stages, TRAFFIC, perfsim.Engine("vllm"), deployment=perfsim.Deployment(replicas=1))
    assert told.requests.equals(result.requests)
    alone, lane = (kv_blocks_of(each, 8192, 16) for each in (scenario, stages))
    assert alone < 2 * lane < 2.5 * alone
    slower = perfsim.serve(stages, dataclasses.replace(TRAFFIC, concurrency=1), perfsim.Engine("vllm"))
    faster = perfsim.serve(
        scenario.with_(tensor=4), dataclasses.replace(TRAFFIC, concurrency=1), perfsim.Engine("vllm")
    )
    assert faster.tpot_s < slower.tpot_s  # a token passes stages one after the other


def test_replicas_that_share_experts_step_together(scenario):
    """One engine, whose batch they divide."""
    model = perfsim.load_model("qwen3-30b-a3b")
    plan = perfsim.Plan(tensor=1, data=8, expert=8)
    shared = perfsim.Scenario(scenario.cluster, model, plan, perfsim.Workload(batch_size=8))
    assert ScenarioCosts(shared).ranks_in_step == 8
    assert perfsim.serve(shared, TRAFFIC, perfsim.Engine("vllm")).requests.shape[0] == 40


def test_blocks_fill_what_the_weights_leave(scenario):
    """Fewer for a larger model, twice as many for half of the bytes."""
    blocks = kv_blocks_of(scenario, 8192, 16)
    assert kv_blocks_of(scenario.with_(kv_dtype="fp8"), 8192, 16) == pytest.approx(2 * blocks, abs=1)
    held = blocks * 16 * scenario.model.kv_cache_bytes_per_token("bf16") / 2
    memory = scenario.cluster.accelerator.memory_bytes
    assert 0.5 * memory < held < 0.9 * memory - scenario.model.num_parameters


def test_static_scales_spare_the_quantiser(scenario):
    """A checkpoint with one scale a tensor gives its activations quantised; scales of blocks are computed."""
    free, paid = (MatMul(64, 8192, 8192, "fp8", static_scales=static) for static in (True, False))
    assert price(free, scenario.cluster).seconds < price(paid, scenario.cluster).seconds
    for quantization, static in (("fp8", True), ("fp8_block", False), ("none", False)):
        changed = scenario.with_(quantization=quantization)
        assert changed.linear_precision[2] == static
        works = [o.work for o in perfsim.operator_graph(changed) if o.op == "mlp_down"]
        assert {work.static_scales for work in works} == {static}


def test_what_cannot_be_served_is_refused(refused, scenario):
    """Virtual stages, context ranks, traffic that is none, models without room for a cache."""
    plan = perfsim.Plan(tensor=2, pipeline=2, context=2, virtual_stages=2, scatter_gather=True)
    ringed = dataclasses.replace(scenario, plan=plan, workload=perfsim.Workload(batch_size=2))
    faults = refused(perfsim.serve, ringed, TRAFFIC, perfsim.Engine())
    assert {fault.field for fault in faults} == {
        "scenario.plan.context", "scenario.plan.virtual_stages", "scenario.plan.scatter_gather",
    }  # fmt: skip
    faults = refused(perfsim.serve, scenario, "many", "vllm")
    assert [fault.field for fault in faults] == ["serve.traffic", "serve.engine"]
    large = perfsim.Scenario(
        scenario.cluster, perfsim.load_model("llama-3.1-405b"), perfsim.Plan(tensor=8), perfsim.Workload()
    )
    (fault,) = refused(perfsim.serve, large, TRAFFIC, perfsim.Engine())
    assert fault.field == "engine.kv_blocks"
    assert "more GPUs" in fault.way_out
