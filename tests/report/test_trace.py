"""Traces: valid by the published format, with exactly the simulated times."""

import dataclasses
import json
from collections import Counter, defaultdict
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.cost.estimate import Cost
from perfsim.report.lanes import Run
from perfsim.report.trace import trace_text
from perfsim.sim.compiled import run_compiled
from perfsim.sim.timeline import Timeline
from tests.report.trace_format import by_phase, check_format, to_ps

GOLDEN = Path(__file__).parent / "golden" / "small-trace.json"


def text_of(result):
    """Give the text of a result's trace."""
    return b"".join(trace_text(result.run, result.activations, {"made_by": "a test"})).decode("ascii")


def events_of(result):
    """Give the events of a result's trace, with their numbers as they are written."""
    return json.loads(text_of(result), parse_float=Decimal)["traceEvents"]


@pytest.fixture(scope="module")
def small():
    """Give a small result of every kind of event: two GPUs a stage, two stages, a ragged last microbatch."""
    scenario = perfsim.load_scenario("seed-improved")
    return perfsim.simulate(scenario.with_(num_hidden_layers=2, tensor=2, batch_size=5, microbatch_size=2))


@settings(max_examples=25)
@given(data=st.data())
def test_any_trace_is_valid_and_exact(data, small_results):
    """Every execution of the timeline is there once, at its time to the picosecond, with what it does."""
    result = data.draw(small_results)
    events = check_format(json.loads(text_of(result), parse_float=Decimal))
    run, template = result.run, result.run.program.template
    threads = {
        (event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"
    }
    found = Counter(
        (
            event["pid"], event["args"]["operator"], event["args"]["microbatch"], to_ps(event["ts"]),
            to_ps(event["dur"]), threads[event["pid"], event["tid"]],
        )
        for event in by_phase(events)["X"]
    )  # fmt: skip
    wanted = Counter()
    rows = result.timeline.assign(layer=result.timeline["layer"].fillna(-1))
    streams = rows.set_index(["device", "op", "layer", "microbatch"])["stream"].to_dict()
    layers = {o.name: -1 if o.layer is None else o.layer for o in run.operators}
    for slot, row, index in zip(template.entry_slot, template.entry_row, template.entry_operator, strict=True):
        operator = run.operators[index]
        for device in run.devices_of(int(slot)):
            for number in range(len(run.end_ps)):
                start, end = int(run.start_ps[number, row]), int(run.end_ps[number, row])
                stream = streams[device, operator.op, layers[operator.name], number]
                wanted[device, operator.name, number, start, end - start, stream] += 1
    assert found == wanted


@settings(max_examples=15)
@given(data=st.data())
def test_folded_and_full_have_the_same_trace(data, small_scenarios):
    """To the byte: devices that do the same are written out either way."""
    scenario = data.draw(small_scenarios)
    folded, full = (text_of(perfsim.simulate(scenario, detail=detail)) for detail in ("folded", "full"))
    assert folded == full


def test_events_say_what_the_table_of_operators_says(small):
    """Shapes, FLOP, bytes and bound, for the size of their own microbatch."""
    sizes = small.scenario.microbatch_sizes
    for event in by_phase(events_of(small))["X"]:
        args = event["args"]
        row = small.operators.loc[args["operator"], sizes[args["microbatch"]]]
        assert (event["name"], args["shape"], args["bound"]) == (row["op"], row["shape"], row["bound"])
        assert (args["flop"], args["bytes"]) == (row["flop"], row["bytes"])
        assert event["cat"] in {row["kind"], "receive"}


def test_arrows_join_the_devices_of_a_task(small):
    """A collective those of its group, a send the sender and the receiver; each is one task with one time."""
    events = by_phase(events_of(small))
    flows = defaultdict(list)
    for event in sorted(events["s"] + events["t"] + events["f"], key=lambda e: "stf".index(e["ph"])):
        flows[event["id"]].append(event)
    groups = Counter((flow[0]["name"], tuple(event["pid"] for event in flow)) for flow in flows.values())
    microbatches = small.scenario.num_microbatches
    assert groups == {
        ("attention_all_reduce", (0, 1)): microbatches,
        ("attention_all_reduce", (2, 3)): microbatches,
        ("mlp_all_reduce", (0, 1)): microbatches,
        ("mlp_all_reduce", (2, 3)): microbatches,
        ("send", (0, 2)): microbatches,
        ("send", (1, 3)): microbatches,
    }
    assert all(len({event["ts"] for event in flow}) == 1 for flow in flows.values())


def test_replicas_have_collectives_of_their_own(improved):
    """Two groups of two in a stage are two flows, also where one slot stands for all four."""
    result = perfsim.simulate(improved.with_(num_hidden_layers=1, tensor=2, pipeline=1, data=2, batch_size=2))
    events = by_phase(events_of(result))
    pairs = Counter((a["pid"], b["pid"]) for a in events["s"] for b in events["f"] if a["id"] == b["id"])
    assert pairs == {(0, 1): 2, (2, 3): 2}


def test_an_arrow_over_a_larger_group_passes_every_device(improved):
    """Start, steps, end."""
    result = perfsim.simulate(improved.with_(num_hidden_layers=1, tensor=4, pipeline=1, batch_size=1))
    events = by_phase(events_of(result))
    flow = sorted(events["s"] + events["t"] + events["f"], key=lambda event: event["id"])[:4]
    assert [(event["ph"], event["pid"]) for event in flow] == [("s", 0), ("t", 1), ("t", 2), ("f", 3)]


def counter(events, name, pid):
    """Give the instants and values of a counter of one GPU."""
    own = [event for event in by_phase(events)["C"] if (event["name"], event["pid"]) == (name, pid)]
    return [to_ps(event["ts"]) for event in own], [next(iter(event["args"].values())) for event in own]


def test_the_memory_counter_is_memory_over_time(small):
    """Of every GPU, from the beginning on."""
    events = events_of(small)
    for device in range(4):
        times, values = counter(events, "memory", device)
        table = small.memory_over_time(device)
        assert times[0] == 0
        assert times[-len(table) :] == np.rint(table["time_s"] * 1e12).astype(int).tolist()
        assert values[-len(table) :] == table["total_bytes"].tolist()
        assert max(values) == small.memory.loc[device, "peak_bytes"]
        assert values[0] >= small.memory.loc[device, "weights_bytes"]


def test_the_flop_counter_adds_up_to_the_flop(small):
    """FLOP/s times seconds is what the devices compute; it begins and ends at 0 and never falls below."""
    events = events_of(small)
    computed = 0
    for device in range(4):
        times, values = counter(events, "FLOP/s", device)
        assert (times[0], values[-1]) == (0, 0)
        assert min(values) == 0
        assert all(earlier < later for earlier, later in pairwise(times))
        computed += sum(value * (after - now) for value, (now, after) in zip(values[:-1], pairwise(times), strict=True))
    table = small.operators
    executed = table["flop"] * table["executions"]
    assert computed / 1e12 == pytest.approx(executed.sum(), rel=1e-9)
    busiest = (table["flop"] / table["seconds"]).max()
    assert max(counter(events, "FLOP/s", 0)[1]) == pytest.approx(busiest, rel=1e-6)


def test_a_disturbed_run_keeps_its_own_times(improved):
    """Each rank has other times; the trace has them."""
    conditions = perfsim.Conditions(slowdowns=(perfsim.Slowdown(device=1, factor=1.5),), jitter=0.1)
    result = perfsim.simulate(
        improved.with_(num_hidden_layers=2, tensor=2, batch_size=3),
        engine="simpy",
        detail="full",
        conditions=conditions,
    )
    events = check_format(json.loads(text_of(result), parse_float=Decimal))
    ends = [to_ps(event["ts"] + event["dur"]) for event in by_phase(events)["X"]]
    assert max(ends) == result.run.makespan_ps
    lengths = {e["pid"]: e["dur"] for e in by_phase(events)["X"] if e["name"] == "qkv_proj" and e["pid"] < 2}
    assert lengths[0] != lengths[1]


@pytest.fixture
def plain(improved):
    """Give a small result whose operators take round times, so that no library's last digit shows in its trace."""
    result = perfsim.simulate(improved.with_(num_hidden_layers=2, tensor=2, batch_size=3, microbatch_size=2))
    program, round_s = result.run.program, {"matmul": 5e-6, "attention": 7.000001e-6, "collective": 2e-6}
    prices = tuple(
        Cost(seconds=np.array([2.0, 1.0]) * round_s.get(operator.kind, 1e-6)) if np.any(price.seconds) else price
        for operator, price in zip(program.graphs[0], program.prices, strict=True)
    )
    program = dataclasses.replace(program, prices=prices)
    graph = program.task_graph
    return perfsim.Result(result.scenario, Run(program, Timeline(graph, run_compiled(graph))))


def test_golden(plain):
    """The text is what it was; where it is not, a .new file stands beside the golden one."""
    text = text_of(plain)
    check_format(json.loads(text, parse_float=Decimal))
    if not GOLDEN.is_file() or GOLDEN.read_text(encoding="utf-8") != text:
        fresh = GOLDEN.with_name(f"{GOLDEN.name}.new")
        fresh.write_text(text, encoding="utf-8")
        pytest.fail(f"{fresh} differs from {GOLDEN}: look at both, and rename the new one if it is right")


def overlap(events):
    """Let the first execution end a picosecond after the next one on its stream has begun."""
    first = by_phase(events)["X"][0]
    first["dur"] += Decimal("0.000001")


@pytest.mark.parametrize(
    ("damage", "broken"),
    [
        (lambda events: events[-1].update(ph="Z"), "phase"),
        (lambda events: by_phase(events)["X"][3].pop("dur"), "field"),
        (lambda events: by_phase(events)["X"][3].update(dur=Decimal(-1)), "negative"),
        (overlap, "nesting"),
        (lambda events: by_phase(events)["f"][0].update(id=10**6), "pair"),
        (lambda events: by_phase(events)["s"][0].update(ts=Decimal("0.5")), "place"),
        (lambda events: events.remove(by_phase(events)["M"][0]), "name"),
        (lambda events: by_phase(events)["C"][0]["args"].update(bytes="many"), "counter"),
    ],
)
def test_the_check_of_the_format_can_fail(small, damage, broken):
    """Each rule of the format is missed where it is broken."""
    trace = json.loads(text_of(small), parse_float=Decimal)
    check_format(trace)
    damage(trace["traceEvents"])
    with pytest.raises((AssertionError, KeyError)):
        check_format(trace)
