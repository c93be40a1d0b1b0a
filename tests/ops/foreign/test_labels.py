"""Labels: many ways to write shapes, GPUs and layers, one meaning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.ops.foreign.labels import EVERYWHERE, layers_in, read_label
from perfsim.ops.foreign.roles import role_of, says
from perfsim.ops.foreign.shapes import multiple, read_shapes, same, times


@pytest.mark.parametrize(
    ("text", "devices", "targets"),
    [
        ("GPU: 3", {3}, {3}),
        ("GPU: 0-3", {0, 1, 2, 3}, {0, 1, 2, 3}),
        ("GPUs: 0, 2, 5-6", {0, 2, 5, 6}, {0, 2, 5, 6}),
        ("GPU: All GPUs 0-3", {0, 1, 2, 3}, {0, 1, 2, 3}),
        ("GPU: Each GPU 0-1 gets 1/8th", {0, 1}, {0, 1}),
        ("GPU: 0-1 (2 of 16 heads)", {0, 1}, {0, 1}),
        ("GPU: GPU 7 → All GPUs 8-9", {7, 8, 9}, {8, 9}),
        ("GPU: 7->8", {7, 8}, {8}),
        ("GPU 0 → GPU 1", {0, 1}, {1}),
        ("Device: 4", {4}, {4}),
        ("gpu: 0..2", {0, 1, 2}, {0, 1, 2}),
        ("GPU: all GPUs", EVERYWHERE, EVERYWHERE),
        ("GPU: Host", None, None),
        ("GPU: 8 GPUs", None, None),
        ("GPU: 0-99999999999", {0, 99999999999}, {0, 99999999999}),
    ],
)
def test_gpus_of_a_label(text, devices, targets):
    """Ranges, lists, words and arrows; fractions and numbers of GPUs are not numbers of a GPU."""
    label = read_label(f"Title\\n{text}")
    assert (label.devices, label.targets, label.title) == (devices, targets, "Title")


def test_a_title_that_begins_with_gpu_stays_a_title():
    """Only a line of numbers, or one with a colon, says where something runs."""
    label = read_label("GPU-to-GPU Transfer\\nGPU0 sends block 1\\nGPU: 1")
    assert label.title == "GPU-to-GPU Transfer GPU0 sends block 1"
    assert label.devices == {1}


@pytest.mark.parametrize("between", ["\\n", "\\l", "\n", "<BR/>", "<br>"])
def test_lines_of_a_label(between):
    """Escapes, line breaks and HTML-like labels."""
    parts = ["<B>Linear &amp; more</B>" if between.startswith("<") else "Linear & more", "Input: [4, 8, 16]"]
    label = read_label(
        between.join([*parts, "Output1: [4, 8, 32]", "OUTPUT 2 = [4, 8, 2]", "per GPU: [1, 8, 16] → 2 × [1, 8, 4]"])
    )
    assert label.title == "Linear & more"
    assert [shape.width for shape in (*label.inputs, *label.outputs)] == [16, 32, 2]
    assert [shape.width for shape in (*label.device_inputs, *label.device_outputs)] == [16, 4, 4]


def test_a_section_goes_on_over_lines():
    """Q, K and V each on a line of their own."""
    label = read_label("Split\\nOutput: Q: [4, 8, heads=2, d_k=4]\\nK: [4, 8, heads=1, d_k=4]\\nGPU: 0\\ndone")
    assert [shape.width for shape in label.outputs] == [8, 4]
    assert label.title == "Split done"


@pytest.mark.parametrize(
    ("text", "rows", "width"),
    [
        ("[batch_size=4, seq_len=8, hidden_size=16]", 32, 16),
        ("[4, 8, 16]", 32, 16),
        ("[4, 8, 2, 16]", 32, 32),
        ("(4, 8, 16)", 32, 16),
        ("[batch=4, heads=2, seq=8, d_k=16]", 32, 32),
        ("[batch=4, seq=8/2, hidden=32768/8]", 16, 4096),
        ("[batch=B, seq=S, heads=2, d_k=16]", "B × S", 32),
        ("[batch_size, seq_len, hidden_size]", "batch_size × seq_len", "hidden_size"),
        ("[batch=4, seq=?, hidden=16]", "?", 16),
        ("[variable_tokens, hidden=16]", "variable_tokens", 16),
        ("[batch_size=4, seq_len=8, token_dim=16]", 32, 16),
        ("[batch=4, heads=2, seq=8, seq=8]", 256, "?"),
    ],
)
def test_rows_and_width_of_a_shape(text, rows, width):
    """Axes count sequences, tokens, heads or width, by their names or their places."""
    (shape,) = read_shapes(text)
    assert (shape.rows, shape.width) == (rows, width)


@pytest.mark.parametrize(
    ("text", "number"),
    [("[4, 8]×8", 8), ("[4, 8] (x2)", 2), ("8 × [4, 8]", 8), ("[4, 8], [4, 9]", 2), ("none", 0), ("(the whole)", 0)],
)
def test_number_of_shapes(text, number):
    """A shape that is there several times comes as often."""
    assert len(read_shapes(text)) == number


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("[batch=4, seq=8, hidden=32]", "[batch_size=4, seq_len=8, heads=2, d_k=16]", True),
        ("[batch=4, seq=8, hidden=32]", "[batch=4, seq=8, hidden=16]", False),
        ("[batch=4, seq=8, hidden=32]", "[batch=8, seq=4, hidden=32]", False),
        ("[batch=4, seq=8, hidden=32]", "[4, 8, 32]", True),
        ("[batch=4, seq=8, hidden=32]", "[32, 32]", True),
        ("[batch=B, seq=8, hidden=32]", "[batch=B, seq=8, hidden=32]", True),
        ("[batch=B, seq=8, hidden=32]", "[batch=4, seq=8, hidden=32]", None),
        ("[batch=B, seq=8, hidden=32]", "[batch=4, seq=8, hidden=16]", False),
        ("[batch=?, seq=8, hidden=32]", "[batch=?, seq=8, hidden=32]", None),
        ("[4, 2, 8, 8]", "[batch=4, heads=2, seq=8, seq=8]", True),
    ],
)
def test_shapes_of_one_tensor(first, second, alike):
    """Names or none, heads apart or together; symbols leave it open unless something else decides."""
    one, other = read_shapes(first) + read_shapes(second)
    assert same(one, other) is alike
    assert same(other, one) is alike


def test_multiples_and_products():
    """What is not a whole number of times is 0, what symbols hide is None."""
    assert [multiple(8, 2), multiple(8, 3), multiple("S", "S"), multiple("S", 2), multiple(8, 0)] == [4, 0, 1, None, 0]
    assert times(1, "S") == "S"


@pytest.mark.parametrize(
    ("title", "name", "role"),
    [
        ("All-Reduce Sum", "layer0_attn_allreduce", "all_reduce"),
        ("Attention All-Reduce TP0", "", "all_reduce"),
        ("Reduce-Scatter", "", "reduce_scatter"),
        ("Expert all-to-all", "", "exchange"),
        ("Pipeline Communication Stage 0 → Stage 1", "", "send"),
        ("Split QKV Input", "layer0_qkv_split", "split"),
        ("Split for Projection", "", "split"),
        ("Gather Attention Outputs", "", "gather"),
        ("Query Linear", "", "q"),
        ("Attention Score Q·K^T", "", "score"),
        ("Attention Output", "", "out_proj"),
        ("MHA Output TP0", "", "out_proj"),
        ("MLP Linear1 (Column)", "", "up"),
        ("FC2 Row-Parallel", "", "down"),
        ("gate_proj", "", "up"),
        ("Layer 0 Gate Selection (Top-8)", "", "router"),
        ("Layer 0 MoE (128 experts)", "", "experts"),
        ("MLP (Parallel)", "layer1_mlp", "mlp"),
        ("Layer 8 (Parallel)", "layer8", "layer"),
        ("LayerNorm1", "", "norm"),
        ("", "layer0_ln2", "norm"),
        ("", "layer0_res1", "residual"),
        ("Model Input", "", "input"),
        ("MLP Pipeline Input", "", "input"),
        ("Model Output", "", "output"),
        ("Input Embedding", "", "embedding"),
        ("Something else", "n1", ""),
    ],
)
def test_role_of_an_operator(title, name, role):
    """The words of people, the most telling first."""
    assert role_of(title, name) == role


def test_attention_output_that_takes_scores_is_the_product_with_v():
    """Its words alone would be those of the projection."""
    assert role_of("Attention Output", "", takes_scores=True) == "value"


def test_words_for_the_kind_of_parallelism():
    """Whole words only."""
    assert says("Linear (Col-Parallel)", "column")
    assert not says("protocol of rows", "column")
    assert not says("borrowed", "row")


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("layer_03.mlp_up", (3,)), ("Layer 12", (12,)), ("mha_qkv_l0_tp3", (0,)), ("Layers 8 to 10", (8, 9, 10)),
        ("Linear1", ()), ("LayerNorm2", ()), ("all layers", ()),
    ],
)  # fmt: skip
def test_layers_that_a_text_speaks_of(text, layers):
    """Numbers of layers, not of other things."""
    assert layers_in(text) == layers


@given(st.text())
def test_any_label_can_be_read(text):
    """No text is refused: what it does not say stays empty."""
    label = read_label(text)
    assert label.devices is None or all(device >= -1 for device in label.devices)
    for shape in (*label.inputs, *label.outputs):
        assert same(shape, shape) in {True, None}
