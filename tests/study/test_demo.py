"""The demonstration's files: each plan's, the comparison's, and the page that says what lies where."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

import perfsim
from perfsim.study import demo

PLAN_FILES = {
    *["timeline.parquet", "operators.csv", "load_balance.csv", "links.csv", "memory.csv", "report.txt"],
    *["dag.json", "dag.dot", "dag.svg", "result.npz", "timeline.png", "timeline_first_microbatches.png"],
    *["load_balance.png", "memory.png", "memory_over_time.png"],
}


class StopError(Exception):
    """What goes wrong in the middle."""


@pytest.fixture(scope="module")
def plan_folder(small_result, tmp_path_factory):
    """Give the folder with everything about a small plan."""
    folder = tmp_path_factory.mktemp("plan") / "out"
    paths = demo.write_plan(small_result, folder)
    assert all(path.is_file() for path in paths)
    return folder


def test_a_plan_has_all_its_files(plan_folder, contents):
    """None empty, none hidden, nothing beside them; pictures are pictures."""
    files = contents(plan_folder)
    assert set(files) == PLAN_FILES
    assert all(files.values())
    assert all(data.startswith(b"\x89PNG") for name, data in files.items() if name.endswith(".png"))
    assert [path.name for path in plan_folder.parent.iterdir()] == ["out"]


def test_tables_in_files_are_the_results(plan_folder, small_result):
    """Read back, they hold the same numbers."""
    timeline = pd.read_parquet(plan_folder / "timeline.parquet")
    assert timeline["end_s"].equals(small_result.timeline["end_s"])
    assert list(timeline.columns) == list(small_result.timeline.columns)
    for name in ("load_balance", "memory", "links", "operators"):
        frame = getattr(small_result, name)
        read = pd.read_csv(plan_folder / f"{name}.csv", index_col=list(range(frame.index.nlevels)))
        assert list(read.index) == list(frame.index)
        numbers = list(frame.select_dtypes("number").columns)
        assert np.allclose(
            read[numbers].to_numpy(float), frame[numbers].to_numpy(float, na_value=np.nan), equal_nan=True
        )


def test_the_dag_and_the_result_load_again(plan_folder, small_result):
    """From the folder's files."""
    text = (plan_folder / "dag.json").read_text(encoding="utf-8")
    assert perfsim.OperatorGraph.from_json(text) == small_result.dag
    assert perfsim.load_result(plan_folder / "result.npz").makespan_s == small_result.makespan_s
    assert (plan_folder / "dag.dot").read_text(encoding="utf-8").startswith("digraph")


def test_the_report_is_plain_words(plan_folder, small_result):
    """Summary, memory and verification."""
    report = (plan_folder / "report.txt").read_text(encoding="utf-8")
    assert str(small_result) in report
    assert all(finding in report for finding in small_result.memory_findings)
    assert str(small_result.dag.verify()) in report


def test_two_runs_write_the_same_bytes(plan_folder, small_result, tmp_path, contents):
    """Pictures and archives too: no time of writing in any file."""
    demo.write_plan(perfsim.simulate(small_result.scenario), tmp_path / "again")
    again, before = contents(tmp_path / "again"), contents(plan_folder)
    assert {name for name in before if again[name] != before[name]} == set()


def test_a_single_gpu_has_all_its_files(small_result, tmp_path):
    """Also where no link is used."""
    alone = perfsim.simulate(small_result.scenario.with_(tensor=1, pipeline=1, batch_size=2))
    assert {path.name for path in demo.write_plan(alone, tmp_path / "out")} == PLAN_FILES


def test_a_failure_in_the_middle_leaves_nothing(monkeypatch, small_result, tmp_path):
    """The first files were written elsewhere, and are gone."""

    def fail(*_args):
        raise RuntimeError

    monkeypatch.setattr(demo, "_draw_plan", fail)
    with pytest.raises(RuntimeError):
        demo.write_plan(small_result, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_fails_in_the_middle_leaves_nothing(monkeypatch, comparison, tmp_path):
    """Even after the deployment files and a plan's were complete."""
    made = []

    def fail_at_the_second(result, folder):
        made.append(result)
        (folder / "x").mkdir(parents=True)
        if len(made) > 1:
            raise RuntimeError

    monkeypatch.setattr(demo, "write_deployment", lambda _result, folder: (folder / "dag.svg").write_text("x"))
    monkeypatch.setattr(demo, "write_plan", fail_at_the_second)
    with pytest.raises(RuntimeError):
        demo.write_demo(comparison, (), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def write_name(result, folder):
    """Write a file with the schedule of a plan, in place of all about it."""
    folder.mkdir(parents=True)
    (folder / "schedule.txt").write_text(str(result.scenario.plan), encoding="utf-8")


def test_a_helper_changes_no_file(monkeypatch, comparison, tmp_path, contents):
    """Whoever wrote a plan."""
    monkeypatch.setattr(demo, "write_plan", write_name)
    alone = demo.write_demo(comparison, (), tmp_path / "alone")
    with ThreadPoolExecutor(1) as helper:
        helped = demo.write_demo(comparison, (), tmp_path / "helped", helper)
    assert [path.relative_to(tmp_path / "helped") for path in helped] == [
        path.relative_to(tmp_path / "alone") for path in alone
    ]
    assert contents(tmp_path / "helped") == contents(tmp_path / "alone")
    assert set(demo.DEMO_PLANS) == {path.name for path in (tmp_path / "helped" / "plans").iterdir()}


@pytest.mark.parametrize("failing", [0, -1], ids=["the helper", "this process"])
def test_a_failure_of_either_leaves_nothing(monkeypatch, comparison, tmp_path, failing):
    """Even where the other one is still writing, and would make its folder again."""
    fails, begun = comparison[list(comparison.results)[failing]], threading.Event()

    def write(result, folder):
        if result is fails:
            begun.wait(10)
            raise StopError
        begun.set()
        time.sleep(0.2)
        write_name(result, folder)

    monkeypatch.setattr(demo, "write_plan", write)
    monkeypatch.setattr(demo, "_write_comparison", lambda *_args: None)
    with ThreadPoolExecutor(2) as helper, pytest.raises(StopError):
        demo.write_demo(comparison, (), tmp_path / "out", helper)
    assert list(tmp_path.iterdir()) == []
