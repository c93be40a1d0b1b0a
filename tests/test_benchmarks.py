"""The benchmarks tell the truth: goals are compared the right way, times are the least, and a tool that fails says so.

Nothing here is installed or downloaded, and nothing long is timed.
"""

import ast
import io
import json
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import measure, peers
from benchmarks.measure import Figure
from benchmarks.peer_scripts import timed_sweep

SCRIPTS = sorted(peers._SCRIPTS.glob("*.py"))


@pytest.fixture
def clock(monkeypatch):
    """Give a list of seconds and a clock that moves by the next of them whenever `work` is called."""

    class Clock(list):
        now = 0.0

        def work(self):
            self.now += self.pop(0)

    clock = Clock()
    monkeypatch.setattr(measure.time, "process_time", lambda: clock.now)
    return clock


@pytest.fixture
def run_peer(tmp_path, monkeypatch):
    """Give a function that times a script as if it were that of a tool installed in this environment."""

    def run(code, stride=1):
        script = tmp_path / "script.py"
        script.write_text(code, encoding="utf-8")
        monkeypatch.setitem(peers._PEERS, "a tool", peers._Peer(str(script), stride=stride, repeats=2))
        monkeypatch.setattr(peers, "_install", lambda _name, _folder: sys.executable)
        return peers.cpu_seconds_of("a tool")

    return run


# Goals and tables


@pytest.mark.parametrize(("value", "at_least", "met"), [
    (299.9, True, False), (300.0, True, True), (300.1, True, True),
    (299.9, False, True), (300.0, False, True), (300.1, False, False),
])  # fmt: skip
def test_a_goal_is_a_least_or_a_greatest_value(value, at_least, met):
    """A rate is met from its goal upwards, a time from its goal downwards."""
    assert Figure("Engine", "a rate", value, "tasks/s", 300, at_least=at_least).met is met


def test_a_figure_without_a_goal_is_neither_met_nor_missed():
    """Figures that only give a scale are not judged."""
    assert Figure("Engine", "a rate", 1.0, "tasks/s").met is None


def test_markdown_gives_each_figure_a_row_with_its_goal_and_its_verdict():
    """The page shows what was measured, what was asked for, and which goals are missed."""
    figures = [
        Figure("Engine", "rate", 412.6, "tasks/s", 300, at_least=True),
        Figure("Plans", "time", 61.24, "ms", 50),
        Figure("Plans", "bandwidth", 12_345.6, "GB/s"),
    ]
    assert measure.markdown(iter(figures)).splitlines() == [
        "| Group | Figure | Measured | Goal | |",
        "|---|---|---|---|---|",
        "| Engine | rate | 413 tasks/s | at least 300 tasks/s | met |",
        "| Plans | time | 61.2 ms | at most 50 ms | **missed** |",
        "| Plans | bandwidth | 12,346 GB/s |  |  |",
    ]


@pytest.mark.parametrize(("value", "text"), [
    (0.01234, "0.0123"), (9.876, "9.88"), (99.96, "100"), (999.7, "1,000"), (2_500_000.0, "2,500,000"),
])  # fmt: skip
def test_numbers_have_three_digits_or_all_before_the_point_and_no_exponent(value, text):
    """Rounding must not turn 999.7 into 1e+03."""
    assert measure._number(value) == text


# Times


def test_cpu_seconds_is_the_least_of_the_runs_after_the_first(clock):
    """The first run fills caches and does not count, however short it is."""
    clock.extend([1.0, 5.0, 3.0, 4.0])
    assert measure.cpu_seconds(clock.work, repeats=3) == 3.0
    assert not clock


def test_cpu_seconds_once_is_the_time_of_the_one_call(clock):
    """What keeps its result is not called twice."""
    clock.extend([5.0, 3.0])
    assert measure.cpu_seconds_once(clock.work) == 5.0
    assert list(clock) == [3.0]


def test_the_machine_is_described():
    """Figures without their machine say nothing."""
    facts = measure.machine()
    assert facts["Python"].endswith(f"simpy {version('simpy')}")
    assert "cores" in facts["Processor"]
    assert float(facts["Memory"].removesuffix(" GiB")) > 0


# Other tools


def test_peers_get_500_points_up_to_the_reference_deployment():
    """The largest point is the one whose times other tools are known for."""
    assert len(peers.BATCHES) * len(peers.SEQUENCES) == 500
    assert (peers.BATCHES[-1], peers.SEQUENCES[-1]) == (1024, 10_000)


def points_for(stride):
    """Give the points that a peer with some stride gets."""
    points = [(batch, sequence) for batch in peers.BATCHES for sequence in peers.SEQUENCES]
    return points[::-stride]


@pytest.mark.parametrize("name", peers._PEERS)
def test_samples_are_large_and_leave_no_batch_and_no_sequence_out(name):
    """A stride that divides the number of sequences would sample a few of them only."""
    points = points_for(peers._PEERS[name].stride)
    assert len(points) >= 50
    assert {batch for batch, _ in points} == set(peers.BATCHES)
    assert {sequence for _, sequence in points} == set(peers.SEQUENCES)
    assert max(points) == (1024, 10_000)


ANSWER = """
import json, sys
asked = json.load(sys.stdin)
print("a line that the tool prints")
print(json.dumps({"seconds": 2.0, "version": "1.2.3", "points": len(asked["points"]),
                  "named_point": max(asked["points"]), "named_point_s": 40.0}))
"""


def test_the_time_of_all_points_is_taken_as_it_is(run_peer):
    """What the tool itself prints does not disturb the reply."""
    assert run_peer(ANSWER) == peers.Measurement(2.0, "1.2.3", 500, (1024, 10_000), 40.0)


def test_the_time_of_a_sample_is_scaled_to_all_points(run_peer):
    """The reader still sees how many points were evaluated."""
    found = run_peer(ANSWER, stride=9)
    assert found.points == 56
    assert found.seconds == pytest.approx(2.0 * 500 / 56)


def test_a_tool_that_cannot_be_run_is_named_with_what_it_said_and_the_way_out(run_peer):
    """A package that was installed may still fail, on a newer Python for example."""
    with pytest.raises(peers.PeerError) as caught:
        run_peer("import a_module_that_nobody_has")
    message = str(caught.value)
    assert message.startswith("a tool was not measured: ")
    assert "No module named 'a_module_that_nobody_has'" in message
    assert "python -m benchmarks --no-peers" in message


def test_a_tool_that_fails_silently_is_named_with_its_exit_status(run_peer):
    """There is something to go by even if nothing was printed."""
    with pytest.raises(peers.PeerError, match="failed: exit status 7"):
        run_peer("raise SystemExit(7)")


def test_a_tool_that_hangs_is_given_up(run_peer, monkeypatch):
    """A benchmark must end."""
    monkeypatch.setattr(peers, "_LONGEST_S", 0.2)
    with pytest.raises(peers.PeerError, match=r"timed out after 0\.2 seconds"):
        run_peer("import time; time.sleep(30)")


def test_a_tool_that_cannot_be_installed_is_named_with_what_pip_said(monkeypatch):
    """Without the network pip says so, and the user is told how to go on."""

    def run_without_network(command, **_):
        if "pip" in command:
            raise peers.subprocess.CalledProcessError(1, command, stderr="ERROR: no matching distribution\n")
        return peers.subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(peers.subprocess, "run", run_without_network)
    with pytest.raises(peers.PeerError) as caught:
        peers.cpu_seconds_of("genz-llm")
    message = str(caught.value)
    assert "pip install genz-llm failed: ERROR: no matching distribution" in message
    assert "python -m benchmarks --no-peers" in message


def test_an_unknown_tool_is_refused_with_the_known_ones():
    """A misspelt tool must not be looked for on PyPI."""
    with pytest.raises(peers.PeerError, match="'vidur'; there are llm-analysis, genz-llm"):
        peers.cpu_seconds_of("vidur")


def test_the_environment_of_a_tool_is_taken_away_even_after_a_failure(monkeypatch):
    """An environment takes up to a gigabyte."""
    folders = []

    def fail(_name, folder):
        folders.append(folder)
        assert folder.is_dir()
        raise peers.PeerError("no")

    monkeypatch.setattr(peers, "_install", fail)
    with pytest.raises(peers.PeerError):
        peers.cpu_seconds_of("llm-analysis")
    assert len(folders) == 1
    assert not folders[0].exists()


# The scripts that run beside other tools


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_imports_nothing_of_perfsim(script):
    """The peers' environments do not have it."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert modules
    assert not {module.partition(".")[0] for module in modules} & {"perfsim", "benchmarks"}


def test_every_tool_has_its_script():
    """And every script its tool."""
    assert {peer.script for peer in peers._PEERS.values()} | {"timed_sweep.py"} == {path.name for path in SCRIPTS}


@pytest.fixture
def reported(monkeypatch, capsys):
    """Give a function that reports on three points evaluated twice, and gives the reply."""

    def report(makespan_s):
        asked = {"points": [[4, 20], [2, 10], [4, 10]], "repeats": 2}
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asked)))
        timed_sweep.report("numpy", makespan_s)
        return json.loads(capsys.readouterr().out)

    return report


def test_a_script_reports_the_least_time_after_a_warm_up_and_what_it_predicts(reported, clock):
    """The named point is the largest one, wherever it stands."""
    clock.extend([100, 5, 5, 5, 1, 2, 3])

    def makespan_s(batch, sequence):
        clock.work()
        return batch * sequence / 8

    expected = {"seconds": 6.0, "version": version("numpy"), "points": 3, "named_point": [4, 20], "named_point_s": 10.0}
    assert reported(makespan_s) == expected
    assert not clock


@pytest.mark.parametrize("prediction", [0.0, -1.0, float("nan"), float("inf")])
def test_a_script_refuses_to_time_a_tool_that_predicts_nothing(reported, prediction):
    """A tool that gives up early would look fast."""
    with pytest.raises(ValueError, match="numpy gives no time"):
        reported(lambda batch, _: prediction if batch == 2 else 1.0)


# The command


@pytest.fixture
def run_command(monkeypatch):
    """Give a function that runs the command without the long measurements."""
    for module in (command.engine, command.plans, command.serving):
        monkeypatch.setattr(module, "figures", lambda: [Figure("Engine", "rate", 1.0, "tasks/s")])

    def run(sweep_figures, *arguments):
        monkeypatch.setattr(command.sweeps, "figures", sweep_figures)
        return CliRunner().invoke(command.main, arguments)

    return run


def test_the_command_writes_a_page_and_leaves_peers_out_when_told_to(run_command, tmp_path):
    """All groups of figures are on the page."""
    asked = []
    page = tmp_path / "performance.md"
    result = run_command(lambda *, with_peers: asked.append(with_peers) or [], "--no-peers", "--out", str(page))
    assert result.exit_code == 0, result.output
    assert asked == [False]
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Performance\n")
    assert "- Processor: " in text
    assert text.count("| Engine | rate | 1 tasks/s |  |  |") == 3


def test_the_command_shows_why_a_peer_failed_without_a_traceback(run_command):
    """The message alone is what the user needs."""

    def figures(*, with_peers):
        assert with_peers
        raise peers.PeerError(message)

    message = "llm-analysis was not measured"
    result = run_command(figures)
    assert result.exit_code == 1
    assert result.output == f"Error: {message}\n"
