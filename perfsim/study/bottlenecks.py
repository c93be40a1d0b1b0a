"""What bounds a plan and where its time is lost, in plain sentences: what `explain` reads off one result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from perfsim.cost.estimate import CALIBRATED, EXTRAPOLATED, ROOFLINE
from perfsim.cost.roofline import matrix_peak_flop_per_s
from perfsim.ops.nodes import Operator
from perfsim.report.critical import BUBBLE, CriticalPath
from perfsim.report.lanes import COMMUNICATION, Run
from perfsim.simulation import Result
from perfsim.study.explanation import Finding
from perfsim.units import format_seconds, seconds

__all__ = ["OnPath", "bound_findings", "lost_findings", "on_path", "origin_findings"]

_BOUNDS = {
    "compute": "Compute bounds", "memory": "Memory bandwidth bounds", "network": "The network bounds",
    "overhead": "Overhead bounds", BUBBLE: "The bubble bounds",
}  # fmt: skip
_SPENT = {
    "compute": "arithmetic", "memory": "memory traffic", "network": "network", "overhead": "overhead",
    BUBBLE: "work of other stages",
}  # fmt: skip
_LIMITS = {"compute": "compute", "memory": "memory bandwidth", "network": "the network", "overhead": "overhead"}
_ORIGINS = {
    CALIBRATED: "measured kernels of this device",
    EXTRAPOLATED: "formulas that go beyond what was measured",
    ROOFLINE: "documented fractions of the speed of light",
}
_MATRIX_KINDS = ("matmul", "attention", "experts")
_SHOWN = 0.001
"""Share of the makespan that is worth a word."""
_LARGE = 0.05
_OPERATORS = 3
_UNEVEN = 1.01


@dataclass(frozen=True, eq=False)
class OnPath:
    """What the operators of one name take on the critical path, in one phase of a generation.

    Attributes
    ----------
    name : str
        With the phase, where there are two.
    operator : Operator
        The one of them that takes most.
    seconds, overhead_s, light_s : float
        What all executions take, what of it is overhead, and what they would take at the speed of light.
    executions : int
    bound, source : str
        Of the operator.
    """

    name: str
    operator: Operator
    seconds: float
    overhead_s: float
    light_s: float
    executions: int
    bound: str
    source: str


def on_path(run: Run) -> list[OnPath]:
    """List what takes time on the critical path, most first; together it is the makespan."""
    program, path = run.program, CriticalPath(run)
    spent_s, executions = seconds(path.operator_ps), path.executions
    light_s, overhead_s = np.zeros((2, *executions.shape))
    for index, price in enumerate(program.prices):
        light_s[:, index] = executions[:, index] * price.roofline_s
        overhead_s[:, index] = executions[:, index] * price.overhead_s
    phases = _phases(run)
    members: dict[tuple[str, str], list[int]] = {}
    for index, operator in enumerate(run.operators):
        for phase in phases:
            members.setdefault((operator.op, phase), []).append(index)
    found = []
    for (op, phase), indices in members.items():
        chosen = np.ix_(phases[phase], indices)
        taken_s = spent_s[chosen]
        if not taken_s.any():
            continue
        place, column = np.unravel_index(int(taken_s.argmax()), taken_s.shape)
        variant, index = phases[phase][place], indices[column]
        price = program.prices[index].at(variant)
        found.append(
            OnPath(
                name=f"{op} {phase}".strip(),
                operator=program.graphs[program.graph_of[variant]].operators[index],
                seconds=float(taken_s.sum()),
                overhead_s=float(overhead_s[chosen].sum()),
                light_s=float(light_s[chosen].sum()),
                executions=int(executions[chosen].sum()),
                bound=str(price.bound),
                source=price.source,
            )
        )
    return sorted(found, key=lambda one: -one.seconds)


def _phases(run: Run) -> dict[str, list[int]]:
    """Variants of each phase: a generation has that of its first tokens, and that of the others."""
    variants = list(range(len(run.program.sizes)))
    first = len(set(run.program.scenario.microbatch_sizes))
    if run.program.scenario.workload.output_length == 1:
        return {"": variants}
    return {"in the prefill": variants[:first], "in the decode steps": variants[first:]}


def bound_findings(result: Result, operators: Sequence[OnPath]) -> Iterator[Finding]:
    """Say what the critical path is made of, which operators take most, and how near they are to the roofline."""
    parts = result.critical_path_composition
    shares = (parts / parts.sum()).sort_values(ascending=False, kind="stable")
    listed = ", ".join(f"{share:.1%} {_SPENT[str(part)]}" for part, share in shares.items() if share >= _SHOWN)
    yield Finding(
        "bound",
        f"{_BOUNDS[str(shares.index[0])]} the plan: the critical path of {format_seconds(result.makespan_s)} is "
        f"{listed}.",
        {f"{part}_share": share for part, share in shares.items()},
    )
    for one in operators[:_OPERATORS]:
        if one.seconds >= _LARGE * result.makespan_s:
            yield _largest(result, one)
    light_s = sum(one.light_s for one in operators)
    yield Finding(
        "bound",
        f"At the speed of light of every operator the same path would take {format_seconds(light_s)}, "
        f"{light_s / result.makespan_s:.0%} of the makespan.",
        {"light_s": light_s, "light_share": light_s / result.makespan_s},
    )


def _largest(result: Result, one: OnPath) -> Finding:
    """Say what an operator takes, and where it stands under the roofline."""
    share, reached = one.seconds / result.makespan_s, one.light_s / one.seconds
    numbers = {"share": share, "of_light": reached}
    position = f"bound by {_LIMITS.get(one.bound, one.bound)}, "
    work = one.operator.work
    if one.operator.kind in _MATRIX_KINDS:
        cluster = result.scenario.segment(one.operator.stage)
        peak = matrix_peak_flop_per_s(cluster, work.dtype)  # type: ignore[union-attr]
        intensity = float(work.flop / (work.read_bytes + work.written_bytes))
        ridge = peak / cluster.accelerator.memory_bytes_per_s
        position += f"has {intensity:,.0f} FLOP/B where the ridge of the roofline is at {ridge:,.0f}, "
        numbers |= {"flop_per_byte": intensity, "ridge_flop_per_byte": ridge}
    text = f"{one.name} takes {share:.1%} of it: {position}reaches {reached:.0%} of the speed of light."
    return Finding("bound", text, numbers)


def lost_findings(result: Result, operators: Sequence[OnPath]) -> Iterator[Finding]:
    """Say where time is lost: idling, uneven stages, communication, overhead, a ragged microbatch, disturbances."""
    found = [*_idle(result), *_uneven(result), *_exposed(result, operators), *_overhead(result, operators)]
    found += _ragged(result)
    if result.conditions is not None:
        found.append(Finding("lost", f"The run was disturbed: {result.conditions}."))
    if not found:
        found.append(Finding("lost", "Idling, communication and overhead each take less than 0.1 % of the makespan."))
    yield from found


def _idle(result: Result) -> Iterator[Finding]:
    plan, microbatches, share = result.scenario.plan, result.scenario.num_microbatches, result.bubble_fraction
    if share < _SHOWN:
        return
    text = f"A GPU is idle for {share:.1%} of the makespan on the mean"
    numbers = {"idle_share": share}
    if plan.pipeline > 1 and result.scenario.workload.phase != "generation":
        rounds = microbatches * plan.virtual_stages
        least = (plan.pipeline - 1) / (rounds + plan.pipeline - 1)
        text += f"; to fill and drain {plan.pipeline} even stages with {microbatches:,} microbatches takes {least:.1%}"
        numbers["even_pipeline_share"] = least
        if plan.schedule == "sequential":
            text += ", but here a microbatch waits until the one before has left"
    yield Finding("lost", f"{text}.", numbers)


def _uneven(result: Result) -> Iterator[Finding]:
    busy_s = result.load_balance.groupby("stage")["busy_s"].mean()
    ratio = float(busy_s.max() / busy_s.mean())
    if ratio > _UNEVEN:
        yield Finding(
            "lost",
            f"Stages are uneven: stage {busy_s.idxmax()} is busy for {format_seconds(busy_s.max())}, {ratio - 1:.1%} "
            f"longer than the mean, stage {busy_s.idxmin()} for {format_seconds(busy_s.min())}.",
            {"stage_busy_max_over_mean": ratio},
        )


def _exposed(result: Result, operators: Sequence[OnPath]) -> Iterator[Finding]:
    balance, whole = result.load_balance, result.communication_fraction
    exposed = float((balance["busy_s"] - balance["compute_s"]).mean()) / result.makespan_s
    if whole < _SHOWN:
        return
    text = f"Communication takes {whole:.1%} of the makespan"
    if exposed < _SHOWN:
        text += ", all of it beside kernels"
    else:
        text += f", and for {exposed:.1%} a GPU has no kernel beside it"
        most = [one for one in operators if one.operator.kind in COMMUNICATION]
        if most:
            text += f"; most of it on the critical path is {most[0].name} ({most[0].seconds / result.makespan_s:.1%})"
    yield Finding("lost", f"{text}.", {"communication_share": whole, "exposed_share": exposed})


def _overhead(result: Result, operators: Sequence[OnPath]) -> Iterator[Finding]:
    share = float(result.critical_path_composition["overhead"]) / result.makespan_s
    if share < _SHOWN:
        return
    most, count = max(operators, key=lambda one: one.overhead_s), sum(one.executions for one in operators)
    mean_s = sum(one.overhead_s for one in operators) / count
    yield Finding(
        "lost",
        f"Overhead (launches, latencies, and what kernels lose at their start and end) is {share:.1%} of the critical "
        f"path, {format_seconds(mean_s)} on the mean of {count:,} executions; most of it is that of {most.name}.",
        {"overhead_share": share, "mean_overhead_s": mean_s, "executions": count},
    )


def _ragged(result: Result) -> Iterator[Finding]:
    sizes = result.scenario.microbatch_sizes
    usual, last = sizes[0], sizes[-1]
    if last == usual:
        return
    work_ps = result.run.program.operator_ps.sum(axis=1)
    longer = float(work_ps[1] / work_ps[0])
    yield Finding(
        "lost",
        f"The last microbatch is ragged: it has {last} of {usual} sequences, {last / usual:.0%} of the tokens, and its "
        f"operators take {longer:.0%} of the time.",
        {"ragged_share": last / usual, "ragged_time_share": longer},
    )


def origin_findings(result: Result, operators: Sequence[OnPath]) -> Iterator[Finding]:
    """Say what the times of the critical path rest on, and between which bounds the makespan lies."""
    spent = {origin: sum(one.seconds for one in operators if one.source == origin) for origin in _ORIGINS}
    shares = {origin: part / result.makespan_s for origin, part in spent.items()}
    listed = ", ".join(
        f"{shares[origin]:.1%} {origin} ({words})" for origin, words in _ORIGINS.items() if shares[origin] >= _SHOWN
    )
    text = f"Of the time on the critical path {listed}."
    beyond = [one.name for one in operators if one.source == EXTRAPOLATED][:_OPERATORS]
    if shares[EXTRAPOLATED] >= _SHOWN:
        text += f" What is extrapolated is mostly {', '.join(beyond)}."
    yield Finding("provenance", text, {f"{origin}_share": share for origin, share in shares.items()})
    low, high = result.makespan_range_s
    if low < high:
        yield Finding(
            "provenance",
            f"The makespan lies between {format_seconds(low)} and {format_seconds(high)} with a chance of about 80 %, "
            "by the errors on held-back measurements; operators without a measured error count as exact.",
            {"low_s": low, "high_s": high},
        )
    else:
        yield Finding("provenance", "No operator on the critical path has a measured error, so there is no range.")
