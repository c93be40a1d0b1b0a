"""Compiled: the running decodes of a replica: who joins, who ends when, who is preempted.

All decodes of a replica advance together, so a request's end is a step number that is known when it joins. A replica
needs only the count and the summed context of its decodes, and a list of those that end at each step.
"""

from __future__ import annotations

from perfsim.serving.fast_cache import release
from perfsim.serving.world import CROSSING, FIRST, LAST, NOBODY
from perfsim.sim.jit import compiled

# ruff: noqa: ANN001, ANN201 - Numba infers the types
# mypy: disable-error-code="no-untyped-def"

__all__ = ["join", "leave", "pop_waiting", "preempt", "put_back", "wait_in_line"]


@compiled
def wait_in_line(me, requests, number):
    """Put a request at the end of the queue."""
    requests[number].next = NOBODY
    if me.head == NOBODY:
        me.head = number
    else:
        requests[me.tail].next = number
    me.tail = number
    me.waiting += 1


@compiled
def put_back(me, requests, number):
    """Put a request at the beginning of the queue."""
    requests[number].next = me.head
    if me.head == NOBODY:
        me.tail = number
    me.head = number
    me.waiting += 1


@compiled
def pop_waiting(me, requests):
    """Take the first request from the queue."""
    number = me.head
    me.head = requests[number].next
    if me.head == NOBODY:
        me.tail = NOBODY
    me.waiting -= 1
    return number


@compiled
def join(me, rules, stores, number, cached):
    """Let a request decode, with some tokens cached."""
    requests, calendar = stores.requests, stores.calendar
    request = requests[number]
    me.running += 1
    me.cached += cached
    request.base, request.joined = cached, me.steps_done
    request.last = me.steps_done + request.output - request.generated
    slot = request.last & (calendar.shape[2] - 1)
    tail = calendar[me.index, LAST, slot]
    request.before, request.next = tail, NOBODY
    if tail == NOBODY:
        calendar[me.index, FIRST, slot] = number
    else:
        requests[tail].next = number
    calendar[me.index, LAST, slot] = number
    request.older, request.younger = me.youngest, NOBODY
    if me.youngest == NOBODY:
        me.oldest = number
    else:
        requests[me.youngest].younger = number
    me.youngest = number
    calendar[me.index, CROSSING, (me.steps_done - cached) % rules.block] += 1


@compiled
def leave(me, rules, stores, number):
    """Take a request out of the decodes, and give its cached tokens."""
    requests, calendar = stores.requests, stores.calendar
    request = requests[number]
    cached = request.base + me.steps_done - request.joined
    me.running -= 1
    me.cached -= cached
    slot = request.last & (calendar.shape[2] - 1)
    if request.before == NOBODY:
        calendar[me.index, FIRST, slot] = request.next
    else:
        requests[request.before].next = request.next
    if request.next == NOBODY:
        calendar[me.index, LAST, slot] = request.before
    else:
        requests[request.next].before = request.before
    if request.older == NOBODY:
        me.oldest = request.younger
    else:
        requests[request.older].younger = request.younger
    if request.younger == NOBODY:
        me.youngest = request.older
    else:
        requests[request.younger].older = request.older
    calendar[me.index, CROSSING, (request.joined - request.base) % rules.block] -= 1
    return cached


@compiled
def preempt(me, rules, stores):
    """Send the request that entered last back to the queue."""
    number = me.youngest if me.partial == NOBODY else me.partial
    request = stores.requests[number]
    if me.partial == NOBODY:
        cached = leave(me, rules, stores, number)
        request.generated = request.output - (request.last - me.steps_done)
        if rules.swap:
            request.ready = cached
            me.extra_s += (cached + rules.block - 1) // rules.block * rules.swap_block_s
    else:
        cached, request.done, me.partial = request.target, 0, NOBODY
    release(me, rules, stores.prefixes, request, cached)
    request.preemptions += 1
    me.preempted = True
    put_back(me, stores.requests, number)
