"""Both engines tell the same story, and the story makes sense whatever is served."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from perfsim.serving.policies import Engine
from perfsim.serving.requests import Requests
from perfsim.serving.run import Service, run_service
from perfsim.serving.traffic import Bursts, OpenLoop


def in_order(log):
    """Give a log by time and replica; engines write it in different orders."""
    return log[np.lexsort((log["replica"], log["start"]))]


def fields_that_differ(one, other):
    """Name the fields of two outcomes that are not the same to the bit."""
    names = [field.name for field in dataclasses.fields(one) if field.name != "log"]
    return [name for name in names if not np.array_equal(getattr(one, name), getattr(other, name))]


@settings(max_examples=150)
@given(data=st.data())
def test_engines_agree_to_the_bit(data, small_services, small_requests):
    """Every time of every request, every counter and every step."""
    service, requests = data.draw(small_services), data.draw(small_requests())
    fast = run_service(service, requests, skip=False, log=True)
    events = run_service(service, requests, simulator="simpy")
    assert fields_that_differ(fast, events) == []
    assert in_order(fast.log).tolist() == in_order(events.log).tolist()


@settings(max_examples=150)
@given(data=st.data())
def test_skipping_changes_nothing(data, small_services, small_requests):
    """Not one picosecond: a run sums the very steps that it skips."""
    service, requests = data.draw(small_services), data.draw(small_requests())
    every = run_service(service, requests, skip=False)
    assert fields_that_differ(run_service(service, requests), every) == []


def test_a_cache_that_fills_up_ends_the_wait_of_held_prompts(costs):
    """Growing decodes leave no room for them; then their steps of waiting do not count, skipped or not."""
    prompts, outputs = np.ones(38, int), np.ones(38, int)
    prompts[[10, 11, 24]], outputs[[11, 23]] = (65, 36, 65), (30, 22)
    limits = {"token_budget": 120, "max_sequences": 7, "batch_wait_steps": 20, "kv_block_tokens": 16, "kv_blocks": 10}
    service = Service.of(costs, Engine("vllm", chunked=False, prefix_cache=False, times="none", **limits))
    requests = Requests(np.zeros(38), prompts, outputs)
    every = run_service(service, requests, skip=False)
    assert fields_that_differ(run_service(service, requests), every) == []
    assert fields_that_differ(run_service(service, requests, simulator="simpy"), every) == []


@given(data=st.data())
def test_what_is_sent_is_served_once(data, small_services, small_requests):
    """Every request ends, in the order of its own story, and the tokens of the steps are those of the requests."""
    service, requests = data.draw(small_services), data.draw(small_requests())
    outcome = run_service(service, requests, skip=False, log=True)
    assert (outcome.sent_ps >= 0).all()
    assert (outcome.sent_ps <= outcome.admitted_ps).all()
    assert (outcome.admitted_ps < outcome.first_ps).all()
    assert (outcome.first_ps <= outcome.finish_ps).all()
    assert ((outcome.first_ps == outcome.finish_ps) == (requests.output_tokens == 1)).all()
    if not outcome.preemptions.any():
        assert outcome.log["sequences"].sum() == (requests.output_tokens - 1).sum()
        assert outcome.log["tokens"].sum() == (requests.prompt_tokens - outcome.cached_prompt_tokens).sum()


@given(data=st.data())
def test_limits_are_kept(data, small_services, small_requests):
    """Neither more blocks than there are, nor more sequences, nor more tokens in a step than the budget."""
    service, requests = data.draw(small_services), data.draw(small_requests())
    outcome = run_service(service, requests, skip=False, log=True)
    prompts_apart = service.engine_deployment.prefill_replicas
    for row in outcome.log:
        engine = service.engines[0 if row["replica"] < prompts_apart else -1].resolved
        assert 0 <= row["used_blocks"] <= (engine.kv_blocks or np.inf)
        assert row["sequences"] <= engine.max_sequences
        assert row["running"] <= engine.max_sequences
        if not outcome.preemptions.any():  # what is computed again may be longer than the budget
            assert row["tokens"] + row["sequences"] <= engine.token_budget
        if not engine.mixed:
            assert not (row["tokens"] and row["sequences"])
    one_at_a_time = in_order(outcome.log)
    for number in set(one_at_a_time["replica"].tolist()):
        mine = one_at_a_time[one_at_a_time["replica"] == number]
        assert (mine["start"][1:] >= mine["end"][:-1]).all()


@given(data=st.data())
def test_a_closed_loop_keeps_its_concurrency(data, small_services, small_requests):
    """Never more requests in flight, and each is sent at the very moment at which another ends."""
    service, requests = data.draw(small_services), data.draw(small_requests())
    if requests.concurrency is None:
        requests = dataclasses.replace(requests, concurrency=3)
    outcome = run_service(service, requests)
    later = slice(min(requests.concurrency, len(requests)), None)
    assert np.isin(outcome.sent_ps[later], outcome.finish_ps).all()
    for now in outcome.sent_ps.tolist():
        assert ((outcome.sent_ps <= now) & (outcome.finish_ps > now)).sum() <= requests.concurrency


@given(data=st.data(), scale=st.sampled_from([2.0, 10.0]))
def test_slower_gpus_take_longer(data, scale, costs, small_requests):
    """All requests at once on one engine: if every step takes longer, so does all of it."""
    requests = data.draw(small_requests(concurrency=False))
    requests = dataclasses.replace(requests, arrival_s=np.zeros(len(requests)))
    slow = dataclasses.replace(costs, flop_per_s=costs.flop_per_s / scale, bytes_per_s=costs.bytes_per_s / scale)
    fast_run, slow_run = (run_service(Service.of(each, Engine("trtllm")), requests) for each in (costs, slow))
    assert (slow_run.first_ps >= fast_run.first_ps).all()
    assert (slow_run.finish_ps >= fast_run.finish_ps).all()


@given(rate=st.floats(1.0, 40.0), factor=st.floats(1.2, 5.0))
def test_a_higher_rate_does_not_shorten_the_wait(rate, factor, costs):
    """The same requests at shorter intervals: in a queue served in order, every one waits at least as long."""
    service = Service.of(costs, Engine("static", max_sequences=1, times="none"))
    gaps = np.random.default_rng(0).exponential(size=60)
    sizes = np.full(60, 200), np.full(60, 9)
    slow, quick = (Requests(np.cumsum(gaps) / each, *sizes) for each in (rate, rate * factor))
    waits = [(outcome := run_service(service, each)).admitted_ps - outcome.sent_ps for each in (slow, quick)]
    assert (waits[1] >= waits[0] - 60).all()  # a picosecond of rounding for each arrival


def test_the_limit_of_time_stops_both_engines(costs):
    """What has ended by then is the same."""
    service, requests = (
        Service.of(costs, Engine("vllm")),
        Bursts(size=20, prompt_tokens=900, output_tokens=90).requests(),
    )
    whole = run_service(service, requests)
    limit_ps = int(np.median(whole.finish_ps))
    parts = [run_service(service, requests, simulator=each, limit_s=limit_ps / 1e12) for each in ("compiled", "simpy")]
    for part in parts:
        assert np.array_equal(part.finish_ps, np.where(whole.finish_ps <= limit_ps, whole.finish_ps, -1))
    assert 0 < (parts[0].finish_ps < 0).sum() < len(requests)


def test_the_same_seed_gives_the_same_bits(costs):
    """Of traffic and of all times."""
    traffic = OpenLoop(requests_per_s=5, prompt_tokens=700, output_tokens=70, num_requests=200, seed=3)
    service = Service.of(costs, Engine("sglang"))
    assert fields_that_differ(run_service(service, traffic.requests()), run_service(service, traffic.requests())) == []
    other = dataclasses.replace(traffic, seed=4)
    assert "finish_ps" in fields_that_differ(
        run_service(service, traffic.requests()), run_service(service, other.requests())
    )
