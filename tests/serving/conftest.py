"""What the tests of serving share: costs of a made-up model, and strategies of traffic, engines and deployments."""

import dataclasses

import numpy as np
import pytest
from hypothesis import strategies as st

from perfsim.serving.costs import RooflineCosts
from perfsim.serving.deployment import ROUTERS, Deployment
from perfsim.serving.engine_times import EngineTimes
from perfsim.serving.policies import Engine
from perfsim.serving.requests import Requests
from perfsim.serving.run import Service


@pytest.fixture(scope="session")
def costs():
    """Give the costs of a dense 70B model on eight GPUs at the speed of light."""
    return RooflineCosts()


@st.composite
def draw_requests(draw, most=24, concurrency=True):
    """Draw a few short requests, at odd times, in a closed loop or an open one, some with prefixes."""
    count = draw(st.integers(1, most))
    column = st.lists(st.integers(1, 120), min_size=count, max_size=count)
    outputs = st.lists(st.integers(1, 40), min_size=count, max_size=count)
    gaps = st.lists(st.sampled_from([0.0, 0.0, 1e-3, 0.02, 0.3]), min_size=count, max_size=count)
    prompt = np.array(draw(column))
    share = np.array(draw(st.lists(st.sampled_from([0.0, 0.5, 0.9, 1.0]), min_size=count, max_size=count)))
    return Requests(
        arrival_s=np.cumsum(draw(gaps)),
        prompt_tokens=prompt,
        output_tokens=np.array(draw(outputs)),
        prefix_id=np.array(draw(st.lists(st.integers(-1, 3), min_size=count, max_size=count))),
        prefix_tokens=(share * prompt).astype(int),
        concurrency=draw(st.one_of(st.none(), st.integers(1, 8))) if concurrency else None,
    )


@st.composite
def draw_engine(draw):
    """Draw an engine of any policy, often with a cache so small that it preempts."""
    mixed, chunked = draw(st.booleans()), draw(st.booleans())
    most = draw(st.integers(1, 9))
    block = draw(st.sampled_from([1, 4, 16]))
    least_blocks = -(-160 // block)
    microseconds = st.sampled_from([0.0, 3e-6, 2e-3])
    return Engine(
        policy=draw(st.sampled_from(["vllm", "trtllm", "sglang", "static"])),
        token_budget=draw(st.integers(120 if not chunked else 9, 260)),
        chunked=chunked,
        mixed=mixed,
        max_sequences=most,
        batch_wait_steps=draw(st.sampled_from([0, 3, 20])) if mixed else 0,
        reservation=draw(st.sampled_from(["full", "grow", "grow"])),
        preemption=draw(st.sampled_from(["recompute", "swap"])),
        prefix_cache=draw(st.booleans()),
        kv_block_tokens=block,
        kv_blocks=draw(st.sampled_from([None, least_blocks, least_blocks + 7, 3 * least_blocks])),
        times=EngineTimes(*(draw(microseconds) for _ in range(8))),
    )


@st.composite
def draw_service(draw, costs):
    """Draw one replica or several, behind any router, with a pool for prompts or without."""
    apart = draw(st.booleans()) and draw(st.booleans())
    deployment = Deployment(
        replicas=draw(st.integers(1, 3)),
        router=draw(st.sampled_from(ROUTERS)),
        spill=draw(st.integers(0, 3)),
        prefill_replicas=draw(st.integers(1, 2)) if apart else 0,
        transfer_latency_s=draw(st.sampled_from([0.0, 2e-3])),
        transfer_token_s=draw(st.sampled_from([0.0, 1e-5])),
    )
    engines = tuple(draw(draw_engine()) for _ in range(deployment.pools))
    whole = Service.of(dataclasses.replace(costs, lanes=draw(st.sampled_from([1, 1, 2]))), engines[0], deployment)
    return Service(whole.tables, engines, deployment)


@pytest.fixture(scope="session")
def small_requests():
    """Give a strategy of small sets of requests."""
    return draw_requests


@pytest.fixture(scope="session")
def small_services(costs):
    """Give a strategy of small services of every kind."""
    return draw_service(costs)
