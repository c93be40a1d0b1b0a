"""Decode attention: limits by hand, choice and splits, and the speed of light of every shipped set."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.cost.attention_coefficients import DecodeCoefficients
from perfsim.cost.attention_kernels import table_key
from perfsim.cost.decode_attention import choose_decode_kernel, decode_attention_time
from perfsim.errors import InputError
from perfsim.ops.operators import Attention
from perfsim.spec.profiles import profile_folder
from perfsim.spec.tables import read_toml

H100 = perfsim.load_cluster("dgx-h100").accelerator
PLAIN = DecodeCoefficients(
    kernel="plain", head_dims=(64, 128), launch_s=(8e-6, 9e-6), cta_clocks=(4000.0, 5000.0), key_clocks=(1.0, 2.0),
    head_clocks=40.0, wide_group_cost=0.1, chain_clocks=7.0, hbm_efficiency=0.9, l2_speedup=3.0, l2_share=0.7,
    overlap=3.0, overlap_waves=20.0, chain_overlap=2.0, split_s=2e-6,
)  # fmt: skip
BASE = {"batch": 8, "context_tokens": 4096, "num_heads": 32, "num_kv_heads": 8, "head_dim": 128}


def time_of(kernels=(PLAIN,), accelerator=H100, **sizes):
    """Price BASE with other sizes."""
    return decode_attention_time(accelerator, kernels, **{**BASE, **sizes})


def seconds(kernels=(PLAIN,), accelerator=H100, **sizes):
    """Give the seconds of BASE with other sizes."""
    return time_of(kernels, accelerator, **sizes).seconds


# What an estimate must be, for every shipped set


@settings(max_examples=20)
@given(
    batch=st.integers(1, 2048), context=st.integers(1, 200_000), kv_heads=st.integers(1, 16), group=st.integers(1, 96),
    head_dim=st.sampled_from([40, 64, 80, 128, 192, 256, 512, 576]),
)  # fmt: skip
def test_nothing_is_faster_than_light(decode_set, *, batch, context, kv_heads, group, head_dim):
    """Datasheet peak, and every byte of the cache once; a cache in L2 is never slower."""
    device, types = decode_set.accelerator, decode_set.types
    work = Attention(batch, 1, context, kv_heads * group, kv_heads, head_dim, **types)
    sizes = {
        "batch": batch, "context_tokens": context, "num_heads": kv_heads * group, "num_kv_heads": kv_heads,
        "head_dim": head_dim, **types,
    }  # fmt: skip
    time = decode_attention_time(device, decode_set.kernels, **sizes)
    flop_s = work.flop / device.peak_flop_per_s[types["dtype"]]
    bytes_s = (work.read_bytes + work.written_bytes) / device.memory_bytes_per_s
    assert time.roofline_s == pytest.approx(max(flop_s, bytes_s), rel=1e-9)
    assert np.isfinite(time.seconds)
    assert time.seconds >= time.roofline_s
    assert min(time.compute_s, time.memory_s, time.overhead_s) >= 0
    assert decode_attention_time(device, decode_set.kernels, **sizes, kv_in_l2=True).seconds <= time.seconds * 1.0001


@settings(max_examples=20)
@given(
    context=st.integers(1, 100_000), more=st.integers(1, 20_000), batch=st.integers(1, 256),
    group=st.sampled_from([1, 4, 8]), head_dim=st.sampled_from([64, 128, 256]),
)  # fmt: skip
def test_longer_contexts_and_larger_batches_take_longer(decode_set, *, context, more, batch, group, head_dim):
    """Where the library keeps its kernel; one more split of the keys may make a longer context a little faster."""
    sizes = {"num_heads": 4 * group, "num_kv_heads": 4, "head_dim": head_dim, **decode_set.types}
    switches = any(kernel.least_fill for kernel in decode_set.kernels)
    rounds_down = any(kernel.split_rounding == "down" for kernel in decode_set.kernels)
    if not (switches or rounds_down):
        grown = {**sizes, "batch": batch, "context_tokens": np.array([context, context + more])}
        short, long = decode_attention_time(decode_set.accelerator, decode_set.kernels, **grown).seconds
        assert long >= 0.9 * short
    if not switches:
        doubled = {**sizes, "batch": np.array([batch, 2 * batch]), "context_tokens": context}
        few, many = decode_attention_time(decode_set.accelerator, decode_set.kernels, **doubled).seconds
        assert many >= few * (1 - 1e-9)


def test_arrays_are_scalars_side_by_side(decode_set):
    """Also where the points of an array go to different kernels, and dimensions lie between fitted ones."""
    random = np.random.default_rng(1)
    kv_heads = 2 ** random.integers(0, 4, 30)
    points = {
        "batch": random.integers(1, 300, 30), "context_tokens": random.integers(1, 50_000, 30),
        "num_heads": kv_heads * random.choice([1, 4, 8, 48], 30), "num_kv_heads": kv_heads,
        "head_dim": random.choice([40, 64, 80, 128, 190, 256, 512], 30), "window": random.choice([0, 128, 1024], 30),
    }  # fmt: skip
    found = decode_attention_time(decode_set.accelerator, decode_set.kernels, **points, **decode_set.types)
    for i in range(30):
        point = {name: size[i] for name, size in points.items()}
        alone = decode_attention_time(decode_set.accelerator, decode_set.kernels, **point, **decode_set.types)
        assert [part[i] for part in found] == pytest.approx([float(part) for part in alone], rel=1e-12)


# What single properties do


def test_a_large_cache_streams_at_the_memorys_rate():
    """K and V once, at the kernel's share of the bandwidth."""
    time = time_of(batch=512, context_tokens=16_384)
    wanted = (2 * 512 * 8 * 16_384 * 128 * 2 + 4 * 512 * 32 * 128) / (0.9 * 3.35e12)
    assert time.memory_s == pytest.approx(wanted, rel=1e-9)
    assert time.seconds == pytest.approx(wanted, rel=0.02)


def test_a_cache_in_l2_streams_faster_as_far_as_it_fits():
    """A small one at three times the rate, a large one like any other."""
    small_hot, large_hot = time_of(batch=[1, 512], kv_in_l2=True).memory_s
    small, large = time_of(batch=[1, 512]).memory_s
    assert small_hot == pytest.approx(small / 3, rel=0.01)
    assert large_hot == pytest.approx(large, rel=0.01)


def test_one_byte_in_the_cache_halves_its_time():
    """The dtype of the cache decides, not that of the products."""
    two, one = (time_of(batch=256, kv_dtype=kv_dtype).memory_s for kv_dtype in ("bf16", "fp8"))
    assert one == pytest.approx(two / 2, rel=0.01)


def test_query_heads_of_a_group_share_one_read():
    """Unless the kernel cannot hold them in one CTA and reads the cache for each."""
    grouped, multi_head = (time_of(batch=64, num_kv_heads=kv_heads) for kv_heads in (8, 32))
    assert multi_head.memory_s > 3.5 * grouped.memory_s
    rereads = time_of([dataclasses.replace(PLAIN, rereads_kv=True)], batch=64)
    assert grouped.memory_s < rereads.memory_s < multi_head.memory_s


def test_a_window_caps_the_context():
    """What lies before it costs nothing, unless the splits count the whole context."""
    assert seconds(context_tokens=65_536, window=1024) == seconds(context_tokens=1024)
    counting = dataclasses.replace(PLAIN, splits_context=True)
    long = seconds([counting], batch=1, num_kv_heads=1, context_tokens=65_536, window=128)
    assert long > seconds([counting], batch=1, num_kv_heads=1, context_tokens=128)


def test_few_sequences_split_their_keys():
    """A kernel that may not split walks the whole context in one CTA."""
    single = dataclasses.replace(PLAIN, max_splits=1.0)
    assert seconds(batch=1, context_tokens=65_536) < 0.5 * seconds([single], batch=1, context_tokens=65_536)
    assert seconds(batch=512) == pytest.approx(seconds([single], batch=512), rel=1e-9)


@pytest.mark.parametrize(("rounding", "splits"), [("up", 2), ("down", 1), ("none", 132 / 100)])
def test_splits_are_rounded_as_the_kernel_does(rounding, splits):
    """Hundred passes on 132 multiprocessors; each CTA more costs its start."""
    kernel = dataclasses.replace(PLAIN, split_rounding=rounding)
    time = time_of([kernel], batch=100, num_kv_heads=1, num_heads=4)
    cta_s = (5000 + 40 * 4) / H100.clock_hz
    wanted = 9e-6 + 2e-6 * (1 - 1 / splits) + 100 * splits * cta_s / 132
    assert time.overhead_s == pytest.approx(wanted, rel=1e-9)


def test_copies_and_serial_parts_are_on_top():
    """Regrouping costs where neither the batch nor K is 1, a serial part for every KV head of every sequence."""
    regrouping = dataclasses.replace(PLAIN, regroup_s=5e-6)
    extra = seconds([regrouping], batch=[1, 8], num_kv_heads=[[8], [1]]) - seconds(
        batch=[1, 8], num_kv_heads=[[8], [1]]
    )
    assert extra == pytest.approx(np.array([[0, 5e-6], [0, 0]]), abs=1e-12)
    serial = dataclasses.replace(PLAIN, serial_s=1e-6, serial_growth_s=1e-9, serial_beyond_s=2e-6, serial_batch=100.0)
    extra = time_of([serial], batch=[10, 200]).overhead_s - time_of(batch=[10, 200]).overhead_s
    assert extra == pytest.approx([80 * 1.01e-6, 1600 * 2e-6], rel=1e-9)


def test_copies_beyond_l2_take_their_bytes():
    """Q and the result of 2 bytes an element, each read and written once more, at the rate that streaming reaches."""
    regrouping = dataclasses.replace(PLAIN, regroup_s=5e-6)
    sizes = {"batch": [8, 4096], "context_tokens": 1, "num_heads": 96}
    extra = seconds([regrouping], **sizes) - seconds(**sizes)
    copied_s = 4 * 2 * 4096 * 96 * 128 / (PLAIN.hbm_efficiency * H100.memory_bytes_per_s)
    assert extra == pytest.approx([5e-6, 5e-6 + copied_s], rel=1e-3)


def test_the_library_chooses_a_kernel_by_group_dimension_and_fill():
    """The first that serves a point; the last one serves what none does."""
    filled = dataclasses.replace(PLAIN, kernel="filled", group_above=1, group_up_to=32, least_fill=4.0)
    wide = dataclasses.replace(PLAIN, kernel="wide", head_dim_above=256)
    sizes = {"context_tokens": 100, "num_kv_heads": 1}
    found = choose_decode_kernel(
        H100, [filled, wide, PLAIN], batch=[33, 32, 33, 33, 1], num_heads=[8, 8, 1, 64, 8],
        head_dim=[128, 128, 128, 128, 512], **sizes,
    )  # fmt: skip
    assert found.tolist() == [0, 2, 2, 2, 1]


def test_head_dimensions_between_and_beyond_fitted_ones():
    """Launch times lie in between; a key of a wider head costs more in proportion."""
    launches = time_of(head_dim=[64, 96, 128, 512], batch=1, context_tokens=1).overhead_s
    assert launches[0] < launches[1] < launches[2]
    narrow, wide = time_of(head_dim=[128, 512]).compute_s
    assert wide == pytest.approx(4 * narrow, rel=1e-9)


# The shipped files


def test_a_100s_cache_of_two_bytes_is_read_as_such():
    """TensorRT-LLM's table of the A100 streams one byte an element; a cache of bf16 has two."""
    device = perfsim.load_cluster("dgx-a100-80gb").accelerator
    table = read_toml(profile_folder() / "kernels" / "ampere-trtllm.toml")["decode"]["bf16-bf16"]
    kernels = [DecodeCoefficients.from_table(kernel) for kernel in table["kernels"]]
    sizes = {**BASE, "batch": 256, "context_tokens": 8192}
    two, one = (decode_attention_time(device, kernels, **sizes, kv_dtype=dtype).seconds for dtype in ("bf16", "fp8"))
    assert two == pytest.approx(2 * one, rel=0.15)
    assert two >= 2 * 256 * 8192 * 8 * 128 * 2 / device.memory_bytes_per_s


def test_data_types_without_a_table_take_the_nearest():
    """The bytes of the cache count first; the A100 has no table with one byte."""
    hopper = {"decode.bf16-bf16": {}, "decode.bf16-fp8": {}, "prefill.bf16-bf16": {}, "prefill.fp8-fp8": {}}
    assert table_key(hopper, "decode", "fp16", "fp16") == "decode.bf16-bf16"
    assert table_key(hopper, "decode", "fp8", "fp8") == "decode.bf16-fp8"
    assert table_key(hopper, "prefill", "bf16", "int8") == "prefill.fp8-fp8"
    assert table_key({"decode.bf16-bf16": {}}, "decode", "bf16", "fp8") == "decode.bf16-bf16"
    assert table_key({"matmul.bf16": {}}, "decode", "bf16", "bf16") is None


def test_a_table_and_back():
    """Defaults are left out, and with them every infinity."""
    table = PLAIN.to_table()
    assert not {"chain_limit", "group_up_to", "split_rounding"} & table.keys()
    assert DecodeCoefficients.from_table(table) == PLAIN
    assert all(np.isfinite(value) for value in table.values() if isinstance(value, float))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"splitrounding": "up"}, "kernel.splitrounding"),
        ({"split_rounding": "nearest"}, "kernel.split_rounding"),
        ({"key_clocks": [1.0, 2.0, 3.0]}, "kernel.key_clocks"),
        ({"overlap": -1.0}, "kernel.overlap"),
    ],
)
def test_a_broken_table_is_refused(changes, field):
    """The field is named."""
    with pytest.raises(InputError) as caught:
        DecodeCoefficients.from_table({**PLAIN.to_table(), **changes})
    assert field in {fault.field for fault in caught.value.faults}
