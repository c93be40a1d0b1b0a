"""The largest batch that fits a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from perfsim.errors import Faults, InputError
from perfsim.spec.scenario import Scenario
from perfsim.study.figures import figures, has_period, stage_memory
from perfsim.study.least_memory import is_hopeless
from perfsim.units import MAX_SIZE, format_bytes

__all__ = ["max_batch"]

_AT_ONCE = 16
"""Batches that one round of a search tries; they are computed together."""


def max_batch(scenario: Scenario) -> int:
    """Give the largest batch that fits, with everything else as it is.

    Parameters
    ----------
    scenario : Scenario
        Its own batch does not matter. A fixed microbatch stays; the KV cache then mostly sets the limit.

    Returns
    -------
    int
        Sequences, a multiple of ``plan.data``. Where memory sets no limit, because the KV cache is dropped and the
        microbatch is fixed, the largest batch that a scenario may have and whose work times can count (26 days).

    Raises
    ------
    InputError
        `scenario` is none, or not even the smallest batch that its plan allows fits.

    Notes
    -----
    More sequences never need less memory, so the limit is found by bisection, with the peaks that `simulate` finds. In
    a generation and with virtual stages those of the first rounds of microbatches stand for all.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved").with_(keep_kv_cache=True)
    >>> perfsim.max_batch(scenario)
    246
    """
    faults = Faults("max_batch")
    faults.instance("scenario", scenario, Scenario)
    faults.raise_if_any()
    smallest = _smallest(scenario)
    room = _rooms([smallest])[0]
    if room < 0:
        raise _too_large(smallest)
    low = smallest.replica_batch
    high = 1 + _bisect(low, MAX_SIZE // scenario.plan.data, lambda batch: not is_hopeless(_at_most(scenario, batch)))
    rooms = {low: room}
    while high - low > 1:
        tried = _between(low, high, rooms, at_once=_AT_ONCE if has_period(scenario) else 1)
        rooms |= zip(tried, _rooms([_at_most(scenario, batch) for batch in tried]), strict=True)
        low = max(batch for batch in (low, *tried) if rooms[batch] >= 0)
        high = min((batch for batch in tried if rooms[batch] < 0), default=high)
    return _at_most(scenario, low).workload.batch_size


def _between(low: int, high: int, rooms: Mapping[int, float], *, at_once: int) -> list[int]:
    """Choose batches to try between one that fits and one that does not.

    Where each costs a simulation, the one at which a straight line through the known ends meets the limit, because
    memory grows nearly so; every third time the one in the middle, in case it does not.
    """
    if at_once > 1:
        spread = np.unique(np.linspace(low, high, at_once + 2).astype(int))
        return [int(batch) for batch in spread if low < batch < high]
    if len(rooms) % 3 == 0 or high not in rooms:
        return [(low + high) // 2 if len(rooms) % 3 == 0 else high - 1]
    share = rooms[low] / (rooms[low] - rooms[high])
    return [min(max(low + int(share * (high - low)), low + 1), high - 1)]


def _bisect(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Give the largest number up to `high` for which something holds that holds for `low` and does not come back."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _smallest(scenario: Scenario) -> Scenario:
    """Give the scenario with the smallest batch that its plan allows."""
    plan = scenario.plan
    most = (scenario.microbatch_size + plan.overlap_chunks) * plan.pipeline
    for batch in range(1, most + 1):
        found = _with_batch(scenario, batch)
        if found is not None:
            return found
    return scenario


def _at_most(scenario: Scenario, replica_batch: int) -> Scenario:
    """Give the scenario with the largest batch up to so many sequences a replica that its plan allows.

    Virtual stages want whole rounds of microbatches, parts that overlap in decode a last microbatch large enough.
    """
    plan, size = scenario.plan, scenario.plan.microbatch_size or 1
    wanted = {replica_batch // step * step for step in (size, plan.pipeline, size * plan.pipeline)}
    wanted |= set(range(max(1, replica_batch - plan.overlap_chunks), replica_batch + 1))
    found = (_with_batch(scenario, batch) for batch in sorted(wanted, reverse=True) if batch)
    return next((one for one in found if one is not None), _smallest(scenario))


def _with_batch(scenario: Scenario, replica_batch: int) -> Scenario | None:
    """Give the scenario with another batch, if its plan allows that."""
    workload = dataclasses.replace(scenario.workload, batch_size=replica_batch * scenario.plan.data)
    try:
        return dataclasses.replace(scenario, workload=workload)
    except InputError:
        return None


def _rooms(scenarios: list[Scenario]) -> list[float]:
    """Bytes that are left on the fullest device of scenarios of one kind; none at all where times cannot count."""
    if not all(has_period(scenario) for scenario in scenarios):
        return [min(stage.capacity_bytes - stage.peak_bytes for stage in stage_memory(one)) for one in scenarios]
    return [-np.inf if one is None else one.capacity_bytes - one.peak_bytes for one in figures(scenarios)]


def _too_large(scenario: Scenario) -> InputError:
    """Say what of the smallest batch is too large."""
    stages = stage_memory(scenario)
    worst = max(stages, key=lambda stage: stage.peak_bytes - stage.capacity_bytes)
    part, size = worst.largest_part
    each = scenario.replica_batch
    what = "one sequence" if each == 1 else f"{each} sequences, the fewest that the plan allows,"
    return InputError.of(
        "workload.batch_size", scenario.workload.batch_size,
        f"does not fit: {what} a replica {'takes' if each == 1 else 'take'} {format_bytes(worst.peak_bytes)} of the "
        f"{format_bytes(worst.capacity_bytes)} of a device, and the largest part is {part} with {format_bytes(size)}",
        "perfsim.advise(scenario) lists changes that fit, perfsim.min_devices(scenario) how many devices it takes",
    )  # fmt: skip
