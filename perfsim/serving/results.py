"""What a service felt like: latencies, throughput, goodput, and what its replicas did."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim import html
from perfsim.errors import Faults, SimulationError
from perfsim.serving import frames
from perfsim.serving.goodput import Goodput, goodput_of
from perfsim.serving.outcome import Outcome
from perfsim.serving.requests import Requests
from perfsim.serving.run import Service, run_service
from perfsim.units import format_seconds, seconds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["OverloadError", "ServeResult", "serve_requests"]

_PERCENTILES = (50, 90, 95, 99)
_MOST_ROWS = 5_000_000


class OverloadError(SimulationError):
    """A load does not drain within the time that it was given.

    Attributes
    ----------
    partial : ServeResult
        What came of the requests until then; those without an end have NaN.
    """

    def __init__(self, message: str, partial: ServeResult) -> None:
        super().__init__(message)
        self.partial = partial


def serve_requests(
    service: Service,
    requests: Requests,
    *,
    simulator: str = "compiled",
    skip: bool = True,
    limit_s: float | None = None,
) -> ServeResult:
    """Serve requests and keep what came of each.

    Parameters
    ----------
    service, requests, simulator, skip
        As for `perfsim.serving.run.run_service`.
    limit_s : float, optional
        When all requests must have ended, in simulated seconds.

    Returns
    -------
    ServeResult

    Raises
    ------
    InputError
        The service can never serve some of the requests.
    OverloadError
        Requests are left at `limit_s`; the error carries the partial result.

    Examples
    --------
    >>> from perfsim.serving.costs import RooflineCosts
    >>> from perfsim.serving.policies import Engine
    >>> from perfsim.serving.traffic import ClosedLoop
    >>> traffic = ClosedLoop(concurrency=8, prompt_tokens=1024, output_tokens=128)
    >>> result = serve_requests(Service.of(RooflineCosts(), Engine("trtllm")), traffic.requests())
    >>> result.requests.shape[0], bool(0 < result.tpot_s < result.ttft_s)
    (80, True)
    """
    outcome = run_service(service, requests, simulator=simulator, skip=skip, limit_s=limit_s)
    result = ServeResult(service, requests, outcome, simulator, limit_s)
    left = int((outcome.finish_ps < 0).sum())
    if left:
        message = (
            f"the load does not drain: {left:,} of {len(requests):,} requests have not ended after "
            f"{limit_s:g} s, {result.queue_at_end:,} of them never began; send fewer, add replicas, or raise the limit"
        )
        raise OverloadError(message, result)
    return result


@dataclass(frozen=True, eq=False)
class ServeResult:
    """What a simulation of a service found; everything beyond the times is derived when it is asked for.

    Means are over the requests that ended, that of TTFT over those with a first token. TTFT is the time from sending a
    request to its first token, TPOT the rest of its latency over its further tokens; requests of one token have no
    TPOT.

    Attributes
    ----------
    service : Service
    sent : Requests
    outcome : Outcome
        Times of every request in picoseconds.
    simulator : str
        ``compiled`` or ``simpy``.
    limit_s : float or None
        When the simulation was to stop.
    """

    service: Service
    sent: Requests
    outcome: Outcome = field(repr=False)
    simulator: str = "compiled"
    limit_s: float | None = None

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row a request; see `perfsim.serving.frames.requests_frame`."""
        return frames.requests_frame(self.sent, self.outcome, self.service)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row a step; see `perfsim.serving.frames.steps_frame`. The run is repeated to note them.

        Of more than five million steps, those that follow each other and are alike share a row.
        """
        return frames.steps_frame(self.log(_MOST_ROWS), self.service)

    def log(self, most_rows: int) -> NDArray[Any]:
        """Records of the steps, or of runs of them that are alike where there are more than `most_rows`.

        See ``perfsim.serving.world.STEP``. The run is repeated to note them, unless it has noted them already.
        """
        log = self.outcome.log
        if log is None:
            skip = bool(self.outcome.steps.sum() > most_rows)
            log = run_service(self.service, self.sent, skip=skip, log=True, limit_s=self.limit_s).log
        if log is None:
            raise NotImplementedError  # an engine that was asked for a log gives one
        return log

    @cached_property
    def replicas(self) -> pd.DataFrame:
        """One row an engine, of which a replica has one for each lane; see `perfsim.serving.frames.replicas_frame`."""
        return frames.replicas_frame(self.outcome, self.service, self.makespan_s)

    @cached_property
    def _ended(self) -> NDArray[np.bool_]:
        return self.outcome.finish_ps >= 0

    @cached_property
    def _ttft_s(self) -> NDArray[np.float64]:
        return frames.span_s(self.outcome.sent_ps, self.outcome.first_ps)

    @cached_property
    def _tpot_s(self) -> NDArray[np.float64]:
        return frames.tpot_s(self.sent, self.outcome)

    @property
    def ttft_s(self) -> float:
        """Mean time to the first token."""
        return _mean(self._ttft_s)

    @property
    def tpot_s(self) -> float:
        """Mean over requests of the time per further token."""
        return _mean(self._tpot_s)

    @property
    def latency_s(self) -> float:
        """Mean time from sending a request to its last token."""
        return _mean(frames.span_s(self.outcome.sent_ps, self.outcome.finish_ps))

    @cached_property
    def makespan_s(self) -> float:
        """From the first request that is sent to the last token, or to the limit where requests are left at it."""
        start_ps = self.outcome.sent_ps[0]
        if self.limit_s is not None and not self._ended.all():
            return max(self.limit_s - float(seconds(start_ps)), 0.0)
        return float(seconds(self.outcome.finish_ps.max() - start_ps))

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of the requests that ended, over the makespan."""
        return self._rate(int(self.sent.output_tokens[self._ended].sum()))

    @property
    def requests_per_s(self) -> float:
        """Requests that ended, over the makespan."""
        return self._rate(int(self._ended.sum()))

    def _rate(self, count: int) -> float:
        return count / self.makespan_s if count else 0.0

    @property
    def queue_at_end(self) -> int:
        """Requests that were sent and that no step has taken."""
        return int(((self.outcome.admitted_ps < 0) & (self.outcome.sent_ps >= 0)).sum())

    def percentiles(self, percent: ArrayLike = _PERCENTILES) -> pd.DataFrame:
        """Percentiles of TTFT, TPOT and latency, in seconds; one row a percentage."""
        columns = {
            "ttft_s": self._ttft_s, "tpot_s": self._tpot_s,
            "latency_s": frames.span_s(self.outcome.sent_ps, self.outcome.finish_ps),
        }  # fmt: skip
        return frames.percentiles_frame(columns, percent)

    def goodput(
        self, *, ttft_s: float | None = None, tpot_s: float | None = None, latency_s: float | None = None
    ) -> Goodput:
        """How much of the load meets objectives of the service level.

        Parameters
        ----------
        ttft_s, tpot_s, latency_s : float, optional
            The most that each request may take; what is left out has no limit. A request of one token meets any TPOT.

        Returns
        -------
        Goodput
            Its ``finding`` says in words when nothing meets them.

        Raises
        ------
        InputError
            A limit is not above 0, or there is none.
        """
        return goodput_of(self.percentile_columns, self.makespan_s, ttft_s=ttft_s, tpot_s=tpot_s, latency_s=latency_s)

    @cached_property
    def percentile_columns(self) -> dict[str, NDArray[np.float64]]:
        """TTFT, TPOT and latency of each request, NaN where there is none."""
        return {
            "ttft_s": self._ttft_s, "tpot_s": np.where((self.sent.output_tokens == 1) & self._ended, 0.0, self._tpot_s),
            "latency_s": frames.span_s(self.outcome.sent_ps, self.outcome.finish_ps),
        }  # fmt: skip

    @property
    def drains(self) -> bool:
        """Whether an open load is served as fast as it comes; a closed one always is.

        The wait for the first step must not grow by more than a tenth of a second each second, as a straight line fits
        it; where requests come twice as fast as they are served, it grows by one half.
        """
        return frames.drains(self.sent, self.outcome)

    @property
    def most_kv_share(self) -> float:
        """Most of the KV cache of any replica that was in use at once; NaN where no cache has a limit."""
        return frames.most_kv_share(self.outcome, self.service)

    @cached_property
    def findings(self) -> tuple[str, ...]:
        """What stands out, in plain words."""
        return frames.findings(self.sent, self.outcome, self.service)

    @property
    def summary(self) -> pd.Series:
        """The main figures."""
        import pandas as pd

        tail = self.percentiles((99,)).loc[99]
        return pd.Series(
            {
                "requests": len(self.sent), "ttft_s": self.ttft_s, "ttft_p99_s": tail["ttft_s"], "tpot_s": self.tpot_s,
                "tpot_p99_s": tail["tpot_s"], "latency_s": self.latency_s, "tokens_per_s": self.tokens_per_s,
                "requests_per_s": self.requests_per_s, "makespan_s": self.makespan_s,
                "utilization": float(self.replicas["utilization"].mean()),
                "preemptions": int(self.outcome.preemptions.sum()), "drains": self.drains,
            },
            dtype=object, name="service",
        )  # fmt: skip

    def plot_latencies(self, ax: Axes | None = None) -> Axes:
        """Draw how TTFT, TPOT and latency are distributed."""
        from perfsim.serving.plots import plot_latencies

        return plot_latencies(self.percentile_columns, ax)

    def plot_steps(
        self, ax: Axes | None = None, *, replica: int = 0, lane: int = 0, start_s: float = 0.0,
        end_s: float | None = None,
    ) -> Axes:  # fmt: skip
        """Draw what each step of a replica, or of one of its lanes, holds: prompts and decodes."""
        from perfsim.serving.plots import plot_steps

        return plot_steps(self._steps_of(lane), ax, replica=replica, start_s=start_s, end_s=end_s)

    def plot_kv(self, ax: Axes | None = None, *, replica: int = 0, lane: int = 0) -> Axes:
        """Draw the KV cache of a replica, or the part of one of its lanes, over time, and its queue."""
        from perfsim.serving.plots import plot_kv

        return plot_kv(self._steps_of(lane), ax, replica=replica)

    def _steps_of(self, lane: int) -> pd.DataFrame:
        faults = Faults("plot")
        faults.integer("lane", lane, minimum=0, maximum=self.service.lanes - 1)
        faults.raise_if_any()
        return self.steps[self.steps["lane"] == lane]

    def __str__(self) -> str:
        deployment, engine = self.service.deployment, self.service.engines[-1]
        count = f"{deployment.replicas} {'replica' if deployment.replicas == 1 else 'replicas'}"
        lanes = f" of {self.service.lanes} lanes" if self.service.lanes > 1 else ""
        pools = f"{deployment.prefill_replicas} for prompts and " if deployment.prefill_replicas else ""
        return "\n".join(
            [
                f"{len(self.sent):,} requests on {pools}{count}{lanes} of {engine.policy}, {deployment.router}, "
                f"in {format_seconds(self.makespan_s)}",
                f"TTFT {format_seconds(self.ttft_s)}, TPOT {format_seconds(self.tpot_s)}, "
                f"{self.tokens_per_s:,.0f} tokens/s, {self.requests_per_s:,.4g} requests/s",
                *self.findings,
            ]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        title, figures, *_ = str(self).splitlines()
        summary = html.facts((name, html.quantity(name, value)) for name, value in self.summary.items())
        return html.card(title, figures, summary, html.frame(self.percentiles()), html.notes(self.findings))


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the numbers that are there, NaN where there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
