"""The figures of a served load that studies put in tables: one row a load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from perfsim.errors import Faults
from perfsim.serving.results import ServeResult
from perfsim.serving.scenario_costs import ScenarioCosts

__all__ = ["OBJECTIVES", "SERVED", "SERVED_FIGURES", "check_objectives", "num_gpus", "served_figures"]

OBJECTIVES = ("ttft_s", "tpot_s", "latency_s")
"""What a service level may limit, in the order of the columns."""

_PERCENT = (50, 90, 99)
_TIMES = tuple(
    name for objective in OBJECTIVES
    for name in (objective, *(f"{objective.removesuffix('_s')}_p{percent}_s" for percent in _PERCENT))
)  # fmt: skip

SERVED_FIGURES = (
    *_TIMES, "tokens_per_s", "tokens_per_s_per_gpu", "completed_requests_per_s", "goodput_requests_per_s",
    "goodput_share", "most_kv_share", "preemptions", "gpus", "makespan_s",
)  # fmt: skip
SERVED = (*SERVED_FIGURES, "drains", "fits", "reason")
"""Columns that follow those of the axes."""


def check_objectives(faults: Faults, objectives: Mapping[str, float | None]) -> dict[str, float]:
    """Give the objectives that are set, and record those that are no times."""
    given = {name: limit for name, limit in objectives.items() if limit is not None}
    return {name: limit for name, limit in given.items() if faults.number(name, limit)}


def served_figures(result: ServeResult, objectives: Mapping[str, float]) -> dict[str, Any]:
    """Give the figures of a load, by the names in `SERVED`.

    Parameters
    ----------
    result : ServeResult
    objectives : mapping of str to float
        Limits of ``ttft_s``, ``tpot_s`` and ``latency_s``; goodput is NaN where there is none.

    Examples
    --------
    >>> from perfsim.serving.costs import RooflineCosts
    >>> from perfsim.serving.policies import Engine
    >>> from perfsim.serving.results import serve_requests
    >>> from perfsim.serving.run import Service
    >>> from perfsim.serving.traffic import ClosedLoop
    >>> traffic = ClosedLoop(concurrency=8, prompt_tokens=1024, output_tokens=128)
    >>> figures = served_figures(serve_requests(Service.of(RooflineCosts(), Engine()), traffic.requests()), {})
    >>> figures["drains"], figures["ttft_p50_s"] <= figures["ttft_p99_s"]
    (True, True)
    """
    spread = result.percentiles(_PERCENT)
    means = {"ttft_s": result.ttft_s, "tpot_s": result.tpot_s, "latency_s": result.latency_s}
    times = [value for name in OBJECTIVES for value in (means[name], *spread[name].tolist())]
    goodput = result.goodput(**objectives) if objectives else None
    gpus, drains = num_gpus(result), result.drains
    return {
        **dict(zip(_TIMES, times, strict=True)),
        "tokens_per_s": result.tokens_per_s,
        "tokens_per_s_per_gpu": result.tokens_per_s / gpus,
        "completed_requests_per_s": result.requests_per_s,
        "goodput_requests_per_s": goodput.requests_per_s if goodput else np.nan,
        "goodput_share": goodput.share if goodput else np.nan,
        "most_kv_share": result.most_kv_share,
        "preemptions": float(result.outcome.preemptions.sum()),
        "gpus": gpus,
        "makespan_s": result.makespan_s,
        "drains": drains,
        "fits": True,
        "reason": "" if drains else "does not drain: requests come faster than they are served",
    }


def num_gpus(result: ServeResult) -> float:
    """Count the GPUs of all replicas; NaN where the costs are not those of a scenario."""
    costs, deployment = result.service.tables.costs[0], result.service.deployment
    if not isinstance(costs, ScenarioCosts):
        return np.nan
    plan = costs.scenario.plan
    of_one = plan.num_devices // plan.data * costs.ranks_in_step
    return float(of_one * (deployment.replicas + deployment.prefill_replicas))
