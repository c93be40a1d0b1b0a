"""The axes of a sweep: what varies, over which values, and the points that they span."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import Fault, Faults, InputError
from perfsim.spec.files import to_plain
from perfsim.spec.plan import Plan
from perfsim.spec.scenario import Scenario, field_path, replace_nested
from perfsim.units import MAX_SIZE

__all__ = ["PARTS", "SIZES", "Axes", "Axis", "plain", "read_axes"]

SIZES = ("workload.batch_size", "workload.sequence_length", "plan.microbatch_size")
"""Axes along which one scenario is evaluated as a whole, by arrays."""

PARTS = ("cluster", "model", "plan", "workload")
"""Of a scenario. What else may vary, traffic and engines, is cheaper to change than any of them."""

_TRIED = 1000
"""Combinations of the other axes with which a value is tried before it is refused."""


@dataclass(frozen=True)
class Axis:
    """One thing that varies.

    Attributes
    ----------
    name : str
        As the user wrote it; the name of its column.
    path : str
        Dotted name in the scenario, or the name of a whole part.
    values : tuple
    labels : tuple
        What stands in the column: the values, or the names of whole parts.
    """

    name: str
    path: str
    values: tuple[Any, ...]
    labels: tuple[Any, ...]

    @property
    def is_part(self) -> bool:
        """Whether whole plans, workloads, models, clusters or engines vary."""
        return "." not in self.path

    @property
    def part(self) -> str:
        """The part that varies, or of which a field varies."""
        return self.path.partition(".")[0]

    def fields(self) -> list[str]:
        """Fields that stand beside the labels of whole parts."""
        names = _scalar_fields(self.values) if self.is_part else []
        return [name for name in names if self.path != "cluster" or name != "title"]


@dataclass(frozen=True)
class Axes:
    """All axes of a sweep; their product, the last axis varying fastest, is the points.

    Attributes
    ----------
    axes : tuple of Axis
    """

    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each axis."""
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def num_points(self) -> int:
        """Number of points."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def points_per_scenario(self) -> int:
        """Points that are evaluated as a whole: those that differ in sizes only."""
        return int(np.prod([len(axis.values) for axis in self.axes if axis.path in SIZES], dtype=np.int64))

    def columns(self) -> Iterator[tuple[str, Axis, list[Any]]]:
        """Give every column: its name, its axis, and what stands in it for each value of the axis.

        An axis has its values or labels; whole parts have their fields beside them, but for those that another axis
        changes, which have columns of their own.
        """
        paths = {axis.path for axis in self.axes}
        for axis in self.axes:
            yield axis.name, axis, list(axis.labels)
            for field in axis.fields():
                if f"{axis.path}.{field}" not in paths:
                    yield f"{axis.path}.{field}", axis, [getattr(value, field) for value in axis.values]

    def indices(self, points: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """For each axis, by its path, which of its values each point has."""
        unravelled = np.unravel_index(points, self.shape)
        return {axis.path: index for axis, index in zip(self.axes, unravelled, strict=True)}

    @cached_property
    def _work_order(self) -> tuple[int, ...]:
        """Positions of the axes, those last along which most is shared: clusters share layouts, sizes everything."""

        def shared(i: int) -> int:
            axis = self.axes[i]
            return 2 if axis.path in SIZES or axis.part not in PARTS else int(axis.part == "cluster")

        return tuple(sorted(range(len(self.axes)), key=shared))

    def in_work_order(self, first: int, last: int) -> NDArray[np.int64]:
        """Points number `first` to `last` in an order in which points of one scenario stand together."""
        shape = [self.shape[i] for i in self._work_order]
        index = np.unravel_index(np.arange(first, last), shape)
        back = np.argsort(self._work_order)
        return np.ravel_multi_index([index[i] for i in back], self.shape)

    def by_path(self, path: str) -> Axis | None:
        """The axis of a path, or nothing."""
        return next((axis for axis in self.axes if axis.path == path), None)

    def to_table(self) -> list[dict[str, Any]]:
        """Plain values that say what varies, for files and fingerprints."""
        return [
            {
                "name": axis.name,
                "path": axis.path,
                "labels": _plain_list(axis.labels),
                "values": _plain_list(axis.values),
            }
            for axis in self.axes
        ]


def read_axes(scenario: Scenario, axes: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> Axes:
    """Check the axes of a sweep and find out what they mean.

    Parameters
    ----------
    scenario : Scenario
        What the sweep starts from.
    axes : mapping
        Field names as `Scenario.with_` takes them, each with a sequence of values or a mapping from labels to values.
    more : mapping, optional
        Further parts by their names, such as ``engine``, whose fields may vary too.

    Raises
    ------
    InputError
        With all faults together: an axis is unknown or empty, or a value cannot stand in its field.
    """
    faults = Faults("sweep")
    if not axes:
        faults.add("axes", {}, "must name at least one field to vary", "such as batch_size=[64, 128]")
    base = {**{name: getattr(scenario, name) for name in PARTS}, **(more or {})}
    found = (_read_axis(name, values, base, faults) for name, values in axes.items())
    read = [axis for axis in found if axis is not None]
    paths = [axis.path for axis in read]
    for axis in read:
        if paths.count(axis.path) > 1:
            faults.add(axis.name, "...", f"varies {axis.path}, which another axis varies too", "leave one out")
        _check_values(base[axis.part], axis, [other for other in read if other is not axis], faults)
    faults.raise_if_any()
    return Axes(tuple(read))


def _read_axis(name: str, values: Any, base: Mapping[str, Any], faults: Faults) -> Axis | None:
    more = {part: type(value) for part, value in base.items() if part not in PARTS}
    path = name if name in base else field_path(name, faults, more)
    labels: tuple[Any, ...] | None = None
    if isinstance(values, Mapping):
        labels, values = tuple(map(str, values)), tuple(values.values())
    if isinstance(values, str) or not isinstance(values, Iterable):
        faults.add(
            name, values, "must be a sequence of values, or a mapping from labels to values", f"write [{values!r}]"
        )
        return None
    values = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
    if not values:
        faults.add(name, [], "must have at least one value")
    if path is None or not values:
        return None
    if labels is None:
        labels = tuple(value if _is_plain(value) else _label(value) for value in values)
    if len(set(map(repr, labels))) < len(labels):
        faults.add(name, labels, "must have values that differ", "or name them with a mapping from labels to values")
    return Axis(name, path, values, labels)


def _check_values(base: Any, axis: Axis, others: list[Axis], faults: Faults) -> None:
    """Record values that can never stand in their field; what only other axes forbid is a point's own reason."""
    part, _, field = axis.path.partition(".")
    if not field:
        for value in axis.values:
            faults.instance(axis.name, value, type(base))
        return
    beside = [
        [(other.path.partition(".")[2], value) for value in other.values]
        for other in others
        if other.path.startswith(f"{part}.") and other.path not in SIZES
    ]
    wholes = next((other.values for other in others if other.path == part), (base,))
    wholes = tuple(whole for whole in wholes if isinstance(whole, type(base))) or (base,)
    for value in axis.values:
        # There may be millions of sizes, and what they may be is simple.
        if axis.path in SIZES and type(value) is int and 0 < value <= MAX_SIZE:
            continue
        first: list[Fault] = []
        for whole, *combination in islice(product(wholes, *beside), _TRIED):
            found = _faults_of(whole, axis.path, {**dict(combination), field: value})
            first = first or found
            if not found:
                break
        else:
            faults.found += first


def _faults_of(part: Any, path: str, changes: dict[str, Any]) -> list[Fault]:
    """What is wrong with the field `path` of a part after some changes; other fields may vary too."""
    try:
        replace_nested(part, changes, path.partition(".")[0])
    except InputError as error:
        return [fault for fault in error.faults if f"{fault.field}.".startswith(f"{path}.")]
    return []


def _is_plain(value: Any) -> bool:
    """Whether a column can hold a value: a number, a text, nothing, or a tuple of such."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def plain(value: Any) -> Any:
    """Give a value of a table as JSON gives it back: NumPy's numbers as Python's, tuples and arrays as lists."""
    if isinstance(value, tuple | list | np.ndarray):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _label(value: Any) -> str:
    if isinstance(value, Plan):
        return value.label
    if hasattr(value, "num_devices"):
        return f"{value.name} x {value.num_devices}"
    return str(getattr(value, "policy", getattr(value, "name", value)))


def _scalar_fields(values: tuple[Any, ...]) -> list[str]:
    """Fields of a part that a column can hold."""
    names = [field.name for field in dataclasses.fields(values[0])]
    return [name for name in names if all(_is_plain(getattr(value, name)) for value in values)]


def _plain_list(values: tuple[Any, ...]) -> list[Any]:
    return [to_plain(value) for value in values]
