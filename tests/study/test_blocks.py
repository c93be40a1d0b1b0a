"""Blocks of a sweep: any cut gives the same rows, and every point that cannot be says why."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.errors import InputError
from perfsim.study.axes import read_axes
from perfsim.study.blocks import evaluate_block

FIGURES = [
    "makespan_s",
    "tokens_per_s",
    "first_sequence_s",
    "mfu",
    "mfu_full_attention",
    "peak_bytes",
    "capacity_bytes",
]


@pytest.fixture(scope="module")
def base(improved):
    """Give the improved plan with two layers and few short sequences."""
    return improved.with_(num_hidden_layers=2, batch_size=6, sequence_length=100)


@pytest.fixture
def block_of():
    """Give a function that evaluates all points of some axes at once."""

    def evaluate(scenario, **axes):
        space = read_axes(scenario, axes)
        return evaluate_block(scenario, space, space.in_work_order(0, space.num_points)).sort_index()

    return evaluate


@settings(max_examples=8)
@given(cuts=st.sets(st.integers(1, 53), max_size=4))
def test_any_cut_gives_the_same_rows(base, cuts):
    """Also one through the middle of a scenario's points, and of what clusters share."""
    names = {"cluster.tiers.0.bytes_per_s": [1e11, 2e11], "batch_size": [1, 6, 7]}
    axes = read_axes(base, {**names, "tensor": [1, 3, 8], "sequence_length": [10, 100, 1000]})
    whole = evaluate_block(base, axes, axes.in_work_order(0, 54))
    bounds = [0, *sorted(cuts), 54]
    parts = [evaluate_block(base, axes, axes.in_work_order(first, last)) for first, last in itertools.pairwise(bounds)]
    pd.testing.assert_frame_equal(pd.concat(parts), whole, check_exact=True)


def test_a_possible_point_has_all_figures_and_no_reason(base, block_of):
    """Rows are indexed by the number of the point."""
    block = block_of(base, batch_size=[1, 2])
    assert block.index.tolist() == [0, 1]
    assert block[FIGURES].notna().all(axis=None)
    assert block["fits"].tolist() == [True, True]
    assert block["reason"].tolist() == ["", ""]


def test_a_point_that_does_not_fit_says_what_it_needs(base, block_of):
    """It is possible, so its figures stand there, and the reason has needed and present gigabytes."""
    kept = base.with_(keep_kv_cache=True)
    block = block_of(kept, batch_size=[1, 10**6])
    assert block["fits"].tolist() == [True, False]
    assert block[FIGURES].notna().all(axis=None)
    needed = block["peak_bytes"][1] / 1e9
    assert block["reason"].tolist() == ["", f"does not fit: needs {needed:.4g} GB of 85.52 GB"]


def test_capacity_is_the_boundary(base, block_of):
    """A point that needs exactly what there is fits, and with one byte less it does not."""
    needed = int(block_of(base, batch_size=[6])["peak_bytes"][0])
    sizes = {"cluster.accelerator.memory_bytes": [needed - 1, needed]}
    assert block_of(base, **sizes)["fits"].tolist() == [False, True]


IMPOSSIBLE = {
    "more devices than there are": ({"tensor": [8, 16]}, [1], "devices of the cluster"),
    "heads that do not divide": ({"tensor": [8, 3]}, [1], "must divide model.num_attention_heads"),
    "more stages than layers": ({"pipeline": [1, 3], "tensor": [2]}, [1], "at most the 2 layers"),
    "layers that do not add up": ({"layers_per_stage": [(1, 1), (2, 2)]}, [1], "must add up to the 2 layers"),
    "layers of other stages": (
        {"layers_per_stage": [(1, 1), (2,)], "pipeline": [1, 2]},
        [0, 3],
        "one for each stage",
    ),
    "batches that replicas cannot share": (
        {"data": [2], "batch_size": [3, 4, 5, 6], "tensor": [2]},
        [0, 2],
        "multiple of plan.data",
    ),
    "no cache in the decode phase": (
        {"phase": ["prefill", "decode"], "keep_kv_cache": [False]},
        [1],
        "must be true in the decode phase",
    ),
    "a smaller cluster": ({"num_devices": [16, 8]}, [1], "at most the 8 devices"),
    "tiers that shrink": (
        {"cluster.tiers.0.domain_size": [8, 32], "cluster.tiers.1.domain_size": [16]},
        [1],
        "larger multiple of the 32 devices",
    ),
}


@pytest.mark.parametrize(("axes", "impossible", "words"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_impossible_point_says_why(base, block_of, axes, impossible, words):
    """Its figures are missing, it does not fit, and the other points are there."""
    block = block_of(base, **axes)
    missing = block["makespan_s"].isna()
    assert block.index[missing].tolist() == impossible
    assert block.loc[missing, FIGURES].isna().all(axis=None)
    assert not block.loc[missing, "fits"].any()
    assert block.loc[missing, "reason"].str.startswith("impossible: ").all()
    assert block.loc[missing, "reason"].str.contains(words).all()
    assert (block.loc[~missing, "reason"] == "").all()


def test_the_reason_is_what_the_scenario_says(base, block_of, refused):
    """The words of the error, all faults in one line."""
    block = block_of(base.with_(pipeline=1, tensor=2), data=[4, 32], batch_size=[6])
    for point, data in enumerate([4, 32]):
        faults = refused(base.with_, pipeline=1, tensor=2, data=data)
        assert block["reason"][point] == "impossible: " + "; ".join(map(str, faults))
    assert "workload.batch_size" in block["reason"][1]
    assert "devices of the cluster" in block["reason"][1]


def test_data_types_without_a_peak_are_impossible(base, block_of):
    """On the devices that do not multiply in them."""
    a100 = perfsim.load_cluster("dgx-a100-80gb", num_devices=16)
    block = block_of(base, cluster=[base.cluster, a100], dtype=["fp8", "bf16"])
    assert block["fits"].tolist() == [True, True, False, True]
    assert "must be a dtype that" in block["reason"][2]


def test_too_much_work_is_impossible(base, block_of):
    """The engines count whole picoseconds up to some weeks."""
    block = block_of(base, sequence_length=[100, 10**9])
    assert block["reason"].tolist() == ["", "impossible: more picoseconds or bytes than 64 bits can count"]
    assert block.loc[1, FIGURES].isna().all()
    assert not block["fits"][1]


RAGGED = {
    "microbatches that do not go round": {"virtual_stages": 2, "pipeline": 2, "microbatch_size": 2},
    "fewer tokens than parts": {"tensor": 2, "overlap_chunks": 4},
    "one token a context rank, or an odd one": {"context": 2, "tensor": 2},
}


@pytest.mark.parametrize("plan", RAGGED.values(), ids=RAGGED)
def test_sizes_that_a_plan_cannot_divide_say_why(base, block_of, refused, plan):
    """In the words of the scenario; the others have their figures."""
    scenario = base.with_(plan=perfsim.Plan(), num_hidden_layers=4)
    block = block_of(scenario, plan=[perfsim.Plan(**plan)], batch_size=[5, 8], sequence_length=[2, 3, 100])
    for _, row in block.iterrows():
        sizes = {name: int(row[name]) for name in ("batch_size", "sequence_length")}
        if row["reason"]:
            faults = refused(scenario.with_, plan=perfsim.Plan(**plan), **sizes)
            assert row["reason"] == "impossible: " + "; ".join(map(str, faults))
        else:
            assert row["makespan_s"] == perfsim.simulate(scenario.with_(plan=perfsim.Plan(**plan), **sizes)).makespan_s
    assert block["reason"].ne("").any()
    assert block["reason"].eq("").any()


def test_a_batch_that_replicas_and_rounds_cannot_share_says_so(base, block_of):
    """A replica without a sequence has no microbatches to count."""
    plan = {"data": 2, "tensor": 2, "pipeline": 2, "virtual_stages": 2, "microbatch_size": 1}
    block = block_of(base.with_(plan=perfsim.Plan(), num_hidden_layers=4), plan=[perfsim.Plan(**plan)],
                     batch_size=[1, 4])  # fmt: skip
    assert "must be a multiple of plan.data = 2" in block["reason"][0]
    assert block["reason"][1] == ""


@pytest.mark.parametrize("changes", [{"phase": "generation", "output_length": 2}, {"virtual_stages": 2}], ids=str)
def test_too_much_work_of_one_point_is_no_matter_for_the_others(base, block_of, changes):
    """Also where points are simulated one by one."""
    block = block_of(
        base.with_(num_hidden_layers=4, batch_size=2, keep_kv_cache=True, **changes), sequence_length=[100, 10**9]
    )
    assert block["reason"].tolist() == ["", "impossible: more picoseconds or bytes than 64 bits can count"]
    assert block.loc[0, FIGURES].notna().all()
    assert block.loc[1, FIGURES].isna().all()
    assert block["fits"].tolist() == [True, False]


HUGE = {
    "a batch beyond 64 bits": {"batch_size": [6, 10**30]},
    "a batch beyond signed 64 bits": {"batch_size": [6, 2**63]},
    "sequences whose picoseconds overflow": {"sequence_length": [100, 10**12]},
    "sequences beyond 64 bits": {"sequence_length": [100, 10**25]},
    "tokens beyond 64 bits": {"sequence_length": [10**10], "batch_size": [6, 10**10]},
    "a microbatch times its tokens beyond 64 bits": {
        "microbatch_size": [None],
        "sequence_length": [10**9],
        "batch_size": [10**11],
    },
    "a slow cluster": {"cluster.accelerator.memory_bytes_per_s": [1e12, 1e-6]},
    "a very slow link": {"cluster.tiers.0.bytes_per_s": [1e11, 1e-300]},
}


@pytest.mark.parametrize("axes", HUGE.values(), ids=HUGE)
def test_sizes_beyond_all_reason_are_impossible(base, block_of, axes):
    """They end in a reason, or are refused at once; they are no error on the way and give no figures."""
    try:
        last = block_of(base, **axes).iloc[-1]
    except InputError as error:
        refused = {fault.field.rpartition(".")[2] for fault in error.faults}
    else:
        refused = set()
    if refused:
        assert refused <= {name.rpartition(".")[2] for name in axes}
        return
    assert last["reason"].startswith("impossible: ")
    assert "= -" not in last["reason"], "a size that has wrapped around is named"
    assert last[FIGURES].isna().all()
    assert not last["fits"]


def test_a_microbatch_larger_than_the_batch_is_the_whole_batch(base, block_of):
    """However large, as for `simulate`."""
    block = block_of(base, microbatch_size=[1, 10**9])
    assert block["makespan_s"][1] == perfsim.simulate(base.with_(microbatch_size=10**9)).makespan_s


def test_axes_columns_hold_the_values(base, block_of):
    """Of single fields the value; of whole parts the label, with the fields beside it."""
    block = block_of(
        base, plan={"a": perfsim.Plan(2), "b": perfsim.Plan(2, 2, microbatch_size=3)}, causal=[True, False]
    )
    assert block["plan"].tolist() == ["a", "a", "b", "b"]
    assert block["plan.pipeline"].tolist() == [1, 1, 2, 2]
    assert block["causal"].tolist() == [True, False] * 2
    assert block["causal"].dtype == np.bool_
