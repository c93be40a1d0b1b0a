"""Traces in files: whole or not at all, plain or compressed, and fast enough for the whole timeline of the seed."""

import gzip
import json
import subprocess
import sys
from decimal import Decimal

import pytest

import perfsim
from perfsim.serving.costs import RooflineCosts
from perfsim.serving.results import serve_requests
from perfsim.serving.run import Service
from perfsim.study import trace as trace_module
from tests.report.trace_format import by_phase, check_format, to_ps


@pytest.fixture(scope="module")
def tiny():
    """Give a result whose trace is short."""
    return perfsim.simulate(perfsim.load_scenario("seed-improved").with_(num_hidden_layers=2, tensor=2, batch_size=2))


def test_plain_and_compressed_are_the_same(tiny, tmp_path):
    """The name's ending decides."""
    plain = perfsim.write_trace(tiny, tmp_path / "trace.json")
    packed = perfsim.write_trace(tiny, str(tmp_path / "trace.json.gz"))
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert len(packed.read_bytes()) < len(plain.read_bytes()) / 5
    trace = json.loads(plain.read_bytes(), parse_float=Decimal)
    last = max(event["ts"] + event["dur"] for event in trace["traceEvents"] if event["ph"] == "X")
    assert last == Decimal(tiny.run.makespan_ps).scaleb(-6)
    assert trace["otherData"]["made_by"] == f"perfsim {perfsim.__version__}"
    assert "makespan" in trace["otherData"]["result"]


def test_the_same_trace_is_the_same_file(tiny, tmp_path):
    """No time of day, no name of a file."""
    first, second = (perfsim.write_trace(tiny, tmp_path / name).read_bytes() for name in ("a.json.gz", "b.json.gz"))
    assert first == second


def test_viewers_know_the_beginning(tiny, tmp_path):
    """Perfetto takes a file for JSON by its first characters."""
    assert perfsim.write_trace(tiny, tmp_path / "trace.json").read_bytes().startswith(b'{"traceEvents":[')


def test_a_file_is_replaced_and_folders_are_made(tiny, tmp_path):
    """What was there goes once the new one is whole."""
    path = tmp_path / "new" / "folder" / "trace.json"
    perfsim.write_trace(tiny, path)
    path.write_text("old")
    perfsim.write_trace(tiny, path)
    assert json.loads(path.read_bytes())["displayTimeUnit"] == "ns"
    assert [found.name for found in path.parent.iterdir()] == ["trace.json"]


@pytest.mark.parametrize("path", ["trace.gz", "trace", "trace.json.zip", "trace.JSON"])
def test_another_ending_is_refused(refused, tiny, tmp_path, path):
    """With a name that would do."""
    (fault,) = refused(perfsim.write_trace, tiny, tmp_path / path)
    assert fault.field == "write_trace.path"
    assert ".json or .json.gz" in fault.allowed
    assert not list(tmp_path.iterdir())


def test_all_that_is_wrong_comes_together(refused):
    """No result and no path."""
    faults = refused(perfsim.write_trace, "result", 7)
    assert [fault.field for fault in faults] == ["write_trace.result", "write_trace.path"]


def test_a_folder_or_a_file_in_the_way_is_refused(refused, tiny, tmp_path, contents):
    """And stays as it was."""
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "folder.json", tmp_path / "file" / "trace.json"):
        (fault,) = refused(perfsim.write_trace, tiny, path)
        assert fault.field == "path"
    assert contents(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_nothing_half_written_stays(tiny, tmp_path, monkeypatch, contents, name):
    """An error on the way leaves the old file and nothing else."""
    path = perfsim.write_trace(tiny, tmp_path / name)
    before = path.read_bytes()

    def fails(*_args):
        yield b"{"
        raise RuntimeError

    monkeypatch.setattr(trace_module, "trace_text", fails)
    with pytest.raises(RuntimeError):
        perfsim.write_trace(tiny, path)
    assert contents(tmp_path) == {name: before}


def test_a_full_disk_is_told_of(refused, tiny, tmp_path, monkeypatch, contents):
    """As a fault of the place, not as an error of the system."""

    def fills_up(*_args):
        yield b"{"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trace_module, "trace_text", fills_up)
    (fault,) = refused(perfsim.write_trace, tiny, tmp_path / "trace.json.gz")
    assert "No space left on device" in fault.allowed
    assert contents(tmp_path) == {}


@pytest.fixture(scope="module")
def served():
    """Give a served load whose trace is short."""
    traffic = perfsim.ClosedLoop(concurrency=4, prompt_tokens=500, output_tokens=20)
    return serve_requests(Service.of(RooflineCosts(), perfsim.Engine("vllm")), traffic.requests())


def test_a_served_load_is_written_too(served, tmp_path):
    """By the same rules, with the last token at the end."""
    plain = perfsim.write_trace(served, tmp_path / "trace.json")
    packed = perfsim.write_trace(served, tmp_path / "trace.json.gz")
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    trace = json.loads(plain.read_bytes(), parse_float=Decimal)
    events = by_phase(check_format(trace))["X"]
    assert max(to_ps(event["ts"] + event["dur"]) for event in events) == served.outcome.finish_ps.max()
    assert trace["otherData"]["result"] == str(served)


def test_nothing_half_written_stays_of_a_served_load(served, tmp_path, monkeypatch, contents):
    """As above."""
    path = perfsim.write_trace(served, tmp_path / "trace.json.gz")
    before = path.read_bytes()

    def fails(*_args):
        yield b"{"
        raise RuntimeError

    monkeypatch.setattr(trace_module, "serving_trace_text", fails)
    with pytest.raises(RuntimeError):
        perfsim.write_trace(served, path)
    assert contents(tmp_path) == {"trace.json.gz": before}


MEASURE = """
import resource, sys, time
import perfsim
result = perfsim.simulate(perfsim.load_scenario("seed-improved"), detail="full")
begin = time.process_time()
perfsim.write_trace(result, sys.argv[1])
print(time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


@pytest.mark.slow
def test_the_whole_timeline_of_the_seed(tmp_path):
    """1.6 million events of 16 GPUs and their counters: at most 15 s of one core, under 2 GiB, all valid JSON."""
    path = tmp_path / "seed.json.gz"
    output = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True).stdout
    took_s, most_gb = map(float, output.split())
    assert took_s < 15
    assert most_gb < 2 * 2**30 / 1e9
    counted = {}
    with gzip.open(path, "rt", encoding="ascii") as lines:
        for number, line in enumerate(lines):
            if number % 1000 == 1:
                json.loads(line.rstrip(",\n"))
            counted[line[7]] = counted.get(line[7], 0) + 1
    entries = 1552  # of one microbatch on all devices
    assert counted["X"] == entries * 1024
    assert counted["s"] == counted["f"] == (32 + 8) * 1024
