"""Prefill attention: tile sums against a loop, shapes of the estimate, and the speed of light of every shipped set."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.cost.attention_coefficients import PrefillCoefficients
from perfsim.cost.attention_kernels import read_kernels
from perfsim.cost.attention_tiles import cut_tiles, windowed_pairs
from perfsim.cost.prefill_attention import choose_prefill_kernel, prefill_attention_time
from perfsim.errors import InputError
from perfsim.ops.operators import Attention

H100 = perfsim.load_cluster("dgx-h100").accelerator
PLAIN = PrefillCoefficients(
    kernel="plain", head_dims=(64, 128), query_tile=(128, 128), key_tile=(64, 128), compute_efficiency=(0.6, 0.7),
    cta_clocks=(3000.0, 1000.0), softmax_clocks=0.09, launch_s=9e-6, activation_bytes_per_clock=10.0,
    kv_write_bytes_per_clock=6.0, token_clocks=50.0, hbm_efficiency=0.7, l2_share=0.6, chain_factor=1.0, overlap=3.0,
)  # fmt: skip
BASE = {
    "batch": 2, "query_tokens": 2048, "context_tokens": 2048, "num_heads": 32, "num_kv_heads": 8, "head_dim": 128,
}  # fmt: skip
NO_WINDOW = 2.0**40


def seconds(kernels=(PLAIN,), accelerator=H100, **sizes):
    """Price BASE with other sizes."""
    return prefill_attention_time(accelerator, kernels, **{**BASE, **sizes}).seconds


def cut(new, context, window, rows, keys, *, causal=True):
    """Cut one head into tiles."""
    return cut_tiles(*(np.array(float(size)) for size in (new, context, window, rows, keys)), causal=np.array(causal))


def walked(new, context, window, rows, keys, *, causal=True):
    """Count the key tiles of each tile of queries one by one."""
    tiles = []
    for i in range(int(np.ceil(new / rows))):
        last = context - new + min((i + 1) * rows, new) if causal else context
        first = max(context - new + i * rows + 1 - window, 0) if causal else 0
        tiles.append(np.ceil(last / keys) - np.floor(first / keys))
    return np.array(tiles)


@given(
    new=st.integers(1, 5000), earlier=st.integers(0, 5000), keys=st.sampled_from([32, 64, 128]),
    times=st.integers(1, 4), causal=st.booleans(),
)  # fmt: skip
def test_tiles_of_whole_key_tiles_are_counted_exactly(new, earlier, keys, times, causal):
    """The rounding of each tile is then the same, so its mean is exact, also in a chunk of a longer prompt."""
    sizes = (new, new + earlier, NO_WINDOW, keys * times, keys)
    found, wanted = cut(*sizes, causal=causal), walked(*sizes, causal=causal)
    assert found.tiles == len(wanted)
    assert found.key_tiles == pytest.approx(wanted.sum(), rel=1e-12)
    assert found.length(0) == wanted.max()


@given(
    periods=st.integers(1, 20), earlier=st.integers(0, 3000), shape=st.sampled_from([(64, 96), (192, 128), (128, 96)])
)
def test_uneven_tiles_are_exact_over_whole_periods(periods, earlier, shape):
    """The rounding of ``i rows`` modulo keys takes each of its values equally often."""
    rows, keys = shape
    new = rows * (periods * keys // np.gcd(rows, keys) + 1)
    sizes = (new, new + earlier, NO_WINDOW, rows, keys)
    assert cut(*sizes).key_tiles == pytest.approx(walked(*sizes).sum(), rel=1e-12)


def test_tile_sums_are_near_a_loop_for_any_sizes():
    """Windows, packed heads and chunks: without a bias, and near in each case that has more than a few tiles."""
    random = np.random.default_rng(0)
    errors = []
    for _ in range(2000):
        rows, keys = (
            random.choice([64.0, 128.0, 192.0]) / random.choice([1, 2, 5, 8]),
            random.choice([32.0, 96.0, 128.0]),
        )
        new = float(random.integers(500, 4000))
        sizes = (new, new + random.integers(0, 4000), random.choice([NO_WINDOW, 128.0, 1024.0]), rows, keys)
        errors.append(cut(*sizes).key_tiles / walked(*sizes).sum() - 1)
    assert abs(np.mean(errors)) < 0.002
    assert np.abs(errors).max() < 0.1


@given(new=st.integers(1, 300), earlier=st.integers(0, 300), window=st.integers(1, 700))
def test_pairs_of_a_window(new, earlier, window):
    """Each query's keys one by one; half of the diagonal counts where the window does not cut it."""
    sizes = (np.array(float(size)) for size in (new, new + earlier, window))
    wanted = sum(min(earlier + t + 0.5, window) for t in range(new))
    assert abs(windowed_pairs(*sizes, causal=np.array(True)) - wanted) <= 0.5


# What an estimate must be, for every shipped set


@settings(max_examples=20)
@given(
    batch=st.integers(1, 512), new=st.integers(2, 50_000), earlier=st.integers(0, 100_000), kv_heads=st.integers(1, 16),
    group=st.integers(1, 64), head_dim=st.sampled_from([40, 64, 80, 128, 192, 256, 512, 576]), causal=st.booleans(),
)  # fmt: skip
def test_nothing_is_faster_than_light(prefill_set, *, batch, new, earlier, kv_heads, group, head_dim, causal):
    """Datasheet peak, and every byte of Q, K, V and the result once."""
    work = Attention(
        batch, new, new + earlier, kv_heads * group, kv_heads, head_dim, **prefill_set.types, causal=causal
    )
    time = prefill_attention_time(
        prefill_set.accelerator, prefill_set.kernels, batch=batch, query_tokens=new, context_tokens=new + earlier,
        num_heads=kv_heads * group, num_kv_heads=kv_heads, head_dim=head_dim, causal=causal, **prefill_set.types,
    )  # fmt: skip
    flop_s = work.flop / prefill_set.accelerator.peak_flop_per_s[prefill_set.types["dtype"]]
    bytes_s = (work.read_bytes + work.written_bytes) / prefill_set.accelerator.memory_bytes_per_s
    assert time.roofline_s == pytest.approx(max(flop_s, bytes_s), rel=1e-9)
    assert np.isfinite(time.seconds)
    assert time.seconds >= time.roofline_s
    assert min(time.compute_s, time.memory_s, time.overhead_s) >= 0


@settings(max_examples=20)
@given(
    length=st.integers(2, 30_000), more=st.integers(1, 2000), batch=st.integers(1, 64), group=st.sampled_from([1, 4, 8])
)
def test_longer_prompts_and_larger_batches_take_longer(prefill_set, *, length, more, batch, group):
    """A longer prompt always; one sequence more where no keys are split over idle multiprocessors."""
    heads = {"num_heads": 4 * group, "num_kv_heads": 4, **prefill_set.types}
    device = prefill_set.accelerator
    lengths = np.array([length, length + more])
    short, long = seconds(
        prefill_set.kernels, device, batch=batch, query_tokens=lengths, context_tokens=lengths, **heads
    )
    assert long >= short * (1 - 1e-9)
    if not any(kernel.splits_keys for kernel in prefill_set.kernels):
        few, many = seconds(
            prefill_set.kernels, device, batch=[batch, batch + 1], query_tokens=length, context_tokens=length, **heads
        )
        assert many >= few * (1 - 1e-9)


def test_arrays_are_scalars_side_by_side(prefill_set):
    """Also where the points of an array go to different kernels, and dimensions lie between fitted ones."""
    random = np.random.default_rng(1)
    new, kv_heads = random.integers(2, 20_000, 30), 2 ** random.integers(0, 4, 30)
    points = {
        "batch": random.integers(1, 100, 30), "query_tokens": new, "context_tokens": new + random.integers(0, 5000, 30),
        "num_heads": kv_heads * random.integers(1, 9, 30), "num_kv_heads": kv_heads,
        "head_dim": random.choice([40, 64, 80, 128, 190, 256, 512], 30), "window": random.choice([0, 128, 1024], 30),
    }  # fmt: skip
    found = prefill_attention_time(prefill_set.accelerator, prefill_set.kernels, **points, **prefill_set.types)
    for i in range(30):
        point = {name: size[i] for name, size in points.items()}
        alone = prefill_attention_time(prefill_set.accelerator, prefill_set.kernels, **point, **prefill_set.types)
        assert [part[i] for part in found] == pytest.approx([float(part) for part in alone], rel=1e-12)


# What single properties do


def test_a_large_prefill_is_bound_by_its_products():
    """Four products of the causal half, at the kernel's share of the peak and beside the softmax."""
    time = prefill_attention_time(H100, [PLAIN], **{**BASE, "query_tokens": 32_768, "context_tokens": 32_768})
    pair_s = np.hypot(4 * 128 / 989.4e12 / 0.7, 0.09 / H100.clock_hz / H100.sm_count)
    assert time.compute_s == pytest.approx(2 * 32 * 32_768**2 / 2 * pair_s, rel=0.01)
    assert time.seconds == pytest.approx(time.compute_s, rel=0.15)


def test_fewer_kv_heads_are_cheaper_and_never_free():
    """Query heads do the work; KV heads are what is written to the cache."""
    multi_head, grouped, multi_query = seconds(num_kv_heads=[32, 8, 1])
    assert multi_head > grouped > multi_query > 0.5 * multi_head


def test_a_kernel_that_packs_query_heads_fills_its_tiles():
    """Four tokens of eight heads fill a quarter of one tile, where eight tiles would hold four rows each."""
    packed = dataclasses.replace(PLAIN, packs_query_heads=True)
    sizes = {"query_tokens": 4, "context_tokens": 30_000, "num_heads": 64, "num_kv_heads": 8, "batch": 64}
    assert seconds([packed], **sizes) < 0.5 * seconds([PLAIN], **sizes)


def test_a_window_saves_what_it_hides():
    """A window that reaches over everything changes nothing, a narrow one makes a long prompt linear."""
    long = {"query_tokens": 16_384, "context_tokens": 16_384}
    assert seconds(**long, window=16_384) == seconds(**long)
    half, whole = seconds(query_tokens=[8192, 16_384], context_tokens=[8192, 16_384], window=1024)
    assert whole == pytest.approx(2 * half, rel=0.1)
    assert whole < 0.4 * seconds(**long)


def test_a_chunk_costs_more_than_its_own_tokens_alone():
    """It attends to what came before; all chunks together cost about the whole prompt."""
    first, second = seconds(query_tokens=8192, context_tokens=[8192, 16_384], kv_in_l2=True)
    whole = seconds(query_tokens=16_384, context_tokens=16_384)
    assert second > 2 * first
    assert first + second == pytest.approx(whole, rel=0.1)


def test_a_prefix_in_l2_does_not_pass_memory():
    """The prefix is the only part that may come from memory."""
    sizes = {"query_tokens": 16, "context_tokens": 65_536}
    hot, cold = (prefill_attention_time(H100, [PLAIN], **{**BASE, **sizes}, kv_in_l2=hot) for hot in (True, False))
    prefix = 2 * 2 * (65_536 - 16) * 8 * 128 * 2
    assert cold.memory_s == pytest.approx(prefix / (0.7 * H100.memory_bytes_per_s), rel=0.01)
    assert hot.memory_s < 0.01 * cold.memory_s
    assert seconds(kv_in_l2=True) == seconds(kv_in_l2=False)


def test_head_dimensions_between_fitted_ones_are_interpolated():
    """In between costs lie in between; beyond, products grow in proportion."""
    short, middle, long = seconds(head_dim=[64, 96, 128], query_tokens=16_384, context_tokens=16_384)
    assert short < middle < long
    wide = prefill_attention_time(H100, [PLAIN], **{**BASE, "head_dim": np.array([128, 512])}).compute_s
    assert 3 < wide[1] / wide[0] <= 4


@pytest.mark.parametrize(
    ("head_dim", "source"), [(64, "calibrated"), (80, "calibrated"), (48, "extrapolated"), (320, "extrapolated")]
)
def test_head_dimensions_beyond_fitted_ones_say_so(h100, head_dim, source):
    """From 64 to 256 Hopper's kernels are measured, or lie between two that are."""
    assert perfsim.cost.price(Attention(1, 512, 512, 8, 8, head_dim, "bf16", "bf16"), h100).source == source


def test_the_library_chooses_a_kernel_by_the_head_dimension():
    """The first that serves a dimension; the last one serves the rest."""
    wide = dataclasses.replace(PLAIN, kernel="wide", head_dims=(256, 512), head_dim_above=256)
    assert choose_prefill_kernel([wide, PLAIN], [64, 256, 257, 1024]).tolist() == [1, 1, 0, 0]
    assert seconds([wide, PLAIN], head_dim=[128, 512]).tolist() == [seconds(), seconds([wide], head_dim=512)]


def test_an_accelerator_may_sustain_another_clock():
    """Only the one that is named."""
    slower = dataclasses.replace(PLAIN, clock_ratios={H100.name: 0.9})
    sizes = {"query_tokens": 32_768, "context_tokens": 32_768}
    assert seconds([slower], **sizes) == pytest.approx(seconds(**sizes) / 0.9, rel=0.01)
    assert seconds([slower], dataclasses.replace(H100, name="other"), **sizes) == seconds(**sizes)


# Files


def test_a_table_and_back():
    """Defaults are left out, and with them every infinity."""
    table = PLAIN.to_table()
    assert not {"head_dim_up_to", "splits_keys", "clock_ratios"} & table.keys()
    assert PrefillCoefficients.from_table(table) == PLAIN


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"launch": 1e-6}, "kernel.launch"),
        ({"launch_s": 0.0}, "kernel.launch_s"),
        ({"launch_s": float("inf")}, "kernel.launch_s"),
        ({"launch_s": [1e-6, 1e-6]}, "kernel.launch_s"),
        ({"cta_clocks": [1000.0]}, "kernel.cta_clocks"),
        ({"head_dims": [128, 64]}, "kernel.head_dims"),
        ({"splits_keys": 1}, "kernel.splits_keys"),
        ({"clock_ratios": {"H100": -1.0}}, "kernel.clock_ratios.H100"),
    ],
)
def test_a_broken_table_is_refused(changes, field):
    """The field is named."""
    with pytest.raises(InputError) as caught:
        PrefillCoefficients.from_table({**PLAIN.to_table(), **changes})
    assert field in {fault.field for fault in caught.value.faults}


def test_all_faults_of_a_set_come_together():
    """Every kernel's, by its place."""
    broken = PLAIN.to_table() | {"l2_share": -1}
    del broken["launch_s"]
    with pytest.raises(InputError) as caught:
        read_kernels(PrefillCoefficients, {"kernels": [PLAIN.to_table(), broken]})
    assert {fault.field for fault in caught.value.faults} == {"kernels.1.launch_s", "kernels.1.l2_share"}
