"""Fused attention: by the prefill and decode kernels of a library where it has coefficients, else by the peak."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.arguments import check_dtype, check_quantities
from perfsim.cost.attention_coefficients import DecodeCoefficients, PrefillCoefficients
from perfsim.cost.attention_kernels import AttentionTime, read_kernels, table_key
from perfsim.cost.decode_attention import decode_attention_time
from perfsim.cost.estimate import CALIBRATED, EXTRAPOLATED, ROOFLINE, Cost, error_range
from perfsim.cost.prefill_attention import prefill_attention_time
from perfsim.cost.roofline import kernel_cost, light_seconds, matrix_peak_flop_per_s
from perfsim.errors import Faults
from perfsim.ops.operators import ELEMENT_BYTES, Attention
from perfsim.spec.hardware import Cluster
from perfsim.spec.tables import FrozenDict

__all__ = ["attention_cost", "attention_seconds"]

FUSED_HEAD_DIM = 256
"""Widest head of the widely used fused kernels (Dao, FlashAttention-2, 2023); wider ones are priced as if fused."""

_SIZES = ("sequences", "query_tokens", "context_tokens", "num_heads", "num_kv_heads", "head_dim")
_BLOCK = 4096


def attention_cost(cluster: Cluster, work: Attention, *, kv_in_l2: bool = False) -> Cost:
    """Price fused attention: scores never leave the chip, Q, K, V and the result pass memory once."""
    keys = work.sequences * work.context_tokens * work.num_kv_heads * work.head_dim * ELEMENT_BYTES[work.kv_dtype]
    hbm_bytes = work.read_bytes + work.written_bytes - (2 * keys if kv_in_l2 else 0)
    peak = matrix_peak_flop_per_s(cluster, work.dtype)
    decoding = np.equal(work.query_tokens, 1)
    phases = [phase for phase, asked in (("decode", decoding.any()), ("prefill", not decoding.all())) if asked]
    forms = {phase: _form(cluster.coefficients, phase, work.dtype, work.kv_dtype) for phase in phases}
    if not phases or None in forms.values():
        return kernel_cost(
            cluster,
            flop=work.flop,
            flop_per_s=peak,
            hbm_bytes=hbm_bytes,
            efficiency=cluster.efficiency.attention,
            source=EXTRAPOLATED if np.max(work.head_dim, initial=0) > FUSED_HEAD_DIM else ROOFLINE,
        )
    known = [form for form in forms.values() if form is not None]
    times = [_time(cluster, form, work, kv_in_l2=kv_in_l2) for form in known]
    parts = list(zip(*times, strict=True))[:3]
    seconds, compute_s, memory_s = (np.where(decoding, *part) if len(part) > 1 else part[0] for part in parts)
    dims = np.unique(np.asarray(work.head_dim))
    ranges = [found for form in known for found in form.ranges(dims)]
    return Cost.of_parts(
        seconds,
        compute_s=compute_s,
        memory_s=memory_s,
        roofline_s=light_seconds(cluster, flop=work.flop, flop_per_s=peak, hbm_bytes=hbm_bytes),
        source=EXTRAPOLATED if any(form.extrapolates(dims) for form in known) else CALIBRATED,
        range_factors=(min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None,
    )


class _Form(NamedTuple):
    """The kernels that price one phase in two data types, and what is known of them.

    The first `borrowed` kernels are another library's, for heads that are wider than the library's own ones.
    """

    phase: str
    kernels: tuple[Any, ...]
    borrowed: int
    source: str
    own_range: tuple[float, float] | None
    borrowed_range: tuple[float, float] | None

    def measured(self, head_dims: NDArray[Any]) -> NDArray[np.bool_]:
        """Say which head dimensions lie between those that one of the library's own kernels was measured with."""
        inside = np.zeros(head_dims.shape, bool)
        for kernel in self.kernels[self.borrowed :]:
            inside |= (head_dims >= kernel.head_dims[0]) & (head_dims <= kernel.head_dims[-1])
        return inside

    def extrapolates(self, head_dims: NDArray[Any]) -> bool:
        """Say whether the estimate of any head dimension goes beyond the measurements."""
        return self.source == EXTRAPOLATED or not self.measured(head_dims).all()

    def ranges(self, head_dims: NDArray[Any]) -> list[tuple[float, float]]:
        """Ranges of the kernels that these head dimensions need."""
        found = [self.own_range, None if self.measured(head_dims).all() else self.borrowed_range]
        return [one for one in found if one is not None]


@lru_cache(maxsize=128)
def _form(tables: FrozenDict, phase: str, dtype: str, kv_dtype: str) -> _Form | None:
    """Read the kernels that price a phase in two data types; None where the library has none."""
    key = table_key(tables, phase, dtype, kv_dtype)
    if key is None:
        return None
    table = tables[key]
    query, cache = ("bf16" if name == "fp16" else name for name in (dtype, kv_dtype))
    borrowed = table.get("borrowed", {})
    return _Form(
        phase=phase,
        kernels=read_kernels(DecodeCoefficients if phase == "decode" else PrefillCoefficients, table),
        borrowed=borrowed.get("count", 0),
        source=table["source"] if key == f"{phase}.{query}-{cache}" else EXTRAPOLATED,
        own_range=error_range(table),
        borrowed_range=error_range(borrowed),
    )


def _time(cluster: Cluster, form: _Form, work: Attention, *, kv_in_l2: bool) -> AttentionTime:
    """Estimate in blocks of points, so that the temporaries stay in a core's cache."""
    sizes = {name: np.asarray(getattr(work, name)) for name in _SIZES}
    shape = np.broadcast_shapes(*(size.shape for size in sizes.values()))
    count = math.prod(shape)
    if count <= _BLOCK:
        return _time_of(cluster, form, work, sizes, kv_in_l2=kv_in_l2)
    flat = {name: np.broadcast_to(size, shape).reshape(-1) if size.ndim else size for name, size in sizes.items()}
    blocks = []
    for start in range(0, count, _BLOCK):
        block = {name: size[start : start + _BLOCK] if size.ndim else size for name, size in flat.items()}
        blocks.append(_time_of(cluster, form, work, block, kv_in_l2=kv_in_l2))
    return AttentionTime(*(np.concatenate(part).reshape(shape) for part in zip(*blocks, strict=True)))


def _time_of(
    cluster: Cluster, form: _Form, work: Attention, sizes: dict[str, NDArray[Any]], *, kv_in_l2: bool
) -> AttentionTime:
    settings: dict[str, Any] = {"dtype": work.dtype, "kv_dtype": work.kv_dtype, "kv_in_l2": kv_in_l2}
    settings |= {name: size for name, size in sizes.items() if name not in {"sequences", "query_tokens"}}
    if form.phase == "decode":
        return decode_attention_time(cluster.accelerator, form.kernels, batch=sizes["sequences"], **settings)
    settings |= {"query_tokens": sizes["query_tokens"], "causal": work.causal}
    return prefill_attention_time(cluster.accelerator, form.kernels, batch=sizes["sequences"], **settings)


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
