"""Measured serving runs beside their simulation, on a made-up package whose measurements are known simulations."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from perfsim.cli import main
from perfsim.errors import InputError
from perfsim.serving.engine_times import EngineTimes
from perfsim.study.serving_accuracy import ServingValidation, validate_serving
from perfsim.study.serving_page import serving_page
from perfsim.study.silicon import serving_rows, serving_runs
from perfsim.study.silicon.fit_serving import TimesFit, fit_times
from perfsim.study.silicon.serving_rows import read_serving_rows
from perfsim.study.silicon.serving_transfer import left_out_runs

from .serving_package import package_rows, write_package

TIMES = EngineTimes(step_s=4e-4, sequence_s=5e-6, prefill_layer_s=2e-4, request_s=4e-3, elementwise_share=0.5)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Give a function that writes the package and says where its list of rows is."""

    def write(rows, **about):
        tables, listed = write_package(tmp_path, rows, **about)
        for module in (serving_rows, serving_runs):
            monkeypatch.setattr(module, "tables_folder", lambda: tables)
        return listed

    return write


@pytest.fixture
def measured(package):
    """Give the list of rows of a package that was "measured" with `TIMES`."""
    rows = read_serving_rows(package(package_rows()))
    runs = serving_runs.serving_runs(rows, {"trtllm-2025-10": TIMES})
    return package(package_rows([run.latencies((0,)) for run in runs]))


def test_a_fit_finds_what_measured(measured, monkeypatch):
    """Latencies come back, also of a run that is not fitted; one model cannot tell a share from a time a step."""
    monkeypatch.setattr("perfsim.study.silicon.fit_serving.SHARES", (0.5, 1.0))
    rows = read_serving_rows(measured)
    times = fit_times({"all": TimesFit("trtllm-2025-10", rows.drop(index=4))})["all"]
    runs = serving_runs.serving_runs(rows, {"trtllm-2025-10": times})
    predicted = np.array([run.latencies((0,)) for run in runs])
    assert predicted == pytest.approx(rows[["ttft_s", "tpot_s"]].to_numpy(), rel=0.04)
    assert times.request_s > 0


def test_left_out_runs_are_not_fitted(measured, monkeypatch):
    """A fit of a fold has none of its rows, and each run is predicted once a kind."""
    seen = []

    def keep(fits):
        seen.extend((key, set(fit.rows["id"])) for key, fit in fits.items())
        return dict.fromkeys(fits, TIMES)

    monkeypatch.setattr("perfsim.study.silicon.serving_transfer.fit_times", keep)
    rows = read_serving_rows(measured).assign(times="trtllm-2025-10")
    left = left_out_runs(rows)
    for (kind, value, _), fitted in seen:
        assert fitted == set(rows.loc[rows[kind] != value, "id"])
    assert left.groupby("left_out")["id"].nunique().to_dict() == {"prompt_tokens": 12, "system": 12}
    assert left["predicted_tpot_s"].to_numpy() == pytest.approx(left["tpot_s"].to_numpy())


def test_judges_groups_by_their_median(package):
    """Errors are those of the rows, the mean that over groups."""
    found = validate_serving(package(package_rows()))
    assert len(found.groups) == 4
    error = (100 * (found.rows["predicted_tpot_s"] / found.rows["tpot_s"] - 1).abs()).groupby(
        [found.rows["system"], found.rows["prompt_tokens"]]
    )
    assert found.mean_of_group_medians["tpot_percent"] == pytest.approx(error.median().mean())
    assert found.groups["tpot_mape"].tolist() == pytest.approx(error.mean().tolist())
    first = found.rows.iloc[:3]
    assert found.groups["tpot_bias"].iloc[0] == pytest.approx(
        100 * ((first["predicted_tpot_s"] / first["tpot_s"]).prod() ** (1 / 3) - 1)
    )


def test_ttft_is_judged_only_where_it_may_be(package):
    """Rows without a usable TTFT have none, and groups of them have no error of it."""
    found = validate_serving(package(package_rows(), use_ttft=0))
    assert found.rows["ttft_s"].isna().all()
    assert math.isnan(found.mean_of_group_medians["ttft_percent"])
    assert TimesFit("trtllm-2025-10", found.rows).free == ("step_s", "sequence_s", "prefill_layer_s")


def test_a_sample_is_of_each_group(package):
    """One run of each of the four groups, the same ones each time."""
    listed = package(package_rows())
    first, second = (validate_serving(listed, sample=1).rows["id"].tolist() for _ in range(2))
    assert first == second
    assert len(first) == 4


def test_command_tells_and_writes(package, tmp_path):
    """JSON carries the means and the groups; the page and the tables are written."""
    listed, out = package(package_rows()), tmp_path / "out"
    call = ["validate", "--serving", "--rows", str(listed), "--json", "--out", str(out)]
    result = CliRunner().invoke(main, call, catch_exceptions=False)
    told = json.loads(result.stdout)
    assert set(told["mean_of_group_medians"]) == {"ttft_percent", "tpot_percent"}
    assert len(told["groups"]) == 4
    assert told["groups"][0]["n"] == 3
    assert sorted(path.name for path in out.iterdir()) == [
        "serving-accuracy.md", "serving-groups.csv", "serving-runs.csv"
    ]  # fmt: skip
    page = (out / "serving-accuracy.md").read_text()
    assert "perfsim validate --serving --rows FILE --out FOLDER" in page
    assert str(tmp_path) not in page
    shown = CliRunner().invoke(main, call[:4], catch_exceptions=False)
    assert "Mean over groups: TTFT" in shown.stdout


def test_page_shows_what_stands_beside(package):
    """Left-out runs and AIConfigurator have their lines, and refused runs are counted."""
    rows = validate_serving(package(package_rows())).rows
    other = rows.assign(other_ttft_s=rows["ttft_s"] * 1.5, other_tpot_s=rows["tpot_s"] * 0.9, other_failure="")
    other.loc[0, ["other_ttft_s", "other_tpot_s"]] = np.nan
    found = ServingValidation(other, rows.assign(left_out="system"))
    page = serving_page(found, "perfsim validate --serving")
    assert "| AIConfigurator 0.12, without the 1 runs that it refuses | 50.0 | 10.0 |" in page
    assert "a GPU left out of the fit, 12 runs in 4 groups" in page
    assert found.to_dict()["aiconfigurator"]["rows_without_prediction"] == 1


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        ("id,protocol\nx,P1\n", "rows.use_ttft"),
        ("id,protocol,use_ttft\nunknown,P1,1\n", "rows.id"),
        ("id,protocol,use_ttft\nh100_sxm-256-2,P9,1\n", r"rows.protocol\[0\]"),
        ("id,protocol,use_ttft\nh100_sxm-256-2,P1,1\nh100_sxm-256-2,P1,1\n", "twice"),
        ("id,protocol,use_ttft\n", "at least one row"),
    ],
)
def test_refuses_faulty_lists(package, tmp_path, listed, named):
    """One error says what is wrong with a list of rows."""
    package(package_rows())
    path = tmp_path / "faulty.csv"
    path.write_text(listed)
    with pytest.raises(InputError, match=named):
        read_serving_rows(path)


def test_refuses_a_list_that_is_not_there(package, tmp_path):
    """The path is named."""
    package(package_rows())
    with pytest.raises(InputError, match="nowhere"):
        read_serving_rows(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    "options", [["--serving", "--gpu", "h100_sxm"], ["--rows", "x.csv"], ["--aiconfigurator", "python"]]
)
def test_options_must_belong_together(options):
    """What would be ignored is refused."""
    result = CliRunner().invoke(main, ["validate", *options])
    assert result.exit_code == 2


def test_the_shipped_list_names_no_measurement():
    """It has settings of clients alone."""
    listed = pd.read_csv(serving_rows._LISTED)
    assert list(listed.columns) == ["id", "protocol", "use_ttft"]
    assert len(listed) == 550


def test_mapping_follows_what_rows_say():
    """Old vLLM by its device, TensorRT-LLM by its version."""
    row = read_row(library="vllm", system="h200_sxm")
    assert serving_runs.times_of(row) == "vllm-2025-10-hopper"
    assert serving_runs.times_of(row._replace(system="b200_sxm")) == "vllm-2025-10-blackwell"
    assert serving_runs.times_of(row._replace(version="0.19.0")) == "vllm-0.18-0.19"
    assert serving_runs.times_of(row._replace(version="0.16.0")) == "vllm-0.16"
    rc3 = row._replace(library="trtllm", version="1.0.0rc3")
    assert serving_runs.times_of(rc3) == "trtllm-1.0rc3"
    assert serving_runs.times_of(rc3._replace(expert_dtype="fp8_block")) == "trtllm-1.0rc3-experts"
    assert serving_runs.times_of(row._replace(library="sglang")) == "sglang-0.5.6"


def read_row(**fields):
    """Give a row of an unnamed version."""
    about = {"library": "trtllm", "system": "h100_sxm", "version": "", "measured_on": "2025-10-29", "expert_dtype": ""}
    (row,) = pd.DataFrame([about | fields]).itertuples(index=False)
    return row
