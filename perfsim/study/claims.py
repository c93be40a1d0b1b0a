"""The claims that a tensor-parallel, pipelined deployment makes against a layer-wise one, each computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from perfsim.memory import hidden_state
from perfsim.report.breakdown import time_by_kind
from perfsim.simulation import Result
from perfsim.study.compare import Comparison
from perfsim.units import format_bytes, format_seconds

__all__ = ["Claim", "deployment_claims"]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes
    ----------
    name : str
    holds : bool
    why : str
        The figures that decide it.
    """

    name: str
    holds: bool
    why: str

    def __str__(self) -> str:
        return f"[{'holds' if self.holds else 'DOES NOT HOLD'}] {self.name}: {self.why}"


def deployment_claims(comparison: Comparison, plan: str) -> tuple[Claim, ...]:
    """Judge what a deployment claims for itself.

    Parameters
    ----------
    comparison : Comparison
    plan : str
        The plan that makes the claims; those of throughput and latency are held against every other plan.

    Returns
    -------
    tuple of Claim
        The five of its verification, and those about speed, balance, on-chip memory, communication and memory.

    Raises
    ------
    InputError
        The comparison has no such plan.
    """
    result = comparison[plan]
    others = {name: other for name, other in comparison.results.items() if name != plan}
    verified = (Claim(check.claim, check.passed, check.evidence) for check in result.dag.verify().checks)
    speed = (
        _faster(result, name, other, measure)
        for measure in ("makespan_s", "first_sequence_s")
        for name, other in others.items()
    )
    return (
        *verified,
        *speed,
        _balance(result),
        _on_chip(result),
        _communication(result),
        _batch(result),
        _cache(result),
    )


_MEASURES = {"makespan_s": "throughput", "first_sequence_s": "latency of the first sequence"}


def _faster(result: Result, name: str, other: Result, measure: str) -> Claim:
    mine, theirs = getattr(result, measure), getattr(other, measure)
    times = f"{format_seconds(mine)} against {format_seconds(theirs)}, {theirs / mine:.2f} times as fast"
    return Claim(f"Better {_MEASURES[measure]} than {name}", bool(mine < theirs), times)


def _balance(result: Result) -> Claim:
    ratio = result.load_balance["busy_over_mean"].max()
    return Claim("Equal busy time on all GPUs", bool(ratio < 1.01), f"max/mean busy time {ratio:.4f} (tolerance 1.01)")  # noqa: PLR2004


def _on_chip(result: Result) -> Claim:
    operators = result.operators
    layer = operators[(operators["layer"] == 0) & (operators["seconds"] > 0)]
    weights, l2_bytes = layer["weight_bytes"].groupby(level="operator").first().sum(), _l2_bytes(result)
    smallest = layer["working_set_bytes"].min()
    why = (
        f"a layer's weight shard takes {format_bytes(weights)} and the smallest working set of its operators "
        f"{format_bytes(smallest)}, L2 has {format_bytes(l2_bytes)}"
    )
    if layer["fits_in_shared_memory"].all():
        why += "; tiles of every operator fit in shared memory"
    return Claim("Layers work out of SRAM and L2", bool(weights <= l2_bytes and layer["fits_in_l2"].all()), why)


def _l2_bytes(result: Result) -> int:
    return result.scenario.cluster.accelerator.l2_bytes


def _communication(result: Result) -> Claim:
    tiers = result.scenario.cluster.tiers
    spans = [operator.work.span for operator in result.dag if operator.op.endswith("all_reduce")]  # type: ignore[union-attr]
    inside = all(len(span) == 1 for span in spans)
    exposed = float(time_by_kind(result.run)[["collective", "transfer"]].sum() / result.makespan_s)
    where = f"all-reduces stay within the {tiers[0].name} domain" if inside else "all-reduces cross domains"
    if not spans:
        where = "there are no all-reduces"
    return Claim("Communication stays inside a stage and is hidden", inside and exposed < 0.05,  # noqa: PLR2004
                 f"{where}; {exposed:.1%} of the makespan is communication with no kernel beside it")  # fmt: skip


def _batch(result: Result) -> Claim:
    hidden = hidden_state(result.dag)
    whole = math.prod(hidden.shape) * hidden.device_bytes // math.prod(hidden.device_shape)
    capacity = result.scenario.cluster.accelerator.memory_bytes
    why = (
        f"one hidden state of the whole batch takes {format_bytes(whole)}, a GPU has {format_bytes(capacity)}; "
        f"in microbatches of {result.scenario.microbatch_size} a GPU needs "
        f"{format_bytes(result.memory['peak_bytes'].max())}"
    )
    return Claim("The whole batch goes through in one piece", whole <= capacity, why)


def _cache(result: Result) -> Claim:
    kept = result.memory["kv_cache_if_kept_bytes"]
    why = f"it takes {format_bytes(kept.max())} a GPU, {format_bytes(kept.sum())} in all"
    return Claim("The KV cache of all tokens can be kept", bool(result.memory["fits_if_kept"].all()), why)
