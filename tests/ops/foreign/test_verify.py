"""Somebody else's graph: a sound one passes, its check catches each defect, and what is not said cannot be told."""

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim.ops.foreign.reading import drawing_of_networkx
from perfsim.ops.foreign.verify import verify_drawing
from perfsim.report.dot import dag_dot
from perfsim.spec.plan import Plan

CHECKS = ("acyclic", "connected", "dimensions", "balance", "structure")


def verdicts(report):
    """Give the verdict of each check."""
    return {check.name: check.verdict for check in report.checks}


def failing(report):
    """Give the names of the checks that do not hold."""
    return {name for name, verdict in verdicts(report).items() if verdict == "does not hold"}


def faults(report, check):
    """Give the faults of a check as one text."""
    return "\n".join(report[check].faults)


# What holds


def test_a_sound_drawing_passes(sketch):
    """All five checks hold, with what was counted as evidence."""
    report = perfsim.verify(sketch.dot())
    assert report.passed, str(report)
    assert report["acyclic"].evidence == "51 nodes, 58 edges, no cycle"
    assert report["balance"].evidence.startswith("max/mean FLOP per GPU 1.0000 (tolerance 1.01)")
    assert report["structure"].evidence.startswith("4 layers of 12 operators")


def test_symbols_stand_for_numbers(sketch):
    """A batch of B and sequences of S are as good as numbers, as long as they are the same everywhere."""
    sketch.everywhere("batch_size=8, seq_len=128", "batch_size=B, seq_len=S")
    assert perfsim.verify(sketch.dot()).passed


def test_one_node_a_gpu(sketch):
    """Operators that are drawn once for each GPU are those of the group."""
    for name, node in list(sketch.nodes.items()):
        if name.startswith("layer") and "sum" not in name:
            first = int(node["gpu"][0])
            edges = [edge for edge in sketch.edges if name in edge]
            sketch.drop(name)
            for gpu in (first, first + 1):
                sketch.nodes[f"{name}_{gpu}"] = {**node, "title": f"{node['title']} GPU{gpu}", "gpu": str(gpu)}
            for start, end in edges:
                sketch.edges += [
                    tuple(f"{name}_{gpu}" if part == name else part for part in (start, end))
                    for gpu in (first, first + 1)
                ]
    # An edge between two nodes that were split leads from each GPU to itself.
    sketch.edges = [
        (start, end) for start, end in dict.fromkeys(sketch.edges)
        if not (start[-2] == end[-2] == "_" and start[-1] != end[-1])
    ]  # fmt: skip
    report = perfsim.verify(sketch.dot())
    assert report.passed, str(report)


def test_notes_and_legends_are_no_operators(sketch):
    """A node without shapes, GPUs and edges says something to people only."""
    text = sketch.dot().replace("digraph {", 'digraph { legend [label="blue: communication"];')
    assert perfsim.verify(text).passed


# Defects, each caught and named


def layer_two(sketch):
    """Names of the operators of layer 2."""
    return [name for name in sketch.nodes if name.startswith("layer2")]


def cycle(sketch):
    """Lead an edge back."""
    sketch.edges.append(("layer1_res1", "layer1_ln1"))


def dangling(sketch):
    """Add an operator whose result nobody takes."""
    sketch.add("layer1_extra", "GELU", [sketch.inner], [sketch.inner], gpu="0-1", after=["layer1_mlp1"])


def unreached(sketch):
    """Cut the graph in two."""
    sketch.edges.remove(("layer1_res2", "send"))


def lost_residual(sketch):
    """Take the residual from an addition."""
    sketch.edges.remove(("layer1_ln1", "layer1_qkv"))
    sketch.edges.remove(("layer0_res2", "layer1_res1"))
    sketch.edges.append(("layer1_ln1", "layer1_qkv"))


def sharded_input(sketch):
    """Split the input of a column-parallel matrix, once in each stage."""
    for layer, gpu in ((1, "0-1"), (2, "2-3")):
        edge = f"layer{layer}_ln1", f"layer{layer}_qkv"
        sketch.between(edge, f"layer{layer}_split", "Split QKV Input", shapes=(sketch.hidden, sketch.shard), gpu=gpu)
        sketch.nodes[edge[1]]["inputs"] = [sketch.shard]


def missing_sum(sketch):
    """Leave an all-reduce out."""
    sketch.bridge("layer1_attn_sum")


def narrowing_sum(sketch):
    """Let a row-parallel matrix give a shard, which the all-reduce then widens."""
    sketch.nodes["layer1_mlp_sum"]["inputs"] = [sketch.shard]
    sketch.nodes["layer1_mlp2"]["outputs"] = [sketch.shard]


def sum_of_copies(sketch):
    """Gather the input of a row-parallel matrix, so that each GPU computes the whole sum."""
    sketch.nodes["layer1_mlp2"]["title"] = "MLP Linear2 (Row)"
    whole, edge = sketch.inner.replace("128]", "256]"), ("layer1_gelu", "layer1_mlp2")
    sketch.between(edge, "layer1_gather", "All-Gather", shapes=(sketch.inner, whole), gpu="0-1")
    sketch.nodes["layer1_mlp2"]["inputs"] = [whole]


def other_shape(sketch):
    """Change what an activation takes and gives."""
    sketch.nodes["layer3_gelu"]["inputs"] = [sketch.inner.replace("128]", "64]")]
    sketch.nodes["layer3_gelu"]["outputs"] = [sketch.inner.replace("128]", "64]")]


def other_tokens(sketch):
    """Let a matrix lose tokens."""
    sketch.nodes["layer3_mlp1"]["outputs"] = [sketch.inner.replace("128,", "64,")]


def norm_that_widens(sketch):
    """Let a norm change the width."""
    sketch.nodes["layer0_ln1"]["outputs"] = [sketch.inner]


def lost_head(sketch):
    """Let attention lose a head."""
    sketch.nodes["layer0_attn"]["outputs"] = [sketch.heads.replace("heads=2", "heads=1")]


def other_end(sketch):
    """Let the model give less than it takes."""
    for side in ("inputs", "outputs"):
        sketch.nodes["output"][side] = [sketch.shard]


def crossing(sketch):
    """Leave the transfer between stages out."""
    sketch.bridge("send")


def moved_layer(sketch):
    """Give one stage three layers of four."""
    for name in layer_two(sketch):
        sketch.nodes[name]["gpu"] = "0-1"
    sketch.nodes["send"]["gpu"] = "0-1"
    sketch.edges.remove(("layer2_res2", "layer3_ln1"))
    sketch.edges.remove(("layer2_res2", "layer3_res1"))
    sketch.add("send2", "Send to Stage 1", [sketch.hidden], [sketch.hidden], gpu="0-1 → 2-3", after=["layer2_res2"])
    sketch.edges += [("send2", "layer3_ln1"), ("send2", "layer3_res1")]


def lonely_residual(sketch):
    """Run an addition on one of two GPUs."""
    sketch.nodes["layer3_res2"]["gpu"] = "GPU 3"


def missing_layer(sketch):
    """Leave a layer out."""
    sketch.drop(*layer_two(sketch))
    sketch.edges += [("send", "layer3_ln1"), ("send", "layer3_res1")]


def abbreviated_layer(sketch):
    """Put one node in the place of a layer."""
    missing_layer(sketch)
    sketch.edges = [edge for edge in sketch.edges if edge[0] != "send"]
    sketch.add("layer2", "Layer 2 (Parallel)", [sketch.hidden], [sketch.hidden], gpu="2-3", after=["send"])
    sketch.edges += [("layer2", "layer3_ln1"), ("layer2", "layer3_res1")]


def missing_norm(sketch):
    """Leave a norm out."""
    sketch.bridge("layer1_ln2")


def missing_activation(sketch):
    """Leave the activation of every layer out."""
    for layer in range(4):
        sketch.bridge(f"layer{layer}_gelu")


@pytest.mark.parametrize(
    ("mutate", "checks", "words"),
    [
        (cycle, {"acyclic"}, "layer1_attn_sum -> layer1_res1 -> layer1_ln1"),
        (dangling, {"connected", "structure"}, "layer1_extra: does not reach the model output"),
        (unreached, {"connected"}, "layer2_ln1: is not reached from the model input"),
        (lost_residual, {"connected"}, "layer1_res1: takes 2 tensors, but 1 comes to it"),
        (
            sharded_input,
            {"dimensions"},
            "layer2_qkv: is column-parallel over 2 GPUs, but its input is sharded (32 of 64)",
        ),
        (missing_sum, {"dimensions", "structure"}, "layer1_res1: takes the partial sums of layer1_proj"),
        (
            narrowing_sum,
            {"dimensions", "balance"},
            "layer1_mlp_sum: takes [batch_size=8, seq_len=128, hidden_size=32] and gives",
        ),
        (sum_of_copies, {"dimensions", "balance", "structure"}, "layer1_mlp2: takes whole vectors on 2 GPUs"),
        (other_shape, {"dimensions"}, "layer3_mlp1 -> layer3_gelu: "),
        (other_tokens, {"dimensions", "balance"}, "layer3_mlp1: takes"),
        (norm_that_widens, {"dimensions"}, "layer0_ln1: takes"),
        (lost_head, {"dimensions", "balance"}, "layer0_attn: takes 2 heads and gives 1"),
        (other_end, {"dimensions"}, "the model takes"),
        (crossing, {"dimensions"}, "layer1_res2 -> layer2_ln1: produced on GPU 0-1, taken on GPU 2-3 too"),
        (moved_layer, {"balance"}, "GPU 0-1: 201.3 MFLOP, 1.500 of the mean"),
        (lonely_residual, {"balance"}, "layer3_res2: runs on 1 of the 2 GPUs of layer 3"),
        (missing_layer, {"balance", "structure"}, "layer 2 is not drawn"),
        (abbreviated_layer, {"structure"}, "layer2: one node for several operators of layer 2"),
        (missing_norm, {"structure"}, "layer 1 has 1 x norm, others of its kind 2"),
        (missing_activation, {"structure"}, "layers 0-3 have no activation"),
    ],
)
def test_a_defect_is_caught_by_its_check(sketch, mutate, checks, words):
    """The right checks fail, no others, and one names the operator."""
    mutate(sketch)
    report = perfsim.verify(sketch.dot())
    assert failing(report) == checks, str(report)
    assert any(words in faults(report, check) for check in checks), str(report)
    assert not report.passed


def test_layers_that_stand_for_others_are_named(sketch):
    """A node that says "similar structure" is not the layers that it speaks of."""
    missing_layer(sketch)
    sketch.nodes["send"]["title"] = "Send"
    sketch.bridge("layer3_ln1")
    sketch.add(
        "more", "Layers 4-7 (similar structure)", [sketch.hidden], [sketch.hidden], gpu="2-3", after=["layer3_res2"]
    )
    report = perfsim.verify(sketch.dot())
    assert "more: one node for several operators of layers 4-7" in faults(report, "structure")
    assert verdicts(report)["balance"] == "cannot be told"


def test_layers_that_only_a_frame_speaks_of_are_missing(sketch):
    """A stage that is titled with more layers than it has."""
    frame = 'subgraph cluster_0 { label="Stage 0: Layers 0-5"; layer0_ln1; layer1_ln1 }'
    report = perfsim.verify(sketch.dot().replace("digraph {", f"digraph {{ {frame}"))
    assert faults(report, "structure") == "layers 4-5 are not drawn"


def test_a_frame_says_to_which_layer_its_nodes_belong(sketch):
    """Where neither name nor title does."""
    sketch.bridge("layer1_ln2")
    sketch.add("second", "LayerNorm", [sketch.hidden], [sketch.hidden], gpu="0-1", after=["layer1_res1"])
    sketch.edges.remove(("layer1_res1", "layer1_mlp1"))
    sketch.edges.append(("second", "layer1_mlp1"))
    assert failing(perfsim.verify(sketch.dot())) == {"structure"}
    frame = 'subgraph cluster_1 { label="Layer 1"; second }'
    assert perfsim.verify(sketch.dot().replace("digraph {", f"digraph {{ {frame}")).passed


# What cannot be told


def test_unknown_axes_cannot_be_told(sketch):
    """Two question marks need not be equal."""
    sketch.everywhere("batch_size=8", "batch_size=?")
    report = perfsim.verify(sketch.dot())
    assert verdicts(report)["dimensions"] == "cannot be told"
    assert "leaves an axis open" in "\n".join(report["dimensions"].gaps)


def test_a_symbol_beside_a_number_cannot_be_told(sketch):
    """B may be 8."""
    sketch.nodes["layer0_ln1"]["inputs"] = [sketch.hidden.replace("batch_size=8", "batch_size=B")]
    sketch.nodes["layer0_ln1"]["outputs"] = sketch.nodes["layer0_ln1"]["inputs"]
    report = perfsim.verify(sketch.dot())
    assert verdicts(report)["dimensions"] == "cannot be told"
    assert not report["dimensions"].faults


def test_without_gpus_the_balance_cannot_be_told(sketch):
    """The other checks do not need them."""
    for node in sketch.nodes.values():
        node["gpu"] = ""
    report = perfsim.verify(sketch.dot())
    assert {name for name, verdict in verdicts(report).items() if verdict != "holds"} == {"balance"}
    assert "no node names the GPUs" in report["balance"].gaps


def test_without_layers_the_structure_cannot_be_told(sketch):
    """Nodes with names of letters only."""
    text = sketch.dot()
    for layer in range(4):
        text = text.replace(f"layer{layer}", "abcd"[layer] * 2)
    report = perfsim.verify(text)
    assert verdicts(report) == {**dict.fromkeys(CHECKS, "holds"), "structure": "cannot be told"}, str(report)


def test_how_gpus_share_a_matrix_cannot_be_told_without_sums(sketch):
    """Labels of whole tensors on several GPUs, with no all-reduce and no word: shared or copied."""
    sketch.everywhere("num_heads=2", "num_heads=4")
    for name in [name for name in sketch.nodes if "sum" in name]:
        sketch.bridge(name)
    report = perfsim.verify(sketch.dot())
    assert verdicts(report)["dimensions"] == "cannot be told"
    assert "layer0_mlp1: does not say how 2 GPUs share its matrix" in report["dimensions"].gaps


def test_a_node_without_shapes_cannot_be_told(sketch):
    """It is named."""
    sketch.nodes["layer0_gelu"].update(inputs=[], outputs=[])
    report = perfsim.verify(sketch.dot())
    assert verdicts(report)["dimensions"] == "cannot be told"
    assert "layer0_gelu: does not say what it takes and gives" in report["dimensions"].gaps


# perfsim's own graphs, in every form

PLANS = [
    Plan(tensor=8, pipeline=2, microbatch_size=1),
    Plan(pipeline=16),
    Plan(tensor=4, pipeline=2, data=2),
    Plan(tensor=8, sequence_parallel=True),
    Plan(tensor=4, context=2, overlap_chunks=2),
    Plan(tensor=8, pipeline=2, scatter_gather=True),
]
MODELS = ["llm-16l-8192", "llama-3.1-8b", "mixtral-8x7b"]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.label)
def test_own_pictures_pass(improved, plan):
    """What perfsim draws and hands to networkx holds by its labels alone."""
    graph = perfsim.operator_graph(improved.with_(plan=plan))
    for source in (dag_dot(graph), graph.to_networkx()):
        report = perfsim.verify(source)
        assert report.passed, str(report)


@pytest.mark.parametrize("model", MODELS)
def test_own_pictures_of_other_models_pass(improved, model):
    """Grouped heads, gated MLPs, experts, an embedding and a head."""
    scenario = improved.with_(model=perfsim.load_model(model), plan=Plan(tensor=8), batch_size=8, sequence_length=512)
    report = perfsim.verify(dag_dot(perfsim.operator_graph(scenario)))
    assert report.passed, str(report)


@pytest.mark.parametrize(
    ("name", "change", "check", "words"),
    [
        ("layer_03.qkv_proj", ("U: [1, 10000, 8192]", "U: [1, 10000, 1024]"), "dimensions", "its input is sharded"),
        ("layer_03.mlp_down", ("→ [1, 10000, 8192]", "→ [1, 10000, 1024]"), "balance", "of the mean"),
        ("layer_03.mlp_residual", ("GPU: 0-7", "GPU: 0"), "balance", "layer_03.mlp_residual: runs on 1 of the 8 GPUs"),
        ("layer_03.gelu", ("Output: [batch=1024", "Output: [batch=512"), "dimensions", "layer_03.gelu: takes"),
    ],
)
def test_a_changed_picture_is_caught(improved, name, change, check, words):
    """One label is changed, and its operator is named."""
    text = dag_dot(perfsim.operator_graph(improved))
    lines = [line.replace(*change) if line.lstrip().startswith(f'"{name}" [') else line for line in text.splitlines()]
    changed = "\n".join(lines)
    assert changed.strip() != text.strip()
    assert words in faults(perfsim.verify(changed), check)


def test_a_graph_its_json_and_files_give_the_same_report(improved, tmp_path):
    """Text or path, DOT or JSON."""
    graph = perfsim.operator_graph(improved)
    (tmp_path / "graph.json").write_text(graph.to_json(), encoding="utf-8")
    (tmp_path / "graph.dot").write_text(dag_dot(graph), encoding="utf-8")
    expected = graph.verify()
    for source in (graph, graph.to_json(), tmp_path / "graph.json", str(tmp_path / "graph.json")):
        assert perfsim.verify(source) == expected
    assert perfsim.verify(tmp_path / "graph.dot") == perfsim.verify(dag_dot(graph))


def test_a_networkx_graph_with_labels(sketch):
    """As networkx reads it from DOT."""
    graph = nx.MultiDiGraph()
    for name, node in sketch.nodes.items():
        label = "\\n".join(
            [node["title"], f"Input: {', '.join(node['inputs'])}", f"Output: {', '.join(node['outputs'])}"]
        )
        graph.add_node(name, label=f'"{label}\\nGPU: {node["gpu"]}"')
    graph.add_edges_from(sketch.edges)
    assert perfsim.verify(graph).passed
    assert verify_drawing(drawing_of_networkx(graph)) == perfsim.verify(graph)


# Bad input


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "is empty"),
        (" \n ", "is empty"),
        ("digraph {", "must be a graph in the DOT language"),
        ("some\ntext", "must be a graph in the DOT language"),
        ("graph { a -- b }", "must be a directed graph"),
        ("digraph { }", "has no operators"),
        ("digraph { a -> b }", "has no label with Input: [...]"),
        ('digraph { a [label="GPU: 0"]; a -> b }', "has no label with Input: [...]"),
        ("{", "is not JSON"),
        ("no-such-file.dot", "cannot be read (No such file or directory)"),
        (".", "cannot be read (Is a directory)"),
        (None, "must be a graph of operators"),
        (42, "must be a graph of operators"),
        (nx.Graph([(0, 1)]), "must be a directed graph"),
        (nx.DiGraph(), "has no operators"),
        (nx.DiGraph([(0, 1)]), "has no label with Input: [...]"),
    ],
)
def test_bad_input_is_refused(source, words):
    """One clear message with the way out."""
    with pytest.raises(perfsim.InputError) as caught:
        perfsim.verify(source)
    (fault,) = caught.value.faults
    assert words in str(fault)
    assert fault.way_out


def test_a_file_that_is_no_text_is_refused(tmp_path):
    """It is named."""
    path = tmp_path / "picture.dot"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(perfsim.InputError, match=r"picture\.dot"):
        perfsim.verify(path)


@given(st.lists(st.text(st.characters(exclude_characters='"\\\0', codec="utf-8")), min_size=2, max_size=5))
def test_any_labels_give_a_report_or_a_refusal(texts):
    """Whatever people write, nothing else is raised, and not everything holds."""
    nodes = "".join(f'n{index} [label="Input: [4, 8]\\n{text}"];' for index, text in enumerate(texts))
    edges = "".join(f"n{index} -> n{index + 1};" for index in range(len(texts) - 1))
    report = perfsim.verify(f"digraph {{ {nodes}{edges} }}")
    assert [check.name for check in report.checks] == list(CHECKS)
    assert not report.passed
