"""How much of a load meets its objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import Faults
from perfsim.units import format_seconds

__all__ = ["Goodput", "goodput_of"]


@dataclass(frozen=True)
class Goodput:
    """What meets the objectives.

    Attributes
    ----------
    requests_per_s : float
        Requests that meet all objectives, over the makespan.
    share : float
        Of all requests.
    share_of_each : dict
        Share of the requests that meets each objective by itself.
    finding : str
        Which objective nothing meets, and what came nearest; empty when something meets all of them.
    """

    requests_per_s: float
    share: float
    share_of_each: dict[str, float]
    finding: str = ""

    def __float__(self) -> float:
        return self.requests_per_s


def goodput_of(
    columns: Mapping[str, NDArray[np.float64]], makespan_s: float, *, ttft_s: float | None, tpot_s: float | None,
    latency_s: float | None,
) -> Goodput:  # fmt: skip
    """Count the requests that meet objectives.

    Parameters
    ----------
    columns : mapping
        ``ttft_s``, ``tpot_s`` and ``latency_s`` of each request; NaN, which meets nothing, where it has not ended.
    makespan_s : float
    ttft_s, tpot_s, latency_s : float, optional
        The objectives.

    Examples
    --------
    >>> columns = {"ttft_s": np.array([0.1, 0.4]), "tpot_s": np.array([0.02, 0.02])}
    >>> goodput_of(columns, 10.0, ttft_s=0.2, tpot_s=0.05, latency_s=None).share
    0.5
    >>> goodput_of(columns, 10.0, ttft_s=0.01, tpot_s=None, latency_s=None).finding
    'no request meets ttft_s <= 10 ms: the fastest takes 100 ms'
    """
    asked = {"ttft_s": ttft_s, "tpot_s": tpot_s, "latency_s": latency_s}
    limits = {name: limit for name, limit in asked.items() if limit is not None}
    faults = Faults("goodput")
    if not limits:
        faults.add("ttft_s, tpot_s, latency_s", None, "must have at least one objective")
    for name, limit in limits.items():
        faults.number(name, limit)
    faults.raise_if_any()
    met = {name: columns[name] <= limit for name, limit in limits.items()}
    together = np.logical_and.reduce(list(met.values()))
    return Goodput(
        requests_per_s=float(together.sum() / makespan_s) if makespan_s else 0.0,
        share=float(together.mean()),
        share_of_each={name: float(each.mean()) for name, each in met.items()},
        finding="" if together.any() else _why_nothing(columns, limits, met),
    )


def _why_nothing(
    columns: Mapping[str, NDArray[np.float64]], limits: Mapping[str, float], met: Mapping[str, NDArray[np.bool_]]
) -> str:
    """Say in words why no request meets the objectives."""
    if all(np.isnan(columns[name]).all() for name in limits):
        return "no request has ended"
    hopeless = [
        f"{name} <= {format_seconds(limits[name])}: the fastest takes {format_seconds(float(np.nanmin(columns[name])))}"
        for name, each in met.items()
        if not each.any()
    ]
    if hopeless:
        return f"no request meets {'; nor '.join(hopeless)}"
    shares = ", ".join(f"{name} by {each.mean():.1%}" for name, each in met.items())
    return f"no request meets all objectives together: {shares}"
