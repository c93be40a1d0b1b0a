"""Fits of expert all-to-alls: known coefficients are found again."""

import itertools

import numpy as np
import pandas as pd
import pytest

from perfsim.cost.calibration.expert_all_to_all import fit_expert_all_to_all, predict_expert_all_to_all
from perfsim.cost.expert_all_to_all import ExpertAllToAllCoefficients

SIZES = list(itertools.product(np.geomspace(1e3, 1e9, 20), [32, 256]))


@pytest.mark.parametrize(
    ("truth", "sms"),
    [
        (ExpertAllToAllCoefficients(2e-5, 5e-8, 0.5, 1.5), [np.inf]),
        (ExpertAllToAllCoefficients(3e-5, 5e-8, 0.7, 1.2, 1e10), [8, 24, 64]),
    ],
    ids=["low_latency", "high_throughput"],
)
def test_known_coefficients_are_found_again(truth, sms):
    """Without and with a limit by multiprocessors."""
    rows = pd.DataFrame(
        [(sent, experts, count, 450e9) for (sent, experts), count in itertools.product(SIZES, sms)],
        columns=["sent_bytes", "num_experts", "sms", "bytes_per_s"],
    )
    rows["latency_s"] = predict_expert_all_to_all(truth, rows)
    found = fit_expert_all_to_all(rows)
    for name in ("fixed_s", "expert_s", "efficiency", "sharpness", "sm_bytes_per_s"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=0.05)
