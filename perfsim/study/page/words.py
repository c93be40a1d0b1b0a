"""What the page says in words and figures: the summary, what was found, and what was checked."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from perfsim.simulation import Result
from perfsim.study.claims import Claim, deployment_claims
from perfsim.study.compare import Comparison
from perfsim.study.explain import explain
from perfsim.units import format_bytes, format_seconds

__all__ = ["Fact", "checks", "claims", "facts", "findings", "heading", "peak_rows", "title", "verdict"]

_ROWS_AT_PEAK = 8
_ELSEWHERE = ("memory", "claims")
"""Topics of an explanation that have places of their own on the page."""
_WAITS = (
    ("ttft_s", "TTFT", "until the first token, on the mean over sequences"),
    ("tpot_s", "TPOT", "between tokens, on the mean over sequences"),
)


class Fact(NamedTuple):
    """One figure of the summary, with a word about it."""

    name: str
    text: str
    note: str = ""


def title(result: Result) -> str:
    """Name a result by its model and its plan."""
    return f"{result.scenario.model.name}, {result.scenario.plan.label}"


def heading(result: Result) -> str:
    """Say in a line what was simulated."""
    first, *_ = str(result).splitlines()
    conditions = f", under {result.conditions}" if result.conditions is not None else ""
    return f"{first}, in {result.scenario.num_microbatches:,} microbatches{conditions}"


def facts(result: Result) -> list[Fact]:
    """Give the figures of the summary."""
    summary = result.summary
    low, high = result.makespan_range_s
    spread = f"80 % range {format_seconds(low)} to {format_seconds(high)}" if low < high else ""
    peak, capacity = result.memory["peak_bytes"].max(), result.memory["capacity_bytes"].min()
    return [
        Fact("Makespan", format_seconds(result.makespan_s), spread),
        Fact("Throughput", f"{result.tokens_per_s:,.0f}", "tokens per second"),
        Fact("First sequence", format_seconds(result.first_sequence_s), "until it has left the last stage"),
        *(Fact(name, format_seconds(summary[key]), note) for key, name, note in _WAITS if key in summary),
        Fact("MFU", f"{result.mfu:.1%}", f"{result.mfu_full_attention:.1%} with all pairs counted"),
        Fact("Idle", f"{result.bubble_fraction:.1%}", "of the makespan, on the mean over GPUs"),
        Fact("Communicating", f"{result.communication_fraction:.1%}", "of the makespan, hidden or not"),
        Fact("Memory", format_bytes(peak), f"of {format_bytes(capacity)} on the fullest GPU"),
    ]


def verdict(result: Result) -> str:
    """Say whether the plan fits, as the first of the findings about memory does."""
    return result.memory_findings[0]


def findings(result: Result) -> list[str]:
    """Say in plain words what bounds the plan and what memory allows."""
    return [*_explanation(result), *result.memory_findings[1:]]


def _explanation(result: Result) -> list[str]:
    """What `perfsim.explain` says, without what the page shows in places of its own."""
    return [str(finding) for finding in explain(result).findings if finding.topic not in _ELSEWHERE]


def checks(result: Result) -> list[Claim]:
    """Give the five checks of the operator graph, with the faults where one fails."""
    return [
        Claim(check.claim, check.passed, "; ".join([check.evidence, *check.faults[:5]]))
        for check in result.dag.verify().checks
    ]


def claims(comparison: Comparison, plan: str) -> list[Claim]:
    """Judge what a deployment claims for itself, without the checks of the graph, which stand by themselves.

    The baseline is what others claim to be faster than, and claims no speed.
    """
    result = comparison[plan]
    if plan == comparison.baseline:
        comparison = Comparison({plan: result}, plan)
    return list(deployment_claims(comparison, plan)[len(result.dag.verify().checks) :])


def peak_rows(result: Result) -> tuple[int, list[tuple[str, str, str]]]:
    """Give the fullest GPU, and what lives there at its peak: what, of which microbatch, bytes."""
    device = int(result.memory["peak_bytes"].idxmax())
    table = result.memory_at_peak(device)
    microbatch = table["microbatch"].map("{:.0f}".format, na_action="ignore").fillna("")
    whole = zip(table["what"].astype(str), microbatch, table["bytes"].map(format_bytes), strict=True)
    rows = list(islice(whole, _ROWS_AT_PEAK))
    rest = table["bytes"].iloc[_ROWS_AT_PEAK:]
    if len(rest):
        rows.append((f"{len(rest)} more", "", format_bytes(rest.sum())))
    return device, rows
