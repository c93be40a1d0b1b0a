"""Tables of a served load: requests, steps, replicas, percentiles; and what they say in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.errors import Faults
from perfsim.serving.outcome import Outcome
from perfsim.serving.requests import Requests
from perfsim.serving.run import Service
from perfsim.units import format_seconds, picoseconds, seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "drains", "findings", "host_ps", "most_kv_share", "percentiles_frame", "replicas_frame", "requests_frame", "span_s",
    "steps_frame", "tpot_s",
]  # fmt: skip

_GROWTH = 0.1  # seconds by which the wait grows each second where a load does not drain
_NEARLY = 0.98  # of a cache that is full but for a few blocks
_FEWEST = 50  # requests from which on the growth of a queue can be told from chance


def span_s(start_ps: NDArray[np.int64], end_ps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Seconds from one instant to another, NaN where one of them has not come."""
    return np.where((start_ps >= 0) & (end_ps >= 0), seconds(end_ps - start_ps), np.nan)


def tpot_s(requests: Requests, outcome: Outcome) -> NDArray[np.float64]:
    """Seconds for each token after the first; NaN where there is none."""
    further = requests.output_tokens - 1
    return np.where(further > 0, span_s(outcome.first_ps, outcome.finish_ps) / np.maximum(further, 1), np.nan)


def requests_frame(requests: Requests, outcome: Outcome, service: Service) -> pd.DataFrame:
    """One row a request, in the order of sending.

    ======================== ========================================================================
    ``sent_s``               When its client sent it.
    ``admitted_s``           When a step first took it.
    ``first_token_s``        When its first token was out.
    ``finish_s``             When its last one was.
    ``prompt_tokens``        Tokens of the prompt.
    ``output_tokens``        Tokens generated.
    ``cached_tokens``        Tokens of the prompt that a prefix cache held.
    ``preemptions``          How often it was sent back to the queue.
    ``replica, lane``        Where it decoded; -1 where it never came.
    ``prefill_replica``      Where its prompt was computed.
    ``queue_s``              From sending to its first step.
    ``ttft_s``               From sending to its first token.
    ``tpot_s``               For each token after the first.
    ``latency_s``            From sending to its last token.
    ======================== ========================================================================
    """
    import pandas as pd

    times = {"sent_s": outcome.sent_ps, "admitted_s": outcome.admitted_ps, "first_token_s": outcome.first_ps}
    times["finish_s"] = outcome.finish_ps
    prefilled, lanes = outcome.prefill_replica, service.lanes
    return pd.DataFrame(
        {
            **{name: span_s(np.zeros_like(column), column) for name, column in times.items()},
            "prompt_tokens": requests.prompt_tokens,
            "output_tokens": requests.output_tokens,
            "cached_tokens": outcome.cached_prompt_tokens,
            "preemptions": outcome.preemptions,
            "replica": outcome.replica // lanes,
            "lane": np.where(outcome.replica >= 0, outcome.replica % lanes, -1),
            "prefill_replica": np.where(prefilled >= 0, prefilled, outcome.replica) // lanes,
            "queue_s": span_s(outcome.sent_ps, outcome.admitted_ps),
            "ttft_s": span_s(outcome.sent_ps, outcome.first_ps),
            "tpot_s": tpot_s(requests, outcome),
            "latency_s": span_s(outcome.sent_ps, outcome.finish_ps),
        }
    ).rename_axis("request")


def steps_frame(log: NDArray[Any], service: Service) -> pd.DataFrame:
    """One row a step, by time.

    ===================== ===========================================================================
    ``replica, lane``     Which engine: a replica has one for each batch on its way through its stages.
    ``start_s, end_s``    When.
    ``steps``             How many steps the row stands for: 1, or a run of decode steps that are alike.
    ``decodes``           Sequences that got a token by decoding.
    ``context_tokens``    Keys that these saw, all together; in a run, in its first step.
    ``prompts``           Prompts of which the step computed tokens.
    ``prompt_tokens``     How many.
    ``running``           Sequences that decoded or waited for prompts to pass.
    ``waiting``           Requests in the queue as the step ended.
    ``kv_blocks``         Blocks in use as the step ended, before requests left.
    ``kv_share``          Of the cache; NaN where it has no limit.
    ``host_s``            Time of the engine's host in it.
    ===================== ===========================================================================
    """
    import pandas as pd

    log = log[np.lexsort((log["replica"], log["start"]))]
    columns = {
        "steps": "steps",
        "sequences": "decodes",
        "context": "context_tokens",
        "chunks": "prompts",
    }
    columns |= {"tokens": "prompt_tokens", "running": "running", "waiting": "waiting", "used_blocks": "kv_blocks"}
    frame = pd.DataFrame({new: log[old] for old, new in columns.items()})
    placed = {"replica": log["replica"] // service.lanes, "lane": log["replica"] % service.lanes}
    placed |= {"start_s": seconds(log["start"]), "end_s": seconds(log["end"])}
    for place, (name, column) in enumerate(placed.items()):
        frame.insert(place, name, column)
    frame["kv_share"] = log["used_blocks"] / _limits(service)[log["replica"]]
    frame["host_s"] = seconds(host_ps(log, service))
    return frame.rename_axis("step")


def host_ps(log: NDArray[Any], service: Service) -> NDArray[np.int64]:
    """Give the time that the engine's host takes of each row of a log, in picoseconds."""
    from perfsim.serving.world import rules_of  # needs Numba

    rules = [
        rules_of(engine, costs.num_layers) for engine, costs in zip(service.engines, service.tables.costs, strict=True)
    ]
    of_row = np.repeat(np.array(rules), _pool_sizes(service))[log["replica"]]
    layers_s = np.where(log["chunks"] > 0, of_row["prefill_layers_s"], of_row["decode_layers_s"])
    step_s = of_row["step_s"] + layers_s + log["sequences"] * of_row["sequence_s"]
    prompts_s = log["tokens"] * of_row["prefill_token_s"] + log["started"] * of_row["prompt_s"]
    return picoseconds(log["steps"] * step_s + prompts_s) + log["moving"]


def _pool_sizes(service: Service) -> list[int]:
    """Engines of each pool."""
    deployment = service.engine_deployment
    return [count for count in (deployment.prefill_replicas, deployment.replicas) if count]


def replicas_frame(outcome: Outcome, service: Service, makespan_s: float) -> pd.DataFrame:
    """One row an engine, of which a replica has one for each of its lanes.

    Replica and lane, pool, steps, busy time, the part of it in steps with prompts, utilization, most blocks.
    """
    import pandas as pd

    apart, busy_s, capacity = service.engine_deployment.prefill_replicas, seconds(outcome.busy_ps), _limits(service)
    number = np.arange(len(busy_s))
    return pd.DataFrame(
        {
            "replica": number // service.lanes,
            "lane": number % service.lanes,
            "pool": np.where(number < apart, "prefill", "decode" if apart else "both"),
            "steps": outcome.steps,
            "busy_s": busy_s,
            "prompt_busy_s": seconds(outcome.prompt_busy_ps),
            "utilization": busy_s / makespan_s if makespan_s else np.nan,
            "most_kv_blocks": outcome.most_blocks,
            "most_kv_share": outcome.most_blocks / capacity,
        }
    ).rename_axis("engine")


def _limits(service: Service) -> NDArray[np.float64]:
    """KV blocks of each engine; NaN where there is no limit."""
    return np.repeat([float(engine.kv_blocks or np.nan) for engine in service.engines], _pool_sizes(service))


def most_kv_share(outcome: Outcome, service: Service) -> float:
    """Most of the KV cache of any replica that was in use at once; NaN where no cache has a limit."""
    shares = outcome.most_blocks / _limits(service)
    return float(np.fmax.reduce(shares))


def percentiles_frame(columns: Mapping[str, NDArray[np.float64]], percent: ArrayLike) -> pd.DataFrame:
    """Percentiles of columns, of the values that are there; one row a percentage."""
    import pandas as pd

    asked, faults = np.atleast_1d(np.asarray(percent, float)), Faults("percentiles")
    wrong = asked[~((asked >= 0) & (asked <= 100))]  # noqa: PLR2004 - percent
    if len(wrong):
        faults.add("percent", wrong[0].item(), "must be from 0 to 100")
    faults.raise_if_any()
    known = {name: column[~np.isnan(column)] for name, column in columns.items()}
    values = {
        name: np.percentile(column, asked) if len(column) else np.full(len(asked), np.nan)
        for name, column in known.items()
    }
    return pd.DataFrame(values, index=pd.Index(asked, name="percent"))


def drains(requests: Requests, outcome: Outcome) -> bool:
    """Say whether an open load is served as fast as it comes; see `ServeResult.drains`."""
    all_ended = bool((outcome.finish_ps >= 0).all())
    sent_s = requests.arrival_s - requests.arrival_s.mean()
    spread = float((sent_s**2).sum())
    if requests.concurrency is not None or len(requests) < _FEWEST or spread == 0.0:
        return all_ended
    end_ps = outcome.finish_ps.max(initial=0)
    wait_s = seconds(np.where(outcome.admitted_ps >= 0, outcome.admitted_ps, end_ps) - np.maximum(outcome.sent_ps, 0))
    return all_ended and float((sent_s * wait_s).sum()) <= _GROWTH * spread


def findings(requests: Requests, outcome: Outcome, service: Service) -> tuple[str, ...]:
    """What stands out in a served load, in plain words."""
    found = []
    if not drains(requests, outcome):
        wait_s = span_s(outcome.sent_ps, outcome.admitted_ps)
        longest = format_seconds(float(np.nanmax(wait_s))) if np.isfinite(wait_s).any() else "for ever"
        found.append(
            "the load does not drain: requests come faster than they are served, and the queue grows until the last "
            f"one; waits reach {longest}"
        )
    preempted = int(outcome.preemptions.sum())
    if preempted:
        share = (outcome.preemptions > 0).mean()
        found.append(
            f"the KV cache is too small for the load: {preempted:,} preemptions, of {share:.1%} of the requests"
        )
    limits = _limits(service)
    full = np.flatnonzero(outcome.most_blocks > _NEARLY * limits)  # NaN, no limit, compares as false
    if len(full) and not preempted:
        replicas = np.unique(full // service.lanes)[:8].tolist()
        found.append(f"the KV cache is full at times, so requests wait for it: replicas {replicas}")
    return tuple(found)
