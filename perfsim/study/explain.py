"""A result in plain sentences: what bounds it, where time is lost, what fits, and what would help, with numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from perfsim.cost.unfused_attention import has_fused_kernel, score_bytes, unfused_attention_seconds
from perfsim.errors import Faults
from perfsim.ops.operators import Attention
from perfsim.serving.results import ServeResult
from perfsim.simulation import Result, simulate
from perfsim.study.advice import Option
from perfsim.study.bottlenecks import bound_findings, lost_findings, on_path, origin_findings
from perfsim.study.claims import Claim, deployment_claims
from perfsim.study.compare import Comparison
from perfsim.study.explain_serving import explain_serving
from perfsim.study.explanation import Explanation, Finding
from perfsim.study.rerun import Rerun
from perfsim.study.single_changes import HARDWARE, single_changes
from perfsim.units import format_bytes, format_seconds, seconds

__all__ = ["explain"]

_WORTH_PERCENT = 1.0
"""Change of the makespan below which nothing is said to help."""
_LARGEST = 3
_SHOWN = 0.01


def explain(result: Result | Comparison | ServeResult) -> Explanation:
    """Explain a result, a comparison or a served load in plain sentences.

    Parameters
    ----------
    result : Result, Comparison or ServeResult

    Returns
    -------
    Explanation
        It prints itself. Its ``findings`` are about what bounds the plan, where time is lost, what fits, where the
        times come from, which claims of a deployment hold, and which single change helps most. That of a comparison
        says how the plans compare and which of their claims hold, and has the explanation of each in ``plans``. That of
        a served load speaks of steps, queues, the KV cache and the prefixes in it.

    Raises
    ------
    InputError
        `result` is none of them.

    Notes
    -----
    What helps most is simulated: each number of the hardware 10 % better, and other microbatches, schedules, degrees
    on the same devices and refinements of the plan, one at a time. Only what fits in memory counts. A run under
    conditions is held against one without, because changes are simulated without. Of a service entries of its engine,
    other degrees and routers, and more GPUs are simulated with the same requests (the first 20,000), and judged by the
    mean latency of a request.

    Examples
    --------
    >>> import perfsim
    >>> explanation = perfsim.explain(perfsim.simulate(perfsim.load_scenario("seed-baseline").with_(batch_size=64)))
    >>> print(explanation.about("bound")[0])
    The bubble bounds the plan: the critical path of 29.3 s is 92.8% work of other stages, 4.9% arithmetic, ...
    >>> print(explanation.about("change")[0])
    Of ... single changes that fit in memory schedule=pipelined (microbatches follow each other through the stages)
    helps most: 29.3 s become 2.211 s (-92.5 %).
    """
    faults = Faults("explain")
    if not isinstance(result, Result | Comparison | ServeResult):
        way_out = "make one with perfsim.simulate, perfsim.compare or perfsim.serve"
        faults.add("result", result, "must be of type Result, Comparison or ServeResult", way_out)
    faults.raise_if_any()
    if isinstance(result, ServeResult):
        return explain_serving(result)
    return _comparison(result) if isinstance(result, Comparison) else _result(result)


def _result(result: Result, *, claims: bool = True) -> Explanation:
    scenario = result.scenario
    undisturbed = result if result.conditions is None else simulate(scenario)
    options, operators = single_changes(undisturbed), on_path(result.run)
    findings = [
        *bound_findings(result, operators),
        *lost_findings(result, operators),
        *(Finding("memory", text) for text in result.memory_findings),
        *origin_findings(result, operators),
        *_unfused(undisturbed),
        *(_claims(Comparison({"": result}, ""), "") if claims else ()),
        *_helps_most(undisturbed, options),
    ]
    title = f"{scenario.model.name}, {scenario.plan.label}: {format_seconds(result.makespan_s)}"
    return Explanation(title, tuple(findings), options)


def _comparison(comparison: Comparison) -> Explanation:
    findings = [Finding("comparison", text) for text in comparison.findings]
    for plan in comparison.results:
        if plan != comparison.baseline:
            findings += [*_where_it_went(comparison, plan), *_claims(comparison, plan)]
    plans = {name: _result(result, claims=False) for name, result in comparison.results.items()}
    return Explanation(f"{len(plans)} plans, held against {comparison.baseline}", tuple(findings), plans=plans)


def _where_it_went(comparison: Comparison, plan: str) -> Iterator[Finding]:
    """Say by kind of operator where the time of a GPU differs most."""
    before, after = comparison.time_by_kind.loc[comparison.baseline], comparison.time_by_kind.loc[plan]
    change = after - before
    moved = change[change.abs() >= _SHOWN * before.sum()].sort_values(key=abs, ascending=False, kind="stable")
    words = [
        f"{kind} {'+' if amount > 0 else '-'}{format_seconds(abs(amount))}"
        for kind, amount in moved.head(_LARGEST).items()
    ]
    if words:
        text = f"From {comparison.baseline} to {plan} the time of a GPU changes by {', '.join(words)}."
        yield Finding("comparison", text, {f"{kind}_s": amount for kind, amount in change.items()})


def _claims(comparison: Comparison, plan: str) -> Iterator[Finding]:
    """Say which of the claims of a deployment hold, and by which figures the others fall."""
    claims = deployment_claims(comparison, plan)
    holding = [claim.name for claim in claims if claim.holds]
    whose = f"of {plan} " if plan else ""
    yield Finding(
        "claims",
        f"{len(holding)} of {len(claims)} claims {whose}hold: {'; '.join(holding)}.",
        {"holding": len(holding), "claims": len(claims)},
    )
    yield from (_fallen(claim, whose) for claim in claims if not claim.holds)


def _fallen(claim: Claim, whose: str) -> Finding:
    return Finding("claims", f"This claim {whose}does NOT hold: {claim.name} ({claim.why}).")


def _unfused(result: Result) -> Iterator[Finding]:
    """Put the cost of unfused attention beside that of a fused kernel that nobody has measured."""
    program = result.run.program
    factors = np.ones(program.operator_ps.shape)
    slowest: tuple[float, float, Attention] | None = None
    ratios: dict[int, tuple[float, float, Attention]] = {}
    for graph, (variant, _) in enumerate(program.shown):
        alike = np.equal(program.graph_of, graph)
        for index, operator in enumerate(program.graphs[graph]):
            work, cluster = operator.work, result.scenario.segment(operator.stage)
            if not isinstance(work, Attention) or has_fused_kernel(cluster, work):
                continue
            if id(work) not in ratios:
                fused_s = float(program.prices[index].at(variant).seconds)
                ratios[id(work)] = fused_s, float(unfused_attention_seconds(cluster, work)), work
            fused_s, unfused_s, _ = ratios[id(work)]
            factors[alike, index] = unfused_s / fused_s
            slowest = max(slowest or ratios[id(work)], ratios[id(work)], key=lambda one: one[1])
    if slowest is None:
        return
    fused_s, unfused_s, work = slowest
    durations_ps = np.rint(program.operator_ps * factors).astype(np.int64)
    makespan_s = float(seconds(Rerun(result.run).with_durations(durations_ps).makespan_ps))
    change = 100 * (makespan_s / result.makespan_s - 1)
    yield Finding(
        "provenance",
        f"There is no fused attention kernel for heads of {work.head_dim} in the data: attention is priced as if there "
        f"were, {format_seconds(fused_s)} an execution. Unfused, with {format_bytes(float(score_bytes(work)))} of "
        f"scores passing memory four times, it would take {format_seconds(unfused_s)}, and the plan "
        f"{format_seconds(makespan_s)} ({change:+.1f} %).",
        {"fused_s": fused_s, "unfused_s": unfused_s, "unfused_makespan_s": makespan_s},
    )


def _helps_most(result: Result, options: tuple[Option, ...]) -> Iterator[Finding]:
    """Name the best single change of all, the best of the hardware where another is better, or that none helps."""
    if not options:
        yield Finding("change", "None of the single changes that were simulated fits in memory; see perfsim.advise.")
        return
    best = options[0]
    numbers = {"makespan_s": best.after.makespan_s, "change_percent": best.extra_percent, "options": len(options)}
    if not result.fits:
        text = (
            f"The plan does not fit; of {len(options)} single changes with which it does, {_named(best)} is the "
            f"fastest: {format_seconds(best.after.makespan_s)} and {format_bytes(best.after.peak_bytes)} a GPU."
        )
    elif best.extra_percent > -_WORTH_PERCENT:
        text = (
            f"No single change helps by {_WORTH_PERCENT:g} %: of {len(options)} that fit in memory {_named(best)} is "
            f"the best, with {best.extra_percent:+.1f} %."
        )
    else:
        text = (
            f"Of {len(options)} single changes that fit in memory {_named(best)} helps most: "
            f"{format_seconds(result.makespan_s)} become {format_seconds(best.after.makespan_s)} "
            f"({best.extra_percent:+.1f} %)."
        )
    yield Finding("change", text, numbers)
    of_hardware = best.change.kinds == (HARDWARE,)
    others = [option for option in options if (option.change.kinds == (HARDWARE,)) != of_hardware]
    if others:
        kind = "changes of the plan" if of_hardware else "the hardware's numbers"
        yield Finding(
            "change",
            f"Of {kind} {_named(others[0])} is the best: {others[0].extra_percent:+.1f} %.",
            {"makespan_s": others[0].after.makespan_s, "change_percent": others[0].extra_percent},
        )


def _named(option: Option) -> str:
    """A change in words; one of the hardware is its own reason."""
    return option.reason if option.change.kinds == (HARDWARE,) else f"{option} ({option.reason})"
