"""What the public cost functions ask of their arguments; all faults of a call come together."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from perfsim.errors import Faults
from perfsim.spec.hardware import Cluster

__all__ = ["PEAK_DTYPE", "check_dtype", "check_group", "check_quantities", "check_weight_dtype"]

PEAK_DTYPE = {"fp8_block": "fp8"}
"""Data types that are multiplied at the peak of another one: scales of their own for each block change no rate."""

_STORED = ("bf16", "fp16", "fp8", "fp8_block", "int8", "fp4", "int4")
"""Data types that weights are stored in, also where the device does not multiply in them."""


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


def check_dtype(cluster: Cluster, dtype: str, faults: Faults, *, blocks: bool = False) -> None:
    """Record a dtype that the devices of a cluster do not multiply in; with `blocks`, also with scales for blocks."""
    peaks = cluster.accelerator.peak_flop_per_s
    if not isinstance(dtype, str) or (PEAK_DTYPE.get(dtype, dtype) if blocks else dtype) not in peaks:
        known = ", ".join(peaks)
        way_out = "multiply in one of them and give it as weight_dtype" if blocks and dtype in _STORED else ""
        faults.add("dtype", dtype, f"must be a dtype that {cluster.accelerator.name} multiplies in ({known})", way_out)


def check_weight_dtype(weight_dtype: str | None, faults: Faults) -> None:
    """Record a dtype in which no kernel stores weights; None is that of the multiplication."""
    if weight_dtype is not None:
        faults.choice("weight_dtype", weight_dtype, _STORED)


def check_group(cluster: Cluster, group_size: int, faults: Faults) -> None:
    """Record a group that a cluster cannot have."""
    if faults.integer("group_size", group_size, minimum=1) and group_size > cluster.num_devices:
        faults.add(
            "group_size", group_size, f"must be at most the {cluster.num_devices} devices of {cluster.name}",
            f"load it with num_devices={group_size}",
        )  # fmt: skip
