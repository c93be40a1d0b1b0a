"""A run as trace events, for Perfetto (https://ui.perfetto.dev) and ``chrome://tracing``.

The format is the JSON object format of the "Trace Event Format" (Google, 2016): complete events for executions, flow
events for what joins devices, counter events, and metadata for names. Its times are microseconds; picoseconds are six
decimals of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfsim.report.frames import shape_text, stream_name
from perfsim.report.lanes import Run
from perfsim.report.memory_report import Activations, memory_over_time_frame
from perfsim.report.number_text import Blank, Form
from perfsim.report.trace_events import (
    BEGIN,
    MICROSECOND,
    Text,
    counter_text,
    end_text,
    json_text,
    process_text,
    thread_text,
)
from perfsim.schedule.template import STREAMS, Template, make_template
from perfsim.units import PICOSECONDS_PER_SECOND

__all__ = ["trace_text"]

Integers = NDArray[np.int64]

_THREADS = (*STREAMS, "receive")


def trace_text(run: Run, activations: Sequence[Activations], about: Mapping[str, Any]) -> Iterator[Text]:
    """Write a run as trace events, piece by piece.

    Parameters
    ----------
    run : Run
    activations : sequence of Activations
        Of each slot.
    about : mapping
        Plain values that say where the trace comes from.

    Yields
    ------
    bytes or memoryview
        JSON in ASCII.
    """
    lanes = _Lanes(run)
    # The first event has no comma in front of it.
    yield BEGIN + _names(lanes).encode("ascii")[1:]
    yield from _executions(lanes)
    for slot in sorted(set(run.models)):
        pids = [
            device for other in range(len(run.models)) if run.models[other] == slot for device in run.devices_of(other)
        ]
        memory = memory_over_time_frame(run, activations[slot], slot)
        resident = int((memory["total_bytes"] - memory["activation_bytes"]).min()) if len(memory) else 0
        yield from counter_text(
            pids, activations[slot].time_ps, memory["total_bytes"], name="memory", series="bytes", first=resident
        )
        yield from counter_text(pids, *_flop_rate(run, slot), name="FLOP/s", series="flop_per_s")
    yield end_text(about)


@dataclass(frozen=True, eq=False)
class _Lanes:
    """Who carries out what: one entry for each device that takes part in a task of one microbatch."""

    run: Run

    @cached_property
    def template(self) -> Template:
        """Every device is a slot of its own here, so that the devices of a collective are those of one row."""
        template = self.run.program.template
        return template if template.devices_per_slot == 1 else make_template(template.graph, folded=False)

    @property
    def device(self) -> Integers:
        return self.template.entry_slot

    @property
    def operator(self) -> Integers:
        return self.template.entry_operator

    @cached_property
    def row(self) -> Integers:
        """Row of the run in which each entry has its times: that of the slot which stands for the device."""
        folded, count = self.run.program.template, len(self.run.operators)
        known = folded.entry_slot * count + folded.entry_operator
        order = np.argsort(known)
        wanted = self.device // folded.devices_per_slot * count + self.operator
        return folded.entry_row[order[np.searchsorted(known, wanted, sorter=order)]]

    @cached_property
    def thread(self) -> Integers:
        """Number of each entry's stream, from 1: viewers take thread 0 of process 0 for an idle one."""
        streams, operators = self.run.program.template.streams, self.run.operators
        names = [stream_name(operators[o], streams[r]) for o, r in zip(self.operator, self.row, strict=True)]
        return np.array([1 + _THREADS.index(name) for name in names])

    @cached_property
    def joined(self) -> list[list[int]]:
        """Entries of each task that joins several devices, those that receive last."""
        receives = np.array([operator.kind == "receive" for operator in self.run.operators])[self.operator]
        order = np.lexsort((self.device, receives, self.template.entry_row))
        bounds = np.flatnonzero(np.diff(self.template.entry_row[order])) + 1
        return [group.tolist() for group in np.split(order, bounds) if len(group) > 1]


def _names(lanes: _Lanes) -> str:
    """Metadata: what processes and threads are called, and their order."""
    lines = []
    stages = {device: operator.stage for operator in lanes.run.operators for device in operator.devices}
    for device in range(lanes.run.num_devices):
        lines.append(process_text(device, f"GPU {device}", f"stage {stages[device]}"))
        threads = np.unique(lanes.thread[lanes.device == device]).tolist()
        lines += [thread_text(device, thread, _THREADS[thread - 1]) for thread in threads]
    return "".join(lines)


def _executions(lanes: _Lanes) -> Iterator[Text]:
    """Complete events, and the flow events between those that are one task of several devices.

    All microbatches of one size have the same text but for their times and numbers.
    """
    run = lanes.run
    start_ps, length_ps = run.start_ps, run.end_ps - run.start_ps
    joined = [entry for group in lanes.joined for entry in group]
    time = Blank.of(1, run.makespan_ps, MICROSECOND)
    length = Blank.of(2, int(length_ps.max(initial=0)), MICROSECOND)
    number = Blank.of(3, len(start_ps))
    flow = Blank.of(4, len(start_ps) * max(1, len(lanes.joined)))
    of_flow = np.repeat(np.arange(len(lanes.joined)), [len(group) for group in lanes.joined])
    variant = run.program.variant
    for chosen in np.split(np.arange(len(variant)), np.flatnonzero(np.diff(variant)) + 1):
        text = _complete_events(lanes, int(variant[chosen[0]]), time, length, number)
        form = Form(text + _flow_events(lanes, time, flow))
        numbers = {
            time: start_ps[chosen][:, lanes.row[[*range(len(lanes.row)), *joined]]],
            length: length_ps[chosen][:, lanes.row],
            number: np.broadcast_to(chosen[:, None], (len(chosen), len(lanes.row))),
            flow: chosen[:, None] * len(lanes.joined) + of_flow,
        }
        yield from form.filled(numbers, len(chosen))


def _complete_events(lanes: _Lanes, variant: int, time: Blank, length: Blank, number: Blank) -> str:
    program = lanes.run.program
    bounds = {id(price): price.at(variant).bound for price in program.prices}
    described = []
    for operator, price in zip(program.graphs[program.graph_of[variant]], program.prices, strict=True):
        about = {
            "operator": operator.name,
            "shape": shape_text(operator),
            "flop": _whole(operator.work.flop),
            "bytes": _whole(operator.work.read_bytes + operator.work.written_bytes),
            "bound": bounds[id(price)],
        }
        described.append(
            f'"name":{json_text(operator.op)},"cat":"{operator.kind}","args":{{"microbatch":{number},{json_text(about)[1:]}'
        )
    return "".join(
        f',\n{{"ph":"X","pid":{device},"tid":{thread},"ts":{time},"dur":{length},{described[operator]}}}'
        for device, thread, operator in zip(
            lanes.device.tolist(), lanes.thread.tolist(), lanes.operator.tolist(), strict=True
        )
    )


def _whole(value: float) -> int | float:
    """A whole number without its decimal point."""
    return int(value) if value == int(value) else float(value)


def _flow_events(lanes: _Lanes, time: Blank, flow: Blank) -> str:
    """Arrows from the first device of a task to the last; each stands behind the event that it starts or ends in."""
    lines = []
    for group in lanes.joined:
        name = json_text(lanes.run.operators[lanes.operator[group[0]]].op)
        for phase, entry in zip(["s", *"t" * (len(group) - 2), "f"], group, strict=True):
            place = f'"pid":{lanes.device[entry]},"tid":{lanes.thread[entry]},"ts":{time}'
            binds = "" if phase == "s" else ',"bp":"e"'
            lines.append(f',\n{{"ph":"{phase}",{place},"id":{flow},"name":{name},"cat":"flow"{binds}}}')
    return "".join(lines)


def _flop_rate(run: Run, slot: int) -> tuple[Integers, Integers]:
    """Instants at which a device begins or ends matrix FLOP, and its FLOP/s from each to the next."""
    template, program = run.program.template, run.program
    flop = np.array([[float(o.work.flop) for o in graph] for graph in program.graphs])
    entries = run.entries(slot)
    entries = entries[flop[:, template.entry_operator[entries]].any(axis=0)]
    start, end = (times[:, template.entry_row[entries]].ravel() for times in (run.start_ps, run.end_ps))
    work = flop[np.array(program.graph_of)[program.variant]][:, template.entry_operator[entries]].ravel()
    runs = end > start
    start, end, work = start[runs], end[runs], work[runs]
    rate = np.rint(work * PICOSECONDS_PER_SECOND / (end - start)).astype(np.int64)
    time, change = np.concatenate([end, start]), np.concatenate([-rate, rate])
    order = np.argsort(time, kind="stable")
    time, total = time[order], np.cumsum(change[order])
    last = np.append(time[1:] != time[:-1], True)[: len(time)]
    return time[last], total[last]
