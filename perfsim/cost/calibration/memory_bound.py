"""Fit of the memory-bound form: to a table, or to a user's rows around known coefficients.

Rows come as a DataFrame with the columns ``system`` (a key of `accelerators`), ``moved_bytes`` and ``latency_s``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from perfsim.cost.calibration.protocols import soft_residual
from perfsim.cost.memory_bound import MemoryBoundCoefficients, memory_bound_time
from perfsim.cost.protocols import Floats
from perfsim.errors import Faults
from perfsim.spec.hardware import Accelerator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "DEFAULT", "fit_memory_bound"]

COLUMNS = ("system", "moved_bytes", "latency_s")
DEFAULT = MemoryBoundCoefficients(fixed_s=2e-6, efficiency=0.8, sharpness=2.0, l2_speedup=1.5, includes_gap=True)
"""Where a fit without known coefficients starts."""

_NOISE = 0.05
_FREE = ("fixed_s", "efficiency", "sharpness", "l2_speedup")
_SPREAD = np.array([1.0, 0.5, 0.5, 0.5])
"""Prior standard deviations of the logarithms of these coefficients."""
_LOWER, _UPPER = np.log([1e-8, 1e-3, 1.0, 1.0]), np.log([1e-3, 1.0, 10.0, 10.0])
_KEPT = 0.9
"""A coefficient is undetermined when the data leave this part of its prior's standard deviation."""


def fit_memory_bound(
    rows: pd.DataFrame,
    accelerators: Mapping[str, Accelerator],
    prior: MemoryBoundCoefficients = DEFAULT,
    *,
    in_l2: bool = True,
) -> tuple[MemoryBoundCoefficients, tuple[str, ...]]:
    """Fit one class of kernels by the soft-L1 loss of the log error, with a prior.

    Parameters
    ----------
    rows : DataFrame
        With the columns `COLUMNS`; rows of several devices share the coefficients.
    accelerators : mapping of str to Accelerator
        The devices that the rows were measured on.
    prior : MemoryBoundCoefficients
    in_l2 : bool
        Whether operands were in the last-level cache when measured, as in a loop over the same tensors.

    Returns
    -------
    coefficients : MemoryBoundCoefficients
    undetermined : tuple of str
        Those that the rows left at the prior.

    Raises
    ------
    InputError
        Rows lack a column, are none, name an unknown device, or are below the speed of light of the cold state.
    """
    from scipy.optimize import least_squares

    _check(rows, accelerators, in_l2=in_l2)
    center = np.clip(np.log([getattr(prior, name) for name in _FREE]), _LOWER + 1e-6, _UPPER - 1e-6)
    measured, moved = np.log(rows["latency_s"].to_numpy(float)), rows["moved_bytes"].to_numpy(float)
    groups = [(accelerators[system], index) for system, index in rows.groupby("system").indices.items()]

    def coefficients(theta: Floats) -> MemoryBoundCoefficients:
        fixed_s, efficiency, sharpness, l2_speedup = (float(value) for value in np.exp(theta))
        return replace(
            prior,
            fixed_s=fixed_s,
            efficiency=min(efficiency, 1.0),
            sharpness=max(sharpness, 1.0),
            l2_speedup=max(l2_speedup, 1.0),
        )

    def penalised(theta: Floats) -> Floats:
        error, now = np.empty(moved.size), coefficients(theta)
        for accelerator, index in groups:
            error[index] = np.log(memory_bound_time(accelerator, now, moved[index], in_l2=in_l2).seconds)
        return np.concatenate([soft_residual(error - measured, _NOISE), (theta - center) / _SPREAD])

    found = least_squares(penalised, center, bounds=(_LOWER, _UPPER), x_scale=_SPREAD)
    deviation = np.sqrt(np.diag(np.linalg.pinv(found.jac.T @ found.jac)))
    kept = tuple(name for name, now, before in zip(_FREE, deviation, _SPREAD, strict=True) if now > _KEPT * before)
    return coefficients(found.x), kept


def _check(rows: pd.DataFrame, accelerators: Mapping[str, Accelerator], *, in_l2: bool) -> None:
    """Refuse measurements that cannot be meant."""
    faults = Faults("measurements")
    for name in COLUMNS:
        if name not in rows:
            faults.add(name, None, "is missing", f"the columns are {', '.join(COLUMNS)}")
        elif name != "system":
            faults.quantities(name, rows[name].to_numpy())
    faults.raise_if_any()
    if rows.empty:
        faults.add("rows", 0, "must be at least one")
    for system in rows["system"].unique():
        faults.choice("system", system, tuple(accelerators))
    faults.raise_if_any()
    if not in_l2:
        bandwidth = rows["system"].map({name: each.memory_bytes_per_s for name, each in accelerators.items()})
        light_s = (rows["moved_bytes"] / bandwidth).to_numpy(float)
        below = rows["latency_s"].to_numpy(float) < light_s
        if below.any():
            faults.add(
                "latency_s", float(rows["latency_s"].to_numpy(float)[below][0]),
                f"must be at least {light_s[below][0]:.3g} s, what the bytes take at the datasheet bandwidth",
                "give seconds, or say that the operands were in the cache (in_l2=True)",
            )  # fmt: skip
    faults.raise_if_any()
