"""Advice: what makes a scenario fit that does not, at what cost, and what would make one faster that does."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations, islice
from typing import NamedTuple

from perfsim.errors import Faults, InputError
from perfsim.spec.plan import Plan
from perfsim.spec.scenario import Scenario
from perfsim.study.advice import Advice, Option
from perfsim.study.changes import CLUSTER, FASTER, SMALLER, Change, changed_by, changes_of, largest_batch
from perfsim.study.figures import Figures, estimates, figures, has_period, stage_memory
from perfsim.study.least_memory import is_hopeless
from perfsim.study.smallest import smallest_plan
from perfsim.units import format_bytes

__all__ = ["advise"]

_OF_EACH_KIND = 3
"""Options that are listed of one kind of change; of a pair of kinds one."""
_NEAREST = 24
"""Changes of one kind that are simulated, the nearest ones."""
_PAIRED = 12
"""Changes of one kind that are paired, the nearest ones; and of a pair of kinds `_OF_EACH_KIND` are simulated."""
_SIMULATED = 6
"""Simulations of scenarios that must run microbatch by microbatch, after estimates of all."""


def advise(scenario: Scenario) -> Advice:
    """Say whether a scenario fits, and which changes would make it fit, or else faster.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    Advice
        Where the scenario does not fit, its options are single changes with which it does: a smaller microbatch,
        sequence parallelism, fewer layers on the fullest stages, other degrees on the same devices, a KV cache in fp8
        or dropped, the largest batch that fits, quantised weights, more devices. Where no single change suffices they
        are pairs of changes, and where no pair does, the plan of `smallest_plan`. Where the scenario fits, they are
        single changes of the plan that are faster, with the same work on the same devices.

    Raises
    ------
    InputError
        `scenario` is none, or has more work than times can count.

    Notes
    -----
    Every option is simulated. The cheapest come first: those that take the fewest device-seconds for a token, so that
    more devices cost their share and a smaller batch gains nothing by being small. Changes that cannot fit by the least
    that their devices hold are left out before. A generation and virtual stages, which must run microbatch by
    microbatch, are estimated first, and the best six are simulated.

    Examples
    --------
    >>> import perfsim
    >>> advice = perfsim.advise(perfsim.load_scenario("seed-improved").with_(keep_kv_cache=True))
    >>> advice.fits, [option.changes for option in advice]
    (False, [{'keep_kv_cache': False}, {'batch_size': 246}])
    """
    faults = Faults("advise")
    faults.instance("scenario", scenario, Scenario)
    faults.raise_if_any()
    (before,) = figures([scenario])
    if before is None:
        raise InputError.of(
            "workload", f"{scenario.workload.batch_size} x {scenario.workload.sequence_length} tokens",
            "must be work that times can count (26 days of it)", "use a smaller batch or shorter sequences",
        )  # fmt: skip
    if not before.fits:
        found = _that_fit(scenario, before)
        return Advice(scenario, before, f"{_shortage(scenario, before)} {found.words}", tuple(found.options))
    changes = [change for kind in FASTER for change in _not_hopeless(changes_of(scenario, kind), _NEAREST)]
    faster = [option for option in _options(scenario, before, changes) if option.cost_percent < 0]
    left = before.capacity_bytes - before.peak_bytes
    return Advice(
        scenario, before,
        f"The plan fits: at most {format_bytes(before.peak_bytes)} of {format_bytes(before.capacity_bytes)} a device, "
        f"{format_bytes(left)} are left. {_count(faster, 'single change')} of the plan would be faster.",
        tuple(faster),
    )  # fmt: skip


class _Found(NamedTuple):
    """Options, and what is to be said of them."""

    options: list[Option]
    words: str


def _that_fit(scenario: Scenario, before: Figures) -> _Found:
    """Look for single changes, then for pairs, then for any plan."""
    changes = {kind: list(changes_of(scenario, kind)) for kind in SMALLER}
    changes["batch"] = list(largest_batch(scenario))
    singles = [change for kind in SMALLER for change in _not_hopeless(changes[kind], _NEAREST)]
    if options := _options(scenario, before, singles):
        return _Found(options, f"{_count(options, 'single change')} would make it fit.")
    changes["batch"] = list(changes_of(scenario, "batch"))
    if options := _options(scenario, before, _pairs(changes)):
        return _Found(options, f"No single change would make it fit, but {_count(options, 'pair')} would.")
    try:
        plan = _another_plan(scenario)
    except InputError as error:
        return _Found([], f"Nothing that was tried makes it fit: {error}.")
    return _Found(_options(scenario, before, [plan]), "No pair of changes would make it fit, but another plan would.")


def _pairs(changes: dict[str, list[Change]]) -> list[Change]:
    """Pair changes of different kinds, as far as they may fit."""
    found: list[Change] = []
    for first, second in combinations(SMALLER, 2):
        both = (
            one.then(other)
            for one in changes[first][:_PAIRED]
            for other in islice(changes_of(one.scenario, second), _PAIRED)
        )
        found += _not_hopeless(both, _OF_EACH_KIND)
    return found


def _another_plan(scenario: Scenario) -> Change:
    """Give the change to the fastest plan on the fewest devices."""
    plan = smallest_plan(scenario).plan
    names = [field.name for field in dataclasses.fields(Plan)]
    changes = {name: getattr(plan, name) for name in names if getattr(plan, name) != getattr(scenario.plan, name)}
    if plan.num_devices > scenario.cluster.num_devices:
        changes[CLUSTER] = plan.num_devices
    made = changed_by(scenario, changes) or scenario
    return Change(("another plan",), changes, made, "the fastest plan on the fewest devices")


def _not_hopeless(changes: Iterable[Change], most: int) -> Iterator[Change]:
    return islice((change for change in changes if not is_hopeless(change.scenario)), most)


def _options(scenario: Scenario, before: Figures, changes: list[Change]) -> list[Option]:
    """Simulate changes and list those that fit, the cheapest first, a few of each kind."""
    estimated = zip(changes, estimates([change.scenario for change in changes]), strict=True)
    found = [Option(change, scenario, before, after) for change, after in estimated if after is not None]
    ready = [option for option in found if has_period(option.scenario)]
    rough = [option for option in found if not has_period(option.scenario)]
    best = sorted(rough, key=lambda option: (not option.after.fits, option.cost_percent))[:_SIMULATED]
    for option, after in zip(best, figures([option.scenario for option in best]), strict=True):
        if after is not None:
            ready.append(dataclasses.replace(option, after=after))
    listed, seen = [], Counter[tuple[str, ...]]()
    for option in sorted(ready, key=lambda option: option.cost_percent):
        kinds = option.change.kinds
        if option.after.fits and seen[kinds] < (_OF_EACH_KIND if len(kinds) == 1 else 1):
            seen[kinds] += 1
            listed.append(option)
    return listed


def _shortage(scenario: Scenario, before: Figures) -> str:
    """Say what does not fit, and by how much."""
    stages = stage_memory(scenario)
    stage = max(range(len(stages)), key=lambda index: stages[index].peak_bytes - stages[index].capacity_bytes)
    part, size = stages[stage].largest_part
    return (
        f"The plan does NOT fit: a device of stage {stage} needs {format_bytes(before.peak_bytes)}, "
        f"{format_bytes(before.peak_bytes - before.capacity_bytes)} more than its "
        f"{format_bytes(before.capacity_bytes)}. The largest part is {part} with {format_bytes(size)}."
    )


def _count(options: list[Option], what: str) -> str:
    number = len(options)
    return f"{number or 'No'} {what}{'s' if number > 1 else ''}"
