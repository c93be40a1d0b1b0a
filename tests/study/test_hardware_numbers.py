"""Names of the numbers of a cluster, and copies in which they are multiplied."""

import dataclasses

import numpy as np
import pytest

import perfsim
from perfsim.errors import Faults, InputError
from perfsim.spec.hardware import NetworkTier
from perfsim.study.hardware_numbers import find_number, hardware_numbers, known_numbers, scaled


def test_no_two_numbers_share_a_field(cluster):
    """Each can change alone, in every shipped profile, and each stands for something."""
    numbers = hardware_numbers(cluster, "bf16")
    fields = [field for number in numbers.values() for field in number.fields]
    assert len(fields) == len(set(fields))
    assert all(number.fields and number.name == name for name, number in numbers.items())
    assert {"flops", "vector_flops", "clock", "hbm_bandwidth", "launch", "collective_launch"} < numbers.keys()
    assert len(numbers) == 6 + 2 * len(cluster.tiers)


def test_every_rate_and_time_of_the_datasheet_has_a_name(cluster):
    """Of the accelerator and of the tiers; power and sizes change no time."""
    fields = {field for number in hardware_numbers(cluster, "bf16").values() for field in number.fields}
    chip = {f.name for f in dataclasses.fields(cluster.accelerator) if f.name.endswith(("_per_s", "_hz"))}
    assert chip == {field[1] for field in fields if field[0] == "accelerator"}
    for index in range(len(cluster.tiers)):
        assert {("tiers", index, "bytes_per_s"), ("tiers", index, "latency_s")} <= fields


def test_launches_are_those_of_the_tables(h100, documented):
    """Every fixed time of a kernel or of a collective, and no measure of how well a fit went."""
    numbers = hardware_numbers(h100, "bf16")
    launches = [".".join(map(str, field)) for field in numbers["launch"].fields]
    assert "coefficients.matmul.bf16.launch_s" in launches
    assert "coefficients.memory_bound.norm.fixed_s" in launches
    assert "coefficients.prefill.bf16-bf16.kernels.0.launch_s" in launches
    assert "coefficients.decode.bf16-bf16.kernels.0.launch_s.0" in launches
    assert all(field[-1] == "fixed_s" or "launch_s" in field for field in numbers["launch"].fields[1:])
    collectives = {field[1] for field in numbers["collective_launch"].fields}
    assert {"collective_s", "in_switch_s", "all_reduce", "custom_all_reduce"} <= collectives
    assert not any("fit" in field for number in numbers.values() for field in number.fields)
    assert hardware_numbers(documented, "bf16")["launch"].fields == (("efficiency", "kernel_s"),)


def test_names_for_several_numbers(h100):
    """All tiers, the latency of everything, and a tier by its own name."""
    known = known_numbers(h100, "bf16")
    assert known["nvlink"] is known["nvlink_bandwidth"]
    assert set(known["network"].fields) == {("tiers", 0, "bytes_per_s"), ("tiers", 1, "bytes_per_s")}
    assert set(known["latency"].fields) == {
        ("tiers", 0, "latency_s"),
        ("tiers", 1, "latency_s"),
        *known["collective_launch"].fields,
    }
    assert known["hbm_capacity"].fields == (("accelerator", "memory_bytes"),)
    assert [known[name].less_is_better for name in ("launch", "latency", "nvlink_latency", "network")] == [
        True,
        True,
        True,
        False,
    ]


def test_tiers_with_the_same_name_change_together(h100):
    """One name means one thing."""
    tiers = (NetworkTier("link", 4e11, 1e-6, domain_size=8), NetworkTier("link", 5e10, 2e-6))
    numbers = hardware_numbers(dataclasses.replace(h100, tiers=tiers), "bf16")
    assert numbers["link_bandwidth"].fields == (("tiers", 0, "bytes_per_s"), ("tiers", 1, "bytes_per_s"))


def test_a_tier_called_network_is_not_all_of_them():
    """`network` is the bandwidth of all tiers; the tier has its longer name."""
    known = known_numbers(perfsim.load_cluster("mi300x-8x"), "bf16")
    assert len(known["network"].fields) == 2
    assert known["network_bandwidth"].fields == (("tiers", 1, "bytes_per_s"),)
    assert known["infinity_fabric"].title == "infinity-fabric bandwidth"


def test_values_with_their_units(h100):
    """As people read them."""
    known = known_numbers(h100, "fp8")
    assert [known[name].text(h100) for name in ("flops", "hbm_bandwidth", "clock", "nvlink_latency", "launch")] == [
        "1.979 PFLOP/s",
        "3.35 TB/s",
        "1.83 GHz",
        "790 ns",
        "",
    ]
    assert known["launch"].value(h100) is None
    assert known["nvlink"].title == "NVLink bandwidth"


@pytest.mark.parametrize("prefix", ["", "cluster."])
def test_dotted_names(h100, prefix):
    """Any number of the cluster, coefficients with dots in their keys too."""
    for name, value in (
        ("accelerator.sm_count", 132),
        ("efficiency.matmul", 0.78),
        ("tiers.1.bytes_per_s", 50e9),
        ("coefficients.matmul.bf16.launch_s", h100.coefficients["matmul.bf16"]["launch_s"]),
    ):
        number = find_number(h100, "bf16", prefix + name, Faults())
        assert number.value(h100) == value
        assert number.title == name


def test_an_unknown_name_is_refused_with_the_list(h100):
    """And with the nearest."""
    faults = Faults("what_if")
    assert find_number(h100, "bf16", "nvlnk", faults, 2.0) is None
    assert find_number(h100, "bf16", "accelerator.clock", faults, 3.0) is None
    assert find_number(h100, "bf16", "accelerator.name", faults, 3.0) is None
    short, dotted, text = faults.found
    assert (short.field, short.value) == ("what_if.nvlnk", 2.0)
    assert all(name in short.allowed for name in known_numbers(h100, "bf16"))
    assert short.way_out == "did you mean 'nvlink'?"
    assert dotted.way_out == "did you mean 'accelerator.clock_hz'?"
    assert text.field == "what_if.accelerator.name"


def test_scaled_changes_what_it_should_and_nothing_else(cluster):
    """Back and forth gives the same cluster; each number alone differs in its own fields."""
    for number in known_numbers(cluster, "bf16").values():
        changed = scaled(cluster, number.fields, 2.0)
        assert changed != cluster
        assert scaled(changed, number.fields, 0.5) == cluster
        if number.shown:
            assert number.value(changed) == 2 * number.value(cluster)
    peaks = scaled(cluster, hardware_numbers(cluster, "bf16")["flops"].fields, 2.0).accelerator.peak_flop_per_s
    assert peaks == {dtype: 2 * rate for dtype, rate in cluster.accelerator.peak_flop_per_s.items()}


def test_whole_numbers_stay_whole(h100):
    """And at least 1."""
    assert scaled(h100, (("accelerator", "sm_count"),), 1.004).accelerator.sm_count == 133
    assert scaled(h100, (("accelerator", "sm_count"),), 1e-9).accelerator.sm_count == 1
    assert type(scaled(h100, (("accelerator", "sm_count"),), np.float64(1.5)).accelerator.sm_count) is int


def test_a_number_out_of_its_range_is_refused(h100):
    """An efficiency above 1, say."""
    with pytest.raises(InputError, match=r"efficiency\.matmul = 1\.56"):
        scaled(h100, (("efficiency", "matmul"),), 2.0)
