"""Deployment files: all that are named, the same every time, whole or not at all, and drawn again on demand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import perfsim
from perfsim.study import deployment

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURES = {
    "improved_tensor_parallel_dag.dot",
    "improved_tensor_parallel_dag.svg",
    "deployment_overview.svg",
    "layer_detailed_breakdown.svg",
}
FILES = PICTURES | {"deployment_config.json", "verification_report.txt", "generate_visualizations.py"}


@pytest.fixture(scope="module")
def written(improved, tmp_path_factory):
    """Give the folder with the files of the improved seed plan."""
    folder = tmp_path_factory.mktemp("deployment") / "out"
    paths = perfsim.write_deployment(perfsim.simulate(improved), folder)
    assert {path.relative_to(folder).as_posix() for path in paths} == FILES
    return folder


@pytest.fixture
def small_folder(small_result, tmp_path):
    """Give a folder with the files of a small plan."""
    perfsim.write_deployment(small_result, tmp_path / "out")
    return tmp_path / "out"


def run_script(folder, cwd):
    """Run the script of a folder as its user would."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(folder / "generate_visualizations.py")]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_all_files_are_there(written, contents):
    """Those of the seed, none hidden, none empty, and nothing beside the folder."""
    assert set(contents(written)) == FILES
    assert all(contents(written).values())
    assert [path.name for path in written.parent.iterdir()] == ["out"]


def test_the_dot_file_is_the_complete_dag(written, improved):
    """It begins with digraph and names every operator."""
    dot = (written / "improved_tensor_parallel_dag.dot").read_text(encoding="utf-8")
    assert dot.startswith("digraph")
    assert all(operator.name in dot for operator in perfsim.operator_graph(improved))


def test_pictures_are_svg(written):
    """Of the three names."""
    for name in PICTURES:
        if name.endswith(".svg"):
            assert "<svg" in (written / name).read_text(encoding="utf-8")[:1000]


def test_the_configuration_carries_what_is_asked_of_it(written):
    """GPU allocation, tensor-parallel operations, dimensions, performance, load balance, memory."""
    config = json.loads((written / "deployment_config.json").read_text(encoding="utf-8"))
    assert config["gpu_allocation"]["stage_0"]["gpus"] == list(range(8))
    assert config["gpu_allocation"]["stage_1"]["gpus"] == list(range(8, 16))
    assert config["dimensions"]["heads_per_gpu"] == 2
    assert config["tensor_parallel_operations"]["attention"]["parallelism"] == "parallel over heads"
    assert config["performance"]["makespan_s"] > 0
    assert len(config["load_balance"]) == len(config["memory"]["per_gpu"]) == 16
    assert config["made_by"] == f"perfsim {perfsim.__version__}"


def test_the_verification_report_shows_five_check_marks(written):
    """Each passed, each with its evidence."""
    report = (written / "verification_report.txt").read_text(encoding="utf-8")
    assert report.count("[pass]") == 5
    assert "[FAIL]" not in report


def test_two_runs_write_the_same_bytes(small_result, small_folder, tmp_path, contents):
    """No time, no path, no chance in any file; from a second simulation in a second folder."""
    perfsim.write_deployment(perfsim.simulate(small_result.scenario), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(small_folder)
    assert not any(str(tmp_path).encode() in content for content in contents(small_folder).values())


def test_the_script_draws_the_same_pictures_again(written, contents):
    """Run from that folder, after one was deleted and one was spoilt; nothing else changes."""
    before = contents(written)
    (written / "deployment_overview.svg").unlink()
    (written / "layer_detailed_breakdown.svg").write_text("spoilt", encoding="utf-8")
    run = run_script(written, written)
    assert run.returncode == 0, run.stderr
    assert set(run.stdout.split()) == PICTURES
    assert contents(written) == before


def test_the_script_runs_from_anywhere(small_folder, tmp_path, contents):
    """It draws beside itself, not where it is called."""
    before = contents(small_folder)
    for name in PICTURES:
        (small_folder / name).unlink()
    (tmp_path / "elsewhere").mkdir()
    assert run_script(small_folder, tmp_path / "elsewhere").returncode == 0
    assert contents(small_folder) == before
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_changed_numbers_of_the_configuration_are_drawn(small_folder):
    """The pictures come from the file, not from a preset."""
    path = small_folder / "deployment_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["scenario"]["workload"]["sequence_length"] = 12_345
    path.write_text(json.dumps(config), encoding="utf-8")
    perfsim.draw_deployment(small_folder)
    assert "12345" in (small_folder / "improved_tensor_parallel_dag.dot").read_text(encoding="utf-8")


@pytest.mark.parametrize("step", ["render_svg", "deployment_config", "layer_dot"])
def test_a_failure_in_the_middle_leaves_nothing(monkeypatch, small_result, tmp_path, step):
    """Neither the folder nor a temporary one."""

    def fail(*_args, **_kwargs):
        raise RuntimeError

    monkeypatch.setattr(deployment, step, fail)
    with pytest.raises(RuntimeError):
        perfsim.write_deployment(small_result, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_the_middle_keeps_what_was_there(monkeypatch, small_result, small_folder, contents):
    """The last files stay, to the byte."""
    (small_folder / "notes.txt").write_text("mine", encoding="utf-8")
    before = contents(small_folder.parent)

    def fail(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(deployment, "overview_dot", fail)
    other = perfsim.simulate(small_result.scenario.with_(batch_size=3))
    with pytest.raises(KeyboardInterrupt):
        perfsim.write_deployment(other, small_folder)
    assert contents(small_folder.parent) == before


def test_other_files_of_the_folder_stay(small_result, small_folder, contents):
    """Those of the same names are replaced."""
    (small_folder / "notes.txt").write_text("mine", encoding="utf-8")
    other = perfsim.simulate(small_result.scenario.with_(batch_size=3))
    before = contents(small_folder)
    perfsim.write_deployment(other, small_folder)
    after = contents(small_folder)
    assert set(after) == FILES | {"notes.txt"}
    assert after["notes.txt"] == b"mine"
    assert after["deployment_config.json"] != before["deployment_config.json"]


def test_a_file_in_place_of_the_folder_is_refused(refused, small_result, tmp_path):
    """And stays as it is."""
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    (fault,) = refused(perfsim.write_deployment, small_result, tmp_path / "out")
    assert fault.allowed == "is a file"
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_a_folder_without_a_configuration_is_refused(refused, tmp_path, contents):
    """There is nothing to draw from, and nothing is written."""
    for folder in (tmp_path, tmp_path / "none"):
        (fault,) = refused(perfsim.draw_deployment, folder)
        assert "cannot be read" in fault.allowed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        *["{", "[]", "{}", '{"scenario": null}', '{"scenario": "seed-improved"}', '{"scenario": []}'],
        '{"scenario": {"plan": {"tensr": 8}}}',
    ],
)
def test_a_broken_configuration_is_refused(refused, small_folder, contents, text):
    """With what is wrong about it; the pictures stay."""
    (small_folder / "deployment_config.json").write_text(text, encoding="utf-8")
    before = contents(small_folder)
    assert refused(perfsim.draw_deployment, small_folder)
    assert contents(small_folder) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"tensor": 1, "pipeline": 1, "num_hidden_layers": 1},
        {"data": 2, "batch_size": 8},
        {"phase": "decode", "keep_kv_cache": True},
        {"scatter_gather": True, "microbatch_size": 4, "batch_size": 10},
        {"num_key_value_heads": 4},
    ],
)
def test_any_plan_can_be_written(small_result, tmp_path, changes):
    """With the same files, also where there is no pipeline, no reduction, a ragged batch, a decode step."""
    result = perfsim.simulate(small_result.scenario.with_(**changes))
    paths = perfsim.write_deployment(result, tmp_path / "out")
    assert {path.name for path in paths} == FILES
