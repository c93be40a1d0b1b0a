"""What the public cost functions ask of their arguments; all faults of a call come together."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from perfsim.errors import Faults
from perfsim.spec.hardware import Cluster

__all__ = ["check_dtype", "check_quantities"]


def check_quantities(faults: Faults, *, zero: bool = False, **quantities: ArrayLike) -> bool:
    """Record quantities that are not above 0 (or also 0) at every point, or do not broadcast; True when all do.

    Examples
    --------
    >>> faults = Faults("matmul_seconds")
    >>> check_quantities(faults, m=[64, 128], n=[1, 2, 3])
    False
    >>> print(faults.found[0])
    matmul_seconds.m, n = ((2,), (3,)): must have shapes that broadcast against each other
    """
    good = [faults.quantities(name, value, zero=zero) for name, value in quantities.items()]
    if not all(good):
        return False
    shapes = tuple(np.shape(value) for value in quantities.values())
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        faults.add(", ".join(quantities), shapes, "must have shapes that broadcast against each other")
        return False
    return True


def check_dtype(cluster: Cluster, dtype: str, faults: Faults) -> None:
    """Record a dtype that the devices of a cluster do not multiply in."""
    peaks = cluster.accelerator.peak_flop_per_s
    if not isinstance(dtype, str) or dtype not in peaks:
        known = ", ".join(peaks)
        faults.add("dtype", dtype, f"must be a dtype that {cluster.accelerator.name} multiplies in ({known})")
