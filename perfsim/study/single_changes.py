"""Which single change helps most: every candidate is simulated, none is guessed.

Candidates are a better number of the hardware, and another entry of the plan for the same work on the same devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice
from typing import Any

from perfsim.simulation import Result, simulate
from perfsim.spec.scenario import Scenario
from perfsim.study.advice import Option
from perfsim.study.changes import FASTER, Change, changed_by, changes_of
from perfsim.study.figures import Figures, estimates, figures, has_period, stage_memory
from perfsim.study.hardware_numbers import hardware_numbers, scaled
from perfsim.study.rerun import Rerun
from perfsim.units import seconds

__all__ = ["HARDWARE", "single_changes"]

HARDWARE = "hardware"
"""Kind of the changes that ask for another device."""

_PERCENT = 10
_NEAREST = 16
"""Changes of one kind that are tried, the nearest ones."""
_SIMULATED = 6
"""Simulations of plans that must run microbatch by microbatch, after estimates of all."""


def single_changes(result: Result) -> tuple[Option, ...]:
    """Simulate single changes of a result's scenario and give those that fit in memory, the fastest first.

    Parameters
    ----------
    result : Result
        Without conditions.

    Returns
    -------
    tuple of Option
        Hardware numbers that are 10 % better (kind ``hardware``; its changes are what `what_if` takes), and changes of
        the plan and of the KV cache's data type (its changes are what `Scenario.with_` takes). Generations and virtual
        stages, which must run microbatch by microbatch, are estimated first, and the six that promise most are
        simulated.

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-baseline").with_(batch_size=64))
    >>> single_changes(result)[0].changes
    {'schedule': 'pipelined'}
    """
    memory = result.memory
    worst = memory.loc[(memory["peak_bytes"] - memory["capacity_bytes"]).idxmax()]
    before = Figures(result.makespan_s, int(worst["peak_bytes"]), int(worst["capacity_bytes"]))
    found = [*_of_hardware(result, before), *_simulated(list(_of_plan(result.scenario)))]
    options = [Option(change, result.scenario, before, after) for change, after in found if after.fits]
    return tuple(sorted(options, key=lambda option: option.after.makespan_s))


def _of_hardware(result: Result, before: Figures) -> Iterator[tuple[Change, Figures]]:
    """Make rates larger and times shorter; the same tasks run again, and memory stays as it is."""
    scenario, again = result.scenario, Rerun(result.run)
    for number in hardware_numbers(scenario.cluster, scenario.dtype).values():
        percent = -_PERCENT if number.less_is_better else _PERCENT
        factor = 1 + percent / 100
        cluster = scaled(scenario.cluster, number.fields, factor)
        made = dataclasses.replace(scenario, cluster=cluster)
        change = Change((HARDWARE,), {number.name: factor}, made, f"{number.title} {percent:+d} %")
        yield change, before._replace(makespan_s=float(seconds(again.on(cluster).makespan_ps)))


def _simulated(changes: list[Change]) -> Iterator[tuple[Change, Figures]]:
    """Simulate changes of the plan; of those that must run microbatch by microbatch, the ones that promise most."""
    regular = [change for change in changes if has_period(change.scenario)]
    found = zip(regular, figures([change.scenario for change in regular]), strict=True)
    yield from ((change, after) for change, after in found if after is not None)
    rough = [change for change in changes if not has_period(change.scenario)]
    if len(rough) > _SIMULATED:
        estimated = zip(rough, estimates([change.scenario for change in rough]), strict=True)
        known = [(change, after) for change, after in estimated if after is not None]
        rough = [change for change, _ in sorted(known, key=lambda one: (not one[1].fits, one[1].makespan_s))]
    for change in rough[:_SIMULATED]:
        stage = min(stage_memory(change.scenario), key=lambda stage: stage.capacity_bytes - stage.peak_bytes)
        yield change, Figures(simulate(change.scenario).makespan_s, stage.peak_bytes, stage.capacity_bytes)


def _of_plan(scenario: Scenario) -> Iterator[Change]:
    for kind in FASTER:
        yield from islice(changes_of(scenario, kind), _NEAREST)
    yield from (change for change in changes_of(scenario, "KV cache") if "kv_dtype" in change.changes)
    for changes, reason in (*_interleaved(scenario), *_taken_back(scenario)):
        made = changed_by(scenario, changes)
        if made is not None:
            yield Change(("plan",), changes, made, reason)


def _interleaved(scenario: Scenario) -> Iterator[tuple[dict[str, Any], str]]:
    plan = scenario.plan
    if plan.pipeline > 1 and plan.virtual_stages == 1:
        layers = {} if plan.layers_per_stage is None else {"layers_per_stage": None}
        yield {"virtual_stages": 2, **layers}, "two smaller parts of the model on each stage shorten the bubble"


def _taken_back(scenario: Scenario) -> Iterator[tuple[dict[str, Any], str]]:
    """Leave out each refinement that the plan has."""
    plain = {"sequence_parallel": False, "scatter_gather": False, "overlap_chunks": 1, "virtual_stages": 1}
    for name, value in plain.items():
        if getattr(scenario.plan, name) != value:
            layers = {"layers_per_stage": None} if name == "virtual_stages" and scenario.plan.layers_per_stage else {}
            yield {name: value, **layers}, "what it adds costs more than it saves"
