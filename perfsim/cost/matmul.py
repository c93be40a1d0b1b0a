"""Matrix multiplication."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.arguments import check_dtype, check_quantities
from perfsim.cost.estimate import Cost
from perfsim.cost.roofline import kernel_cost, matrix_peak_flop_per_s
from perfsim.errors import Faults
from perfsim.ops.operators import MatMul
from perfsim.spec.hardware import Cluster

__all__ = ["matmul_cost", "matmul_seconds"]


def matmul_cost(cluster: Cluster, work: MatMul, *, weights_in_l2: bool = False) -> Cost:
    """Price ``[m, k] @ [k, n]``; every operand passes memory once, the weight not when it lies in L2."""
    hbm_bytes = work.read_bytes + work.written_bytes - (work.weight_bytes if weights_in_l2 else 0)
    return kernel_cost(
        cluster,
        flop=work.flop,
        flop_per_s=matrix_peak_flop_per_s(cluster, work.dtype),
        hbm_bytes=hbm_bytes,
        efficiency=cluster.efficiency.matmul,
    )


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
