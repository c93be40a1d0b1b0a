"""Serving: requests a second, sweeps over traffic and engines, and a trace of a million requests."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Iterator

import perfsim
from benchmarks.measure import Figure, cpu_seconds, cpu_seconds_once
from perfsim.serving.costs import RooflineCosts
from perfsim.serving.deployment import Deployment
from perfsim.serving.policies import Engine
from perfsim.serving.requests import Requests
from perfsim.serving.results import serve_requests
from perfsim.serving.run import Service, run_service
from perfsim.serving.traffic import ClosedLoop, OpenLoop

__all__ = ["figures"]

_CLOSED = ClosedLoop(concurrency=64, prompt_tokens=1024, output_tokens=1024, num_requests=6400)


def figures() -> Iterator[Figure]:
    """Time the fast engine in closed and open loops, and SimPy beside it."""
    group, closed, cluster = "Serving", _CLOSED.requests(), perfsim.load_cluster("dgx-h100")
    scenario = perfsim.Scenario(
        cluster, perfsim.load_model("llama-3.1-70b"), perfsim.Plan(tensor=8), perfsim.Workload()
    )  # fmt: skip
    for policy in ("vllm", "trtllm", "sglang"):
        service = Service.of(RooflineCosts(), Engine(policy))
        seconds = cpu_seconds(lambda service=service: run_service(service, closed))
        name = f"{policy}, closed loop of 64 clients, 1024 + 1024 tokens"
        yield Figure(group, name, len(closed) / seconds / 1e3, "thousand requests/s", 500, at_least=True)
    service = Service.of(RooflineCosts(), Engine("vllm"))
    every = cpu_seconds(lambda: run_service(service, closed, skip=False), repeats=3)
    yield Figure(group, "vllm, the same, every step an event", len(closed) / every / 1e3, "thousand requests/s")
    few = dataclasses.replace(_CLOSED, num_requests=100).requests()
    events = cpu_seconds(lambda: run_service(service, few, simulator="simpy"), repeats=1)
    yield Figure(group, "vllm, the same, SimPy", len(few) / events / 1e3, "thousand requests/s")
    opened = OpenLoop(requests_per_s=6, prompt_tokens=1024, output_tokens=256, num_requests=100_000).requests()
    seconds = cpu_seconds(lambda: serve_requests(service, opened).requests, repeats=3)
    name = "vllm, open loop, table of requests kept"
    yield Figure(group, name, len(opened) / seconds / 1e3, "thousand requests/s", 50, at_least=True)
    seconds = cpu_seconds(lambda: _sweep(scenario), repeats=1)
    yield Figure(group, "perfsim.sweep, 1000 configurations of traffic and engine", seconds, "s", 10)
    seconds = min(
        cpu_seconds_once(lambda: run_service(Service.of(RooflineCosts(), Engine("vllm")), few)) for _ in "12345"
    )
    yield Figure(group, "a new configuration of other costs: tables set up and 100 requests", 1e3 * seconds, "ms", 50)
    yield Figure(group, "a million requests on four replicas", cpu_seconds_once(lambda: _million(service)), "s", 60)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    yield Figure(group, "the same: most memory of the process", peak, "GiB", 4)


def _sweep(scenario: perfsim.Scenario) -> None:
    """A thousand closed loops on engines of other limits; means and percentiles are taken from each."""
    traffic = ClosedLoop(prompt_tokens=1024, output_tokens=256)
    axes = {"token_budget": [2048, 4096], "max_sequences": [64, 128], "seed": [0, 1], "concurrency": range(1, 126)}
    perfsim.sweep(scenario, traffic=traffic, engine=Engine("vllm"), ttft_s=0.5, tpot_s=0.05, progress=False, **axes)


def _million(service: Service) -> None:
    traffic = OpenLoop(requests_per_s=20, prompt_tokens=1024, output_tokens=256, num_requests=10**6, variation=1.5)
    requests: Requests = traffic.requests()
    deployment = Deployment(replicas=4, router="least-loaded")
    engine = Engine("vllm", kv_blocks=60_000)
    _ = serve_requests(Service(service.tables, (engine,), deployment), requests).requests
