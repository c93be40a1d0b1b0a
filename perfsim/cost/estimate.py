"""HOW LONG one execution takes: the estimate, what it is made of, and the speed of light beside it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.launch import LaunchCosts, launched_seconds
from perfsim.ops.operators import Quantity

__all__ = ["CALIBRATED", "EXTRAPOLATED", "ROOFLINE", "Cost", "error_range"]

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
    range_factors : tuple of (float, float) or None
        Factors on `seconds` between which 80 % of the held-back measurements lie; None where nothing was held back.

    Examples
    --------
    >>> cost = Cost(seconds=2.0, compute_s=1.5, overhead_s=0.5, roofline_s=1.9, range_factors=(0.9, 1.25))
    >>> float(cost.low_s), float(cost.high_s)
    (1.9, 2.5)
    """

    seconds: Quantity
    compute_s: Quantity = 0.0
    memory_s: Quantity = 0.0
    network_s: Quantity = 0.0
    overhead_s: Quantity = 0.0
    roofline_s: Quantity = 0.0
    source: str = ROOFLINE
    range_factors: tuple[float, float] | None = None

    @classmethod
    def of_parts(
        cls, seconds: Quantity, *, compute_s: Quantity, memory_s: Quantity, roofline_s: Quantity, **about: Any
    ) -> Cost:
        """Make the cost of a kernel from a form's estimate: never below the speed of light, and parts that add up.

        Compute and memory are capped by the whole, and all that is beyond the longer of the two is overhead.
        """
        total = np.maximum(seconds, roofline_s)
        compute, memory = np.minimum(compute_s, total), np.minimum(memory_s, total)
        overhead = total - np.maximum(compute, memory)
        return cls(total, compute, memory, overhead_s=overhead, roofline_s=roofline_s, **about)

    def issued(self, costs: LaunchCosts, *, in_graph: bool) -> Cost:
        """Give the cost in a chain of operators that the host starts; what that adds is overhead.

        What takes no time is not started.

        Examples
        --------
        >>> cost = Cost(seconds=0.25, memory_s=0.25).issued(LaunchCosts(host_s=1.0), in_graph=False)
        >>> float(cost.seconds), float(cost.overhead_s)
        (1.0, 0.75)
        """
        launched_s = launched_seconds(costs, self.seconds, in_graph=in_graph)
        seconds = np.where(np.equal(self.seconds, 0), 0.0, launched_s)
        return dataclasses.replace(self, seconds=seconds, overhead_s=self.overhead_s + (seconds - self.seconds))

    @property
    def low_s(self) -> Quantity:
        """Lower end of the range that holds 80 % of unseen measurements, in seconds; NaN where none is known."""
        low, _ = self.range_factors or (math.nan, math.nan)
        return np.maximum(self.seconds * low, self.roofline_s)

    @property
    def high_s(self) -> Quantity:
        """Upper end of that range, in seconds; NaN where none is known."""
        _, high = self.range_factors or (math.nan, math.nan)
        return np.maximum(self.seconds * high, self.roofline_s)

    def at(self, index: int) -> Cost:
        """Take one element of every array."""

        def take(part: Quantity) -> float:
            return float(np.ravel(part)[index if np.ndim(part) else 0])

        return self._changed(take)

    def section(self, where: slice, shape: tuple[int, ...]) -> Cost:
        """Take a section of one-dimensional arrays, in a shape of its own; what is no array holds for all."""

        def take(part: Quantity) -> Quantity:
            return np.asarray(part)[where].reshape(shape) if np.ndim(part) else part

        return self._changed(take)

    def _changed(self, change: Callable[[Quantity], Quantity]) -> Cost:
        parts = ("seconds", "compute_s", "memory_s", "network_s", "overhead_s", "roofline_s")
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in parts}
        return dataclasses.replace(self, **changed)

    @property
    def bound(self) -> str | NDArray[np.str_]:
        """The longest part: ``compute``, ``memory``, ``network``, ``overhead``, or ``none`` where all are 0."""
        parts = np.stack(np.broadcast_arrays(self.compute_s, self.memory_s, self.network_s, self.overhead_s))
        names = np.array(["compute", "memory", "network", "overhead"])[parts.argmax(axis=0)]
        bound = np.where(parts.max(axis=0) > 0, names, "none")
        return bound if bound.ndim else str(bound)


def error_range(table: Mapping[str, Any]) -> tuple[float, float] | None:
    """Factors on an estimate between which 80 % of held-back measurements lie, by the ``fit`` of a table.

    Where the table was scored on several devices the widest range counts.

    Examples
    --------
    >>> error_range({"fit": {"errors": {"h100_sxm": {"log_p10": -0.1, "log_p90": 0.2}}}})
    (0.904837418035..., 1.22140275816...)
    """
    scored = [error for error in table.get("fit", {}).get("errors", {}).values() if isinstance(error, Mapping)]
    lows = [error["log_p10"] for error in scored if "log_p10" in error]
    highs = [error["log_p90"] for error in scored if "log_p90" in error]
    return (math.exp(min(lows)), math.exp(max(highs))) if lows and highs else None
