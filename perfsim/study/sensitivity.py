"""How much a makespan changes with each hardware number and each kind of operator, and where the next bottleneck lies.

The makespan is the sum of what the executions on the critical path take. As long as the path stays the same, its
derivative by a parameter p is the sum of theirs:

    d makespan / d log p = sum over operators of n (t(p (1 + h)) - t(p (1 - h))) / (2 h)

with n executions of an operator on the path and t its price, in double precision and not rounded to picoseconds. With
h = 1e-6 the difference is the derivative to nine digits. `elasticity` divides it by the makespan: the percentage that
one percent more of p is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import Faults
from perfsim.report.critical import CriticalPath
from perfsim.report.lanes import COMMUNICATION, COMPUTE, Run
from perfsim.simulation import Result, simulate
from perfsim.study.hardware_numbers import Field, hardware_numbers, scaled
from perfsim.study.rerun import Rerun, in_double_precision
from perfsim.units import PICOSECONDS_PER_SECOND, seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["sensitivity"]

STEP = 1e-6
"""Relative change of a parameter on either side, for the derivative."""
MORE = 1.1
"""Factor of the change that is simulated."""
FURTHEST = 100.0
"""Largest factor by which a parameter becomes better in the search for the next bottleneck."""
_HALVINGS = 12
_VISIBLE = 0.05


def sensitivity(result: Result) -> pd.DataFrame:
    """Say how much the makespan changes with each hardware number and with the time of each kind of operator.

    Parameters
    ----------
    result : Result
        Of either engine and detail, without conditions.

    Returns
    -------
    DataFrame
        Indexed by ``parameter``: the names that `what_if` takes, and ``matmul_time`` and so on for the kinds of
        operators. The largest effect comes first. Columns:

        - ``what``, ``value``, ``unit``: what it is; the value is missing where it stands for many numbers;
        - ``elasticity``: percentage by which the makespan changes for each percent more, exact while the critical path
          stays the same;
        - ``slope_s``: the same in seconds, the derivative by the logarithm of the parameter; ``derivative_s``, the one
          by its value, in seconds for each unit;
        - ``change_percent``: change of the makespan with 10 % more, simulated;
        - ``takes_over_at``, ``next_bottleneck``: the factor from which on another part of the critical path
          (``compute``, ``memory``, ``network`` or ``overhead``) is the largest, and which; missing where that does not
          happen up to a hundredfold improvement. Rates grow and times shrink. A change that is undone on the way goes
          unnoticed;
        - ``text``: the change with 10 % more in words.

    Raises
    ------
    InputError
        `result` is none, or ran under conditions.

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=64))
    >>> table = perfsim.sensitivity(result)
    >>> bool(table.loc["flops", "elasticity"] < table.loc["hbm_bandwidth", "elasticity"] < 0)
    True
    """
    import pandas as pd

    faults = Faults("sensitivity")
    if faults.instance("result", result, Result) and result.conditions is not None:
        way_out = "simulate the scenario without them"
        faults.add(
            "result.conditions", result.conditions, "must be none: costs explain nothing of what disturbs", way_out
        )
    faults.raise_if_any()
    if result.detail != "folded":  # the same times with fewer tasks
        result = simulate(result.scenario)
    path, again = CriticalPath(result.run), Rerun(result.run)
    rows = [_row(lever, path) for lever in (*_hardware_levers(path, again), *_kind_levers(path, again))]
    frame = pd.DataFrame(rows).set_index("parameter")
    return frame.iloc[np.argsort(-frame["change_percent"].abs().to_numpy(), kind="stable")]


@dataclass(frozen=True)
class _Lever:
    """Something that can be made larger, and what follows.

    Attributes
    ----------
    name, what, unit : str
    value : float or None
    slope_s : float
        Derivative of the makespan by the logarithm of the value.
    less_is_better : bool
    run : callable
        Gives the run with the value multiplied by a factor.
    """

    name: str
    what: str
    unit: str
    value: float | None
    slope_s: float
    less_is_better: bool
    run: Callable[[float], Run]


def _hardware_levers(path: CriticalPath, again: Rerun) -> Iterator[_Lever]:
    """The numbers of the cluster: their slopes are the differences of prices, summed along the path."""
    scenario, executions = path.run.program.scenario, path.executions
    precise = in_double_precision(scenario.cluster)
    for number in hardware_numbers(scenario.cluster, scenario.dtype).values():
        more_s, less_s = (again.seconds_on(scaled(precise, number.fields, 1 + step)) for step in (STEP, -STEP))

        def run(factor: float, fields: tuple[Field, ...] = number.fields) -> Run:
            return again.on(scaled(scenario.cluster, fields, factor))

        yield _Lever(
            name=number.name,
            what=number.title,
            unit=number.unit,
            value=number.value(scenario.cluster),
            slope_s=float((executions * (more_s - less_s)).sum() / (2 * STEP)),
            less_is_better=number.less_is_better,
            run=run,
        )


def _kind_levers(path: CriticalPath, again: Rerun) -> Iterator[_Lever]:
    """The kinds of operators: the derivative by the time of all of them is their share of the path."""
    priced_ps, kinds = path.run.program.operator_ps, np.array([operator.kind for operator in path.run.operators])
    spent_s = seconds(path.operator_ps.sum(axis=0))
    for kind in (kind for kind in COMPUTE + COMMUNICATION if spent_s[kinds == kind].any()):

        def run(factor: float, chosen: NDArray[np.bool_] = kinds == kind) -> Run:
            return again.with_durations(np.rint(priced_ps * np.where(chosen, factor, 1.0)).astype(np.int64))

        slope_s = float(spent_s[kinds == kind].sum())
        yield _Lever(f"{kind}_time", f"{kind} time", "s", slope_s, slope_s, less_is_better=True, run=run)


def _row(lever: _Lever, path: CriticalPath) -> dict[str, object]:
    makespan_ps = path.run.makespan_ps
    change = 100 * (lever.run(MORE).makespan_ps / makespan_ps - 1)
    at, following = _next_bottleneck(lever, path) if lever.slope_s else (math.nan, None)
    return {
        "parameter": lever.name,
        "what": lever.what,
        "value": math.nan if lever.value is None else lever.value,
        "unit": lever.unit,
        "elasticity": lever.slope_s * PICOSECONDS_PER_SECOND / makespan_ps,
        "slope_s": lever.slope_s,
        "derivative_s": math.nan if lever.value is None else lever.slope_s / lever.value,
        "change_percent": change,
        "takes_over_at": at,
        "next_bottleneck": following,
        "text": f"{lever.what} +10 % {_effect(change)}",
    }


def _effect(change: float) -> str:
    if change == 0:
        return "changes nothing"
    return f"gives {change:+.1f} %" if abs(change) >= _VISIBLE else "gives less than 0.1 %"


def _next_bottleneck(lever: _Lever, path: CriticalPath) -> tuple[float, str | None]:
    """Find the factor from which on another part of the critical path is the largest, by halving."""

    def bound_at(exponent: float) -> str:
        return CriticalPath(lever.run(FURTHEST ** (-exponent if lever.less_is_better else exponent))).bound

    same, other = 0.0, 1.0
    if (following := bound_at(other)) == path.bound:
        return math.nan, None
    for _ in range(_HALVINGS):
        middle = (same + other) / 2
        found = bound_at(middle)
        if found == path.bound:
            same = middle
        else:
            other, following = middle, found
    return FURTHEST ** (-other if lever.less_is_better else other), following
