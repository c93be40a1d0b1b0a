"""Fit of the expert all-to-all to a table of one kernel and direction.

Rows come as a DataFrame with the columns ``sent_bytes``, ``num_experts``, ``sms`` (infinite where the kernel takes what
it needs), ``latency_s`` and ``bytes_per_s``, the datasheet rate of one device in one direction.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from perfsim.cost.calibration.protocols import soft_residual
from perfsim.cost.expert_all_to_all import ExpertAllToAllCoefficients, expert_all_to_all_seconds
from perfsim.cost.protocols import Floats

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["fit_expert_all_to_all", "predict_expert_all_to_all"]

_START = np.log([15e-6, 1e-8, 0.6, 1.5, 25e9])
_LOWER, _UPPER = np.log([1e-6, 1e-10, 0.05, 1.0, 1e9]), np.log([1e-3, 1e-6, 1.0, 8.0, 5e11])
_SPREAD = np.array([1.0, 1.5, 0.5, 0.5, 1.0])
"""Prior standard deviations of the logarithms of the coefficients, in the order of the dataclass."""
_NOISE = 0.05


def fit_expert_all_to_all(rows: pd.DataFrame) -> ExpertAllToAllCoefficients:
    """Fit by the soft-L1 loss of the log error, with a wide prior."""
    from scipy.optimize import least_squares

    limited = bool(np.isfinite(rows["sms"]).all())
    measured = np.log(rows["latency_s"].to_numpy(float))

    def coefficients(theta: Floats) -> ExpertAllToAllCoefficients:
        fixed_s, expert_s, efficiency, sharpness, sm_bytes_per_s = (float(value) for value in np.exp(theta))
        return ExpertAllToAllCoefficients(
            fixed_s, expert_s, min(efficiency, 1.0), max(sharpness, 1.0), sm_bytes_per_s if limited else math.inf
        )

    def penalised(theta: Floats) -> Floats:
        error = np.log(predict_expert_all_to_all(coefficients(theta), rows)) - measured
        return np.concatenate([soft_residual(error, _NOISE), (theta - _START) / _SPREAD])

    return coefficients(least_squares(penalised, _START, bounds=(_LOWER, _UPPER), x_scale=_SPREAD).x)


def predict_expert_all_to_all(coefficients: ExpertAllToAllCoefficients, rows: pd.DataFrame) -> Floats:
    """Seconds for every row of a table."""
    sent, experts, sms, rate = (
        rows[name].to_numpy(float) for name in ("sent_bytes", "num_experts", "sms", "bytes_per_s")
    )
    return expert_all_to_all_seconds(coefficients, sent, num_experts=experts, bytes_per_s=rate, sms=sms)
