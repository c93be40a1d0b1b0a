"""Decode (generation) attention: one new token of each sequence attends to its cached keys.

A cooperative thread array (CTA) takes the G = H / K query heads of one KV head of one sequence; when there are fewer of
them than the GPU holds, the kernel splits the keys (flash decoding: Dao, Haziza, Massa and Sizov, 2023). With S keys
seen (the window caps them), N = B K passes over a KV head, P multiprocessors and the clock f::

    splits = clip(ctas_per_sm P / N, 1, min(max_splits, S / keys_per_split))
    cta    = (cta_clocks + head_clocks G D / 128) / f                         seconds of one multiprocessor
    busy   = N (splits cta + max(S, key_tile) key_clocks (1 + wide_group_cost max(G - 8, 0) / 8) / f) / P
    memory = KV bytes / (hbm_efficiency bandwidth) (1 - hit + hit / l2_speedup) + Q and output bytes
    chain  = cta + max(S, key_tile) / splits chain_clocks D / 128 / f         the longest dependent walk
    T      = launch_s + norm(norm(busy, memory; 1 + overlap w / (w + overlap_waves)), chain; chain_overlap)
             + split_s (1 - 1 / splits),       w = N splits / P waves of CTAs

``hit = 1 / (1 + (KV bytes / (l2_share L2))^8)`` for a cache that lies in L2 (as in the public tables), 0 for one that
comes from memory (as in a model, whose other layers come between). A kernel that cannot hold a wide group in one CTA
reads the KV heads again for each query head (`rereads_kv`); repeated reads hit L2. One whose library first copies the
query heads of a KV head together, and the result back, adds ``regroup_s`` and the copies' bytes beyond L2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.attention_coefficients import DecodeCoefficients
from perfsim.cost.attention_kernels import Array, AttentionTime, locate_head_dim, smooth_maximum
from perfsim.ops.operators import ELEMENT_BYTES, attended_pairs
from perfsim.spec.hardware import Accelerator

__all__ = ["choose_decode_kernel", "decode_attention_time"]

_ACTIVATION_BYTES = 2  # Q and the result, also where the products are fp8


class _Sizes(NamedTuple):
    """Sizes of the operator, arrays of one shape."""

    batch: Array
    context: Array
    heads: Array
    kv_heads: Array
    dim: Array
    window: Array


def decode_attention_time(
    accelerator: Accelerator, kernels: Sequence[DecodeCoefficients], *, batch: ArrayLike, context_tokens: ArrayLike,
    num_heads: ArrayLike, num_kv_heads: ArrayLike, head_dim: ArrayLike, window: ArrayLike = 0, dtype: str = "bf16",
    kv_dtype: str = "bf16", kv_in_l2: bool = False,
) -> AttentionTime:  # fmt: skip
    """Estimate decode attention and its parts.

    Parameters
    ----------
    accelerator : Accelerator
    kernels : sequence of DecodeCoefficients
        The kernels among which the library chooses, the first match counts; the last one serves what none matches.
    batch, context_tokens, num_heads, num_kv_heads, head_dim : array_like
        Sizes; they broadcast. `context_tokens` are all keys, the new token included.
    window : array_like
        Keys that a query sees at most; 0 is no window.
    dtype, kv_dtype : str
        Of the products and of K and V in the cache.
    kv_in_l2 : bool
        Whether the cache lies in L2, as far as it fits; in a model it comes from memory.

    Returns
    -------
    AttentionTime
        Seconds and their parts, never below the speed of light: datasheet peak and compulsory bytes.

    Examples
    --------
    >>> import perfsim
    >>> from perfsim.cost.attention_coefficients import DecodeCoefficients
    >>> kernel = DecodeCoefficients(
    ...     kernel="fa3", head_dims=(128,), launch_s=(9e-6,), cta_clocks=(5000.0,), key_clocks=(2.0,), head_clocks=40.0,
    ...     wide_group_cost=0.1, chain_clocks=7.0, hbm_efficiency=0.9, l2_speedup=3.0, l2_share=0.7, overlap=3.0,
    ...     overlap_waves=20.0, chain_overlap=2.0, split_s=2e-6)
    >>> time = decode_attention_time(
    ...     perfsim.load_cluster("dgx-h100").accelerator, [kernel], batch=[1, 64], context_tokens=8192, num_heads=32,
    ...     num_kv_heads=8, head_dim=128)
    >>> [f"{1e6 * seconds:.0f} us" for seconds in time.seconds]
    ['25 us', '730 us']
    """
    given = (batch, context_tokens, num_heads, num_kv_heads, head_dim, window)
    sizes = _Sizes(*np.broadcast_arrays(*(np.asarray(size, float) for size in given)))

    def estimate(kernel: DecodeCoefficients, mine: _Sizes) -> AttentionTime:
        return _kernel_time(accelerator, kernel, mine, dtype=dtype, kv_dtype=kv_dtype, kv_in_l2=kv_in_l2)

    choice = choose_decode_kernel(
        accelerator, kernels, batch=sizes.batch, context_tokens=sizes.context, num_heads=sizes.heads,
        num_kv_heads=sizes.kv_heads, head_dim=sizes.dim,
    )  # fmt: skip
    used = np.unique(choice)
    if len(used) <= 1:
        return estimate(kernels[int(used[0]) if len(used) else 0], sizes)
    parts = np.empty((len(AttentionTime._fields), *choice.shape))
    for index in used:
        rows = choice == index
        parts[:, rows] = estimate(kernels[index], _Sizes(*(size[rows] for size in sizes)))
    return AttentionTime(*parts)


def choose_decode_kernel(
    accelerator: Accelerator, kernels: Sequence[DecodeCoefficients], *, batch: ArrayLike, context_tokens: ArrayLike,
    num_heads: ArrayLike, num_kv_heads: ArrayLike, head_dim: ArrayLike,
) -> NDArray[np.intp]:  # fmt: skip
    """Find the index of the first kernel that serves each point."""
    sizes = (batch, context_tokens, num_heads, num_kv_heads, head_dim)
    batch, context, heads, kv_heads, dim = np.broadcast_arrays(*(np.asarray(size, float) for size in sizes))
    choice = np.full(dim.shape, len(kernels) - 1)
    if len(kernels) == 1:
        return choice
    group = heads / kv_heads
    for index in range(len(kernels) - 2, -1, -1):
        kernel = kernels[index]
        serves = (group > kernel.group_above) & (group <= kernel.group_up_to)
        serves &= (dim > kernel.head_dim_above) & (dim <= kernel.head_dim_up_to)
        if kernel.least_fill:
            ctas = batch * kv_heads * np.maximum(np.floor(context / 128), 1.0)
            serves &= ctas * kernel.least_fill >= accelerator.sm_count
        choice = np.where(serves, index, choice)
    return choice


def _kernel_time(
    accelerator: Accelerator, kernel: DecodeCoefficients, sizes: _Sizes, *, dtype: str, kv_dtype: str, kv_in_l2: bool
) -> AttentionTime:
    """Seconds of one kernel."""
    batch, context, heads, kv_heads, dim, window = sizes
    ratio, sms = kernel.clock_ratios.get(accelerator.name, 1.0), float(accelerator.sm_count)
    clock, bandwidth = accelerator.clock_hz * ratio, accelerator.memory_bytes_per_s
    group = heads / kv_heads
    passes, heads_of_cta = (batch * heads, np.ones_like(group)) if kernel.rereads_kv else (batch * kv_heads, group)
    seen = np.where(window > 0, np.minimum(context, window), context)
    place = locate_head_dim(kernel.head_dims, dim)
    splits = _splits(kernel, passes, context if kernel.splits_context else seen, sms)
    cta_s = (place.read(kernel.cta_clocks) + kernel.head_clocks / 128 * heads_of_cta * dim) / clock
    start_s = passes * splits * cta_s / sms
    keys = np.maximum(seen, kernel.key_tile)
    wide = 1 + kernel.wide_group_cost / 8 * np.maximum(heads_of_cta - 8, 0.0)
    key_clocks = place.read(kernel.key_clocks) * np.maximum(dim / kernel.head_dims[-1], 1.0)
    keys_s = passes * keys * key_clocks * wide / (sms * clock)
    kv_bytes = 2 * ELEMENT_BYTES[kv_dtype] * batch * kv_heads * seen * dim
    q_and_o = 2 * batch * heads * dim
    streamed = _streamed_bytes(kernel, kv_bytes, group, accelerator.l2_bytes, hot=kv_in_l2)
    memory_s = (streamed + q_and_o * _ACTIVATION_BYTES) / (kernel.hbm_efficiency * ratio * bandwidth)
    chain_s = cta_s + np.minimum(keys / splits, kernel.chain_limit) * dim * (kernel.chain_clocks / 128 / clock)
    waves = passes * splits / sms
    hiding = 1 + kernel.overlap * waves / (waves + kernel.overlap_waves)
    kernel_s = smooth_maximum(smooth_maximum(start_s + keys_s, memory_s, hiding), chain_s, kernel.chain_overlap)
    serial_s = _serial_s(kernel, batch, kv_heads)
    fixed_s = place.read(kernel.launch_s) + _copies_s(kernel, sizes, splits, accelerator)
    light_bytes = q_and_o * ELEMENT_BYTES[dtype] + (0.0 if kv_in_l2 else kv_bytes)
    flop = 4 * batch * heads * dim * attended_pairs(1, seen, causal=True)
    light_s = np.maximum(flop / accelerator.peak_flop_per_s[dtype], light_bytes / bandwidth)
    seconds = np.maximum(fixed_s + np.hypot(kernel_s, serial_s), light_s)
    return AttentionTime(seconds, keys_s, memory_s, fixed_s + start_s + serial_s, light_s)


def _splits(kernel: DecodeCoefficients, passes: Array, keys: Array, sms: float) -> Array:
    """Parts that the keys of one pass are split into."""
    wanted = kernel.ctas_per_sm * sms / passes
    if kernel.split_rounding == "up":
        wanted = np.ceil(wanted)
    elif kernel.split_rounding == "down":
        wanted = np.floor(wanted)
    return np.clip(np.minimum(wanted, np.ceil(keys / kernel.keys_per_split)), 1.0, kernel.max_splits)


def _streamed_bytes(kernel: DecodeCoefficients, kv_bytes: Array, group: Array, l2_bytes: float, *, hot: bool) -> Array:
    """Bytes from memory that take as long as all passes over the cache, of which L2 serves a part."""
    reads = group if kernel.rereads_kv else np.ones_like(group)
    missed = 1 / reads
    if hot:
        missed = missed * _missed(kernel, kv_bytes, l2_bytes)
    return kv_bytes * reads * (missed + (1 - missed) / kernel.l2_speedup)


def _serial_s(kernel: DecodeCoefficients, batch: Array, kv_heads: Array) -> Array | float:
    """Seconds of what a kernel does for one KV head after the other."""
    if not kernel.serial_batch:
        return 0.0
    small_s = kernel.serial_s + kernel.serial_growth_s * batch
    return batch * kv_heads * np.where(batch < kernel.serial_batch, small_s, kernel.serial_beyond_s)


def _missed(kernel: DecodeCoefficients, used_bytes: Array, l2_bytes: float) -> Array:
    """Fraction of bytes that were just used and that L2 no longer holds."""
    fill = (used_bytes / (kernel.l2_share * l2_bytes)) ** 2
    fill *= fill
    return np.asarray(1 - 1 / (1 + fill * fill))


def _copies_s(kernel: DecodeCoefficients, sizes: _Sizes, splits: Array, accelerator: Accelerator) -> Array:
    """Seconds to combine split keys, and to regroup query heads: Q and the result are read and written once more."""
    combined = np.minimum(splits - 1, 1.0) if kernel.split_steps else 1 - 1 / splits
    if not kernel.regroup_s:
        return kernel.split_s * combined
    copied = 4 * _ACTIVATION_BYTES * sizes.batch * sizes.heads * sizes.dim
    missed = copied * _missed(kernel, copied, accelerator.l2_bytes)
    copies_s = kernel.regroup_s + missed / (kernel.hbm_efficiency * accelerator.memory_bytes_per_s)
    regrouped = (sizes.batch > 1) & (sizes.kv_heads > 1) & (sizes.heads > sizes.kv_heads)
    return kernel.split_s * combined + copies_s * regrouped
