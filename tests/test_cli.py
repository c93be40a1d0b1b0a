"""The command line: the demonstration, single runs, comparisons, profiles, and one clear line on bad input."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import perfsim
from perfsim.cli import main
from perfsim.study import demo

ROOT = Path(__file__).resolve().parent.parent
TEXT = """
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
batch_size = 8
sequence_length = 1000
keep_kv_cache = false
"""


def invoke(*args):
    """Run a command within this process."""
    return CliRunner().invoke(main, [str(arg) for arg in args])


def run(*args, cwd):
    """Run a command as its user does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "perfsim", *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def refused_line(outcome, *parts):
    """Check that a command was refused with exactly one line that has some parts."""
    assert outcome.exit_code == 2, outcome.output
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("perfsim: ")
    for part in parts:
        assert part in line


@pytest.fixture
def write(tmp_path):
    """Give a function that writes a scenario file with replaced texts and gives its path."""

    def write_file(replaced=None, name="scenario.toml"):
        text = TEXT
        for old, new in (replaced or {}).items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    """Run the whole demonstration once; give its output and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    outcome = invoke("demo", "--out", folder / "out")
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout, folder / "out"


def test_the_demo_shows_three_plans_side_by_side(demonstration):
    """With the table, who wins what, the claims, and memory in plain words."""
    text, folder = demonstration
    for name in demo.DEMO_PLANS:
        assert any(line.startswith(name) and " s " in line for line in text.splitlines())
        assert f"Memory of {name}:" in text
    assert "Throughput: seed-layerwise-pipelined is fastest" in text
    assert "the first sequence is done soonest under seed-improved" in text
    assert "MFU counts the FLOP that the workload asks for" in text
    assert text.count("[holds]") + text.count("[DOES NOT HOLD]") == 14
    assert "5.369 TB in all; that would not fit" in text
    assert f"files are in {folder}; begin with {folder / 'README.md'}" in text


def test_the_demo_writes_every_file(demonstration):
    """The deployment's at the top, each plan's and the comparison's below; none is left half-made."""
    text, folder = demonstration
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    top = {name for name in files if "/" not in name}
    assert top == {
        *["improved_tensor_parallel_dag.dot", "improved_tensor_parallel_dag.svg", "deployment_overview.svg"],
        *["layer_detailed_breakdown.svg", "deployment_config.json", "verification_report.txt"],
        *["generate_visualizations.py", "README.md"],
    }
    for name in demo.DEMO_PLANS:
        plan = {path.name for path in (folder / "plans" / name).iterdir()}
        assert {"timeline.parquet", "load_balance.csv", "memory.csv", "report.txt", "dag.svg", "timeline.png"} <= plan
    compared = {path.name for path in (folder / "comparison").iterdir()}
    assert {"comparison.csv", "waterfall.csv", "timelines.png", "waterfall.png"} <= compared
    assert f"{len(files)} files are in" in text
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_the_demo_explains_its_files(demonstration):
    """What the page names is there, and nothing at the top goes unnamed."""
    _, folder = demonstration
    page = (folder / "README.md").read_text(encoding="utf-8")
    for path in folder.iterdir():
        named = path.stem if path.suffix in {".dot", ".svg"} else path.name
        assert path.name == "README.md" or named in page
    assert "- [DOES NOT HOLD] The KV cache of all tokens can be kept" in page


def test_the_demo_speaks_json(monkeypatch, tmp_path):
    """Tables, claims and the paths of the files, which are not written again here."""
    monkeypatch.setattr(
        "perfsim.cli.commands.write_demo", lambda _comparison, _claims, out, _helper: (out / "README.md",)
    )
    report = json.loads(invoke("demo", "--json", "--out", tmp_path).stdout)
    assert [row["plan"] for row in report["table"]] == list(demo.DEMO_PLANS)
    assert len(report["claims"]) == 14
    assert all(set(claim) == {"name", "holds", "why"} for claim in report["claims"])
    assert report["files"] == [str(tmp_path / "README.md")]


def test_run_shows_a_scenario(tmp_path, monkeypatch):
    """Figures, memory and verification; nothing is written."""
    monkeypatch.chdir(tmp_path)
    outcome = invoke("run", "seed-improved")
    assert outcome.exit_code == 0
    assert "TP8 x PP2, microbatch 1, prefill of 1024 x 10000 tokens" in outcome.stdout
    assert "The KV cache is dropped." in outcome.stdout
    assert outcome.stdout.count("[pass]") == 5
    assert list(tmp_path.iterdir()) == []


def test_run_speaks_json(improved):
    """The numbers of the result, to the last digit."""
    report = json.loads(invoke("run", "seed-improved", "--json").stdout)
    result = perfsim.simulate(improved)
    assert report["summary"] == result.summary.to_dict()
    assert report["memory_findings"] == list(result.memory_findings)
    assert [row["device"] for row in report["load_balance"]] == list(range(16))
    assert [row["busy_s"] for row in report["load_balance"]] == result.load_balance["busy_s"].tolist()
    assert [row["peak_bytes"] for row in report["memory"]] == result.memory["peak_bytes"].tolist()
    assert report["files"] == []


def test_run_writes_a_plan_where_asked(write, tmp_path):
    """From a file of one's own."""
    outcome = invoke("run", write(), "--out", tmp_path / "out", "--json")
    files = json.loads(outcome.stdout)["files"]
    assert {Path(path).name for path in files} >= {"timeline.parquet", "report.txt", "dag.svg", "result.npz"}
    assert perfsim.load_result(tmp_path / "out" / "result.npz").scenario.workload.batch_size == 8


def test_engine_and_detail_change_nothing(write):
    """All ways to run give the same figures."""
    path = write()
    ways = [[], ["--engine", "simpy"], ["--detail", "full"]]
    reports = [json.loads(invoke("run", path, "--json", *way).stdout) for way in ways]
    assert reports[0] == reports[1] == reports[2]


def test_decode_runs_from_a_file(write):
    """With its cache kept."""
    path = write({"[workload]": '[workload]\nphase = "decode"', "keep_kv_cache = false": ""})
    outcome = invoke("run", path)
    assert outcome.exit_code == 0
    assert "decode of 8 x 1000 tokens" in outcome.stdout


def test_a_plan_that_does_not_fit_is_told_not_refused(write):
    """Exit status 0: the simulation's answer is that it does not fit."""
    path = write({"keep_kv_cache = false": "keep_kv_cache = true", "batch_size = 8": "batch_size = 4096"})
    outcome = invoke("run", path)
    assert outcome.exit_code == 0
    assert "The plan does NOT fit on 16 of 16 GPUs" in outcome.stdout


def test_compare_names_its_baseline(write):
    """Shipped scenarios and files, side by side."""
    path = write()
    outcome = invoke("compare", "seed-improved", path, "--baseline", "seed-improved")
    assert outcome.exit_code == 0
    assert "speed-up" in outcome.stdout
    assert "1.00x" in outcome.stdout
    assert str(path) in outcome.stdout


def test_compare_speaks_json():
    """One row a plan."""
    names = ["seed-baseline", "seed-improved"]
    report = json.loads(invoke("compare", *names, "--baseline", names[0], "--json").stdout)
    assert report["baseline"] == names[0]
    assert [row["plan"] for row in report["table"]] == names
    assert report["table"][1]["speedup"] > 1
    assert report["findings"]


def test_profiles_lists_them_all():
    """One line each, and in JSON with every number."""
    text = invoke("profiles").stdout
    assert all(name in text for name in perfsim.list_profiles())
    listed = json.loads(invoke("profiles", "--json").stdout)
    assert [cluster["name"] for cluster in listed] == list(perfsim.list_profiles())


@pytest.mark.parametrize("name", perfsim.list_profiles())
def test_a_profile_shows_the_source_of_every_number(name):
    """As a table and in JSON."""
    cluster = perfsim.load_cluster(name)
    text = invoke("profiles", name).stdout
    assert all(path in text for path in cluster.sources)
    shown = json.loads(invoke("profiles", name, "--json").stdout)
    assert shown["accelerator"]["memory_bytes"] == cluster.accelerator.memory_bytes
    assert shown["sources"] == dict(cluster.sources)


def test_the_template_of_a_profile_is_a_profile(tmp_path):
    """And shows the rule of what it leaves out."""
    path = tmp_path / "mine.toml"
    path.write_text(invoke("profiles", "--template").stdout, encoding="utf-8")
    assert perfsim.load_cluster(path).name == "my-cluster"
    assert "default: " in invoke("profiles", str(path)).stdout


@pytest.mark.parametrize("extra", ["dgx-h100", "--json"])
def test_the_template_takes_nothing_beside_it(extra):
    """Rather than passing over it."""
    refused_line(invoke("profiles", "--template", extra), extra, "must be left out")


@pytest.mark.parametrize("command", [[], ["demo"], ["run"], ["compare"], ["profiles"]])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself(command, flag):
    """With what it does and its options."""
    outcome = invoke(*command, flag)
    assert outcome.exit_code == 0
    assert "Usage:" in outcome.stdout
    assert ("--json" in outcome.stdout) == bool(command)


def test_version():
    """The package's."""
    assert perfsim.__version__ in invoke("--version").stdout


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("tensor = 8", "tenser = 8", ["plan.tenser = 8", "is not a known key", "did you mean 'tensor'?"]),
        ("tensor = 8", 'tensor = "8"', ["plan.tensor = '8'", "must be a whole number of at least 1"]),
        ("tensor = 8", "tensor = 0", ["plan.tensor = 0", "must be a whole number of at least 1"]),
        ("tensor = 8", "tensor = true", ["plan.tensor = True", "must be a whole number"]),
        ("tensor = 8", "tensor = 3", ["plan.tensor = 3", "must divide model.num_attention_heads = 16", "use one of"]),
        ("pipeline = 2", "pipeline = 17", ["plan.pipeline = 17", "must be at most the 16 layers", "each stage"]),
        ("pipeline = 2", "pipeline = 4", ["32 devices", "must be at most the 16 devices", "num_devices=32"]),
        ("pipeline = 2", "pipeline = 2.0", ["plan.pipeline = 2.0", "must be a whole number"]),
        ("batch_size = 8", "batch_size = -1", ["workload.batch_size = -1", "must be a whole number of at least 1"]),
        ("keep_kv_cache = false", 'keep_kv_cache = "no"', ["workload.keep_kv_cache = 'no'", "must be true or false"]),
        ("keep_kv_cache = false", 'phase = "decod"', ["workload.phase = 'decod'", "prefill", "did you mean 'decode'?"]),
        ('"dgx-h100"', '"dgx-h10"', ["'dgx-h10'", "must be one of", "did you mean 'dgx-h100'?"]),
        ('"dgx-h100"', "5", ["5", "must be"]),
        ("num_devices = 16", "num_devices = 0", ["num_devices = 0", "must be a whole number of at least 1"]),
        ('"llm-16l-8192"', '"llm-16l"', ["'llm-16l'", "must be one of", "did you mean 'llm-16l-8192'?"]),
        ('"llm-16l-8192"', '"none.json"', ["none.json", "cannot be read", "give the path of a file"]),
        ("[plan]", "[[plan]]", ["plan = ", "must be a table"]),
        ("[plan]", "[plan", ["is not TOML", "mend the file"]),
        ("[workload]", "[work]", ["work = ", "is not a known key", "workload = None", "is missing", "add it"]),
    ],
)
def test_a_fault_in_a_file_is_one_line(write, tmp_path, old, new, parts):
    """Field, value, what is allowed and the way out; no folder is left behind."""
    outcome = invoke("run", write({old: new}), "--out", tmp_path / "out")
    refused_line(outcome, *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["scenario.toml"]


def test_several_faults_are_in_one_line(write):
    """All of a file's parts together."""
    path = write({"tensor = 8": "tensor = 0", "batch_size = 8": "batch_size = 0\nbatchsize = 3", "16l": "17l"})
    refused_line(invoke("run", path), "plan.tensor = 0", "workload.batch_size = 0", "workload.batchsize = 3", "17l")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"a = 1\nb\n", b"[plan]\ntensor = 8\ntensor = 8\n", b"text\nwith\nlines"]
)
def test_a_broken_file_is_one_line(tmp_path, content):
    """Whatever it holds."""
    (tmp_path / "broken.toml").write_bytes(content)
    refused_line(invoke("run", tmp_path / "broken.toml"), "broken.toml")


def test_an_empty_file_lacks_all_four_parts(tmp_path):
    """And says so in one go."""
    (tmp_path / "empty.toml").touch()
    missing = [f"{part} = None: is missing" for part in ("cluster", "model", "plan", "workload")]
    refused_line(invoke("run", tmp_path / "empty.toml"), *missing)


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["run", "seed-improve"], ["scenario = 'seed-improve'", "must be one of", "did you mean 'seed-improved'?"]),
        (["run", "none.toml"], ["none.toml", "cannot be read", "give the path"]),
        (["run", ""], ["scenario = ''", "must be one of"]),
        (["compare", "seed-improved", "--baseline", "seed-imp"], ["compare.baseline = 'seed-imp'", "seed-improved"]),
        (["compare", "seed-x", "--baseline", "seed-x"], ["scenario = 'seed-x'", "must be one of"]),
        (["profiles", "dgx-h10"], ["'dgx-h10'", "must be one of", "did you mean 'dgx-h100'?"]),
        (["profiles", "none.toml"], ["none.toml", "cannot be read"]),
    ],
)
def test_unknown_names_are_one_line(command, parts):
    """With what is there and what was perhaps meant."""
    refused_line(invoke(*command), *parts)


@pytest.mark.parametrize(
    ("command", "part"),
    [
        (["run"], "SCENARIO"),
        (["run", "seed-improved", "--engine", "simpi"], "simpi"),
        (["run", "seed-improved", "--detail", "all"], "all"),
        (["run", "seed-improved", "--outt", "x"], "--out"),
        (["compare", "seed-improved"], "--baseline"),
        (["compare", "--baseline", "x"], "SCENARIOS"),
        (["profiles", "dgx-h100", "dgx-h200"], "dgx-h200"),
        (["demonstrate"], "demonstrate"),
    ],
)
def test_a_wrong_call_is_one_line(command, part):
    """Exit status 2, on standard error, as for any bad input."""
    outcome = invoke(*command)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()
    assert part in line


def test_faults_of_several_scenarios_come_together(write):
    """Each with the name of its scenario."""
    first, second = write({"tensor = 8": "tensr = 8"}, "a.toml"), write({"batch_size = 8": "batch_size = 0"}, "b.toml")
    outcome = invoke("compare", first, second, "seed-x", "--baseline", first)
    parts = f"{first}: plan.tensr = 8", f"{second}: workload.batch_size = 0", "seed-x: scenario = 'seed-x'"
    refused_line(outcome, *parts)


def test_a_call_without_a_command_explains_itself():
    """As --help does."""
    outcome = invoke()
    assert outcome.exit_code == 0
    assert outcome.stdout == invoke("--help").stdout


def test_a_full_disk_is_one_line(monkeypatch, tmp_path):
    """Exit status 1: the input was right."""

    def fill(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(demo, "save_result", fill)
    outcome = invoke("run", "seed-improved", "--out", tmp_path / "out")
    assert outcome.exit_code == 1
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("perfsim: ")
    assert "No space left on device" in line
    assert list(tmp_path.iterdir()) == []


def test_tables_in_a_pipe_have_a_line_a_row():
    """However long the row is."""
    lines = invoke("profiles", "dgx-h100").stdout.splitlines()
    sources = perfsim.load_cluster("dgx-h100").sources
    assert len(lines) == 2 + len(sources)
    assert [line.split()[0] for line in lines[2:]] == list(sources)


def test_a_folder_that_cannot_be_made_is_one_line(write, tmp_path):
    """A file is in the way, itself or above; it stays."""
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    refused_line(invoke("run", write(), "--out", tmp_path / "file"), "is a file", "move the file away")
    refused_line(invoke("run", write(), "--out", tmp_path / "file" / "out"), "cannot be written to")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_what_cannot_be_simulated_has_status_1(monkeypatch):
    """A deadlock is no bad input; still one line."""

    def block(*_args, **_kwargs):
        raise perfsim.DeadlockError(["send of microbatch 3"], 1)

    monkeypatch.setattr("perfsim.cli.commands.simulate", block)
    outcome = invoke("run", "seed-improved")
    assert outcome.exit_code == 1
    (line,) = outcome.stderr.splitlines()
    assert "send of microbatch 3" in line


def test_a_run_as_its_user_calls_it(write, tmp_path):
    """A process of its own: pipes get plain text, JSON parses, the folder stays as it was."""
    path = write()
    plain, as_json = run("run", path.name, cwd=tmp_path), run("run", path.name, "--json", cwd=tmp_path)
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "\x1b" not in plain.stdout
    assert json.loads(as_json.stdout)["summary"]["fits"] is True
    assert [entry.name for entry in tmp_path.iterdir()] == ["scenario.toml"]


def test_bad_input_as_its_user_sees_it(write, tmp_path):
    """One line on standard error, no traceback, exit status 2, no folder."""
    path = write({"tensor = 8": "tensor = 3", "batch_size = 8": "batch_size = 8\nextra = 1"})
    process = run("run", path.name, "--out", "out", cwd=tmp_path)
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert "workload.extra = 1: is not a known key" in line
    assert [entry.name for entry in tmp_path.iterdir()] == ["scenario.toml"]


def test_the_entry_point_is_the_command(tmp_path):
    """What the installed script calls."""
    code = "import sys; sys.argv = ['perfsim', 'profiles', 'dgx-h100']; from perfsim.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0
    assert "accelerator.l2_bytes" in process.stdout
