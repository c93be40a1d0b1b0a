"""``perfsim run --advise``: what makes a scenario fit, or faster."""

import json

import pytest
from click.testing import CliRunner

import perfsim
from perfsim.cli import main

KEPT = """
[cluster]
profile = "dgx-h100"
num_devices = 16

[model]
preset = "llm-16l-8192"

[plan]
tensor = 8
pipeline = 2
microbatch_size = 1

[workload]
batch_size = 1024
sequence_length = 10000
"""


@pytest.fixture
def run(tmp_path):
    """Give a function that runs the command on a scenario that keeps its KV cache."""
    path = tmp_path / "kept.toml"
    path.write_text(KEPT, encoding="utf-8")

    def run(*arguments):
        outcome = CliRunner().invoke(main, ["run", str(path), *arguments])
        assert outcome.exit_code == 0
        return outcome.stdout

    return run


def test_advice_follows_the_report(run, improved):
    """Word for word as in Python, and only where it is asked for."""
    advice = str(perfsim.advise(improved.with_(keep_kv_cache=True)))
    assert advice in run("--advise")
    assert advice.splitlines()[0] not in run()


def test_advice_for_programs(run, improved):
    """The verdict, and the rows of the table."""
    advice = perfsim.advise(improved.with_(keep_kv_cache=True))
    report = json.loads(run("--advise", "--json"))["advice"]
    assert report["verdict"] == advice.verdict
    assert [row["change"] for row in report["options"]] == [str(option) for option in advice]
    assert [row["peak_bytes"] for row in report["options"]] == [option.after.peak_bytes for option in advice]
    assert "advice" not in json.loads(run("--json"))
