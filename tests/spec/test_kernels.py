"""Kernel libraries of profiles: which tables a cluster gets, how they are marked, and every fault of the files."""

import json
import tomllib

import pytest

import perfsim
from perfsim.spec.files import scenario_from_table, scenario_to_table
from perfsim.spec.profiles import cluster_from_table, load_cluster

PROFILE = """
format = 1
name = "mine"
num_devices = 4
sources = { sheet = "the datasheet, 2024" }

[accelerator]
source = "sheet"
name = "chip"
vendor = "v"
architecture = "a"
peak_flop_per_s = { bf16 = 1e15 }
vector_flop_per_s = 1e14
sm_count = 100
clock_hz = 1e9
shared_memory_bytes_per_sm = 100_000
l2_bytes = 50_000_000
memory_bytes = 80_000_000_000
memory_bytes_per_s = 3e12
tdp_watt = 500

[[tiers]]
source = "sheet"
name = "fast"
bytes_per_s = 100e9
latency_s = 1e-6

[efficiency]
source = "sheet"
matmul = 0.8
attention = 0.5
memory = 0.9
network = 0.7

[kernels]
default = "first"
system = "chip"
collectives = "network.toml"
wide_heads = "second"
libraries = { first = "first.toml", second = "second.toml" }
"""
FILES = {
    "first": """
format = 1
library = "first"
[matmul.bf16]
launch_s = 1e-6
fit = { errors = { chip = { mape = 4.0 } } }
[matmul.fp8]
launch_s = 2e-6
fit = { errors = { chip = {}, other = {} } }
systems = { chip = { launch_s = 3e-6 }, other = { launch_s = 4e-6 } }
[prefill.bf16-bf16]
kernels = [{ head_dims = [64, 128] }]
fit = { errors = { other = {} } }
""",
    "second": """
format = 1
[matmul.bf16]
launch_s = 9e-6
fit = { errors = { chip = {} } }
[matmul.int8]
launch_s = 8e-6
fit = { errors = { chip = {} } }
[prefill.bf16-bf16]
kernels = [{ head_dims = [128] }, { head_dims = [256, 512], head_dim_above = 100.0 }]
fit = { errors = { chip = {} } }
""",
    "network": """
format = 1
system = "chip"
[all_reduce]
group_2 = { fixed_s = [1e-6] }
fit = { errors = { chip = {} } }
[custom_all_reduce.second]
group_2 = { fixed_s = [2e-6] }
fit = { errors = { chip = {} } }
[expert_all_to_all.quick]
dispatch = { fixed_s = 3e-6, fit = { errors = { chip = {} } } }
combine = { fixed_s = 4e-6, fit = { errors = { other = {} } } }
""",
}


@pytest.fixture
def folder(tmp_path):
    """Give a folder with a profile and the files of its two kernel libraries."""
    (tmp_path / "mine.toml").write_text(PROFILE, encoding="utf-8")
    for name, text in FILES.items():
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def mine(folder):
    """Give the path of that profile."""
    return folder / "mine.toml"


def sources(cluster):
    """Give the mark of each table."""
    return {key: table["source"] for key, table in cluster.coefficients.items()}


def test_the_default_library_is_named_in_the_profile(mine):
    """And another one by its name."""
    assert load_cluster(mine).kernels == "first"
    assert load_cluster(mine, kernels="first") == load_cluster(mine)
    assert load_cluster(mine, kernels="second").kernels == "second"


def test_tables_are_calibrated_where_they_were_scored_on_the_device(mine):
    """What comes from measurements of other devices only, or of another library, is extrapolated."""
    assert sources(load_cluster(mine)) == {
        "matmul.bf16": "calibrated",
        "matmul.fp8": "calibrated",
        "matmul.int8": "extrapolated",
        "prefill.bf16-bf16": "extrapolated",
        "all_reduce": "calibrated",
        "expert_all_to_all.quick.dispatch": "calibrated",
        "expert_all_to_all.quick.combine": "extrapolated",
    }


def test_a_device_without_measurements_is_extrapolated(mine):
    """A profile that names no system says that none of the tables is its own."""
    table = tomllib.loads(PROFILE)
    del table["kernels"]["system"]
    cluster = cluster_from_table(table, folder=mine.parent)
    assert set(sources(cluster).values()) == {"extrapolated"}


def test_the_own_numbers_of_a_system_count(mine):
    """A table of several devices may have numbers for each."""
    table = load_cluster(mine).coefficients["matmul.fp8"]
    assert table["launch_s"] == 3e-6
    assert "systems" not in table


def test_what_a_library_lacks_comes_from_the_others(mine):
    """Its own tables come first."""
    first, second = (load_cluster(mine, kernels=name).coefficients for name in ("first", "second"))
    assert (first["matmul.bf16"]["launch_s"], second["matmul.bf16"]["launch_s"]) == (1e-6, 9e-6)
    assert (first["matmul.int8"]["launch_s"], second["matmul.fp8"]["launch_s"]) == (8e-6, 3e-6)
    assert second["matmul.fp8"]["source"] == "extrapolated"


def test_wide_heads_take_the_kernels_of_the_library_that_has_them(mine):
    """For heads wider than the library's own ones, and before these."""
    table = load_cluster(mine).coefficients["prefill.bf16-bf16"]
    assert [kernel["head_dims"] for kernel in table["kernels"]] == [(256, 512), (64, 128)]
    assert table["kernels"][0]["head_dim_above"] == 128
    assert (table["borrowed"]["count"], table["borrowed"]["fit"]) == (1, {"errors": {"chip": {}}})
    lender = load_cluster(mine, kernels="second").coefficients["prefill.bf16-bf16"]
    assert "borrowed" not in lender
    assert len(lender["kernels"]) == 2


def test_a_table_of_wide_heads_alone_does_not_price_the_usual_ones(mine):
    """Another library's table has them."""
    text = FILES["first"].replace("head_dims = [64, 128]", "head_dims = [512], head_dim_above = 256")
    (mine.parent / "first.toml").write_text(text, encoding="utf-8")
    table = load_cluster(mine).coefficients["prefill.bf16-bf16"]
    assert [kernel["head_dims"] for kernel in table["kernels"]] == [(128,), (256, 512)]
    assert table["source"] == "extrapolated"


def test_a_library_has_the_all_reduce_that_it_brings_along(mine):
    """And not that of another."""
    assert "custom_all_reduce" not in load_cluster(mine).coefficients
    custom = load_cluster(mine, kernels="second").coefficients["custom_all_reduce"]
    assert (custom["group_2"]["fixed_s"], custom["source"]) == ((2e-6,), "calibrated")


def test_each_direction_of_an_expert_kernel_is_marked_by_itself(mine):
    """Its tables lie two names deep."""
    cluster = load_cluster(mine)
    found = {key: table["source"] for key, table in cluster.coefficients.items() if key.startswith("expert")}
    assert found == {
        "expert_all_to_all.quick.dispatch": "calibrated",
        "expert_all_to_all.quick.combine": "extrapolated",
    }


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[expert_all_to_all]\nquick = 3", "expert_all_to_all.quick"),
        ("[expert_all_to_all.quick]\ndispatch = 3", "expert_all_to_all.quick.dispatch"),
        ("expert_all_to_all = 3", "expert_all_to_all"),
    ],
)
def test_expert_kernels_that_are_no_tables_are_refused(mine, refused, text, field):
    """With their place."""
    head, _, _ = FILES["network"].partition("[expert_all_to_all")
    top, _, rest = head.partition("[all_reduce]")
    text = f"{top}{text}\n[all_reduce]{rest}" if "[" not in text else f"{head}{text}\n"
    (mine.parent / "network.toml").write_text(text, encoding="utf-8")
    assert refused(load_cluster, mine)[0].field.endswith(field)


def test_a_profile_may_name_shipped_files(mine):
    """By the name of the file."""
    text = PROFILE.replace('first = "first.toml"', 'first = "hopper-trtllm"')
    mine.write_text(text, encoding="utf-8")
    shipped = perfsim.load_cluster("dgx-h100").coefficients["decode.bf16-bf16"]
    own = shipped["kernels"][shipped["borrowed"]["count"] :]
    assert load_cluster(mine).coefficients["decode.bf16-bf16"]["kernels"] == own


def test_a_profile_without_kernels_has_documented_efficiencies_only(refused, mine):
    """And cannot give a library."""
    mine.write_text(PROFILE.partition("[kernels]")[0], encoding="utf-8")
    cluster = load_cluster(mine)
    assert (cluster.kernels, cluster.coefficients) == ("", {})
    (fault,) = refused(load_cluster, mine, kernels="first")
    assert (fault.field, fault.value) == ("kernels", "first")


@pytest.mark.parametrize("value", ["firs", "", 5, ["first"]], ids=repr)
def test_an_unknown_library_is_refused_with_those_that_there_are(refused, mine, value):
    """In one fault."""
    (fault,) = refused(load_cluster, mine, kernels=value)
    assert (fault.field, fault.value) == ("kernels", value)
    assert "first, second" in fault.allowed


def test_the_shipped_libraries_are_named(refused):
    """With the one that was meant."""
    (fault,) = refused(perfsim.load_cluster, "dgx-h100", kernels="vlm")
    assert "trtllm, vllm, sglang" in fault.allowed
    assert fault.way_out == "did you mean 'vllm'?"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"default": "third"}, "kernels.default"),
        ({"wide_heads": "third"}, "kernels.wide_heads"),
        ({"default": 5}, "kernels.default"),
        ({"libraries": {}}, "kernels.libraries"),
        ({"libraries": {"first": 5}}, "kernels.libraries.first"),
        ({"libraries": {"first": "none", "second": "second.toml"}}, "kernels.libraries.first"),
        ({"librarys": {}}, "kernels.librarys"),
        ({"collectives": "none"}, "kernels.collectives"),
        ({"memory_bound": "none"}, "kernels.memory_bound"),
        ({"system": ""}, "kernels.system"),
    ],
)
def test_a_wrong_table_of_kernels_is_refused(refused, folder, change, field):
    """By its place in the profile."""
    table = tomllib.loads(PROFILE)
    table["kernels"] |= change
    assert field in [fault.field for fault in refused(cluster_from_table, table, folder=folder)]


def test_kernels_that_are_no_table_are_refused(refused, folder):
    """Such as the name of a library."""
    table = {**tomllib.loads(PROFILE), "kernels": "first"}
    assert [fault.field for fault in refused(cluster_from_table, table, folder=folder)] == ["kernels"]


def test_other_faults_of_the_profile_come_along(refused, folder):
    """A wrong library does not hide a wrong device."""
    table = tomllib.loads(PROFILE)
    table["accelerator"]["sm_count"] = 0
    fields = [fault.field for fault in refused(cluster_from_table, table, kernels="third", folder=folder)]
    assert sorted(fields) == ["accelerator.sm_count", "kernels"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("format = 2", "kernels.libraries.first.format"),
        ("format = 1\nmatmul = 5", "kernels.libraries.first.matmul"),
        ("format = 1\nmatmul = { bf16 = 5 }", "kernels.matmul.bf16"),
        ("format = 1\nall_reduce = 5", "kernels.all_reduce"),
        ("format = 1\nmatmul.bf16.fit = 5", "kernels.matmul.bf16.fit"),
        ("format = 1\nmatmul.bf16.fit.errors = 5", "kernels.matmul.bf16.fit.errors"),
        ("format = 1\nmatmul.bf16.systems = 5", "kernels.matmul.bf16.systems"),
        ("format = 1\nmatmul.bf16.systems.chip = 5", "kernels.matmul.bf16.systems.chip"),
        ("format = 1\nprefill.bf16-bf16.kernels = 5", "kernels.prefill.bf16-bf16.kernels"),
        ("format = 1\nprefill.bf16-bf16.kernels = [{}]", "kernels.prefill.bf16-bf16.kernels"),
    ],
)
def test_a_broken_coefficient_file_is_refused(refused, mine, text, field):
    """By its place in the file."""
    (mine.parent / "first.toml").write_text(text, encoding="utf-8")
    assert field in [fault.field for fault in refused(load_cluster, mine)]


def test_a_missing_coefficient_file_is_refused_by_its_path(refused, mine):
    """The path, the reason and the way out."""
    (mine.parent / "first.toml").unlink()
    (fault,) = refused(load_cluster, mine)
    assert fault.value == str(mine.parent / "first.toml")
    assert "No such file" in fault.allowed


def test_scenarios_may_name_the_library(refused):
    """Beside the profile."""
    table = scenario_to_table(perfsim.load_scenario("seed-improved"))
    table["cluster"] = {"profile": "dgx-h100", "num_devices": 16, "kernels": "vllm"}
    assert scenario_from_table(table).cluster == perfsim.load_cluster("dgx-h100", 16, "vllm")
    table["cluster"]["kernels"] = "vlm"
    assert "kernels" in [fault.field.split(".")[-1] for fault in refused(scenario_from_table, table)]


def test_coefficients_travel_with_a_scenario(library):
    """Written as JSON and read back, nothing is asked again."""
    scenario = perfsim.load_scenario("seed-improved")
    table = json.loads(json.dumps(scenario_to_table(scenario.with_(cluster=library)), allow_nan=False))
    again = scenario_from_table(table).cluster
    assert again == library
    assert hash(again) == hash(library)
    assert again.coefficients == library.coefficients


def test_every_shipped_library_prices_matrices_and_attention_of_every_device(library):
    """What it lacks is lent by another; the device without measurements of any keeps its documented efficiencies."""
    wanted = {"matmul.bf16", "prefill.bf16-bf16", "decode.bf16-bf16", "all_reduce", "all_to_all", "memory_bound"}
    assert library.kernels == "" or wanted <= library.coefficients.keys()


@pytest.mark.parametrize(
    ("name", "operators", "source"),
    [
        ("dgx-h100", ["matmul.bf16", "matmul.fp8", "prefill.bf16-bf16", "all_reduce"], "calibrated"),
        ("dgx-h200", ["matmul.bf16", "matmul.fp8", "prefill.bf16-bf16", "all_reduce"], "calibrated"),
        ("dgx-a100-80gb", ["matmul.bf16", "prefill.bf16-bf16", "decode.bf16-bf16", "all_reduce"], "calibrated"),
        ("dgx-b200", ["matmul.bf16", "prefill.bf16-bf16", "decode.bf16-bf16", "all_reduce"], "calibrated"),
        ("gb200-nvl72", ["matmul.bf16", "prefill.bf16-bf16", "decode.bf16-bf16", "all_reduce"], "calibrated"),
        ("l40s-pcie-8x", ["matmul.bf16", "prefill.bf16-bf16", "decode.bf16-bf16", "all_reduce"], "calibrated"),
        ("h20-8x", ["matmul.bf16", "prefill.bf16-bf16", "decode.bf16-bf16", "all_reduce"], "extrapolated"),
    ],
)
def test_shipped_devices_say_whether_they_were_measured(name, operators, source):
    """The H20 has its siblings' coefficients only."""
    marks = sources(perfsim.load_cluster(name))
    assert {marks[operator] for operator in operators} == {source}
