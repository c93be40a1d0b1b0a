"""The speed of light of kernels: datasheet peaks and compulsory bytes, and documented fractions of them.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.
"""

from __future__ import annotations

import numpy as np

from perfsim.cost.arguments import PEAK_DTYPE, check_dtype
from perfsim.cost.estimate import ROOFLINE, Cost
from perfsim.errors import Faults
from perfsim.ops.operators import Quantity
from perfsim.spec.hardware import Cluster

__all__ = ["kernel_cost", "light_seconds", "matrix_peak_flop_per_s"]


def matrix_peak_flop_per_s(cluster: Cluster, dtype: str) -> float:
    """Dense matrix FLOP/s of one device in `dtype`.

    Raises
    ------
    InputError
        The device does not multiply in `dtype`.
    """
    faults = Faults()
    check_dtype(cluster, dtype, faults, blocks=True)
    faults.raise_if_any()
    return float(cluster.accelerator.peak_flop_per_s[PEAK_DTYPE.get(dtype, dtype)])


def light_seconds(cluster: Cluster, *, flop: Quantity, flop_per_s: float, hbm_bytes: Quantity) -> Quantity:
    """The least time of a kernel: its FLOP at the peak, or its bytes at the bandwidth of the memory."""
    return np.maximum(np.asarray(flop) / flop_per_s, np.asarray(hbm_bytes) / cluster.accelerator.memory_bytes_per_s)


def kernel_cost(
    cluster: Cluster,
    *,
    flop: Quantity,
    flop_per_s: float,
    hbm_bytes: Quantity,
    efficiency: float,
    source: str = ROOFLINE,
) -> Cost:
    """Price a kernel: compute and memory traffic overlap, each at a fraction of its peak, plus a fixed time.

    ``t = max(flop / (efficiency peak), bytes / (efficiency.memory bandwidth)) + kernel_s``

    Parameters
    ----------
    cluster : Cluster
    flop, hbm_bytes : float or array
    flop_per_s : float
        Peak of the units that compute.
    efficiency : float
        Fraction of that peak that the kernel reaches.
    source : str
        Provenance of the estimate.
    """
    compute_s = np.asarray(flop) / (flop_per_s * efficiency)
    memory_s = np.asarray(hbm_bytes) / (cluster.accelerator.memory_bytes_per_s * cluster.efficiency.memory)
    overhead_s = cluster.efficiency.kernel_s
    return Cost(
        seconds=np.maximum(compute_s, memory_s) + overhead_s,
        compute_s=compute_s,
        memory_s=memory_s,
        overhead_s=overhead_s,
        roofline_s=light_seconds(cluster, flop=flop, flop_per_s=flop_per_s, hbm_bytes=hbm_bytes),
        source=source,
    )
