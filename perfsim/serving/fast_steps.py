"""Compiled: what a replica does next, how long it takes, and what follows when it ends.

The policy is that of `perfsim.serving.scheduler`, in the same order; the events module says why it is as it is.
"""

from __future__ import annotations

import math

from perfsim.serving.fast_batch import join, pop_waiting, preempt
from perfsim.serving.fast_cache import acquire, blocks_held, shareable, take
from perfsim.serving.outcome import NEVER
from perfsim.serving.step_time import decode_run, decode_seconds, step_seconds, to_ps
from perfsim.serving.world import CROSSING, FIRST, NOBODY
from perfsim.sim.jit import compiled

# ruff: noqa: ANN001, ANN201, ANN202, PLR0917 - Numba infers the types, and takes positional arguments
# mypy: disable-error-code="no-untyped-def"

__all__ = ["cut", "plan", "start"]


@compiled
def plan(me, rules, stores, now):
    """Compose the next step; False when there is nothing to do."""
    me.extra_s = 0.0
    _compose(me, rules, stores, now)
    if me.chunks == 0 and me.sequences == 0 and me.preempted:
        _compose(me, rules, stores, now)  # the last one that ran has just made room for itself
    return me.chunks > 0 or me.sequences > 0


@compiled
def _compose(me, rules, stores, now):
    """Choose the decodes and the chunks of a step."""
    me.chunks = me.tokens = me.started = me.ended = me.sequences = 0
    me.preempted = me.holding = False
    if me.running == 0 and me.partial == NOBODY:
        me.closed = False
        if me.head == NOBODY:
            return
    if rules.mixed:
        _make_room(me, rules, stores)
        _take_prompts(me, rules, stores, now, rules.token_budget - me.running)
    else:
        _take_prompts(me, rules, stores, now, rules.token_budget)
        if me.chunks == 0:
            _make_room(me, rules, stores)
    me.sequences = me.running if rules.mixed or me.chunks == 0 else 0
    me.context = me.cached + me.sequences if me.sequences else 0
    if me.chunks == 0:
        me.closed = rules.static


@compiled
def _make_room(me, rules, stores):
    """Take the blocks that the next token of each decode needs, preempting while there are too few."""
    if rules.full:
        return
    need = stores.calendar[me.index, CROSSING, me.steps_done % rules.block]
    while need > me.free + me.evictable:
        preempt(me, rules, stores)
        need = stores.calendar[me.index, CROSSING, me.steps_done % rules.block]
    take(me, stores.prefixes, need)


@compiled
def _take_prompts(me, rules, stores, now, budget):
    """Fill the step with chunks of prompts: first of the one that is begun, then of those that wait."""
    if me.partial != NOBODY:
        if budget <= 0:
            return
        budget -= _add_chunk(me, rules, stores, me.partial, budget)
    if me.partial != NOBODY or me.preempted or me.closed or me.head == NOBODY:
        return
    if rules.wait_steps and me.running and me.chunks == 0 and _holds(me, rules, stores, budget):
        me.holding = True
        return
    while me.head != NOBODY and budget > 0 and me.running + me.chunks < rules.max_sequences:
        request = stores.requests[me.head]
        if request.ready:
            if not _bring_back(me, rules, stores, now, request):
                return
            budget -= 1
        else:
            if not _admits(me, rules, stores, now, request, budget):
                return
            number = pop_waiting(me, stores.requests)
            me.partial = number
            budget -= _add_chunk(me, rules, stores, number, budget)
            me.started += 1
            me.held = 0
            if me.partial != NOBODY:
                return


@compiled
def _add_chunk(me, rules, stores, number, budget):
    """Put as much of a prompt into the step as fits, and give its tokens."""
    request = stores.requests[number]
    left = request.target - request.done
    new = min(left, budget) if rules.chunked else left
    chunk = stores.chunks[me.index, me.chunks]
    chunk.request, chunk.new, chunk.before = number, new, request.done
    request.done += new
    me.chunks += 1
    me.tokens += new
    if new == left:
        me.ended += 1
        me.partial = NOBODY
    return new


@compiled
def _holds(me, rules, stores, budget):
    """Whether waiting prompts are held until the step is fuller."""
    number, tokens, count = me.head, 0, 0
    free = me.free + me.evictable
    while number != NOBODY and me.running + count < rules.max_sequences:
        request = stores.requests[number]
        if request.ready:
            break
        target = request.prompt + request.generated
        share = shareable(me, rules, stores.prefixes, request)
        new = max(1, target - share * rules.block)
        free -= blocks_held(rules, request, target) - share
        if free < 0 or tokens + new > budget:
            break
        tokens += new
        count += 1
        number = request.next
    return count > 0 and me.held < rules.wait_steps and me.running + tokens < rules.wait_tokens


@compiled
def _admits(me, rules, stores, now, request, budget):
    """Let the first waiting request in if tokens and blocks suffice."""
    target = request.prompt + request.generated
    available, blocks = me.free + me.evictable, blocks_held(rules, request, target)
    share = shareable(me, rules, stores.prefixes, request)
    if share and stores.prefixes[me.index, request.prefix].users == 0:
        # A prefix that is much longer than what this request shares may not leave room for the rest of it.
        pinned = stores.prefixes[me.index, request.prefix].blocks
        if blocks - share > available - pinned:
            share = 0
        else:
            available -= pinned
    need = blocks - share
    new = max(1, target - share * rules.block)
    # What was preempted may have outgrown the budget; then it goes alone.
    if new > budget and not rules.chunked and (me.chunks > 0 or new <= rules.token_budget):
        return False
    if need > available:
        return False
    if share:
        acquire(me, stores.prefixes, request, share)
    take(me, stores.prefixes, need)
    request.target, request.done = target, target - new
    if request.admitted < 0:
        request.admitted = now
        request.cached_prompt = target - new
    return True


@compiled
def _bring_back(me, rules, stores, now, request):
    """Let a request whose cache was computed before decode on, if there is room for it and for its next token."""
    cached = request.ready
    need = blocks_held(rules, request, cached)
    next_block = 0 if rules.full else 1 - (cached % rules.block + rules.block - 1) // rules.block
    if need + next_block > me.free + me.evictable:
        return False
    # Where prompts go first, the blocks of the step are taken after them.
    take(me, stores.prefixes, need + next_block if rules.mixed else need)
    if request.preemptions and rules.swap:
        me.extra_s += need * rules.swap_block_s
    if request.admitted < 0:
        request.admitted = now
    request.ready = 0
    join(me, rules, stores, pop_waiting(me, stores.requests), cached)
    return True


@compiled
def start(me, rules, stores, tables, now, skip):
    """Price what is planned and begin it; False when the tables lack an entry."""
    if me.chunks:
        seconds = step_seconds(tables, rules, me, stores.chunks[me.index])
    elif me.extra_s > 0.0:
        seconds = decode_seconds(tables, rules, me.running, me.context)
    else:
        return _run(me, rules, tables, now, _steps_alike(me, rules, stores, skip), NEVER)
    if math.isnan(seconds):
        return False
    me.steps, me.start = 1, now
    me.end = now + to_ps(seconds + me.extra_s)
    me.planned, me.under_way = False, True
    return True


@compiled
def _run(me, rules, tables, start, steps, until):
    """Begin a run of decode steps that are alike."""
    time, steps = decode_run(tables, rules, me.running, me.context, steps, until)
    if steps == 0:
        return False
    me.steps, me.start, me.end = steps, start, start + time
    me.planned, me.under_way = False, True
    return True


@compiled
def cut(me, rules, tables, now):
    """End the run under way with the first step that ends now or later."""
    _run(me, rules, tables, me.start, me.steps, now - me.start)


@compiled
def _steps_alike(me, rules, stores, skip):
    """How many decode steps can follow each other before anything ends, runs out or has waited long enough."""
    # A cache that fills up may leave no room for the prompts that are held; then nothing is held any more.
    if not skip or me.preempted or (me.holding and not rules.full):
        return 1
    rest = stores.calendar.shape[2] - 1
    steps = 1
    while stores.calendar[me.index, FIRST, (me.steps_done + steps) & rest] == NOBODY:
        steps += 1
    if me.holding:
        steps = min(steps, rules.wait_steps - me.held)
    if rules.full or (steps // rules.block + 1) * me.running <= me.free + me.evictable:
        return steps
    free = me.free + me.evictable
    for step in range(1, steps):
        free -= stores.calendar[me.index, CROSSING, (me.steps_done + step) % rules.block]
        if free < 0:
            return step
    return steps
