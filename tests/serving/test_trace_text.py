"""Traces of served loads: valid by the published format, with exactly the simulated times.

The format is checked by the same function as that of the traces of plans.
"""

import dataclasses
import json
from collections import Counter, defaultdict
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfsim.serving.deployment import Deployment
from perfsim.serving.engine_times import EngineTimes
from perfsim.serving.policies import Engine
from perfsim.serving.results import OverloadError, serve_requests
from perfsim.serving.run import Service, run_service
from perfsim.serving.trace_text import serving_trace_text
from perfsim.serving.traffic import ClosedLoop, OpenLoop
from tests.report.trace_format import by_phase, check_format, to_ps


def events_of(service, sent, outcome):
    """Give the events of a trace, which is valid, with their numbers as they are written."""
    text = b"".join(serving_trace_text(service, sent, outcome, outcome.log, {"made_by": "a test"}))
    return check_format(json.loads(text.decode("ascii"), parse_float=Decimal))


def slices(events, category, name=None):
    """Give the complete events of a category, or of those the ones of a name."""
    return [event for event in by_phase(events)["X"] if event["cat"] == category and name in {None, event["name"]}]


def spans(events):
    """Give replica, request, start and end of events of requests, in picoseconds."""
    return Counter(
        (event["pid"], event["args"]["request"], to_ps(event["ts"]), to_ps(event["ts"] + event["dur"]))
        for event in events
    )


@settings(max_examples=30)
@given(data=st.data())
def test_any_trace_is_valid_and_exact(data, small_requests, small_services):
    """Every step once at its time, and every request in phases that follow each other without a gap."""
    service, sent = data.draw(small_services), data.draw(small_requests())
    outcome = run_service(service, sent, log=True, skip=data.draw(st.booleans()))
    events = events_of(service, sent, outcome)
    steps = slices(events, "step")
    found = Counter(
        (
            event["pid"], to_ps(event["ts"]), to_ps(event["ts"] + event["dur"]),
            *(event["args"][name] for name in ("steps", "decodes", "context_tokens", "prompts", "prompt_tokens")),
        )
        for event in steps
    )  # fmt: skip
    columns = ("replica", "start", "end", "steps", "sequences", "context", "chunks", "tokens")
    assert found == Counter(zip(*(outcome.log[name].tolist() for name in columns), strict=True))
    for event in steps:
        parts = event["args"]["decodes"] > 0, event["args"]["prompts"] > 0
        assert event["name"] == {(True, False): "decode", (False, True): "prefill", (True, True): "mixed"}[parts]
        assert event["args"]["host_us"] <= event["dur"]
        share = float(event["args"]["host_us"] / event["dur"])
        assert float(event["args"]["host_share"]) == pytest.approx(share, abs=5.1e-5)
    phases = defaultdict(Counter)
    for event in slices(events, "request"):
        phases[event["name"]] += spans([event])
    first, moved = outcome.first_ps, outcome.prefill_replica >= 0
    at = np.where(moved, outcome.prefill_replica, outcome.replica)
    numbers = np.arange(len(sent))

    def rows(replica, start, end, chosen):
        chosen = chosen & (end > start)
        return Counter(zip(*(each[chosen].tolist() for each in (replica, numbers, start, end)), strict=True))

    everyone = np.ones(len(sent), bool)
    assert phases["queued"] == rows(at, outcome.sent_ps, outcome.admitted_ps, everyone)
    assert phases["prefill"] == rows(at, outcome.admitted_ps, first, everyone)
    assert phases["decode"] + phases["transfer"] == (
        rows(outcome.replica, first, outcome.finish_ps, ~moved) + _moved(service, sent, outcome, moved)
    )
    assert phases["request"] == (
        rows(at, outcome.sent_ps, np.where(moved, first, outcome.finish_ps), everyone)
        + rows(outcome.replica, first, outcome.finish_ps, moved)
    )


def _moved(service, sent, outcome, moved):
    """Give the phases of requests whose cache moves."""
    deployment, wanted = service.deployment, Counter()
    latency, token = (round(each * 1e12) for each in (deployment.transfer_latency_s, deployment.transfer_token_s))
    for number in np.flatnonzero(moved).tolist():
        replica, first, finish = (
            int(column[number]) for column in (outcome.replica, outcome.first_ps, outcome.finish_ps)
        )
        arrival = first + latency + token * int(sent.prompt_tokens[number])
        wanted += Counter({(replica, number, first, arrival): int(arrival > first)})
        wanted += Counter({(replica, number, arrival, finish): 1})
    return wanted


@pytest.fixture(scope="module")
def apart(costs):
    """Give a load whose prompts two replicas compute and two others decode."""
    deployment = Deployment(replicas=2, prefill_replicas=2, transfer_latency_s=1e-3, transfer_token_s=1e-6)
    service = Service.of(costs, Engine("vllm", kv_blocks=2000), deployment)
    sent = OpenLoop(requests_per_s=20, num_requests=30, prompt_tokens=1000, output_tokens=50).requests()
    return service, sent, run_service(service, sent, log=True)


def test_arrows_lead_from_prompts_to_decodes(apart):
    """One a request, from the replica that computed its prompt to the one that decodes it."""
    service, sent, outcome = apart
    events = events_of(service, sent, outcome)
    ends = {
        phase: {event["id"]: (event["pid"], to_ps(event["ts"])) for event in by_phase(events)[phase]} for phase in "sf"
    }
    prefill, decode = outcome.prefill_replica.tolist(), outcome.replica.tolist()
    assert ends["s"] == dict(enumerate(zip(prefill, outcome.admitted_ps.tolist(), strict=True)))
    assert ends["f"] == dict(enumerate(zip(decode, outcome.first_ps.tolist(), strict=True)))
    labels = [event["args"]["labels"] for event in events if event["name"] == "process_labels"]
    assert labels == ["vllm, prefill", "vllm, prefill", "vllm, decode", "vllm, decode"]


def counter(events, name, pid):
    """Give the instants and values of a counter of one replica."""
    own = [event for event in by_phase(events)["C"] if (event["name"], event["pid"]) == (name, pid)]
    return [to_ps(event["ts"]) for event in own], [next(iter(event["args"].values())) for event in own]


def test_counters(apart):
    """Blocks and requests as the log has them; tokens per second times seconds are the tokens; nothing while idle."""
    service, sent, outcome = apart
    events = events_of(service, sent, outcome)
    tokens = Counter()
    for replica in range(4):
        log = outcome.log[outcome.log["replica"] == replica]
        log = log[np.argsort(log["start"])]
        for name, column in (("KV blocks", "used_blocks"), ("running requests", "running")):
            times, values = counter(events, name, replica)
            assert times == sorted(times)
            held = dict(zip(times, values, strict=True))
            assert [held[start] for start in log["start"].tolist()] == log[column].tolist()
            gaps = np.flatnonzero(np.append(log["start"][1:] > log["end"][:-1], True))
            assert [held[end] for end in log["end"][gaps].tolist()] == [0] * len(gaps)
        times, values = counter(events, "waiting requests", replica)
        assert values[-len(log) :] == log["waiting"].tolist()
        for name in ("decode tokens/s", "prompt tokens/s"):
            times, values = counter(events, name, replica)
            tokens[name] += float(np.dot(values[:-1], np.diff(times))) / 1e12
    assert tokens["decode tokens/s"] == pytest.approx((sent.output_tokens - 1).sum(), rel=1e-3)
    assert tokens["prompt tokens/s"] == pytest.approx(sent.prompt_tokens.sum(), rel=1e-3)


def test_lanes_are_as_few_as_requests_at_once(costs):
    """A closed loop of six clients takes six, in which requests follow each other."""
    service = Service.of(costs, Engine("vllm"))
    sent = ClosedLoop(concurrency=6, prompt_tokens=500, output_tokens=30).requests()
    events = events_of(service, sent, run_service(service, sent, log=True))
    names = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert names == ["steps", *(f"requests {lane}" for lane in range(1, 7))]


@pytest.mark.parametrize("prefill_replicas", [0, 1])
def test_what_has_not_ended_lasts_until_the_end(costs, prefill_replicas):
    """And what was never sent is not there."""
    deployment = Deployment(prefill_replicas=prefill_replicas, transfer_latency_s=0.05)
    service = Service.of(costs, Engine("vllm", max_sequences=4), deployment)
    sent = ClosedLoop(concurrency=12, prompt_tokens=2000, output_tokens=200).requests()
    with pytest.raises(OverloadError) as caught:
        serve_requests(service, sent, limit_s=1.5)
    partial = caught.value.partial
    outcome = dataclasses.replace(partial.outcome, log=partial.log(10**6))
    events = events_of(service, sent, outcome)
    requests = slices(events, "request", "request")
    arrived = np.flatnonzero(outcome.replica >= 0).tolist()
    assert {event["args"]["request"] for event in requests} == set(arrived)
    until = max(to_ps(event["ts"] + event["dur"]) for event in requests)
    open_ones = {event["args"]["request"] for event in requests if to_ps(event["ts"] + event["dur"]) == until}
    unfinished = set(np.flatnonzero((outcome.finish_ps < 0) & (outcome.replica >= 0)).tolist())
    assert len(unfinished) > 0
    if not prefill_replicas:
        assert unfinished <= open_ones


def test_the_host_is_what_a_step_takes_beyond_its_gpus(costs):
    """A single request is served by the same steps whatever the host takes; beside it they take the same time."""
    sent = OpenLoop(requests_per_s=1, num_requests=1, prompt_tokens=900, output_tokens=20, shortest=1).requests()
    times = EngineTimes(1e-4, 2e-6, 3e-6, 4e-6, 5e-7, 6e-3, 7e-3)
    results = [
        serve_requests(Service.of(costs, Engine("vllm", token_budget=512, times=each)), sent)
        for each in (EngineTimes(), times)
    ]
    bare, hosted = (result.steps for result in results)
    np.testing.assert_allclose(hosted["end_s"] - hosted["start_s"] - hosted["host_s"], bare["end_s"] - bare["start_s"],
                               atol=2e-12)  # fmt: skip
    assert bare["host_s"].eq(0).all()
    assert hosted["host_s"].gt(0).all()
