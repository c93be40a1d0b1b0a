"""Defects of graphs of every kind of plan and model: the right check fails and names the operator."""

import dataclasses
import random
from dataclasses import replace
from functools import partial

import pytest

import perfsim
from perfsim.ops.build import operator_graph
from perfsim.ops.nodes import POINTS, Edge
from perfsim.ops.slots import PARTIAL, REPLICATED, SEQUENCE, SHARDED
from tests.ops.mutations import (
    change,
    change_input,
    change_output,
    cut_out,
    drop,
    feed,
    reroute,
    reweigh,
    rework,
    with_input,
    without_input,
)

GRAPHS = {
    "sequence": ("llama", {"tensor": 2, "pipeline": 2, "sequence_parallel": True}),
    "chunks": ("llama", {"tensor": 2, "overlap_chunks": 2}),
    "shared rows": ("llama", {"tensor": 2, "pipeline": 2, "virtual_stages": 2, "scatter_gather": True}),
    "ring": ("llama", {"tensor": 2, "context": 4}),
    "few heads": ("falcon", {"tensor": 4}),
    "replicas": ("qwen2-moe", {"tensor": 2, "data": 2, "expert": 4}),
    "group": ("qwen2-moe", {"tensor": 2, "expert": 2}),
    "latent": ("deepseek", {"tensor": 2}),
    "absorbed": ("deepseek", {"tensor": 2}),
    "windows": ("gemma", {"tensor": 2}),
    "heads by layer": ("gemma4", {"tensor": 4, "expert": 4}),
    "tied": ("qwen2", {"tensor": 2, "pipeline": 2}),
}


@pytest.fixture(scope="module")
def graphs(families, h100):
    """Give a sound graph of each kind of plan, with models of four layers."""
    found = {}
    for name, (family, plan) in GRAPHS.items():
        phase = "decode" if name == "absorbed" else "prefill"
        workload = perfsim.Workload(phase=phase, batch_size=4, sequence_length=128, expert_imbalance=1.5)
        found[name] = operator_graph(perfsim.Scenario(h100, families[family], perfsim.Plan(**plan), workload))
    return found


def without(*names):
    """Make a mutation that leaves operators out and leads past them."""

    def mutate(graph):
        for name in names:
            graph = cut_out(graph, name)
        return graph

    return mutate


def outputs(name, number=0, **fields):
    """Make a mutation that changes what an operator gives, and with it what others take."""
    return lambda graph: change_output(graph, name, number, **fields)


def priced(name, **fields):
    """Make a mutation that changes the work of an operator."""
    return lambda graph: rework(graph, name, **fields)


def weighed(name, **fields):
    """Make a mutation that changes the parameters of an operator."""
    return lambda graph: reweigh(graph, name, **fields)


def fed(name, number, producer, output=0):
    """Make a mutation that feeds an input from elsewhere, and lets it take what comes from there."""
    return lambda graph: reroute(graph, name, number, producer, output)


def starved(name, number):
    """Make a mutation that takes an input away."""
    return lambda graph: without_input(graph, name, number)


def grouped(name, group):
    """Make a mutation that lets other ranks carry out a collective."""
    return lambda graph: change(graph, name, group=group)


def all_reduce_of_shares(graph):
    """Reduce to copies where each rank should keep its share."""
    whole = {"placement": REPLICATED, "device_shape": (2, 128, 256)}
    graph = change_output(graph, "layer_01.attention_reduce_scatter", **whole)
    return rework(graph, "layer_01.attention_reduce_scatter", op="all_reduce")


def third_addend(graph):
    """Add what was normalised to the residual too, and price it."""
    graph = with_input(graph, "layer_01.mlp_residual", "layer_01.mlp_norm")
    work = graph["layer_01.mlp_residual"].work
    return rework(graph, "layer_01.mlp_residual", read_bytes=work.read_bytes * 3 / 2)


def stranger_between_layers(graph):
    """Receive between two layers what nobody has sent."""
    hidden = graph["layer_00.mlp_residual"].outputs
    point = replace(graph["stage_1.receive"], name="extra.receive", stage=0, devices=graph["split"].devices,
                    inputs=hidden, outputs=hidden)  # fmt: skip
    grown = replace(graph, operators=(*graph.operators, point))
    grown = replace(grown, edges=(*grown.edges, Edge("layer_00.mlp_residual", 0, "extra.receive", 0)))
    for name in ("layer_01.attention_norm", "layer_01.attention_residual"):
        grown = feed(grown, name, 0, "extra.receive")
    return grown


def combine_without_dispatch(graph):
    """Give the experts each rank's own tokens."""
    graph = reroute(graph, "layer_01.experts", 0, "layer_01.token_slice")
    return drop(graph, "layer_01.dispatch")


def whole_tokens_dispatched(graph):
    """Dispatch what every tensor rank has."""
    graph = reroute(graph, "layer_01.dispatch", 0, "layer_01.mlp_norm")
    return rework(graph, "layer_01.dispatch", tokens=2 * 128)


def routes_of_other_tokens(graph):
    """Dispatch a rank's tokens by the choices for all of them."""
    all_of_them = {"placement": REPLICATED, "device_shape": (2, 128, 2)}
    return change_input(change_output(graph, "layer_01.choose_experts", **all_of_them), "layer_01.dispatch", 1)


def copies_of_experts(graph):
    """Hold all experts on every rank."""
    weight = graph["layer_01.experts"].weight
    return reweigh(graph, "layer_01.experts", device_shape=weight.shape)


def wide_experts(graph):
    """Hold all columns of the experts on every rank, twice what there is."""
    number, hidden, columns = graph["layer_01.experts"].weight.device_shape
    return reweigh(graph, "layer_01.experts", device_shape=(number, hidden, 2 * columns))


def shift_of_the_first(graph):
    """Pass on in the second step what was there in the first."""
    for number in (0, 1):
        graph = reroute(graph, "layer_01.kv_shift_2", number, "layer_01.kv_shift_1", number)
        source = [("layer_01.rotary", 1), ("layer_01.qkv_proj", 2)][number]
        graph = reroute(graph, "layer_01.kv_shift_2", number, *source)
    return graph


def swapped_gate(graph):
    """Let the gate multiply where the projection should."""
    graph = reroute(graph, "layer_01.silu_gate", 0, "layer_01.mlp_up", 1)
    return reroute(graph, "layer_01.silu_gate", 1, "layer_01.mlp_up", 0)


def head_of_all_tokens(graph):
    """Compute the logits of every token."""
    graph = cut_out(graph, "last_token")
    work = graph["lm_head"].work
    graph = rework(graph, "lm_head", m=work.m * 128)
    for name in ("lm_head", "logits_all_gather", "gather"):
        _, _, width = graph[name].outputs[0].device_shape
        whole = graph[name].outputs[0].shape[2]
        graph = change_output(graph, name, shape=(4, 128, whole), device_shape=(2, 128, width))
    return graph


def second_embedding(graph):
    """Count the head that is tied to the embedding once more."""
    return reweigh(graph, "lm_head", tied=False)


DEFECTS = [
    # Sequence parallelism: shares of tokens between the matrices.
    ("sequence", outputs("layer_01.mlp_norm", placement=REPLICATED), "dimensions", "layer_01.mlp_norm"),
    ("sequence", without("layer_01.mlp_reduce_scatter"), "dimensions", "layer_01.mlp_residual: takes"),
    ("sequence", without("layer_01.mlp_reduce_scatter"), "structure", "layer 1: mlp_reduce_scatter is missing"),
    ("sequence", without("layer_01.mlp_all_gather"), "dimensions", "layer_01.mlp_up: is column-parallel"),
    ("sequence", without("layer_01.mlp_all_gather"), "structure", "layer 1: mlp_all_gather is missing"),
    ("sequence", all_reduce_of_shares, "structure", "layer_01.attention_reduce_scatter: is collective (all_reduce)"),
    ("sequence", all_reduce_of_shares, "dimensions", "layer_01.attention_residual"),
    ("sequence", outputs("layer_01.attention_norm", device_shape=(2, 32, 256)), "dimensions",
     "layer_01.attention_norm"),
    ("sequence", priced("layer_01.mlp_all_gather", payload_bytes=2 * 64 * 256 * 2), "dimensions",
     "layer_01.mlp_all_gather: is priced with payload_bytes"),
    ("sequence", outputs("stage_0.send", placement=REPLICATED, device_shape=(2, 128, 256)), "dimensions",
     "stage_0.send"),
    ("sequence", outputs("embedding_reduce_scatter", placement=PARTIAL, device_shape=(2, 128, 256)), "dimensions",
     "embedding_reduce_scatter"),
    ("sequence", without("final_all_gather"), "dimensions", "last_token"),
    ("sequence", without("final_all_gather"), "structure", "the ends of the model: final_all_gather is missing"),
    # Matrices in parts, with a reduction of each.
    ("chunks", outputs("layer_01.mlp_all_reduce.1", part=(0, 2)), "dimensions",
     "layer_01.mlp_residual: takes the parts"),
    ("chunks", starved("layer_01.mlp_residual", 2), "dimensions", "layer_01.mlp_residual: takes the parts"),
    ("chunks", starved("layer_01.mlp_residual", 2), "structure", "layer_01.mlp_residual: takes 2 tensors"),
    ("chunks", outputs("layer_01.mlp_down.0", device_shape=(4, 100, 256)), "dimensions", "layer_01.mlp_down.0"),
    ("chunks", priced("layer_01.mlp_down.0", m=4 * 128), "dimensions", "layer_01.mlp_down.0: is priced with m"),
    ("chunks", weighed("layer_01.mlp_down.1", tied=False), "structure", "layer_01.mlp_down.1: holds other parameters"),
    ("chunks", weighed("layer_01.mlp_down.1", tied=False), "structure", "parameters, the model"),
    ("chunks", fed("layer_01.mlp_all_reduce.1", 0, "layer_01.mlp_down.0"), "structure", "layer_01.mlp_all_reduce.1"),
    ("chunks", without("layer_01.attention_all_reduce.1"), "dimensions", "layer_01.attention_residual"),
    # From layer to layer and from pass to pass.
    ("chunks", fed("layer_02.attention_residual", 0, "layer_00.mlp_residual"), "structure",
     "layer_02.attention_residual: takes what layer_00.mlp_residual gives"),
    ("chunks", fed("layer_02.attention_norm", 0, "layer_00.mlp_residual"), "structure", "layer_02.attention_norm"),
    ("chunks", third_addend, "structure", "layer_01.mlp_residual: takes 4 tensors, in the model 3"),
    ("chunks", swapped_gate, "structure", "layer_01.silu_gate: takes mlp_gate_out"),
    ("shared rows", stranger_between_layers, "structure", "extra.receive: belongs to no layer"),
    ("shared rows", fed("layer_02.attention_norm", 0, "stage_1.all_gather"), "structure", "layer_02.attention_norm"),
    ("shared rows", fed("final_norm", 0, "layer_01.mlp_residual"), "structure", "final_norm: takes what"),
    ("shared rows", without("stage_0.pass_1.all_gather"), "structure", "stage_0.pass_1.all_gather is missing"),
    ("shared rows", without("stage_1.send"), "structure", "stage_1.send is missing"),
    ("shared rows", priced("stage_1.all_gather", span=(4,)), "dimensions", "stage_1.all_gather: is priced for 4 ranks"),
    # Rings.
    ("ring", without("layer_01.kv_shift_1"), "structure", "layer 1: kv_shift_1 is missing"),
    ("ring", shift_of_the_first, "structure", "layer_01.kv_shift_2: takes k_1 from layer_01.rotary"),
    ("ring", starved("layer_01.attention_2", 3), "structure", "layer_01.attention_2: takes 3 tensors, in the model 4"),
    ("ring", grouped("layer_01.kv_shift_1", "tensor"), "structure", "layer_01.kv_shift_1: is collective (ring_shift)"),
    ("ring", priced("layer_01.kv_shift_1", span=(2,)), "dimensions", "layer_01.kv_shift_1: is priced for 2 ranks"),
    ("ring", priced("layer_01.kv_shift_1", payload_bytes=1), "dimensions", "layer_01.kv_shift_1"),
    ("ring", priced("layer_01.attention_2", context_tokens=128), "dimensions",
     "layer_01.attention_2: is priced with context_tokens = 128"),
    ("ring", priced("layer_01.attention_2", causal=False), "dimensions", "layer_01.attention_2: is priced with causal"),
    ("ring", outputs("layer_01.mlp_norm", device_shape=(4, 128, 256)), "dimensions", "layer_01.mlp_norm"),
    ("ring", fed("layer_01.output_proj", 0, "layer_01.attention_2"), "structure", "layer_01.output_proj: takes"),
    # Heads of K and V.
    ("few heads", outputs("layer_01.qkv_proj", 1, device_shape=(4, 128, 8)), "dimensions", "layer_01.qkv_proj: k"),
    ("few heads", weighed("layer_01.qkv_proj", device_shape=(256, 64)), "dimensions", "layer_01.qkv_proj: holds"),
    ("few heads", priced("layer_01.attention", num_kv_heads=2), "dimensions", "layer_01.attention: is priced with num"),
    ("heads by layer", outputs("layer_01.qkv_proj", 1, device_shape=(4, 128, 32)), "dimensions",
     "layer_01.qkv_proj: k"),
    ("heads by layer", priced("layer_01.attention", head_dim=32), "dimensions",
     "layer_01.attention: is priced with he"),
    ("heads by layer", fed("layer_01.router", 0, "layer_01.experts_norm"), "structure", "layer_01.router: takes"),
    ("heads by layer", without("layer_01.shared_post_norm"), "structure", "layer 1: shared_post_norm is missing"),
    # Experts across replicas.
    ("replicas", without("layer_01.combine"), "dimensions", "layer_01.experts_all_gather"),
    ("replicas", without("layer_01.combine"), "structure", "layer 1: combine is missing"),
    ("replicas", combine_without_dispatch, "dimensions", "layer_01.experts: takes sequence"),
    ("replicas", combine_without_dispatch, "structure", "layer 1: dispatch is missing"),
    ("replicas", whole_tokens_dispatched, "dimensions", "layer_01.dispatch: takes replicated and gives routed"),
    ("replicas", routes_of_other_tokens, "dimensions", "layer_01.dispatch: takes token_slice_out"),
    ("replicas", copies_of_experts, "dimensions", "layer_01.experts: holds other experts"),
    ("replicas", copies_of_experts, "structure", "layer_01.experts: holds other parameters"),
    ("replicas", wide_experts, "structure", "FLOP, the model"),
    ("replicas", grouped("layer_01.dispatch", "tensor"), "structure",
     "of tensor ranks, in the model collective (dispatch"),
    ("replicas", priced("layer_01.dispatch", span=(2,)), "dimensions", "layer_01.dispatch: is priced for 2 ranks"),
    ("replicas", priced("layer_01.combine", tokens=1), "dimensions", "layer_01.combine: is priced with tokens"),
    ("replicas", priced("layer_01.experts", imbalance=1.0), "dimensions", "layer_01.experts: is priced with imbalance"),
    ("replicas", priced("layer_01.experts", pairs=1), "dimensions", "layer_01.experts: is priced with pairs"),
    ("replicas", priced("layer_01.experts", num_experts=8), "dimensions",
     "layer_01.experts: is priced with num_experts"),
    ("replicas", outputs("layer_01.choose_experts", shape=(4, 128, 1), device_shape=(2, 64, 1)), "dimensions",
     "layer_01.choose_experts: chooses 1 of 8"),
    ("replicas", starved("layer_01.mlp_residual", 2), "structure", "layer_01.mlp_residual: takes 2 tensors"),
    ("replicas", without("layer_01.token_slice"), "structure", "layer 1: token_slice is missing"),
    ("replicas", outputs("layer_01.dispatch", placement=SEQUENCE, device_shape=(2, 64, 256)), "dimensions",
     "layer_01.dispatch"),
    ("replicas", weighed("layer_01.router", shape=(256, 8), device_shape=(256, 8)), "dimensions", "layer_01.router"),
    # Experts that the ranks of a tensor group share.
    ("group", outputs("layer_01.experts", placement=REPLICATED), "dimensions", "layer_01.experts: takes replicated"),
    ("group", without("layer_01.mlp_all_reduce"), "dimensions", "layer_01.mlp_residual"),
    ("group", priced("layer_01.experts", expert_width=64), "dimensions",
     "layer_01.experts: is priced with expert_width"),
    ("group", priced("layer_01.experts", gated=False), "dimensions", "layer_01.experts: is priced with gated"),
    ("group", without("layer_01.shared_add"), "structure", "layer 1: shared_add is missing"),
    ("group", fed("layer_01.shared_add", 1, "layer_01.experts"), "structure", "layer_01.shared_add: takes"),
    ("group", weighed("layer_01.router", shard_axis=1), "dimensions", "layer_01.router: is column-parallel"),
    # Latent attention.
    ("latent", starved("layer_01.attention", 3), "dimensions", "layer_01.attention: takes no rotary part"),
    ("latent", fed("layer_01.q_up_proj", 0, "layer_01.qkv_down_proj"), "structure", "layer_01.q_up_proj: takes"),
    ("latent", outputs("layer_01.qkv_down_proj", 1, placement=SHARDED, device_shape=(4, 128, 32)), "dimensions",
     "layer_01.qkv_down_proj"),
    ("latent", weighed("layer_01.kv_up_proj", shard_axis=None), "dimensions", "layer_01.kv_up_proj: has a weight that"),
    ("latent", priced("layer_01.attention", latent=True), "dimensions", "layer_01.attention: is priced with latent"),
    ("latent", priced("layer_01.attention", value_dim=48), "dimensions", "layer_01.attention: is priced with value"),
    ("latent", weighed("layer_01.latent_norm", shape=(96,)), "dimensions", "layer_01.latent_norm: has the gain"),
    ("latent", fed("layer_01.attention", 2, "layer_01.kv_up_proj", 0), "dimensions", "layer_01.attention: takes Q, K"),
    ("latent", priced("layer_00.mlp_up", n=1), "dimensions", "layer_00.mlp_up: is priced with n"),
    ("absorbed", priced("layer_01.attention", num_kv_heads=4), "dimensions", "layer_01.attention: is priced with num"),
    ("absorbed", priced("layer_01.attention", head_dim=48), "dimensions", "layer_01.attention: is priced with head"),
    ("absorbed", priced("layer_01.attention", context_tokens=1), "dimensions",
     "layer_01.attention: is priced with con"),
    ("absorbed", priced("layer_01.attention", kv_dtype="fp8"), "dimensions", "layer_01.attention: is priced with kv_"),
    # Windows, norms behind, and the ends.
    ("windows", priced("layer_00.attention", window=0), "dimensions", "layer_00.attention: is priced with window = 0"),
    ("windows", priced("layer_01.attention", window=96), "dimensions",
     "layer_01.attention: is priced with window = 96"),
    ("windows", without("layer_01.attention_post_norm"), "structure", "layer 1: attention_post_norm is missing"),
    ("windows", weighed("layer_01.rotary", shape=(48,)), "structure", "layer_01.rotary: holds other parameters"),
    ("windows", second_embedding, "structure", "lm_head: holds other parameters"),
    ("windows", second_embedding, "structure", "parameters, the model"),
    ("tied", second_embedding, "structure", "parameters, the model"),
    ("tied", without("final_norm"), "structure", "the ends of the model: final_norm is missing"),
    ("tied", head_of_all_tokens, "dimensions", "model output"),
    ("tied", head_of_all_tokens, "structure", "the ends of the model: last_token is missing"),
    ("tied", without("logits_all_gather"), "structure", "the ends of the model: logits_all_gather is missing"),
    ("tied", without("embedding_all_reduce"), "dimensions", "layer_00.attention_norm"),
    ("tied", weighed("embedding", shape=(999, 256)), "dimensions", "embedding: has no table of 1000 x 256"),
    ("tied", weighed("lm_head", shape=(256, 999)), "dimensions", "lm_head: has the weight"),
    ("tied", weighed("layer_01.qkv_proj", bias=0), "structure", "layer_01.qkv_proj: holds other parameters"),
    ("tied", lambda graph: change(graph, "final_norm", stage=0, devices=(0, 1)), "dimensions", "final_norm"),
    # Data types, and parts that change on the way.
    ("chunks", outputs("layer_01.qkv_proj", dtype="fp16"), "dimensions", "layer_01.qkv_proj: q is of fp16"),
    ("chunks", priced("layer_01.mlp_up", dtype="fp8"), "dimensions", "layer_01.mlp_up: multiplies fp8 weights"),
    ("latent", priced("layer_01.kv_up_proj", weight_dtype="int4"), "dimensions",
     "layer_01.kv_up_proj: multiplies int4"),
    ("group", weighed("layer_01.experts", dtype="fp4"), "dimensions", "layer_01.experts: multiplies bf16 weights"),
    ("replicas", priced("layer_01.combine", dtype="fp8"), "dimensions", "layer_01.combine: is priced with dtype"),
    ("chunks", outputs("layer_01.mlp_down.0", part=(1, 2)), "dimensions", "layer_01.mlp_all_reduce.0: takes the part"),
    ("chunks", priced("embedding", read_bytes=1), "dimensions", "embedding: is priced with read_bytes"),
]  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graphs_are_sound(graphs, name):
    """Before anything is done to them."""
    assert graphs[name].verify().passed


@pytest.mark.parametrize(("name", "mutate", "check", "named"), DEFECTS, ids=[f"{d[0]}-{d[2]}-{d[3]}" for d in DEFECTS])
def test_a_defect_is_caught_and_named(graphs, name, mutate, check, named):
    """The right check fails and its faults say where."""
    report = mutate(graphs[name]).verify()
    assert not report[check].passed
    assert any(named in fault for fault in report[check].faults), report[check].faults


SILENT = {"vector_flop", "tier"}
"""Fields of works that nothing else in a graph tells: how much an activation computes, and where devices sit."""


def changed_works(graph, node):
    """Name every change of the size of what an operator is priced with."""
    for field in dataclasses.fields(node.work):
        value = getattr(node.work, field.name)
        if isinstance(value, bool):
            yield f"work.{field.name}", partial(rework, graph, node.name, **{field.name: not value})
        elif isinstance(value, int | float) and field.name not in SILENT:
            yield f"work.{field.name}", partial(rework, graph, node.name, **{field.name: value + 1})
        elif field.name == "span":
            yield "work.span", partial(rework, graph, node.name, span=(value[0] + 1, *value[1:]))


def changed_wires(graph, node):
    """Name every other source of the same shape that an operator may take from."""
    for number, wanted in enumerate(node.inputs):
        sources = {(e.producer, e.output) for e in graph.edges if (e.consumer, e.input) == (node.name, number)}
        for other in graph:
            for output, given in enumerate(other.outputs):
                alike = (given.shape, given.placement) == (wanted.shape, wanted.placement) and other is not node
                if alike and (other.name, output) not in sources:
                    change_of_source = partial(reroute, graph, node.name, number, other.name, output)
                    yield f"input {number} from {other.name}", change_of_source


def changed_nodes(graph, node):
    """Name every other change of an operator."""
    if node.weight is not None:
        for field in ("bias", "device_bias"):
            yield field, partial(reweigh, graph, node.name, **{field: getattr(node.weight, field) + 1})
    for number, tensor in enumerate(node.outputs):
        wide = (*tensor.device_shape[:2], 2 * tensor.device_shape[2])
        placement = PARTIAL if tensor.placement != PARTIAL else SEQUENCE
        for fields in ({"device_shape": wide}, {"placement": placement}, {"dtype": "fp16"}):
            yield f"output {number}: {fields}", partial(change_output, graph, node.name, number, **fields)
    others = {
        "group": "tensor" if node.group != "tensor" else "context",
        "kind": "matmul" if node.kind != "matmul" else "attention",
        "devices": node.devices[1:],
        "layer": 0 if node.layer else 1,
    }
    for field, value in others.items():
        yield field, partial(change, graph, node.name, **{field: value})
    yield "cut out", partial(cut_out, graph, node.name)


@pytest.mark.parametrize("name", GRAPHS)
def test_no_change_of_one_operator_goes_unseen(graphs, name):
    """Of its work, its parameters, what it gives or takes, who carries it out: some of all possible ones."""
    graph = graphs[name]
    changes = [
        (node.name, label, make)
        for node in graph
        if node.kind not in POINTS
        for named in (changed_works, changed_wires, changed_nodes)
        for label, make in named(graph, node)
    ]
    assert len(changes) > 1000
    for operator, label, make in random.Random(name).sample(changes, 60):  # noqa: S311
        assert not make().verify().passed, f"{operator}: {label}"
