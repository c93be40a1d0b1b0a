"""Protocols by hand: wire factors, switches, group sizes that were not measured, and tables at fault."""

import dataclasses
import math

import numpy as np
import pytest

from perfsim.cost.protocols import CollectiveCoefficients, Protocols, group_parts, wire_factor

RATE = 100e9


def one(fixed_s, efficiency=1.0, fill_s=0.0, *, in_switch=False):
    """Give a group with a single protocol."""
    return Protocols((fixed_s,), (efficiency,), (fill_s,), (in_switch,))


def seconds(groups, op, payload, members):
    """Price one payload."""
    fixed_s, network_s = group_parts(CollectiveCoefficients(groups), op, np.array([float(payload)]), members, RATE)
    return float(fixed_s[0] + network_s[0])


@pytest.mark.parametrize(
    ("op", "trips"), [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1), ("all_to_all", 1)]
)
def test_a_ring_by_hand(op, trips):
    """Three quarters of the payload a trip, at half of the rate."""
    assert seconds({4: one(5e-6, 0.5)}, op, 8e9, 4) == pytest.approx(5e-6 + trips * 0.75 * 8e9 / 50e9, rel=1e-12)


def test_the_fill_of_a_pipeline_by_hand():
    """The root of the fill times the time on the wire."""
    wire_s = 0.5 * 8e6 / RATE
    assert seconds({2: one(5e-6, fill_s=4e-6)}, "all_gather", 8e6, 2) == pytest.approx(
        5e-6 + wire_s + math.sqrt(4e-6 * wire_s), rel=1e-12
    )


def test_a_switch_that_adds_up_by_hand():
    """Nine eighths of the payload, whatever an all-reduce over a ring sends."""
    assert wire_factor("all_reduce", 8, in_switch=True) == 1.125
    assert seconds({8: one(1e-6, in_switch=True)}, "all_reduce", 8e9, 8) == pytest.approx(0.09 + 1e-6, rel=1e-12)


def test_a_payload_takes_the_protocol_whose_range_it_is_in():
    """Up to the switch the first, above it the second."""
    group = Protocols((1e-6, 3e-6), (0.1, 1.0), (0.0, 0.0), (False, False), switch_bytes=(1000,))
    assert seconds({2: group}, "all_gather", 1000, 2) == pytest.approx(1e-6 + 500 / 10e9, rel=1e-12)
    assert seconds({2: group}, "all_gather", 1001, 2) == pytest.approx(3e-6 + 500.5 / 100e9, rel=1e-12)


def test_no_payload_is_faster_than_a_smaller_one_where_the_table_falls():
    """The second protocol starts below the end of the first: its time is flat until it gets there."""
    group = Protocols((9e-6, 1e-6), (1.0, 1.0), (0.0, 0.0), (False, False), switch_bytes=(1000,))
    end = seconds({2: group}, "all_gather", 1000, 2)
    assert seconds({2: group}, "all_gather", 2000, 2) == pytest.approx(end, rel=1e-12)
    assert seconds({2: group}, "all_gather", 1e9, 2) == pytest.approx(1e-6 + 5e8 / RATE, rel=1e-12)


def test_a_group_between_two_measured_ones_lies_between_them():
    """The logarithm of the time is linear in log2 n: 4 of 2 and 8 is the geometric mean."""
    groups = {2: one(4e-6), 8: one(16e-6)}
    assert seconds(groups, "all_gather", 0, 4) == pytest.approx(8e-6, rel=1e-12)
    low, high = (seconds(groups, "all_gather", 1e8, members) for members in (2, 8))
    assert low < seconds(groups, "all_gather", 1e8, 3) < seconds(groups, "all_gather", 1e8, 6) < high


def test_a_group_beyond_the_measured_ones_adds_hops():
    """A microsecond for every further member, and its own wire factor."""
    groups = {4: one(4e-6), 8: one(8e-6)}
    assert seconds(groups, "all_reduce", 8e9, 16) == pytest.approx(16e-6 + 2 * 15 / 16 * 8e9 / RATE, rel=1e-12)
    coefficients = CollectiveCoefficients(groups)
    assert coefficients.hop_s == pytest.approx(1e-6, rel=1e-12)
    assert coefficients.launch_s == pytest.approx(1e-6, rel=1e-12)


def test_a_group_below_the_measured_ones_takes_the_smallest():
    """What four devices do in a group of four bounds two."""
    assert seconds({4: one(4e-6)}, "all_gather", 1e6, 2) == seconds({4: one(4e-6)}, "all_gather", 1e6, 4)


def test_one_measured_group_has_no_hop():
    """Nothing tells what a member adds."""
    assert CollectiveCoefficients({4: one(4e-6)}).hop_s == 0
    assert CollectiveCoefficients({4: one(4e-6)}).launch_s == 4e-6


def test_a_table_reads_back_what_was_written():
    """With what files say about the coefficients beside them."""
    groups = {2: one(4e-6), 8: Protocols((1e-6, 3e-6), (0.1, 1.0), (0.0, 2e-6), (False, True), (1000,))}
    coefficients = CollectiveCoefficients(groups)
    table = {**coefficients.to_table(), "fit": {"rows_used": 3}, "source": "calibrated"}
    assert CollectiveCoefficients.from_table(table) == coefficients


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"group_one": {}}, "group_one"),
        ({"group_1": {}}, "group_1"),
        ({"sharpness": 2.0}, "sharpness"),
        ({"group_2": {"fixed_s": [1e-6]}}, "efficiency"),
        ({"group_2": {**dataclasses.asdict(one(1e-6)), "fill": [0.0]}}, "group_2.fill"),
        ({"group_2": {**dataclasses.asdict(one(1e-6)), "efficiency": [1.5]}}, "efficiency.0"),
        ({"group_2": {**dataclasses.asdict(one(1e-6)), "fixed_s": [0.0]}}, "fixed_s"),
        ({"group_2": {**dataclasses.asdict(one(1e-6)), "fixed_s": [1e-6, 2e-6]}}, "fixed_s"),
        ({"group_2": {**dataclasses.asdict(one(1e-6)), "in_switch": [1]}}, "in_switch.0"),
        ({"group_2": {**dataclasses.asdict(one(1e-6)), "fill_s": [-1.0]}}, "fill_s"),
    ],
    ids=str,
)
def test_tables_at_fault_are_refused(refused, change, field):
    """With the name of what is wrong."""
    faults = refused(CollectiveCoefficients.from_table, {"group_4": dataclasses.asdict(one(1e-6)), **change})
    assert any(fault.field.endswith(field) for fault in faults)


def test_switches_must_grow(refused):
    """Else a protocol would have no payload."""
    three = {"fixed_s": (1e-6,) * 3, "efficiency": (1.0,) * 3, "fill_s": (0.0,) * 3, "in_switch": (False,) * 3}
    assert refused(Protocols, **three, switch_bytes=(2000, 1000))[0].field.endswith("switch_bytes")


def test_an_empty_table_is_refused(refused):
    """Nothing was measured."""
    assert refused(CollectiveCoefficients.from_table, {})[0].field == "coefficients.groups"
