"""What the tests share: the seed scenarios, clusters, and strategies that draw small legal scenarios."""

import dataclasses
import itertools

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import perfsim
from perfsim.errors import InputError
from perfsim.spec.hardware import NetworkTier
from perfsim.spec.model import Model

settings.register_profile(
    "perfsim",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("perfsim")

SEEDS = ("seed-baseline", "seed-layerwise-pipelined", "seed-improved")


@pytest.fixture(scope="session")
def seeds():
    """Give the three seed scenarios by name."""
    return {name: perfsim.load_scenario(name) for name in SEEDS}


@pytest.fixture(scope="session", params=SEEDS)
def seed(request, seeds):
    """Give each seed scenario in turn."""
    return seeds[request.param]


@pytest.fixture(scope="session")
def improved(seeds):
    """Give the improved seed scenario, TP8 x PP2."""
    return seeds["seed-improved"]


@pytest.fixture(scope="session")
def h100():
    """Give two nodes of eight H100."""
    return perfsim.load_cluster("dgx-h100", num_devices=16)


@pytest.fixture(scope="session")
def documented(h100):
    """Give two nodes of eight H100 without a kernel library: documented efficiencies, no fitted coefficients."""
    return dataclasses.replace(h100, kernels="", coefficients={})


@pytest.fixture(scope="session", params=perfsim.list_profiles())
def cluster(request):
    """Give two domains of every shipped profile in turn."""
    return perfsim.load_cluster(request.param, num_devices=2 * perfsim.load_cluster(request.param).num_devices)


def libraries():
    """Give the name of every shipped profile with each of its kernel libraries."""
    for name in perfsim.list_profiles():
        found = perfsim.load_cluster(name)
        yield from ((name, kernels) for kernels in (("trtllm", "vllm", "sglang") if found.kernels else (None,)))


@pytest.fixture(scope="session", params=list(libraries()), ids=lambda pair: f"{pair[0]}-{pair[1]}")
def library(request):
    """Give two domains of every shipped profile with each of its kernel libraries in turn."""
    name, kernels = request.param
    return perfsim.load_cluster(name, 2 * perfsim.load_cluster(name).num_devices, kernels)


@pytest.fixture(scope="session")
def refused():
    """Give a function that calls another, which must refuse its input, and gives the faults that it reports."""

    def call(function, *args, **kwargs):
        with pytest.raises(InputError) as caught:
            function(*args, **kwargs)
        faults = caught.value.faults
        assert faults
        for fault in faults:
            assert fault.allowed
            assert fault.field in str(caught.value)
            assert repr(fault.value) in str(caught.value)
        return faults

    return call


@pytest.fixture(scope="session")
def small_cluster(h100):
    """Give a cluster of pairs on fast links, so that groups and hand-overs of a few devices cross tiers."""
    tiers = (NetworkTier("pair", 400e9, 1e-6, domain_size=2), NetworkTier("fabric", 5e9, 5e-6))
    return dataclasses.replace(h100, name="pairs", tiers=tiers, num_devices=64)


@pytest.fixture(scope="session")
def small_models():
    """Give a strategy of small models whose sizes a tensor degree divides: any grouping of heads, any head width."""

    @st.composite
    def draw_model(draw, tensor=1, min_layers=1):
        kv_heads = tensor * draw(st.integers(1, 2))
        heads = kv_heads * draw(st.integers(1, 3))
        return Model(
            name="small",
            num_hidden_layers=min_layers + draw(st.integers(0, 3)),
            hidden_size=heads * draw(st.sampled_from([8, 40, 256])),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=draw(st.sampled_from([None, 16, 72])),
            intermediate_size=tensor * draw(st.integers(1, 900)),
        )

    return draw_model


@pytest.fixture(scope="session")
def small_plans():
    """Give a strategy of plans on at most 18 devices, with as many layers as asked for in all."""

    @st.composite
    def draw_plan(draw, tensor, pipeline, layers):
        cuts = draw(st.permutations(range(1, layers)))[: pipeline - 1]
        bounds = [0, *sorted(cuts), layers]
        uneven = tuple(end - start for start, end in itertools.pairwise(bounds))
        return perfsim.Plan(
            tensor=tensor,
            pipeline=pipeline,
            data=draw(st.integers(1, 2)),
            microbatch_size=draw(st.sampled_from([None, 1, 2, 3])),
            schedule=draw(st.sampled_from(["pipelined", "sequential"])),
            layers_per_stage=draw(st.sampled_from([None, uneven])),
            scatter_gather=draw(st.booleans()),
            receive_buffers=draw(st.integers(1, 3)),
        )

    return draw_plan


@pytest.fixture(scope="session")
def small_scenarios(h100, small_cluster, small_models, small_plans):
    """Give a strategy of small legal scenarios of every kind: degrees, schedules, ragged batches, both phases."""

    @st.composite
    def draw_scenario(draw):
        tensor, pipeline = draw(st.sampled_from([1, 2, 3])), draw(st.integers(1, 3))
        model = draw(small_models(tensor, pipeline))
        plan = draw(small_plans(tensor, pipeline, model.num_hidden_layers))
        phase = draw(st.sampled_from(["prefill", "decode"]))
        workload = perfsim.Workload(
            phase=phase,
            batch_size=plan.data * draw(st.integers(1, 7)),
            sequence_length=draw(st.integers(1, 700)),
            causal=draw(st.booleans()),
            keep_kv_cache=phase == "decode" or draw(st.booleans()),
            dtype=draw(st.sampled_from([None, "fp8"])),
            kv_dtype=draw(st.sampled_from([None, "fp8", "bf16"])),
        )
        cluster = draw(st.sampled_from([small_cluster, dataclasses.replace(h100, num_devices=18)]))
        return perfsim.Scenario(cluster, model, plan, workload)

    return draw_scenario()
