"""The operator graph: complete, sharded, placed, and equal to closed forms that are written down here."""

import dataclasses
import json
import math
import pickle

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim import OperatorGraph, Plan, Scenario, Workload, operator_graph
from perfsim.ops.build import sized_graph, tokens_of
from perfsim.ops.operators import Collective, Transfer
from perfsim.spec.model import Model

LAYER = (
    "attention_norm", "qkv_proj", "attention", "output_proj", "attention_residual",
    "mlp_norm", "mlp_up", "gelu", "mlp_down", "mlp_residual",
)  # fmt: skip
REDUCES = ("attention_all_reduce", "mlp_all_reduce")
BATCH, LENGTH, HIDDEN, INNER = 1024, 10_000, 8192, 32_768

GQA = Model(
    "gqa", num_hidden_layers=6, hidden_size=256, num_attention_heads=8, num_key_value_heads=2, intermediate_size=640
)
WIDE = Model(
    "wide", num_hidden_layers=6, hidden_size=192, num_attention_heads=4, num_key_value_heads=4, head_dim=96,
    intermediate_size=512,
)  # fmt: skip
BOTH = Model(
    "both", num_hidden_layers=6, hidden_size=96, num_attention_heads=12, num_key_value_heads=4, head_dim=20,
    intermediate_size=200,
)  # fmt: skip
PLANS = {
    "one": Plan(),
    "tensor": Plan(tensor=2, microbatch_size=4),
    "uneven": Plan(tensor=2, pipeline=3, layers_per_stage=(3, 1, 2), microbatch_size=2),
    "data": Plan(pipeline=2, data=2, microbatch_size=2),
    "scatter": Plan(tensor=2, pipeline=2, data=2, scatter_gather=True, microbatch_size=1),
}
WORKLOADS = {
    "prefill": Workload(batch_size=8, sequence_length=100),
    "full": Workload(batch_size=8, sequence_length=100, causal=False),
    "decode": Workload(phase="decode", batch_size=8, sequence_length=100),
}


@pytest.fixture(scope="module")
def graph(improved):
    """Give the graph of the improved seed plan."""
    return operator_graph(improved)


@pytest.fixture(params=[GQA, WIDE, BOTH], ids=lambda model: model.name)
def model(request):
    """Give models with grouped heads, with heads wider than the hidden size's share, and with both."""
    return request.param


@pytest.fixture(params=PLANS.values(), ids=PLANS)
def plan(request):
    """Give plans of every kind."""
    return request.param


@pytest.fixture(params=WORKLOADS.values(), ids=WORKLOADS)
def workload(request):
    """Give a causal and a full prefill, and a decode step."""
    return request.param


def test_all_layers_of_the_seeds_are_complete(seed):
    """Sixteen layers with every operator once, in order, none abbreviated."""
    ops = list(LAYER)
    if seed.plan.tensor > 1:
        ops.insert(4, REDUCES[0])
        ops.insert(10, REDUCES[1])
    graph = operator_graph(seed)
    for layer in range(16):
        names = [operator.name for operator in graph if operator.layer == layer]
        assert names == [f"layer_{layer:02d}.{op}" for op in ops]


def test_the_points_around_the_layers_of_the_seeds_are_there(seed):
    """Input, split, a send and a receive between stages, gather, output."""
    hand_overs = [name for s in range(seed.plan.pipeline - 1) for name in (f"stage_{s}.send", f"stage_{s + 1}.receive")]
    around = [operator.name for operator in operator_graph(seed) if operator.layer is None]
    assert around == ["input", "split", *hand_overs, "gather", "output"]


def test_devices_of_the_seeds_are_those_of_the_stage(seed):
    """One GPU a layer, or eight for eight layers."""
    width = seed.plan.tensor
    layers = 16 // seed.plan.pipeline
    for operator in operator_graph(seed):
        stage = operator.stage if operator.layer is None else operator.layer // layers
        assert operator.stage == stage
        assert operator.devices == tuple(range(stage * width, (stage + 1) * width))


@pytest.mark.parametrize(
    ("op", "inputs", "outputs"),
    [
        ("attention_norm", [(HIDDEN, HIDDEN, "replicated")], [(HIDDEN, HIDDEN, "replicated")]),
        ("qkv_proj", [(HIDDEN, HIDDEN, "replicated")], [(HIDDEN, 1024, "sharded")] * 3),
        ("attention", [(HIDDEN, 1024, "sharded")] * 3, [(HIDDEN, 1024, "sharded")]),
        ("output_proj", [(HIDDEN, 1024, "sharded")], [(HIDDEN, HIDDEN, "partial")]),
        ("attention_all_reduce", [(HIDDEN, HIDDEN, "partial")], [(HIDDEN, HIDDEN, "replicated")]),
        ("attention_residual", [(HIDDEN, HIDDEN, "replicated")] * 2, [(HIDDEN, HIDDEN, "replicated")]),
        ("mlp_norm", [(HIDDEN, HIDDEN, "replicated")], [(HIDDEN, HIDDEN, "replicated")]),
        ("mlp_up", [(HIDDEN, HIDDEN, "replicated")], [(INNER, 4096, "sharded")]),
        ("gelu", [(INNER, 4096, "sharded")], [(INNER, 4096, "sharded")]),
        ("mlp_down", [(INNER, 4096, "sharded")], [(HIDDEN, HIDDEN, "partial")]),
        ("mlp_all_reduce", [(HIDDEN, HIDDEN, "partial")], [(HIDDEN, HIDDEN, "replicated")]),
        ("mlp_residual", [(HIDDEN, HIDDEN, "replicated")] * 2, [(HIDDEN, HIDDEN, "replicated")]),
    ],
)
def test_shapes_of_the_improved_plan(graph, op, inputs, outputs):
    """Global shapes of the whole batch, device shapes of one sequence's shard, in every layer."""
    for layer in range(16):
        operator = graph[f"layer_{layer:02d}.{op}"]
        for tensors, wanted in ((operator.inputs, inputs), (operator.outputs, outputs)):
            shapes = [(tensor.shape, tensor.device_shape, tensor.placement) for tensor in tensors]
            assert shapes == [((BATCH, LENGTH, w), (1, LENGTH, d), placement) for w, d, placement in wanted]


def test_the_model_gives_what_it_takes(seed):
    """Output shape and input shape are those of the hidden state."""
    graph = operator_graph(seed)
    assert graph["input"].outputs[0].shape == graph["output"].inputs[0].shape == (BATCH, LENGTH, HIDDEN)
    assert graph["input"].inputs == graph["output"].outputs == ()


def test_every_input_is_the_output_that_its_edge_names(seed):
    """One edge for each input of each operator."""
    graph = operator_graph(seed)
    sources = {(edge.consumer, edge.input): graph[edge.producer].outputs[edge.output] for edge in graph.edges}
    assert len(sources) == len(graph.edges)
    assert sources == {(o.name, i): tensor for o in graph for i, tensor in enumerate(o.inputs)}


def test_the_hand_over_sends_the_whole_tensor_to_the_peer(graph):
    """Over the fabric between the nodes."""
    send = graph["stage_0.send"]
    assert send.work == Transfer(LENGTH * HIDDEN * 2, tier=1)
    assert (send.devices, graph["stage_1.receive"].devices) == (tuple(range(8)), tuple(range(8, 16)))


def test_the_hand_over_may_send_shares_that_the_receivers_gather(improved):
    """An eighth on the wire, and an all-gather of the whole behind it."""
    graph = operator_graph(improved.with_(scatter_gather=True))
    assert graph["stage_0.send"].work == Transfer(LENGTH * HIDDEN * 2 // 8, tier=1)
    assert graph["stage_1.receive"].outputs[0].device_shape == (1, LENGTH, 1024)
    gather = graph["stage_1.all_gather"]
    assert gather.work == Collective("all_gather", LENGTH * HIDDEN * 2, (8,))
    assert gather.outputs[0].device_shape == (1, LENGTH, HIDDEN)
    assert graph["layer_08.attention_norm"].inputs == gather.outputs


def test_networkx_agrees_that_the_graph_is_acyclic_and_connected(seed):
    """By its own algorithms."""
    graph = operator_graph(seed).to_networkx()
    assert nx.is_directed_acyclic_graph(graph)
    assert nx.ancestors(graph, "output") == set(graph) - {"output"}
    assert nx.descendants(graph, "input") == set(graph) - {"input"}


def test_networkx_gets_every_field(graph):
    """Nodes carry what operators have, edges carry their tensor."""
    other = graph.to_networkx()
    assert list(other) == [operator.name for operator in graph]
    for operator in graph:
        fields = {key: value for key, value in vars(operator).items() if key != "name"}
        assert other.nodes[operator.name] == fields
    edges = {(p, c, data["output"], data["input"]): data["tensor"] for p, c, data in other.edges(data=True)}
    assert len(edges) == len(graph.edges)
    for (producer, consumer, output, taken), tensor in edges.items():
        assert tensor == graph[producer].outputs[output] == graph[consumer].inputs[taken]


def test_producers_stand_before_their_consumers(seed):
    """The order of the operators is topological."""
    graph = operator_graph(seed)
    place = {operator.name: i for i, operator in enumerate(graph)}
    assert all(place[edge.producer] < place[edge.consumer] for edge in graph.edges)


def closed_form(model, workload):
    """Write down the FLOP and parameters of a model from its config alone."""
    heads, kv_heads, width = model.num_attention_heads, model.num_key_value_heads, model.head_dim
    q, kv = heads * width, kv_heads * width
    matrices = model.hidden_size * q + 2 * model.hidden_size * kv + q * model.hidden_size
    matrices += model.hidden_size * model.intermediate_size + model.intermediate_size * model.hidden_size
    length = workload.sequence_length
    new = 1 if workload.phase == "decode" else length
    pairs = length if workload.phase == "decode" else length * length / (2 if workload.causal else 1)
    flop = 2 * matrices * new + 2 * 2 * heads * width * pairs
    layers = model.num_hidden_layers
    return workload.batch_size * layers * flop, layers * (matrices + 2 * model.hidden_size)


def count(scenario):
    """Count the FLOP and parameters of a graph: all devices, all microbatches, ragged ones at their own size."""
    flop = 0
    for size in scenario.microbatch_sizes:
        flop += sum(operator.work.flop * len(operator.devices) for operator in operator_graph(scenario, size))
    weights = [operator.weight for operator in operator_graph(scenario) if operator.weight]
    return flop, sum(weight.count for weight in weights)


def test_flop_and_parameters_equal_the_closed_form(h100, model, plan, workload):
    """For models, plans and workloads of every kind, to the last one."""
    assert count(Scenario(h100, model, plan, workload)) == closed_form(model, workload)


def test_flop_of_the_seed_model_are_the_designs(seeds):
    """2.91e17 with the causal half, 3.18e17 with full attention, for each of the three plans."""
    for scenario in seeds.values():
        small = scenario.with_(batch_size=2)
        assert count(small) == closed_form(small.model, small.workload)
        assert count(small)[0] * 512 == pytest.approx(2.91e17, rel=0.005)
        assert count(small.with_(causal=False))[0] * 512 == pytest.approx(3.18e17, rel=0.005)


@given(data=st.data())
def test_flop_and_parameters_of_any_plain_scenario_equal_the_closed_form(data, plain_scenarios):
    """Ragged batches and one-token prompts included: a prompt of one token attends to itself."""
    scenario = data.draw(plain_scenarios)
    if scenario.workload.sequence_length == 1:
        scenario = scenario.with_(causal=False)
    assert count(scenario) == closed_form(scenario.model, scenario.workload)


@given(data=st.data())
def test_a_graph_survives_the_way_through_json_and_pickle(data, small_scenarios):
    """Equal, with equal hashes."""
    graph = operator_graph(data.draw(small_scenarios))
    for again in (OperatorGraph.from_json(graph.to_json()), pickle.loads(pickle.dumps(graph))):  # noqa: S301
        assert again == graph
        assert hash(again) == hash(graph)
        assert again.verify().passed == graph.verify().passed


def test_a_graph_of_numpy_sizes_survives_the_way_through_json(improved):
    """A point of a sweep over an array can be saved."""
    graph = operator_graph(improved.with_(tensor=np.int64(8), batch_size=np.int32(4)))
    assert OperatorGraph.from_json(graph.to_json()) == graph


def test_a_graph_of_many_sizes_is_not_written(refused, improved):
    """It stands for the graphs of a sweep, and JSON is of one."""
    tokens = tokens_of(improved, np.array([1, 2]), np.array([100, 200]))
    (fault,) = refused(sized_graph(improved, tokens).to_json)
    assert fault.field == "graph"


def test_numpy_numbers_in_a_graph_are_written_as_numbers(graph):
    """A graph that was made by hand, too."""
    edge = dataclasses.replace(graph.edges[0], output=np.int64(0))
    other = dataclasses.replace(graph, edges=(edge, *graph.edges[1:]))
    assert OperatorGraph.from_json(other.to_json()) == graph


def test_the_seed_graphs_survive_the_way_through_json(seed):
    """All operators of all layers."""
    graph = operator_graph(seed)
    assert OperatorGraph.from_json(graph.to_json()) == graph


def test_graphs_differ_where_scenarios_do(improved):
    """Equality is of values."""
    assert operator_graph(improved) == operator_graph(improved)
    assert operator_graph(improved) != operator_graph(improved.with_(causal=False))


def test_a_ragged_microbatch_has_the_same_operators_at_its_own_size(improved):
    """Device shapes shrink, global shapes stay."""
    scenario = improved.with_(batch_size=10, microbatch_size=4)
    usual, ragged = operator_graph(scenario), operator_graph(scenario, 2)
    assert [o.name for o in usual] == [o.name for o in ragged]
    assert ragged["layer_00.gelu"].outputs[0].shape == usual["layer_00.gelu"].outputs[0].shape
    assert ragged["layer_00.gelu"].outputs[0].device_shape[0] == 2
    assert ragged["layer_00.mlp_up"].work.flop * 2 == usual["layer_00.mlp_up"].work.flop


@pytest.mark.parametrize("size", [0, -1, 1.5, True], ids=repr)
def test_a_microbatch_that_is_none_is_refused(refused, improved, size):
    """A microbatch has at least one sequence."""
    assert refused(operator_graph, improved, size)


def test_the_graph_carries_the_plan_as_it_is_carried_out(improved):
    """Defaults are filled in."""
    graph = operator_graph(improved.with_(microbatch_size=None))
    assert (graph.plan.microbatch_size, graph.plan.layers_per_stage) == (512, (8, 8))
    assert (graph.workload.dtype, graph.workload.kv_dtype) == ("bf16", "bf16")


@pytest.mark.parametrize("text", ["", "[", "[]", "5", "{}", '{"format": 1}'])
def test_text_that_is_no_graph_is_refused(refused, text):
    """With all that is missing."""
    assert all(fault.field.startswith("graph") for fault in refused(OperatorGraph.from_json, text))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 99),
        ("operators", 5),
        ("operators", [5]),
        ("edges", 5),
        ("edges", [{"producer": "input"}]),
        ("plan", {"tenser": 1}),
        ("model", 5),
        ("notes", "x"),
    ],
)
def test_a_broken_graph_is_refused(refused, graph, key, value):
    """By the name of what is broken."""
    table = {**json.loads(graph.to_json()), key: value}
    assert any(key in fault.field for fault in refused(OperatorGraph.from_json, json.dumps(table)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("work", {"kind": "magic"}),
        ("work", {"kind": "nothing", "m": 1}),
        ("work", 5),
        ("work", {"kind": "transfer", "payload_bytes": -1, "tier": 0}),
        ("work", {"kind": "transfer", "payload_bytes": [1], "tier": 0}),
        ("work", {"kind": "collective", "op": "all_reduce", "payload_bytes": 1, "span": [True]}),
        ("work", {"kind": "matmul", "m": 1, "n": 1, "k": 1, "dtype": "bf17"}),
        ("weight", {"shape": 5}),
        ("inputs", [5]),
        ("inputs", None),
        ("devices", 5),
        ("devices", [-1]),
        ("stage", "x"),
        ("layer", 1.5),
        ("name", None),
        ("colour", 1),
    ],
)
def test_a_broken_operator_is_refused(refused, graph, field, value):
    """By its place."""
    table = json.loads(graph.to_json())
    table["operators"][0][field] = value
    assert all("operators.0" in fault.field for fault in refused(OperatorGraph.from_json, json.dumps(table)))


def leaves(value, path):
    """Give the dotted name and the place of every single value in a table."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        if isinstance(item, dict | list):
            yield from leaves(item, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value, key


@pytest.mark.parametrize("wrong", [[[]], -1, True, math.nan], ids=repr)
@pytest.mark.parametrize("name", ["layer_03.qkv_proj", "layer_03.attention", "layer_03.gelu", "stage_0.send"])
def test_every_field_of_operators_and_edges_is_checked(refused, graph, name, wrong):
    """Whatever must be a number, a truth value or a text."""
    alone = dataclasses.replace(graph, operators=(graph[name],), edges=graph.edges[:1])
    table = json.loads(alone.to_json())
    for part in ("operators", "edges"):
        for field, place, key in leaves(table[part], f"graph.{part}"):
            if key in {"causal", "latent", "static_scales", "tied"} and wrong is True:
                continue
            before, place[key] = place[key], wrong
            (fault,) = refused(OperatorGraph.from_json, json.dumps(table))
            assert fault.field == field
            place[key] = before
    assert OperatorGraph.from_json(json.dumps(table)) == alone


@pytest.mark.parametrize("axes", [0, 2, 4])
def test_a_tensor_has_three_axes(refused, graph, axes):
    """Sequences, tokens and width."""
    table = json.loads(graph.to_json())
    table["operators"][3]["inputs"][0]["device_shape"] = [1] * axes
    (fault,) = refused(OperatorGraph.from_json, json.dumps(table))
    assert fault.field == "graph.operators.3.inputs.0.device_shape"


def test_a_graph_whose_workload_leaves_its_dtypes_to_the_model_is_verified(graph):
    """A plan in a file need not say what follows."""
    workload = dataclasses.replace(graph.workload, dtype=None, kv_dtype=None)
    assert dataclasses.replace(graph, workload=workload).verify().passed


def test_the_graph_prints_its_size(graph):
    """Not its thousands of fields."""
    assert repr(graph) == "OperatorGraph(198 operators, 261 edges, 16 devices)"


def test_the_graph_is_reached_from_the_package(improved):
    """`perfsim.operator_graph` and `perfsim.OperatorGraph` are the public names."""
    assert isinstance(perfsim.operator_graph(improved), perfsim.OperatorGraph)
