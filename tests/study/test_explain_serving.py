"""Explanations of served loads: numbers of the requests and steps, and what would help, which was simulated."""

import dataclasses

import numpy as np
import pytest

import perfsim
from perfsim.serving.costs import RooflineCosts
from perfsim.serving.engine_times import EngineTimes
from perfsim.serving.policies import Engine
from perfsim.serving.results import OverloadError, serve_requests
from perfsim.serving.run import Service
from perfsim.serving.traffic import ClosedLoop, OpenLoop
from perfsim.study import serving_changes
from perfsim.study.serving_changes import served_again

COSTS = RooflineCosts()
CLOSED = ClosedLoop(concurrency=8, prompt_tokens=512, output_tokens=64)


@pytest.fixture(scope="module")
def scenario():
    """Give Llama-3.1-8B on two H100s."""
    return perfsim.Scenario(
        perfsim.load_cluster("dgx-h100"), perfsim.load_model("llama-3.1-8b"), perfsim.Plan(tensor=2), perfsim.Workload()
    )


def served(traffic=CLOSED, deployment=None, **fields):
    """Serve on an engine over the made-up costs."""
    return serve_requests(Service.of(COSTS, Engine(**{"times": "none", **fields}), deployment), traffic.requests())


def bound(result):
    """Give the first sentence of what bounds a load."""
    return perfsim.explain(result).about("bound")[0]


# What bounds it


def test_each_bound_is_found():
    """Long outputs, long prompts, a slow host, a cache that is too small, a queue."""
    assert str(bound(served())).startswith("Steps of decodes bound")
    prompts = ClosedLoop(concurrency=4, prompt_tokens=8192, output_tokens=2)
    assert str(bound(served(prompts))).startswith("Steps with prompts bound")
    assert str(bound(served(times=EngineTimes(step_s=0.5)))).startswith("The engine's host bounds")
    assert str(bound(served(kv_blocks=40, reservation="full"))).startswith("The KV cache bounds")
    small = bound(served(kv_blocks=40, reservation="full")).numbers["cache_share"]
    assert small == 1 - served().latency_s / served(kv_blocks=40, reservation="full").latency_s
    assert str(bound(served(max_sequences=1))).startswith("Queueing bounds")


@pytest.mark.parametrize("policy", ["vllm", "trtllm", "sglang", "static"])
@pytest.mark.parametrize("apart", [0, 1])
def test_shares_are_those_of_the_steps_and_the_requests(policy, apart):
    """From the tables, step by step; the host's time is that of its entries."""
    times = EngineTimes(1e-3, 1e-5, 2e-5, 3e-5, 1e-7, 1e-3)
    result = served(policy=policy, times=times, deployment=perfsim.Deployment(replicas=2, prefill_replicas=apart))
    numbers = bound(result).numbers
    steps, requests = result.steps, result.requests
    took_s, with_prompts = steps["end_s"] - steps["start_s"], steps["prompts"] > 0
    host_s = times.step_s + steps["decodes"] * times.sequence_s + steps["prompt_tokens"] * times.prefill_token_s
    host_s += COSTS.num_layers * np.where(with_prompts, times.prefill_layer_s, times.decode_layer_s)
    total_host_s = host_s.sum() + len(requests) * times.prompt_s
    busy_s = took_s.sum()
    assert busy_s == pytest.approx(result.replicas["busy_s"].sum())
    assert numbers["host_share"] == pytest.approx(total_host_s / busy_s)
    decode_s = (took_s - host_s)[~with_prompts].sum()
    assert numbers["decode_steps_share"] == pytest.approx(decode_s / busy_s)
    assert numbers["prompt_steps_share"] == pytest.approx(1 - (total_host_s + decode_s) / busy_s)
    latency_s = requests["latency_s"].sum()
    assert numbers["waiting_share"] == pytest.approx(requests["queue_s"].sum() / latency_s)
    assert numbers["prompt_share"] == pytest.approx((requests["ttft_s"] - requests["queue_s"]).sum() / latency_s)
    further_s = (requests["latency_s"] - requests["ttft_s"]).sum()
    assert numbers["further_share"] == pytest.approx(further_s / latency_s)


def test_it_says_whether_an_open_load_drains():
    """A closed one always does, so nothing is said."""
    traffic = OpenLoop(requests_per_s=2, prompt_tokens=512, output_tokens=32, num_requests=100)
    assert "The load drains." in str(perfsim.explain(served(traffic)))
    heavy = dataclasses.replace(traffic, requests_per_s=500)
    assert "The load does NOT drain" in str(perfsim.explain(served(heavy, max_sequences=4)))
    assert "drain" not in str(perfsim.explain(served()))


# Where time is lost, and the cache


def test_waits_preemptions_and_the_host_are_counted():
    """The queue as a share of TTFT; a host that costs nothing is simulated."""
    result = served(kv_blocks=120, times="trtllm-2025-10")
    explanation = perfsim.explain(result)
    queue, preempted, endless, host = explanation.about("lost")
    requests = result.requests
    assert queue.numbers["queue_share_of_ttft"] == pytest.approx(requests["queue_s"].sum() / requests["ttft_s"].sum())
    assert preempted.numbers["preemptions"] == requests["preemptions"].sum() > 0
    assert host.numbers["latency_s"] == served(kv_blocks=120, times="none").latency_s < result.latency_s
    assert endless.numbers["latency_s"] == served(times="trtllm-2025-10").latency_s < result.latency_s
    (cache,) = explanation.about("memory")
    assert cache.numbers["most_kv_share"] == result.replicas["most_kv_share"].max()
    assert "120 blocks" in str(cache)


def test_a_free_host_and_an_endless_cache_are_not_held_against_it():
    """Nothing is lost to a host that costs nothing, and there is no peak of what has no end."""
    explanation = perfsim.explain(served())
    assert len(explanation.about("lost")) == 1
    assert "no limit" in str(explanation.about("memory")[0])


def test_hits_of_the_prefix_cache_are_a_share_of_the_prompts():
    """Only where prompts share beginnings."""
    traffic = ClosedLoop(concurrency=4, prompt_tokens=512, output_tokens=16, prefix_tokens=256)
    result = served(traffic)
    hits = perfsim.explain(result).about("memory")[1]
    requests = result.requests
    assert hits.numbers["cached_share"] == requests["cached_tokens"].sum() / requests["prompt_tokens"].sum() > 0.4
    without = perfsim.explain(served(traffic, prefix_cache=False))
    assert without.about("memory")[1].numbers["cached_share"] == 0
    assert "engine.prefix_cache=True" in without.table["change"].tolist()


# What would help


def test_replicas_of_stages_are_doubled_whole(scenario):
    """Twice the GPUs, and routers count the lanes of a single replica."""
    traffic = perfsim.ClosedLoop(concurrency=8, prompt_tokens=512, output_tokens=16, num_requests=16)
    result = perfsim.serve(scenario.with_(pipeline=2), traffic, perfsim.Engine("vllm"))
    table = perfsim.explain(result).table.set_index("change")
    twice = perfsim.serve(
        scenario.with_(pipeline=2), traffic, perfsim.Engine("vllm"), deployment=perfsim.Deployment(replicas=2)
    )
    assert table.loc["deployment.replicas=2", "gpus"] == 8
    assert table.loc["deployment.replicas=2", "latency_s"] == twice.latency_s
    assert "deployment.router=least-loaded" in table.index


def test_what_helps_most_is_the_best_of_what_serve_gives(scenario):
    """Each change by itself, with the same requests, the cache as large as fits again."""
    traffic = perfsim.ClosedLoop(concurrency=32, prompt_tokens=2048, output_tokens=64)
    engine = perfsim.Engine("trtllm", token_budget=4096)
    result = perfsim.serve(scenario, traffic, engine, deployment=perfsim.Deployment(replicas=2))
    explanation = perfsim.explain(result)
    table = explanation.table.set_index("change")
    assert table["latency_s"].is_monotonic_increasing
    larger = perfsim.serve(
        scenario, traffic, dataclasses.replace(engine, token_budget=8192), deployment=perfsim.Deployment(replicas=2)
    )
    assert table.loc["engine.token_budget=8192", "latency_s"] == larger.latency_s
    wide = perfsim.serve(scenario.with_(tensor=4), traffic, engine, deployment=perfsim.Deployment(replicas=1))
    row = table.loc["tensor=4, deployment.replicas=1"]
    assert (row["latency_s"], row["ttft_s"], row["tokens_per_s"]) == (wide.latency_s, wide.ttft_s, wide.tokens_per_s)
    assert row["gpus"] == 4
    small = perfsim.serve(scenario.with_(kv_dtype="fp8"), traffic, engine, deployment=perfsim.Deployment(replicas=2))
    assert table.loc["kv_dtype=fp8", "latency_s"] == small.latency_s
    same, more = explanation.about("change")
    of_same = table[table["kind"] != "devices"]
    assert same.numbers["latency_s"] == of_same["latency_s"].min()
    assert same.numbers["options"] == len(of_same)
    assert of_same.index[0] in str(same)
    assert more.numbers["latency_s"] == table[table["kind"] == "devices"]["latency_s"].min()
    assert {"devices", "plan", "cache", "engine", "router"} == set(table["kind"])


def test_a_cache_that_the_user_gave_stays(scenario):
    """Only one that was as large as fits grows with the scenario."""
    engine = perfsim.Engine("vllm", kv_blocks=500)
    result = perfsim.serve(scenario, CLOSED, engine)
    assert served_again(result, {"kv_dtype": "fp8"}).service.engines[0].kv_blocks == 500
    fitting = perfsim.serve(scenario, CLOSED, perfsim.Engine("vllm"))
    blocks = fitting.service.engines[0].kv_blocks
    twice = served_again(fitting, {"kv_dtype": "fp8"}).service.engines[0].kv_blocks
    assert twice == pytest.approx(2 * blocks, abs=1)
    assert served_again(fitting, {"engine.token_budget": 16_384}).service.engines[0].kv_blocks < blocks
    assert served_again(fitting, {"tensor": 64}) is None


def test_no_change_is_said_to_help_where_none_does():
    """One request at a time has nobody to wait for."""
    result = served(ClosedLoop(concurrency=1, prompt_tokens=64, output_tokens=8))
    texts = [str(finding) for finding in perfsim.explain(result).about("change")]
    assert all(text.startswith("No single change") for text in texts)
    assert len(texts) == 2


def test_a_load_that_was_cut_off_is_explained_too():
    """Changes are simulated to the end."""
    traffic = OpenLoop(requests_per_s=100, prompt_tokens=512, output_tokens=64, num_requests=200)
    with pytest.raises(OverloadError) as caught:
        serve_requests(Service.of(COSTS, Engine("vllm", max_sequences=2)), traffic.requests(), limit_s=2.0)
    explanation = perfsim.explain(caught.value.partial)
    assert "does NOT drain" in str(explanation)
    assert "served to their end" in str(explanation.about("change")[-1])


def test_many_requests_are_judged_by_the_first_ones(monkeypatch):
    """And it says so."""
    monkeypatch.setattr(serving_changes, "_MOST_REQUESTS", 30)
    explanation = perfsim.explain(served())
    assert "the first 30 requests" in str(explanation.about("change")[-1])
    assert len(explanation.options[0].after.sent) == 30


def test_both_simulators_are_explained_alike():
    """Though one notes every step, and the other runs of them."""
    slow = serve_requests(Service.of(COSTS, Engine("sglang")), CLOSED.requests(), simulator="simpy")
    fast = serve_requests(slow.service, CLOSED.requests())
    for one, other in zip(perfsim.explain(slow).findings, perfsim.explain(fast).findings, strict=True):
        assert one.text == other.text
        assert one.numbers == pytest.approx(other.numbers)


def test_it_shows_itself():
    """In the order of its topics, as text and as HTML, and the same every time."""
    result = served(kv_blocks=300)
    explanation = perfsim.explain(result)
    assert str(perfsim.explain(result)) == str(explanation)
    page = explanation._repr_html_()
    for finding in explanation.findings:
        assert finding.text in str(explanation)
        assert finding.text.endswith(".")
        assert finding.text.replace("'", "&#x27;") in page
    assert str(explanation).startswith("80 requests on 1 replica of vllm")
