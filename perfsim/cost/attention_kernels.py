"""What the kernels of prefill and of decode attention share: tables of coefficients, choice, head dimensions, norms.

A library has several attention kernels; each has coefficients of its own and says which head dimensions (and, in
decode, which groups of query heads) it serves. Between head dimensions with measurements coefficients are linear;
beyond them the nearest one's count and the estimate is extrapolated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import Faults, InputError
from perfsim.spec.tables import build, freeze_fields

__all__ = [
    "Array",
    "AttentionTime",
    "HeadDimPlace",
    "check_coefficients",
    "locate_head_dim",
    "read_coefficients",
    "read_kernels",
    "smooth_maximum",
    "table_key",
    "write_coefficients",
]

Array = NDArray[np.float64]


class AttentionTime(NamedTuple):
    """Seconds of an estimate and of its parts, which overlap in time; arrays of one shape."""

    seconds: Array
    compute_s: Array
    memory_s: Array
    overhead_s: Array
    roofline_s: Array


K = TypeVar("K")


# From files and back


def check_coefficients(value: Any, **choices: Collection[str]) -> None:
    """Freeze the coefficients of a kernel and refuse impossible ones: call it in ``__post_init__``.

    Tuples have one entry for each head dimension. A coefficient may be 0 where the kernel may lack the part that it
    describes, which is where the dataclass has a default. `choices` has the words that a field may be.
    """
    freeze_fields(value)
    faults = Faults("kernel")
    faults.text("kernel", value.kernel)
    dims = value.head_dims
    if faults.quantities("head_dims", dims) and (not isinstance(dims, tuple) or list(dims) != sorted(set(dims))):
        faults.add("head_dims", dims, "must be a list of head dimensions, ascending")
    for field in dataclasses.fields(value):
        if field.name in choices:
            faults.choice(field.name, getattr(value, field.name), choices[field.name])
        elif field.name not in {"kernel", "head_dims", "clock_ratios"}:
            _check_number(value, field, faults)
    if faults.instance("clock_ratios", value.clock_ratios, Mapping):
        for name, ratio in value.clock_ratios.items():
            faults.number(f"clock_ratios.{name}", ratio)
    faults.raise_if_any()


def _check_number(value: Any, field: dataclasses.Field[Any], faults: Faults) -> None:
    """Record a coefficient that is no flag, no possible number, or not one for each head dimension."""
    given, optional = getattr(value, field.name), field.default is not dataclasses.MISSING
    if isinstance(field.default, bool):
        faults.flag(field.name, given)
    elif not (field.default == math.inf == given) and faults.quantities(field.name, given, zero=optional):
        wanted = np.shape(value.head_dims) if field.name in type(value).BY_HEAD_DIM else ()
        if np.shape(given) != wanted:
            allowed = f"one for each of the head_dims {value.head_dims}" if wanted else "one number"
            faults.add(field.name, given, f"must be {allowed}")


def read_coefficients(kind: type[K], table: Mapping[str, Any]) -> K:
    """Make the coefficients of one kernel from a table with the names of the dataclass's fields.

    Raises
    ------
    InputError
        A key is unknown or missing, or a value impossible; all faults of the table together.
    """
    faults = Faults("kernel")
    value = build(kind, table, faults)
    faults.raise_if_any()
    if value is None:  # build recorded why
        raise InputError.of("kernel", table, "must be a table of coefficients")
    return value


def write_coefficients(kernel: Any) -> dict[str, Any]:
    """Give the table of one kernel; what equals its default is left out, and with it every infinity."""
    values = {field.name: (getattr(kernel, field.name), field.default) for field in dataclasses.fields(kernel)}
    return {name: value for name, (value, default) in values.items() if value not in (default, {})}


def read_kernels(kind: type[K], table: Mapping[str, Any]) -> tuple[K, ...]:
    """Make the kernels of a library from a table of a coefficient file, whose ``kernels`` are in order of choice.

    Examples
    --------
    >>> from perfsim.cost.attention_coefficients import DecodeCoefficients
    >>> read_kernels(DecodeCoefficients, {"kernels": []})
    Traceback (most recent call last):
    ...
    perfsim.errors.InputError: kernels = []: must be a list of at least one kernel
    """
    tables = table.get("kernels")
    if not isinstance(tables, list | tuple) or not tables:
        raise InputError.of("kernels", tables, "must be a list of at least one kernel")
    faults, kernels = Faults(), []
    for index, one in enumerate(tables):
        kernel = build(kind, one, faults.inside(f"kernels.{index}"))
        if kernel is not None:
            kernels.append(kernel)
    faults.raise_if_any()
    return tuple(kernels)


def table_key(tables: Mapping[str, Any], phase: str, dtype: str, kv_dtype: str) -> str | None:
    """Find the table of ``prefill`` or ``decode`` that is nearest to two data types; None where there is none.

    The table of both data types comes first, then those with the same bytes in the cache, then those with the same
    products. Any but the first extrapolates. ``fp16`` is priced as ``bf16`` and ``int8`` in the cache as ``fp8``.

    Examples
    --------
    >>> table_key({"decode.bf16-bf16": {}, "decode.bf16-fp8": {}}, "decode", "fp16", "fp8")
    'decode.bf16-fp8'
    >>> table_key({"prefill.bf16-bf16": {}}, "prefill", "bf16", "fp8")
    'prefill.bf16-bf16'
    """
    query, cache = {"fp16": "bf16"}.get(dtype, dtype), {"fp16": "bf16", "int8": "fp8"}.get(kv_dtype, kv_dtype)
    known = [key.removeprefix(f"{phase}.").split("-") for key in tables if key.startswith(f"{phase}.")]
    if not known:
        return None
    nearest = min(known, key=lambda pair: (pair[1] != cache, pair[0] != query))
    return f"{phase}.{'-'.join(nearest)}"


# Head dimensions


class HeadDimPlace(NamedTuple):
    """Where head dimensions lie among those with measurements."""

    knot: NDArray[np.intp]
    fraction: Array | None
    upper: NDArray[np.intp]

    def read(self, values: Sequence[float]) -> Array:
        """Take coefficients: linear between fitted head dimensions, the nearest one's beyond."""
        table = np.asarray(values, float)
        low: Array = table[self.knot]
        if self.fraction is None:
            return low
        above: Array = table[np.minimum(self.knot + 1, len(table) - 1)]
        return low + self.fraction * (above - low)


def locate_head_dim(known: Sequence[int], head_dim: Array) -> HeadDimPlace:
    """Find the fitted head dimension below, how far it is to the next one, and the one that holds the whole head.

    Examples
    --------
    >>> place = locate_head_dim((64, 128), np.array([64.0, 80.0, 128.0, 512.0]))
    >>> place.read((1.0, 2.0)).tolist()
    [1.0, 1.25, 2.0, 2.0]
    """
    table = np.asarray(known, float)
    upper = np.minimum(np.searchsorted(table, head_dim), len(table) - 1)
    exact = (table[upper] == head_dim) | (upper == 0) | (head_dim > table[-1])
    if np.all(exact):
        return HeadDimPlace(upper, None, upper)
    knot = np.where(exact, upper, upper - 1)
    gap = np.where(exact, 1.0, table[upper] - table[knot])
    return HeadDimPlace(knot, np.where(exact, 0.0, (head_dim - table[knot]) / gap), upper)


def smooth_maximum(first: Array, second: Array, exponent: Array | float) -> Array:
    """Join two times, ``(a^p + b^p)^(1/p)``: from their sum (p = 1) to the longer one, without overflow.

    Examples
    --------
    >>> float(smooth_maximum(3.0, 4.0, 2.0))
    5.0
    """
    longer = np.maximum(first, second)
    ratio = np.minimum(first, second) / longer
    joined: Array = longer * (1 + ratio**exponent) ** (1 / exponent)
    return joined
