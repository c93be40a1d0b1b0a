"""Sweeps of serving: every point is a traffic on an engine, and points of one scenario share the costs of its steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from perfsim.errors import Faults, InputError
from perfsim.serving.deployment import Deployment
from perfsim.serving.policies import Engine
from perfsim.serving.results import serve_requests
from perfsim.serving.serve import check_parts
from perfsim.serving.services import Services
from perfsim.serving.traffic import Traffic
from perfsim.spec.files import to_plain
from perfsim.spec.plan import Plan
from perfsim.spec.scenario import Scenario, replace_nested
from perfsim.study.axes import PARTS, Axes, read_axes
from perfsim.study.blocks import axis_columns
from perfsim.study.serving_figures import OBJECTIVES, SERVED, SERVED_FIGURES, check_objectives, served_figures
from perfsim.study.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ServingTask", "serving_task"]

LENGTH = 200
"""Points of a block: enough to share tables of costs that take as long to fill as some points, few enough to resume."""

_SERVING = ("traffic", "engine", "deployment")
_WITHOUT_EFFECT = (
    "workload.phase", "workload.batch_size", "workload.sequence_length", "workload.output_length",
    "plan.microbatch_size",
)  # fmt: skip


@dataclass(frozen=True)
class ServingTask(Task):
    """A sweep over fields of traffic, engine, deployment and scenario.

    Attributes
    ----------
    traffic : Traffic
    engine : Engine
    deployment : Deployment or None
        As many replicas as the plan has where it is None.
    objectives : mapping of str to float
        Of goodput.
    """

    traffic: Traffic
    engine: Engine
    deployment: Deployment | None = None
    objectives: Mapping[str, float] = field(default_factory=dict)

    results: ClassVar[tuple[str, ...]] = SERVED

    @property
    def length(self) -> int:
        """Points of a block."""
        return LENGTH

    def fingerprint(self) -> dict[str, Any]:
        """What a sweep's files must agree on."""
        parts = {name: to_plain(getattr(self, name)) for name in (*_SERVING, "objectives")}
        return {**super().fingerprint(), **parts, "kind": type(self.traffic).__name__}

    def block(self, first: int) -> pd.DataFrame:
        """Serve the points of a block; those of one scenario stand together."""
        import pandas as pd

        points = self.points(first)
        indices, shared, rows = self.axes.indices(points), _Shared(self.scenario), []
        for place in range(len(points)):
            chosen = {axis.path: int(indices[axis.path][place]) for axis in self.axes.axes}
            rows.append(self._row(chosen, shared))
        figures = {name: np.array([row.get(name, np.nan) for row in rows], float) for name in SERVED_FIGURES}
        flags = {name: np.array([row[name] for row in rows], bool) for name in ("drains", "fits")}
        reason = np.array([row["reason"] for row in rows])
        return pd.DataFrame(
            {**axis_columns(self.axes, points), **figures, **flags, "reason": reason}, index=points
        )  # fmt: skip

    def _row(self, chosen: Mapping[str, int], shared: _Shared) -> dict[str, Any]:
        """Serve one point; what makes it impossible is its reason."""
        changes: dict[str, dict[str, Any]] = {}
        for axis in self.axes.axes:
            _, _, name = axis.path.partition(".")
            changes.setdefault(axis.part, {})[name] = axis.values[chosen[axis.path]]
        numbers = tuple(chosen[axis.path] for axis in self.axes.axes if axis.part in PARTS)
        try:
            services = shared.services(numbers, changes)
            traffic, engine, deployment = (
                _changed(base, changes.get(name, {}), name)
                for name, base in zip(_SERVING, (self.traffic, self.engine, self.deployment or services.deployment),
                                      strict=True)
            )  # fmt: skip
            result = serve_requests(services.of(engine, deployment), traffic.requests())
        except InputError as error:
            return {"drains": False, "fits": False, "reason": _reason(error)}
        return served_figures(result, self.objectives)


class _Shared:
    """The services of the scenario of the last point, or why there are none."""

    def __init__(self, base: Scenario) -> None:
        self._base = base
        self._numbers: tuple[int, ...] | None = None
        self._made: Services | InputError

    def services(self, numbers: tuple[int, ...], changes: Mapping[str, Mapping[str, Any]]) -> Services:
        """Give those of another scenario, or of the same one again, as the numbers of its axes' values tell."""
        if numbers != self._numbers:
            self._numbers = numbers
            try:
                parts = {name: _changed(getattr(self._base, name), changes.get(name, {}), name) for name in PARTS}
                self._made = Services(Scenario(**parts))
            except InputError as error:
                self._made = error
        if isinstance(self._made, InputError):
            raise self._made
        return self._made


def _changed(base: Any, changes: Mapping[str, Any], name: str) -> Any:
    """Replace a part, which has no name inside of itself, or fields of it, or both."""
    whole = changes.get("", base)
    fields = {path: value for path, value in changes.items() if path}
    return replace_nested(whole, fields, name) if fields else whole


def _reason(error: InputError) -> str:
    """Say why a point cannot be; a cache that holds no request is a plan that does not fit."""
    kind = "does not fit" if {fault.field for fault in error.faults} == {"engine.kv_blocks"} else "impossible"
    return f"{kind}: {'; '.join(map(str, error.faults))}"


def serving_task(scenario: Scenario, axes: Mapping[str, Any], given: Mapping[str, Any]) -> ServingTask:
    """Check what a sweep of serving is given.

    Parameters
    ----------
    scenario : Scenario
    axes : mapping
        By name, as for `perfsim.sweep`.
    given : mapping
        ``traffic``, ``engine`` and ``deployment``, each one or several of them, and the objectives of goodput.

    Raises
    ------
    InputError
        With all faults together.
    """
    faults = Faults("sweep")
    several = {name: given[name] for name in _SERVING if _is_several(given[name])}
    parts = {name: _first(given[name]) for name in _SERVING}
    check_parts(faults, scenario, *parts.values())
    objectives = check_objectives(faults, {name: given[name] for name in OBJECTIVES})
    faults.raise_if_any()
    read = read_axes(scenario, {**several, **axes}, {**parts, "deployment": parts["deployment"] or Deployment()})
    for axis in read.axes:
        if axis.path in _WITHOUT_EFFECT:
            way_out = "vary concurrency, requests_per_s, prompt_tokens, output_tokens or token_budget"
            faults.add(axis.name, "...", "has no effect where requests are served", way_out)
    faults.raise_if_any()
    return ServingTask(_with_any_replicas(scenario, read), read, **parts, objectives=objectives)


def _is_several(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _first(value: Any) -> Any:
    """The first of several parts, for what all of them have; the check of the axes looks at the others."""
    if not _is_several(value):
        return value
    return next(iter(value.values() if isinstance(value, Mapping) else value), None)


def _with_any_replicas(scenario: Scenario, axes: Axes) -> Scenario:
    """Give a scenario whose batch, which does not matter here, all replicas that the axes have can share."""
    varied = {axis.path: axis.values for axis in axes.axes}
    plans = [plan for plan in varied.get("plan", ()) if isinstance(plan, Plan)]
    replicas = [scenario.plan.data, *(plan.data for plan in plans), *varied.get("plan.data", ())]
    batch = math.lcm(*replicas)
    return dataclasses.replace(scenario, workload=dataclasses.replace(scenario.workload, batch_size=batch))
