"""Kernels bound by memory, such as norms, activations and additions: by measured classes where there are any."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.arguments import check_quantities
from perfsim.cost.estimate import EXTRAPOLATED, Cost, error_range
from perfsim.cost.launch import LaunchCosts, launched_seconds
from perfsim.cost.memory_bound import CLASSES, MemoryBoundCoefficients, memory_bound_time
from perfsim.cost.roofline import kernel_cost, light_seconds
from perfsim.errors import Faults
from perfsim.ops.operators import Elementwise
from perfsim.spec.hardware import Cluster
from perfsim.spec.tables import FrozenDict

__all__ = ["elementwise_cost", "elementwise_seconds"]

MEASURED = ("rmsnorm", "gated", "swiglu", "rotary", "rope", "add", "embedding")
"""Operators that were measured themselves; the others take the class of a kernel that moves bytes in the same way."""


def elementwise_cost(cluster: Cluster, work: Elementwise, *, in_l2: bool = False) -> Cost:
    """Price a streaming kernel; its arithmetic runs outside the matrix units.

    With `in_l2` its operands lie in L2 as far as they fit, as in a loop over the same tensors.
    """
    peak, moved_bytes = cluster.accelerator.vector_flop_per_s, work.read_bytes + work.written_bytes
    hbm_bytes = 0 if in_l2 else moved_bytes
    known = _coefficients(cluster.coefficients, work.op)
    if known is None:
        return kernel_cost(cluster, flop=work.vector_flop, flop_per_s=peak, hbm_bytes=hbm_bytes, efficiency=1.0)
    coefficients, source, range_factors = known
    time = memory_bound_time(cluster.accelerator, coefficients, moved_bytes, in_l2=in_l2)
    return Cost.of_parts(
        launched_seconds(LaunchCosts(), time.seconds, includes_gap=coefficients.includes_gap),
        compute_s=np.asarray(work.vector_flop) / peak,
        memory_s=time.memory_s,
        roofline_s=light_seconds(cluster, flop=work.vector_flop, flop_per_s=peak, hbm_bytes=hbm_bytes),
        source=source,
        range_factors=range_factors,
    )


@lru_cache(maxsize=64)
def _coefficients(
    tables: FrozenDict, op: str
) -> tuple[MemoryBoundCoefficients, str, tuple[float, float] | None] | None:
    """Coefficients of the class of an operator, their provenance and their range; None where nothing is known."""
    table = tables.get("memory_bound", {}).get(CLASSES.get(op))
    if table is None:
        return None
    source = table["source"] if op in MEASURED else EXTRAPOLATED
    return MemoryBoundCoefficients.from_table(table), source, error_range(table)


def elementwise_seconds(
    cluster: Cluster, *, op: str, read_bytes: ArrayLike, written_bytes: ArrayLike
) -> NDArray[np.float64]:
    """Estimate the time of memory-bound kernels.

    Parameters
    ----------
    cluster : Cluster
    op : str
        What the kernel does, such as ``layernorm``, ``gelu`` or ``add``.
    read_bytes, written_bytes : array_like

    Returns
    -------
    ndarray
        Seconds.

    Raises
    ------
    InputError
        `op` has no name, bytes are not finite numbers of at least 0, or they do not broadcast.

    Examples
    --------
    >>> import perfsim
    >>> cluster = perfsim.load_cluster("dgx-h100")
    >>> perfsim.cost.elementwise_seconds(cluster, op="layernorm", read_bytes=[1e6, 1e8], written_bytes=[1e6, 1e8]).shape
    (2,)
    """
    faults = Faults("elementwise_seconds")
    faults.text("op", op)
    check_quantities(faults, zero=True, read_bytes=read_bytes, written_bytes=written_bytes)
    faults.raise_if_any()
    work = Elementwise(op, np.asarray(read_bytes, float), np.asarray(written_bytes, float))
    return np.asarray(elementwise_cost(cluster, work).seconds)
