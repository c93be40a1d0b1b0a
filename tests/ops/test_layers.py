"""The operator list of a layer: which operators, in which order, of what size."""

import numpy as np
import pytest

from perfsim.ops.layers import layer_operators
from perfsim.ops.slots import PARTIAL, REPLICATED, SHARDED, Precision, Sharding, Slot, Tokens, Weight
from perfsim.spec.model import LayerKind, Model

PARALLEL = (
    "attention_norm", "qkv_proj", "attention", "output_proj", "attention_all_reduce", "attention_residual",
    "mlp_norm", "mlp_up", "gelu", "mlp_down", "mlp_all_reduce", "mlp_residual",
)  # fmt: skip
GQA = Model(
    "gqa", num_hidden_layers=1, hidden_size=64, num_attention_heads=8, num_key_value_heads=4, head_dim=24,
    intermediate_size=160,
)  # fmt: skip
TOKENS = Tokens(3, 10, 10, causal=True, dtype="bf16", kv_dtype="bf16")


def shared(tensor):
    """Give the sharding of a tensor group."""
    return Sharding(Precision("bf16"), Precision("bf16"), Precision("bf16"), tensor=tensor, tensor_span=(tensor,))


@pytest.fixture(params=[1, 2, 4])
def tensor(request):
    """Give each tensor degree in turn."""
    return request.param


@pytest.fixture
def layer(tensor):
    """Give the operators of a layer by name."""
    return {operator.op: operator for operator in layer_operators(GQA, LayerKind(), TOKENS, shared(tensor))}


def test_a_layer_has_every_operator_in_order(layer, tensor):
    """Norm, attention, residual, norm, MLP, residual; all-reduces where ranks have sums to add up."""
    wanted = [op for op in PARALLEL if tensor > 1 or not op.endswith("all_reduce")]
    assert list(layer) == wanted


def test_every_input_is_there_before_it_is_used(layer):
    """The first operator takes the layer's input."""
    there = {"layer_input"}
    for operator in layer.values():
        assert {slot.name for slot in operator.inputs} <= there
        there |= {slot.name for slot in operator.outputs}


def test_the_projection_of_q_k_and_v_has_three_outputs(layer, tensor):
    """One fused column-parallel matrix; with grouped heads K and V are narrower."""
    qkv = layer["qkv_proj"]
    assert [(slot.name, slot.width, slot.placement) for slot in qkv.outputs] == [
        ("q", 8 * 24, SHARDED), ("k", 4 * 24, SHARDED), ("v", 4 * 24, SHARDED),
    ]  # fmt: skip
    assert qkv.weight == Weight((64, 16 * 24), shard_axis=1, device_shape=(64, 16 * 24 // tensor))
    assert (qkv.work.m, qkv.work.k, qkv.work.n) == (30, 64, 16 * 24 // tensor)


@pytest.mark.parametrize("op", ["qkv_proj", "mlp_up"])
def test_column_parallel_matrices_take_the_whole_and_give_a_shard(layer, op):
    """The input is the whole hidden vector."""
    assert [slot.placement for slot in layer[op].inputs] == [REPLICATED]
    assert {slot.placement for slot in layer[op].outputs} == {SHARDED}


@pytest.mark.parametrize(("op", "width"), [("output_proj", 192), ("mlp_down", 160)])
def test_row_parallel_matrices_take_a_shard_and_give_a_partial_sum(layer, tensor, op, width):
    """Each rank multiplies its rows of the weight."""
    matrix = layer[op]
    assert [slot.placement for slot in matrix.inputs] == [SHARDED]
    assert [slot.placement for slot in matrix.outputs] == [PARTIAL if tensor > 1 else REPLICATED]
    assert matrix.weight == Weight((width, 64), shard_axis=0, device_shape=(width // tensor, 64))
    assert (matrix.work.m, matrix.work.k, matrix.work.n) == (30, width // tensor, 64)


def test_attention_is_over_the_local_heads(layer, tensor):
    """Query heads and KV heads are shared evenly."""
    work = layer["attention"].work
    assert (work.num_heads, work.num_kv_heads, work.head_dim) == (8 // tensor, 4 // tensor, 24)
    assert (work.sequences, work.query_tokens, work.context_tokens) == (3, 10, 10)


def test_residuals_add_what_came_in(layer):
    """The first adds the layer's input, the second what the first gave."""
    assert layer["attention_residual"].inputs[0].name == "layer_input"
    assert layer["mlp_residual"].inputs[0] == layer["attention_residual"].outputs[0]
    assert all(len(layer[op].inputs) == 2 for op in ("attention_residual", "mlp_residual"))


def test_weights_add_up_to_the_parameters_of_a_layer(layer, tensor):
    """Whole matrices to the model's, shards and norms to a rank's."""
    weights = [operator.weight for operator in layer.values() if operator.weight]
    assert sum(weight.count for weight in weights) == GQA.layer_parameters(GQA.layers[0])
    matrices = 64 * 16 * 24 + 8 * 24 * 64 + 2 * 64 * 160
    assert sum(weight.device_count for weight in weights) == matrices // tensor + 2 * 64


def test_the_flop_of_a_rank_are_a_share_of_the_layers(layer, tensor):
    """Two a weight and token, four a pair and channel."""
    matrices = 64 * 16 * 24 + 8 * 24 * 64 + 2 * 64 * 160
    wanted = 2 * 30 * matrices + 4 * 3 * 8 * 24 * 50
    assert sum(operator.work.flop for operator in layer.values()) * tensor == wanted


def test_bytes_of_elementwise_operators_by_hand(layer, tensor):
    """Norms read their gain, residuals two tensors, GELU a shard."""
    hidden, inner = 30 * 64 * 2, 30 * 160 * 2 // tensor
    traffic = {
        op: (layer[op].work.read_bytes, layer[op].work.written_bytes)
        for op in layer
        if layer[op].work.kind == "elementwise"
    }
    assert traffic == {
        "attention_norm": (hidden + 128, hidden), "attention_residual": (2 * hidden, hidden),
        "mlp_norm": (hidden + 128, hidden), "gelu": (inner, inner), "mlp_residual": (2 * hidden, hidden),
    }  # fmt: skip


def test_all_reduces_carry_the_whole_hidden_state(layer, tensor):
    """The payload is the full tensor."""
    payloads = [operator.work.payload_bytes for operator in layer.values() if operator.work.kind == "collective"]
    assert payloads == [30 * 64 * 2] * (2 if tensor > 1 else 0)


def test_sizes_may_be_arrays():
    """A sweep lists a layer once for all its points."""
    sequences, length = np.array([1, 3, 5]), np.array([[10], [20]])
    many = Tokens(sequences, length, length, causal=True, dtype="bf16", kv_dtype="fp8")
    swept = layer_operators(GQA, LayerKind(), many, shared(2))
    for row, tokens in enumerate((10, 20)):
        for column, count in enumerate((1, 3, 5)):
            single = Tokens(count, tokens, tokens, causal=True, dtype="bf16", kv_dtype="fp8")
            one = layer_operators(GQA, LayerKind(), single, shared(2))
            for whole, part in zip(swept, one, strict=True):
                for name in ("flop", "read_bytes", "written_bytes"):
                    value = np.broadcast_to(getattr(whole.work, name), (2, 3))[row, column]
                    assert value == getattr(part.work, name)


@pytest.mark.parametrize(("placement", "width"), [(REPLICATED, 12), (SHARDED, 3), (PARTIAL, 12)])
def test_a_rank_holds_a_share_only_of_what_is_sharded(placement, width):
    """A partial sum is as wide as the sum."""
    assert Slot("x", 12, placement).width_on(4) == width
