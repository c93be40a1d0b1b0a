"""The pictures: complete, labelled as people read them, legible, and the same every time."""

import dataclasses
import re
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import perfsim
from perfsim.errors import InputError
from perfsim.ops.build import operator_graph
from perfsim.report.dot import dag_dot, layer_dot, overview_dot, render_svg

GOLDEN = Path(__file__).parent / "golden"
SEEDS = ("seed-baseline", "seed-layerwise-pipelined", "seed-improved")
SIDE_PT = 6000
SHAPES = {
    **dict.fromkeys(("collective", "transfer", "receive"), "ellipse"),
    **dict.fromkeys(("matmul", "attention", "elementwise"), "box"),
    **dict.fromkeys(("split", "gather"), "parallelogram"),
    **dict.fromkeys(("input", "output"), "hexagon"),
}
PLANS = {
    "tp8-pp2": {},
    "tp4-pp4": {"tensor": 4, "pipeline": 4},
    "scatter-gather": {"scatter_gather": True},
    "one-gpu": {"tensor": 1, "pipeline": 1},
    "replicas": {"tensor": 4, "data": 2},
    "uneven-stages": {"tensor": 4, "pipeline": 3, "layers_per_stage": (1, 12, 3)},
    "one-layer": {"tensor": 2, "pipeline": 1, "num_hidden_layers": 1},
    "grouped-query": {"tensor": 2, "num_key_value_heads": 4},
    "microbatch-of-all": {"pipeline": 1, "microbatch_size": None},
}


def plan_of(name):
    """Give the improved seed scenario with one of the plans."""
    return perfsim.load_scenario("seed-improved").with_(**PLANS[name])


def small():
    """Give a scenario whose pictures fit a golden file: two layers, TP2 x PP2."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}
    scenario = perfsim.load_scenario("seed-improved")
    model = dataclasses.replace(scenario.model, name="small", num_key_value_heads=None, head_dim=None, **sizes)
    return scenario.with_(model=model, tensor=2, pipeline=2, batch_size=8, sequence_length=32)


def pictures(scenario):
    """Give the DOT text of all three pictures, by name."""
    graph = operator_graph(scenario)
    seconds = {operator.name: 0.00123 for operator in graph}
    return {"dag": dag_dot(graph), "overview": overview_dot(scenario), "layer": layer_dot(graph, 0, seconds)}


def parse(dot):
    """Read DOT back with pygraphviz."""
    import pygraphviz

    return pygraphviz.AGraph(string=dot)


def below(graph):
    """Give all subgraphs, of whatever depth, by name."""
    found = {}
    for child in graph.subgraphs():
        found |= {child.name: child, **below(child)}
    return found


def size_pt(svg):
    """Give width and height of a drawing in points."""
    root = ET.fromstring(svg.encode("utf-8"))  # noqa: S314 - we wrote it
    return float(root.attrib["width"].removesuffix("pt")), float(root.attrib["height"].removesuffix("pt"))


def boxes(svg):
    """Give the outline of every node of a drawing as (left, top, right, bottom), by name."""
    space = "{http://www.w3.org/2000/svg}"
    found = {}
    for group in ET.fromstring(svg.encode("utf-8")).iter(f"{space}g"):  # noqa: S314 - we wrote it
        if group.get("class") != "node":
            continue
        name, shape = group.find(f"{space}title").text, group.find(f"{space}polygon")
        if shape is not None:
            points = [tuple(map(float, point.split(","))) for point in shape.get("points").split()]
            xs, ys = zip(*points, strict=True)
            found[name] = min(xs), min(ys), max(xs), max(ys)
        else:
            oval = group.find(f"{space}ellipse")
            x, y, rx, ry = (float(oval.get(key)) for key in ("cx", "cy", "rx", "ry"))
            found[name] = x - rx, y - ry, x + rx, y + ry
    return found


@pytest.mark.parametrize("name", ["dag", "overview", "layer"])
def test_golden(name):
    """The DOT text is what it was; where it is not, a .new file stands beside the golden one."""
    text = pictures(small())[name]
    golden = GOLDEN / f"small-{name}.dot"
    if not golden.is_file() or golden.read_text(encoding="utf-8") != text:
        fresh = golden.with_name(f"{golden.name}.new")
        fresh.write_text(text, encoding="utf-8")
        pytest.fail(f"{fresh} differs from {golden}: look at both, and rename the new one if it is right")


@pytest.mark.parametrize("plan", PLANS)
def test_every_operator_is_a_node_and_nothing_else(plan):
    """The DAG is complete, never abbreviated, and shapes follow the kinds."""
    graph = operator_graph(plan_of(plan))
    drawn = parse(dag_dot(graph))
    assert {str(node): node.attr["shape"] for node in drawn.nodes()} == {o.name: SHAPES[o.kind] for o in graph}


@pytest.mark.parametrize("plan", PLANS)
def test_every_edge_is_there(plan):
    """Edges are those of the graph, three of them from the QKV projection to attention, labelled."""
    graph = operator_graph(plan_of(plan))
    drawn = parse(dag_dot(graph))
    assert sorted(tuple(map(str, edge)) for edge in drawn.edges()) == sorted(
        (e.producer, e.consumer) for e in graph.edges
    )
    labels = [edge.attr["label"] for edge in drawn.edges() if edge[0] == "layer_00.qkv_proj"]
    assert labels == ["q", "k", "v"]


@pytest.mark.parametrize("plan", PLANS)
def test_clusters_are_stages_and_layers(plan):
    """A cluster a stage holds its operators, and one a layer inside it."""
    graph = operator_graph(plan_of(plan))
    whole = parse(dag_dot(graph))  # its subgraphs do not keep it alive
    drawn = below(whole)
    expected = {}
    for operator in graph:
        stage = f"cluster_stage_{operator.stage}"
        names = [stage] if operator.layer is None else [stage, f"{stage}_layer_{operator.layer}"]
        for name in names:
            expected.setdefault(name, set()).add(operator.name)
    assert {name: set(map(str, cluster.nodes())) for name, cluster in drawn.items()} == expected


@pytest.mark.parametrize("plan", PLANS)
def test_labels_carry_dimensions_and_devices(plan):
    """Every label has the name, all inputs and outputs, the shapes on one GPU, and the GPUs."""
    graph = operator_graph(plan_of(plan))
    drawn = parse(dag_dot(graph))
    axes = r"\[batch=\d+, seq=\d+, (hidden=\d+|ffn=\d+|heads=\d+, head_dim=\d+)\]"
    for operator in graph:
        lines = drawn.get_node(operator.name).attr["label"].split("\\n")
        assert lines[0] == operator.name
        assert sum(bool(re.match(f"Input: {axes}", line)) for line in lines) == max(1, len(operator.inputs))
        assert sum(bool(re.match(f"Output: {axes}", line)) for line in lines) == max(1, len(operator.outputs))
        assert any(re.match(r"per GPU: (\d+ × )?\[.* → (\d+ × )?\[", line) for line in lines)
        assert lines[-1] == f"GPU: {operator.devices[0]}-{operator.devices[-1]}".replace("GPU: 0-0", "GPU: 0")


def test_labels_of_the_seed():
    """The dimensions of the seed's deployment, word for word."""
    drawn = parse(dag_dot(operator_graph(perfsim.load_scenario("seed-improved"))))
    lines = drawn.get_node("layer_12.qkv_proj").attr["label"].split("\\n")
    heads = "Output: [batch=1024, seq=10000, heads=16, head_dim=512]"
    assert lines == [
        "layer_12.qkv_proj",
        "column-parallel matmul",
        "Input: [batch=1024, seq=10000, hidden=8192]",
        *(f"{heads} ({name})" for name in "qkv"),
        "per GPU: [1, 10000, 8192] → 3 × [1, 10000, 1024]",
        "GPU: 8-15",
    ]


def test_a_graph_from_json_gives_the_same_picture():
    """What was saved and read back is drawn as before."""
    graph = operator_graph(small())
    again = type(graph).from_json(graph.to_json())
    assert dag_dot(again) == dag_dot(graph)
    assert layer_dot(again) == layer_dot(graph)


def test_title():
    """A given title stands over the picture, its special characters as they are."""
    svg = render_svg(dag_dot(operator_graph(small()), title='a "b" <c> & d\\n'))
    texts = [element.text for element in ET.fromstring(svg.encode()).iter() if element.tag.endswith("text")]  # noqa: S314
    assert 'a "b" <c> & d\\n' in texts


def test_special_characters_in_names():
    """A model's name cannot break any of the pictures."""
    scenario = small()
    model = dataclasses.replace(scenario.model, name='x"y\\ <z> & é')
    for dot in pictures(scenario.with_(model=model)).values():
        svg = render_svg(dot)
        texts = [element.text or "" for element in ET.fromstring(svg.encode()).iter() if element.tag.endswith("text")]  # noqa: S314
        assert any('x"y\\ <z> & é' in text for text in texts)


@pytest.mark.parametrize("seed", SEEDS)
def test_seed_pictures_are_legible(seed):
    """Drawings are well-formed, at most 6,000 points a side, and in a font of 10 points or more."""
    for dot in pictures(perfsim.load_scenario(seed)).values():
        assert dot.startswith("digraph")
        svg = render_svg(dot)
        assert max(size_pt(svg)) <= SIDE_PT
        assert min(float(size) for size in re.findall(r'font-size="([\d.]+)"', svg)) >= 10


@pytest.mark.parametrize("plan", PLANS)
def test_nodes_do_not_overlap(plan):
    """No node lies on another or beyond the drawing."""
    for dot in pictures(plan_of(plan)).values():
        svg = render_svg(dot)
        width, height = size_pt(svg)
        placed = sorted(boxes(svg).items(), key=lambda item: item[1][0])
        for index, (name, (left, top, right, bottom)) in enumerate(placed):
            assert right - left < width, name
            assert bottom - top < height, name
            for other, (left2, top2, _, bottom2) in placed[index + 1 :]:
                assert left2 >= right or top2 >= bottom or bottom2 <= top, (name, other)


def test_drawing_is_fast_and_the_same_twice():
    """The seed's picture is there in well under 3 s, and to the byte the same again."""
    begun = time.perf_counter()
    graph = operator_graph(perfsim.load_scenario("seed-improved"))
    first = render_svg(dag_dot(graph))
    assert time.perf_counter() - begun < 3
    assert render_svg(dag_dot(graph)) == first


def test_columns_read_from_left_to_right():
    """The layers of a stage stand in one row in their order, the second stage below the first."""
    placed = boxes(render_svg(dag_dot(operator_graph(perfsim.load_scenario("seed-improved")))))
    heads = [placed[f"layer_{layer:02d}.attention_norm"] for layer in range(16)]
    for row in (heads[:8], heads[8:]):
        assert len({box[1] for box in row}) == 1
        assert [box[0] for box in row] == sorted(box[0] for box in row)
    assert heads[8][1] > placed["stage_0.send"][3]


@pytest.mark.parametrize(
    "text", ["", "digraph {", "digraph { a -> }", "graph { a -> b }", "{}", "digraph { layout=x; a }"]
)
def test_broken_dot_is_refused(text):
    """What Graphviz cannot draw is an input error that names the field."""
    with pytest.raises(InputError, match="must be a graph in the DOT language") as caught:
        render_svg(text)
    assert caught.value.faults[0].field == "dot"


def test_a_graph_without_operators_is_refused():
    """There is nothing to draw."""
    graph = dataclasses.replace(operator_graph(small()), operators=(), edges=())
    with pytest.raises(InputError, match="must have operators"):
        dag_dot(graph)


def test_overview_says_what_the_seed_says():
    """Stages, layers, GPUs, weights, hand-over and all-reduces of the improved plan."""
    text = overview_dot(perfsim.load_scenario("seed-improved"))
    for words in (
        "Stage 0: layers 0-7", "Stage 1: layers 8-15", "GPU: 8-15", "805.4 million parameters per GPU",
        "1.611 GB of weights per GPU", "16 all-reduces of 163.8 MB per microbatch", "over 8 GPUs by nvlink",
        "[1, 10000, 8192] bf16", "163.8 MB a GPU", "by infiniband", "1024 microbatches of 1",
    ):  # fmt: skip
        assert words in text
    assert re.findall(r">GPU (\d+)<", text) == [str(device) for device in range(16)]


def test_overview_of_a_scattered_hand_over():
    """Each rank sends its eighth, and the receivers gather."""
    text = overview_dot(plan_of("scatter-gather"))
    assert "20.48 MB a GPU" in text
    assert "1 all-gather of 163.8 MB per microbatch" in text


@pytest.mark.parametrize(("tensor", "pipeline", "data"), [(1, 1, 1), (16, 1, 1), (1, 16, 4), (8, 8, 8), (1, 2, 64)])
def test_overview_of_any_size(tensor, pipeline, data):
    """A node a stage, and above 64 GPUs a cell a tensor group; never larger than the eye can take."""
    cluster = perfsim.load_cluster("dgx-h100", num_devices=512)
    scenario = perfsim.load_scenario("seed-improved").with_(
        cluster=cluster, tensor=tensor, pipeline=pipeline, data=data
    )
    text = overview_dot(scenario)
    assert len(parse(text).nodes()) == pipeline + 2
    assert max(size_pt(render_svg(text))) <= SIDE_PT
    cells = len(re.findall(r">GPU [\d-]+<", text))
    devices = tensor * pipeline * data
    assert cells == devices if devices <= 64 else cells <= pipeline * data


def test_layer_shows_how_ranks_share():
    """Column-parallel and row-parallel weights, shards, summands and times of the seed's layer."""
    graph = operator_graph(perfsim.load_scenario("seed-improved"))
    drawn = parse(layer_dot(graph, 15, {"layer_15.mlp_up": 0.00123}))
    up, down = drawn.get_node("layer_15.mlp_up").attr["label"], drawn.get_node("layer_15.mlp_down").attr["label"]
    assert "column-parallel matmul" in up
    assert "Weight: [8192, 32768], split by columns: each GPU holds [8192, 4096], 67.11 MB" in up
    assert "671.1 GFLOP" in up
    assert "Time: 1.23 ms" in up
    assert "GPU 15<BR/>28672-32767" in up
    assert "row-parallel matmul" in down
    assert "Weight: [32768, 8192], split by rows: each GPU holds [4096, 8192], 67.11 MB" in down
    assert "partial: each GPU holds a summand of [1, 10000, 8192]" in down
    assert "Time" not in down
    assert "heads 14-15" in drawn.get_node("layer_15.attention").attr["label"]
    names = {operator.name for operator in graph if operator.layer == 15}
    assert set(map(str, drawn.nodes())) == names | {"layer input", "layer output"}


def test_layer_on_one_gpu_speaks_of_no_sharing():
    """Without tensor parallelism there is nothing to split or to sum."""
    text = layer_dot(operator_graph(plan_of("one-gpu")))
    assert not re.search("sharded|partial|parallel matmul|split by|all-reduce", text)


@pytest.mark.parametrize("layer", [-1, 16])
def test_a_layer_that_is_not_there_is_refused(layer):
    """The error says which layers there are."""
    with pytest.raises(InputError, match="0 to 15"):
        layer_dot(operator_graph(perfsim.load_scenario("seed-improved")), layer)
