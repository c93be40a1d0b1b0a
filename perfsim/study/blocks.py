"""A block of a sweep's points: grouped by scenario, each group evaluated as a whole."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import InputError
from perfsim.simulation import simulate
from perfsim.spec.scenario import Scenario, changed_parts
from perfsim.study.axes import SIZES, Axes
from perfsim.study.points import Sizes, evaluate
from perfsim.units import GB, format_bytes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RESULTS", "axis_columns", "evaluate_block"]

Integers = NDArray[np.int64]

FIGURES = (
    "makespan_s", "tokens_per_s", "first_sequence_s", "mfu", "mfu_full_attention", "peak_bytes", "capacity_bytes",
)  # fmt: skip
RESULTS = (*FIGURES, "fits", "reason")
"""Columns that follow those of the axes."""


def evaluate_block(scenario: Scenario, axes: Axes, points: Integers) -> pd.DataFrame:
    """Evaluate some points of a sweep.

    Parameters
    ----------
    scenario : Scenario
    axes : Axes
    points : ndarray of int64
        Numbers of the points; those of one scenario stand together.

    Returns
    -------
    DataFrame
        Indexed by the points.
    """
    import pandas as pd

    indices = axes.indices(points)
    figures = {name: np.full(len(points), np.nan) for name in FIGURES}
    fits, reason = np.zeros(len(points), bool), np.full(len(points), "", dtype=object)
    columns = _Columns(figures, fits, reason)
    for group in _groups(indices):
        changes = {axis.path: axis.values[indices[axis.path][group[0]]] for axis in axes.axes if axis.path not in SIZES}
        values = {path: np.array(axis.values)[indices[path][group]] for path in SIZES if (axis := axes.by_path(path))}
        _evaluate_group(scenario, changes, values, group, columns)
    found = {**figures, "fits": fits, "reason": reason.astype(str)}
    return pd.DataFrame({**axis_columns(axes, points), **found}, index=points)


class _Columns(NamedTuple):
    """What a block computes, to be filled in."""

    figures: dict[str, NDArray[np.float64]]
    fits: NDArray[np.bool_]
    reason: NDArray[np.object_]


def axis_columns(axes: Axes, points: Integers) -> dict[str, Any]:
    """What stands in the columns of the axes for some points."""
    indices = axes.indices(points)
    return {name: _column(values, indices[axis.path]) for name, axis, values in axes.columns()}


def _column(values: list[Any], index: Integers) -> Any:
    """Values by their numbers: numbers in an array, anything else as pandas holds it."""
    import pandas as pd

    if all(type(value) in {int, float} for value in values):
        return np.array(values)[index]
    return pd.Series(values).take(index).array


def _groups(indices: dict[str, Integers]) -> list[Integers]:
    """Positions of the points of each scenario, in order."""
    others = [index for path, index in indices.items() if path not in SIZES]
    total = len(next(iter(indices.values())))
    changes = np.zeros(max(total - 1, 0), bool)
    for index in others:
        changes |= index[1:] != index[:-1]
    return np.split(np.arange(total), np.flatnonzero(changes) + 1)


def _evaluate_group(
    scenario: Scenario, changes: dict[str, Any], values: dict[str, NDArray[Any]], group: Integers, columns: _Columns
) -> None:
    """Fill in the points of one scenario; what makes a point impossible becomes its reason."""
    try:
        parts = changed_parts(scenario, changes)
        sizes = _sizes(parts, values, len(group))
        possible = _possible(parts, sizes)
        _explain(parts, sizes.where(~possible), group[~possible], columns)
        group, sizes = group[possible], sizes.where(possible)
        if len(group):
            base = _first(parts, sizes)
            _fill(_one_by_one(parts, sizes) if _has_no_period(parts) else evaluate(base, sizes), group, columns)
    except InputError as error:
        columns.reason[group] = _words(error)


def _possible(parts: dict[str, Any], sizes: Sizes) -> NDArray[np.bool_]:
    """Which points have sizes that the plan can divide as it must."""
    plan, workload = parts["plan"], parts["workload"]
    possible = (sizes.batch_size % plan.data == 0) & (sizes.sequence_length % plan.context == 0)
    if plan.context > 1:
        possible &= sizes.sequence_length >= 2 * plan.context
    if workload.phase != "decode":
        possible &= sizes.sequence_length // plan.context >= plan.overlap_chunks
    count, size, rest = sizes.where(possible).microbatches(plan)
    if plan.virtual_stages > 1:
        possible[possible] &= (count + (rest > 0)) % plan.pipeline == 0
    if workload.phase != "prefill":
        count, size, rest = sizes.where(possible).microbatches(plan)
        possible[possible] &= np.where(rest > 0, rest, size) >= plan.overlap_chunks
    return possible


def _has_no_period(parts: dict[str, Any]) -> bool:
    """Whether microbatches do not simply repeat: steps of a generation grow, virtual stages go in rounds."""
    return parts["workload"].phase == "generation" or parts["plan"].virtual_stages > 1


def _one_by_one(parts: dict[str, Any], sizes: Sizes) -> dict[str, NDArray[Any]]:
    """Simulate each point by itself."""
    names = (*FIGURES, "fits", "too_long")
    found = [_alone(_first(parts, sizes.where(np.arange(len(sizes.batch_size)) == i)))
             for i in range(len(sizes.batch_size))]  # fmt: skip
    return {name: np.array([point[name] for point in found]) for name in names}


def _alone(scenario: Scenario) -> dict[str, Any]:
    """Simulate one point; what takes longer than times can hold is said to, and has no figures."""
    try:
        result = simulate(scenario)
    except InputError:
        return {**dict.fromkeys(FIGURES, 0.0), "fits": False, "too_long": True}
    memory = result.memory
    fullest = memory.loc[(memory["peak_bytes"] - memory["capacity_bytes"]).idxmax()]
    sizes = {name: fullest[name] for name in ("peak_bytes", "capacity_bytes")}
    figures = {name: getattr(result, name) for name in FIGURES if name not in sizes}
    return {**figures, **sizes, "fits": bool(memory["fits"].all()), "too_long": False}


def _explain(parts: dict[str, Any], sizes: Sizes, group: Integers, columns: _Columns) -> None:
    """Say of impossible points why they are."""
    reasons: dict[tuple[int, ...], str] = {}
    for index, key in enumerate(zip(*(column.tolist() for column in dataclasses.astuple(sizes)), strict=True)):
        if key not in reasons:
            reasons[key] = _impossible(parts, sizes, np.arange(len(group)) == index)
        columns.reason[group[index]] = reasons[key]


def _sizes(parts: dict[str, Any], values: dict[str, NDArray[Any]], count: int) -> Sizes:
    """Sizes of the points: from the axes, or else from the scenario."""

    def column(part: str, field: str) -> Integers:
        given = values.get(f"{part}.{field}")
        if given is None:
            given = np.full(count, getattr(parts[part], field))
        return np.where(given == None, 0, given).astype(np.int64)  # noqa: E711  (element by element)

    return Sizes(
        column("workload", "batch_size"), column("workload", "sequence_length"), column("plan", "microbatch_size")
    )


def _first(parts: dict[str, Any], sizes: Sizes) -> Scenario:
    """The scenario of the first point, which stands for all of them."""
    batch, sequence = int(sizes.batch_size[0]), int(sizes.sequence_length[0])
    workload = dataclasses.replace(parts["workload"], batch_size=batch, sequence_length=sequence)
    plan = dataclasses.replace(parts["plan"], microbatch_size=int(sizes.microbatch_size[0]) or None)
    return Scenario(**{**parts, "workload": workload, "plan": plan})


def _impossible(parts: dict[str, Any], sizes: Sizes, chosen: NDArray[np.bool_]) -> str:
    """Why the chosen points cannot be."""
    try:
        _first(parts, sizes.where(chosen))
    except InputError as error:
        return _words(error)
    message = "a scenario that should be impossible is not"
    raise AssertionError(message)


def _words(error: InputError) -> str:
    return "impossible: " + "; ".join(map(str, error.faults))


def _fill(found: dict[str, NDArray[Any]], group: Integers, columns: _Columns) -> None:
    """Enter what was found for the points of a scenario, and what keeps some of them from fitting."""
    too_long, fits = found["too_long"], found["fits"] & ~found["too_long"]
    for name, column in columns.figures.items():
        column[group] = np.where(too_long, np.nan, found[name])
    columns.fits[group] = fits
    columns.reason[group[too_long]] = "impossible: more picoseconds or bytes than 64 bits can count"
    short = ~fits & ~too_long
    columns.reason[group[short]] = [
        f"does not fit: needs {peak / GB:.4g} GB of {format_bytes(capacity)}"
        for peak, capacity in np.stack([found["peak_bytes"], found["capacity_bytes"]], axis=1)[short].tolist()
    ]
