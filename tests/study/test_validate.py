"""`perfsim validate` on a small sample of the public tables, and what it says where they are not installed."""

import importlib.util
import json

import numpy as np
import pytest
from click.testing import CliRunner

from perfsim.cli import main
from perfsim.errors import InputError
from perfsim.study.validate import validate

HAS_TABLES = importlib.util.find_spec("aiconfigurator_core") is not None
needs_tables = pytest.mark.skipif(not HAS_TABLES, reason="needs the extra: pip install 'perfsim[silicon]'")


@pytest.fixture(scope="module")
def found():
    """A sample of one GPU's fastest tables to read."""
    return validate(["a100_sxm"], ["matmul", "all_gather", "custom_all_reduce"], sample=60)


@needs_tables
def test_judges_rows_that_were_held_back(found):
    """Every table of the GPU is there, and beats the roofline."""
    summary = found.summary.set_index(["operator", "library"])
    assert set(summary.index) == {
        ("matmul", "sglang"), ("all_gather", "nccl"), ("custom_all_reduce", "trtllm"), ("custom_all_reduce", "vllm"),
        ("custom_all_reduce", "sglang"),
    }  # fmt: skip
    assert (summary["n"] <= 60).all()
    assert (summary["mape"] < 15).all()
    assert (summary["mape"] < summary["roofline_mape"]).all()
    assert summary["in_range"].between(60, 100).all()


@needs_tables
def test_summary_is_that_of_the_rows(found):
    """The numbers can be calculated again."""
    rows = found.rows[found.rows["operator"] == "matmul"]
    error = 100 * (rows["predicted_s"] / rows["latency_s"] - 1).abs()
    row = found.summary.set_index("operator").loc["matmul"]
    assert row[["mape", "median"]].tolist() == pytest.approx([error.mean(), error.median()])


@needs_tables
def test_holds_back_what_the_fits_did(found):
    """No judged weight was fitted."""
    from perfsim.study.silicon.matmul_tables import read_matmuls, training_rows

    table = read_matmuls("a100_sxm", "sglang", "bf16")
    trained = {f"n {n}, k {k}" for n, k in table[training_rows(table)][["n", "k"]].itertuples(index=False)}
    judged = set(found.rows["series"][found.rows["operator"] == "matmul"])
    assert len(judged) > 10
    assert not judged & trained


@needs_tables
def test_shows_the_worst_rows_first(found):
    """Too fast is as bad as too slow."""
    factor = np.abs(np.log(found.worst(5)["factor"]))
    assert factor.is_monotonic_decreasing
    assert factor.iloc[0] == np.abs(np.log(found.rows["predicted_s"] / found.rows["latency_s"])).max()


@needs_tables
def test_same_sample_every_time(found):
    """Also whatever else is asked for."""
    again = validate(["a100_sxm"], ["matmul"], sample=60)
    assert again.rows.equals(found.rows[found.rows["operator"] == "matmul"])


@needs_tables
def test_command_writes_the_page_and_json(tmp_path):
    """The page, the tables and the JSON agree."""
    call = ["validate", "--gpu", "l40s", "--operator", "all_gather", "--sample", "20", "--out", str(tmp_path), "--json"]
    result = CliRunner().invoke(main, call)
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    assert told["summary"][0]["n"] == told["rows"] == 20
    assert {path.name for path in tmp_path.iterdir()} == {
        "accuracy.md", "predicted-measured.png", "rows.parquet", "summary.csv", "worst.csv",
    }  # fmt: skip
    page = (tmp_path / "accuracy.md").read_text()
    assert "perfsim validate --gpu l40s --operator all_gather --sample 20" in page
    assert f"{told['summary'][0]['mape']:.2f}" in page


@needs_tables
def test_command_judges_gpus_that_were_left_out(tmp_path):
    """On request: in the JSON, in a table of its own and on the page."""
    call = ["validate", "--gpu", "h200_sxm", "--operator", "all_gather", "--sample", "20", "--transfer"]
    result = CliRunner().invoke(main, [*call, "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)["transfer"]
    assert [(row["experiment"], row["known"]) for row in told] == [
        ("sibling", "h100_sxm"), ("datasheet", "a100_sxm and b200_sxm"),
    ]  # fmt: skip
    page, table = (tmp_path / "accuracy.md").read_text(), (tmp_path / "transfer.csv").read_text()
    assert "perfsim validate --gpu h200_sxm --operator all_gather --sample 20 --transfer" in page
    assert "## GPUs that were left out" in page
    for row in told:
        assert f"| {row['known']} | 20 | {row['mape']:.2f} |" in page
        assert f"{row['experiment']},nccl,any,nccl,h200_sxm" in table
    assert "GPUs that were left out of a fit" in CliRunner().invoke(main, call).output


def test_names_all_faults_together():
    """One error tells all."""
    with pytest.raises(InputError, match="a100_sxm") as caught:
        validate(["a100"], ["matmuls"], sample=0)
    assert [fault.field for fault in caught.value.faults] == ["validate.gpu", "validate.operator", "validate.sample"]


def test_says_how_to_get_the_tables(monkeypatch):
    """One line, and the status of bad input."""

    def missing(_name):
        raise ModuleNotFoundError

    monkeypatch.setattr("perfsim.study.silicon.systems.files", missing)
    result = CliRunner().invoke(main, ["validate", "--gpu", "a100_sxm", "--operator", "matmul"])
    assert result.exit_code == 2
    assert "pip install 'perfsim[silicon]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1
