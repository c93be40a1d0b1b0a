"""What is asked of every trace.

Written from "Trace Event Format" (Google, 2016), for the kinds of events that a trace of perfsim has.
"""

from collections import Counter, defaultdict
from decimal import Decimal
from itertools import pairwise

REQUIRED = {
    "X": {"ph", "pid", "tid", "ts", "dur", "name", "cat", "args"},
    "M": {"ph", "pid", "name", "args"},
    "C": {"ph", "pid", "ts", "name", "args"},
    "s": {"ph", "pid", "tid", "ts", "id", "name", "cat"},
    "t": {"ph", "pid", "tid", "ts", "id", "name", "cat", "bp"},
    "f": {"ph", "pid", "tid", "ts", "id", "name", "cat", "bp"},
}
METADATA = {
    "process_name": {"name": str},
    "process_labels": {"labels": str},
    "process_sort_index": {"sort_index": int},
    "thread_name": {"name": str},
    "thread_sort_index": {"sort_index": int},
}


def by_phase(events):
    """Give the events by their phase."""
    found = defaultdict(list)
    for event in events:
        found[event["ph"]].append(event)
    return found


def to_ps(microseconds):
    """Give whole picoseconds; more than six decimals would not be."""
    ps = Decimal(microseconds).scaleb(6)
    assert ps == ps.to_integral_value()
    return int(ps)


def check_format(trace):
    """Check a trace against the format, and give its events."""
    assert set(trace) <= {"traceEvents", "displayTimeUnit", "otherData", "systemTraceEvents", "stackFrames", "samples"}
    assert trace["displayTimeUnit"] in {"ms", "ns"}
    for event in trace["traceEvents"]:
        assert event["ph"] in REQUIRED, event
        assert event.keys() == REQUIRED[event["ph"]] | ({"tid"} if event["name"].startswith("thread_") else set())
        assert type(event["pid"]) is int
        assert type(event.get("tid", 0)) is int
        for name in ("ts", "dur"):
            assert event.get(name, 0) >= 0
        if event["ph"] == "M":
            wanted = METADATA[event["name"]]
            assert {name: type(value) for name, value in event["args"].items()} == wanted
        if event["ph"] == "C":
            assert all(isinstance(value, int | float | Decimal) for value in event["args"].values())
            assert event["args"]
    check_nesting(trace["traceEvents"])
    check_flows(trace["traceEvents"])
    check_names(trace["traceEvents"])
    return trace["traceEvents"]


def check_nesting(events):
    """Check that events of a thread lie inside each other or apart, as calls of functions do."""
    threads = defaultdict(list)
    for event in by_phase(events)["X"]:
        threads[event["pid"], event["tid"]].append((event["ts"], -event["dur"]))
    for slices in threads.values():
        open_until = []
        for start, negative in sorted(slices):
            end = start - negative
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)


def check_flows(events):
    """Check that each flow has one start and one end, steps between them, and lies inside of events."""
    inside = defaultdict(set)
    for event in by_phase(events)["X"]:
        inside[event["pid"], event["tid"]].add((event["ts"], event["dur"]))
    starts = {place: {start for start, _ in slices} for place, slices in inside.items()}
    flows = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            flows[event["cat"], event["name"], event["id"]].append(event)
            assert event.get("bp", "e") == "e"
            assert event["ts"] in starts[event["pid"], event["tid"]]
    assert len({flow[2] for flow in flows}) == len(flows)
    for steps in flows.values():
        assert "".join(event["ph"] for event in steps) == "s" + "t" * (len(steps) - 2) + "f"
        assert all(earlier["ts"] <= later["ts"] for earlier, later in pairwise(steps))


def check_names(events):
    """Check that every process and thread with events has one name and one place."""
    named = Counter((e["name"], e["pid"], e.get("tid")) for e in by_phase(events)["M"])
    assert set(named.values()) <= {1}
    for event in events:
        assert named["process_name", event["pid"], None] == 1
        assert named["process_sort_index", event["pid"], None] == 1
        if "tid" in event:
            assert named["thread_name", event["pid"], event["tid"]] == 1
