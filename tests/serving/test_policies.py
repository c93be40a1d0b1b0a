"""What engines do, policy by policy, on loads that are small enough to follow by hand; and what they refuse."""

import dataclasses

import numpy as np
import pytest

from perfsim.serving.deployment import Deployment
from perfsim.serving.engine_times import EngineTimes, known_times
from perfsim.serving.policies import POLICIES, Engine
from perfsim.serving.requests import Requests
from perfsim.serving.run import Service, run_service
from perfsim.serving.tables import StepTables

FREE = EngineTimes()


def requests_of(*rows, concurrency=None):
    """Make requests from (arrival, prompt, output) or (arrival, prompt, output, prefix, shared tokens)."""
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Requests(columns[0].astype(float), *columns[1:], concurrency=concurrency)


@pytest.fixture
def steps(costs):
    """Give a function that serves requests on both engines and gives (decodes, tokens of prompts) step by step."""

    def serve(requests, **engine):
        service = Service.of(costs, Engine(**{"times": FREE, **engine}))
        log = run_service(service, requests, skip=False, log=True).log
        twin = run_service(service, requests, simulator="simpy").log
        assert log.tolist() == twin.tolist()
        return list(zip(log["sequences"].tolist(), log["tokens"].tolist(), strict=True))

    return serve


def test_a_request_takes_the_steps_that_its_tokens_need(costs):
    """TTFT is the step of its prompt, then a step a token, each priced at its exact composition."""
    host = EngineTimes(1e-3, 2e-5, 5e-5, 3e-5, 4e-6, 2e-3, 7e-3)
    outcome = run_service(Service.of(costs, Engine(times=host)), requests_of((0, 100, 4)))
    first = costs.linear_s(100, prompts=True) + costs.head_s(1) + costs.prefill_attention_s(100, 100)
    first += host.request_s + host.step_s + 80 * host.prefill_layer_s + 100 * host.prefill_token_s + host.prompt_s
    further = sum(costs.linear_s(1, prompts=False) + costs.head_s(1) for _ in range(3))
    further += sum(costs.decode_attention_s(1, context) for context in (101, 102, 103))
    further += 3 * (host.step_s + 80 * host.decode_layer_s + host.sequence_s)
    assert outcome.first_ps[0] == pytest.approx(first * 1e12, abs=2)
    assert outcome.finish_ps[0] - outcome.first_ps[0] == pytest.approx(further * 1e12, abs=4)


def test_chunks_fill_the_budget(steps):
    """Decodes first, then as much of the prompts as there is room for; the last token of a prompt gives a token."""
    requests = requests_of((0, 10, 3), (0, 25, 2), (0, 5, 1))
    found = steps(requests, policy="vllm", token_budget=16, max_sequences=8)
    assert found == [(0, 16), (1, 15), (1, 9), (1, 0)]


def test_whole_prompts_wait_until_they_fit(steps):
    """A prompt that does not fit beside the decode waits for its end."""
    requests = requests_of((0, 10, 3), (0, 16, 1))
    assert steps(requests, policy="trtllm", token_budget=16, max_sequences=8) == [(0, 10), (1, 0), (1, 0), (0, 16)]


def test_prompts_go_first_where_they_do_not_mix(steps):
    """The decode of the first request waits for all prompts."""
    requests = requests_of((0, 10, 3), (0, 25, 2), (0, 5, 1))
    assert steps(requests, policy="sglang", token_budget=16) == [(0, 16), (0, 16), (0, 8), (2, 0), (1, 0)]


def test_a_static_batch_ends_before_the_next_begins(steps):
    """Two at a time, as long as the longer one takes."""
    requests = requests_of((0, 10, 4), (0, 10, 2), (0, 10, 2))
    assert steps(requests, policy="static", max_sequences=2) == [(0, 20), (2, 0), (1, 0), (1, 0), (0, 10), (1, 0)]


def test_continuous_batching_does_not_wait(steps):
    """The third request enters as the second ends."""
    requests = requests_of((0, 10, 4), (0, 10, 2), (0, 10, 2))
    assert steps(requests, policy="trtllm", max_sequences=2) == [(0, 20), (2, 0), (1, 10), (2, 0)]


def test_batch_wait_holds_prompts_while_anything_decodes(steps):
    """For so many steps; or until the step would be full enough."""
    requests = requests_of((0, 10, 9), (1e-4, 10, 1))
    wait = {"policy": "trtllm", "token_budget": 100, "max_sequences": 8}
    assert steps(requests, **wait)[:3] == [(0, 10), (1, 10), (1, 0)]
    assert steps(requests, **wait, batch_wait_steps=3)[:6] == [(0, 10), (1, 0), (1, 0), (1, 0), (1, 10), (1, 0)]
    full = requests_of((0, 10, 9), (1e-4, 60, 1), (1e-4, 30, 1))
    assert steps(full, **wait, batch_wait_steps=3)[:2] == [(0, 10), (1, 90)]
    assert steps(full, **wait, batch_wait_steps=3, batch_wait_fill=0.95)[:3] == [(0, 10), (1, 0), (1, 0)]


def test_full_reservation_lets_in_only_what_can_end(costs, steps):
    """Two requests of 8 blocks share a cache of 12 one after the other."""
    requests = requests_of((0, 20, 12), (0, 20, 12))
    cache = {"policy": "trtllm", "kv_block_tokens": 4, "kv_blocks": 12}
    found = steps(requests, **cache)
    assert found == [(0, 20), *[(1, 0)] * 11] * 2
    outcome = run_service(Service.of(costs, Engine(**cache)), requests)
    assert outcome.preemptions.tolist() == [0, 0]
    assert outcome.most_blocks.tolist() == [8]


def test_growth_preempts_what_entered_last(costs, steps):
    """The second request gives way when the third block of each is due, and is computed again with its tokens."""
    requests = requests_of((0, 8, 8), (0, 8, 8))
    cache = {"policy": "vllm", "kv_block_tokens": 4, "kv_blocks": 5, "times": FREE}
    assert steps(requests, **cache)[:3] == [(0, 16), (1, 0), (1, 0)]
    outcome = run_service(Service.of(costs, Engine(**cache)), requests, skip=False, log=True)
    assert outcome.preemptions.tolist() == [0, 1]
    assert outcome.finish_ps[0] < outcome.finish_ps[1]
    assert (0, 9) in steps(requests, **cache)  # eight tokens of the prompt and the one that was generated


def test_swapping_moves_the_cache_and_computes_nothing_again(costs):
    """Out and in: two blocks each way."""
    requests = requests_of((0, 8, 8), (0, 8, 8))
    quick, slow = (
        Engine("vllm", kv_block_tokens=4, kv_blocks=5, preemption="swap", times=EngineTimes(swap_block_s=seconds))
        for seconds in (0.0, 0.5)
    )
    free, paid = (run_service(Service.of(costs, engine), requests, skip=False, log=True) for engine in (quick, slow))
    assert free.log["tokens"].sum() == paid.log["tokens"].sum() == 16
    assert paid.preemptions.tolist() == [0, 1]
    assert paid.finish_ps[1] - free.finish_ps[1] == pytest.approx(4 * 0.5e12, abs=9)


def test_a_prefix_is_computed_once(costs):
    """Its whole blocks: 16 of the 18 tokens that the requests share."""
    requests = requests_of((0, 30, 2, 7, 18), (1, 30, 2, 7, 18), (2, 30, 2, 8, 18), (3, 16, 2, 7, 16))
    cached, computed = (
        run_service(
            Service.of(costs, Engine("vllm", kv_block_tokens=4, prefix_cache=flag)), requests, skip=False, log=True
        )
        for flag in (True, False)
    )
    assert cached.cached_prompt_tokens.tolist() == [0, 16, 0, 15]  # the last token of a prompt is always computed
    assert computed.cached_prompt_tokens.tolist() == [0, 0, 0, 0]
    assert cached.log["tokens"].tolist() == [30, 0, 14, 0, 30, 0, 1, 0]
    assert (cached.first_ps - cached.sent_ps)[1] < (computed.first_ps - computed.sent_ps)[1]


def test_an_unused_prefix_gives_way_the_one_unused_for_longest_first(costs):
    """A cache of ten blocks cannot keep three prefixes of four."""
    rows = [(second, 16, 2, prefix, 16) for second, prefix in enumerate([1, 2, 1, 3, 1, 2])]
    engine = Engine("vllm", kv_block_tokens=4, kv_blocks=10)
    assert run_service(Service.of(costs, engine), requests_of(*rows)).cached_prompt_tokens.tolist() == [
        0, 0, 15, 0, 15, 0,
    ]  # fmt: skip


def test_round_robin_takes_turns(costs):
    """One after the other, whatever they have to do."""
    requests = requests_of((0, 10, 90), *[(0, 10, 2)] * 4)
    outcome = run_service(Service.of(costs, Engine(), Deployment(replicas=2)), requests)
    assert outcome.replica.tolist() == [0, 1, 0, 1, 0]


def test_least_loaded_avoids_the_busy(costs):
    """The replica with the long request gets no other while the second one is idle."""
    requests = requests_of((0, 10, 900), *[(second, 10, 2) for second in range(1, 4)])
    outcome = run_service(Service.of(costs, Engine(), Deployment(replicas=2, router="least-loaded")), requests)
    assert outcome.replica.tolist() == [0, 1, 1, 1]


def test_prefix_aware_sends_requests_home_unless_home_is_busy(costs):
    """Requests follow their prefix until it has `spill` requests more than the least loaded replica."""
    requests = requests_of(*[(0, 40, 90, 7, 32)] * 5, (0, 40, 90, 9, 32))
    deployment = Deployment(replicas=2, router="prefix-aware", spill=2)
    outcome = run_service(Service.of(costs, Engine(), deployment), requests)
    assert outcome.replica.tolist() == [0, 0, 0, 1, 1, 1]


def test_prompts_on_a_pool_of_their_own(costs):
    """The first token comes from there; the cache moves; decodes meet no prompts."""
    requests = requests_of((0, 1000, 50), (0.05, 8000, 50), (0.06, 1000, 1))
    apart = Deployment(prefill_replicas=1, replicas=1, transfer_latency_s=0.01, transfer_token_s=1e-5)
    outcome = run_service(Service.of(costs, Engine(times=FREE), apart), requests, skip=False, log=True)
    assert outcome.prefill_replica.tolist() == [0, 0, -1]
    assert outcome.replica.tolist() == [1, 1, 0]
    decodes = outcome.log[outcome.log["replica"] == 1]
    assert decodes["tokens"].sum() == 0
    assert decodes["start"][0] == outcome.first_ps[0] + round((0.01 + 1000 * 1e-5) * 1e12)
    together = run_service(Service.of(costs, Engine(times=FREE)), requests)
    assert outcome.finish_ps[0] - outcome.first_ps[0] < together.finish_ps[0] - together.first_ps[0]


def test_ramped_clients_begin_one_after_the_other(costs):
    """The first requests of a closed loop come at their own times."""
    requests = requests_of((0, 10, 2), (0.5, 10, 2), (1, 10, 2), (1, 10, 2), concurrency=2)
    outcome = run_service(Service.of(costs, Engine()), requests)
    assert outcome.sent_ps[:2].tolist() == [0, 500_000_000_000]
    assert outcome.sent_ps[2] == outcome.finish_ps[0]


def test_defaults_are_those_of_the_policy():
    """What is given stays, what is left out is filled in."""
    for policy, defaults in POLICIES.items():
        resolved = Engine(policy).resolved
        assert {name: getattr(resolved, name) for name in defaults} == defaults
        assert resolved.resolved == resolved
    assert Engine("vllm", token_budget=100).resolved.max_sequences == 100
    assert dataclasses.replace(Engine("vllm"), policy="trtllm").resolved.reservation == "full"
    assert Engine("vllm", times="none").host == EngineTimes(source=known_times()["none"].source)


def test_every_default_time_has_a_source():
    """Where the numbers come from is part of them."""
    assert all(len(times.source) > 20 for times in known_times().values())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"policy": "vlm"}, "engine.policy"),
        ({"token_budget": 0}, "engine.token_budget"),
        ({"chunked": "yes"}, "engine.chunked"),
        ({"max_sequences": 1.5}, "engine.max_sequences"),
        ({"reservation": "some"}, "engine.reservation"),
        ({"preemption": "drop"}, "engine.preemption"),
        ({"kv_blocks": -3}, "engine.kv_blocks"),
        ({"kv_block_tokens": 0}, "engine.kv_block_tokens"),
        ({"batch_wait_fill": 1.5}, "engine.batch_wait_fill"),
        ({"times": "fast"}, "engine.times"),
        ({"times": 3.0}, "engine.times"),
        ({"token_budget": 8, "max_sequences": 9}, "engine.token_budget"),
        ({"policy": "sglang", "batch_wait_steps": 5}, "engine.batch_wait_steps"),
    ],
)
def test_bad_engines_are_refused(refused, fields, named):
    """One fault, with its name."""
    assert [fault.field for fault in refused(Engine, **fields)] == [named]


def test_bad_times_and_deployments_are_refused(refused):
    """All faults together."""
    assert [fault.field for fault in refused(EngineTimes, step_s=-1.0, source=" ")] == [
        "engine.times.step_s", "engine.times.source",
    ]  # fmt: skip
    assert [fault.field for fault in refused(Deployment, replicas=0, router="random", spill=-1)] == [
        "deployment.replicas", "deployment.router", "deployment.spill",
    ]  # fmt: skip
    assert [fault.field for fault in refused(Deployment, prefill_replicas=-1, transfer_token_s=np.nan)] == [
        "deployment.prefill_replicas", "deployment.transfer_token_s",
    ]  # fmt: skip


def test_what_can_never_be_served_is_refused(costs, refused):
    """A cache too small for one request, prompts that fit no step, sequences beyond the model's context."""
    requests = requests_of((0, 100, 10), (0, 500, 20))
    small = Service.of(costs, Engine("trtllm", kv_block_tokens=10, kv_blocks=51, token_budget=400))
    faults = refused(run_service, small, requests)
    assert [fault.field for fault in faults] == ["engine.token_budget", "engine.kv_blocks"]
    assert "number 1 takes 52 blocks" in faults[1].allowed
    assert faults[1].way_out == "raise kv_blocks, or leave it out"
    (fault,) = refused(run_service, dataclasses.replace(small, fits_memory=True), requests_of((0, 100, 500)))
    assert "use more GPUs" in fault.way_out
    enough = Service.of(costs, Engine("trtllm", kv_block_tokens=10, kv_blocks=52, token_budget=500))
    assert run_service(enough, requests).finish_ps.min() > 0
    short = Service.of(dataclasses.replace(costs, max_context_tokens=519), Engine())
    (fault,) = refused(run_service, short, requests)
    assert (fault.field, fault.value) == ("requests.prompt_tokens + output_tokens[1]", 520)
    assert [fault.field for fault in refused(run_service, enough, requests, simulator="fast", limit_s=0)] == [
        "serve.simulator", "serve.limit_s",
    ]  # fmt: skip


def test_pools_need_costs_and_engines(costs, refused):
    """Of each pool one."""
    service = Service.of(costs, Engine())
    (fault,) = refused(Service, service.tables, service.engines, Deployment(prefill_replicas=1))
    assert fault.field == "service.tables, engines"
    tables = StepTables(costs, dataclasses.replace(costs, lanes=2))
    (fault,) = refused(Service, tables, service.engines * 2, Deployment(prefill_replicas=1))
    assert (fault.field, fault.value) == ("service.tables", [1, 2])
