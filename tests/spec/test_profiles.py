"""Reading hardware profiles: every number has a source, and every fault is named with its place."""

import copy
import tomllib

import pytest

import perfsim
from perfsim import list_profiles, load_cluster
from perfsim.spec.profiles import cluster_from_table

TEXT = """
format = 1
name = "mine"
num_devices = 4

[sources]
sheet = "the datasheet, 2024"
guess = "an engineer's guess"

[accelerator]
source = "sheet"
name = "chip"
vendor = "v"
architecture = "a"
vector_flop_per_s = 1e14
sm_count = 100
clock_hz = 1e9
shared_memory_bytes_per_sm = 100_000
l2_bytes = 50_000_000
memory_bytes = 80_000_000_000
memory_bytes_per_s = { value = 3e12, source = "guess" }
tdp_watt = 500

[accelerator.peak_flop_per_s]
bf16 = 1e15

[[tiers]]
source = "sheet"
name = "fast"
bytes_per_s = 100e9
latency_s = 1e-6
domain_size = 4
reduces_in_switch = false

[[tiers]]
source = "sheet"
name = "slow"
bytes_per_s = 10e9
latency_s = 5e-6

[efficiency]
source = "guess"
matmul = 0.8
attention = 0.5
memory = 0.9
network = 0.7
"""


@pytest.fixture
def table():
    """Give the table of a small profile, to be broken."""
    return copy.deepcopy(tomllib.loads(TEXT))


@pytest.fixture
def path(tmp_path):
    """Give the path of a small profile."""
    path = tmp_path / "mine.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", list_profiles())
def test_every_shipped_profile_loads_by_its_name(name):
    """What is listed is there."""
    assert load_cluster(name).name == name


def test_a_profile_loads_by_path(path):
    """As text or as a path."""
    assert load_cluster(path) == load_cluster(str(path))
    assert load_cluster(path).num_devices == 4
    assert load_cluster(path, num_devices=12).num_devices == 12


def test_every_number_remembers_its_source(path):
    """Its own, or that of the table it stands in."""
    sources = load_cluster(path).sources
    assert sources["accelerator.memory_bytes_per_s"] == "an engineer's guess"
    assert sources["accelerator.peak_flop_per_s.bf16"] == "the datasheet, 2024"
    assert sources["tiers.1.latency_s"] == "the datasheet, 2024"
    assert sources["efficiency.matmul"] == "an engineer's guess"


@pytest.mark.parametrize("name", list_profiles())
def test_every_shipped_number_has_a_source_in_the_cluster(name):
    """No number of device, tiers or efficiency goes without."""
    cluster = load_cluster(name)
    parts = {"accelerator": cluster.accelerator, "efficiency": cluster.efficiency}
    parts |= {f"tiers.{i}": tier for i, tier in enumerate(cluster.tiers)}
    for prefix, part in parts.items():
        for field, value in vars(part).items():
            given = isinstance(value, int | float) and not isinstance(value, bool)
            default = getattr(type(part), field, None)
            assert not given or value == default or cluster.sources[f"{prefix}.{field}"]


def test_a_number_without_a_source_is_refused(refused, table):
    """In any table, all together."""
    del table["accelerator"]["source"], table["efficiency"]["source"]
    faults = refused(cluster_from_table, table)
    fields = {fault.field for fault in faults}
    assert {
        "accelerator.sm_count.source",
        "accelerator.peak_flop_per_s.bf16.source",
        "efficiency.matmul.source",
    } <= fields
    assert "accelerator.memory_bytes_per_s.source" not in fields
    assert all("sheet, guess" in fault.allowed and fault.way_out for fault in faults)


@pytest.mark.parametrize("source", ["sheets", "", 5, None, ["sheet"]], ids=repr)
def test_a_source_that_is_not_named_is_refused(refused, table, source):
    """A source is a key of the table of sources."""
    table["efficiency"]["matmul"] = {"value": 0.8, "source": source}
    (fault,) = refused(cluster_from_table, table)
    assert (fault.field, fault.value) == ("efficiency.matmul.source", source)


@pytest.mark.parametrize("text", ["", "  ", 5], ids=repr)
def test_a_source_without_a_text_is_refused(refused, table, text):
    """A source that says nothing is none."""
    table["sources"]["guess"] = text
    assert any(fault.field.startswith("sources") for fault in refused(cluster_from_table, table))


def test_a_value_without_its_source_is_refused(refused, table):
    """Even where the table around it has one."""
    table["efficiency"]["matmul"] = {"value": 0.8}
    assert [fault.field for fault in refused(cluster_from_table, table)] == ["efficiency.matmul.source"]


def test_a_profile_without_sources_has_one_fault(refused, table):
    """Not one for each number."""
    del table["sources"]
    assert [fault.field for fault in refused(cluster_from_table, table)] == ["sources"]


def test_a_wrong_value_without_a_source_has_two_faults(refused, table):
    """The one does not hide the other."""
    table["efficiency"]["matmul"] = {"value": 2, "source": "sheets"}
    fields = [fault.field for fault in refused(cluster_from_table, table)]
    assert fields == ["efficiency.matmul.source", "efficiency.matmul"]


def test_unknown_keys_are_refused_with_the_spelling_that_was_meant(refused, table):
    """At the top, in a table, in a tier and beside a value."""
    table["titel"] = "x"
    (fault,) = refused(cluster_from_table, table)
    assert (fault.field, fault.way_out) == ("titel", "did you mean 'title'?")
    table["num_devices"] = 0
    assert {fault.field for fault in refused(cluster_from_table, table)} == {"titel", "num_devices"}
    del table["titel"]
    table["accelerator"]["sm_counts"] = 3
    table["tiers"][1]["latency"] = 3
    table["efficiency"]["memory"] = {"value": 0.9, "source": "guess", "unit": "1"}
    fields = {fault.field for fault in refused(cluster_from_table, table)}
    assert {"accelerator.sm_counts", "tiers.1.latency"} <= fields
    assert any(field.endswith("unit") for field in fields)


def test_missing_keys_are_named(refused, table):
    """At the top and in a table."""
    del table["accelerator"]["memory_bytes"]
    assert [fault.field for fault in refused(cluster_from_table, table)] == ["accelerator.memory_bytes"]
    del table["tiers"], table["name"]
    assert {fault.field for fault in refused(cluster_from_table, table)} >= {"tiers", "name"}


def test_faults_of_all_tables_come_together(refused, table):
    """Device, tier and efficiency in one error."""
    table["accelerator"]["sm_count"] = 0
    table["tiers"][0]["bytes_per_s"] = -1
    table["efficiency"]["network"] = 2
    fields = [fault.field for fault in refused(cluster_from_table, table)]
    assert sorted(field.split(".")[-1] for field in fields) == ["bytes_per_s", "network", "sm_count"]


def test_the_fault_of_a_tier_says_which(refused, table):
    """Tiers have the same fields, so their index is part of the name."""
    table["tiers"][1]["bytes_per_s"] = -1
    (fault,) = refused(cluster_from_table, table)
    assert fault.field == "tiers.1.bytes_per_s"


@pytest.mark.parametrize("part", ["accelerator", "efficiency", "sources", "tiers"])
@pytest.mark.parametrize("value", [5, "x", [1]], ids=repr)
def test_a_part_of_another_type_is_refused(refused, table, part, value):
    """A table is a table."""
    table[part] = value
    assert any(fault.field.startswith(part) for fault in refused(cluster_from_table, table))


def test_another_format_is_refused(refused, table):
    """A format of the future is not read by chance."""
    table["format"] = 2
    (fault,) = refused(cluster_from_table, table)
    assert (fault.field, fault.value) == ("format", 2)
    assert fault.way_out


def test_an_unknown_name_lists_the_profiles(refused):
    """And the nearest."""
    (fault,) = refused(load_cluster, "dgx-h10")
    assert (fault.field, fault.value) == ("cluster", "dgx-h10")
    assert all(name in fault.allowed for name in list_profiles())
    assert fault.way_out == "did you mean 'dgx-h100'?"


@pytest.mark.parametrize("name", [5, None], ids=repr)
def test_a_name_of_another_type_is_refused(refused, name):
    """A name is a text or a path."""
    (fault,) = refused(load_cluster, name)
    assert fault.field == "cluster"


def test_a_missing_file_is_refused_by_its_path(refused, tmp_path):
    """The path, the reason and the way out."""
    (fault,) = refused(load_cluster, tmp_path / "none.toml")
    assert fault.value == str(tmp_path / "none.toml")
    assert "No such file" in fault.allowed
    assert fault.way_out


def test_a_folder_is_no_file(refused, tmp_path):
    """Even where its name looks like a file's."""
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    (fault,) = refused(load_cluster, folder)
    assert fault.value == str(folder)


@pytest.mark.parametrize("content", [b"format = ", b"\xff\xfe", b"format"])
def test_a_broken_file_is_refused_by_its_path(refused, tmp_path, content):
    """Broken TOML and bytes that are no text."""
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    (fault,) = refused(load_cluster, path)
    assert fault.value == str(path)
    assert fault.way_out


@pytest.mark.parametrize("value", [0, -1, "16", True, 2.0], ids=repr)
def test_devices_that_are_no_number_of_devices_are_refused(refused, value):
    """When asked for beside the profile, too."""
    (fault,) = refused(perfsim.load_cluster, "dgx-h100", num_devices=value)
    assert (fault.field, fault.value) == ("cluster.num_devices", value)
