"""``perfsim sweep``: axes as text, files, pictures, and one clear line on bad input."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner

import perfsim
from perfsim.cli import main
from perfsim.cli.sweeps import read_axis

AXES = ("--axis", "batch_size=64,128", "--axis", "sequence_length=1000:3000:1000")


def sweep(*arguments):
    """Run the command within this process."""
    return CliRunner().invoke(main, ["sweep", "seed-improved", *map(str, arguments)])


@pytest.fixture
def expected(improved):
    """The same sweep from Python."""
    return perfsim.sweep(improved, batch_size=[64, 128], sequence_length=[1000, 2000, 3000], progress=False)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("64", [64]),
        ("1,2.5,-3", [1, 2.5, -3]),
        ("true,False,none", [True, False, None]),
        ("pipelined,sequential", ["pipelined", "sequential"]),
        ("1:3", [1, 2, 3]),
        ("1:10:4", [1, 5, 9]),
        ("64:1024:*2", [64, 128, 256, 512, 1024]),
        ("1e9:2e9:5e8", [1e9, 1.5e9, 2e9]),
        ("0.1:0.3:0.1", [0.1, 0.2, 0.3]),  # 0.1 + 2 * 0.1 lies a little above 0.3
    ],
)
def test_texts_become_values(text, values):
    """Of the types that the fields have."""
    found = read_axis(text)
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


@pytest.mark.parametrize("text", ["a:b", "1:true", "5:1", "1:5:0", "1:5:-1", "1:5:*1", "0:5:*2", "1:"])
def test_ranges_that_never_arrive_are_refused(text):
    """With the ways to write one."""
    with pytest.raises(perfsim.InputError, match="first:last:step"):
        read_axis(text)


@pytest.mark.parametrize(("name", "read"), [("t.parquet", pd.read_parquet), ("t.csv", pd.read_csv)])
def test_the_table_is_the_one_of_python(tmp_path, expected, name, read):
    """In either kind of file."""
    outcome = sweep(*AXES, "--out", tmp_path / name)
    assert outcome.exit_code == 0, outcome.output
    table = read(tmp_path / name)
    without = {"columns": "reason"}  # all are empty, which CSV reads as missing
    pd.testing.assert_frame_equal(table.drop(**without), expected.drop(**without), check_dtype=False)
    assert f"The table is in {tmp_path / name}" in outcome.stdout
    assert "6 points, 6 of them fit" in outcome.stdout


def test_a_parquet_file_knows_its_scenarios(tmp_path, improved):
    """A row that is read back leads to its scenario."""
    sweep(*AXES, "--out", tmp_path / "t.parquet")
    row = pd.read_parquet(tmp_path / "t.parquet").iloc[-1]
    assert perfsim.scenario_at(row) == improved.with_(batch_size=128, sequence_length=3000)


def test_json_is_for_programs(expected):
    """All points and nothing else."""
    outcome = sweep(*AXES, "--json")
    rows = json.loads(outcome.stdout)
    assert [row["makespan_s"] for row in rows] == pytest.approx(expected["makespan_s"].tolist(), rel=1e-14)
    assert list(rows[0]) == list(expected)


def test_many_points_show_the_best():
    """Twenty of them."""
    lines = sweep("--axis", "batch_size=1:100").stdout.splitlines()
    assert lines[:2] == ["100 points, 100 of them fit in memory.", "The 20 with the most tokens a second:"]
    assert len(lines) == 23


def test_nothing_that_fits_is_said_with_its_reason():
    """The first of them."""
    outcome = sweep("--axis", "tensor=16:64")
    assert outcome.exit_code == 0
    assert "49 points, 0 of them fit in memory." in outcome.stdout
    assert "The first says: impossible: plan = " in outcome.stdout


@pytest.mark.parametrize("axes", [AXES, ("--axis", "batch_size=8,16,32")])
def test_pictures_are_written(tmp_path, axes):
    """A heat map over two axes, lines over one."""
    outcome = sweep(*axes, "--plot", tmp_path / "p.png", "--value", "mfu")
    assert outcome.exit_code == 0, outcome.output
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_goes_on_from_its_folder(tmp_path, expected):
    """The second call finds every point there."""
    for _ in range(2):
        outcome = sweep(*AXES, "--resume", tmp_path / "kept", "--out", tmp_path / "t.parquet")
        assert outcome.exit_code == 0, outcome.output
    assert len(list((tmp_path / "kept").glob("part-*.parquet"))) == 1
    assert pd.read_parquet(tmp_path / "t.parquet")["makespan_s"].tolist() == expected["makespan_s"].tolist()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--axis", "bath_size=1"), "did you mean 'batch_size'"),
        (("--axis", "batch_size"), "a field and its values"),
        (("--axis", "batch_size=0,1"), "workload.batch_size = 0"),
        (("--axis", "batch_size="), "at least one value"),
        (("--axis", "batch_size=1", "--axis", "batch_size=2"), "another axis varies too"),
        ((*AXES, "--out", "table.xlsx"), "must end in .parquet or .csv"),
        ((*AXES, "--plot", "picture.svg"), "must end in .png"),
        ((*AXES, "--out", "nowhere/table.csv"), "a folder that exists"),
        ((*AXES, "--axis", "causal=true,false", "--plot", "p.png"), "shows one or two axes"),
        ((*AXES, "--value", "mfuu", "--plot", "p.png"), "did you mean 'mfu'"),
        ((), "--axis"),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path, monkeypatch, arguments, named):
    """With exit status 2, and no file."""
    monkeypatch.chdir(tmp_path)
    outcome = sweep(*arguments)
    assert outcome.exit_code == 2, outcome.output
    assert named in outcome.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
