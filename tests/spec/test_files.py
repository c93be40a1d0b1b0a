"""Scenarios in files: the round trip through a table, and every fault of a file in one error."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim import Plan, load_scenario
from perfsim.spec.files import scenario_from_table, scenario_to_table

TEXT = """
[cluster]
profile = "dgx-h100"
num_devices = 16

[model]
preset = "llm-16l-8192"

[plan]
tensor = 8
pipeline = 2
microbatch_size = 1

[workload]
batch_size = 1024
sequence_length = 10000
keep_kv_cache = false
"""


@pytest.fixture
def write(tmp_path):
    """Give a function that writes a scenario file with replaced texts and gives its path."""

    def write_file(**replaced):
        text = TEXT
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "scenario.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@given(data=st.data())
def test_a_scenario_survives_the_way_through_json(data, small_scenarios):
    """Everything is in the table: no profile and no preset is asked again."""
    scenario = data.draw(small_scenarios)
    again = scenario_from_table(json.loads(json.dumps(scenario_to_table(scenario))))
    assert again == scenario
    assert hash(again) == hash(scenario)
    assert again.cluster.sources == scenario.cluster.sources


def test_every_cluster_survives_the_way_through_json(cluster, improved):
    """Those of all shipped profiles."""
    scenario = improved.with_(cluster=cluster)
    assert scenario_from_table(json.loads(json.dumps(scenario_to_table(scenario)))) == scenario


def test_a_scenario_of_numpy_sizes_survives_the_way_through_json(improved):
    """A point of a sweep over an array can be saved."""
    scenario = improved.with_(batch_size=np.int64(64), tensor=np.int32(4))
    assert scenario_from_table(json.loads(json.dumps(scenario_to_table(scenario)))) == scenario


def test_a_file_gives_the_scenario_that_it_describes(write, improved):
    """The seed's file written by hand."""
    assert load_scenario(write()) == load_scenario(str(write())) == improved


def test_every_shipped_scenario_loads():
    """What is listed is there."""
    assert all(load_scenario(name).plan.num_devices == 16 for name in perfsim.list_scenarios())


def test_profiles_and_models_are_found_beside_the_file(write, tmp_path):
    """Paths are relative to the file that names them."""
    (tmp_path / "parts").mkdir()
    model = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 8, "intermediate_size": 64}
    (tmp_path / "parts" / "tiny.json").write_text(json.dumps(model), encoding="utf-8")
    path = write(**{'"llm-16l-8192"': '"parts/tiny.json"'})
    assert load_scenario(path).model.name == "tiny"


def test_a_model_may_stand_in_the_file(write):
    """With the fields of `Model`."""
    fields = 'name = "m"\nnum_hidden_layers = 2\nhidden_size = 64\nnum_attention_heads = 8\nintermediate_size = 64'
    assert load_scenario(write(**{'preset = "llm-16l-8192"': fields})).model.intermediate_size == 64


def test_layers_may_be_a_list(write):
    """TOML has no tuples."""
    path = write(**{"pipeline = 2": "pipeline = 2\nlayers_per_stage = [10, 6]"})
    assert load_scenario(path).plan == Plan(tensor=8, pipeline=2, microbatch_size=1, layers_per_stage=(10, 6))


@pytest.mark.parametrize(
    ("old", "new", "field", "way_out"),
    [
        ("tensor = 8", "tenser = 8", "plan.tenser", "did you mean 'tensor'?"),
        ("batch_size = 1024", "batchsize = 1024", "workload.batchsize", "did you mean 'batch_size'?"),
        ('profile = "dgx-h100"', 'profile = "dgx-h100"\nnodes = 2', "cluster.nodes", "the keys are"),
        ("[plan]", "[plans]", "plans", "did you mean 'plan'?"),
        ('"llm-16l-8192"', '"llm-16l-8192"\nhead_dims = 2', "model.head_dims", "did you mean 'head_dim'?"),
    ],
)
def test_unknown_keys_are_refused(refused, write, *, old, new, field, way_out):
    """A typo never runs with a default."""
    faults = refused(load_scenario, write(**{old: new}))
    assert way_out in next(fault for fault in faults if fault.field == field).way_out


@pytest.mark.parametrize(
    ("old", "new", "field", "value"),
    [
        ("tensor = 8", 'tensor = "8"', "plan.tensor", "8"),
        ("tensor = 8", "tensor = true", "plan.tensor", True),
        ("batch_size = 1024", "batch_size = 0", "workload.batch_size", 0),
        ("sequence_length = 10000", "sequence_length = -5", "workload.sequence_length", -5),
        ("sequence_length = 10000", "sequence_length = 1e4", "workload.sequence_length", 1e4),
        ("keep_kv_cache = false", 'keep_kv_cache = "no"', "workload.keep_kv_cache", "no"),
        ("num_devices = 16", "num_devices = 0", "cluster.num_devices", 0),
        ('"dgx-h100"', '"dgx-h1000"', "cluster", "dgx-h1000"),
        ('"dgx-h100"', "100", "cluster", "100"),
        ('"llm-16l-8192"', '"gpt-5"', "model", "gpt-5"),
        ("tensor = 8", "tensor = 3", "plan.tensor", 3),
        ("pipeline = 2", "pipeline = 17", "plan.pipeline", 17),
        ("num_devices = 16", "num_devices = 8", "plan", "8 tensor x 2 pipeline x 1 data = 16 devices"),
    ],
)
def test_wrong_values_are_refused(refused, write, *, old, new, field, value):
    """Types, sizes, names, and what the parts do not allow of each other."""
    faults = refused(load_scenario, write(**{old: new}))
    assert (field, value) in [(fault.field, fault.value) for fault in faults]


def test_faults_of_all_parts_come_together(refused, write):
    """One wrong value in each of the four tables."""
    path = write(**{
        "num_devices = 16": "num_devices = 0", '"llm-16l-8192"': '"x"', "tensor = 8": "tensor = 0", "1024": "-1",
    })  # fmt: skip
    fields = [fault.field for fault in refused(load_scenario, path)]
    assert fields == ["cluster.num_devices", "model", "plan.tensor", "workload.batch_size"]


def test_missing_tables_are_named_together(refused):
    """An empty file lacks four."""
    assert [fault.field for fault in refused(scenario_from_table, {})] == ["cluster", "model", "plan", "workload"]


@pytest.mark.parametrize("part", ["cluster", "model", "plan", "workload"])
def test_a_part_that_is_no_table_is_refused(refused, improved, part):
    """A number where a table belongs."""
    (fault,) = refused(scenario_from_table, {**scenario_to_table(improved), part: 5})
    assert (fault.field, fault.value) == (part, 5)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *[(part, value) for part in ("accelerator", "efficiency") for value in (5, "x", [5])],
        *[(part, value) for part in ("tiers", "sources") for value in (5, "x", [5])],
    ],
)
def test_a_part_of_a_cluster_that_is_no_table_is_refused(refused, improved, part, value):
    """In the complete table, too."""
    table = scenario_to_table(improved)
    table["cluster"][part] = value
    assert any(fault.field.startswith(f"cluster.{part}") for fault in refused(scenario_from_table, table))


def test_the_faults_of_a_device_have_their_whole_path(refused, improved):
    """Unknown keys and wrong values of one table under one name."""
    table = scenario_to_table(improved)
    table["cluster"]["accelerator"] |= {"sm_count": 0, "sms": 3}
    fields = {fault.field for fault in refused(scenario_from_table, table)}
    assert fields == {"cluster.accelerator.sm_count", "cluster.accelerator.sms"}


def test_a_broken_part_of_a_cluster_does_not_hide_its_other_faults(refused, improved):
    """Nor is it reported twice."""
    table = scenario_to_table(improved)
    table["cluster"] |= {"num_devices": 0, "efficiency": {**table["cluster"]["efficiency"], "matmul": 2}}
    table["cluster"]["tiers"][1]["bytes_per_s"] = 0
    fields = [fault.field for fault in refused(scenario_from_table, table)]
    assert sorted(fields) == ["cluster.efficiency.matmul", "cluster.num_devices", "cluster.tiers.1.bytes_per_s"]


def test_fields_of_a_preset_can_differ(refused, write):
    """As `with_` changes them, with the checks of the model."""
    more = 'quantization = "fp8"\nattention_quantization = "none"\nnum_hidden_layers = 4'
    scenario = load_scenario(write(**{'"llm-16l-8192"': f'"llm-16l-8192"\n{more}'}))
    wanted = load_scenario(write()).with_(quantization="fp8", attention_quantization="none", num_hidden_layers=4)
    assert scenario == wanted
    wrong = 'quantization = "fp9"\nhidden_act = "tanh"'
    faults = refused(load_scenario, write(**{'"llm-16l-8192"': f'"llm-16l-8192"\n{wrong}'}))
    assert [fault.field for fault in faults] == ["model.hidden_act", "model.quantization"]


def test_an_unknown_key_does_not_hide_an_unknown_profile(refused, write):
    """All faults of a file come together."""
    path = write(**{'"dgx-h100"': '"dgx-h1000"\nnodes = 2', '"llm-16l-8192"': '"gpt-5"\nheads = 2'})
    fields = [fault.field for fault in refused(load_scenario, path)]
    assert fields == ["cluster.nodes", "cluster", "model.heads", "model"]


@pytest.mark.parametrize("table", [5, "x", None, [1]], ids=repr)
def test_what_is_no_table_is_no_scenario(refused, table):
    """A saved file may hold anything."""
    (fault,) = refused(scenario_from_table, table)
    assert (fault.field, fault.value) == ("scenario", table)


def test_an_unknown_table_does_not_hide_a_wrong_cluster(refused, improved):
    """All faults of a table come together."""
    table = scenario_to_table(improved)
    table["cluster"]["num_devices"] = 0
    fields = [fault.field for fault in refused(scenario_from_table, {**table, "notes": "x"})]
    assert sorted(fields) == ["cluster.num_devices", "notes"]


def test_an_unknown_name_lists_the_scenarios(refused):
    """And the nearest."""
    (fault,) = refused(load_scenario, "seed-improve")
    assert (fault.field, fault.value) == ("scenario", "seed-improve")
    assert fault.way_out == "did you mean 'seed-improved'?"


@pytest.mark.parametrize("name", [5, None], ids=repr)
def test_a_name_of_another_type_is_refused(refused, name):
    """A name is a text or a path."""
    (fault,) = refused(load_scenario, name)
    assert fault.field == "scenario"


def test_a_missing_file_is_refused_by_its_path(refused, tmp_path):
    """The path, the reason and the way out."""
    (fault,) = refused(load_scenario, tmp_path / "none.toml")
    assert fault.value == str(tmp_path / "none.toml")
    assert "No such file" in fault.allowed
    assert fault.way_out


def test_a_broken_file_is_refused_by_its_path_and_place(refused, write):
    """The parser's own place helps to mend it."""
    (fault,) = refused(load_scenario, write(**{"tensor = 8": "tensor = "}))
    assert fault.value.endswith("scenario.toml")
    assert "line 10" in fault.allowed
    assert fault.way_out


def test_a_file_that_names_a_missing_file_is_refused_by_that_path(refused, write, tmp_path):
    """The profile that is not there, beside the scenario that is."""
    (fault,) = refused(load_scenario, write(**{'"dgx-h100"': '"mine.toml"'}))
    assert fault.value == str(tmp_path / "mine.toml")
