"""What the page of a served load says in words and figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from perfsim.html import quantity
from perfsim.serving.cards import field_texts
from perfsim.serving.results import ServeResult
from perfsim.serving.scenario_costs import ScenarioCosts
from perfsim.spec.scenario import Scenario
from perfsim.study.explain import explain
from perfsim.study.page.words import Fact
from perfsim.units import format_seconds

__all__ = ["Inputs", "facts", "findings", "heading", "inputs", "percentiles", "title", "verdict"]

_PERCENT = (50, 90, 95, 99)
_NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "latency"}


class Inputs(NamedTuple):
    """A part of what was simulated: names and values."""

    name: str
    rows: list[tuple[str, str]]


def title(result: ServeResult) -> str:
    """Name a load by the model, or by its engine where the costs are not those of a model."""
    scenario, policy = _scenario(result), result.service.engines[-1].policy
    return f"{scenario.model.name} served by {policy}, {scenario.plan.label}" if scenario else f"served by {policy}"


def heading(result: ServeResult) -> str:
    """Say in a line what was simulated."""
    first, *_ = str(result).splitlines()
    return first


def facts(result: ServeResult) -> list[Fact]:
    """Give the figures of the summary."""
    tail = result.percentiles((99,)).loc[99]
    queue_s = result.requests["queue_s"].mean()
    ended = int(result.requests["finish_s"].notna().sum())
    share, preempted = result.most_kv_share, int(result.outcome.preemptions.sum())
    return [
        Fact("TTFT", format_seconds(result.ttft_s), f"mean; 99 % within {format_seconds(tail['ttft_s'])}"),
        Fact("TPOT", format_seconds(result.tpot_s), f"mean; 99 % within {format_seconds(tail['tpot_s'])}"),
        Fact("Latency", format_seconds(result.latency_s), f"mean; 99 % within {format_seconds(tail['latency_s'])}"),
        Fact("Throughput", f"{result.tokens_per_s:,.0f}", "output tokens per second"),
        Fact("Requests", f"{result.requests_per_s:,.4g}", f"per second; {ended:,} of {len(result.sent):,} ended"),
        Fact("Waiting", format_seconds(queue_s), "from sending to the first step, on the mean"),
        Fact("Busy", f"{result.replicas['utilization'].mean():.1%}", "of the time, on the mean over replicas"),
        Fact("KV cache", "no limit" if np.isnan(share) else f"{share:.1%}", f"at most; {preempted:,} preemptions"),
    ]


def verdict(result: ServeResult) -> str:
    """Say whether the load is served as fast as it comes."""
    if result.drains:
        return "The load drains: requests are served as fast as they come."
    return f"The load does NOT drain: {result.findings[0].partition(': ')[2]}."


def findings(result: ServeResult) -> list[str]:
    """Say what bounds the service and what would help; of a load that was cut short, what stands out."""
    if (result.outcome.finish_ps < 0).any():
        return list(result.findings)
    return [str(finding) for finding in explain(result).findings]


def percentiles(result: ServeResult) -> list[tuple[str, list[str]]]:
    """Write a row for each kind of latency: mean, percentiles, and the longest."""
    table = result.percentiles((*_PERCENT, 100))
    means = {name: getattr(result, name) for name in _NAMES}
    return [
        (_NAMES[name], [quantity(name, value) for value in (means[name], *table[name])])
        for name in _NAMES
    ]  # fmt: skip


def inputs(result: ServeResult) -> list[Inputs]:
    """List what was simulated: scenario, traffic, engines with their hosts, deployment."""
    service, scenario = result.service, _scenario(result)
    parts = [Inputs("Scenario", _of_scenario(scenario) if scenario else [("costs", str(service.tables.costs[0]))])]
    parts.append(Inputs("Traffic", list(_of_traffic(result))))
    alike = service.engines[0] == service.engines[-1]
    for number, engine in enumerate(service.engines[:1] if alike else service.engines):
        pool = "" if alike else " of prompts" if number == 0 else " of decodes"
        parts.append(Inputs(f"Engine{pool}", list(field_texts(engine.resolved, without=["times"]))))
        parts.append(Inputs(f"Its host{pool}", list(field_texts(engine.host))))
    parts.append(Inputs("Deployment", list(field_texts(service.deployment))))
    return parts


def _scenario(result: ServeResult) -> Scenario | None:
    costs = result.service.tables.costs[-1]
    return costs.scenario if isinstance(costs, ScenarioCosts) else None


def _of_scenario(scenario: Scenario) -> list[tuple[str, str]]:
    cluster, plan = scenario.cluster, scenario.plan
    return [
        ("cluster", cluster.title or cluster.name),
        ("kernels", cluster.kernels or "documented efficiencies"),
        ("model", scenario.model.name),
        ("plan", f"{plan.label}, {plan.num_devices:,} GPUs"),
        ("data type", scenario.dtype),
        ("KV data type", scenario.kv_dtype),
    ]


def _of_traffic(result: ServeResult) -> Iterator[tuple[str, str]]:
    sent = result.sent
    yield "requests", f"{len(sent):,}"
    if sent.concurrency is not None:
        yield "concurrency", f"{sent.concurrency:,}"
    else:
        span_s = float(sent.arrival_s[-1] - sent.arrival_s[0])
        yield "arrivals", f"{(len(sent) - 1) / span_s:,.4g} per second" if span_s else "all at once"
    yield "prompt tokens", _range(sent.prompt_tokens)
    yield "output tokens", _range(sent.output_tokens)
    shares = (sent.prefix_id >= 0) & (sent.prefix_tokens > 0)
    if shares.any():
        yield (
            "shared prefixes",
            f"{len(set(sent.prefix_id[shares].tolist())):,}, in {shares.mean():.1%} of the requests",
        )


def _range(tokens: Any) -> str:
    return f"{tokens.min():,} to {tokens.max():,}, mean {tokens.mean():,.1f}"
