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


def test_full_attention_takes_longer_than_causal(documented):
    """A mask saves half of a long prefill."""
    full, causal = (attention_seconds(documented, **BASE, causal=causal) for causal in (False, True))
    fixed = documented.efficiency.kernel_s
    assert full - fixed == pytest.approx(2 * (causal - fixed), rel=1e-12)


def test_full_attention_takes_up_to_twice_as_long_as_causal_by_tiles(cluster):
    """The tiles on the diagonal are computed whole."""
    full, causal = (attention_seconds(cluster, **BASE, causal=causal) for causal in (False, True))
    assert causal < full < 2 * causal


def test_a_cache_in_l2_does_not_pass_memory(documented):
    """Decoding is then bound by its arithmetic; Q and the result are all that it reads and writes."""
    efficiency, decode = documented.efficiency, {**BASE, "batch": 64, "query_tokens": 1}
    arithmetic = 4 * 64 * 32 * 128 * 2048 / (989.4e12 * efficiency.attention)
    passed = 2 * 64 * 32 * 128 * 2 / (3.35e12 * efficiency.memory)
    seconds = attention_seconds(documented, **decode, kv_in_l2=True)
    assert seconds == pytest.approx(max(arithmetic, passed) + efficiency.kernel_s, rel=1e-12)
    assert seconds < attention_seconds(documented, **decode)


def test_a_cache_in_l2_is_faster_as_far_as_it_fits(cluster):
    """A short one helps, a long one does not help at all."""
    decode = {**BASE, "batch": [1, 64], "query_tokens": 1, "context_tokens": [4096, 32_768]}
    hot, cold = (attention_seconds(cluster, **decode, kv_in_l2=in_l2) for in_l2 in (True, False))
    assert hot[0] < cold[0]
    assert cluster.coefficients == {} or hot[1] == pytest.approx(cold[1], rel=1e-3)


def test_arrays_broadcast_against_each_other(cluster):
    """Each point costs what it costs alone."""
    batch, context = np.array([1, 8, 64]), np.array([[512], [8192]])
    points = {**BASE, "query_tokens": 1, "batch": batch, "context_tokens": context}
    seconds = attention_seconds(cluster, **points)
    assert seconds.shape == (2, 3)
    for (i, j), value in np.ndenumerate(seconds):
        assert value == attention_seconds(cluster, **{**points, "batch": batch[j], "context_tokens": context[i, 0]})


@pytest.mark.parametrize("query", [1, 512])
def test_long_sweeps_cost_what_their_points_cost(cluster, query):
    """More points than are priced at once, in two dimensions."""
    lengths, batch = np.arange(512, 2712), np.array([[1], [3], [7]])
    points = {**BASE, "query_tokens": query, "context_tokens": lengths, "batch": batch}
    seconds = attention_seconds(cluster, **points)
    assert seconds.shape == (3, 2200)
    for i, j in [(0, 0), (1, 1000), (1, 1896), (2, 2199)]:
        alone = attention_seconds(cluster, **{**points, "context_tokens": lengths[j], "batch": batch[i, 0]})
        assert seconds[i, j] == pytest.approx(float(alone), rel=1e-12)


@given(
    query=st.integers(1, 8192), earlier=st.integers(0, 8192), batch=st.integers(1, 64), causal=st.booleans(),
    field=st.sampled_from(["batch", "context_tokens", "num_heads", "head_dim"]), more=st.integers(1, 100),
)  # fmt: skip
def test_more_work_never_takes_less_time(documented, *, query, earlier, batch, causal, field, more):
    """More sequences, more context, more heads or wider ones."""
    small = {**BASE, "batch": batch, "query_tokens": query, "context_tokens": query + earlier, "causal": causal}
    large = {**small, field: small[field] + more * (8 if field == "num_heads" else 1)}
    assert attention_seconds(documented, **large) >= attention_seconds(documented, **small)


@given(length=st.integers(1, 20_000), more=st.integers(1, 20_000))
def test_a_longer_prompt_never_takes_less_time(h100, length, more):
    """Queries and context grow together."""
    seconds = attention_seconds(
        h100, **{**BASE, "query_tokens": [length, length + more], "context_tokens": [length, length + more]}
    )
    assert seconds[1] >= seconds[0]


@pytest.mark.parametrize(("head_dim", "source"), [(128, "roofline"), (256, "roofline"), (512, "extrapolated")])
def test_heads_wider_than_fused_kernels_are_marked(documented, head_dim, source):
    """They are priced as if fused, and say so."""
    assert price(Attention(1, 8, 8, 1, 1, head_dim, "bf16", "bf16"), documented).source == source


@pytest.mark.parametrize("query", [1, 1024])
@pytest.mark.parametrize(
    ("kernels", "head_dim", "kv_dtype", "source"),
    [
        ("trtllm", 128, "bf16", "calibrated"),
        ("trtllm", 128, "fp8", "calibrated"),
        ("trtllm", 128, "fp32", "extrapolated"),
        ("trtllm", 96, "bf16", "calibrated"),
        ("trtllm", 512, "bf16", "extrapolated"),
        ("trtllm", 32, "bf16", "extrapolated"),
        ("vllm", 512, "bf16", "calibrated"),
        ("vllm", 300, "bf16", "extrapolated"),
        ("vllm", 1024, "bf16", "extrapolated"),
    ],
)
def test_estimates_beyond_the_measurements_are_marked(query, kernels, head_dim, kv_dtype, source):
    """Head dimensions without a kernel, and caches in a dtype without a table; between measured ones they are not."""
    cluster = perfsim.load_cluster("dgx-h100", kernels=kernels)
    cost = price(Attention(2, query, 1024, 16, 2, head_dim, "bf16", kv_dtype), cluster)
    assert cost.source == source
    assert cost.low_s < cost.seconds < cost.high_s


@pytest.mark.parametrize("query", [1, 4096])
def test_heads_that_only_another_library_serves_take_its_kernel(query):
    """TensorRT-LLM has no kernel for heads of 512 on Hopper; FlashAttention 4, which vLLM takes, has."""
    work = Attention(1, query, 4096, 2, 2, 512, "bf16", "bf16")
    own, lent = (price(work, perfsim.load_cluster("dgx-h100", kernels=kernels)) for kernels in ("trtllm", "vllm"))
    assert own.seconds == lent.seconds
    assert own.range_factors[0] <= lent.range_factors[0] < lent.range_factors[1] <= own.range_factors[1]


def test_points_of_both_phases_and_of_all_heads_come_in_one_array(cluster):
    """Each point costs what it costs alone, by whichever kernel."""
    query, dims = np.array([1, 2, 4096]), np.array([[64], [128], [512]])
    points = {**BASE, "query_tokens": query, "context_tokens": 4096, "head_dim": dims}
    seconds = attention_seconds(cluster, **points)
    for (i, j), value in np.ndenumerate(seconds):
        alone = attention_seconds(cluster, **{**points, "query_tokens": query[j], "head_dim": dims[i, 0]})
        assert value == pytest.approx(float(alone), rel=1e-12)


HEADS = [(2, 8, 8), (2, 8, 1), (1, 32, 8), (16, 8, 8)]


def growth(cluster, lengths, query, *sizes):
    """Give the relative step from each length of a sweep to the next."""
    sizes = dict(zip(["batch", "num_heads", "num_kv_heads"], sizes, strict=True), head_dim=128)
    return np.diff(np.log(attention_seconds(cluster, query_tokens=query, context_tokens=lengths, **sizes)))


@pytest.mark.parametrize(("batch", "heads", "kv_heads"), HEADS)
def test_a_sweep_of_prompts_has_no_cliff(library, batch, heads, kv_heads):
    """Prompts that are a percent longer take no less, and at most another row of tiles more."""
    lengths = np.unique(np.geomspace(1024, 65_536, 600).astype(int))
    steps = growth(library, lengths, lengths, batch, heads, kv_heads)
    assert steps.min() > -1e-3
    assert steps.max() < 0.25


@pytest.mark.parametrize(("batch", "heads", "kv_heads"), HEADS)
def test_a_sweep_of_caches_jumps_only_where_the_library_changes_kernels(library, batch, heads, kv_heads):
    """Splits and kernels change at a few context lengths; between them decoding grows smoothly."""
    lengths = np.unique(np.geomspace(256, 65_536, 600).astype(int))
    steps = growth(library, lengths, 1, batch, heads, kv_heads)
    assert (np.abs(steps) > 0.05).sum() <= 8
    assert np.abs(steps).max() < 0.5


LATENT = {"num_heads": 16, "num_kv_heads": 1, "head_dim": 576, "value_dim": 512, "latent": True}


def test_the_speed_of_light_of_a_window_counts_what_it_leaves(h100):
    """Each of 10,000 queries sees at most 1,000 keys; a decode step reads 1,000 keys of 4,096."""
    prefill = Attention(1, 10_000, 10_000, 2, 2, 128, "bf16", "bf16", window=1000)
    assert price(prefill, h100).roofline_s == pytest.approx(4 * 2 * 128 * 9_500_000 / 989.4e12, rel=1e-12)
    decode = Attention(64, 1, 4096, 32, 8, 128, "bf16", "bf16", window=1000)
    wanted = 64 * (2 * 1000 * 8 * 128 * 2 + 2 * 32 * 128 * 2) / 3.35e12
    assert price(decode, h100).roofline_s == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("query", [1, 8192])
def test_a_window_saves_time(library, query):
    """Most of it where it hides most keys; one that hides none costs what none costs."""
    points = {**BASE, "batch": 32, "query_tokens": query, "context_tokens": 8192}
    none, wide, narrow = (attention_seconds(library, **points, window=window) for window in (0, 8192, 512))
    assert narrow < wide
    assert wide == pytest.approx(float(none), rel=1e-3)


@given(query=st.sampled_from([1, 100, 4096]), window=st.integers(1, 8000), more=st.integers(0, 8000))
def test_a_wider_window_never_takes_less_time(documented, query, window, more):
    """More keys are seen."""
    points = {**BASE, "query_tokens": query, "context_tokens": 8192}
    narrow, wide = (attention_seconds(documented, **points, window=size) for size in (window, window + more))
    assert narrow <= wide


def test_the_speed_of_light_of_latent_decode_reads_one_vector_a_key(h100):
    """576 elements for K and V together, and two products of 576 and of 512."""
    cost = price(Attention(64, 1, 4096, 16, 1, 576, "bf16", "bf16", value_dim=512, latent=True), h100)
    passed = 64 * (4096 * 576 * 2 + 16 * (576 + 512) * 2) / 3.35e12
    assert cost.roofline_s == pytest.approx(passed, rel=1e-12)
    many = price(Attention(64, 1, 65_536, 128, 1, 576, "bf16", "bf16", value_dim=512, latent=True), h100)
    assert many.roofline_s == pytest.approx(2 * 64 * 128 * (576 + 512) * 65_536 / 989.4e12, rel=0.3)


@pytest.mark.parametrize(
    ("name", "kernels", "query", "source"),
    [
        ("dgx-h100", "trtllm", 1, "calibrated"),
        ("dgx-h100", "sglang", 1, "calibrated"),
        ("dgx-h100", "vllm", 1, "extrapolated"),
        ("dgx-h100", "trtllm", 4096, "calibrated"),
        ("dgx-b200", "trtllm", 1, "calibrated"),
        ("dgx-b200", "sglang", 4096, "calibrated"),
        ("dgx-a100-80gb", "sglang", 1, "extrapolated"),
        ("l40s-pcie-8x", "trtllm", 4096, "extrapolated"),
        ("mi300x-8x", None, 1, "extrapolated"),
    ],
)
def test_the_provenance_of_latent_attention(name, kernels, query, source):
    """Measured with the widths of DeepSeek-V3: 576 and 512 in decode, 192 and 128 in prefill."""
    cluster = perfsim.load_cluster(name, kernels=kernels)
    latent = query == 1
    widths = (16, 1, 576) if latent else (16, 16, 192)
    value_dim = 512 if latent else 128
    work = Attention(8, query, 4096, *widths, "bf16", "bf16", value_dim=value_dim, latent=latent)
    assert price(work, cluster).source == source


@pytest.mark.parametrize("heads", [8, 128])
def test_latent_decode_is_near_what_the_memory_or_the_matrix_units_allow(heads):
    """A long cache streams at most of the bandwidth, or keeps a good part of the matrix units at work."""
    for name in ("dgx-h100", "dgx-b200"):
        work = Attention(64, 1, 32_768, heads, 1, 576, "bf16", "bf16", value_dim=512, latent=True)
        cost = price(work, perfsim.load_cluster(name))
        assert 1 <= cost.seconds / cost.roofline_s < 2.5


def test_a_whole_generation_of_latent_attention_is_one_array(cluster):
    """A prompt of whole keys and values, then tokens that meet the latent vectors: each point as it costs alone."""
    query = np.array([2048, 1, 1, 1])
    decoding = query == 1
    context = np.array([2048, 2049, 3000, 65_536])
    heads, dims, values = np.where(decoding, 1, 16), np.where(decoding, 576, 192), np.where(decoding, 512, 128)
    whole = price(
        Attention(4, query, context, 16, heads, dims, "bf16", "bf16", value_dim=values, latent=decoding), cluster
    )
    for i, seconds in enumerate(whole.seconds):
        alone = Attention(
            4, int(query[i]), int(context[i]), 16, int(heads[i]), int(dims[i]), "bf16", "bf16",
            value_dim=int(values[i]), latent=bool(decoding[i]),
        )  # fmt: skip
        assert seconds == pytest.approx(float(price(alone, cluster).seconds), rel=1e-12)
        assert whole.roofline_s[i] == pytest.approx(float(price(alone, cluster).roofline_s), rel=1e-12)


@pytest.mark.parametrize(("batch", "heads"), [(1, 16), (64, 16), (64, 128)])
def test_a_sweep_of_latent_caches_has_no_cliff(library, batch, heads):
    """Decoding grows with its context; a further split of few keys gains a few per cent at most."""
    lengths = np.unique(np.geomspace(256, 65_536, 600).astype(int))
    sizes = {**LATENT, "num_heads": heads, "batch": batch, "query_tokens": 1}
    steps = np.diff(np.log(attention_seconds(library, context_tokens=lengths, **sizes)))
    assert steps.min() > -0.05
    assert steps.max() < 0.25


def test_a_value_as_wide_as_the_key_is_ordinary_attention(library):
    """To the bit."""
    for query in (1, 512):
        points = {**BASE, "query_tokens": query}
        assert attention_seconds(library, **points, value_dim=128) == attention_seconds(library, **points)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"window": -1}, "window"), ({"window": 0.5}, "window"), ({"window": 64, "causal": False}, "window"),
        ({"value_dim": 0}, "value_dim"), ({"value_dim": [1, 2, 3], "batch": [1, 2]}, "value_dim"),
        ({"dtype": "fp8_block"}, "dtype"),
    ],
    ids=str,
)  # fmt: skip
def test_windows_and_widths_that_are_none_are_refused(refused, h100, change, field):
    """With their names."""
    (fault,) = refused(attention_seconds, h100, **{**BASE, **change})
    assert field in fault.field


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
