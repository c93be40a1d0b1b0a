"""The launch of kernels, with and without CUDA graphs.

A chain of kernels that one graph replays pays a gap on the device for each; without a graph the host issues them one by
one, and whichever of host and device is slower sets the pace:

    T = kernel_s + graph_gap_s          replayed
    T = max(kernel_s, host_s)           issued one by one
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from perfsim.cost.protocols import Floats
from perfsim.errors import Faults

__all__ = ["LaunchCosts", "launched_seconds"]


@dataclass(frozen=True)
class LaunchCosts:
    """What it takes to start kernels.

    Attributes
    ----------
    graph_gap_s : float
        On the device, between two kernels of a replayed CUDA graph. The default is an assumption: small kernels in
        replayed graphs take 1.1 to 2.1 us, the gap included.
    host_s : float
        On the host, to issue one operator without a graph. Public tables have it for all-reduces only
        (``CustomAllReduce.host_s``).
    """

    graph_gap_s: float = 1e-6
    host_s: float = 0.0

    def __post_init__(self) -> None:
        faults = Faults("launch")
        for name in ("graph_gap_s", "host_s"):
            if getattr(self, name) != 0:
                faults.number(name, getattr(self, name), at_most=1.0)
        faults.raise_if_any()


def launched_seconds(
    costs: LaunchCosts, kernel_s: ArrayLike, *, in_graph: bool = True, includes_gap: bool = True
) -> Floats:
    """Time that a kernel takes in a chain of them, launch included.

    Parameters
    ----------
    costs : LaunchCosts
    kernel_s : array_like
        Time on the device.
    in_graph : bool
        Whether a CUDA graph replays the chain.
    includes_gap : bool
        Whether `kernel_s` was measured in a replayed graph, so that the gap is inside.

    Examples
    --------
    >>> costs = LaunchCosts(graph_gap_s=1e-6, host_s=2e-5)
    >>> launched_seconds(costs, [4e-6, 4e-5], in_graph=False).tolist()
    [2e-05, 4e-05]
    >>> launched_seconds(costs, 4e-6, includes_gap=False).round(9).tolist()
    5e-06
    """
    kernel = np.asarray(kernel_s, float)
    if not in_graph:
        return np.maximum(kernel, costs.host_s)
    return kernel if includes_gap else kernel + costs.graph_gap_s
