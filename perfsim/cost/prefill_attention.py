"""Prefill (context) attention: how long a fused kernel takes for many new tokens of each sequence.

A cooperative thread array (CTA) takes one tile of ``query_tile`` query rows of one head and walks over the tiles of
``key_tile`` keys that the mask leaves it (`perfsim.cost.attention_tiles`). With N CTAs, W key tiles in all, n key tiles
in the longest CTA, P multiprocessors and the clock f::

    pair   = hypot(4 D P / (compute_efficiency peak), softmax_clocks / f)           seconds a (query, key) pair
    tile   = query_tile key_tile pair (1 + uneven_group_penalty [query_tile mod G > 0])
    busy   = (N cta_clocks / f + W tile) / P                                        all multiprocessors at work
    chain  = (cta_clocks / f + tile max(n / splits, 2 n[P+1], 3 n[2P+1])) chain_factor    the longest multiprocessor
    stream = hypot(Q, output and KV bytes through the multiprocessors, the bytes that L2 does not hold through HBM)
    T      = launch_s + norm(busy, chain; overlap) + hypot(stream, KV-write blocks) + split_s (1 - 1 / splits)

``n[m]`` is the length of the m-th longest CTA: when N > P, some multiprocessor runs two CTAs at least as long as number
P + 1 (Graham's bound for list scheduling, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17(2),
1969). Kernels that pack the query heads of a KV head into the rows of one tile (PackGQA of FlashAttention 3, Shah et
al., 2024) have ``B K ceil(S G / query_tile)`` CTAs, with G = H / K.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.attention_coefficients import PrefillCoefficients
from perfsim.cost.attention_kernels import Array, AttentionTime, HeadDimPlace, locate_head_dim, smooth_maximum
from perfsim.cost.attention_tiles import QueryTiles, cut_tiles, windowed_pairs
from perfsim.ops.operators import ELEMENT_BYTES
from perfsim.spec.hardware import Accelerator

__all__ = [
    "PrefillWork",
    "choose_prefill_kernel",
    "count_prefill_work",
    "prefill_attention_time",
    "time_of_prefill_work",
]

_NO_WINDOW = 1e12
_ACTIVATION_BYTES = 2.0  # Q and the result, also where the products are fp8


class PrefillWork(NamedTuple):
    """What the sizes and the tile shapes alone determine; a fit counts it once."""

    place: HeadDimPlace
    head_dim: Array
    tile_pairs: Array
    uneven: Array
    ctas: Array
    key_tiles: Array
    longest: Array
    second: Array
    third: Array
    splits: Array
    activation_bytes: Array
    new_kv_bytes: Array
    prefix_bytes: Array
    tokens: Array
    kv_elements: Array
    roofline_s: Array


def prefill_attention_time(
    accelerator: Accelerator, kernels: Sequence[PrefillCoefficients], *, batch: ArrayLike, query_tokens: ArrayLike,
    context_tokens: ArrayLike, num_heads: ArrayLike, num_kv_heads: ArrayLike, head_dim: ArrayLike,
    window: ArrayLike = 0, dtype: str = "bf16", kv_dtype: str = "bf16", causal: ArrayLike = True,
    kv_in_l2: bool = False,
) -> AttentionTime:  # fmt: skip
    """Estimate prefill attention and its parts.

    Parameters
    ----------
    accelerator : Accelerator
    kernels : sequence of PrefillCoefficients
        The kernels among which the library chooses by head dimension; the first match counts, the last one serves what
        none matches.
    batch, query_tokens, context_tokens, num_heads, num_kv_heads, head_dim : array_like
        Sizes; they broadcast. `context_tokens` are all keys, the new tokens included: a query shorter than its context
        is a chunk whose mask aligns at the end.
    window : array_like
        Keys that a query sees at most; 0 is no window.
    dtype, kv_dtype : str
        Of the products and of K and V in the cache.
    causal : array_like of bool
    kv_in_l2 : bool
        Whether K and V of earlier chunks lie in L2. Those of the new tokens come from the kernel before and stay in L2
        as far as they fit.

    Returns
    -------
    AttentionTime
        Seconds and their parts, never below the speed of light: datasheet peak and compulsory bytes.

    Examples
    --------
    >>> import perfsim
    >>> from perfsim.cost.attention_coefficients import PrefillCoefficients
    >>> kernel = PrefillCoefficients(
    ...     kernel="fmha", head_dims=(128,), query_tile=(128,), key_tile=(128,), compute_efficiency=(0.65,),
    ...     cta_clocks=(800.0,), softmax_clocks=0.09, launch_s=12e-6, activation_bytes_per_clock=7.0,
    ...     kv_write_bytes_per_clock=26.0, token_clocks=55.0, hbm_efficiency=0.57, l2_share=0.2, chain_factor=1.0,
    ...     overlap=2.2)
    >>> time = prefill_attention_time(
    ...     perfsim.load_cluster("dgx-h100").accelerator, [kernel], batch=1, query_tokens=[1024, 8192],
    ...     context_tokens=8192, num_heads=32, num_kv_heads=8, head_dim=128)
    >>> [f"{1e3 * seconds:.2f} ms" for seconds in time.seconds]
    ['0.35 ms', '1.14 ms']
    """
    names = ("batch", "query_tokens", "context_tokens", "num_heads", "num_kv_heads", "head_dim", "window", "causal")
    sizes = (batch, query_tokens, context_tokens, num_heads, num_kv_heads, head_dim, window, causal)

    def estimate(kernel: PrefillCoefficients, given: Sequence[ArrayLike]) -> AttentionTime:
        size = dict(zip(names, given, strict=True))
        work = count_prefill_work(accelerator, kernel, **size, dtype=dtype, kv_dtype=kv_dtype, kv_in_l2=kv_in_l2)
        return time_of_prefill_work(accelerator, kernel, work, dtype)

    choice = choose_prefill_kernel(kernels, head_dim)
    used = np.unique(choice)
    if len(used) <= 1:
        return estimate(kernels[int(used[0]) if len(used) else 0], sizes)
    arrays = np.broadcast_arrays(*sizes)
    choice = np.broadcast_to(choice, arrays[0].shape)
    parts = np.empty((len(AttentionTime._fields), *choice.shape))
    for index in used:
        rows = choice == index
        parts[:, rows] = estimate(kernels[index], [size[rows] for size in arrays])
    return AttentionTime(*parts)


def choose_prefill_kernel(kernels: Sequence[PrefillCoefficients], head_dim: ArrayLike) -> NDArray[np.intp]:
    """Find the index of the first kernel that serves each head dimension."""
    dim = np.asarray(head_dim, float)
    choice = np.full(dim.shape, len(kernels) - 1)
    for index in range(len(kernels) - 2, -1, -1):
        kernel = kernels[index]
        choice = np.where((dim > kernel.head_dim_above) & (dim <= kernel.head_dim_up_to), index, choice)
    return choice


def count_prefill_work(
    accelerator: Accelerator, kernel: PrefillCoefficients, *, batch: ArrayLike, query_tokens: ArrayLike,
    context_tokens: ArrayLike, num_heads: ArrayLike, num_kv_heads: ArrayLike, head_dim: ArrayLike,
    window: ArrayLike, dtype: str, kv_dtype: str, causal: ArrayLike, kv_in_l2: bool,
) -> PrefillWork:  # fmt: skip
    """Count CTAs, key tiles and bytes, and bound the time by the speed of light."""
    batch, new, context, heads, kv_heads, dim = (
        np.asarray(size, float) for size in (batch, query_tokens, context_tokens, num_heads, num_kv_heads, head_dim)
    )
    window, masked = np.asarray(window, float), np.asarray(causal, bool)
    window = np.where(window > 0, window, _NO_WINDOW)
    place = locate_head_dim(kernel.head_dims, dim)
    rows, keys = (np.asarray(tile, float)[place.upper] for tile in (kernel.query_tile, kernel.key_tile))
    group = heads / kv_heads
    tokens_of_tile = rows / group if kernel.packs_query_heads else rows
    launched = batch * (kv_heads if kernel.packs_query_heads else heads)
    cut = cut_tiles(new, context, window + kernel.window_slack, tokens_of_tile, keys, causal=masked)
    sms, ctas = float(accelerator.sm_count), launched * cut.tiles
    seen = np.minimum(context, window + new - 1)
    kv_width = 2 * batch * kv_heads * dim * ELEMENT_BYTES[kv_dtype]
    q_and_o = 2 * batch * new * heads * dim
    light_bytes = q_and_o * ELEMENT_BYTES[dtype] + (0.0 if kv_in_l2 else kv_width * seen)
    flop = 4 * batch * heads * dim * windowed_pairs(new, context, window, causal=masked)
    light_s = (flop / accelerator.peak_flop_per_s[dtype], light_bytes / accelerator.memory_bytes_per_s)
    kernel_dim = np.asarray(kernel.head_dims, float)[place.upper] if kernel.pads_head_dim else dim
    return PrefillWork(
        place=place,
        head_dim=np.maximum(dim, kernel_dim),
        tile_pairs=rows * keys,
        uneven=np.mod(rows, group) > 0 if kernel.packs_query_heads else np.zeros_like(ctas),
        ctas=ctas,
        key_tiles=launched * cut.key_tiles,
        longest=cut.length(0.0),
        second=np.where(ctas > sms, cut.length(sms / launched), 0.0),
        third=np.where(ctas > 2 * sms, cut.length(2 * sms / launched), 0.0),
        splits=_splits(cut, ctas, sms) if kernel.splits_keys else np.ones_like(ctas),
        activation_bytes=q_and_o * _ACTIVATION_BYTES,
        new_kv_bytes=kv_width * new,
        prefix_bytes=np.zeros_like(seen) if kv_in_l2 else kv_width * np.maximum(seen - new, 0.0),
        tokens=batch * new,
        kv_elements=kv_heads * dim,
        roofline_s=np.maximum(*light_s),
    )


def _splits(cut: QueryTiles, ctas: Array, sms: float) -> Array:
    """Parts that keys are split into where CTAs leave multiprocessors idle, of at least four key tiles each."""
    return np.clip(sms / ctas, 1.0, np.maximum(cut.length(0.0) / 4, 1.0))


def time_of_prefill_work(
    accelerator: Accelerator, kernel: PrefillCoefficients, work: PrefillWork, dtype: str
) -> AttentionTime:
    """Price counted work."""
    ratio, sms = kernel.clock_ratios.get(accelerator.name, 1.0), float(accelerator.sm_count)
    clock, peak = accelerator.clock_hz * ratio, accelerator.peak_flop_per_s[dtype] * ratio
    product_s = 4 * sms / peak * work.head_dim / work.place.read(kernel.compute_efficiency)
    tile_s = work.tile_pairs * np.hypot(product_s, kernel.softmax_clocks / clock)
    if kernel.packs_query_heads:
        tile_s = tile_s * (1 + kernel.uneven_group_penalty * work.uneven)
    cta_s = work.place.read(kernel.cta_clocks) / clock
    busy_s, start_s = work.key_tiles * tile_s / sms, work.ctas * cta_s / sms
    one_s = cta_s + tile_s * work.longest / work.splits
    two_s = np.where(work.second > 0, 2 * (cta_s + tile_s * work.second), 0.0)
    three_s = np.where(work.third > 0, 3 * (cta_s + tile_s * work.third), 0.0)
    chain_s = kernel.chain_factor * np.maximum(one_s, np.maximum(two_s, three_s))
    kernel_s = smooth_maximum(busy_s + start_s, chain_s, kernel.overlap)
    memory_s = _stream_s(accelerator, kernel, work, sms * clock)
    full = kernel.token_block_elements
    blocks = np.minimum(work.kv_elements / full, 1.0) if full else 1.0
    token_s = work.tokens * (kernel.token_clocks / (sms * clock)) * blocks
    fixed_s = kernel.launch_s + (kernel.split_s * (1 - 1 / work.splits) if kernel.splits_keys else 0.0)
    seconds = np.maximum(fixed_s + kernel_s + np.hypot(memory_s, token_s), work.roofline_s)
    return AttentionTime(seconds, busy_s, memory_s, fixed_s + start_s + token_s, work.roofline_s)


def _stream_s(accelerator: Accelerator, kernel: PrefillCoefficients, work: PrefillWork, clocks_per_s: float) -> Array:
    """Seconds that Q, result, and K and V take through the multiprocessors and, where L2 is too small, through HBM."""
    through_sms = (
        work.activation_bytes / kernel.activation_bytes_per_clock + work.new_kv_bytes / kernel.kv_write_bytes_per_clock
    )
    moved = work.activation_bytes + work.new_kv_bytes
    fill = moved / (kernel.l2_share * accelerator.l2_bytes)
    missed = moved * (1 - 1 / (1 + fill**4)) + work.prefix_bytes
    hbm_s = missed / (kernel.hbm_efficiency * accelerator.memory_bytes_per_s)
    return np.hypot(through_sms / clocks_per_s, hbm_s)
