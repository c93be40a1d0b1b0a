"""The notebooks run, and the outputs stored in them are those that this code gives."""

import copy
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ABSOLUTE_PATH = re.compile(r"(?<![\w.<:/])/\w[\w.-]*/\w[\w./-]*")
REFRESH = "look at what changed, then run: jupyter execute --inplace notebooks/*.ipynb"
TEXTS = ("text/plain", "text/markdown", "text/html")


def texts_of(cell):
    """Give what a cell shows as text: printed lines, tables and paragraphs; pictures only by their titles.

    Printed lines are joined: into how many messages the kernel splits them depends on time.
    """
    texts, printed = [], ""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            if output.name == "stdout":
                printed += output.text
        else:
            texts += [output.data[kind] for kind in TEXTS if kind in output.get("data", {})]
    return [printed, *texts]


def code_cells(notebook):
    """Give the cells with code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def stored(request):
    """Give each notebook as it is stored."""
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks():
    """The tests below have something to test."""
    assert NOTEBOOKS


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the notebook machinery are not ours
def test_stored_outputs_are_fresh(stored, tmp_path, monkeypatch):
    """Executing a notebook anew shows the text that is stored in it; pictures are not compared."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    fresh = copy.deepcopy(stored)
    for cell in code_cells(fresh):
        cell.outputs, cell.execution_count = [], None
    # A cell that fails raises here, with its traceback.
    NotebookClient(fresh, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert not list(tmp_path.iterdir()), "a notebook leaves no files behind"
    for number, (now, before) in enumerate(zip(code_cells(fresh), code_cells(stored), strict=True)):
        assert texts_of(now) == texts_of(before), f"code cell {number} is stale; {REFRESH}:\n{now.source}"


def test_notebooks_are_stored_executed_and_clean(stored):
    """A notebook is stored after a run from top to bottom, without errors, noise or local paths."""
    counts = [cell.execution_count for cell in code_cells(stored)]
    assert counts == list(range(1, len(counts) + 1)), "execute the notebook from top to bottom, and store it"
    for cell in code_cells(stored):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
    for cell in stored.cells:
        for text in [cell.source, *texts_of(cell)]:
            assert not ABSOLUTE_PATH.search(text), "a stored notebook names no path of the machine that ran it"
