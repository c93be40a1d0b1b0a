"""Which kernels price attention of which phase, and in which sizes: what `perfsim.cost.attention` puts together.

Multi-head latent attention (DeepSeek-V2, 2024, section 2.1) has kernels of its own: in prefill V is narrower than K, in
decode it is the first part of the one latent vector that all heads read. Their coefficients stand in the formulas of
grouped-query attention, with the sizes of the attention that has the same FLOP and bytes.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.attention_coefficients import DecodeCoefficients, PrefillCoefficients
from perfsim.cost.attention_kernels import AttentionTime, read_kernels, table_key
from perfsim.cost.decode_attention import decode_attention_time
from perfsim.cost.estimate import EXTRAPOLATED, error_range
from perfsim.cost.prefill_attention import prefill_attention_time
from perfsim.ops.operators import Attention
from perfsim.spec.hardware import Accelerator
from perfsim.spec.tables import FrozenDict

__all__ = ["PHASES", "Form", "Sizes", "form_time", "grouped_query_sizes", "phases_of", "read_form"]

Sizes = dict[str, NDArray[Any]]

PHASES: dict[str, type[DecodeCoefficients | PrefillCoefficients]] = {
    "decode": DecodeCoefficients, "prefill": PrefillCoefficients, "latent_decode": DecodeCoefficients,
    "latent_prefill": PrefillCoefficients,
}  # fmt: skip
"""What has kernels of its own, and the form of their coefficients."""

_NAMES = tuple(PHASES)
_BLOCK = 4096


def phases_of(work: Attention) -> NDArray[np.intp]:
    """Index in `PHASES` of every point.

    Examples
    --------
    >>> work = Attention(1, np.array([1, 512]), 512, 8, 8, 192, "bf16", "bf16", value_dim=128)
    >>> [_NAMES[index] for index in phases_of(work)]
    ['decode', 'latent_prefill']
    """
    decoding = np.equal(work.query_tokens, 1)
    latent = np.where(decoding, work.latent, np.not_equal(work.value_width, work.head_dim))
    return np.asarray(np.where(decoding, 0, 1) + 2 * latent)


def grouped_query_sizes(work: Attention) -> Sizes:
    """Sizes of the grouped-query attention with K and V of one width that has the same FLOP and bytes.

    Where V has another width than K, the mean of both counts. Latent attention reads one vector for both, so K and V
    are half of it each, and as many query heads more as its FLOP ask for.

    Examples
    --------
    DeepSeek-V3: 128 heads of 576, whose first 512 elements are V.

    >>> work = Attention(1, 1, 4096, 128, 1, 576, "bf16", "bf16", value_dim=512, latent=True)
    >>> sizes = grouped_query_sizes(work)
    >>> float(sizes["head_dim"]), float(sizes["num_heads"].round(1))
    (288.0, 241.8)
    """
    head_dim = (work.head_dim + np.where(work.latent, 0, work.value_width)) / 2
    return {
        "batch": np.asarray(work.sequences),
        "query_tokens": np.asarray(work.query_tokens),
        "context_tokens": np.asarray(work.context_tokens),
        "num_heads": np.asarray(work.num_heads * (work.head_dim + work.value_width) / (2 * head_dim)),
        "num_kv_heads": np.asarray(work.num_kv_heads),
        "head_dim": np.asarray(head_dim),
    }


class Form(NamedTuple):
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
def read_form(tables: FrozenDict, phase: str, dtype: str, kv_dtype: str) -> Form | None:
    """Read the kernels that price a phase in two data types; None where the library has none.

    Prefill with a V narrower than K takes the kernels of all other prefill where it has none of its own. Decode of
    latent vectors does not: kernels that are made for groups of a few heads are several times slower on it.
    """
    key = table_key(tables, phase, dtype, kv_dtype)
    if key is None and phase == "latent_prefill":
        plain = read_form(tables, "prefill", dtype, kv_dtype)
        return None if plain is None else plain._replace(source=EXTRAPOLATED)
    if key is None:
        return None
    table = tables[key]
    query, cache = ("bf16" if name == "fp16" else name for name in (dtype, kv_dtype))
    borrowed = table.get("borrowed", {})
    return Form(
        phase=phase,
        kernels=read_kernels(PHASES[phase], table),
        borrowed=borrowed.get("count", 0),
        source=table["source"] if key == f"{phase}.{query}-{cache}" else EXTRAPOLATED,
        own_range=error_range(table),
        borrowed_range=error_range(borrowed),
    )


def form_time(accelerator: Accelerator, form: Form, work: Attention, sizes: Sizes, *, kv_in_l2: bool) -> AttentionTime:
    """Estimate in blocks of points, so that the temporaries stay in a core's cache."""
    shape = np.broadcast_shapes(*(size.shape for size in sizes.values()))
    count = math.prod(shape)
    if count <= _BLOCK:
        return _time_of(accelerator, form, work, sizes, kv_in_l2=kv_in_l2)
    flat = {name: np.broadcast_to(size, shape).reshape(-1) if size.ndim else size for name, size in sizes.items()}
    blocks = []
    for start in range(0, count, _BLOCK):
        block = {name: size[start : start + _BLOCK] if size.ndim else size for name, size in flat.items()}
        blocks.append(_time_of(accelerator, form, work, block, kv_in_l2=kv_in_l2))
    return AttentionTime(*(np.concatenate(part).reshape(shape) for part in zip(*blocks, strict=True)))


def _time_of(accelerator: Accelerator, form: Form, work: Attention, sizes: Sizes, *, kv_in_l2: bool) -> AttentionTime:
    settings: dict[str, Any] = {"dtype": work.dtype, "kv_dtype": work.kv_dtype, "kv_in_l2": kv_in_l2}
    settings |= {"window": work.window, **sizes}
    if PHASES[form.phase] is DecodeCoefficients:
        settings.pop("query_tokens")
        return decode_attention_time(accelerator, form.kernels, **settings)
    return prefill_attention_time(accelerator, form.kernels, **settings, causal=work.causal)
