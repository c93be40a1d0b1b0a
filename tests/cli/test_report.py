"""``perfsim report``: the page of one scenario or of several, and one clear line on bad input."""

import json

import pytest
from click.testing import CliRunner

from perfsim.cli import main

SMALL = """
[cluster]
profile = "dgx-h100"

[model]
preset = "llm-16l-8192"

[plan]
tensor = {tensor}
pipeline = {pipeline}
microbatch_size = 1

[workload]
batch_size = 4
sequence_length = 1000
keep_kv_cache = false
"""


def invoke(*args):
    """Run the command within this process."""
    return CliRunner().invoke(main, ["report", *map(str, args)])


@pytest.fixture
def scenario(tmp_path):
    """Give a function that writes a small scenario and gives its path."""

    def write(name="plan.toml", tensor=8, pipeline=1):
        path = tmp_path / name
        path.write_text(SMALL.format(tensor=tensor, pipeline=pipeline), encoding="utf-8")
        return path

    return write


def test_one_scenario_has_a_page(scenario, tmp_path):
    """And the command says where it is and whether the plan fits."""
    outcome = invoke(scenario(), "-o", tmp_path / "report.html")
    assert outcome.exit_code == 0, outcome.output
    assert "The plan fits" in outcome.stdout
    assert str(tmp_path / "report.html") in outcome.stdout
    assert 'id="comparison"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_several_scenarios_are_compared(scenario, tmp_path):
    """With the first as the baseline, or the one that is named."""
    first, second = scenario(), scenario("other.toml", tensor=4, pipeline=2)
    for options, baseline in (((), first), (("--baseline", second), second)):
        outcome = invoke(first, second, "-o", tmp_path / "report.html", *options)
        assert outcome.exit_code == 0, outcome.output
        assert f"2 plans compared with {baseline}" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_programs_read_json(scenario, tmp_path):
    """File, size, and the verdict on each plan."""
    outcome = invoke(scenario(), "-o", tmp_path / "report.html", "--json", "--detail", "full")
    said = json.loads(outcome.stdout)
    assert said["bytes"] == (tmp_path / "report.html").stat().st_size
    assert list(said["fits"].values()) == [True]


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["seed-improvd"], ["seed-improvd", "seed-improved"]),
        (["seed-improved", "--baseline", "other"], ["--baseline", "other", "must be one of seed-improved"]),
        ([], ["Missing argument", "report --help"]),
    ],
)
def test_bad_input_gives_one_line(args, parts, tmp_path):
    """And no file."""
    outcome = invoke(*args, "-o", tmp_path / "report.html")
    assert outcome.exit_code == 2
    (line,) = outcome.stderr.splitlines()
    assert all(part in line for part in parts), line
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way_gives_one_line(scenario, tmp_path):
    """As everywhere."""
    (tmp_path / "out").mkdir()
    outcome = invoke(scenario(), "-o", tmp_path / "out")
    assert outcome.exit_code == 2
    assert "is a folder; give the name of a file" in outcome.stderr
