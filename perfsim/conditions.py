"""What may change while a plan runs: devices that slow down, times that scatter, links that are shared.

A scenario says what every execution takes when nothing interferes. `Conditions` say what interferes; the SimPy engine
follows them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import Faults
from perfsim.ops.operators import Collective, ExpertExchange, Transfer, Work
from perfsim.report.lanes import COMPUTE
from perfsim.schedule.program import Program
from perfsim.schedule.taskgraph import Lists, TaskGraph
from perfsim.schedule.template import Template
from perfsim.sim.disturbances import Disturbances, SpeedChange
from perfsim.spec.hardware import Cluster
from perfsim.spec.scenario import Scenario
from perfsim.spec.tables import FrozenDict
from perfsim.units import picoseconds

__all__ = ["Conditions", "Slowdown", "check_conditions", "disturbances_of"]

_MOST_JITTER = 1.0


@dataclass(frozen=True)
class Slowdown:
    """The kernels of a device take longer for a while, as under a lowered clock; collectives wait for it.

    Attributes
    ----------
    device : int
    factor : float
        How many times longer, above 0; below 1 for a device that is faster than the others.
    start_s, end_s : float
        From when to when; from the beginning and to the end when left out.
    """

    device: int
    factor: float
    start_s: float = 0.0
    end_s: float = math.inf

    def __post_init__(self) -> None:
        faults = Faults("slowdown")
        faults.integer("device", self.device, minimum=0)
        faults.number("factor", self.factor)
        if self.start_s != 0:
            faults.number("start_s", self.start_s)
        if self.end_s != math.inf:
            faults.number("end_s", self.end_s)
        faults.raise_if_any()
        if self.end_s <= self.start_s:
            faults.add("end_s", self.end_s, f"must be after start_s = {self.start_s}")
        faults.raise_if_any()


@dataclass(frozen=True)
class Conditions:
    """What interferes with a plan while it runs.

    Attributes
    ----------
    slowdowns : tuple of Slowdown
        No two of the same device at the same time.
    jitter : float
        Relative standard deviation of the time of every execution, of at most 1. Times are drawn from a log-normal
        distribution whose mean is the undisturbed time.
    shared_links : mapping of str to float
        For some network tiers, by name, the factor of their oversubscription, at least 1. The devices that share a
        domain of the tier below (of the innermost tier: each device for itself) then share links with their number over
        that factor times the bandwidth of one device, in each direction. With 1 they get in each other's way only where
        a device does two things at once.
    seed : int
        Of the jitter.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved").with_(batch_size=4)
    >>> slow = perfsim.Conditions(slowdowns=(perfsim.Slowdown(device=3, factor=1.5),))
    >>> disturbed = perfsim.simulate(scenario, engine="simpy", detail="full", conditions=slow)
    >>> bool(disturbed.makespan_s > 1.2 * perfsim.simulate(scenario).makespan_s)
    True
    """

    slowdowns: tuple[Slowdown, ...] = ()
    jitter: float = 0.0
    shared_links: Mapping[str, float] = field(default_factory=FrozenDict)
    seed: int = 0

    def __post_init__(self) -> None:
        faults = Faults("conditions")
        if self.jitter != 0:
            faults.number("jitter", self.jitter, at_most=_MOST_JITTER)
        faults.integer("seed", self.seed, minimum=0)
        if isinstance(self.slowdowns, tuple | list) and all(isinstance(slow, Slowdown) for slow in self.slowdowns):
            object.__setattr__(self, "slowdowns", tuple(self.slowdowns))
            self._check_overlaps(faults)
        else:
            faults.add("slowdowns", self.slowdowns, "must be a sequence of Slowdown")
        if isinstance(self.shared_links, Mapping):
            for name, factor in self.shared_links.items():
                if faults.number(f"shared_links.{name}", factor) and factor < 1:
                    faults.add(
                        f"shared_links.{name}", factor, "must be at least 1", "1 shares without oversubscription"
                    )
            object.__setattr__(self, "shared_links", FrozenDict(self.shared_links))
        else:
            faults.add("shared_links", self.shared_links, "must be a mapping from names of tiers to factors")
        faults.raise_if_any()

    def _check_overlaps(self, faults: Faults) -> None:
        ordered = sorted(self.slowdowns, key=lambda slow: (slow.device, slow.start_s))
        for earlier, later in itertools.pairwise(ordered):
            if earlier.device == later.device and later.start_s < earlier.end_s:
                faults.add(
                    "slowdowns", (earlier, later), f"must not overlap on device {later.device}",
                    "end the one before the other starts",
                )  # fmt: skip


def check_conditions(conditions: Conditions, scenario: Scenario, faults: Faults) -> None:
    """Record conditions that name devices or tiers which a scenario does not have."""
    last = scenario.plan.num_devices - 1
    for slow in conditions.slowdowns:
        if slow.device > last:
            faults.add("slowdowns", slow, f"must name devices from 0 to {last}", "those of the plan")
    if conditions.shared_links and scenario.cluster.segments:
        faults.add(
            "shared_links", dict(conditions.shared_links), "must be empty for clusters of several kinds of device",
            "disturb one of them, or use slowdowns",
        )  # fmt: skip
        return
    names = [tier.name for tier in scenario.cluster.tiers]
    for name in conditions.shared_links:
        faults.choice("shared_links", name, names)


def disturbances_of(program: Program, conditions: Conditions) -> Disturbances:
    """Say what conditions mean for the tasks of a program in full detail."""
    graph, devices = program.task_graph, _Devices(program, conditions)
    count = len(program.variant)
    rows, resources, weights = zip(*devices.draws(), strict=True) if devices.num_resources else ((), (), ())
    drawn = Lists.from_counts(np.bincount(np.array(rows, int), minlength=program.template.num_rows), resources)
    # Tasks stand as they are issued, microbatch by microbatch or, with virtual stages, round by round.
    of_task = _entries_of(drawn, graph.label) if program.template.round_size > 1 else None
    counts = np.tile(drawn.counts, count) if of_task is None else drawn.counts[graph.label]
    entries = np.tile(np.arange(len(drawn.values)), count) if of_task is None else of_task
    return Disturbances(
        work_ps=_jittered(graph, conditions),
        resources=Lists.from_counts(counts, drawn.values[entries]),
        weights=np.array(weights, float)[entries],
        capacity=np.array(devices.capacity, float),
        # In the order of time; where one slow-down follows another at once, its speed is the later word.
        changes=sorted(devices.changes(), key=lambda change: change.time_ps),
    )


def _entries_of(drawn: Lists, label: NDArray[np.int32]) -> NDArray[np.int64]:
    """Positions in the lists of the rows that tasks carry out, task after task."""
    first, counts = drawn.offsets[:-1].astype(np.int64)[label], drawn.counts[label]
    begin = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - np.repeat(begin - first, counts)


def _jittered(graph: TaskGraph, conditions: Conditions) -> NDArray[np.int64]:
    """Durations that scatter around the undisturbed ones, which are their means."""
    if not conditions.jitter:
        return graph.duration_ps
    variance = math.log1p(conditions.jitter**2)
    draw = np.random.default_rng(conditions.seed).lognormal(-variance / 2, math.sqrt(variance), graph.num_tasks)
    return np.rint(graph.duration_ps * draw).astype(np.int64)


class _Devices:
    """Numbers the resources: devices that slow down, and the links of shared tiers in both directions."""

    def __init__(self, program: Program, conditions: Conditions) -> None:
        self.template: Template = program.template
        self.scenario = program.scenario
        self.cluster: Cluster = program.scenario.cluster
        self.conditions = conditions
        slow = sorted({slowdown.device for slowdown in conditions.slowdowns})
        self.of_device = {device: number for number, device in enumerate(slow)}
        self.capacity = [math.inf] * len(slow)
        self.of_link: dict[tuple[int, int, str], int] = {}
        devices = range(program.scenario.plan.num_devices)
        for index, tier in enumerate(self.cluster.tiers):
            if tier.name in conditions.shared_links:
                sharers = self._sharers(index)
                for domain in sorted({self.scenario.place_of(device) // sharers for device in devices}):
                    for direction in ("out", "in"):
                        self.of_link[index, domain, direction] = len(self.capacity)
                        self.capacity.append(sharers / conditions.shared_links[tier.name])

    @property
    def num_resources(self) -> int:
        return len(self.capacity)

    def changes(self) -> Iterator[SpeedChange]:
        for slow in sorted(self.conditions.slowdowns, key=lambda slow: slow.start_s):
            resource = self.of_device[slow.device]
            yield SpeedChange(int(picoseconds(slow.start_s)), resource, 1 / slow.factor)
            if slow.end_s < math.inf:
                yield SpeedChange(int(picoseconds(slow.end_s)), resource, 1.0)

    def draws(self) -> list[tuple[int, int, float]]:
        """Row of the template, resource and weight, in the order of the rows."""
        draws: dict[tuple[int, int], float] = {}
        template, operators = self.template, self.template.graph.operators
        for row, device, operator in zip(
            template.entry_row.tolist(), template.entry_slot.tolist(), template.entry_operator.tolist(), strict=True
        ):
            node, work = operators[operator], operators[template.operator[row]].work
            if node.kind in COMPUTE and device in self.of_device:
                draws[row, self.of_device[device]] = 1.0
            for link in self._links(work, device, receives=node.kind == "receive"):
                draws[row, link] = draws.get((row, link), 0.0) + 1.0
        return [(row, resource, weight) for (row, resource), weight in sorted(draws.items())]

    def _links(self, work: Work, device: int, *, receives: bool) -> Iterator[int]:
        """Shared links that a device's part in a collective or a transfer passes."""
        if isinstance(work, Collective | ExpertExchange):
            tiers = [tier for tier, members in enumerate(work.span) if members > 1]
            directions: tuple[str, ...] = ("out", "in")
        elif isinstance(work, Transfer):
            tiers, directions = [work.tier], ("in",) if receives else ("out",)
        else:
            return
        for tier in tiers:
            domain = self.scenario.place_of(device) // self._sharers(tier)
            for direction in directions:
                if (tier, domain, direction) in self.of_link:
                    yield self.of_link[tier, domain, direction]

    def _sharers(self, tier: int) -> int:
        """Devices that share the links of a tier: a domain of the tier below."""
        return 1 if tier == 0 else int(self.cluster.tiers[tier - 1].domain_size or 1)
