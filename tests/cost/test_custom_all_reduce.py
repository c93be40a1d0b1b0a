"""Engines' own all-reduces: limits, who takes over, and tables at fault."""

import dataclasses

import pytest

from perfsim.cost.custom_all_reduce import CustomAllReduce
from perfsim.cost.nccl import nccl_time
from perfsim.cost.protocols import CollectiveCoefficients, Protocols
from perfsim.spec.hardware import Efficiency, NetworkTier
from perfsim.spec.profiles import profile_folder
from perfsim.spec.tables import read_toml

OWN, NCCL = (Protocols((fixed_s,), (0.5,), (0.0,), (False,)) for fixed_s in (2e-6, 5e-6))
TIERS = (NetworkTier("nvlink", 100e9, 1e-6, 8), NetworkTier("infiniband", 50e9, 2e-6))
EFFICIENCY = Efficiency(matmul=1.0, attention=1.0, memory=1.0, network=1.0)


@pytest.fixture(scope="module")
def custom():
    """Give an all-reduce for two and for four devices."""
    return CustomAllReduce(CollectiveCoefficients({2: OWN, 4: OWN}), {2: 1000, 4: 4000})


def seconds(custom, payload, span, algorithm, op="all_reduce"):
    """Price one payload."""
    nccl = CollectiveCoefficients({2: NCCL, 8: NCCL})
    options = {"tiers": TIERS, "efficiency": EFFICIENCY, "custom": custom, "algorithm": algorithm}
    return float(nccl_time(op, payload, nccl, span=span, **options).seconds)


def test_the_engine_takes_payloads_up_to_its_limit(custom):
    """Two microseconds, and NCCL's five above."""
    wire_s = 2 / 2 * 1000 / 50e9
    assert seconds(custom, 1000, (2,), "auto") == pytest.approx(2e-6 + wire_s, rel=1e-12)
    assert seconds(custom, 1001, (2,), "auto") == pytest.approx(5e-6 + wire_s * 1.001, rel=1e-12)


def test_either_can_be_asked_for(custom):
    """At every payload."""
    assert seconds(custom, 0, (2,), "nccl") == 5e-6
    assert seconds(custom, 1e9, (2,), "custom") == pytest.approx(2e-6 + 1e9 / 50e9, rel=1e-12)


def test_a_group_that_is_not_listed_takes_the_next_larger_ones_limit(custom):
    """And one above them all goes to NCCL."""
    assert [custom.limit(members) for members in (2, 3, 4, 5)] == [1000, 4000, 4000, 0]
    assert seconds(custom, 0, (3,), "auto") == pytest.approx(2e-6, rel=1e-12)
    assert seconds(custom, 0, (8,), "auto") == 5e-6


@pytest.mark.parametrize(("span", "op"), [((2, 2), "all_reduce"), ((2,), "all_gather")])
def test_other_operations_and_groups_across_nodes_go_to_nccl(custom, span, op):
    """The engine has kernels for all-reduces inside a node only."""
    assert seconds(custom, 100, span, "auto", op) == seconds(None, 100, span, "nccl", op)


def test_a_table_reads_back_what_was_written(custom):
    """Limits and host time included."""
    eager = dataclasses.replace(custom, host_s=2e-5)
    assert CustomAllReduce.from_table({**eager.to_table(), "fit": {}, "source": "calibrated"}) == eager


def test_b200_gives_vllm_up_to_128_mib():
    """What the engine's code says for eight devices."""
    tables = read_toml(profile_folder() / "kernels" / "b200-nccl.toml")
    assert CustomAllReduce.from_table(tables["custom_all_reduce"]["vllm"]).limit(8) == 128 * 2**20


@pytest.mark.parametrize("name", ["limit_bytes", "fixed_s"])
def test_a_missing_key_is_named(refused, custom, name):
    """Of a group."""
    table = custom.to_table()
    del table["group_4"][name]
    assert any(fault.field.endswith(f"group_4.{name}") for fault in refused(CustomAllReduce.from_table, table))


@pytest.mark.parametrize(
    ("change", "field"), [({"limit_bytes": 0}, "group_4.limit_bytes"), ({"limit": 5}, "group_4.limit")], ids=str
)
def test_a_wrong_key_is_named(refused, custom, change, field):
    """Of a group."""
    table = custom.to_table()
    table["group_4"] |= change
    assert any(fault.field.endswith(field) for fault in refused(CustomAllReduce.from_table, table))


def test_unknown_keys_of_the_table_are_refused(refused, custom):
    """Beside the groups."""
    assert refused(CustomAllReduce.from_table, {**custom.to_table(), "limit": 5})[0].field == "limit"


def test_limits_belong_to_groups(refused, custom):
    """One for each."""
    assert refused(CustomAllReduce, custom.kernels, {2: 1000})[0].field == "coefficients.limit_bytes"


def test_a_host_time_of_seconds_is_refused(refused, custom):
    """It is in seconds, not in microseconds."""
    assert refused(CustomAllReduce, custom.kernels, custom.limit_bytes, host_s=20.0)[0].field == "coefficients.host_s"
