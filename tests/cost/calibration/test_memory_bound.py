"""Fits of memory-bound kernels: known coefficients are found again, few points keep the prior, bad ones are refused."""

import numpy as np
import pandas as pd
import pytest

import perfsim
from perfsim.cost.calibration.memory_bound import DEFAULT, fit_memory_bound
from perfsim.cost.memory_bound import MemoryBoundCoefficients, memory_bound_time

TRUTH = MemoryBoundCoefficients(5e-6, 0.6, 3.0, 2.5, includes_gap=True)
MOVED = np.geomspace(1e3, 1e10, 60)


@pytest.fixture(scope="module")
def devices(h100):
    """Give two devices whose memory differs."""
    return {"h100_sxm": h100.accelerator, "h200_sxm": perfsim.load_cluster("dgx-h200").accelerator}


def table(devices, coefficients, moved, *, in_l2):
    """Give measurements that obey known coefficients."""
    return pd.concat(
        pd.DataFrame(
            {
                "system": system,
                "moved_bytes": moved,
                "latency_s": memory_bound_time(device, coefficients, moved, in_l2=in_l2).seconds,
            }
        )
        for system, device in devices.items()
    )


@pytest.mark.parametrize("in_l2", [True, False])
def test_known_coefficients_are_found_again(devices, in_l2):
    """From two devices together; what the cache does shows in hot tables only."""
    found, undetermined = fit_memory_bound(table(devices, TRUTH, MOVED, in_l2=in_l2), devices, in_l2=in_l2)
    for name in ("fixed_s", "efficiency", "sharpness"):
        assert getattr(found, name) == pytest.approx(getattr(TRUTH, name), rel=0.04)  # the prior pulls a little
    assert found.includes_gap
    if in_l2:
        assert found.l2_speedup == pytest.approx(2.5, rel=0.03)
        assert undetermined == ()
    else:
        assert found.l2_speedup == pytest.approx(DEFAULT.l2_speedup, rel=1e-4)
        assert undetermined == ("l2_speedup",)


@pytest.mark.parametrize("repeats", [1, 20])
def test_degenerate_points_keep_the_prior(devices, repeats):
    """The same tiny kernel over and over tells about the fixed time only."""
    rows = table(devices, TRUTH, np.full(repeats, 64.0), in_l2=True)
    found, undetermined = fit_memory_bound(rows, devices)
    assert found.fixed_s == pytest.approx(5e-6, rel=0.01)
    for name in ("efficiency", "sharpness", "l2_speedup"):
        assert getattr(found, name) == pytest.approx(getattr(DEFAULT, name), rel=0.02)
    assert undetermined == ("efficiency", "sharpness", "l2_speedup")


@pytest.mark.parametrize(
    ("change", "field"),
    [({"latency_s": 0.0}, "latency_s"), ({"moved_bytes": np.inf}, "moved_bytes"), ({"system": "tpu"}, "system"),
     ({"latency_s": 1e-12}, "latency_s")],
    ids=str,
)  # fmt: skip
def test_measurements_at_fault_are_refused(refused, devices, change, field):
    """With the name of the column; from memory nothing beats the bandwidth."""
    rows = table(devices, TRUTH, MOVED, in_l2=False).assign(**change)
    faults = refused(fit_memory_bound, rows, devices, in_l2=False)
    assert [fault.field for fault in faults] == [f"measurements.{field}"]


def test_missing_columns_and_rows_are_named(refused, devices):
    """All of them."""
    rows = table(devices, TRUTH, MOVED, in_l2=False)
    faults = refused(fit_memory_bound, rows.drop(columns=["system", "moved_bytes"]), devices)
    assert [fault.field for fault in faults] == ["measurements.system", "measurements.moved_bytes"]
    assert refused(fit_memory_bound, rows.head(0), devices)[0].field == "measurements.rows"
