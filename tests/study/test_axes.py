"""The axes of a sweep: what they mean, in which order their points come, and what is refused before anything runs."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.study.axes import SIZES, Axes, Axis, read_axes


@pytest.mark.parametrize(
    "given_values",
    [
        [1, 3],
        (1, 3),
        range(1, 4, 2),
        np.array([1, 3]),
        pd.Series([1, 3]),
        (n for n in (1, 3)),
        [np.int8(1), np.int64(3)],
    ],
    ids=["list", "tuple", "range", "array", "series", "generator", "numpy numbers"],
)
def test_any_sequence_gives_plain_values(improved, given_values):
    """NumPy's numbers become Python's, so that a table and a file can name them."""
    (axis,) = read_axes(improved, {"batch_size": given_values}).axes
    assert axis == Axis("batch_size", "workload.batch_size", (1, 3), (1, 3))
    assert all(type(value) is int for value in (*axis.values, *axis.labels))


@pytest.mark.parametrize(
    ("name", "path", "values"),
    [
        ("batch_size", "workload.batch_size", [1]),
        ("workload.batch_size", "workload.batch_size", [1]),
        ("tensor", "plan.tensor", [2]),
        ("num_hidden_layers", "model.num_hidden_layers", [3]),
        ("num_devices", "cluster.num_devices", [32]),
        ("cluster.efficiency.matmul", "cluster.efficiency.matmul", [0.5]),
        ("cluster.tiers.0.bytes_per_s", "cluster.tiers.0.bytes_per_s", [1e11]),
        ("cluster.accelerator.peak_flop_per_s.bf16", "cluster.accelerator.peak_flop_per_s.bf16", [1e15]),
    ],
)
def test_a_name_means_a_field_of_one_part(improved, name, path, values):
    """Short or dotted; the column keeps the name as it was written."""
    (axis,) = read_axes(improved, {name: values}).axes
    assert (axis.name, axis.path, list(axis.values), axis.is_part) == (name, path, values, False)


def test_whole_parts_are_known_by_their_labels(improved):
    """A plan by what it does, a model by its name, a cluster by its name and its size."""
    cluster = dataclasses.replace(improved.cluster, num_devices=32)
    model = dataclasses.replace(improved.model, name="other")
    axes = read_axes(
        improved,
        {"plan": [perfsim.Plan(2, 4), improved.plan], "model": [model], "cluster": [improved.cluster, cluster]},
    )
    assert [axis.labels for axis in axes.axes] == [
        ("TP2 x PP4", "TP8 x PP2, microbatch 1"),
        ("other",),
        ("dgx-h100 x 16", "dgx-h100 x 32"),
    ]
    assert all(axis.is_part for axis in axes.axes)


def test_a_mapping_gives_labels(improved):
    """For whole parts and for single values."""
    plans = {"wide": perfsim.Plan(8), "deep": perfsim.Plan(pipeline=8)}
    axes = read_axes(improved, {"plan": plans, "microbatch_size": {"even": None, "one by one": 1}})
    assert axes.by_path("plan").labels == ("wide", "deep")
    assert axes.by_path("plan").values == tuple(plans.values())
    assert axes.by_path("plan.microbatch_size").labels == ("even", "one by one")
    assert axes.by_path("workload") is None


def columns_of(scenario, **axes):
    """Give the columns of some axes by name."""
    return {name: values for name, _, values in read_axes(scenario, axes).columns()}


def test_whole_parts_show_their_fields_beside(improved):
    """Every field that fits into a column, of each value; no tables, lists of tiers or long texts."""
    plan = columns_of(improved, plan=[perfsim.Plan(2, 4), improved.plan])
    assert plan["plan"] == ["TP2 x PP4", "TP8 x PP2, microbatch 1"]
    assert {name: column for name, column in plan.items() if name != "plan"} == {
        f"plan.{field.name}": [getattr(perfsim.Plan(2, 4), field.name), getattr(improved.plan, field.name)]
        for field in dataclasses.fields(perfsim.Plan)
    }
    cluster = columns_of(improved, cluster=[improved.cluster])
    assert cluster["cluster.num_devices"] == [16]
    assert not {"cluster.tiers", "cluster.accelerator", "cluster.sources", "cluster.title"} & set(cluster)


def test_a_single_field_has_one_column(improved):
    """The one that was asked for."""
    assert columns_of(improved, batch_size=[1, 2]) == {"batch_size": [1, 2]}


@st.composite
def some_axes(draw):
    """Draw axes of any lengths, some of them sizes."""
    paths = draw(st.lists(st.sampled_from([*SIZES, "plan", "cluster.num_devices", "model.a"]), min_size=1, unique=True))
    return Axes(tuple(Axis(path, path, values := tuple(range(draw(st.integers(1, 4)))), values) for path in paths))


@given(axes=some_axes())
def test_points_are_the_product_with_the_last_axis_fastest(axes):
    """As `itertools.product` counts them."""
    indices = axes.indices(np.arange(axes.num_points))
    product = list(itertools.product(*(range(len(axis.values)) for axis in axes.axes)))
    assert list(zip(*(indices[axis.path].tolist() for axis in axes.axes), strict=True)) == product
    assert len(product) == axes.num_points == np.prod(axes.shape)


@given(axes=some_axes(), data=st.data())
def test_the_work_order_takes_every_point_once(axes, data):
    """In slices of any length; points that differ in sizes only stand together."""
    cut = data.draw(st.integers(0, axes.num_points))
    order = [*axes.in_work_order(0, cut).tolist(), *axes.in_work_order(cut, axes.num_points).tolist()]
    assert sorted(order) == list(range(axes.num_points))
    indices = axes.indices(np.array(order))
    others = list(zip(*(indices[axis.path].tolist() for axis in axes.axes if axis.path not in SIZES), strict=True))
    assert len(list(itertools.groupby(others))) == len(set(others))


def test_millions_of_points_are_not_laid_out():
    """A slice of the work order is found by counting, however many points there are."""
    axes = Axes(tuple(Axis(path, path, values := range(10**5), values) for path in (*SIZES[:2], "plan.tensor")))
    assert axes.num_points == 10**15
    assert axes.in_work_order(10**15 - 2, 10**15).tolist() == [10**15 - 10**5 - 1, 10**15 - 1]


def test_the_table_of_axes_is_plain(improved):
    """Names, paths, labels and values, for a fingerprint and for the way back."""
    axes = read_axes(
        improved, {"batch_size": [2], "layers_per_stage": [(8, 8), None], "plan": {"a": perfsim.Plan(2, 2)}}
    )
    batch, layers, plan = axes.to_table()
    assert batch == {"name": "batch_size", "path": "workload.batch_size", "labels": [2], "values": [2]}
    assert layers["values"] == [[8, 8], None]
    assert plan["labels"] == ["a"]
    assert plan["values"][0]["tensor"] == 2


NOT_AXES = {
    "no axis": ({}, "sweep.axes"),
    "unknown": ({"batch": [1]}, "sweep.batch"),
    "unknown, nested": ({"cluster.accelerator.memory": [1]}, "cluster.accelerator.memory"),
    "unknown tier": ({"cluster.tiers.2.bytes_per_s": [1e9]}, "cluster.tiers.2.bytes_per_s"),
    "unknown part": ({"machine.tensor": [1]}, "sweep.machine.tensor"),
    "in two parts": ({"name": ["a"]}, "sweep.name"),
    "empty": ({"batch_size": []}, "sweep.batch_size"),
    "empty mapping": ({"plan": {}}, "sweep.plan"),
    "empty array": ({"batch_size": np.array([], int)}, "sweep.batch_size"),
    "one value": ({"batch_size": 64}, "sweep.batch_size"),
    "one text": ({"dtype": "fp8"}, "sweep.dtype"),
    "one plan": ({"plan": perfsim.Plan()}, "sweep.plan"),
    "twice the same": ({"batch_size": [1, 2, 1]}, "sweep.batch_size"),
    "twice the same, as numbers": ({"batch_size": [1, np.int64(1)]}, "sweep.batch_size"),
    "twice the same label": ({"plan": [perfsim.Plan(2), perfsim.Plan(2)]}, "sweep.plan"),
    "a text for a number": ({"batch_size": [1, "2"]}, "workload.batch_size"),
    "a fraction for a count": ({"batch_size": [1.5]}, "workload.batch_size"),
    "a flag for a count": ({"batch_size": [True]}, "workload.batch_size"),
    "too small": ({"sequence_length": [0]}, "workload.sequence_length"),
    "negative": ({"microbatch_size": [-1]}, "plan.microbatch_size"),
    "nothing for a count": ({"batch_size": [None]}, "workload.batch_size"),
    "not a number": ({"cluster.efficiency.matmul": [float("nan")]}, "cluster.efficiency.matmul"),
    "above the speed of light": ({"cluster.efficiency.matmul": [0.5, 1.5]}, "cluster.efficiency.matmul"),
    "unknown choice": ({"schedule": ["pipelined", "zero bubble"]}, "plan.schedule"),
    "unknown data type": ({"dtype": ["fp9"]}, "workload.dtype"),
    "a number for a flag": ({"causal": [0, 1]}, "workload.causal"),
    "a text for layers": ({"layers_per_stage": [("8", "8")]}, "plan.layers_per_stage.0"),
    "a number for layers": ({"layers_per_stage": [16]}, "plan.layers_per_stage"),
    "a label for a plan": ({"plan": ["TP8"]}, "sweep.plan"),
    "a model for a plan": ({"plan": {"a": perfsim.load_model("llm-16l-8192")}}, "sweep.plan"),
    "a text for a nested number": ({"cluster.tiers.0.bytes_per_s": ["fast"]}, "cluster.tiers.0.bytes_per_s"),
    "a table for an accelerator": ({"accelerator": [{"name": "x"}]}, "cluster.accelerator"),
}


@pytest.mark.parametrize(("axes", "field"), NOT_AXES.values(), ids=NOT_AXES)
def test_what_is_no_axis_is_refused(refused, improved, axes, field):
    """By the name of the field, with what is allowed."""
    assert {fault.field for fault in refused(read_axes, improved, axes)} >= {field}


def test_two_axes_of_one_field_are_refused(refused, improved):
    """Under whatever names; both are named."""
    faults = refused(read_axes, improved, {"batch_size": [1], "workload.batch_size": [2], "tensor": [8]})
    assert [fault.field for fault in faults] == ["sweep.batch_size", "sweep.workload.batch_size"]
    assert all("workload.batch_size" in fault.allowed for fault in faults)


def test_all_faults_come_together(refused, improved):
    """Of all axes and of all values of an axis."""
    faults = refused(
        read_axes,
        improved,
        {"bogus": [1], "batch_size": [], "sequence_length": ["a", 2, 0], "tensor": 3, "schedule": ["x"]},
    )
    assert [fault.field for fault in faults].count("workload.sequence_length") == 2
    assert {fault.field for fault in faults} == {
        "sweep.bogus", "sweep.batch_size", "workload.sequence_length", "sweep.tensor", "plan.schedule",
    }  # fmt: skip


def test_a_wrong_plan_hides_no_wrong_field_of_plans(refused, improved):
    """Both are named."""
    faults = refused(read_axes, improved, {"plan": [3], "schedule": ["x"]})
    assert {fault.field for fault in faults} == {"sweep.plan", "plan.schedule"}


def test_a_near_miss_is_suggested(refused, improved):
    """A typing error is the likeliest fault."""
    (fault,) = refused(read_axes, improved, {"sequence_lenght": [1]})
    assert "sequence_length" in fault.way_out


LEGAL_TOGETHER = {
    "layers of two and of three stages": {"layers_per_stage": [(8, 8), (5, 5, 6)], "pipeline": [2, 3]},
    "heads and groups of heads": {"num_attention_heads": [16, 12], "num_key_value_heads": [4, 6]},
    "dropping the cache, where not decoding": {"phase": ["decode", "prefill"], "keep_kv_cache": [True, False]},
    "tiers that grow together": {"cluster.tiers.0.domain_size": [8, 16], "cluster.tiers.1.domain_size": [16, 32]},
    "layers of three stages, beside whole plans": {
        "plan": [perfsim.Plan(4, 2), perfsim.Plan(4, 3)],
        "layers_per_stage": [(8, 8), (5, 5, 6)],
    },
    "dropping the cache, beside whole workloads": {
        "workload": {"decode": perfsim.Workload(phase="decode"), "prefill": perfsim.Workload()},
        "keep_kv_cache": [True, False],
    },
}


@pytest.mark.parametrize("axes", LEGAL_TOGETHER.values(), ids=LEGAL_TOGETHER)
def test_what_other_axes_may_allow_is_not_refused(improved, axes):
    """A value is judged with what varies beside it; where they do not fit together a point is impossible."""
    decoding = improved.with_(phase="decode", keep_kv_cache=True)
    assert [axis.name for axis in read_axes(decoding, axes).axes] == list(axes)


@settings(max_examples=30)
@given(data=st.data())
def test_a_field_may_have_its_own_value(data, small_scenarios):
    """What a scenario holds can stand on an axis, whatever the field."""
    scenario = data.draw(small_scenarios)
    for part in ("workload", "plan", "model", "cluster"):
        value = getattr(scenario, part)
        for field in dataclasses.fields(value):
            (axis,) = read_axes(scenario, {f"{part}.{field.name}": [getattr(value, field.name)]}).axes
            assert axis.values == (getattr(value, field.name),)
