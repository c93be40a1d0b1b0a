"""Verification: sound graphs pass, and every defect is caught by the right check, which names the operator."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.ops.build import operator_graph
from perfsim.ops.nodes import Edge
from perfsim.ops.slots import REPLICATED, SHARDED
from tests.ops.mutations import bridge, change, change_input, change_output, drop, feed

replace = dataclasses.replace
CHECKS = ["acyclic", "connected", "dimensions", "balance", "structure"]


@pytest.fixture(scope="module")
def graph(improved):
    """Give the graph of the improved seed plan."""
    return operator_graph(improved)


def layer_names(graph, layer):
    """Names of the operators of a layer."""
    return [operator.name for operator in graph if operator.layer == layer]


def without_layer(graph):
    """Lead the output of layer 4 past layer 5."""
    left = drop(graph, *layer_names(graph, 5))
    left = feed(left, "layer_06.attention_norm", 0, "layer_04.mlp_residual")
    return feed(left, "layer_06.attention_residual", 0, "layer_04.mlp_residual")


def abbreviated_layer(graph):
    """Put one node in the place of layer 5."""
    node = replace(
        graph["layer_05.mlp_residual"], name="layer_05.similar", op="similar", inputs=graph["layer_05.mlp_norm"].inputs
    )
    left = drop(graph, *layer_names(graph, 5))
    left = replace(left, operators=(*left.operators, node))
    for name in ("layer_06.attention_norm", "layer_06.attention_residual"):
        left = feed(left, name, 0, "layer_05.similar")
    return feed(left, "layer_05.similar", 0, "layer_04.mlp_residual")


def sharded_column_input(graph):
    """Shard the input of a column-parallel matrix, as the seed's own picture does."""
    sharded = {"placement": SHARDED, "device_shape": (1, 10_000, 1024)}
    return change_output(graph, "layer_03.mlp_norm", **sharded)


def resized_all_reduce(graph):
    """Let an all-reduce give half of the width."""
    return change_output(graph, "layer_03.mlp_all_reduce", shape=(1024, 10_000, 4096), device_shape=(1, 10_000, 4096))


def missing_all_reduce(graph):
    """Add partial sums to the residual."""
    (sums,) = graph["layer_03.mlp_down"].outputs
    inputs = (graph["layer_03.mlp_residual"].inputs[0], sums)
    return change(bridge(graph, "layer_03.mlp_all_reduce"), "layer_03.mlp_residual", inputs=inputs)


def cycle(graph):
    """Feed the end of a layer into its beginning."""
    return feed(graph, "layer_03.attention_norm", 0, "layer_03.mlp_residual")


def dangling(graph):
    """Add an operator that nothing feeds and nothing takes."""
    return replace(graph, operators=(*graph.operators, replace(graph["layer_03.gelu"], name="loose.gelu", inputs=())))


def dead_end(graph):
    """Add an operator whose output nobody takes."""
    grown = replace(graph, operators=(*graph.operators, replace(graph["layer_03.gelu"], name="dead.gelu")))
    return feed(grown, "dead.gelu", 0, "layer_03.mlp_up")


def missing_send(graph):
    """Let the next stage take what it was never sent."""
    return bridge(graph, "stage_0.send")


def twice(graph):
    """Let an operator stand twice."""
    return replace(graph, operators=(*graph.operators, graph["layer_03.gelu"]))


def edge_to_nowhere(graph):
    """Add an edge to a node that is not there."""
    return replace(graph, edges=(*graph.edges, Edge("layer_03.gelu", 0, "layer_99.mlp_down", 0)))


def edge_from_nowhere(graph):
    """Take an input from a node that is not there."""
    return feed(graph, "layer_03.mlp_down", 0, "layer_99.gelu")


def edge_from_missing_output(graph):
    """Take the fourth of three outputs."""
    return feed(graph, "layer_03.attention", 2, "layer_03.qkv_proj", 3)


def fed_twice(graph):
    """Give one input two sources."""
    return replace(graph, edges=(*graph.edges, Edge("layer_02.gelu", 0, "layer_03.mlp_down", 0)))


def not_fed(graph):
    """Cut an edge."""
    return replace(graph, edges=tuple(edge for edge in graph.edges if edge.consumer != "layer_03.mlp_down"))


def other_output(graph):
    """Let the model give half of what it takes."""
    half = {"shape": (1024, 10_000, 4096), "device_shape": (1, 10_000, 4096)}
    return change_output(graph, "gather", **half)


def wrong_weight(graph):
    """Give a matrix the weight of another."""
    return change(graph, "layer_03.mlp_up", weight=graph["layer_03.mlp_down"].weight)


def no_weight(graph):
    """Multiply by nothing."""
    return change(graph, "layer_03.mlp_up", weight=None)


def unshared_weight(graph):
    """Hold a whole matrix on every rank."""
    return change(graph, "layer_03.mlp_up", weight=replace(graph["layer_03.mlp_up"].weight, shard_axis=None))


def wrong_norm(graph):
    """Give a norm a gain of another width."""
    return change(graph, "layer_03.mlp_norm", weight=replace(graph["layer_03.mlp_norm"].weight, shape=(4096,)))


def wrong_heads(graph):
    """Give attention half of the K channels."""
    half = {"shape": (1024, 10_000, 4096), "device_shape": (1, 10_000, 512)}
    return change_output(graph, "layer_03.qkv_proj", 1, **half)


def wrong_attention_output(graph):
    """Let attention give another width than Q has."""
    half = {"shape": (1024, 10_000, 4096), "device_shape": (1, 10_000, 512)}
    return change_output(graph, "layer_03.attention", **half)


def other_stage(graph):
    """Put a layer of the first stage on the devices of the second."""
    for name in layer_names(graph, 5):
        graph = change(graph, name, stage=1, devices=tuple(range(8, 16)))
    return graph


def other_batch(graph):
    """Let an operator give another batch than it takes."""
    return change_output(graph, "layer_03.gelu", shape=(512, 10_000, 32_768))


def other_device_width(graph):
    """Hold more of a tensor than the placement gives."""
    return change_output(graph, "layer_03.gelu", device_shape=(1, 10_000, 8192))


def other_device_batch(graph):
    """Hold two sequences of a microbatch of one."""
    return change_output(graph, "layer_03.gelu", device_shape=(2, 10_000, 4096))


def replicated_attention(graph):
    """Compute all heads on every device."""
    return change_output(graph, "layer_03.attention", placement=REPLICATED, device_shape=(1, 10_000, 8192))


def other_dtype(graph):
    """Take another dtype than was produced."""
    return change_input(graph, "layer_03.mlp_down", dtype="fp8")


def one_side_shape(graph):
    """Take another shape than was produced."""
    return change_input(graph, "layer_03.mlp_down", shape=(1024, 10_000, 16_384))


def fewer_keys(graph):
    """Give K half of the tokens of Q."""
    return change_output(graph, "layer_03.qkv_proj", 1, shape=(1024, 5000, 8192), device_shape=(1, 5000, 1024))


def two_axes(graph):
    """Forget the axis of the sequences."""
    return change_output(graph, "layer_03.gelu", shape=(10_240_000, 32_768), device_shape=(10_000, 4096))


def wrong_skip(graph):
    """Skip from the layer's input where the attention's residual belongs."""
    return feed(graph, "layer_03.mlp_residual", 0, "layer_02.mlp_residual")


def no_skip(graph):
    """Add nothing to the MLP's output."""
    residual = graph["layer_03.mlp_residual"]
    edges = [edge for edge in graph.edges if edge.consumer != residual.name]
    edges.append(Edge("layer_03.mlp_all_reduce", 0, residual.name, 0))
    return replace(change(graph, residual.name, inputs=residual.inputs[1:]), edges=tuple(edges))


def swapped_k_and_v(graph):
    """Feed K where V belongs."""
    return feed(
        feed(graph, "layer_03.attention", 1, "layer_03.qkv_proj", 2), "layer_03.attention", 2, "layer_03.qkv_proj", 1
    )


def other_work(graph):
    """Price a matrix of another size than the shapes say."""
    return change(graph, "layer_03.mlp_up", work=replace(graph["layer_03.mlp_up"].work, n=1))


def other_payload(graph):
    """Reduce one byte."""
    return change(
        graph, "layer_03.mlp_all_reduce", work=replace(graph["layer_03.mlp_all_reduce"].work, payload_bytes=1)
    )


def extra_operator(graph):
    """Apply the activation twice."""
    gelu = graph["layer_03.gelu"]
    extra = replace(gelu, name="extra.gelu", layer=None, inputs=gelu.outputs)
    grown = feed(replace(graph, operators=(*graph.operators, extra)), "extra.gelu", 0, gelu.name)
    return feed(grown, "layer_03.mlp_down", 0, "extra.gelu")


def extra_layer(graph):
    """Add a seventeenth layer behind the sixteenth."""
    names = {name: name.replace("layer_15", "layer_16") for name in layer_names(graph, 15)}
    operators = [replace(graph[old], name=new, layer=16) for old, new in names.items()]
    inner = [e for e in graph.edges if e.consumer in names]
    edges = [
        replace(e, producer=names.get(e.producer, "layer_15.mlp_residual"), consumer=names[e.consumer]) for e in inner
    ]
    grown = replace(graph, operators=(*graph.operators, *operators), edges=(*graph.edges, *edges))
    return feed(grown, "gather", 0, "layer_16.mlp_residual")


def other_kind(graph):
    """Call an all-reduce a computation."""
    return change(graph, "layer_03.mlp_all_reduce", kind="elementwise")


def unknown_kind(graph):
    """Call a matrix magic."""
    return change(graph, "layer_03.mlp_up", kind="magic")


def residual_on(*devices):
    """Make a mutation that puts a residual on these GPUs only."""

    def mutate(graph):
        return change(graph, "layer_03.mlp_residual", devices=devices)

    return mutate


def name_of(value):
    """Name a mutation by its function and what it must hit by its text."""
    return getattr(value, "__name__", value)


MUTATIONS = [
    (cycle, "acyclic", "layer_03.attention_norm"),
    (dangling, "connected", "loose.gelu"),
    (dead_end, "connected", "dead.gelu"),
    (not_fed, "connected", "layer_03.mlp_down"),
    (fed_twice, "connected", "layer_03.mlp_down"),
    (twice, "connected", "layer_03.gelu"),
    (edge_to_nowhere, "connected", "layer_99.mlp_down"),
    (edge_from_nowhere, "connected", "layer_99.gelu"),
    (edge_from_missing_output, "dimensions", "layer_03.qkv_proj -> layer_03.attention"),
    (sharded_column_input, "dimensions", "layer_03.mlp_up"),
    (resized_all_reduce, "dimensions", "layer_03.mlp_all_reduce"),
    (missing_all_reduce, "dimensions", "layer_03.mlp_residual"),
    (residual_on(0), "dimensions", "layer_03.mlp_residual"),
    (residual_on(), "dimensions", "layer_03.mlp_residual"),
    (other_output, "dimensions", "model output"),
    (wrong_weight, "dimensions", "layer_03.mlp_up"),
    (no_weight, "dimensions", "layer_03.mlp_up"),
    (unshared_weight, "dimensions", "layer_03.mlp_up"),
    (wrong_heads, "dimensions", "layer_03.attention"),
    (wrong_attention_output, "dimensions", "layer_03.attention"),
    (replicated_attention, "dimensions", "layer_03.attention"),
    (other_batch, "dimensions", "layer_03.gelu"),
    (other_device_width, "dimensions", "layer_03.gelu"),
    (other_device_batch, "dimensions", "layer_03.gelu"),
    (other_dtype, "dimensions", "layer_03.gelu -> layer_03.mlp_down"),
    (one_side_shape, "dimensions", "layer_03.gelu -> layer_03.mlp_down"),
    (fewer_keys, "dimensions", "layer_03"),
    (two_axes, "dimensions", "layer_03.gelu"),
    (swapped_k_and_v, "dimensions", "layer_03.attention"),
    (no_skip, "dimensions", "layer_03.mlp_residual"),
    (unknown_kind, "dimensions", "layer_03.mlp_up"),
    (other_kind, "dimensions", "layer_03.mlp_all_reduce"),
    (other_work, "dimensions", "layer_03.mlp_up"),
    (other_payload, "dimensions", "layer_03.mlp_all_reduce"),
    (replicated_attention, "balance", "device 0"),
    (other_stage, "balance", "device 8"),
    (other_stage, "structure", "layer_05.attention: is on stage 1"),
    (residual_on(0), "structure", "layer_03.mlp_residual"),
    (without_layer, "structure", "layer 5 is missing"),
    (abbreviated_layer, "structure", "layer 5: qkv_proj is missing"),
    (abbreviated_layer, "structure", "layer 5: similar is not one of its operators"),
    (missing_all_reduce, "structure", "layer 3: mlp_all_reduce is missing"),
    (missing_send, "structure", "stage_0.send is missing"),
    (wrong_norm, "structure", "layer_03.mlp_norm"),
    (wrong_skip, "structure", "layer_03.mlp_residual"),
    (extra_operator, "structure", "extra.gelu"),
    (extra_layer, "structure", "layer 16"),
]


@pytest.mark.parametrize(("mutate", "check", "named"), MUTATIONS, ids=name_of)
def test_a_defect_is_caught_and_named(graph, mutate, check, named):
    """The right check fails and its faults say where."""
    report = mutate(graph).verify()
    assert not report.passed
    assert not report[check].passed
    assert any(named in fault for fault in report[check].faults)


def test_an_unbalanced_stage_is_caught_and_named(improved):
    """Ten layers and six are legal, but not balanced."""
    report = operator_graph(improved.with_(layers_per_stage=(10, 6))).verify()
    assert [check.name for check in report.checks if not check.passed] == ["balance"]
    assert "1.2500 over 16 GPUs" in report["balance"].evidence
    devices = [fault.split(":")[0] for fault in report["balance"].faults]
    assert devices == [f"device {device}" for device in range(16)]


def test_stages_within_the_tolerance_are_balanced(h100, improved):
    """A hundred layers and 101 differ by less than a hundredth from the mean."""
    changes = {"cluster": h100, "num_hidden_layers": 201, "layers_per_stage": (101, 100), "batch_size": 2}
    assert operator_graph(improved.with_(**changes)).verify()["balance"].passed


def test_the_seeds_pass(seed):
    """All five checks hold for each of the three plans, with evidence and without faults."""
    report = operator_graph(seed).verify()
    assert report.passed
    assert [check.name for check in report.checks] == CHECKS
    assert all(check.evidence and check.claim and not check.faults for check in report.checks)


@given(data=st.data())
def test_every_legal_scenario_passes_but_for_balance(data, small_scenarios):
    """What perfsim makes is sound; only the FLOP of its stages may differ, by their layers and the head."""
    scenario = data.draw(small_scenarios)
    for size in set(scenario.microbatch_sizes):
        report = operator_graph(scenario, size).verify()
        failed = [check.name for check in report.checks if not check.passed]
        assert failed in ([], ["balance"] if scenario.plan.pipeline > 1 else [])


def test_the_evidence_counts_what_was_checked(graph):
    """Operators, edges, devices, parameters and FLOP."""
    report = graph.verify()
    assert report["acyclic"].evidence == f"{len(graph.operators)} operators, {len(graph.edges)} edges, no cycle"
    assert "max/mean FLOP per GPU 1.0000 over 16 GPUs (tolerance 1.01)" in report["balance"].evidence
    assert "[1024, 10000, 8192]" in report["dimensions"].evidence
    assert "12,885,164,032 parameters and 2.9073e+17 FLOP" in report["structure"].evidence


def test_the_report_prints_itself(graph):
    """A line a check, and the faults below the one that fails."""
    lines = str(graph.verify()).splitlines()
    assert lines[0] == "Verification: 5 of 5 checks hold"
    assert [line[:6] for line in lines[1:]] == ["[pass]"] * 5
    text = repr(cycle(graph).verify())
    assert "[FAIL] No cycles in the DAG: 198 operators, 261 edges, a cycle" in text
    assert "       - cycle: layer_03." in text


def test_a_long_list_of_faults_is_cut_short(graph):
    """A dozen is enough to see what is wrong."""
    report = replace(graph, edges=()).verify()
    assert "more" in str(report["connected"]).splitlines()[-1]
    assert len(str(report["connected"]).splitlines()) < 20


def test_the_report_is_a_table_too(graph):
    """One row a check."""
    frame = cycle(graph).verify().to_frame()
    assert list(frame.index) == CHECKS
    assert not frame.passed["acyclic"]


def test_the_named_cycle_is_a_cycle(graph):
    """Each step of it is an edge of the graph, and it ends where it began."""
    broken = cycle(graph)
    (fault,) = broken.verify()["acyclic"].faults
    walk = fault.removeprefix("cycle: ").split(" -> ")
    edges = {(edge.producer, edge.consumer) for edge in broken.edges}
    assert walk[0] == walk[-1]
    assert all(step in edges for step in itertools.pairwise(walk))
