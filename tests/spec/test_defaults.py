"""Profiles with the least that a datasheet gives: what is filled in, from where, and what people get wrong."""

import copy
import tomllib

import pytest

import perfsim
from perfsim.spec.defaults import profile_template
from perfsim.spec.profiles import cluster_from_table

DEVICE = {"name": "chip", "peak_flop_per_s": {"bf16": 960e12}, "memory_bytes": 48e9, "memory_bytes_per_s": 864e9}
LEAST = {
    "name": "mine", "source": "the datasheet, 2025", "accelerator": DEVICE,
    "tiers": [{"name": "pcie", "bytes_per_s": 32e9}],
}  # fmt: skip
SHIPPED = [perfsim.load_cluster(name) for name in perfsim.list_profiles()]


@pytest.fixture
def least():
    """Give the table of the smallest profile, to be changed."""
    return copy.deepcopy(LEAST)


def test_a_datasheet_is_enough(least):
    """Name, peaks, memory, its bandwidth and the network; each number that is given keeps its source."""
    cluster = perfsim.load_cluster(least)
    assert cluster.accelerator.memory_bytes == 48 * 10**9
    assert cluster.num_devices == 8
    assert cluster.sources["accelerator.memory_bytes"] == "the datasheet, 2025"
    assert cluster.sources["tiers.0.bytes_per_s"] == "the datasheet, 2025"


def test_every_number_that_is_left_out_has_a_rule(least):
    """As its source, for each number of device, tiers and efficiency."""
    cluster = perfsim.load_cluster(least)
    parts = {"accelerator": cluster.accelerator, "efficiency": cluster.efficiency, "tiers.0": cluster.tiers[0]}
    for prefix, part in parts.items():
        for field, value in vars(part).items():
            if isinstance(value, int | float) and value != getattr(type(part), field, None):
                given = field in DEVICE or field == "bytes_per_s"
                assert cluster.sources[f"{prefix}.{field}"].startswith("default: ") != given, field


def test_a_device_is_filled_in_from_its_peak(least):
    """The rules that depend on what is given."""
    device = perfsim.load_cluster(least).accelerator
    assert device.vector_flop_per_s == 60e12
    assert device.sm_count == round(960e12 / (4096 * 1.5e9))
    least["accelerator"]["peak_flop_per_s"]["fp32"] = 70e12
    least["accelerator"]["clock_hz"] = 2e9
    device = perfsim.load_cluster(least).accelerator
    assert (device.vector_flop_per_s, device.sm_count) == (70e12, round(960e12 / (4096 * 2e9)))


@pytest.mark.parametrize(
    ("dtype", "ratio"), [("bf16", 1), ("fp16", 1), ("fp8", 2), ("int8", 2), ("fp4", 4), ("tf32", 0.5)]
)
def test_any_peak_tells_the_16_bit_one(least, dtype, ratio):
    """By the ratio that matrix units have."""
    least["accelerator"]["peak_flop_per_s"] = {dtype: ratio * 160e12}
    assert perfsim.load_cluster(least).accelerator.vector_flop_per_s == pytest.approx(10e12)


def test_what_is_given_is_not_filled_in(least):
    """Of a table that is there, too."""
    least["efficiency"] = {"matmul": 0.9, "kernel_s": 0}
    cluster = perfsim.load_cluster(least)
    assert (cluster.efficiency.matmul, cluster.efficiency.kernel_s) == (0.9, 0)
    assert cluster.sources["efficiency.matmul"] == "the datasheet, 2025"
    assert cluster.sources["efficiency.attention"].startswith("default")


def test_hops_and_switches_are_filled_in_where_there_are_any(least):
    """Outer tiers have the longer hop; only a switch that reduces has an efficiency."""
    assert "efficiency.in_switch_s" not in perfsim.load_cluster(least).sources
    nvlink = {"name": "nvlink", "bytes_per_s": 450e9, "domain_size": 4, "reduces_in_switch": True}
    least["tiers"].insert(0, nvlink)
    cluster = perfsim.load_cluster(least)
    assert cluster.tiers[0].latency_s < cluster.tiers[1].latency_s
    assert cluster.sources["efficiency.in_switch_s"].startswith("default")
    assert cluster.num_devices == 4


def test_defaults_lie_between_those_of_the_shipped_profiles(least):
    """The rules say so."""
    least["tiers"][0]["reduces_in_switch"] = True
    cluster = perfsim.load_cluster(least)
    switches = [shipped for shipped in SHIPPED if shipped.tiers[0].reduces_in_switch]
    for field, value in vars(cluster.efficiency).items():
        known = [getattr(shipped.efficiency, field) for shipped in (switches if "in_switch" in field else SHIPPED)]
        assert min(known) <= value <= max(known), field
    hops = [shipped.tiers[0].latency_s for shipped in SHIPPED]
    assert min(hops) <= cluster.tiers[0].latency_s <= max(hops)
    for field in ("shared_memory_bytes_per_sm", "l2_bytes"):
        assert getattr(cluster.accelerator, field) == min(getattr(shipped.accelerator, field) for shipped in SHIPPED)


def test_no_rule_stands_in_for_what_fitted_kernels_depend_on(refused, least):
    """All of it is named."""
    least["kernels"] = {"default": "trtllm", "libraries": {"trtllm": "ada-trtllm"}}
    faults = refused(perfsim.load_cluster, least)
    assert [fault.field for fault in faults] == [f"accelerator.{key}" for key in ("sm_count", "clock_hz", "l2_bytes")]
    least["accelerator"] |= {"sm_count": 142, "clock_hz": 2.49e9, "l2_bytes": 96 * 2**20}
    assert perfsim.load_cluster(least).kernels == "trtllm"


def test_one_line_may_say_where_all_numbers_come_from(least):
    """A table or a number may name another source, as a text."""
    least["tiers"][0]["source"] = "our own measurement"
    least["accelerator"]["memory_bytes"] = {"value": 47e9, "source": "nvidia-smi"}
    least["accelerator"]["memory_bytes_per_s"] = {"value": 864e9}
    sources = perfsim.load_cluster(least).sources
    assert sources["tiers.0.bytes_per_s"] == "our own measurement"
    assert sources["accelerator.memory_bytes"] == "nvidia-smi"
    assert sources["accelerator.memory_bytes_per_s"] == "the datasheet, 2025"


def test_the_one_line_may_be_a_key_of_the_table_of_sources(refused, least):
    """Like the source of any table."""
    least |= {"source": "sheet", "sources": {"sheet": "the datasheet, 2026"}}
    assert perfsim.load_cluster(least).sources["accelerator.memory_bytes"] == "the datasheet, 2026"
    least["source"] = "sheets"
    assert {fault.value for fault in refused(perfsim.load_cluster, least)} == {"sheets"}


def test_a_table_without_any_source_is_refused_once(refused, least):
    """With the line that is missing."""
    del least["source"]
    (fault,) = refused(perfsim.load_cluster, least)
    assert fault.field == "sources"
    assert 'source = "..."' in fault.way_out


@pytest.mark.parametrize("source", ["", 5, None], ids=repr)
def test_a_source_that_is_no_text_is_refused(refused, least, source):
    """For the whole profile once, for a number by its name."""
    least["accelerator"]["memory_bytes"] = {"value": 47e9, "source": source}
    (fault,) = refused(perfsim.load_cluster, least)
    assert (fault.field, fault.value) == ("accelerator.memory_bytes.source", source)
    (fault,) = refused(perfsim.load_cluster, {**LEAST, "source": source})
    assert (fault.field, fault.value) == ("source", source)


def test_single_brackets_for_tiers_are_named(refused, least):
    """One tier or several by name; what is inside is checked all the same."""
    (tier,) = least["tiers"]
    for table in (tier, {"inner": {**tier, "domain_size": 8}, "outer": tier}):
        (fault,) = refused(perfsim.load_cluster, {**least, "tiers": table})
        assert fault.field == "tiers"
        assert "[[tiers]]" in fault.way_out
        broken = {**least, "tiers": {**table, "outer": {**tier, "bytes_per_s": 32}}}
        assert any(
            "bytes_per_s" in fault.field or "outer" in fault.field for fault in refused(perfsim.load_cluster, broken)
        )


@pytest.mark.parametrize("part", ["accelerator", "efficiency"])
def test_double_brackets_for_a_single_table_are_named(refused, least, part):
    """With the brackets that it takes."""
    (fault,) = refused(perfsim.load_cluster, {**least, part: [least.get(part, {})]})
    assert fault.field == part
    assert f"[{part}]" in fault.way_out


def test_all_the_usual_slips_come_together(refused, least):
    """Units, a missing domain size, domains that do not nest, a ratio the wrong way round: nine in one error."""
    least["accelerator"] |= {"peak_flop_per_s": {"bf16": 960}, "memory_bytes": 48, "memory_bytes_per_s": 864}
    least["tiers"] = [
        {"name": "a", "bytes_per_s": 450, "latency_s": 0.9, "domain_size": 8},
        {"name": "b", "bytes_per_s": 50e9},
        {"name": "c", "bytes_per_s": 25e9, "domain_size": 12, "oversubscription": 0.5},
    ]
    least["efficiency"] = {"kernel_s": 2.8}
    assert {fault.field for fault in refused(perfsim.load_cluster, least)} == {
        "accelerator.peak_flop_per_s.bf16", "accelerator.memory_bytes", "accelerator.memory_bytes_per_s",
        "tiers.0.bytes_per_s", "tiers.0.latency_s", "tiers.1.domain_size", "tiers.2.domain_size",
        "tiers.2.oversubscription", "efficiency.kernel_s",
    }  # fmt: skip


@pytest.mark.parametrize("clock", ["x", 0, 1.5, True, None], ids=repr)
@pytest.mark.parametrize("peaks", [5, {}, {"bf16": "x"}, {"bf16": 960}, {"fp32": None}, [1e15]], ids=repr)
def test_what_rests_on_a_broken_number_has_no_fault_of_its_own(refused, least, peaks, clock):
    """Only the number that was given is at fault."""
    least["accelerator"] |= {"peak_flop_per_s": peaks, "clock_hz": clock}
    fields = {fault.field for fault in refused(perfsim.load_cluster, least)}
    assert fields <= {"accelerator.clock_hz", "accelerator.peak_flop_per_s", *(
        f"accelerator.peak_flop_per_s.{dtype}" for dtype in ("bf16", "fp32")
    )}  # fmt: skip
    assert len(fields) == 2


@pytest.mark.parametrize("key", ["name", "peak_flop_per_s", "memory_bytes", "memory_bytes_per_s"])
def test_what_no_rule_knows_must_be_given(refused, least, key):
    """Of the device."""
    del least["accelerator"][key]
    assert [fault.field for fault in refused(perfsim.load_cluster, least)] == [f"accelerator.{key}"]


@pytest.mark.parametrize("key", ["name", "accelerator", "tiers"])
def test_a_table_that_no_rule_knows_must_be_given(refused, least, key):
    """Of the profile."""
    del least[key]
    assert [fault.field for fault in refused(perfsim.load_cluster, least)] == [key]


def test_a_table_takes_the_arguments_of_a_name(refused, least):
    """Number of devices, in any number of nodes, and library."""
    assert perfsim.load_cluster(least, num_devices=4096).num_devices == 4096
    (fault,) = refused(perfsim.load_cluster, least, kernels="trtllm")
    assert fault.field == "kernels"


def test_the_template_loads_as_it_is():
    """With what stands behind the marks of its comments, too, and to the same cluster."""
    text = profile_template()
    cluster = cluster_from_table(tomllib.loads(text))
    assert all(
        f"# {rule}" in text
        for name, rule in cluster.sources.items()
        if rule.startswith("default") and "tier" not in name
    )
    lines = [line.removeprefix("# ") if " = " in line or "# [" in line else line for line in text.splitlines()]
    whole = cluster_from_table(tomllib.loads("\n".join(lines)))
    assert (whole.accelerator, whole.tiers, whole.efficiency) == (
        cluster.accelerator,
        cluster.tiers,
        cluster.efficiency,
    )
    assert not any(rule.startswith("default") for name, rule in whole.sources.items() if "latency" not in name)
