"""The template: the tasks of one microbatch, their streams, and who takes part."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.ops.build import operator_graph
from perfsim.schedule.template import STREAMS, make_template

COSTLESS = {"input", "split", "slice", "last", "receive", "gather", "output"}


@pytest.fixture(scope="module")
def graph(improved):
    """Give the graph of the improved seed plan."""
    return operator_graph(improved)


def streams_of(template, name):
    """Give the names of the streams of the rows of an operator."""
    rows = [row for row, i in enumerate(template.operator) if template.graph.operators[i].name == name]
    return [{STREAMS[stream % len(STREAMS)] for stream in template.streams[row].tolist()} for row in rows]


@pytest.mark.parametrize(("folded", "slots", "devices"), [(True, 2, 8), (False, 16, 1)])
def test_a_slot_stands_for_the_devices_of_a_stage_or_for_one(graph, folded, slots, devices):
    """With folding and without."""
    template = make_template(graph, folded=folded)
    assert (template.num_slots, template.devices_per_slot) == (slots, devices)


def test_a_folded_operator_is_one_task(graph):
    """Every operator that takes time has one row, in the order of the graph."""
    template = make_template(graph, folded=True)
    names = [graph.operators[i].name for i in template.operator]
    assert names == [operator.name for operator in graph if operator.kind not in COSTLESS]


def test_an_unfolded_operator_is_a_task_a_device_and_a_collective_one_a_group(graph):
    """A rendezvous of eight ranks is one task on eight streams."""
    template = make_template(graph, folded=False)
    count = Counter(graph.operators[i].name for i in template.operator)
    assert count["layer_03.gelu"] == count["stage_0.send"] == 8
    assert count["layer_03.mlp_all_reduce"] == 1
    row = next(r for r, i in enumerate(template.operator) if graph.operators[i].name == "layer_03.mlp_all_reduce")
    assert template.streams[row].tolist() == [3 * slot + STREAMS.index("collective") for slot in range(8)]


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize(
    ("name", "stream"),
    [("layer_03.mlp_down", "compute"), ("layer_03.attention", "compute"), ("layer_03.mlp_norm", "compute"),
     ("layer_03.mlp_all_reduce", "collective"), ("layer_03.mlp_residual", "collective"), ("stage_0.send", "send")],
)  # fmt: skip
def test_each_kind_has_its_stream(graph, folded, name, stream):
    """An addition that completes an all-reduce stands behind it on the stream of the collectives."""
    assert all(streams == {stream} for streams in streams_of(make_template(graph, folded=folded), name))


def test_additions_without_an_all_reduce_compute(seeds):
    """One layer a GPU has no collectives at all."""
    template = make_template(operator_graph(seeds["seed-baseline"]), folded=True)
    assert streams_of(template, "layer_03.mlp_residual") == [{"compute"}]
    used = {STREAMS[stream % len(STREAMS)] for stream in template.streams.values.tolist()}
    assert used == {"compute", "send"}


@pytest.mark.parametrize("folded", [True, False])
@given(data=st.data())
def test_every_slot_has_an_entry_for_every_operator_of_its_stage(data, folded, small_scenarios):
    """Receivers take part in the transfers of their senders."""
    graph = operator_graph(data.draw(small_scenarios))
    template = make_template(graph, folded=folded)
    entries = Counter(zip(template.entry_slot.tolist(), template.entry_operator.tolist(), strict=True))
    wanted = Counter(
        (operator.stage * template.slots_per_stage + slot, i)
        for i, operator in enumerate(graph)
        if operator.kind not in COSTLESS - {"receive"}
        for slot in range(template.slots_per_stage)
    )
    assert entries == wanted


@pytest.mark.parametrize("folded", [True, False])
@given(data=st.data())
def test_rows_stand_below_what_they_wait_for(data, folded, small_scenarios):
    """In their own microbatch; what waits for an earlier one may stand anywhere."""
    template = make_template(operator_graph(data.draw(small_scenarios)), folded=folded)
    row, earlier, lag = template.waits.T
    assert ((earlier < row) | (lag > 0)).all()
    assert lag.min(initial=0) >= 0
    assert template.num_rows == len(template.streams)
