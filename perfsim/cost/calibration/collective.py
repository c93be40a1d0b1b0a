"""Fits of collectives: whole tables from scratch, and a user's own measurements around known coefficients.

Rows come as a DataFrame with the columns

    op                 all_reduce, all_gather, reduce_scatter or all_to_all
    num_devices        members of the group, all inside the innermost tier
    payload_bytes      bytes of the full tensor
    latency_s          measured seconds
    bytes_per_s        datasheet rate of one device in one direction
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.calibration.protocols import Measured, fit_protocols, soft_residual
from perfsim.cost.custom_all_reduce import CustomAllReduce
from perfsim.cost.protocols import CollectiveCoefficients, Floats, Protocols, group_parts, wire_factor
from perfsim.errors import Faults

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "COLUMNS", "CollectiveFit", "fit_custom", "fit_custom_around", "fit_nccl", "fit_nccl_around", "predict",
]  # fmt: skip

COLUMNS = ("op", "num_devices", "payload_bytes", "latency_s", "bytes_per_s")

Nccl = Mapping[str, CollectiveCoefficients]
"""Coefficients by operation."""

_SHARED_SPREAD = (0.7, 0.35)
"""Prior standard deviations of the logarithms of the factors on all fixed times and on all efficiencies."""
_OWN_SPREAD = 0.2
"""The same of every coefficient's own factor beside them."""
_KEPT = 0.9
"""A coefficient is undetermined when the data leave this part of its prior's standard deviation."""
_MOST_EVALUATIONS = 15


class _Cell(NamedTuple):
    """Rows of one operation, group size and link, and their places in the table."""

    op: str
    members: int
    bytes_per_s: float
    payload: Floats
    rows: NDArray[np.intp]


def _cells(rows: pd.DataFrame) -> list[_Cell]:
    payload = rows["payload_bytes"].to_numpy(float)
    groups = rows.groupby(["op", "num_devices", "bytes_per_s"]).indices
    return [_Cell(op, int(size), float(rate), payload[index], index) for (op, size, rate), index in groups.items()]


def predict(coefficients: Nccl, rows: pd.DataFrame) -> Floats:
    """Seconds for every row of a table."""
    return _predict(coefficients, _cells(rows), len(rows))


def _predict(coefficients: Nccl, cells: list[_Cell], count: int) -> Floats:
    seconds = np.empty(count)
    for op, members, bytes_per_s, payload, rows in cells:
        fixed_s, network_s = group_parts(coefficients[op], op, payload, members, bytes_per_s)
        seconds[rows] = fixed_s + network_s
    return seconds


# From scratch


def fit_nccl(rows: pd.DataFrame, *, in_switch_sizes: Collection[int] = ()) -> dict[str, CollectiveCoefficients]:
    """Fit every operation and group size of a table by itself.

    Parameters
    ----------
    rows : DataFrame
        With the columns `COLUMNS`; rows of sibling devices may be pooled.
    in_switch_sizes : collection of int
        Group sizes whose long all-reduces the switch adds up.
    """
    found: dict[str, dict[int, Protocols]] = {}
    for (op, size), group in rows.groupby(["op", "num_devices"]):
        ends_in_switch = op == "all_reduce" and size in in_switch_sizes
        found.setdefault(op, {})[int(size)] = _fit_group(op, int(size), group, ends_in_switch=ends_in_switch)
    return {op: CollectiveCoefficients(groups) for op, groups in found.items()}


def fit_custom(rows: pd.DataFrame, limit_bytes: Mapping[int, int]) -> CustomAllReduce:
    """Fit an engine's own all-reduce to the rows up to its limit, by group size."""
    groups = {
        int(size): _fit_group("all_reduce", int(size), group[group["payload_bytes"] <= limit_bytes[int(size)]])
        for size, group in rows.groupby("num_devices")
    }
    return CustomAllReduce(CollectiveCoefficients(groups), {size: limit_bytes[size] for size in groups})


def _fit_group(op: str, members: int, rows: pd.DataFrame, *, ends_in_switch: bool = False) -> Protocols:
    payload, latency_s, rate = (rows[name].to_numpy(float) for name in ("payload_bytes", "latency_s", "bytes_per_s"))
    return fit_protocols(Measured(op, members, payload, latency_s, rate, ends_in_switch=ends_in_switch))


# Around known coefficients


@dataclass(frozen=True)
class CollectiveFit:
    """Coefficients after a user's measurements, and what these did not determine.

    Attributes
    ----------
    coefficients : mapping of str to CollectiveCoefficients
        By operation.
    fixed_factor, efficiency_factor : float
        Factors that all fixed times and all efficiencies were multiplied by.
    undetermined : tuple of str
        Coefficients that the measurements left where they were, up to these factors.
    mape : float
        Mean absolute error on the measurements themselves, in percent.
    """

    coefficients: Nccl
    fixed_factor: float
    efficiency_factor: float
    undetermined: tuple[str, ...]
    mape: float


class _Name(NamedTuple):
    """One coefficient of one protocol."""

    op: str
    members: int
    protocol: int
    field: str

    def __str__(self) -> str:
        return f"{self.op}.group_{self.members}.{self.field}[{self.protocol}]"


def fit_nccl_around(rows: pd.DataFrame, prior: Nccl) -> CollectiveFit:
    """Move known coefficients towards a few measurements; the payloads at which protocols change stay.

    All fixed times share one factor and all efficiencies another, since a different machine, driver or library mostly
    shifts these; beside the two every coefficient has a factor of its own with a narrower prior. The measurements'
    soft-L1 loss and the priors' squares are minimised together.

    Raises
    ------
    InputError
        Rows lack a column, are of an operation that `prior` does not have, or have latencies below the speed of light.
    """
    from scipy.optimize import least_squares

    _check(rows, prior)
    measured, cells = rows["latency_s"].to_numpy(float), _cells(rows)
    names = _names(prior)
    touched = _touched(prior, cells)
    free = [name for name in names if (name.op, name.members, name.protocol) in touched]
    spread = np.concatenate([_SHARED_SPREAD, np.full(len(free), _OWN_SPREAD)])

    def penalised(theta: Floats) -> Floats:
        error = np.log(_predict(_moved(prior, free, theta), cells, measured.size) / measured)
        return np.concatenate([soft_residual(error), theta / spread])

    found = least_squares(penalised, np.zeros(spread.size), x_scale=spread, max_nfev=_MOST_EVALUATIONS)
    deviation = np.sqrt(np.diag(np.linalg.inv(found.jac.T @ found.jac)))
    labels = ["fixed_factor", "efficiency_factor", *map(str, free)]
    kept = [label for label, now, before in zip(labels, deviation, spread, strict=True) if now > _KEPT * before]
    kept += [str(name) for name in names if name not in set(free)]
    coefficients = _moved(prior, free, found.x)
    error = np.abs(predict(coefficients, rows) / measured - 1)
    factors = math.exp(found.x[0]), math.exp(found.x[1])
    return CollectiveFit(coefficients, *factors, tuple(kept), float(100 * error.mean()))


def fit_custom_around(rows: pd.DataFrame, prior: CustomAllReduce) -> tuple[CustomAllReduce, CollectiveFit]:
    """Move an engine's all-reduce towards a few measurements of payloads up to its limit."""
    fit = fit_nccl_around(rows, {"all_reduce": prior.kernels})
    return replace(prior, kernels=fit.coefficients["all_reduce"]), fit


def _check(rows: pd.DataFrame, prior: Nccl) -> None:
    """Refuse measurements that cannot be meant."""
    faults = Faults("measurements")
    for name in COLUMNS:
        if name not in rows:
            faults.add(name, None, "is missing", f"the columns are {', '.join(COLUMNS)}")
        elif name != "op":
            faults.quantities(name, rows[name].to_numpy())
    faults.raise_if_any()
    if rows.empty:
        faults.add("rows", 0, "must be at least one")
    for op in rows["op"].unique():
        faults.choice("op", op, tuple(prior))
    too_small = rows["num_devices"].to_numpy() < 2  # noqa: PLR2004 - a group has two members
    if too_small.any():
        faults.add("num_devices", rows["num_devices"].to_numpy()[too_small][0].item(), "must be at least 2")
    faults.raise_if_any()
    for op, members, bytes_per_s, payload, index in _cells(rows):
        light_s = payload * (min(wire_factor(op, members), 1.0) / bytes_per_s)
        below = rows["latency_s"].to_numpy(float)[index] < light_s
        if below.any():
            faults.add(
                "latency_s", float(rows["latency_s"].to_numpy(float)[index][below][0]),
                f"must be at least {light_s[below][0]:.3g} s, what {payload[below][0]:g} bytes take at the datasheet",
                "give seconds, and bytes of the full tensor",
            )  # fmt: skip
    faults.raise_if_any()


def _names(prior: Nccl) -> list[_Name]:
    """Every coefficient of every protocol."""
    return [
        _Name(op, members, index, field)
        for op, coefficients in prior.items()
        for members, protocols in coefficients.groups.items()
        for index, fill_s in enumerate(protocols.fill_s)
        for field in (("fixed_s", "efficiency", "fill_s") if fill_s else ("fixed_s", "efficiency"))
    ]


def _touched(prior: Nccl, cells: list[_Cell]) -> set[tuple[str, int, int]]:
    """Protocols that measured payloads take, of the measured group size or of its neighbours."""
    found = set()
    for op, members, _, payload, _ in cells:
        known = sorted(prior[op].groups)
        for neighbour in {*[s for s in known if s <= members][-1:], *[s for s in known if s >= members][:1]}:
            indices = np.searchsorted(prior[op].groups[neighbour].switch_bytes, payload)
            found |= {(op, neighbour, int(index)) for index in indices}
    return found


def _moved(prior: Nccl, free: list[_Name], theta: Floats) -> dict[str, CollectiveCoefficients]:
    """Coefficients times the exponentials of the factors' logarithms."""
    own = dict(zip(free, theta[2:].tolist(), strict=True))
    shared = {"fixed_s": float(theta[0]), "efficiency": float(theta[1]), "fill_s": 0.0}

    def field(op: str, members: int, name: str, values: tuple[float, ...]) -> tuple[float, ...]:
        factors = [math.exp(shared[name] + own.get(_Name(op, members, i, name), 0.0)) for i in range(len(values))]
        most = 1.0 if name == "efficiency" else math.inf
        return tuple(min(value * factor, most) for value, factor in zip(values, factors, strict=True))

    def group(op: str, members: int, protocols: Protocols) -> Protocols:
        return replace(
            protocols,
            fixed_s=field(op, members, "fixed_s", protocols.fixed_s),
            efficiency=field(op, members, "efficiency", protocols.efficiency),
            fill_s=field(op, members, "fill_s", protocols.fill_s),
        )

    return {
        op: CollectiveCoefficients({members: group(op, members, one) for members, one in coefficients.groups.items()})
        for op, coefficients in prior.items()
    }
