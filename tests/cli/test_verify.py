"""``perfsim verify``: the report of a file, an exit status for scripts, and one clear line on bad input."""

import json

import pytest
from click.testing import CliRunner

import perfsim
from perfsim.cli import main
from perfsim.report.dot import dag_dot

SHAPE = "[batch=8, seq=128, hidden=64]"


def invoke(*args):
    """Run the command within this process."""
    return CliRunner().invoke(main, ["verify", *map(str, args)])


@pytest.fixture
def graph(improved):
    """Give the graph of the improved seed plan."""
    return perfsim.operator_graph(improved)


def test_a_sound_graph_exits_with_0(graph, tmp_path):
    """DOT and JSON print the report of the library."""
    for name, text in (("dag.dot", dag_dot(graph)), ("dag.json", graph.to_json())):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        done = invoke(path)
        assert (done.exit_code, done.output) == (0, f"{perfsim.verify(path)}\n")


def test_a_faulty_graph_exits_with_1(graph, tmp_path):
    """The report names what is wrong."""
    path = tmp_path / "dag.dot"
    path.write_text(f'{dag_dot(graph)[:-2]} "gather" -> "split"; }}', encoding="utf-8")
    done = invoke(path)
    assert done.exit_code == 1
    assert "[FAIL] No cycles in the DAG" in done.output


def test_what_cannot_be_told_is_no_failure(tmp_path):
    """A drawing that says too little refutes nothing."""
    path = tmp_path / "small.dot"
    path.write_text(
        f'digraph {{ input [label="Input: {SHAPE}"]; output [label="Output: {SHAPE}"]; input -> output }}',
        encoding="utf-8",
    )
    done = invoke(path, "--json")
    assert done.exit_code == 0
    verdicts = {check["name"]: check["verdict"] for check in json.loads(done.output)}
    assert verdicts == {
        "acyclic": "holds", "connected": "holds", "dimensions": "holds", "balance": "cannot be told",
        "structure": "cannot be told",
    }  # fmt: skip


@pytest.mark.parametrize("text", [None, "", "digraph {", "graph { a -- b }"])
def test_bad_input_exits_with_2(tmp_path, text):
    """One line says what is wrong."""
    path = tmp_path / "bad.dot"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    done = invoke(path)
    assert done.exit_code == 2
    assert done.output.count("\n") == 1
    assert done.output.startswith("perfsim: ")
