"""Matrix multiplication: by the tiles of a kernel library where it has coefficients, else a fraction of the peak."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.arguments import check_dtype, check_quantities
from perfsim.cost.estimate import Cost, error_range
from perfsim.cost.roofline import kernel_cost, light_seconds, matrix_peak_flop_per_s
from perfsim.cost.tiled_coefficients import TiledMatmul, tiled_matmul_for
from perfsim.cost.tiled_matmul import tiled_matmul
from perfsim.errors import Faults
from perfsim.ops.operators import ELEMENT_BYTES, MatMul
from perfsim.spec.hardware import Cluster
from perfsim.spec.tables import FrozenDict

__all__ = ["matmul_cost", "matmul_seconds"]


def matmul_cost(cluster: Cluster, work: MatMul, *, weights_in_l2: bool = False) -> Cost:
    """Price ``[m, k] @ [k, n]``; every operand passes memory once, the weight not when it lies in L2."""
    peak = matrix_peak_flop_per_s(cluster, work.dtype)
    hbm_bytes = work.read_bytes + work.written_bytes - (work.weight_bytes if weights_in_l2 else 0)
    known = _coefficients(cluster.coefficients, work.dtype)
    if known is None:
        return kernel_cost(
            cluster, flop=work.flop, flop_per_s=peak, hbm_bytes=hbm_bytes, efficiency=cluster.efficiency.matmul
        )
    coefficients, source, range_factors = known
    time = tiled_matmul(
        cluster.accelerator, coefficients, work.m, work.n, work.k, peak_flop_per_s=peak,
        operand_bytes=ELEMENT_BYTES[work.dtype], weights_in_l2=weights_in_l2,
    )  # fmt: skip
    return Cost.of_parts(
        time.seconds,
        compute_s=time.compute_s,
        memory_s=time.memory_s,
        roofline_s=light_seconds(cluster, flop=work.flop, flop_per_s=peak, hbm_bytes=hbm_bytes),
        source=source,
        range_factors=range_factors,
    )


@lru_cache(maxsize=64)
def _coefficients(tables: FrozenDict, dtype: str) -> tuple[TiledMatmul, str, tuple[float, float] | None] | None:
    """Coefficients that price a data type, their provenance and their range."""
    found = tiled_matmul_for(tables, dtype)
    if found is None:
        return None
    key = f"matmul.{dtype}"
    return *found, error_range(tables[key if key in tables else "matmul.bf16"])


def matmul_seconds(
    cluster: Cluster, *, m: ArrayLike, n: ArrayLike, k: ArrayLike, dtype: str = "bf16", weights_in_l2: bool = False
) -> NDArray[np.float64]:
    """Estimate the time of matrix multiplications ``[m, k] @ [k, n]``.

    Parameters
    ----------
    cluster : Cluster
    m, n, k : array_like
        Sizes; they broadcast against each other.
    dtype : str
        Data type of the operands.
    weights_in_l2 : bool
        Whether the right-hand side is in L2 already; in a model it comes from memory.

    Returns
    -------
    ndarray
        Seconds.

    Raises
    ------
    InputError
        A size is not a finite number above 0, sizes do not broadcast, or the device does not multiply in `dtype`.

    Examples
    --------
    >>> import perfsim
    >>> cluster = perfsim.load_cluster("dgx-h100")
    >>> seconds = perfsim.cost.matmul_seconds(cluster, m=4096, n=8192, k=[1024, 8192])
    >>> bool(seconds[1] > 4 * seconds[0])
    True
    """
    faults = Faults("matmul_seconds")
    check_quantities(faults, m=m, n=n, k=k)
    check_dtype(cluster, dtype, faults)
    faults.raise_if_any()
    work = MatMul(np.asarray(m, float), np.asarray(n, float), np.asarray(k, float), dtype)
    return np.asarray(matmul_cost(cluster, work, weights_in_l2=weights_in_l2).seconds)
