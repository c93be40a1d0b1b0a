"""A served load as trace events, for Perfetto (https://ui.perfetto.dev) and ``chrome://tracing``.

The format is that of `perfsim.report.trace`. A process is a replica. Its first thread has the steps; each of the others
is a lane in which requests follow each other, with their phases inside of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfsim.report.number_text import Blank, Form
from perfsim.report.trace_events import (
    BEGIN,
    MICROSECOND,
    Text,
    counter_text,
    end_text,
    process_text,
    thread_text,
)
from perfsim.serving.frames import host_ps
from perfsim.serving.outcome import Outcome
from perfsim.serving.requests import Requests
from perfsim.serving.run import Service
from perfsim.units import PICOSECONDS_PER_SECOND

__all__ = ["serving_trace_text"]

Integers = NDArray[np.int64]

_STEPS = 1
"""Thread of the steps; viewers take thread 0 of process 0 for an idle one."""
_SHARE = 4  # decimals of a share


def serving_trace_text(
    service: Service, requests: Requests, outcome: Outcome, log: NDArray[Any], about: Mapping[str, Any]
) -> Iterator[Text]:
    """Write a served load as trace events, piece by piece.

    Parameters
    ----------
    service : Service
    requests : Requests
    outcome : Outcome
    log : records
        Of the steps; see `perfsim.serving.world.STEP`.
    about : mapping
        Plain values that say where the trace comes from.

    Yields
    ------
    bytes or memoryview
        JSON in ASCII.
    """
    until_ps = int(max(log["end"].max(initial=0), outcome.sent_ps.max(), outcome.finish_ps.max()))
    stays = _stays(service, requests, outcome, until_ps)
    # The first event has no comma in front of it.
    yield BEGIN + _names(service, stays).encode("ascii")[1:]
    yield from _steps(log, service, until_ps)
    yield from _slices(stays, requests, outcome, until_ps)
    yield from _arrows(stays, outcome, until_ps)
    for replica in range(len(outcome.steps)):
        yield from _counters(log[log["replica"] == replica], replica)
    yield end_text(about)


@dataclass(frozen=True, eq=False)
class _Stays:
    """Where requests are, and when: one entry a request, or two where its prompt is computed elsewhere.

    Attributes
    ----------
    request, replica : ndarray of int, shape (stays,)
    came : ndarray of bool, shape (stays,)
        Whether its cache comes from another replica.
    phase_ps : ndarray of int, shape (4, stays)
        When its phases begin, and the end of the last one; phases that it does not have take no time.
    lane : ndarray of int, shape (stays,)
        Thread, from 2 on.
    """

    request: Integers
    replica: Integers
    came: NDArray[np.bool_]
    phase_ps: Integers
    lane: Integers


_PHASES = {False: ("queued", "prefill", "decode"), True: ("transfer", "decode", "")}
"""Of a request that comes from its client, and of one whose cache comes from another replica."""


def _stays(service: Service, requests: Requests, outcome: Outcome, until_ps: int) -> _Stays:
    """Find where each request was and when; what has not ended lasts until the end of the trace."""
    deployment = service.engine_deployment
    sent = np.flatnonzero((outcome.sent_ps >= 0) & (outcome.replica >= 0))
    admitted, first, finish = (
        np.where(times[sent] >= 0, times[sent], until_ps)
        for times in (outcome.admitted_ps, outcome.first_ps, outcome.finish_ps)
    )
    moved = outcome.prefill_replica[sent] >= 0
    own = np.stack([outcome.sent_ps[sent], admitted, first, np.where(moved, first, finish)])
    # A cache that is on its way when the simulation stops has not come anywhere.
    came = np.flatnonzero(moved & (outcome.replica[sent] >= deployment.prefill_replicas))
    latency_s = deployment.transfer_latency_s, deployment.transfer_token_s
    latency_ps, token_ps = (round(each * PICOSECONDS_PER_SECOND) for each in latency_s)
    arrival = first[came] + latency_ps + token_ps * requests.prompt_tokens[sent[came]]
    second = np.stack([first[came], arrival, finish[came], finish[came]])
    phase_ps = np.concatenate([own, second], axis=1)
    replica = np.concatenate([
        np.where(moved, outcome.prefill_replica[sent], outcome.replica[sent]), outcome.replica[sent[came]],
    ])  # fmt: skip
    return _Stays(
        request=np.concatenate([sent, sent[came]]),
        replica=replica,
        came=np.arange(phase_ps.shape[1]) >= len(sent),
        phase_ps=phase_ps,
        lane=_lanes(replica, phase_ps[0], phase_ps[-1]),
    )


def _lanes(replica: Integers, start_ps: Integers, end_ps: Integers) -> Integers:
    """Give each stay the first lane of its replica that is free."""
    lane = np.zeros(len(replica), np.int64)
    order = np.lexsort((start_ps, replica))
    starts, ends = start_ps.tolist(), end_ps.tolist()
    for group in np.split(order, np.flatnonzero(np.diff(replica[order])) + 1):
        free: list[int] = []
        taken: list[tuple[int, int]] = []
        for stay in group.tolist():
            while taken and taken[0][0] <= starts[stay]:
                heapq.heappush(free, heapq.heappop(taken)[1])
            own = heapq.heappop(free) if free else _STEPS + 1 + len(taken)
            lane[stay] = own
            heapq.heappush(taken, (ends[stay], own))
    return lane


def _names(service: Service, stays: _Stays) -> str:
    """Metadata: what processes and threads are called, and their order."""
    deployment, lines = service.engine_deployment, []
    for replica in range(deployment.prefill_replicas + deployment.replicas):
        pool = "prefill" if replica < deployment.prefill_replicas else "decode" if deployment.pools > 1 else "both"
        engine = service.engines[0 if pool == "prefill" else -1]
        labels = engine.policy if pool == "both" else f"{engine.policy}, {pool}"
        lines.append(process_text(replica, service.engine_name(replica), labels))
        lines.append(thread_text(replica, _STEPS, "steps"))
        lanes = stays.lane[stays.replica == replica].max(initial=_STEPS)
        lines += [thread_text(replica, lane, f"requests {lane - _STEPS}") for lane in range(_STEPS + 1, lanes + 1)]
    return "".join(lines)


def _steps(log: NDArray[Any], service: Service, until_ps: int) -> Iterator[Text]:
    """Write the steps, called by what they hold."""
    host = host_ps(log, service)
    length = log["end"] - log["start"]
    fields = ("steps", "decodes", "context_tokens", "prompts", "prompt_tokens")
    columns = np.stack([log[name] for name in ("steps", "sequences", "context", "chunks", "tokens")], axis=1)
    place, time = Blank.of(1, int(log["replica"].max(initial=0))), Blank.of(2, until_ps, MICROSECOND)
    took = Blank.of(3, int(length.max(initial=0)), MICROSECOND)
    count, share = Blank.of(4, int(columns.max(initial=0))), Blank.of(5, 10**_SHARE, _SHARE)
    args = ",".join(f'"{field}":{count}' for field in fields)
    kinds = {"decode": log["chunks"] == 0, "prefill": log["sequences"] == 0}
    for name, chosen in {**kinds, "mixed": ~(kinds["decode"] | kinds["prefill"])}.items():
        form = Form(
            f',\n{{"ph":"X","pid":{place},"tid":{_STEPS},"ts":{time},"dur":{took},"name":"{name}","cat":"step",'
            f'"args":{{{args},"host_us":{took},"host_share":{share}}}}}'
        )
        shares = np.rint(10**_SHARE * host[chosen] / length[chosen]).astype(np.int64)
        numbers = {
            place: log["replica"][chosen][:, None],
            time: log["start"][chosen][:, None],
            took: np.stack([length[chosen], host[chosen]], axis=1),
            count: columns[chosen],
            share: shares[:, None],
        }
        yield from form.filled(numbers, int(chosen.sum()))


def _slices(stays: _Stays, requests: Requests, outcome: Outcome, until_ps: int) -> Iterator[Text]:
    """Write requests, and inside of each its phases."""
    about = {
        "request": np.arange(len(requests)),
        "prompt_tokens": requests.prompt_tokens,
        "output_tokens": requests.output_tokens,
        "cached_tokens": outcome.cached_prompt_tokens,
        "preemptions": outcome.preemptions,
    }
    columns = np.stack(list(about.values()), axis=1)
    place, time = _Place.of(stays), Blank.of(3, until_ps, MICROSECOND)
    count = Blank.of(4, int(columns.max()))
    args = ",".join(f'"{name}":{count}' for name in about)
    for came, phases in _PHASES.items():
        for number, name in enumerate(("request", *phases)):
            ends = (0, 3) if number == 0 else (number - 1, number)
            start, end = stays.phase_ps[ends[0]], stays.phase_ps[ends[1]]
            chosen = np.flatnonzero((stays.came == came) & (end > start))
            form = Form(
                f',\n{{"ph":"X",{place.text},"ts":{time},"dur":{time},"name":"{name}","cat":"request","args":{{{args}}}}}'
            )
            times = np.stack([start, end - start], axis=1)[chosen]
            numbers = {**place.numbers(stays, chosen), time: times, count: columns[stays.request[chosen]]}
            yield from form.filled(numbers, len(chosen))


def _arrows(stays: _Stays, outcome: Outcome, until_ps: int) -> Iterator[Text]:
    """Write flows from where prompts are computed to where they decode; each stands behind what it joins."""
    to = np.flatnonzero(stays.came)
    first_of = np.zeros(len(outcome.sent_ps), np.int64)
    first_of[stays.request[~stays.came]] = np.flatnonzero(~stays.came)
    place, time, number = _Place.of(stays), Blank.of(3, until_ps, MICROSECOND), Blank.of(4, len(first_of))
    about = f'"id":{number},"name":"KV transfer","cat":"flow"'
    for phase, binds, chosen, begin in (("s", "", first_of[stays.request[to]], 1), ("f", ',"bp":"e"', to, 0)):
        form = Form(f',\n{{"ph":"{phase}",{place.text},"ts":{time},{about}{binds}}}')
        times = stays.phase_ps[begin][chosen][:, None]
        numbers = {**place.numbers(stays, chosen), time: times, number: stays.request[chosen][:, None]}
        yield from form.filled(numbers, len(chosen))


@dataclass(frozen=True)
class _Place:
    """Blanks for the process and the thread of a stay."""

    process: Blank
    thread: Blank

    @classmethod
    def of(cls, stays: _Stays) -> _Place:
        return cls(Blank.of(1, int(stays.replica.max(initial=0))), Blank.of(2, int(stays.lane.max(initial=0))))

    @property
    def text(self) -> str:
        return f'"pid":{self.process},"tid":{self.thread}'

    def numbers(self, stays: _Stays, chosen: Integers) -> dict[Blank, Integers]:
        return {self.process: stays.replica[chosen][:, None], self.thread: stays.lane[chosen][:, None]}


def _counters(log: NDArray[Any], replica: int) -> Iterator[Text]:
    """Write what a replica holds and how fast it is, step by step; nothing while it has nothing to do."""
    log = log[np.argsort(log["start"])]
    length = log["end"] - log["start"]

    def rate(tokens: Integers) -> Integers:
        return np.rint(tokens * (PICOSECONDS_PER_SECOND / length)).astype(np.int64)

    held = {
        ("KV blocks", "blocks"): log["used_blocks"],
        ("running requests", "requests"): log["running"],
        ("decode tokens/s", "tokens_per_s"): rate(log["steps"] * log["sequences"]),
        ("prompt tokens/s", "tokens_per_s"): rate(log["tokens"]),
    }
    idle = np.append(log["start"][1:] > log["end"][:-1], True)[: len(log)]
    for (name, series), values in held.items():
        times = np.append(log["start"], log["end"][idle])
        order = np.argsort(times, kind="stable")
        numbers = np.append(values, np.zeros(idle.sum(), np.int64))[order]
        yield from counter_text([replica], times[order], numbers, name=name, series=series)
    yield from counter_text([replica], log["end"], log["waiting"], name="waiting requests", series="requests")
