"""Fused attention: by the prefill and decode kernels of a library where it has coefficients, else by the peak."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.arguments import check_dtype, check_quantities
from perfsim.cost.attention_forms import PHASES, Form, Sizes, form_time, grouped_query_sizes, phases_of, read_form
from perfsim.cost.attention_kernels import AttentionTime
from perfsim.cost.estimate import CALIBRATED, EXTRAPOLATED, ROOFLINE, Cost
from perfsim.cost.roofline import kernel_cost, light_seconds, matrix_peak_flop_per_s
from perfsim.errors import Faults
from perfsim.ops.operators import ELEMENT_BYTES, Attention
from perfsim.spec.hardware import Cluster

__all__ = ["attention_cost", "attention_seconds"]

FUSED_HEAD_DIM = 256
"""Widest head of the widely used fused kernels (Dao, FlashAttention-2, 2023); wider ones are priced as if fused."""


def attention_cost(cluster: Cluster, work: Attention, *, kv_in_l2: bool = False) -> Cost:
    """Price fused attention: scores never leave the chip, Q, K, V and the result pass memory once."""
    hbm_bytes = work.read_bytes + work.written_bytes - (work.kv_bytes if kv_in_l2 else 0)
    peak = matrix_peak_flop_per_s(cluster, work.dtype)
    parts = _parts(cluster, work, kv_in_l2=kv_in_l2)
    if not parts:
        return kernel_cost(
            cluster,
            flop=work.flop,
            flop_per_s=peak,
            hbm_bytes=hbm_bytes,
            efficiency=cluster.efficiency.attention,
            source=EXTRAPOLATED if np.max(work.head_dim, initial=0) > FUSED_HEAD_DIM else ROOFLINE,
        )
    seconds, compute_s, memory_s = _joined(parts)
    head_dims = [np.unique(part.sizes["head_dim"]) for part in parts]
    known = all(not part.form.extrapolates(dims) for part, dims in zip(parts, head_dims, strict=True))
    ranges = [one for part, dims in zip(parts, head_dims, strict=True) for one in part.form.ranges(dims)]
    return Cost.of_parts(
        seconds,
        compute_s=compute_s,
        memory_s=memory_s,
        roofline_s=light_seconds(cluster, flop=work.flop, flop_per_s=peak, hbm_bytes=hbm_bytes),
        source=CALIBRATED if known else EXTRAPOLATED,
        range_factors=(min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None,
    )


class _Part(NamedTuple):
    """The points of one phase: where they are among all, unless they are all, and what they take."""

    form: Form
    sizes: Sizes
    where: NDArray[np.bool_] | None
    time: AttentionTime


def _parts(cluster: Cluster, work: Attention, *, kv_in_l2: bool) -> list[_Part]:
    """Price the points of each phase by its kernels; nothing where any phase has none."""
    phase, sizes = phases_of(work), grouped_query_sizes(work)
    forms = {
        index: read_form(cluster.coefficients, name, work.dtype, work.kv_dtype)
        for index, name in enumerate(PHASES)
        if (phase == index).any()
    }
    parts = []
    for index, form in forms.items():
        if form is None:
            return []
        where = None if len(forms) == 1 else _mask(phase == index, sizes)
        own = sizes if where is None else _points(sizes, where)
        time = form_time(cluster.accelerator, form, work, own, kv_in_l2=kv_in_l2)
        parts.append(_Part(form, own, where, time))
    return parts


def _mask(chosen: NDArray[np.bool_], sizes: Sizes) -> NDArray[np.bool_]:
    return np.broadcast_to(chosen, np.broadcast_shapes(chosen.shape, *(size.shape for size in sizes.values())))


def _points(sizes: Sizes, where: NDArray[np.bool_]) -> Sizes:
    return {name: np.broadcast_to(size, where.shape)[where] if size.ndim else size for name, size in sizes.items()}


def _joined(parts: list[_Part]) -> tuple[Any, ...]:
    """Seconds, compute and memory of all points."""
    first = parts[0]
    if first.where is None:
        return tuple(first.time)[:3]
    whole = np.empty((3, *first.where.shape))
    for part in parts:
        whole[:, part.where] = part.time[:3]
    return tuple(whole)


def attention_seconds(
    cluster: Cluster, *, batch: ArrayLike, query_tokens: ArrayLike, context_tokens: ArrayLike, num_heads: ArrayLike,
    num_kv_heads: ArrayLike, head_dim: ArrayLike, dtype: str = "bf16", kv_dtype: str = "bf16", causal: bool = True,
    window: int = 0, value_dim: ArrayLike | None = None, latent: bool = False, kv_in_l2: bool = False,
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
    window : int
        Most keys that a token sees, itself included; 0 is no window. Only under a causal mask.
    value_dim : array_like, optional
        Width of a head of V and of the result where it differs from `head_dim`.
    latent : bool
        Whether V is the first `value_dim` elements of K, so that both are read as one (decode of multi-head latent
        attention, where all heads share one vector: `num_kv_heads` 1).
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
        does not multiply in `dtype`, `kv_dtype` is unknown, or a window has no causal mask.

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
        num_kv_heads=num_kv_heads, head_dim=head_dim, value_dim=1 if value_dim is None else value_dim,
    ):  # fmt: skip
        _check_context(query_tokens, context_tokens, faults)
    if faults.integer("window", window, minimum=0) and window and not causal:
        faults.add("window", window, "must be 0 without a causal mask", "kernels with a window have causal=True")
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
        window=window,
        value_dim=None if value_dim is None else np.asarray(value_dim, float),
        latent=latent,
    )
    return np.asarray(attention_cost(cluster, work, kv_in_l2=kv_in_l2).seconds)


def _check_context(query_tokens: ArrayLike, context_tokens: ArrayLike, faults: Faults) -> None:
    """Record a context that lacks some of the new tokens, with the first such point."""
    query, context = np.broadcast_arrays(query_tokens, context_tokens)
    short = context < query
    if short.any():
        first = query[short][0].item()
        faults.add("context_tokens", context[short][0].item(), f"must include the query_tokens, so be at least {first}")
