"""The experts of a mixture: by grouped multiplications of a kernel library where it has coefficients, else by the peak.

The busiest device is priced: it has ``imbalance`` times the mean pairs, spread over its experts by
`perfsim.cost.expert_loads`. Without coefficients

    t = max(flop / (efficiency.matmul peak), bytes / (efficiency.memory bandwidth)) + 2 kernel_s

where `bytes` are the weights of the experts that have any tokens, and what both multiplications read and write.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.arguments import check_dtype, check_quantities, check_weight_dtype
from perfsim.cost.estimate import CALIBRATED, EXTRAPOLATED, ROOFLINE, Cost, error_range
from perfsim.cost.expert_loads import expected_loads
from perfsim.cost.fastest_tile import RESULT_BYTES
from perfsim.cost.grouped_matmul import GroupedMatmul, grouped_matmul_of_loads
from perfsim.cost.roofline import light_seconds, matrix_peak_flop_per_s
from perfsim.cost.tiled_coefficients import nearest_table
from perfsim.cost.tiled_matmul import KernelTime
from perfsim.errors import Faults
from perfsim.ops.operators import ELEMENT_BYTES, Experts
from perfsim.spec.hardware import Cluster
from perfsim.spec.tables import FrozenDict

__all__ = ["experts_cost", "experts_seconds"]

Array = NDArray[np.float64]

_KERNELS = 2


def experts_cost(cluster: Cluster, work: Experts, *, weights_in_l2: bool = False) -> Cost:
    """Price all experts of one layer on the busiest device; weights pass memory once, unless they lie in L2."""
    pairs, hidden, width = np.broadcast_arrays(work.pairs, work.hidden_size, work.expert_width)
    shape = pairs.shape
    busy = np.maximum(pairs.reshape(-1) * float(work.imbalance), np.finfo(float).tiny)
    sizes = _Sizes(busy, hidden.reshape(-1).astype(float), width.reshape(-1).astype(float))
    loads = expected_loads(busy, work.num_experts, work.skew)
    peak = matrix_peak_flop_per_s(cluster, work.dtype)
    passed = 0.0 if weights_in_l2 else work.matrices * _stored_bytes(work)
    weights = loads.active * sizes.hidden * sizes.width * passed
    rows = busy * sizes.hidden * (ELEMENT_BYTES[work.dtype] + RESULT_BYTES)
    flop = 2 * busy * sizes.hidden * sizes.width * work.matrices
    light_s = light_seconds(cluster, flop=flop, flop_per_s=peak, hbm_bytes=weights + rows)
    known = _coefficients(cluster.coefficients, work.dtype, work.weight_dtype)
    if known is None:
        time, source, range_factors = _by_peak(cluster, work, sizes, weights, flop / peak), ROOFLINE, None
    else:
        layer, source, range_factors = known
        time = grouped_matmul_of_loads(
            cluster.accelerator, layer, loads, sizes.hidden, sizes.width, peak_flop_per_s=peak,
            operand_bytes=ELEMENT_BYTES[work.dtype], weight_bytes=_stored_bytes(work), gated=work.gated,
            weights_in_l2=weights_in_l2,
        )  # fmt: skip
    return Cost.of_parts(
        time.seconds.reshape(shape),
        compute_s=time.compute_s.reshape(shape),
        memory_s=time.memory_s.reshape(shape),
        roofline_s=light_s.reshape(shape),
        source=source,
        range_factors=range_factors,
    )


class _Sizes(NamedTuple):
    """Pairs of the busiest device and widths of its layers; arrays of shape (layers,)."""

    pairs: Array
    hidden: Array
    width: Array


def _stored_bytes(work: Experts) -> float:
    return ELEMENT_BYTES[work.weight_dtype or work.dtype]


@lru_cache(maxsize=64)
def _coefficients(
    tables: FrozenDict, dtype: str, weight_dtype: str | None
) -> tuple[GroupedMatmul, str, tuple[float, float] | None] | None:
    """Coefficients that price a data type, their provenance and their range.

    A kernel that unpacks its weights has a table of its own, such as ``bf16-fp4``; without one, a kernel that does not
    unpack them stands for it.
    """
    packed = f"grouped_matmul.{dtype}-{weight_dtype}"
    found = (packed, True) if packed in tables else nearest_table(tables, "grouped_matmul", dtype)
    if found is None:
        return None
    key, own = found
    own = own and (weight_dtype in {None, dtype} or key == packed)
    source = str(tables[key].get("source", CALIBRATED)) if own else EXTRAPOLATED
    return GroupedMatmul.from_table(tables[key]), source, error_range(tables[key])


def _by_peak(cluster: Cluster, work: Experts, sizes: _Sizes, weights: Array, peak_s: Array) -> KernelTime:
    """Price with documented efficiencies."""
    efficiency = cluster.efficiency
    read = (sizes.hidden + sizes.width) * ELEMENT_BYTES[work.dtype]
    written = ((work.matrices - 1) * sizes.width + sizes.hidden) * RESULT_BYTES
    moved = weights + sizes.pairs * (read + written)
    compute_s = peak_s / efficiency.matmul
    memory_s = moved / (cluster.accelerator.memory_bytes_per_s * efficiency.memory)
    longest_s = np.maximum(compute_s, memory_s)
    overhead_s = np.full_like(longest_s, _KERNELS * efficiency.kernel_s)
    return KernelTime(longest_s + overhead_s, compute_s, memory_s, overhead_s, longest_s)


def experts_seconds(
    cluster: Cluster, *, tokens: ArrayLike, hidden_size: ArrayLike, expert_width: ArrayLike, num_experts: int,
    experts_per_token: ArrayLike, dtype: str = "bf16", weight_dtype: str | None = None, gated: bool = True,
    skew: float = 0.0, imbalance: float = 1.0, weights_in_l2: bool = False,
) -> NDArray[np.float64]:  # fmt: skip
    """Estimate the time of the experts of one layer on one device: sorting, both multiplications, weighted sum.

    Parameters
    ----------
    cluster : Cluster
    tokens : array_like
        Tokens that a router sends to the experts.
    hidden_size, expert_width : array_like
        Widths of a token and between the two multiplications, as the device has them.
    num_experts : int
        Experts of the device.
    experts_per_token : array_like
        Of these, how many a token goes to, on average: 8 of 256 experts over 32 devices are 0.25 on each.
    dtype : str
        Data type of the multiplications: one that the device has, or ``fp8_block``.
    weight_dtype : str, optional
        How weights are stored where the kernel unpacks them, such as ``fp4``.
    gated : bool
        Whether the first multiplication gives a gate too.
    skew : float
        An expert's popularity falls as its rank to the power of ``-skew``; 0 spreads tokens evenly.
    imbalance : float
        Pairs of token and expert of the busiest device over the mean.
    weights_in_l2 : bool
        Whether the weights are in L2 already, as far as they fit; in a model they come from memory.

    Returns
    -------
    ndarray
        Seconds of the busiest device. Loads are expected numbers, so few tokens read the weights of few experts.

    Raises
    ------
    InputError
        A size is not a finite number above 0, sizes do not broadcast, there are fewer experts than a token goes to, the
        skew is negative, the imbalance below 1, or the device does not multiply in `dtype`.

    Examples
    --------
    >>> import perfsim
    >>> seconds = perfsim.cost.experts_seconds(
    ...     perfsim.load_cluster("dgx-h100"), tokens=[1, 64, 4096], hidden_size=4096, expert_width=14336, num_experts=8,
    ...     experts_per_token=2)
    >>> (seconds * 1e3).round(1).tolist()
    [0.3, 1.0, 4.5]
    """
    faults = Faults("experts_seconds")
    sizes_good = check_quantities(
        faults, tokens=tokens, hidden_size=hidden_size, expert_width=expert_width, experts_per_token=experts_per_token
    )
    if faults.integer("num_experts", num_experts) and sizes_good and np.max(experts_per_token, initial=0) > num_experts:
        most = float(np.max(experts_per_token))
        faults.add("experts_per_token", most, f"must be at most the {num_experts} experts")
    check_dtype(cluster, dtype, faults, blocks=True)
    check_weight_dtype(weight_dtype, faults)
    faults.flag("gated", gated)
    if skew != 0:
        faults.number("skew", skew)
    if faults.number("imbalance", imbalance) and imbalance < 1:
        faults.add("imbalance", imbalance, "must be at least 1, the mean")
    faults.raise_if_any()
    pairs = np.asarray(tokens, float) * np.asarray(experts_per_token, float)
    work = Experts(
        pairs, num_experts, hidden_size, expert_width, dtype, weight_dtype, gated, skew, imbalance,  # type: ignore[arg-type]
    )  # fmt: skip
    return np.asarray(experts_cost(cluster, work, weights_in_l2=weights_in_l2).seconds)
