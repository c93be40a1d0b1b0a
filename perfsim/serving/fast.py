"""The fast engine: replicas as records, runs of alike decode steps as one event, all in compiled code.

A run of decodes lasts until something can change: a request ends, blocks run out, or a request arrives that the
replica could take; then the run is cut at the end of the step. The steps that it skips are summed one by one, which
takes some nanoseconds each, so that nothing is lost: with runs or without, times are the same to the picosecond.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perfsim.serving.deployment import Deployment
from perfsim.serving.event_heap import pop_event, push_event
from perfsim.serving.fast_batch import join, leave, wait_in_line
from perfsim.serving.fast_cache import publish, release, take
from perfsim.serving.fast_steps import cut, plan, start
from perfsim.serving.outcome import NEVER, Outcome
from perfsim.serving.policies import Engine
from perfsim.serving.requests import Requests
from perfsim.serving.tables import StepTables
from perfsim.serving.world import CROSSING, FIRST, NOBODY, PREFILLS, World, make_world
from perfsim.sim.jit import compiled
from perfsim.units import PICOSECONDS_PER_SECOND

# ruff: noqa: ANN001, ANN202, PLR0917 - Numba infers the types, and takes positional arguments
# mypy: disable-error-code="no-untyped-def"

__all__ = ["run_fast"]

_FIRST_LOG = 4096

DONE, MISSING, FULL, LATE = range(4)
"""Why the compiled loop came back: all is over, a table lacks an entry, the log is full, or time is up."""

_ROUND_ROBIN, _LEAST_LOADED, _PREFIX_AWARE = range(3)


def run_fast(
    requests: Requests, engines: Sequence[Engine], tables: StepTables, deployment: Deployment,
    limit_ps: int = NEVER, *, skip: bool = True, log: bool = False,
) -> Outcome:  # fmt: skip
    """Simulate a deployment in compiled code.

    Parameters
    ----------
    requests, engines, tables, deployment, limit_ps
        As for `perfsim.serving.events.run_events`.
    skip : bool
        Whether runs of alike decode steps are one event. Times are those of the SimPy engine to the bit either way.
    log : bool
        Whether steps are noted.

    Returns
    -------
    Outcome
    """
    layers = [costs.num_layers for costs in tables.costs]
    world = make_world(
        requests, engines, layers, tables.arrays, deployment, skip=skip, log_capacity=_FIRST_LOG * log,
        limit_ps=limit_ps,
    )  # fmt: skip
    while (reason := _advance(world)) not in {DONE, LATE}:
        if reason == MISSING:
            tables.fill_missing()
        else:
            world = world._replace(log=np.concatenate([world.log, np.zeros_like(world.log)]))
    return _outcome(world, log=log)


def _outcome(world: World, *, log: bool) -> Outcome:
    """Copy what happened out of the records, which hold much besides."""
    requests, replicas = world.stores.requests, world.replicas
    return Outcome(
        **{f"{name}_ps": requests[name].copy() for name in ("sent", "admitted", "first", "finish")},
        **{name: requests[name].copy() for name in ("replica", "prefill_replica", "preemptions")},
        cached_prompt_tokens=requests["cached_prompt"].copy(),
        busy_ps=replicas["busy"],
        prompt_busy_ps=replicas["prompt_busy"],
        steps=replicas["steps_all"],
        most_blocks=replicas["used_most"],
        log=world.log[: world.clock[0]["logged"]] if log else None,
    )


@compiled
def _advance(world):
    """Go from event to event. At the same time steps end first, then requests arrive, then steps begin."""
    clock, replicas, stores, events = world.clock[0], world.replicas, world.stores, world.events
    while True:
        for index in range(len(replicas)):
            me = replicas[index]
            if not me.under_way and not _begin(me, world.rules[me.pool], stores, world.tables, clock):
                return MISSING
        if clock.log and clock.logged + len(replicas) > len(world.log):
            return FULL
        now = _earliest_end(replicas, _next_arrival(clock, stores.requests, events))
        if now == NEVER:
            return DONE
        if now > clock.limit:
            return LATE
        clock.now = now
        for index in range(len(replicas)):
            me = replicas[index]
            if me.under_way and me.end == now:
                _end(me, world.rules[me.pool], stores, clock, events)
                _write_log(me, clock, world.log)
        while _next_arrival(clock, stores.requests, events) == now:
            number = _pop_arrival(clock, stores.requests, events)
            me = replicas[_route(clock, replicas, world.homes, stores.requests[number])]
            _arrive(me, world.rules[me.pool], stores.requests, world.tables, number, now)


@compiled
def _begin(me, rules, stores, tables, clock):
    """Plan a step unless one is planned, and begin it; False when the tables lack an entry."""
    if not me.planned:
        me.planned = plan(me, rules, stores, clock.now)
    return not me.planned or start(me, rules, stores, tables, clock.now, clock.skip)


@compiled
def _earliest_end(replicas, time):
    """The end of a step under way, if there is one before a time."""
    for index in range(len(replicas)):
        if replicas[index].under_way:
            time = min(time, replicas[index].end)
    return time


@compiled
def _next_arrival(clock, requests, events):
    time = NEVER
    if clock.arriving < clock.first_later:
        time = requests[clock.arriving].sent + clock.request_ps
    if clock.events > 0:
        time = min(time, events[0].time)
    return time


@compiled
def _pop_arrival(clock, requests, events):
    """Take the request that arrives now."""
    number = clock.arriving
    if number < clock.first_later and requests[number].sent + clock.request_ps == clock.now:
        clock.arriving += 1
        return number
    return pop_event(clock, events)


@compiled
def _arrive(me, rules, requests, tables, number, now):
    """Let a request wait at a replica, whose run ends early if the request can enter."""
    could_enter = me.head == NOBODY or me.holding
    wait_in_line(me, requests, number)
    requests[number].replica = me.index
    me.load += 1
    if me.under_way and me.steps > 1 and could_enter and not me.closed and me.running < rules.max_sequences:
        cut(me, rules, tables, now)


@compiled
def _route(clock, replicas, homes, request):
    """Choose the replica for a request."""
    moved = request.ready > 0
    first, end = (clock.first_decoder, len(replicas)) if moved else (0, clock.first_decoder)
    if end == 0:
        end = len(replicas)
    if clock.router == _ROUND_ROBIN:
        turn = clock.decode_turn if moved else clock.turn
        clock.decode_turn += moved
        clock.turn += not moved
        return first + turn % (end - first)
    least = first
    for index in range(first + 1, end):
        if replicas[index].load < replicas[least].load:
            least = index
    if clock.router == _PREFIX_AWARE and not moved and request.prefix != NOBODY:
        home = homes[request.prefix]
        if home != NOBODY and replicas[home].load <= replicas[least].load + clock.spill:
            return home
        homes[request.prefix] = least
    return least


@compiled
def _end(me, rules, stores, clock, events):
    """Close a step or run: tokens are out, requests end, prompts become decodes."""
    duration = me.end - me.start
    me.under_way = False
    me.busy += duration
    me.steps_all += me.steps
    if me.chunks:
        me.prompt_busy += duration
    if me.sequences:
        _advance_decodes(me, rules, stores)
    me.ran, me.used = me.running, rules.blocks - me.free - me.evictable
    me.used_most = max(me.used_most, me.used)
    if me.sequences:
        slot = me.steps_done & (stores.calendar.shape[2] - 1)
        while stores.calendar[me.index, FIRST, slot] != NOBODY:
            number = stores.calendar[me.index, FIRST, slot]
            cached = leave(me, rules, stores, number)
            release(me, rules, stores.prefixes, stores.requests[number], cached)
            _finish(me, stores.requests, number, clock, events)
    for position in range(me.chunks):
        number = stores.chunks[me.index, position].request
        if number != me.partial:
            _first_token(me, rules, stores, number, clock, events)


@compiled
def _advance_decodes(me, rules, stores):
    """Give every decode the tokens of the run, and take the blocks that its later steps needed."""
    if me.holding:
        me.held += me.steps
    if me.steps > 1 and not rules.full:
        need = 0
        for step in range(1, me.steps):
            need += stores.calendar[me.index, CROSSING, (me.steps_done + step) % rules.block]
        take(me, stores.prefixes, need)
    me.steps_done += me.steps
    me.cached += me.steps * me.running


@compiled
def _first_token(me, rules, stores, number, clock, events):
    """A prompt is computed and gives a token: the request ends, decodes, or moves to another replica."""
    request = stores.requests[number]
    publish(me, rules, stores.prefixes, request)
    request.generated += 1
    if request.first < 0:
        request.first = clock.now
    if request.generated == request.output:
        release(me, rules, stores.prefixes, request, request.target)
        _finish(me, stores.requests, number, clock, events)
    elif rules.role == PREFILLS:
        release(me, rules, stores.prefixes, request, request.target)
        me.load -= 1
        request.prefill_replica = me.index
        request.ready = request.target
        push_event(clock, events, clock.now + clock.latency_ps + clock.token_ps * request.target, number)
    else:
        join(me, rules, stores, number, request.target)


@compiled
def _finish(me, requests, number, clock, events):
    """A request has all its tokens; in a closed loop its client sends the next one."""
    me.load -= 1
    requests[number].finish = clock.now
    clock.finished += 1
    if clock.later < len(requests):
        requests[clock.later].sent = clock.now
        push_event(clock, events, clock.now + clock.request_ps, clock.later)
        clock.later += 1


@compiled
def _write_log(me, clock, log):
    """Note a step that is over, where a log is kept."""
    if not clock.log:
        return
    row = log[clock.logged]
    row.replica, row.start, row.end, row.steps = me.index, me.start, me.end, me.steps
    row.sequences, row.context, row.chunks, row.tokens = me.sequences, me.context, me.chunks, me.tokens
    row.waiting, row.used_blocks, row.running = me.waiting, me.used, me.ran
    row.started, row.moving = me.started, int(np.rint(me.extra_s * PICOSECONDS_PER_SECOND))
    clock.logged += 1
