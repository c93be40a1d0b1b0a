"""What the pictures of a sweep read from its table: columns in words and units, their values, and which points fit."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import Faults, InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DOES_NOT_FIT", "FITS", "IMPOSSIBLE", "Column", "Numbers", "Scale", "check_table", "check_unique", "is_geometric",
    "is_wide", "numbers_of", "states_of", "varying", "words_of",
]  # fmt: skip

Numbers = NDArray[np.float64]

FITS, DOES_NOT_FIT, IMPOSSIBLE = range(3)

_RESULTS = {
    "makespan_s": "makespan",
    "tokens_per_s": "throughput",
    "first_sequence_s": "time until the first sequence",
    "mfu": "MFU",
    "mfu_full_attention": "MFU with full attention",
    "peak_bytes": "memory at its peak",
    "capacity_bytes": "memory capacity",
    **{
        f"{name}{which}_s": f"{words}{which.replace('_', ' ')}"
        for name, words in (("ttft", "TTFT"), ("tpot", "TPOT"), ("latency", "latency"))
        for which in ("", "_p50", "_p90", "_p99")
    },
    "tokens_per_s_per_gpu": "throughput of a GPU",
    "completed_requests_per_s": "requests completed",
    "goodput_requests_per_s": "goodput",
    "goodput_share": "share of goodput",
    "most_kv_share": "KV cache at its peak",
    "preemptions": "preemptions",
    "gpus": "GPUs",
    "drains": "drains",
    "fits": "fits",
    "reason": "reason",
}
"""Columns that a sweep computes, in words."""

_RATES = {"requests_per_s": "request rate"}
"""Fields whose names without the unit would say something else."""

_UNITS = {
    "tokens_per_s_per_gpu": ((1.0, "tokens/s"),),
    "requests_per_s": ((1.0, "requests/s"),),
    "tokens_per_s": ((1e6, "million tokens/s"), (1.0, "tokens/s")),
    "flop_per_s": ((1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s")),
    "bytes_per_s": ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s")),
    "bytes": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")),
    "hz": ((1e9, "GHz"), (1e6, "MHz")),
    "watt": ((1.0, "W"),),
    "mfu": ((0.01, "%"),),
    "mfu_full_attention": ((0.01, "%"),),
    "share": ((0.01, "%"),),
}
"""By the end of a column's name, the longest first. The largest is used of which the values are at least two."""

_COUNTED = {
    "batch_size": "sequences", "microbatch_size": "sequences", "sequence_length": "tokens", "concurrency": "clients",
}  # fmt: skip

_WIDE = 50.0  # ratio of values from which on a linear scale hides the small ones
_GEOMETRIC = 4.0  # least ratio of the last to the first value of a geometric series


def check_table(table: Any, named: Mapping[str, str | None], numeric: Sequence[str]) -> None:
    """Refuse a table or columns that cannot be drawn.

    Parameters
    ----------
    table : DataFrame
    named : mapping of str to str or None
        By the name of the parameter, the column that it names.
    numeric : sequence of str
        Parameters whose columns must hold numbers.

    Raises
    ------
    InputError
        It is no table of a sweep, or has no such column.
    """
    import pandas as pd

    if not isinstance(table, pd.DataFrame) or table.empty or not {"fits", "reason"} <= set(table.columns):
        allowed = "must be a sweep's table with at least one row and the columns fits and reason"
        raise InputError.of("table", type(table).__name__, allowed)
    faults, columns = Faults(), [str(name) for name in table.columns]
    for field, name in named.items():
        if name is None and field in {"by", "label"}:
            continue
        if faults.choice(field, name, columns) and field in numeric and not _is_numeric(table[name]):
            faults.add(field, name, "must be a column of numbers")
    faults.raise_if_any()


def check_unique(table: pd.DataFrame, keys: list[str]) -> None:
    """Refuse rows that would be drawn over each other.

    Raises
    ------
    InputError
        Rows agree in all keys; it names the axes in which they differ.
    """
    if len(set(keys)) < len(keys):
        raise InputError.of("columns", tuple(keys), "must be different columns")
    if not table.duplicated(keys).any():
        return
    others = varying(table, keys)
    chosen = [f"(table[{name!r}] == {table[name].dropna().iloc[:1].tolist()[0]!r})" for name in others]
    condition = " & ".join(chosen) if len(chosen) > 1 else "".join(chosen)[1:-1]
    rows = f"must have one row for each {' and '.join(keys)}"
    raise InputError.of(
        "table", f"{len(table):,} rows", f"{rows}, but rows also differ in {' and '.join(others)}" if others else rows,
        f"select one value with table[{condition}]" if others else "leave out copies with table.drop_duplicates()",
    )  # fmt: skip


def varying(table: pd.DataFrame, keys: list[str] | None = None) -> list[str]:
    """Axes of a sweep that vary, or vary between rows that agree in all keys.

    The fields of a plan do not count where the plan itself varies, unless a field is a key.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"plan": ["a", "b"], "plan.tensor": [1, 2], "dtype": "fp8", "makespan_s": [3.0, 4.0]})
    >>> varying(table), varying(table, ["dtype"]), varying(table, ["plan"])
    (['plan'], ['plan'], [])
    """
    columns = [str(name) for name in table.columns]
    taken = {*_RESULTS, *(keys or []), *(key.rpartition(".")[0] for key in keys or [])}
    axes = list(itertools.takewhile(lambda name: name not in _RESULTS, columns)) or columns
    axes = [name for name in axes if name not in taken]
    texts = table[axes].astype(str)  # a list, as Parquet gives back a tuple, cannot be counted
    groups = texts.groupby([table[key] for key in keys], dropna=False, sort=False) if keys else texts
    found = [name for name in axes if np.max(groups[name].nunique()) > 1]
    return [name for name in found if name.rpartition(".")[0] not in found]


def states_of(table: pd.DataFrame) -> NDArray[np.int64]:
    """Whether each point fits, does not, or is impossible."""
    impossible = table["reason"].astype(str).str.startswith("impossible")
    return np.select([table["fits"].eq(True), impossible], [FITS, IMPOSSIBLE], DOES_NOT_FIT)


def numbers_of(column: pd.Series) -> Numbers:
    """Values as floats; what is missing or infinite is NaN."""
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def _is_numeric(column: pd.Series) -> bool:
    return column.dtype.kind in "iuf"


def is_wide(values: Numbers) -> bool:
    """Whether only a logarithmic scale shows both the small and the large values.

    Examples
    --------
    >>> is_wide(np.array([1.0, 100.0, np.nan])), is_wide(np.array([0.0, 100.0])), is_wide(np.array([]))
    (True, False, False)
    """
    finite = values[np.isfinite(values)]
    return bool(len(finite)) and 0 < _WIDE * float(finite.min()) <= float(finite.max())


def is_geometric(values: Numbers) -> bool:
    """Whether rising values are spaced more evenly by ratio than by difference.

    Examples
    --------
    >>> is_geometric(np.array([1.0, 2, 4, 8])), is_geometric(np.array([2.0, 4, 6, 8]))
    (True, False)
    """
    if len(values) < 3 or not 0 < _GEOMETRIC * values[0] <= values[-1]:  # noqa: PLR2004 - two have one distance
        return False
    ratios, steps = np.diff(np.log(values)), np.diff(values)
    return bool(ratios.std() / ratios.mean() < steps.std() / steps.mean())


def words_of(name: str) -> str:
    """Name a column in words, without its unit.

    Examples
    --------
    >>> words_of("tokens_per_s"), words_of("cluster.accelerator.memory_bytes_per_s"), words_of("plan")
    ('throughput', 'cluster accelerator memory', 'plan')
    """
    known = _RESULTS.get(name) or _RATES.get(name.rpartition(".")[2])
    words = known or name.removesuffix(_ending(name)).strip("._") or name
    return words.replace("_", " ").replace(".", " ")


def _ending(name: str) -> str:
    """End of a column's name that says its unit."""
    return next((end for end in _UNITS if name == end or name.endswith((f"_{end}", f".{end}"))), "")


@dataclass(frozen=True)
class Scale:
    """The unit that suits some values of a column.

    Attributes
    ----------
    size : float
        One unit, in SI units.
    unit : str
        May be empty.
    """

    size: float
    unit: str

    @classmethod
    def of(cls, name: str, values: Numbers | float) -> Scale:
        """Choose the unit.

        Examples
        --------
        >>> Scale.of("makespan_s", 0.0123).text(0.0123)
        '12.3 ms'
        """
        units = _UNITS.get(_ending(name), ((1.0, ""),))
        largest = float(np.nanmax(np.abs(values), initial=0.0)) or 2 * units[0][0]
        return cls(*next((pair for pair in units if largest >= 2 * pair[0]), units[-1]))

    def label(self, name: str) -> str:
        """Name a column with the unit, for an axis."""
        unit = self.unit or _COUNTED.get(name.rpartition(".")[2], "")
        return f"{words_of(name)} ({unit})" if unit else words_of(name)

    def number(self, value: float, digits: int = 10) -> str:
        """Write a value without the unit."""
        return f"{float(f'{value / self.size:.{digits}g}'):,.10g}"

    def text(self, value: float, digits: int = 10) -> str:
        """Write a value with the unit."""
        return f"{self.number(value, digits)} {self.unit}".rstrip()


@dataclass(frozen=True, eq=False)
class Column:
    """The distinct values of a column, and where they stand on an axis.

    Attributes
    ----------
    name : str
    values : list
        Numbers rise; everything else is in the order of the table.
    row : ndarray of int64
        Which of the values each row of the table has.
    place : ndarray of float64
        The values themselves, or 0, 1, 2, ...
    numeric : bool
    """

    name: str
    values: list[Any]
    row: NDArray[np.int64]
    place: Numbers
    numeric: bool

    @classmethod
    def of(cls, table: pd.DataFrame, name: str, most_even: int = 0) -> Column:
        """Read a column; no more than `most_even` numbers stand at even distances."""
        import pandas as pd

        numeric = _is_numeric(table[name]) and bool(np.isfinite(numbers_of(table[name])).all())
        row, distinct = pd.factorize(table[name], sort=numeric, use_na_sentinel=False)
        even = not numeric or len(distinct) <= most_even
        place = np.arange(len(distinct), dtype=np.float64) if even else np.asarray(distinct, dtype=np.float64)
        return cls(name, list(distinct), row, place, numeric)

    @property
    def log(self) -> bool:
        """Whether a logarithmic axis suits the places."""
        return is_geometric(self.place)

    @property
    def edges(self) -> Numbers:
        """Bounds of cells, half-way between the places."""
        place = np.log(self.place) if self.log else self.place
        steps = np.diff(place) if len(place) > 1 else np.ones(1)
        padded = np.concatenate([place[:1] - steps[:1], place, place[-1:] + steps[-1:]])
        edges = (padded[1:] + padded[:-1]) / 2
        return np.exp(edges) if self.log else edges

    @property
    def scale(self) -> Scale:
        """The unit that suits the values."""
        return Scale.of(self.name, np.asarray(self.values, dtype=np.float64)) if self.numeric else Scale(1.0, "")

    @property
    def texts(self) -> list[str]:
        """The values, for ticks."""
        scale = self.scale
        return [scale.number(value) if _is_number(value) else _text(value) for value in self.values]

    @property
    def phrases(self) -> list[str]:
        """The values, with what they are where they are numbers."""
        words, scale = words_of(self.name), self.scale
        return [f"{words} {scale.text(value)}" if _is_number(value) else _text(value) for value in self.values]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    return "not set" if str(value) in {"None", "nan", "<NA>"} else str(value)
