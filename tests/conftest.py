"""What the tests share: the seed scenarios, clusters, and strategies that draw small legal scenarios."""

import dataclasses
import itertools
import math

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import perfsim
from perfsim.errors import InputError
from perfsim.spec.hardware import NetworkTier
from perfsim.spec.model import Model
from perfsim.spec.plan import RANK_ORDER

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


_SIZES = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 640}
_LLAMA = {**_SIZES, "num_key_value_heads": 4, "hidden_act": "silu", "norm": "rmsnorm", "gated_mlp": True}
_MIXTURE = {"num_experts": 8, "num_experts_per_token": 2, "moe_intermediate_size": 128}
_WINDOWS = {"sliding_window": 96, "windowed_layers": (True, False, True, False)}
_LATENT = {"kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 24}
FAMILIES = {
    "bare": _SIZES,
    "llama": {**_LLAMA, "vocab_size": 1001},
    "qwen2": {**_LLAMA, "vocab_size": 1000, "attention_bias": True, "tie_word_embeddings": True},
    "mistral": {**_LLAMA, "vocab_size": 1000, "sliding_window": 96},
    "gemma": {
        **_LLAMA, **_WINDOWS, "vocab_size": 1000, "tie_word_embeddings": True, "post_norms": True, "head_dim": 48,
        "qk_norm": "head", "hidden_act": "gelu",
    },
    "gpt2": {
        **_SIZES, "vocab_size": 1003, "learned_positions": 512, "norm_bias": True, "attention_bias": True,
        "attention_output_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
    },
    "phi": {
        **_SIZES, "vocab_size": 1000, "parallel_block": True, "norm_bias": True, "attention_bias": True,
        "attention_output_bias": True, "mlp_bias": True, "head_bias": True,
    },
    "falcon": {**_SIZES, "num_key_value_heads": 1, "vocab_size": 1000, "parallel_block": True, "norm_bias": True},
    "mixtral": {**_LLAMA, **_MIXTURE, "vocab_size": 1000},
    "minimax": {**_LLAMA, **_MIXTURE, "vocab_size": 1000, "qk_norm": "width", "router_bias": True},
    "qwen2-moe": {
        **_LLAMA, **_MIXTURE, "vocab_size": 1000, "shared_expert_intermediate_size": 256, "shared_expert_gate": True,
        "attention_bias": True,
    },
    "gpt-oss": {
        **_LLAMA, **_MIXTURE, **_WINDOWS, "vocab_size": 1000, "attention_sinks": True, "attention_bias": True,
        "attention_output_bias": True, "router_bias": True, "expert_bias": True, "expert_quantization": "mxfp4",
    },
    "deepseek": {
        **_LLAMA, **_MIXTURE, **_LATENT, "num_key_value_heads": None, "vocab_size": 1000, "q_lora_rank": 96,
        "shared_expert_intermediate_size": 256, "router_bias": True, "expert_layers": (False, True, True, True),
        "quantization": "fp8_block",
    },
    "deepseek-lite": {
        **_LLAMA, **_MIXTURE, **_LATENT, "num_key_value_heads": None, "vocab_size": 1000,
        "shared_expert_intermediate_size": 128,
    },
    "gemma4": {
        **_LLAMA, **_MIXTURE, **_WINDOWS, "vocab_size": 1000, "post_norms": True, "qk_norm": "head", "head_dim": 32,
        "global_head_dim": 64, "num_global_key_value_heads": 2, "attention_k_eq_v": True,
        "shared_expert_intermediate_size": 640, "expert_branch_norms": True,
    },
}  # fmt: skip
"""Small models with what is particular about each family."""


@pytest.fixture(scope="session")
def families():
    """Give a small model of each family by name."""
    return {name: Model(name, **fields) for name, fields in FAMILIES.items()}


@pytest.fixture(scope="session", params=FAMILIES)
def family(request, families):
    """Give a small model of each family in turn."""
    return families[request.param]


@pytest.fixture(scope="session")
def any_cluster(h100, small_cluster):
    """Give a strategy of clusters with devices enough for every small scenario."""
    return st.sampled_from([small_cluster, dataclasses.replace(h100, num_devices=72)])


@pytest.fixture(scope="session")
def plain_scenarios(any_cluster):
    """Give a strategy of bare stacks of dense layers under tensor, pipeline and data parallelism."""

    @st.composite
    def draw_scenario(draw):
        tensor, pipeline, data = draw(st.sampled_from([1, 2, 3])), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        kv_heads = tensor * draw(st.integers(1, 2))
        heads = kv_heads * draw(st.integers(1, 3))
        model = Model(
            name="small",
            num_hidden_layers=pipeline + draw(st.integers(0, 3)),
            hidden_size=heads * draw(st.sampled_from([8, 40, 256])),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=draw(st.sampled_from([None, 16, 72])),
            intermediate_size=tensor * draw(st.integers(1, 900)),
        )
        plan = perfsim.Plan(
            tensor=tensor,
            pipeline=pipeline,
            data=data,
            microbatch_size=draw(st.sampled_from([None, 1, 2, 3])),
            schedule=draw(st.sampled_from(["pipelined", "sequential"])),
            layers_per_stage=draw(uneven_layers(pipeline, model.num_hidden_layers)),
            scatter_gather=draw(st.booleans()),
            receive_buffers=draw(st.integers(1, 3)),
        )
        workload = draw(workloads(draw(st.sampled_from(["prefill", "decode"])), data * draw(st.integers(1, 7))))
        return perfsim.Scenario(draw(any_cluster), model, plan, workload)

    return draw_scenario()


@pytest.fixture(scope="session")
def small_scenarios(any_cluster):
    """Give a strategy of small legal scenarios of every kind of model, plan and phase."""
    return scenarios(any_cluster, ("prefill", "decode", "generation"), max_virtual=2)


@pytest.fixture(scope="session")
def steady_scenarios(any_cluster):
    """Give the same without generations and virtual stages: microbatches pass one by one, each like the one before."""
    return scenarios(any_cluster, ("prefill", "decode"), max_virtual=1)


@st.composite
def scenarios(draw, clusters, phases, max_virtual):
    """Draw the degrees, then a model that they can divide, and the rest."""
    phase, tensor, pipeline = draw(st.sampled_from(phases)), draw(st.sampled_from([1, 2, 3])), draw(st.integers(1, 3))
    data, context = draw(st.integers(1, 2)), draw(st.sampled_from([1, 2])) if phase == "prefill" else 1
    shared = tensor > 1 and draw(st.booleans())
    expert = draw(st.sampled_from(expert_degrees(tensor, data, context, shared=shared)))
    virtual = draw(st.integers(1, max_virtual)) if pipeline > 1 else 1
    model = draw(models(tensor, expert, pipeline * virtual, latent_or_windowed=context == 1))
    size, replica, least = draw(batches(pipeline, virtual))
    length = context * draw(st.integers(2, 700 // context))
    divided = {"prefill": length // context, "decode": least, "generation": min(length, least)}[phase]
    plan = perfsim.Plan(
        tensor=tensor,
        pipeline=pipeline,
        data=data,
        context=context,
        expert=expert,
        sequence_parallel=shared,
        virtual_stages=virtual,
        microbatch_size=size,
        schedule="pipelined" if virtual > 1 else draw(st.sampled_from(["pipelined", "pipelined", "sequential"])),
        layers_per_stage=draw(uneven_layers(pipeline * virtual, model.num_hidden_layers)),
        scatter_gather=not shared and draw(st.booleans()),
        receive_buffers=draw(st.integers(1, 3)),
        overlap_chunks=draw(st.integers(1, min(3, divided))) if tensor > 1 else 1,
        rank_order=draw(st.sampled_from([RANK_ORDER, RANK_ORDER[::-1], ("data", "tensor", "pipeline", "context")])),
    )
    workload = draw(workloads(phase, data * replica, length))
    return perfsim.Scenario(draw(clusters), model, plan, workload)


def expert_degrees(tensor, data, context, *, shared):
    """Give the expert degrees of a plan: shares of a tensor group, or whole groups of several replicas."""
    inside = [d for d in range(1, tensor + 1) if tensor % d == 0 and not (shared and 1 < d < tensor)]
    across = [tensor * d for d in range(2, data + 1) if data % d == 0 and context == 1]
    return inside + across


@st.composite
def batches(draw, pipeline, virtual):
    """Draw the size of a microbatch, the sequences of a replica, and those of its smallest microbatch."""
    if virtual == 1:
        size, replica = draw(st.sampled_from([None, 1, 2, 3])), draw(st.integers(1, 7))
        usual = min(size or -(-replica // pipeline), replica)
        return size, replica, replica % usual or usual
    size = draw(st.integers(1, 3))
    least = draw(st.integers(1, size))
    return size, size * (pipeline * draw(st.integers(1, 2)) - 1) + least, least


@st.composite
def uneven_layers(draw, passes, layers):
    """Draw the layers of each pass through a stage, or none for as even as possible."""
    cuts = draw(st.permutations(range(1, layers)))[: passes - 1]
    bounds = [0, *sorted(cuts), layers]
    return draw(st.sampled_from([None, tuple(end - start for start, end in itertools.pairwise(bounds))]))


@st.composite
def workloads(draw, phase, batch_size, sequence_length=None):
    """Draw the rest of a workload."""
    return perfsim.Workload(
        phase=phase,
        batch_size=batch_size,
        sequence_length=sequence_length or draw(st.integers(1, 700)),
        causal=draw(st.booleans()),
        keep_kv_cache=phase != "prefill" or draw(st.booleans()),
        dtype=draw(st.sampled_from([None, None, "fp8"])),
        kv_dtype=draw(st.sampled_from([None, "fp8", "bf16"])),
        output_length=draw(st.integers(1, 3)) if phase == "generation" else 1,
        expert_imbalance=draw(st.sampled_from([1.0, 1.5])),
        expert_skew=draw(st.sampled_from([0.0, 0.7])),
    )


@st.composite
def models(draw, tensor, expert, min_layers, *, latent_or_windowed):
    """Draw a model of any kind whose sizes the degrees divide; heads of K and V may also be fewer than ranks."""
    layers, flag = min_layers + draw(st.integers(0, 2)), st.booleans()
    kv_heads = draw(st.sampled_from([1, tensor, 2 * tensor]))
    heads = math.lcm(kv_heads, tensor) * draw(st.integers(1, 3))
    norm = draw(st.sampled_from(["layernorm", "rmsnorm"]))
    around = draw(st.sampled_from(["", "post_norms", "parallel_block"]))
    fields = {
        "num_hidden_layers": layers,
        "hidden_size": heads * draw(st.sampled_from([8, 40, 256])),
        "num_attention_heads": heads,
        "intermediate_size": tensor * draw(st.integers(1, 900)),
        "hidden_act": draw(st.sampled_from(["gelu", "silu", "relu"])),
        "norm": norm,
        "norm_bias": norm == "layernorm" and draw(flag),
        "quantization": draw(st.sampled_from(["none", "none", "fp8", "fp8_block", "int4", "mxfp4"])),
        **({around: True} if around else {}),
        **{name: draw(flag) for name in ("gated_mlp", "attention_bias", "attention_output_bias", "mlp_bias")},
    }
    kind = draw(st.sampled_from(["whole", "latent", "window", "windows"])) if latent_or_windowed else "whole"
    fields |= draw(latent_attention()) if kind == "latent" else draw(grouped_attention(kv_heads, layers, kind))
    if draw(flag):
        fields |= {"vocab_size": draw(st.integers(2, 999)), "learned_positions": draw(st.sampled_from([0, 16]))}
        fields |= {"tie_word_embeddings": draw(flag), "head_bias": draw(flag)}
    if expert > 1 or draw(flag):
        fields |= draw(mixtures(tensor, expert, layers))
    return Model("small", **fields)


@st.composite
def latent_attention(draw):
    """Draw multi-head latent attention."""
    sizes = {name: draw(st.sampled_from([8, 24])) for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}
    return {**sizes, "kv_lora_rank": draw(st.integers(1, 64)), "q_lora_rank": draw(st.sampled_from([None, 48]))}


@st.composite
def grouped_attention(draw, kv_heads, layers, kind):
    """Draw grouped-query attention, with a window in no, all or some layers."""
    fields = {
        "num_key_value_heads": kv_heads,
        "head_dim": draw(st.sampled_from([None, 16, 72])),
        "qk_norm": draw(st.sampled_from(["", "head", "width"])),
        "attention_sinks": draw(st.booleans()),
    }
    if kind != "whole":
        fields["sliding_window"] = draw(st.sampled_from([1, 64, 300]))
    if kind == "windows":
        fields["windowed_layers"] = tuple(draw(st.lists(st.booleans(), min_size=layers, max_size=layers)))
    return fields


@st.composite
def mixtures(draw, tensor, expert, layers):
    """Draw experts in all or some layers, with shared ones or without."""
    number = expert * draw(st.integers(1, 4))
    fields = {
        "num_experts": number,
        "num_experts_per_token": draw(st.integers(1, number)),
        "moe_intermediate_size": tensor * draw(st.integers(1, 200)),
        "expert_quantization": draw(st.sampled_from([None, None, "none", "mxfp4"])),
        **{name: draw(st.booleans()) for name in ("router_bias", "expert_bias")},
    }
    if draw(st.booleans()):
        fields["shared_expert_intermediate_size"] = tensor * draw(st.integers(1, 300))
        fields["shared_expert_gate"] = draw(st.booleans())
    if draw(st.booleans()):
        fields["expert_layers"] = (*draw(st.lists(st.booleans(), min_size=layers - 1, max_size=layers - 1)), True)
    return fields
