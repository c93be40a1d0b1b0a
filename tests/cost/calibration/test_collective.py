"""Fits of collectives: known protocols are found again, few points move what they touch, bad ones are refused."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from perfsim.cost.calibration.collective import (
    fit_custom,
    fit_custom_around,
    fit_nccl,
    fit_nccl_around,
    predict,
)
from perfsim.cost.calibration.protocols import Measured, fit_protocols
from perfsim.cost.protocols import CollectiveCoefficients, Protocols

RATE = 450e9
PAYLOAD = 2.0 ** np.arange(9, 33)
TWO = Protocols((6e-6, 1.2e-5), (0.05, 0.8), (0.0, 1e-5), (False, False), switch_bytes=(2**18,))
IN_SWITCH = Protocols((8e-6, 9e-5), (0.75, 0.7), (0.0, 0.0), (False, True), switch_bytes=(2**25,))


def table(op, members, protocols, payload=PAYLOAD, noise=0.0):
    """Give measurements that obey known protocols."""
    rows = pd.DataFrame(
        {"op": op, "num_devices": members, "payload_bytes": payload, "bytes_per_s": RATE, "latency_s": 1.0}
    )
    exact = predict({op: CollectiveCoefficients({members: protocols})}, rows)
    generator = np.random.default_rng(0)
    return rows.assign(latency_s=exact * np.exp(noise * generator.standard_normal(len(rows))))


def test_known_protocols_are_found_again():
    """Their number, where they change, and what they reach."""
    found = fit_nccl(table("all_gather", 4, TWO))["all_gather"].groups[4]
    assert found.fixed_s == pytest.approx(TWO.fixed_s, rel=0.02)
    assert found.efficiency == pytest.approx(TWO.efficiency, rel=0.02)
    assert found.fill_s[1] == pytest.approx(TWO.fill_s[1], rel=0.1)
    assert 2**18 <= found.switch_bytes[0] < 2**19


def test_a_switch_that_adds_up_is_found_again():
    """The last protocol sends nine eighths of the payload."""
    rows = table("all_reduce", 8, IN_SWITCH)
    found = fit_nccl(rows, in_switch_sizes=(8,))["all_reduce"].groups[8]
    assert found.in_switch == (False, True)
    assert found.fixed_s == pytest.approx(IN_SWITCH.fixed_s, rel=0.02)
    assert found.efficiency == pytest.approx(IN_SWITCH.efficiency, rel=0.02)
    assert not any(fit_nccl(rows)["all_reduce"].groups[8].in_switch)


def test_noise_makes_no_protocols():
    """One protocol with errors of two percent stays one."""
    one = Protocols((6e-6,), (0.8,), (0.0,), (False,))
    found = fit_nccl(table("all_gather", 2, one, noise=0.02))["all_gather"].groups[2]
    assert len(found.fixed_s) <= 2
    rows = table("all_gather", 2, one)
    assert predict({"all_gather": CollectiveCoefficients({2: found})}, rows) == pytest.approx(
        rows["latency_s"], rel=0.06
    )


def test_a_fall_in_a_table_is_an_outlier():
    """A larger payload that took less time makes no protocol that starts below the end of the one before."""
    rows = table("all_gather", 4, TWO)
    rows.loc[rows["payload_bytes"] == 2**16, "latency_s"] *= 0.3
    fitted = fit_nccl(rows)["all_gather"]
    sweep = table("all_gather", 4, TWO, np.geomspace(512, 2**32, 2_000))
    seconds = predict({"all_gather": fitted}, sweep)
    assert np.diff(seconds).min() >= -1e-12
    assert np.median(np.abs(seconds / sweep["latency_s"] - 1)) < 0.02


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tables_of_few_payloads_give_one_protocol(count):
    """There is nothing to tell two apart."""
    payload = PAYLOAD[:count]
    found = fit_protocols(Measured("all_gather", 2, payload, np.full(count, 5e-6), np.full(count, RATE)))
    assert len(found.fixed_s) == 1
    assert found.fixed_s[0] == pytest.approx(5e-6, rel=0.01)


def test_an_engine_is_fitted_up_to_its_limit():
    """What is above belongs to NCCL."""
    rows = table("all_reduce", 2, TWO)
    rows.loc[rows["payload_bytes"] > 2**18, "latency_s"] *= 10
    custom = fit_custom(rows, {2: 2**18})
    assert custom.limit_bytes == {2: 2**18}
    assert custom.kernels.groups[2].fixed_s[0] == pytest.approx(6e-6, rel=0.02)
    assert custom.kernels.groups[2].efficiency[0] == pytest.approx(0.05, rel=0.02)


# Around known coefficients


@pytest.fixture
def prior():
    """Give all-gathers of two group sizes."""
    return {"all_gather": CollectiveCoefficients({2: TWO, 8: dataclasses.replace(TWO, fixed_s=(1e-5, 2e-5))})}


def slower(prior, factor):
    """Multiply all fixed times."""
    groups = prior["all_gather"].groups
    changed = {
        size: dataclasses.replace(group, fixed_s=tuple(factor * value for value in group.fixed_s))
        for size, group in groups.items()
    }
    return {"all_gather": CollectiveCoefficients(changed)}


def test_a_slower_machine_is_recognised_from_two_dozen_points(prior):
    """Fixed times of all groups move together, also where nothing was measured."""
    truth = slower(prior, 1.5)
    fit = fit_nccl_around(table("all_gather", 2, truth["all_gather"].groups[2]), prior)
    assert fit.mape < 1
    elsewhere = table("all_gather", 8, truth["all_gather"].groups[8], PAYLOAD[:8])
    before, after = (
        np.abs(predict(c, elsewhere) / elsewhere["latency_s"] - 1).mean() for c in (prior, fit.coefficients)
    )
    assert after < 0.2 * before
    assert fit.fixed_factor == pytest.approx(1.5, rel=0.06)
    assert fit.efficiency_factor == pytest.approx(1.0, rel=0.03)
    assert "all_gather.group_8.fixed_s[0]" in fit.undetermined
    assert "fixed_factor" not in fit.undetermined


def test_the_payloads_of_the_switches_stay(prior):
    """Few points do not tell where they are."""
    fit = fit_nccl_around(table("all_gather", 2, TWO), prior)
    assert fit.coefficients["all_gather"].groups[2].switch_bytes == TWO.switch_bytes


@pytest.mark.parametrize("repeats", [1, 20])
def test_degenerate_points_keep_what_they_do_not_determine(prior, repeats):
    """The same short payload over and over tells about fixed times only."""
    fit = fit_nccl_around(
        table("all_gather", 2, slower(prior, 1.3)["all_gather"].groups[2], np.full(repeats, 512.0)), prior
    )
    found = fit.coefficients["all_gather"].groups[2]
    assert found.efficiency == pytest.approx(TWO.efficiency, rel=0.02)
    assert found.fill_s == TWO.fill_s
    assert {"efficiency_factor", "all_gather.group_2.efficiency[0]", "all_gather.group_2.efficiency[1]"} <= set(
        fit.undetermined
    )
    assert fit.mape < 1


def test_exact_points_change_nothing(prior):
    """The prior was right."""
    fit = fit_nccl_around(table("all_gather", 2, TWO), prior)
    assert fit.coefficients["all_gather"].groups[2].fixed_s == pytest.approx(TWO.fixed_s, rel=1e-3)
    assert fit.mape < 0.1


def test_an_engine_moves_with_measurements_too():
    """Its limits stay."""
    custom = fit_custom(table("all_reduce", 2, TWO), {2: 2**32})
    rows = table("all_reduce", 2, TWO)
    moved, fit = fit_custom_around(rows.assign(latency_s=rows["latency_s"] * 1.2), custom)
    assert moved.limit_bytes == custom.limit_bytes
    assert moved.kernels == fit.coefficients["all_reduce"]
    assert fit.mape < 3


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"latency_s": -1.0}, "latency_s"),
        ({"latency_s": np.nan}, "latency_s"),
        ({"latency_s": "fast"}, "latency_s"),
        ({"latency_s": 1e-12}, "latency_s"),
        ({"op": "broadcast"}, "op"),
        ({"num_devices": 1}, "num_devices"),
        ({"payload_bytes": 0}, "payload_bytes"),
    ],
    ids=str,
)
def test_measurements_at_fault_are_refused(refused, prior, change, field):
    """With the name of the column."""
    faults = refused(fit_nccl_around, table("all_gather", 2, TWO).assign(**change), prior)
    assert [fault.field for fault in faults] == [f"measurements.{field}"]


def test_a_latency_below_the_speed_of_light_says_so(refused, prior):
    """Milliseconds that were taken for seconds the other way round, or bytes for kilobytes."""
    rows = table("all_gather", 2, TWO)
    fault = refused(fit_nccl_around, rows.assign(latency_s=rows["latency_s"] * 1e-3), prior)[0]
    assert "datasheet" in fault.allowed


def test_missing_columns_are_named(refused, prior):
    """All of them."""
    rows = table("all_gather", 2, TWO).drop(columns=["op", "latency_s"])
    faults = refused(fit_nccl_around, rows, prior)
    assert [fault.field for fault in faults] == ["measurements.op", "measurements.latency_s"]


def test_no_measurements_are_refused(refused, prior):
    """At least one is needed."""
    assert refused(fit_nccl_around, table("all_gather", 2, TWO).head(0), prior)[0].field == "measurements.rows"
