"""Fused attention: the speed of light by hand, arrays, monotony, provenance and bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim.cost import attention_seconds, price
from perfsim.ops.operators import Attention

BASE = {"batch": 2, "query_tokens": 2048, "context_tokens": 2048, "num_heads": 32, "num_kv_heads": 8, "head_dim": 128}


def test_the_speed_of_light_of_prefill_is_its_flop(h100):
    """Half of the pairs, two products, at 989.4 TFLOP/s."""
    cost = price(Attention(1, 10_000, 10_000, 2, 2, 512, "bf16", "bf16", causal=True), h100)
    assert cost.roofline_s == pytest.approx(4 * 2 * 512 * 10_000**2 / 2 / 989.4e12, rel=1e-12)


def test_the_speed_of_light_of_decode_is_the_cache(h100):
    """K and V of the context once, the new token's Q and result beside it, at 3.35 TB/s."""
    cost = price(Attention(64, 1, 4096, 32, 8, 128, "bf16", "fp8", causal=True), h100)
    wanted = 64 * (2 * 4096 * 8 * 128 * 1 + 2 * 32 * 128 * 2) / 3.35e12
    assert cost.roofline_s == pytest.approx(wanted, rel=1e-12)


def test_full_attention_takes_longer_than_causal(h100):
    """A mask saves half of a long prefill."""
    full, causal = (attention_seconds(h100, **BASE, causal=causal) for causal in (False, True))
    assert full - h100.efficiency.kernel_s == pytest.approx(2 * (causal - h100.efficiency.kernel_s), rel=1e-12)


def test_a_cache_in_l2_does_not_pass_memory(h100):
    """Decoding is then bound by its arithmetic; Q and the result are all that it reads and writes."""
    efficiency, decode = h100.efficiency, {**BASE, "batch": 64, "query_tokens": 1}
    arithmetic = 4 * 64 * 32 * 128 * 2048 / (989.4e12 * efficiency.attention)
    passed = 2 * 64 * 32 * 128 * 2 / (3.35e12 * efficiency.memory)
    seconds = attention_seconds(h100, **decode, kv_in_l2=True)
    assert seconds == pytest.approx(max(arithmetic, passed) + efficiency.kernel_s, rel=1e-12)
    assert seconds < attention_seconds(h100, **decode)


def test_arrays_broadcast_against_each_other(cluster):
    """Each point costs what it costs alone."""
    batch, context = np.array([1, 8, 64]), np.array([[512], [8192]])
    points = {**BASE, "query_tokens": 1, "batch": batch, "context_tokens": context}
    seconds = attention_seconds(cluster, **points)
    assert seconds.shape == (2, 3)
    for (i, j), value in np.ndenumerate(seconds):
        assert value == attention_seconds(cluster, **{**points, "batch": batch[j], "context_tokens": context[i, 0]})


@given(
    query=st.integers(1, 8192), earlier=st.integers(0, 8192), batch=st.integers(1, 64), causal=st.booleans(),
    field=st.sampled_from(["batch", "context_tokens", "num_heads", "head_dim"]), more=st.integers(1, 100),
)  # fmt: skip
def test_more_work_never_takes_less_time(h100, *, query, earlier, batch, causal, field, more):
    """More sequences, more context, more heads or wider ones."""
    small = {**BASE, "batch": batch, "query_tokens": query, "context_tokens": query + earlier, "causal": causal}
    large = {**small, field: small[field] + more * (8 if field == "num_heads" else 1)}
    assert attention_seconds(h100, **large) >= attention_seconds(h100, **small)


@given(length=st.integers(1, 20_000), more=st.integers(1, 20_000))
def test_a_longer_prompt_never_takes_less_time(h100, length, more):
    """Queries and context grow together."""
    seconds = attention_seconds(
        h100, **{**BASE, "query_tokens": [length, length + more], "context_tokens": [length, length + more]}
    )
    assert seconds[1] >= seconds[0]


@pytest.mark.parametrize(("head_dim", "source"), [(128, "roofline"), (256, "roofline"), (512, "extrapolated")])
def test_heads_wider_than_fused_kernels_are_marked(h100, head_dim, source):
    """They are priced as if fused, and say so."""
    assert price(Attention(1, 8, 8, 1, 1, head_dim, "bf16", "bf16"), h100).source == source


def test_a_dtype_that_the_device_lacks_is_refused(refused):
    """With those that it has."""
    (fault,) = refused(attention_seconds, perfsim.load_cluster("dgx-a100-80gb"), **BASE, dtype="fp8")
    assert (fault.field.split(".")[-1], fault.value) == ("dtype", "fp8")


@pytest.mark.parametrize("field", ["dtype", "kv_dtype"])
def test_a_dtype_that_nobody_has_is_refused(refused, h100, field):
    """A typo is bad input, too."""
    (fault,) = refused(attention_seconds, h100, **BASE, **{field: "bf17"})
    assert (fault.field.split(".")[-1], fault.value) == (field, "bf17")


@pytest.mark.parametrize("field", list(BASE))
@pytest.mark.parametrize("value", [0, -8], ids=repr)
def test_sizes_that_are_none_are_refused(refused, h100, field, value):
    """A size is above zero."""
    assert any(fault.field.endswith(field) for fault in refused(attention_seconds, h100, **{**BASE, field: value}))


def test_a_context_shorter_than_the_queries_is_refused(refused, h100):
    """The context includes the new tokens."""
    faults = refused(attention_seconds, h100, **{**BASE, "context_tokens": 100})
    assert faults[0].field.endswith("context_tokens")


def test_the_first_context_that_is_too_short_is_named(refused, h100):
    """In arrays that broadcast."""
    points = {**BASE, "query_tokens": [8, 16], "context_tokens": [[16], [12]]}
    (fault,) = refused(attention_seconds, h100, **points)
    assert (fault.field.split(".")[-1], fault.value) == ("context_tokens", 12)
    assert "at least 16" in fault.allowed


def test_all_faults_come_together(refused, h100):
    """Sizes and dtypes in one error."""
    faults = refused(attention_seconds, h100, **{**BASE, "batch": 0, "head_dim": -1}, dtype="x", kv_dtype="y")
    assert [fault.field.split(".")[-1] for fault in faults] == ["batch", "head_dim", "dtype", "kv_dtype"]
