"""Fused attention, for prefill and for decode."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.arguments import check_dtype, check_quantities
from perfsim.cost.estimate import EXTRAPOLATED, ROOFLINE, Cost
from perfsim.cost.roofline import kernel_cost, matrix_peak_flop_per_s
from perfsim.errors import Faults
from perfsim.ops.operators import ELEMENT_BYTES, Attention
from perfsim.spec.hardware import Cluster

__all__ = ["attention_cost", "attention_seconds"]

FUSED_HEAD_DIM = 256
"""Widest head of the widely used fused kernels (Dao, FlashAttention-2, 2023); wider ones are priced as if fused."""


def attention_cost(cluster: Cluster, work: Attention, *, kv_in_l2: bool = False) -> Cost:
    """Price fused attention: scores never leave the chip, Q, K, V and the result pass memory once."""
    keys = work.sequences * work.context_tokens * work.num_kv_heads * work.head_dim * ELEMENT_BYTES[work.kv_dtype]
    hbm_bytes = work.read_bytes + work.written_bytes - (2 * keys if kv_in_l2 else 0)
    return kernel_cost(
        cluster,
        flop=work.flop,
        flop_per_s=matrix_peak_flop_per_s(cluster, work.dtype),
        hbm_bytes=hbm_bytes,
        efficiency=cluster.efficiency.attention,
        source=EXTRAPOLATED if np.max(work.head_dim) > FUSED_HEAD_DIM else ROOFLINE,
    )


def attention_seconds(
    cluster: Cluster, *, batch: ArrayLike, query_tokens: ArrayLike, context_tokens: ArrayLike, num_heads: ArrayLike,
    num_kv_heads: ArrayLike, head_dim: ArrayLike, dtype: str = "bf16", kv_dtype: str = "bf16", causal: bool = True,
    kv_in_l2: bool = False,
) -> NDArray[np.float64]:  # fmt: skip
    """Estimate the time of fused attention kernels.

    Parameters
    ----------
    cluster : Cluster
    batch : array_like
        Sequences.
    query_tokens : array_like
        New tokens of each sequence: 1 in decode.
    context_tokens : array_like
        All keys that are seen, the new tokens included; a causal mask aligns at the end.
    num_heads, num_kv_heads, head_dim : array_like
    dtype, kv_dtype : str
        Data types of the computation and of K and V.
    causal : bool
    kv_in_l2 : bool
        Whether K and V are in L2 already; in a model they come from memory.

    Returns
    -------
    ndarray
        Seconds.

    Raises
    ------
    InputError
        A size is not a finite number above 0, sizes do not broadcast, there are fewer keys than new tokens, the device
        does not multiply in `dtype`, or `kv_dtype` is unknown.

    Examples
    --------
    >>> import perfsim
    >>> seconds = perfsim.cost.attention_seconds(
    ...     perfsim.load_cluster("dgx-h100"), batch=[1, 8], query_tokens=2048, context_tokens=2048,
    ...     num_heads=32, num_kv_heads=8, head_dim=128)
    >>> seconds.shape
    (2,)
    """
    faults = Faults("attention_seconds")
    if check_quantities(
        faults, batch=batch, query_tokens=query_tokens, context_tokens=context_tokens, num_heads=num_heads,
        num_kv_heads=num_kv_heads, head_dim=head_dim,
    ):  # fmt: skip
        _check_context(query_tokens, context_tokens, faults)
    check_dtype(cluster, dtype, faults)
    faults.choice("kv_dtype", kv_dtype, ELEMENT_BYTES)
    faults.raise_if_any()
    work = Attention(
        sequences=np.asarray(batch, float),
        query_tokens=np.asarray(query_tokens, float),
        context_tokens=np.asarray(context_tokens, float),
        num_heads=np.asarray(num_heads, float),
        num_kv_heads=np.asarray(num_kv_heads, float),
        head_dim=np.asarray(head_dim, float),
        dtype=dtype,
        kv_dtype=kv_dtype,
        causal=causal,
    )
    return np.asarray(attention_cost(cluster, work, kv_in_l2=kv_in_l2).seconds)


def _check_context(query_tokens: ArrayLike, context_tokens: ArrayLike, faults: Faults) -> None:
    """Record a context that lacks some of the new tokens, with the first such point."""
    query, context = np.broadcast_arrays(query_tokens, context_tokens)
    short = context < query
    if short.any():
        first = query[short][0].item()
        faults.add("context_tokens", context[short][0].item(), f"must include the query_tokens, so be at least {first}")
