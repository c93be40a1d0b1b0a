"""Attention without a fused kernel: three kernels, between which all scores pass memory.

Dao et al., "FlashAttention", NeurIPS 2022, algorithm 0: the scores are written by one matrix product, read and written
by the softmax, and read by another matrix product. Plain products compute all pairs of tokens, masked or not.
"""

from __future__ import annotations

import numpy as np

from perfsim.cost.attention import FUSED_HEAD_DIM
from perfsim.cost.attention_forms import PHASES, grouped_query_sizes, phases_of, read_form
from perfsim.cost.roofline import kernel_cost, matrix_peak_flop_per_s
from perfsim.ops.operators import ELEMENT_BYTES, Attention, Quantity
from perfsim.spec.hardware import Cluster

__all__ = ["has_fused_kernel", "score_bytes", "unfused_attention_seconds"]

_SOFTMAX_FLOP = 5
"""Of a score: the maximum, a difference, an exponential, a sum, a quotient."""


def has_fused_kernel(cluster: Cluster, work: Attention) -> bool:
    """Say whether there is a fused kernel for heads of this size: a measured one, or one of the widely used ones.

    Examples
    --------
    >>> import perfsim
    >>> cluster = perfsim.load_cluster("dgx-h100")
    >>> [has_fused_kernel(cluster, Attention(1, 4096, 4096, 2, 2, size, "bf16", "bf16")) for size in (128, 512)]
    [True, False]
    """
    head_dims = np.unique(grouped_query_sizes(work)["head_dim"])
    for phase in np.unique(phases_of(work)):
        form = read_form(cluster.coefficients, tuple(PHASES)[phase], work.dtype, work.kv_dtype)
        if form is None:
            if np.max(work.head_dim, initial=0) > FUSED_HEAD_DIM:
                return False
        elif not form.measured(head_dims).all():
            return False
    return True


def score_bytes(work: Attention) -> Quantity:
    """Bytes of the scores of all pairs of tokens, on one device.

    Examples
    --------
    >>> score_bytes(Attention(1, 10_000, 10_000, 2, 2, 512, "bf16", "bf16"))
    400000000
    """
    return work.sequences * work.num_heads * work.query_tokens * work.context_tokens * ELEMENT_BYTES[work.dtype]


def unfused_attention_seconds(cluster: Cluster, work: Attention) -> Quantity:
    """Estimate attention in three kernels, by documented fractions of the speed of light; see the module.

    Examples
    --------
    Two heads of 512 over 10,000 tokens: 400 MB of scores pass memory four times.

    >>> import perfsim
    >>> work = Attention(1, 10_000, 10_000, 2, 2, 512, "bf16", "bf16")
    >>> cluster = perfsim.load_cluster("dgx-h100")
    >>> bool(unfused_attention_seconds(cluster, work) > 4 * 400e6 / cluster.accelerator.memory_bytes_per_s)
    True
    """
    scores, matrix = score_bytes(work), matrix_peak_flop_per_s(cluster, work.dtype)
    pairs = scores / ELEMENT_BYTES[work.dtype]
    tokens = work.sequences * work.context_tokens * work.num_kv_heads * ELEMENT_BYTES[work.kv_dtype]
    queries = work.read_bytes - work.kv_bytes
    efficiency = cluster.efficiency.matmul
    return sum(
        kernel_cost(cluster, flop=flop, flop_per_s=peak, hbm_bytes=hbm_bytes, efficiency=reached).seconds
        for flop, peak, hbm_bytes, reached in (
            (2 * pairs * work.head_dim, matrix, queries + tokens * work.head_dim + scores, efficiency),
            (_SOFTMAX_FLOP * pairs, cluster.accelerator.vector_flop_per_s, 2 * scores, 1.0),
            (2 * pairs * work.value_width, matrix, scores + tokens * work.value_width + work.written_bytes, efficiency),
        )
    )
