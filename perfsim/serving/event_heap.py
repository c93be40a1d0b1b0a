"""Compiled: a heap of requests that will arrive, the earliest first, at the same time the one that was sent first."""

from __future__ import annotations

from perfsim.sim.jit import compiled

# ruff: noqa: ANN001, ANN201, ANN202 - Numba infers the types
# mypy: disable-error-code="no-untyped-def"

__all__ = ["pop_event", "push_event"]


@compiled
def push_event(clock, events, time, number):
    """Add a request that will arrive at a time."""
    place = clock.events
    clock.events += 1
    while place > 0:
        parent = (place - 1) // 2
        if not _is_before(time, number, events[parent]):
            break
        events[place].time, events[place].request = events[parent].time, events[parent].request
        place = parent
    events[place].time, events[place].request = time, number


@compiled
def pop_event(clock, events):
    """Take the request that arrives first."""
    first = events[0].request
    clock.events -= 1
    size, place = clock.events, 0
    time, number = events[size].time, events[size].request
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _is_before(events[child + 1].time, events[child + 1].request, events[child]):
            child += 1
        if _is_before(time, number, events[child]):
            break
        events[place].time, events[place].request = events[child].time, events[child].request
        place = child
    events[place].time, events[place].request = time, number
    return first


@compiled
def _is_before(time, number, event):
    return time < event.time or (time == event.time and number < event.request)
