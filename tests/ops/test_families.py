"""Closed forms by hand, family by family: FLOP of a layer, parameters of a device, and bytes of the KV cache."""

import numpy as np
import pytest

import perfsim
from perfsim.memory import kv_token_bytes, resident_memory
from perfsim.ops.build import operator_graph
from perfsim.ops.flop import closed_form_flop, device_flop, useful_flop
from perfsim.ops.layers import layer_operators
from perfsim.ops.slots import Precision, Sharding, Tokens

BF16 = Precision("bf16")
SEQUENCES, LENGTH = 3, 200
HALF = LENGTH**2 / 2
WINDOWED = HALF - (LENGTH - 96) ** 2 / 2
GQA, MQA, MHA = 256 * (256 + 2 * 4 * 32), 256 * (256 + 2 * 32), 256 * 3 * 256
OUT = 256 * 256
GATED, PLAIN = 3 * 256 * 640, 2 * 256 * 640
MIXTURE = 256 * 8 + 2 * 3 * 256 * 128
HEADS = 2 * 2 * 8 * 32
"""FLOP of a pair of tokens: two products, 8 heads of 32."""
Q_LATENT = 256 * 96 + 96 * 8 * 48
KV_LATENT = 256 * (64 + 16) + 64 * 8 * (32 + 24) + 8 * 24 * 256
WHOLE, LATENT = 2 * 8 * (48 + 24), 2 * 8 * (64 + 16 + 64)
"""The same of latent attention: whole heads in prefill, the latent vectors and their rotary part in decode."""

# Weights that a token meets in a layer, FLOP of a pair in prefill and in decode, pairs of a sequence in both.
LAYERS = {
    "bare": (0, MHA + OUT + PLAIN, HEADS, HEADS, HALF, LENGTH),
    "llama": (0, GQA + OUT + GATED, HEADS, HEADS, HALF, LENGTH),
    "mistral": (0, GQA + OUT + GATED, HEADS, HEADS, WINDOWED, 96),
    "gpt2": (0, MHA + OUT + PLAIN, HEADS, HEADS, HALF, LENGTH),
    "falcon": (0, MQA + OUT + PLAIN, HEADS, HEADS, HALF, LENGTH),
    "gemma": (0, 256 * (8 + 2 * 4) * 48 + 8 * 48 * 256 + GATED, 4 * 8 * 48, 4 * 8 * 48, WINDOWED, 96),
    "gemma, layer without a window": (1, 256 * 16 * 48 + 8 * 48 * 256 + GATED, 4 * 8 * 48, 4 * 8 * 48, HALF, LENGTH),
    "mixtral": (0, GQA + OUT + MIXTURE, HEADS, HEADS, HALF, LENGTH),
    "qwen2-moe": (0, GQA + OUT + MIXTURE + 256 + 3 * 256 * 256, HEADS, HEADS, HALF, LENGTH),
    "gpt-oss": (0, GQA + OUT + MIXTURE, HEADS, HEADS, WINDOWED, 96),
    "deepseek, dense layer": (0, Q_LATENT + KV_LATENT + GATED, WHOLE, LATENT, HALF, LENGTH),
    "deepseek": (1, Q_LATENT + KV_LATENT + MIXTURE + 3 * 256 * 256, WHOLE, LATENT, HALF, LENGTH),
    "deepseek-lite": (0, 256 * 8 * 48 + KV_LATENT + MIXTURE + 3 * 256 * 128, WHOLE, LATENT, HALF, LENGTH),
    "gemma4": (0, GQA + OUT + MIXTURE + GATED, HEADS, HEADS, WINDOWED, 96),
    "gemma4, layer without a window": (
        1, 256 * (8 + 2) * 64 + 8 * 64 * 256 + MIXTURE + GATED, 2 * HEADS, 2 * HEADS, HALF, LENGTH),
}  # fmt: skip


def tokens_of(query):
    """Give the tokens of three sequences."""
    return Tokens(SEQUENCES, query, LENGTH, causal=True, dtype="bf16", kv_dtype="bf16")


def operators_of(model, layer, query, **degrees):
    """List the operators of one layer of a model."""
    spans = {f"{kind}_span": (degrees.get(kind, 1),) for kind in ("tensor", "context", "expert")}
    return layer_operators(model, model.layers[layer], tokens_of(query), Sharding(BF16, BF16, BF16, **degrees, **spans))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("name", LAYERS)
def test_flop_of_a_layer(families, name, phase):
    """Two a weight and token, and two a pair of tokens and channel of both products."""
    layer, weights, prefill, decode, pairs, seen = LAYERS[name]
    model = families[name.partition(",")[0]]
    if phase == "prefill":
        wanted = SEQUENCES * (2 * LENGTH * weights + prefill * pairs)
    else:
        wanted = SEQUENCES * (2 * weights + decode * seen)
    query = LENGTH if phase == "prefill" else 1
    assert sum(operator.work.flop for operator in operators_of(model, layer, query)) == wanted


@pytest.mark.parametrize("query", [LENGTH, 1], ids=["prefill", "decode"])
@pytest.mark.parametrize(
    "degrees",
    [{"tensor": 2}, {"tensor": 2, "sequence_parallel": True}, {"tensor": 2, "overlap_chunks": 3}, {"tensor": 8}],
    ids=str,
)
def test_ranks_share_the_flop_of_a_layer(families, degrees, query):
    """Of a dense layer with as many heads of K and V as ranks, exactly; beyond them each rank computes copies."""
    tensor = degrees["tensor"]
    alone = sum(operator.work.flop for operator in operators_of(families["llama"], 0, query))
    shared = sum(operator.work.flop for operator in operators_of(families["llama"], 0, query, **degrees))
    copies = 2 * SEQUENCES * query * 256 * 2 * 32 * max(0, tensor - 4)
    assert shared * tensor == alone + copies


@pytest.mark.parametrize(("tensor", "expert"), [(2, 1), (2, 2), (4, 2), (4, 4)])
def test_ranks_of_a_tensor_group_share_the_experts(families, tensor, expert):
    """Every rank has all tokens: the router is computed by each, the pairs by the ranks of their experts."""
    parts = {o.op: o for o in operators_of(families["mixtral"], 0, LENGTH, tensor=tensor, expert=expert)}
    assert parts["experts"].work.flop * tensor == 2 * SEQUENCES * LENGTH * 2 * 3 * 256 * 128
    assert parts["router"].work.flop == 2 * SEQUENCES * LENGTH * 256 * 8
    assert parts["experts"].work.num_experts == 8 // expert
    assert parts["experts"].work.expert_width == 128 * expert // tensor
    assert "dispatch" not in parts


def test_replicas_exchange_the_tokens_of_their_experts(families):
    """Each of four ranks routes half of its replica's tokens, and sends each to two of the experts."""
    parts = {o.op: o for o in operators_of(families["mixtral"], 0, LENGTH, tensor=2, expert=4)}
    mine = SEQUENCES * LENGTH // 2
    assert parts["router"].work.flop == 2 * mine * 256 * 8
    assert parts["experts"].work.pairs == 2 * mine
    assert parts["experts"].work.flop == 2 * 2 * mine * 3 * 256 * 128
    for op in ("dispatch", "combine"):
        work = parts[op].work
        assert (work.tokens, work.experts_per_token, work.group_size) == (mine, 2, 4)
        assert work.payload_bytes == mine * 2 * 256 * 2
    assert parts["experts_all_gather"].work.payload_bytes == SEQUENCES * LENGTH * 256 * 2


def test_a_ring_computes_what_one_device_computes(families):
    """Four ranks with a quarter of the tokens take four steps, each over a quarter of the keys."""
    degrees = {"context": 4, "context_span": (4,)}
    share = Tokens(SEQUENCES, LENGTH // 4, LENGTH // 4, causal=True, dtype="bf16", kv_dtype="bf16")
    ring = layer_operators(families["llama"], families["llama"].layers[0], share, Sharding(BF16, BF16, BF16, **degrees))
    steps = [operator for operator in ring if operator.kind == "attention"]
    shifts = [operator for operator in ring if operator.group == "context"]
    assert (len(steps), len(shifts)) == (4, 3)
    assert 4 * sum(step.work.flop for step in steps) == SEQUENCES * HEADS * HALF
    assert {shift.work.payload_bytes for shift in shifts} == {SEQUENCES * LENGTH // 4 * 2 * 4 * 32 * 2}


@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_flop_of_every_family_are_its_closed_form(family, h100, tensor):
    """Over all devices, copies counted once; no device does more than another where there is one stage."""
    for phase in ("prefill", "decode"):
        workload = perfsim.Workload(phase=phase, batch_size=5, sequence_length=131)
        scenario = perfsim.Scenario(h100, family, perfsim.Plan(tensor=tensor), workload)
        graph = operator_graph(scenario)
        assert useful_flop(graph) == pytest.approx(closed_form_flop(family, workload), rel=1e-14)
        assert len(set(device_flop(graph).values())) == 1
        works = sum(operator.work.flop for operator in graph)
        assert works == pytest.approx(device_flop(graph)[0], rel=1e-12)


# Norms and other parameters that every rank holds, matrices that ranks share, and what is held in copies at TP2.
GAIN = 2 * 256
PARAMETERS = {
    "bare": GAIN + (MHA + OUT + PLAIN) // 2,
    "llama": GAIN + (GQA + OUT + GATED) // 2,
    "qwen2": GAIN + (GQA + 2 * 256 + OUT + GATED) // 2,
    "gemma": 2 * GAIN + 2 * 48 + (256 * 16 * 48 + 8 * 48 * 256 + GATED) // 2,
    "gpt2": 2 * GAIN + (MHA + 3 * 256 + OUT + PLAIN + 640) // 2 + 256 + 256,
    "phi": GAIN + (MHA + 3 * 256 + OUT + PLAIN + 640) // 2 + 256 + 256,
    "falcon": GAIN + (256 * 256 + OUT + PLAIN) // 2 + 2 * 256 * 32,
    "mixtral": GAIN + (GQA + OUT + 8 * 3 * 256 * 128) // 2 + 256 * 8,
    "minimax": GAIN + (GQA + OUT + 256 + 128 + 8 * 3 * 256 * 128) // 2 + 256 * 8 + 8,
    "qwen2-moe": GAIN + (GQA + 512 + OUT + 8 * 3 * 256 * 128 + 3 * 256 * 256) // 2 + 256 * 9,
    "gpt-oss": GAIN + (GQA + 512 + OUT + 8 + 8 * (3 * 256 * 128 + 256)) // 2 + 8 * 256 + 256 + 256 * 8 + 8,
    "deepseek": GAIN + 96 + 64 + 256 * (96 + 64 + 16) + (96 * 8 * 48 + 64 * 8 * 56 + 8 * 24 * 256 + GATED) // 2,
    "gemma4": 4 * GAIN + 64 + (GQA + OUT + 8 * 3 * 256 * 128 + GATED) // 2 + 256 * 8,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_a_device(families, name):
    """Of the first layer under two tensor ranks: half of what they share, all of the rest."""
    weights = [o.weight for o in operators_of(families[name], 0, LENGTH, tensor=2) if o.weight is not None]
    assert sum(weight.device_count for weight in weights) == PARAMETERS[name]


def test_experts_of_a_device(families):
    """Four ranks of two replicas hold two whole experts each; two ranks of one replica four."""
    for degrees, held in (({"tensor": 2, "expert": 4}, 2), ({"tensor": 2, "expert": 2}, 4)):
        experts = next(o for o in operators_of(families["mixtral"], 0, LENGTH, **degrees) if o.op == "experts")
        assert experts.weight.device_count == held * 3 * 256 * 128
        assert experts.weight.count == 8 * 3 * 256 * 128


KV_BYTES = {
    "llama": {1: 512, 2: 256, 4: 128, 8: 128},
    "bare": {1: 1024, 2: 512, 8: 128},
    "falcon": {1: 128, 2: 128, 8: 128},
    "deepseek": {1: 160, 2: 160, 8: 160},
    "gemma4": {1: 512, 4: 128, 8: 128},
}


@pytest.mark.parametrize("name", KV_BYTES)
def test_bytes_that_a_token_leaves_on_a_device(families, name):
    """In a layer, in bf16: K and V of a rank's heads, of which each has at least one; the latent vector once."""
    model = families[name]
    assert {tensor: kv_token_bytes(model, model.layers[0], tensor, "bf16") for tensor in KV_BYTES[name]} == (
        KV_BYTES[name]
    )
    assert kv_token_bytes(model, model.layers[0], 1, "fp8") * 2 == KV_BYTES[name][1]
    if name == "gemma4":
        assert kv_token_bytes(model, model.layers[1], 1, "bf16") == 2 * 2 * 64 * 2


@pytest.mark.parametrize(
    ("name", "kept"),
    [("llama", 4 * 500 * 256), ("mistral", 4 * 96 * 256), ("gemma", 2 * (96 + 500) * 2 * 2 * 48 * 2),
     ("deepseek", 4 * 500 * 160), ("gemma4", 2 * (96 * 256 + 500 * 256))],
)  # fmt: skip
def test_the_cache_of_a_device_keeps_no_more_than_a_window(h100, families, name, kept):
    """Seven sequences of 500 tokens in four layers under two tensor ranks."""
    workload = perfsim.Workload(phase="decode", batch_size=7, sequence_length=500)
    scenario = perfsim.Scenario(h100, families[name], perfsim.Plan(tensor=2), workload)
    (stage,) = resident_memory(scenario, operator_graph(scenario))
    assert stage.kv_cache_bytes == 7 * kept


def test_a_generation_keeps_its_prompt_and_all_tokens_but_the_last(h100, families):
    """The last token is given and never read."""
    workload = perfsim.Workload(phase="generation", batch_size=7, sequence_length=500, output_length=9)
    scenario = perfsim.Scenario(h100, families["llama"], perfsim.Plan(tensor=2, data=7), workload)
    (stage,) = resident_memory(scenario, operator_graph(scenario))
    assert stage.kv_cache_bytes == 508 * 4 * 256


def test_context_ranks_share_the_tokens_of_a_cache(h100, families):
    """Each keeps those that it computed."""
    workload = perfsim.Workload(batch_size=7, sequence_length=500)
    scenario = perfsim.Scenario(h100, families["llama"], perfsim.Plan(context=4), workload)
    (stage,) = resident_memory(scenario, operator_graph(scenario))
    assert stage.kv_cache_bytes == 7 * 125 * 4 * 512


@pytest.mark.parametrize(
    ("plan", "share"), [({}, 1), ({"sequence_parallel": True}, 2), ({"scatter_gather": True}, 2)], ids=str
)
def test_receive_buffers_hold_what_ranks_send(h100, families, plan, share):
    """Two hand-overs of two sequences, whole or the share of a rank; more where a round of microbatches comes back."""
    workload = perfsim.Workload(batch_size=8, sequence_length=100)
    plan = perfsim.Plan(tensor=2, pipeline=4, microbatch_size=2, receive_buffers=2, **plan)
    model = families["llama"]
    hand_over = 2 * 100 * 256 * 2 // share
    scenario = perfsim.Scenario(h100, model, plan, workload)
    stages = resident_memory(scenario, operator_graph(scenario))
    assert [stage.buffer_bytes for stage in stages] == [0, *[2 * hand_over] * 3]
    plan = perfsim.Plan(tensor=2, pipeline=2, virtual_stages=2, microbatch_size=2, receive_buffers=1)
    if share == 1:
        rounds = perfsim.Scenario(h100, model, plan, workload)
        stages = resident_memory(rounds, operator_graph(rounds))
        assert [stage.buffer_bytes for stage in stages] == [2 * hand_over, 2 * hand_over]


def test_tied_weights_are_held_once_on_a_stage_and_again_on_another(h100, families):
    """The head is a copy of the embedding where the last stage is not the first."""
    model, workload = families["qwen2"], perfsim.Workload(batch_size=2, sequence_length=10)
    held = {}
    for pipeline in (1, 2):
        scenario = perfsim.Scenario(h100, model, perfsim.Plan(pipeline=pipeline), workload)
        held[pipeline] = sum(stage.weights_bytes for stage in resident_memory(scenario, operator_graph(scenario)))
    assert held[1] == 2 * model.num_parameters
    assert held[2] - held[1] == 2 * 1000 * 256


def test_quantised_weights_take_the_bytes_of_their_blocks(h100, families):
    """Experts in MXFP4, 4.5 bits a number; everything else in bf16."""
    workload = perfsim.Workload(batch_size=2, sequence_length=10)
    model = families["gpt-oss"]
    scenario = perfsim.Scenario(h100, model, perfsim.Plan(), workload)
    (stage,) = resident_memory(scenario, operator_graph(scenario))
    experts = 4 * 8 * 3 * 256 * 128
    assert stage.weights_bytes == 2 * (model.num_parameters - experts) + experts * 9 // 16


def test_sizes_of_every_family_may_be_arrays(family):
    """A sweep lists a layer once for all its points: decode and prefill side by side."""
    sequences, query, context = np.array([1, 3, 5]), np.array([1, 40, 1]), np.array([200, 40, 33])
    sharding = Sharding(BF16, BF16, BF16, tensor=2, tensor_span=(2,), overlap_chunks=2)
    for kind in set(family.layers):
        many = layer_operators(family, kind, Tokens(sequences, query, context, causal=True, dtype="bf16",
                                                    kv_dtype="bf16"), sharding)  # fmt: skip
        for index in range(3):
            sizes = (int(column[index]) for column in (sequences, query, context))
            one = layer_operators(family, kind, Tokens(*sizes, causal=True, dtype="bf16", kv_dtype="bf16"), sharding)
            assert [operator.op for operator in one] == [operator.op for operator in many]
            for whole, part in zip(many, one, strict=True):
                for field in ("flop", "read_bytes", "written_bytes"):
                    found = np.broadcast_to(getattr(whole.work, field), 3)[index]
                    assert found == getattr(part.work, field), (whole.op, field)
