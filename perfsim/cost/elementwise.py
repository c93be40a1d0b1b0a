"""Kernels bound by memory: norms, activations, additions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.arguments import check_quantities
from perfsim.cost.estimate import Cost
from perfsim.cost.roofline import kernel_cost
from perfsim.errors import Faults
from perfsim.ops.operators import Elementwise
from perfsim.spec.hardware import Cluster

__all__ = ["elementwise_cost", "elementwise_seconds"]


def elementwise_cost(cluster: Cluster, work: Elementwise) -> Cost:
    """Price a streaming kernel; its arithmetic runs outside the matrix units."""
    return kernel_cost(
        cluster,
        flop=work.vector_flop,
        flop_per_s=cluster.accelerator.vector_flop_per_s,
        hbm_bytes=work.read_bytes + work.written_bytes,
        efficiency=1.0,
    )


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
