"""HOW LONG one execution takes: the estimate, what it is made of, and the speed of light beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfsim.ops.operators import Quantity

__all__ = ["CALIBRATED", "EXTRAPOLATED", "ROOFLINE", "Cost"]

CALIBRATED, EXTRAPOLATED, ROOFLINE = "calibrated", "extrapolated", "roofline"


@dataclass(frozen=True)
class Cost:
    """The time of one execution of an operator on one device; every quantity may be an array.

    Attributes
    ----------
    seconds : float or array
    compute_s, memory_s, network_s : float or array
        Time that each resource would need by itself. Compute and memory overlap, so the longer one counts.
    overhead_s : float or array
        Fixed time on top.
    roofline_s : float or array
        The speed of light: datasheet peaks, no overhead. Never above `seconds`.
    source : str
        ``calibrated``, ``extrapolated`` (outside of what the coefficients were drawn from) or ``roofline`` (a
        documented fraction of the speed of light).
    """

    seconds: Quantity
    compute_s: Quantity = 0.0
    memory_s: Quantity = 0.0
    network_s: Quantity = 0.0
    overhead_s: Quantity = 0.0
    roofline_s: Quantity = 0.0
    source: str = ROOFLINE

    def at(self, index: int) -> Cost:
        """Take one element of every array."""

        def take(part: Quantity) -> float:
            return float(np.ravel(part)[index if np.ndim(part) else 0])

        return Cost(
            seconds=take(self.seconds),
            compute_s=take(self.compute_s),
            memory_s=take(self.memory_s),
            network_s=take(self.network_s),
            overhead_s=take(self.overhead_s),
            roofline_s=take(self.roofline_s),
            source=self.source,
        )

    @property
    def bound(self) -> str | NDArray[np.str_]:
        """The longest part: ``compute``, ``memory``, ``network``, ``overhead``, or ``none`` where all are 0."""
        parts = np.stack(np.broadcast_arrays(self.compute_s, self.memory_s, self.network_s, self.overhead_s))
        names = np.array(["compute", "memory", "network", "overhead"])[parts.argmax(axis=0)]
        bound = np.where(parts.max(axis=0) > 0, names, "none")
        return bound if bound.ndim else str(bound)
