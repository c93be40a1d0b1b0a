"""The largest load that meets a service level, by bracketing and bisection over whole simulations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from perfsim.errors import Fault, Faults
from perfsim.serving.deployment import Deployment
from perfsim.serving.policies import Engine
from perfsim.serving.results import ServeResult, serve_requests
from perfsim.serving.run import Service
from perfsim.serving.serve import check_parts
from perfsim.serving.services import Services
from perfsim.serving.traffic import ClosedLoop, OpenLoop
from perfsim.spec.scenario import Scenario
from perfsim.study.load_result import MaxLoad, UnmetError, load_text
from perfsim.study.serving_figures import check_objectives, served_figures
from perfsim.units import MAX_SIZE, format_seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["largest_load", "max_load"]

Traffic = ClosedLoop | OpenLoop

_AT_MOST = {"concurrency": 10_000, "requests_per_s": 100_000.0}
_LONGEST_S = 1e6  # of a load: requests still farther apart would soon be more seconds than times can count


def max_load(
    scenario: Scenario, traffic: Traffic, engine: Engine, *, ttft_s: float | None = None, tpot_s: float | None = None,
    latency_s: float | None = None, share: float = 0.99, deployment: Deployment | None = None,
    tolerance: float = 0.01, at_most: float | None = None,
) -> MaxLoad:  # fmt: skip
    """Find the largest concurrency or request rate that meets a service level.

    A load meets it where at least `share` of the requests meet all objectives at once, as ``ServeResult.goodput``
    counts, and the load drains.

    Parameters
    ----------
    scenario : Scenario
    traffic : ClosedLoop or OpenLoop
        Its `concurrency` or `requests_per_s` is varied, from the value that it has; everything else stays, the seed
        too. A closed loop without `num_requests` sends ten requests for each client. Where all of its clients begin at
        once (`ramp_s` is 0) their first prompts wait for each other, and a TTFT that few may miss is that of this cold
        start: give `ramp_s`.
    engine : Engine
    ttft_s, tpot_s, latency_s : float, optional
        The objectives, at least one.
    share : float
        Of the requests.
    deployment : Deployment, optional
        As many replicas as the plan has when left out.
    tolerance : float
        Of rates: how far above the rate the next one may be that does not meet, as a share of it. Concurrency is exact.
    at_most : float, optional
        The largest load that is tried: 10,000 clients, no more than there are requests, or 100,000 requests a second
        when left out.

    Returns
    -------
    MaxLoad
        It shows itself; ``table`` has all loads that were tried.

    Raises
    ------
    UnmetError
        Nothing meets the service level: one client misses it; or too many requests that no other is in the way of; or
        bursts so dense that no rate thins them out within 11 days. It carries the table of what was tried.
    InputError
        An argument is of another kind or there is no objective, or the engine can never serve a request.

    Notes
    -----
    The load is doubled or halved until one meets and one misses, then the interval is halved: by whole numbers, rates
    at their geometric mean. Guaranteed: the load meets, and the next one (concurrency + 1, or a rate at most
    `tolerance` above) misses. Where a load that meets never stands above one that misses, this is the largest of all.
    It need not be so, because other loads send other requests at other times and batches fill differently: then a
    load still larger may meet again. `perfsim.sweep` shows all of them.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.Scenario(
    ...     perfsim.load_cluster("dgx-h100"), perfsim.load_model("llama-3.1-70b"), perfsim.Plan(tensor=8),
    ...     perfsim.Workload())
    >>> traffic = perfsim.ClosedLoop(concurrency=8, prompt_tokens=1024, output_tokens=64, num_requests=200)
    >>> found = perfsim.max_load(scenario, traffic, perfsim.Engine("trtllm"), tpot_s=0.02)
    >>> found.name, found.next_load == found.load + 1, found.binding
    ('concurrency', True, 'tpot_s')
    """
    faults = Faults("max_load")
    check_parts(faults, scenario, traffic, engine, deployment)
    if not isinstance(traffic, Traffic):
        faults.add(
            "traffic", traffic, "must be a ClosedLoop or an OpenLoop", "of a trace, sweep its speed: traffic.speed"
        )
    objectives = check_objectives(faults, {"ttft_s": ttft_s, "tpot_s": tpot_s, "latency_s": latency_s})
    if not objectives and not faults.found:
        faults.add("ttft_s, tpot_s, latency_s", None, "must have at least one objective")
    faults.number("share", share, at_most=1.0)
    faults.number("tolerance", tolerance, at_most=1.0)
    if at_most is not None and isinstance(traffic, ClosedLoop):
        faults.integer("at_most", at_most, maximum=MAX_SIZE)
    elif at_most is not None:
        faults.number("at_most", at_most, at_most=MAX_SIZE)
    faults.raise_if_any()
    service = Services(scenario).of(engine, deployment)
    return largest_load(service, traffic, objectives, share=share, tolerance=tolerance, at_most=at_most)


def largest_load(
    service: Service, traffic: Traffic, objectives: Mapping[str, float], *, share: float = 0.99,
    tolerance: float = 0.01, at_most: float | None = None,
) -> MaxLoad:  # fmt: skip
    """Do what `max_load` does for a service over any costs; arguments are checked there."""
    name = "concurrency" if isinstance(traffic, ClosedLoop) else "requests_per_s"
    whole = name == "concurrency"
    tried = _Tried(service, traffic, name, objectives, share)
    start = getattr(traffic, name)
    most = _AT_MOST[name] if at_most is None else at_most
    if whole:
        most = int(min(most, traffic.num_requests or most))
    low, high = _bracket(tried, min(start, most), most)
    while high is not None and not _is_narrow(low, high, whole=whole, tolerance=tolerance):
        middle = (int(low) + int(high)) // 2 if whole else math.sqrt(low * high)
        low, high = (middle, high) if tried.meets(middle) else (low, middle)
    binding = "" if high is None else tried.binding(high)
    result = tried.result(low)
    return MaxLoad(name, low, result, dict(objectives), share, tried.table, high, binding)


def _is_narrow(low: float, high: float, *, whole: bool, tolerance: float) -> bool:
    return high - low <= 1 if whole else high <= low * (1 + tolerance)


def _bracket(tried: _Tried, start: float, most: float) -> tuple[float, float | None]:
    """Find a load that meets, and one above that misses, if there is one; they differ by at most a factor of two."""
    low, high = start, start
    if tried.meets(start):
        while low < most:
            high = min(2 * low, most)
            if not tried.meets(high):
                return low, high
            low = high
        return low, None
    while not tried.meets(low):
        high = low
        low = tried.below(low)
    return low, high


class _Tried:
    """The loads that were tried, and what came of them."""

    def __init__(
        self, service: Service, traffic: Traffic, name: str, objectives: Mapping[str, float], share: float
    ) -> None:
        self._service = service
        self._traffic = traffic
        self._name = name
        self._objectives = objectives
        self._share = share
        self._rows: dict[float, dict[str, Any]] = {}
        self._last: tuple[float, ServeResult] | None = None

    def result(self, load: float) -> ServeResult:
        """Serve a load; the last result is kept, the others would take too much memory."""
        if self._last is None or self._last[0] != load:
            traffic = dataclasses.replace(self._traffic, **{self._name: load})  # type: ignore[arg-type]
            self._last = load, serve_requests(self._service, traffic.requests())
        return self._last[1]

    def meets(self, load: float) -> bool:
        """Say whether a load meets the service level, and note its figures."""
        if load not in self._rows:
            figures = served_figures(self.result(load), self._objectives)
            meets = bool(figures["drains"] and figures["goodput_share"] >= self._share)
            self._rows[load] = {self._name: load, **figures, "meets": meets}
        return bool(self._rows[load]["meets"])

    def below(self, load: float) -> float:
        """Give the next smaller load to try after one that misses.

        Raises
        ------
        UnmetError
            There is none that could do better.
        """
        if self._name == "concurrency":
            if load > 1:
                return int(load) // 2
        elif self.result(load).makespan_s < _LONGEST_S and not self._is_hopeless(load):
            return load / 2
        raise self._unmet(load)

    def _is_hopeless(self, load: float) -> bool:
        """Whether too many requests miss although they are alone in the service, as they are at smaller rates too."""
        result = self.result(load)
        sent_ps, finish_ps = result.outcome.sent_ps, result.outcome.finish_ps
        alone = np.ones(len(sent_ps), bool)
        alone[1:] &= sent_ps[1:] >= np.maximum.accumulate(finish_ps)[:-1]
        alone[:-1] &= finish_ps[:-1] <= sent_ps[1:]
        met = [result.percentile_columns[name] <= limit for name, limit in self._objectives.items()]
        missing = alone & ~np.logical_and.reduce(met)
        return bool(missing.mean() > 1 - self._share)

    def binding(self, load: float) -> str:
        """What a load that misses misses."""
        result = self.result(load)
        if not result.drains:
            return "drains"
        shares = result.goodput(**self._objectives).share_of_each
        return min(shares, key=lambda name: shares[name])

    @property
    def table(self) -> pd.DataFrame:
        """One row a load, by rising load."""
        import pandas as pd

        return pd.DataFrame([self._rows[load] for load in sorted(self._rows)])

    def _unmet(self, load: float) -> UnmetError:
        result = self.result(load)
        goodput = result.goodput(**self._objectives)
        shares = ", ".join(
            f"{name} <= {format_seconds(self._objectives[name])} by {share:.1%}"
            for name, share in goodput.share_of_each.items()
        )
        why = goodput.finding or f"only {goodput.share:.1%} of them do, {shares}"
        fault = Fault(
            f"max_load.{', '.join(self._objectives)}", tuple(self._objectives.values()),
            f"nothing meets this for {self._share:.4g} of the requests: even at {load_text(self._name, load)} {why}",
            "allow more time or a smaller share, or serve with more GPUs; the error's table has all loads tried",
        )  # fmt: skip
        return UnmetError((fault,), self.table)
