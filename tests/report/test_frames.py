"""The tables of a run: timeline, operators and critical path."""

import math

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.ops.flop import closed_form_flop
from perfsim.ops.nodes import POINTS

TIMELINE = ["device", "stream", "stage", "microbatch", "layer", "op", "kind", "start_s", "end_s"]
OPERATORS = [
    *[
        "op",
        "kind",
        "stage",
        "layer",
        "shape",
        "flop",
        "bytes",
        "seconds",
        "low_s",
        "high_s",
        "bound",
        "roofline_s",
        "source",
    ],
    *["executions", "working_set_bytes", "weight_bytes", "fits_in_l2", "weight_fits_in_l2"],
    *["tile_bytes", "fits_in_shared_memory"],
]
CRITICAL = ["device", "stage", "microbatch", "layer", "op", "kind", "start_s", "end_s"]


def test_the_timeline_has_the_columns_of_the_contract(improved_result):
    """One row a kernel, and one for each end of what takes several devices."""
    frame = improved_result.timeline
    assert list(frame.columns) == TIMELINE
    assert set(frame["device"]) == set(range(16))
    assert set(frame["microbatch"]) == set(range(1024))
    assert set(frame["layer"].dropna()) == set(range(16))
    assert set(frame.loc[frame["layer"].isna(), "op"]) == {"send", "receive"}
    assert set(frame["kind"]) == {"matmul", "attention", "elementwise", "collective", "transfer"}
    assert set(frame["stream"]) == {"compute", "collective", "send", "receive"}


@settings(max_examples=25)
@given(data=st.data())
def test_every_execution_has_a_row_on_each_device(data, steady_results):
    """As often as the graph and the microbatches say; both ends of a transfer have one."""
    result = data.draw(steady_results)
    frame, count = result.timeline, result.scenario.num_microbatches
    work = [o for o in result.dag if o.kind == "receive" or o.kind not in POINTS]
    expected = {
        (operator.stage, -1 if operator.layer is None else operator.layer, operator.op, device): count
        for operator in work
        for device in operator.devices
    }
    keys = ["stage", "layer", "op", "device"]
    found = frame.assign(layer=frame["layer"].fillna(-1)).groupby(keys, observed=True).size().to_dict()
    assert found == expected


@settings(max_examples=25)
@given(data=st.data())
def test_rows_of_a_stream_never_overlap(data, small_results, in_ps):
    """A device does one thing at a time on each of its streams."""
    frame = data.draw(small_results).timeline
    for _, rows in frame.groupby(["device", "stream"], observed=True):
        rows = rows.sort_values("start_s")  # noqa: PLW2901
        start, end = in_ps(rows["start_s"]), in_ps(rows["end_s"])
        assert (start[1:] >= end[:-1]).all()
        assert (end > start).all()


@settings(max_examples=25)
@given(data=st.data())
def test_the_timeline_fills_the_makespan(data, small_results):
    """From 0 to the end of the last output."""
    result = data.draw(small_results)
    assert result.timeline["start_s"].min() == 0
    assert result.timeline["end_s"].max() == result.makespan_s


@settings(max_examples=30)
@given(data=st.data())
def test_folded_and_full_timelines_are_the_same(data, small_scenarios):
    """After sorting, to the bit."""
    scenario = data.draw(small_scenarios)
    folded, full = (
        perfsim.simulate(scenario, detail=detail).timeline.sort_values(TIMELINE, ignore_index=True)
        for detail in ("folded", "full")
    )
    pd.testing.assert_frame_equal(folded, full, check_exact=True)


@settings(max_examples=30)
@given(data=st.data())
def test_a_collective_is_at_the_same_time_on_all_of_its_group(data, steady_results):
    """A rendezvous: whoever takes part starts and ends with the others."""
    frame = data.draw(steady_results).timeline
    collectives = frame[frame["kind"] == "collective"]
    keys = ["microbatch", "layer", "op", "stage"]
    spread = collectives.assign(layer=collectives["layer"].fillna(-1)).groupby(keys, observed=True)
    assert (spread["start_s"].nunique() == 1).all()
    assert (spread["end_s"].nunique() == 1).all()


def test_a_single_gpu_does_one_operator_after_the_other(improved, in_ps):
    """The makespan of one layer on one GPU is the sum of its operators."""
    alone = perfsim.simulate(improved.with_(tensor=1, pipeline=1, num_hidden_layers=1, batch_size=3))
    total = (in_ps(alone.operators["seconds"]) * alone.operators["executions"]).sum()
    assert in_ps(alone.makespan_s) == total
    assert alone.bubble_fraction == 0


def test_the_next_microbatch_computes_beside_the_last_all_reduce(improved_result):
    """Of the stage, in the pipelined plan: the streams allow it, so it is done."""
    frame = improved_result.timeline
    mine = frame[(frame["device"] == 0) & frame["microbatch"].isin([10, 11])]
    reduce = mine[(mine["microbatch"] == 10) & (mine["layer"] == 7) & (mine["op"] == "mlp_all_reduce")].iloc[0]
    computes = mine[(mine["microbatch"] == 11) & (mine["stream"] == "compute")]
    beside = computes[(computes["start_s"] < reduce["end_s"]) & (computes["end_s"] > reduce["start_s"])]
    assert "attention_norm" in set(beside["op"])


def test_within_a_microbatch_an_all_reduce_is_waited_for(improved_result):
    """It lies on the critical path of its microbatch."""
    frame = improved_result.timeline
    layer = frame[(frame["device"] == 0) & (frame["microbatch"] == 5) & (frame["layer"] == 3)].set_index("op")
    assert layer.loc["attention_all_reduce", "start_s"] >= layer.loc["output_proj", "end_s"]
    assert layer.loc["attention_residual", "start_s"] >= layer.loc["attention_all_reduce", "end_s"]
    assert layer.loc["mlp_norm", "start_s"] >= layer.loc["attention_residual", "end_s"]


def test_the_baseline_has_one_microbatch_in_flight(results):
    """The next enters when the one before has left the last GPU."""
    frame = results["seed-baseline"].timeline.groupby("microbatch")
    assert (frame["start_s"].min().to_numpy()[1:] >= frame["end_s"].max().to_numpy()[:-1]).all()


def test_the_pipelined_placement_has_many(results):
    """Its first GPU begins the second microbatch long before the first is done."""
    frame = results["seed-layerwise-pipelined"].timeline.groupby("microbatch")
    assert frame["start_s"].min()[1] < frame["end_s"].max()[0] / 10


@settings(max_examples=25)
@given(data=st.data())
def test_the_flop_of_all_executions_is_the_closed_form(data, plain_results):
    """Exactly, also with a ragged last microbatch: whole numbers below 2^53."""
    result = data.draw(plain_results)
    total = math.fsum(result.operators["flop"] * result.operators["executions"])
    assert total == closed_form_flop(result.scenario.model, result.scenario.workload)


def test_the_flop_of_a_ragged_seed_is_the_closed_form(improved):
    """By hand: 2 a weight and token, 4 x hidden a pair of tokens, half of the pairs."""
    operators = perfsim.simulate(improved.with_(batch_size=10, microbatch_size=4)).operators
    assert set(operators.index.get_level_values("microbatch_size")) == {4, 2}
    weights = 16 * (4 * 8192**2 + 2 * 8192 * 32768)
    expected = 2 * weights * 100_000 + 16 * 4 * 8192 * 10 * 10_000**2 / 2
    assert (operators["flop"] * operators["executions"]).sum() == expected


@settings(max_examples=25)
@given(data=st.data())
def test_every_operator_is_priced_at_or_above_its_speed_of_light(data, steady_results):
    """With a bound and a source for each that takes time."""
    frame = data.draw(steady_results).operators
    assert list(frame.columns) == OPERATORS
    assert frame.index.names == ["operator", "microbatch_size"]
    assert frame.index.is_unique
    assert (frame["seconds"] >= frame["roofline_s"]).all()
    working = frame[frame["seconds"] > 0]
    assert (working["roofline_s"] > 0).all()
    assert working["bound"].isin(["compute", "memory", "network", "overhead"]).all()
    assert working["source"].isin(["calibrated", "extrapolated", "roofline"]).all()


@settings(max_examples=25)
@given(data=st.data())
def test_operators_and_timeline_tell_the_same(data, steady_results, in_ps):
    """Executions are rows, and their seconds are lengths."""
    result = data.draw(steady_results)
    operators = result.operators[result.operators["seconds"] > 0]
    rows = result.timeline[result.timeline["op"] != "receive"]
    assert operators["executions"].sum() == len(rows)
    spent = (in_ps(operators["seconds"]) * operators["executions"]).sum()
    assert (in_ps(rows["end_s"]) - in_ps(rows["start_s"])).sum() == spent


def test_operators_say_what_fits_where(improved_result):
    """Flags compare working sets, weights and tiles to the sizes of the chip."""
    frame, chip = improved_result.operators, improved_result.scenario.cluster.accelerator
    assert (frame["fits_in_l2"] == (frame["working_set_bytes"] <= chip.l2_bytes)).all()
    assert (frame["weight_fits_in_l2"] == (frame["weight_bytes"] <= chip.l2_bytes)).all()
    assert (frame["fits_in_shared_memory"] == (frame["tile_bytes"] <= chip.shared_memory_bytes_per_sm)).all()
    layer = frame[frame["layer"] == 0]
    assert layer["weight_bytes"].sum() == 2 * (12 * 8192**2 // 8 + 2 * 8192)
    assert layer.loc[("layer_00.qkv_proj", 1), "weight_fits_in_l2"]
    assert not layer.loc[("layer_00.mlp_up", 1), "weight_fits_in_l2"]


def test_operators_show_device_shapes(improved_result):
    """What one GPU holds of one microbatch."""
    shapes = improved_result.operators["shape"].droplevel("microbatch_size")
    assert shapes["layer_00.qkv_proj"] == "[1, 10000, 8192] -> [1, 10000, 1024] [1, 10000, 1024] [1, 10000, 1024]"
    assert shapes["layer_15.mlp_down"] == "[1, 10000, 4096] -> [1, 10000, 8192]"


@settings(max_examples=25)
@given(data=st.data())
def test_the_critical_path_is_a_chain_from_nought_to_the_makespan(data, small_results, in_ps):
    """Each row starts where the one before ends; together they are the makespan."""
    result = data.draw(small_results)
    path = result.critical_path
    start, end = in_ps(path["start_s"]), in_ps(path["end_s"])
    assert list(path.columns) == CRITICAL
    assert start[0] == 0
    assert end[-1] == in_ps(result.makespan_s)
    assert (start[1:] == end[:-1]).all()
    assert (end - start).sum() == in_ps(result.makespan_s)


def test_the_critical_path_is_made_of_rows_of_the_timeline(improved):
    """With the same device, microbatch, operator and times."""
    result = perfsim.simulate(improved.with_(batch_size=5))
    on_path = result.critical_path.assign(layer=lambda frame: frame["layer"].fillna(-1))
    rows = result.timeline.assign(layer=lambda frame: frame["layer"].fillna(-1))
    keys = ["device", "stage", "microbatch", "layer", "op", "start_s", "end_s"]
    known = set(rows[keys].astype(object).itertuples(index=False, name=None))
    assert set(on_path[keys].astype(object).itertuples(index=False, name=None)) <= known


def test_the_critical_path_of_one_at_a_time_is_everything_on_the_way(results):
    """Nothing overlaps in the baseline, so every microbatch passes every operator on the path."""
    path = results["seed-baseline"].critical_path
    assert len(path) == 1024 * (16 * 10 + 15)
