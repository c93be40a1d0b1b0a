"""``perfsim serve``: every kind of traffic, files, JSON, and one clear line on bad input."""

import gzip
import json

import pandas as pd
import pytest
from click.testing import CliRunner

import perfsim
from perfsim.cli import main

SCENARIO = """
[cluster]
profile = "dgx-h100"

[model]
preset = "llama-3.1-8b"

[plan]
tensor = 1
data = {data}

[workload]
batch_size = {data}
"""
LENGTHS = ("--prompt", 200, "--output", 20)


def invoke(*args):
    """Run the command within this process."""
    return CliRunner().invoke(main, ["serve", *map(str, args)])


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    """Give the path of a small scenario, of one replica."""
    path = tmp_path_factory.mktemp("scenario") / "small.toml"
    path.write_text(SCENARIO.format(data=1), encoding="utf-8")
    return path


def said(*args):
    """Give what the command says to programs."""
    outcome = invoke(*args, "--json")
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def test_people_read_latencies(scenario):
    """The figures, percentiles, and goodput where there are objectives."""
    outcome = invoke(scenario, "--concurrency", 4, *LENGTHS, "--ttft", 1, "--tpot", 0.5)
    assert outcome.exit_code == 0, outcome.output
    served = perfsim.serve(
        perfsim.load_scenario(scenario),
        perfsim.ClosedLoop(concurrency=4, prompt_tokens=200, output_tokens=20),
        perfsim.Engine("vllm"),
    )
    assert outcome.stdout.startswith(str(served))
    assert "99 %" in outcome.stdout
    goodput = served.goodput(ttft_s=1, tpot_s=0.5)
    assert f"Goodput: {goodput.requests_per_s:,.4g} requests/s; 100.0% meet all" in outcome.stdout
    assert "Goodput" not in invoke(scenario, "--concurrency", 4, *LENGTHS).stdout


@pytest.mark.parametrize(
    ("options", "traffic"),
    [
        (["--concurrency", 3, "--ramp", 2],
         perfsim.ClosedLoop(concurrency=3, ramp_s=2, prompt_tokens=200, output_tokens=20)),
        (["--rate", 9, "--requests", 30, "--variation", 2, "--seed", 5],
         perfsim.OpenLoop(requests_per_s=9, num_requests=30, variation=2, seed=5, prompt_tokens=200, output_tokens=20)),
        (["--burst", 4, "--requests", 8, "--interval", 3, "--shortest", 1],
         perfsim.Bursts(size=4, num_requests=8, interval_s=3, shortest=1, prompt_tokens=200, output_tokens=20)),
        (["--concurrency", 3, "--prefix", 64, "--prefixes", 2],
         perfsim.ClosedLoop(concurrency=3, prefix_tokens=64, num_prefixes=2, prompt_tokens=200, output_tokens=20)),
    ],
)  # fmt: skip
def test_each_kind_of_traffic(scenario, options, traffic):
    """The same as in Python."""
    served = perfsim.serve(perfsim.load_scenario(scenario), traffic, perfsim.Engine("trtllm", token_budget=4096))
    found = said(scenario, *options, *LENGTHS, "--engine", "trtllm", "--set", "token_budget=4096")
    assert found["summary"]["ttft_s"] == pytest.approx(served.ttft_s, rel=1e-12)
    assert found["summary"]["requests"] == len(served.sent)
    assert found["goodput"] is None
    assert [row["percent"] for row in found["percentiles"]] == [50, 90, 95, 99]


def test_a_recorded_trace(scenario, tmp_path):
    """From a file, faster than recorded."""
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,100,5\n8,200,6\n", encoding="utf-8")
    found = said(scenario, "--trace", path, "--speed", 4, "--simulator", "simpy")
    assert 2 < found["summary"]["makespan_s"] < 3


def test_settings_of_the_engine(scenario):
    """Numbers, flags and names."""
    options = ("--set", "chunked=false", "--set", "max_sequences=1", "--set", "times=none", "--set", "kv_blocks=40")
    found = said(scenario, "--burst", 2, *LENGTHS, *options)
    assert found["replicas"][0]["steps"] == pytest.approx(40, abs=10)
    assert found["replicas"][0]["most_kv_share"] == pytest.approx(14 / 40, abs=0.05)


def test_the_deployment_is_that_of_the_plan_unless_told(tmp_path):
    """A router alone leaves the replicas as they are."""
    path = tmp_path / "two.toml"
    path.write_text(SCENARIO.format(data=2), encoding="utf-8")
    for options, pools in (
        (["--router", "least-loaded"], ["both", "both"]),
        (["--replicas", 3], ["both"] * 3),
        (["--replicas", 1, "--prefill-replicas", 1, "--transfer-latency", 0.01], ["prefill", "decode"]),
    ):
        assert [row["pool"] for row in said(path, "--burst", 4, *LENGTHS, *options)["replicas"]] == pools


def test_replicas_are_whole_pipelines(tmp_path):
    """However many are asked for."""
    path = tmp_path / "stages.toml"
    path.write_text(SCENARIO.format(data=1).replace("tensor = 1", "pipeline = 2"), encoding="utf-8")
    told = ([], ["--replicas", 1], ["--replicas", 2])
    of_plan, one, two = (said(path, "--burst", 4, *LENGTHS, *options) for options in told)
    assert of_plan == one
    assert [(row["replica"], row["lane"]) for row in one["replicas"]] == [(0, 0), (0, 1)]
    assert len(two["replicas"]) == 4


def test_what_never_came_is_null(scenario):
    """And the time that passed is the limit."""
    outcome = invoke(scenario, "--rate", 100, *LENGTHS, "--requests", 50, "--seed", 3, "--limit", 0.02, "--json")
    summary = json.loads(outcome.stdout)["summary"]
    assert outcome.exit_code == 1
    assert [summary[name] for name in ("ttft_s", "tpot_s", "latency_s")] == [None, None, None]
    assert 0 <= summary["makespan_s"] <= 0.02
    assert 0 <= summary["utilization"] <= 1


def test_files(scenario, tmp_path):
    """A page, a trace and tables, each named."""
    page, trace, folder = tmp_path / "page.html", tmp_path / "trace.json.gz", tmp_path / "tables"
    found = said(scenario, "--burst", 3, *LENGTHS, "-o", page, "--trace-out", trace, "--csv", folder)
    tables = [folder / f"{name}.csv" for name in ("requests", "steps", "replicas")]
    assert found["files"] == [str(path) for path in (page, trace, *tables)]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert len(pd.read_csv(tables[0], index_col="request")) == 3


def test_an_objective_that_nothing_meets_is_told(scenario):
    """With what came nearest; it is a result, not a failure."""
    outcome = invoke(scenario, "--burst", 3, *LENGTHS, "--ttft", 1e-6)
    assert outcome.exit_code == 0
    assert "no request meets ttft_s <= 1 us: the fastest takes" in outcome.stdout


def test_a_load_that_does_not_end_fails_with_what_came_of_it(scenario, tmp_path):
    """The partial result is printed and written; the failure is one line."""
    page = tmp_path / "page.html"
    outcome = invoke(scenario, "--burst", 9, *LENGTHS, "--set", "max_sequences=1", "--limit", 0.3, "-o", page)
    assert outcome.exit_code == 1
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("perfsim: the load does not drain: ")
    assert outcome.stdout.startswith("9 requests on 1 replica")
    assert page.is_file()


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        ([], ["serve.traffic = None", "--concurrency, --rate, --burst, --trace"]),
        (["--rate", 1, "--burst", 2], ["--rate, --burst", "must be one of"]),
        (["--rate", 1, "--ramp", 2, *LENGTHS], ["--ramp = 2.0", "has no effect with --rate"]),
        (["--rate", 1, "--prompt", 5], ["--output", "must be given with --rate"]),
        (["--trace", "t.csv", "--prompt", 5], ["--prompt = 5", "has no effect with --trace"]),
        (["--rate", -1, *LENGTHS], ["traffic.requests_per_s = -1.0", "above 0"]),
        (["--burst", 1, *LENGTHS, "--set", "token_budge=1"], ["token_budge=1", "did you mean 'token_budget'?"]),
        (["--burst", 1, *LENGTHS, "--set", "chunked"], ["must be a field and its value"]),
        (["--burst", 1, *LENGTHS, "--set", "kv_blocks=1", "--set", "kv_blocks=2"], ["another --set does too"]),
        (["--burst", 1, *LENGTHS, "--set", "token_budget=many"], ["engine.token_budget = 'many'"]),
        (["--burst", 1, *LENGTHS, "--set", "kv_blocks=1"], ["engine.kv_blocks = 1", "must hold one request"]),
        (["--burst", 1, *LENGTHS, "--replicas", 0], ["deployment.replicas = 0"]),
        (["--burst", 1, *LENGTHS, "--ttft", 0], ["--ttft = 0.0", "above 0"]),
        (["--burst", 1, *LENGTHS, "-o", "page.txt"], ["--out = 'page.txt'", "must end in .html"]),
        (["--burst", 1, *LENGTHS, "--trace-out", "t.gz"], ["--trace-out = 't.gz'", ".json.gz or .json"]),
        (["--burst", 1, *LENGTHS, "--engine", "vlm"], ["vlm", "serve --help"]),
        (["--trace", "missing.csv"], ["missing.csv"]),
    ],
)
def test_bad_input_gives_one_line(scenario, args, parts, tmp_path, monkeypatch):
    """And no file."""
    monkeypatch.chdir(tmp_path)
    outcome = invoke(scenario, *args)
    assert outcome.exit_code == 2, outcome.output
    (line,) = outcome.stderr.splitlines()
    assert all(part in line for part in parts), line
    assert not list(tmp_path.iterdir())


def test_all_faults_come_together(scenario, tmp_path):
    """Of traffic, engine and files."""
    (tmp_path / "tables").write_text("mine")
    outcome = invoke(scenario, "--rate", 1, "--set", "x=1", "-o", tmp_path, "--csv", tmp_path / "tables")
    assert outcome.exit_code == 2
    for part in ("--prompt", "--output", "x=1", "--out", "--csv"):
        assert part in outcome.stderr


def test_a_plan_that_no_engine_has_is_refused(tmp_path):
    """As in Python."""
    path = tmp_path / "ring.toml"
    path.write_text(SCENARIO.format(data=1).replace("data = 1", "context = 2"), encoding="utf-8")
    outcome = invoke(path, "--burst", 1, *LENGTHS)
    assert outcome.exit_code == 2
    assert "scenario.plan.context = 2" in outcome.stderr
