"""Where one plan overtakes another along an axis."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import Faults
from perfsim.spec.scenario import Scenario
from perfsim.study.sweep import sweep

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["crossover"]

_SMALLER_IS_BETTER = {
    "makespan_s": True, "first_sequence_s": True, "peak_bytes": True,
    "tokens_per_s": False, "mfu": False, "mfu_full_attention": False,
}  # fmt: skip
_SAMPLES = 64
"""Values at which leaders are compared first; a lead that is lost and won again between two of them goes unnoticed."""
_SPLIT = 16
_TOLERANCE = 1e-9
"""Relative width to which the place of a change is narrowed down, where values are not whole numbers."""

Values = NDArray[Any]


def crossover(
    scenarios: Mapping[str, Scenario], *, metric: str = "makespan_s", must_fit: bool = True, **axis: tuple[float, float]
) -> pd.DataFrame:
    """Find the values of an axis at which one scenario overtakes another.

    Parameters
    ----------
    scenarios : mapping of str to Scenario
        At least two, by name, such as two plans for the same model.
    metric : str
        What is compared: ``makespan_s``, ``first_sequence_s``, ``peak_bytes`` (less is better), ``tokens_per_s``,
        ``mfu`` or ``mfu_full_attention`` (more is better). Of equals the first in `scenarios` leads.
    must_fit : bool
        Whether a scenario that does not fit in memory is out of the race.
    **axis
        One field with the least and the greatest value, as in ``batch_size=(1, 4096)`` or
        ``**{"cluster.tiers.0.bytes_per_s": (1e11, 1e12)}``. Between two whole numbers only whole numbers are tried.

    Returns
    -------
    DataFrame
        One row for each change of the leader, in the order of the axis: ``below`` and ``above``, the values between
        which it lies (neighbours among whole numbers, else closer than a billionth), and ``leader_below`` and
        ``leader_above`` (missing where nothing is possible). Leaders are compared at 64 values in geometric order
        first: a lead that is lost and won again between two of them goes unnoticed.

    Raises
    ------
    InputError
        There are fewer than two scenarios, not exactly one axis, no range, or the metric is unknown.

    Examples
    --------
    >>> import perfsim
    >>> names = ["seed-layerwise-pipelined", "seed-improved"]
    >>> plans = {name: perfsim.load_scenario(name) for name in names}
    >>> perfsim.crossover(plans, batch_size=(1, 1024))[["leader_below", "leader_above"]].values.tolist()
    [['seed-improved', 'seed-layerwise-pipelined']]
    """
    import pandas as pd

    name, low, high = _check(scenarios, metric, axis)
    whole = isinstance(low, numbers.Integral) and isinstance(high, numbers.Integral)
    values = _between(low, high, _SAMPLES, whole=whole)
    leaders = _leaders(scenarios, metric, name, values, must_fit=must_fit)
    while len(split := _refinable(values, leaders, whole=whole)):
        added = np.concatenate([_between(values[i], values[i + 1], _SPLIT, whole=whole)[1:-1] for i in split])
        found = _leaders(scenarios, metric, name, added, must_fit=must_fit)
        order = np.argsort(merged := np.concatenate([values, added]), kind="stable")
        values, leaders = merged[order], np.concatenate([leaders, found])[order]
    names = np.array([*scenarios, None], dtype=object)
    changes = np.flatnonzero(leaders[1:] != leaders[:-1])
    return pd.DataFrame(
        {
            "below": values[changes],
            "above": values[changes + 1],
            "leader_below": names[leaders[changes]],
            "leader_above": names[leaders[changes + 1]],
        }
    )


def _check(scenarios: Mapping[str, Scenario], metric: str, axis: Mapping[str, Any]) -> tuple[str, Any, Any]:
    faults = Faults("crossover")
    if not isinstance(scenarios, Mapping) or len(scenarios) < 2:  # noqa: PLR2004  (nobody overtakes alone)
        faults.add("scenarios", scenarios, "must be a mapping with at least two scenarios", 'such as {"a": a, "b": b}')
    else:
        for name, scenario in scenarios.items():
            faults.instance(f"scenarios[{name!r}]", scenario, Scenario)
    faults.choice("metric", metric, _SMALLER_IS_BETTER)
    if len(axis) != 1:
        faults.add("axis", sorted(axis), "must be exactly one field", "such as batch_size=(1, 4096)")
        faults.raise_if_any()
    name, span = next(iter(axis.items()))
    if not isinstance(span, tuple | list) or len(span) != 2:  # noqa: PLR2004
        faults.add(name, span, "must be the least and the greatest value", f"such as {name}=(1, 4096)")
        faults.raise_if_any()
    good = [faults.number(name, end) for end in span]
    if all(good) and span[0] >= span[1]:
        faults.add(name, span, "must have the least value first")
    faults.raise_if_any()
    return name, span[0], span[1]


def _between(low: float, high: float, count: int, *, whole: bool) -> Values:
    """Values from `low` to `high`, both included, in geometric order."""
    values = np.geomspace(float(low), float(high), count)
    values[0], values[-1] = low, high
    return np.unique(np.rint(values).astype(np.int64)) if whole else np.unique(values)


def _refinable(values: Values, leaders: Values, *, whole: bool) -> NDArray[np.int64]:
    """Gaps in which the leader changes and that can still be narrowed down."""
    gap = values[1:] - values[:-1]
    wide = gap > 1 if whole else gap > _TOLERANCE * values[1:]
    return np.flatnonzero((leaders[1:] != leaders[:-1]) & wide)


def _leaders(
    scenarios: Mapping[str, Scenario], metric: str, name: str, values: Values, *, must_fit: bool
) -> NDArray[np.int64]:
    """Number of the scenario that is best at each value, -1 where none is possible."""
    figures, axis = np.empty((len(scenarios), len(values))), cast("dict[str, Any]", {name: values})
    for row, scenario in zip(figures, scenarios.values(), strict=True):
        table = sweep(scenario, progress=False, **axis)
        worse = 1.0 if _SMALLER_IS_BETTER[metric] else -1.0
        usable = table["fits"] if must_fit else table[metric].notna()
        row[:] = np.where(usable, worse * table[metric], np.inf)
    return np.where(np.isfinite(figures).any(axis=0), figures.argmin(axis=0), -1)
