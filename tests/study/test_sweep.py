"""Sweeps as a whole: the table, its way back to scenarios, and the same table wherever and however often it is made."""

import dataclasses
import itertools
import json
import os
import pickle
import signal
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

import perfsim
from perfsim.errors import InputError, PerfsimError
from perfsim.study import sweep as sweep_module
from perfsim.study.sweep import SweepInterruptedError, scenario_at, sweep

FIGURES = {
    "makespan_s": "f", "tokens_per_s": "f", "first_sequence_s": "f", "mfu": "f", "mfu_full_attention": "f",
    "peak_bytes": "f", "capacity_bytes": "f", "fits": "b", "reason": "O",
}  # fmt: skip
SIZES = {"batch_size": [1, 2, 3], "sequence_length": [10, 20, 30, 40]}


@pytest.fixture(scope="module")
def base(improved):
    """Give the improved plan with two layers and few short sequences."""
    return improved.with_(num_hidden_layers=2, batch_size=4, sequence_length=100)


@pytest.fixture
def small_blocks(monkeypatch):
    """Make blocks of five points; twelve points are three of them."""
    monkeypatch.setattr(sweep_module, "BLOCK", 5)


@pytest.fixture(scope="module")
def large():
    """Give axes of forty-five thousand points, three blocks of full length."""
    return {"batch_size": range(1, 301), "sequence_length": range(100, 250)}


@pytest.fixture(scope="module")
def large_table(base, large):
    """Give the table of three full blocks, made here."""
    return sweep(base, progress=False, **large)


def quiet(scenario, **keywords):
    """Sweep without a bar."""
    return sweep(scenario, progress=False, **keywords)


def same(found, wanted):
    """Compare two tables, to the bit and with what they carry."""
    pd.testing.assert_frame_equal(found, wanted, check_exact=True)
    assert found.attrs == wanted.attrs


# The table


def test_a_row_a_point_the_last_axis_fastest(base):
    """In the order of the product, numbered from 0."""
    table = quiet(base, tensor=[2, 4], batch_size=[3, 1], causal=[True, False])
    points = list(itertools.product([2, 4], [3, 1], [True, False]))
    assert table[["tensor", "batch_size", "causal"]].apply(tuple, axis=1).tolist() == points
    assert table.index.tolist() == list(range(8))


def test_columns_are_the_axes_and_the_figures(base):
    """In that order, with kinds of their own: whole numbers, texts and flags stay what they are."""
    table = quiet(base, batch_size=[2, 4], dtype=["bf16", "fp8"], causal=[True], **{"cluster.efficiency.matmul": [0.5]})
    assert list(table) == ["batch_size", "dtype", "causal", "cluster.efficiency.matmul", *FIGURES]
    assert [table[name].dtype.kind for name in list(table)[:4]] == ["i", "O", "b", "f"]
    assert {name: table[name].dtype.kind for name in FIGURES} == FIGURES


def test_whole_parts_stand_as_labels_with_their_fields_beside(base):
    """One column for the label, and one for each field."""
    table = quiet(base, plan={"wide": perfsim.Plan(8), "deep": perfsim.Plan(2, 2)}, batch_size=[1, 2])
    beside = [f"plan.{field.name}" for field in dataclasses.fields(perfsim.Plan)]
    assert list(table) == ["plan", *beside, "batch_size", *FIGURES]
    assert table["plan"].tolist() == ["wide", "wide", "deep", "deep"]
    assert table["plan.tensor"].tolist() == [8, 8, 2, 2]
    clusters = quiet(base, cluster=[base.cluster, perfsim.load_cluster("dgx-a100-80gb", num_devices=16)])
    assert clusters["cluster"].tolist() == ["dgx-h100 x 16", "dgx-a100-80gb x 16"]
    assert clusters["cluster.num_devices"].tolist() == [16, 16]


@pytest.mark.parametrize(
    "axes",
    [
        {"plan": [perfsim.Plan(8, 2, microbatch_size=4)], "microbatch_size": [1, 2]},
        {"plan.microbatch_size": [1, 2], "plan": [perfsim.Plan(8, 2, microbatch_size=4)]},
    ],
    ids=["short name", "dotted name"],
)
def test_fields_beside_agree_with_the_axis_that_changes_them(base, axes):
    """No column says another microbatch than the one that was simulated."""
    table = quiet(base, **axes)
    for column in {"microbatch_size", "plan.microbatch_size"} & set(table):
        assert table[column].tolist() == [1, 2]


def test_impossible_and_unfit_points_say_why_and_the_others_are_there(base):
    """A sweep over all degrees runs to its end."""
    table = quiet(base.with_(keep_kv_cache=True), tensor=[3, 8], pipeline=[1, 2, 5], batch_size=[1, 10**6])
    reasons = dict(zip(table[["tensor", "pipeline", "batch_size"]].apply(tuple, axis=1), table["reason"], strict=True))
    assert "must divide" in reasons[3, 2, 1]
    assert "at most the 2 layers" in reasons[8, 5, 1]
    assert reasons[8, 2, 10**6].startswith("does not fit: ")
    assert reasons[8, 2, 1] == ""
    assert table["fits"].equals(table["reason"] == "")
    assert table["makespan_s"].notna().equals(~table["reason"].str.startswith("impossible: "))


def test_a_sweep_of_impossible_points_only_is_a_table(base):
    """With the reasons in it."""
    table = quiet(base, tensor=[3, 5])
    assert table["reason"].str.startswith("impossible: ").all()
    assert table[[name for name, kind in FIGURES.items() if kind == "f"]].isna().all(axis=None)
    assert {name: table[name].dtype.kind for name in FIGURES} == FIGURES


def test_it_is_bit_identical_when_repeated(base):
    """Values, types, order and what it carries."""
    axes = {"tensor": [2, 3, 8], "batch_size": [1, 5, 10**6], "microbatch_size": [None, 2], "keep_kv_cache": [True]}
    same(quiet(base, **axes), quiet(base, **axes))


def test_points_do_not_depend_on_the_blocks(base, small_blocks, monkeypatch):
    """Short blocks and long ones give the same."""
    axes = {"batch_size": [1, 2, 7], "schedule": ["pipelined", "sequential"], "sequence_length": [10, 100, 1000]}
    short = quiet(base, **axes)
    monkeypatch.undo()
    same(short, quiet(base, **axes))


# What is refused


@pytest.mark.parametrize(
    ("axes", "field"),
    [
        ({}, "sweep.axes"),
        ({"batch": [1]}, "sweep.batch"),
        ({"batch_size": []}, "sweep.batch_size"),
        ({"batch_size": ["8"]}, "workload.batch_size"),
        ({"plan": ["TP8"]}, "sweep.plan"),
        ({"batch_size": [1], "workload.batch_size": [1]}, "sweep.batch_size"),
    ],
    ids=["none", "unknown", "empty", "wrong type", "wrong part", "twice"],
)
def test_bad_axes_are_refused_before_anything_runs(refused, base, monkeypatch, tmp_path, *, axes, field):
    """One clear error; no point is evaluated and no folder is made."""
    monkeypatch.setattr(sweep_module, "evaluate_block", None)
    assert field in {fault.field for fault in refused(sweep, base, path=tmp_path / "kept", **axes)}
    assert not (tmp_path / "kept").exists()


def test_all_faults_come_together(refused, base):
    """Of the axes and of what stands beside them."""
    faults = refused(sweep, base, bogus=[1], batch_size=[], dtype=["fp9"])
    assert {fault.field for fault in faults} == {"sweep.bogus", "sweep.batch_size", "workload.dtype"}
    faults = refused(sweep, "seed-improved", workers=0)
    assert {fault.field for fault in faults} >= {"sweep.scenario", "sweep.workers"}


@pytest.mark.parametrize(
    "arguments", [{"executor": "dask"}, {"path": 5}, {"progress": "yes"}, {"workers": 2.5, "batch": [1]}], ids=str
)
def test_bad_arguments_are_refused_with_the_axes(refused, base, arguments):
    """An input error that names each of them."""
    faults = refused(sweep, base, **{"batch_size": [1, 2], **arguments})
    assert {f"sweep.{name}" for name in arguments} <= {fault.field for fault in faults}


# From a row back to a scenario


WAYS_BACK = {
    "batch": lambda _: {"batch_size": [4, 9]},
    "sizes": lambda _: {"sequence_length": [5, 7], "microbatch_size": [1, 3]},
    "phase": lambda _: {"phase": ["prefill", "decode"], "keep_kv_cache": [True, False]},
    "mask": lambda _: {"causal": [True, False]},
    "data types": lambda _: {"dtype": ["bf16", "fp8"], "kv_dtype": ["fp8", "bf16"]},
    "degrees": lambda _: {"tensor": [1, 2, 3], "pipeline": [1, 2], "data": [1, 2]},
    "schedule": lambda _: {"schedule": ["pipelined", "sequential"], "scatter_gather": [True, False]},
    "receive buffers": lambda _: {"receive_buffers": [1, 2]},
    "whole plans": lambda base: {"plan": [base.plan, perfsim.Plan(4, 2, layers_per_stage=(1, 1))]},
    "whole plans by label": lambda base: {"plan": {"a": base.plan, "b": perfsim.Plan(4, 2)}, "batch_size": [1, 2]},
    "whole models": lambda base: {"model": [base.model, dataclasses.replace(base.model, name="other", hidden_size=64)]},
    "whole clusters": lambda base: {"cluster": [base.cluster, perfsim.load_cluster("dgx-a100-80gb", num_devices=16)]},
    "whole workloads": lambda base: {"workload": [base.workload, perfsim.Workload(batch_size=5)]},
    "a tier": lambda _: {"cluster.tiers.0.bytes_per_s": [1e11, 1 / 3 * 1e12]},
    "memory bandwidth": lambda _: {"cluster.accelerator.memory_bytes_per_s": [2 * 10**12, 1e12]},
    "memory bandwidth by label": lambda _: {"cluster.accelerator.memory_bytes_per_s": {"slow": 1e12, "fast": 2e12}},
    "efficiency": lambda _: {"cluster.efficiency.matmul": [0.1, 1]},
    "one peak": lambda _: {"cluster.accelerator.peak_flop_per_s.bf16": [1e14, 1e15]},
    "layers": lambda _: {"model.num_hidden_layers": [2, 3]},
    "devices": lambda _: {"num_devices": [8, 16, 32]},
    "a plan and one of its fields": lambda base: {"plan": [base.plan, perfsim.Plan(4, 2)], "microbatch_size": [1, 2]},
    "microbatch by label": lambda _: {"microbatch_size": {"even": None, "one": 1}},
    "microbatch, none given": lambda _: {"microbatch_size": [None, 1, 3]},
    "data type, none given": lambda _: {"dtype": [None, "fp8"], "kv_dtype": ["fp8", None]},
    "domain, none given": lambda _: {"cluster.tiers.1.domain_size": [None, 64]},
    "layers per stage": lambda _: {"layers_per_stage": [(1, 1), (2, 1)], "num_hidden_layers": [2, 3]},
    "layers per stage, none given": lambda _: {"layers_per_stage": [None, (1, 1)]},
    "efficiencies": lambda base: {"cluster.efficiency": [base.cluster.efficiency]},
    "accelerators": lambda base: {"accelerator": [base.cluster.accelerator]},
    "tiers": lambda base: {"tiers": [base.cluster.tiers]},
    "peaks": lambda _: {"cluster.accelerator.peak_flop_per_s": [{"bf16": 1e15}, {"bf16": 2e15}]},
    "a small cluster and few ranks": lambda base: {
        "cluster": [perfsim.load_cluster("dgx-h100", num_devices=8), base.cluster],
        "tensor": [4, 8],
    },
    "a shadowed field": lambda base: {"plan.microbatch_size": [1, 2], "plan": [base.plan, perfsim.Plan(4, 2)]},
}


@pytest.mark.parametrize("through", ["memory", "parquet", "pickle", "selection"])
@pytest.mark.parametrize("axes", WAYS_BACK.values(), ids=WAYS_BACK)
def test_a_row_gives_its_scenario(base, axes, through, tmp_path):
    """Equal to the one that the sweep simulated, also from a table that was stored or cut."""
    axes = axes(base)
    table = quiet(base, **axes)
    if through == "parquet":
        table.to_parquet(tmp_path / "table.parquet")
        table = pd.read_parquet(tmp_path / "table.parquet")
    elif through == "pickle":
        table = pickle.loads(pickle.dumps(table))  # noqa: S301  (our own)
    elif through == "selection":
        table = table[np.ones(len(table), bool)].sort_values(next(iter(axes)), key=lambda c: c.astype(str)).sort_index()
    points = itertools.product(*(values.values() if isinstance(values, dict) else values for values in axes.values()))
    for (_, row), values in zip(table.iterrows(), points, strict=True):
        try:
            wanted = base.with_(**dict(zip(axes, values, strict=True)))
        except InputError:
            with pytest.raises(InputError):
                scenario_at(row)
        else:
            assert scenario_at(row) == wanted
            assert row["reason"] == "" or not row["fits"]


def test_the_best_row_of_a_selection_gives_its_scenario(base):
    """As people look for it: filter, sort, take the first."""
    table = quiet(base, tensor=[1, 2, 3, 4, 8], pipeline=[1, 2], batch_size=[16])
    possible = table[table["fits"] & (table["pipeline"] == 2)]
    best = scenario_at(possible.sort_values("makespan_s").iloc[0])
    assert perfsim.simulate(best).makespan_s == possible["makespan_s"].min()
    assert scenario_at(possible.loc[possible["makespan_s"].idxmin()]) == best
    assert scenario_at(table.query("fits").nsmallest(1, "makespan_s").squeeze()) is not None


def test_an_impossible_row_is_refused(base, refused):
    """With the reason that stands in the table."""
    table = quiet(base, tensor=[3, 8])
    faults = refused(scenario_at, table.iloc[0])
    assert "impossible: " + "; ".join(map(str, faults)) == table["reason"][0]


def test_what_is_no_row_of_a_sweep_is_refused(base, refused):
    """Any other series, whole tables, columns and numbers."""
    table = quiet(base, batch_size=[1, 2])
    for other in (pd.Series({"batch_size": 1}), table, 3, None, table.iloc[0].to_dict()):
        (fault,) = refused(scenario_at, other)
        assert fault.field == "row"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table[["makespan_s", "fits"]].iloc[0],
        lambda table: table["batch_size"],
        lambda table: table.assign(batch_size=64).iloc[0],
        lambda table: table.mean(numeric_only=True).rename("mean").__finalize__(table),
    ],
    ids=["axes left out", "a column", "another value", "a mean"],
)
def test_a_row_that_lost_its_point_is_refused(base, refused, spoil):
    """It says what is missing instead of failing on the way."""
    (fault,) = refused(scenario_at, spoil(quiet(base, batch_size=[1, 2])))
    assert fault.field == "row"


def test_the_table_carries_plain_text(base):
    """So that any file format can take it along."""
    (text,) = quiet(base, batch_size=[1]).attrs.values()
    assert json.loads(text)["axes"][0]["name"] == "batch_size"


# Elsewhere and in parts


class Here(Executor):
    """Carries out every call at once."""

    def __init__(self):
        self.futures = []

    def submit(self, function, /, *args, **kwargs):
        """Carry it out."""
        future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  (an executor hands on whatever happens)
            future.set_exception(error)
        self.futures.append(future)
        return future


class Backwards(ThreadPoolExecutor):
    """Carries out the calls in the opposite order once all are there."""

    def __init__(self, calls):
        super().__init__(1)
        self.waiting, self.calls = [], calls

    def submit(self, function, /, *args, **kwargs):
        """Wait for the last."""
        future = Future()
        self.waiting.append((future, function, args, kwargs))
        if len(self.waiting) == self.calls:
            super().submit(self.work_off)
        return future

    def work_off(self):
        """Begin with the last."""
        for future, function, args, kwargs in reversed(self.waiting):
            future.set_result(function(*args, **kwargs))


@pytest.mark.parametrize(
    "executor", [Here, lambda: Backwards(3), lambda: ThreadPoolExecutor(3)], ids=["at once", "backwards", "threads"]
)
def test_any_executor_gives_the_same_table(base, small_blocks, executor, tmp_path):
    """In whatever order the blocks come back, and what is written is the same."""
    wanted = quiet(base, path=tmp_path / "here", **SIZES)
    with executor() as pool:
        same(quiet(base, executor=pool, path=tmp_path / "there", **SIZES), wanted)
    same(quiet(base, path=tmp_path / "there", **SIZES), wanted)


@pytest.mark.slow
def test_processes_give_the_same_table(base, large, large_table):
    """Of this machine; each imports perfsim anew."""
    same(quiet(base, workers=2, **large), large_table)


def test_an_error_in_a_worker_is_not_hidden(base, small_blocks, monkeypatch, tmp_path):
    """It comes out as it is, and what was done before is on disk."""
    evaluate_block, calls = sweep_module.evaluate_block, []

    def fail_on_the_second(*args):
        calls.append(1)
        if len(calls) == 2:
            message = "no such machine"
            raise RuntimeError(message)
        return evaluate_block(*args)

    monkeypatch.setattr(sweep_module, "evaluate_block", fail_on_the_second)
    with pytest.raises(RuntimeError, match="no such machine"):
        quiet(base, path=tmp_path / "kept", **SIZES)
    assert len(list((tmp_path / "kept").glob("*.parquet"))) == 1


# Interrupted


@pytest.fixture
def interrupt_at(monkeypatch):
    """Give a function that makes Ctrl-C come in the middle of a block, from the first on."""
    evaluate_block = sweep_module.evaluate_block

    def at(number):
        count = itertools.count(1)

        def interrupted(*args):
            if next(count) == number:
                signal.raise_signal(signal.SIGINT)
            return evaluate_block(*args)

        monkeypatch.setattr(sweep_module, "evaluate_block", interrupted)

    return at


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(base, small_blocks, interrupt_at, tmp_path):
    """The next call computes only the rest."""
    folder = tmp_path / "kept"
    interrupt_at(3)
    with pytest.raises(SweepInterruptedError) as caught:
        quiet(base, path=folder, **SIZES)
    assert "10 of 12 points" in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "call it again" in str(caught.value)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert isinstance(caught.value, PerfsimError)
    assert len(list(folder.glob("*.parquet"))) == 2
    interrupt_at(2)  # one block is left, so it does not come to a second
    quiet(base, path=folder, **SIZES)
    assert len(list(folder.glob("*.parquet"))) == 3


def test_a_sweep_that_went_on_equals_one_that_nobody_interrupted(
    base, small_blocks, interrupt_at, monkeypatch, tmp_path
):
    """However often it was interrupted."""
    for _ in range(2):
        interrupt_at(2)
        with pytest.raises(SweepInterruptedError):
            quiet(base, path=tmp_path / "kept", **SIZES)
    monkeypatch.undo()
    monkeypatch.setattr(sweep_module, "BLOCK", 5)
    same(quiet(base, path=tmp_path / "kept", **SIZES), quiet(base, **SIZES))


def test_ctrl_c_without_a_folder_says_that_all_is_lost(base, small_blocks, interrupt_at):
    """And what would have kept it."""
    interrupt_at(2)
    with pytest.raises(SweepInterruptedError, match="5 of 12 points were done and are lost; give a path"):
        quiet(base, **SIZES)


def test_ctrl_c_takes_back_what_waits_elsewhere(base, small_blocks, tmp_path):
    """Blocks that no worker has begun are cancelled; one that is done is kept."""
    gate, futures = threading.Event(), []

    class Slow(ThreadPoolExecutor):
        def submit(self, function, /, first):
            def after_the_gate():
                if first:
                    gate.wait(10)
                return function(first)

            futures.append(super().submit(after_the_gate))
            if len(futures) == 3:
                futures[0].result()
                main = threading.main_thread().ident
                threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
            return futures[-1]

    with Slow(1) as pool:
        with pytest.raises(SweepInterruptedError, match="5 of 12 points"):
            quiet(base, executor=pool, path=tmp_path / "kept", **SIZES)
        assert futures[2].cancelled()
        gate.set()
    assert len(list((tmp_path / "kept").glob("*.parquet"))) == 1


def test_a_sweep_of_slow_points_is_kept_in_pieces(base, monkeypatch, tmp_path):
    """Points that share nothing take some milliseconds each: of 200 bandwidths, some are on disk after 150."""
    from perfsim.study import blocks

    evaluate, count = blocks.evaluate, itertools.count(1)

    def interrupted(*args):
        if next(count) == 150:
            raise KeyboardInterrupt
        return evaluate(*args)

    monkeypatch.setattr(blocks, "evaluate", interrupted)
    with pytest.raises(SweepInterruptedError):
        quiet(base, path=tmp_path / "kept", **{"cluster.tiers.0.bytes_per_s": np.linspace(1e11, 9e11, 200)})
    kept = sum(len(pd.read_parquet(path)) for path in (tmp_path / "kept").glob("*.parquet"))
    assert 0 < kept < 150


# Progress


class Waits(Here):
    """Takes longer than a second."""

    def submit(self, function, /, *args, **kwargs):
        """Take a nap before the first."""
        if not self.futures:
            time.sleep(1.1)
        return super().submit(function, *args, **kwargs)


@pytest.mark.parametrize(
    ("progress", "executor", "bar"), [(True, Waits, True), (True, Here, False), (False, Waits, False)]
)
def test_a_bar_shows_only_when_asked_and_after_a_second(base, small_blocks, capsys, *, progress, executor, bar):
    """It counts the points; a sweep that is over at once shows nothing."""
    sweep(base, progress=progress, executor=executor(), **SIZES)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("12/12" in shown.err) == bar
    assert bool(shown.err) == bar


# On a cluster


class LosesAWorker(Executor):
    """Hands calls to a cluster, and kills one of its processes when the first block is back."""

    def __init__(self, pool, pid):
        self.pool, self.pid, self.killed = pool, pid, threading.Event()

    def submit(self, function, /, *args, **kwargs):
        """Hand it on."""
        future = self.pool.submit(function, *args, **kwargs)
        future.add_done_callback(self.kill)
        return future

    def kill(self, _):
        """End the process, once; it is one that the test's own cluster started."""
        if not self.killed.is_set():
            self.killed.set()
            os.kill(self.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_gives_the_same_table(base):
    """Processes of dask.distributed; what the killed one had in hand is computed again."""
    distributed = pytest.importorskip("distributed")
    axes = {"batch_size": range(1, 601), "sequence_length": range(100, 300)}
    wanted = quiet(base, **axes)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = client.run(os.getpid)
        pool = LosesAWorker(client.get_executor(), next(iter(pids.values())))
        found = quiet(base, executor=pool, **axes)
        assert pool.killed.is_set()
        assert set(client.run(os.getpid).values()) != set(pids.values())
    same(found, wanted)
