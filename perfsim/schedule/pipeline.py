"""Pipeline schedules: pure functions that say which microbatch waits for which.

On every stage microbatches pass in order. What a schedule adds is a set of waits between stages, each with a lag in
microbatches: microbatch ``k`` may not do something before microbatch ``k - lag`` has done something else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["ENTER", "LEAVE", "RELEASE", "SCHEDULE_FUNCTIONS", "SEND", "Wait", "pipelined", "sequential"]

ENTER, LEAVE, SEND, RELEASE = "enter", "leave", "send", "release"
"""Moments of a microbatch at a stage: its first operators, its last ones, its hand-over to the next stage, and the
operators that work off the buffer in which it arrived."""

_HELD_BY_SENDER = 2
"""Microbatches on a stage that have not been handed over: one under way on the link beside one that is computed."""


@dataclass(frozen=True)
class Wait:
    """Microbatch ``k`` starts `moment` of `stage` once microbatch ``k - lag`` has ended `after` of `after_stage`."""

    moment: str
    stage: int
    after: str
    after_stage: int
    lag: int


def pipelined(num_stages: int, receive_buffers: int) -> tuple[Wait, ...]:
    """Fill and drain: a microbatch follows the one before as soon as stages and buffers are free.

    A stage holds at most `receive_buffers` hand-overs that it has not worked off: a full set blocks the sender's link.
    A blocked link in turn blocks the sender's computation, so a fast stage cannot pile up what it has computed. One
    microbatch is computed while the one before is under way, so the link and the computation still overlap.

    Examples
    --------
    >>> for wait in pipelined(2, receive_buffers=3):
    ...     print(wait)
    Wait(moment='send', stage=0, after='release', after_stage=1, lag=3)
    Wait(moment='enter', stage=0, after='send', after_stage=0, lag=2)
    """
    senders = range(num_stages - 1)
    links = (Wait(SEND, stage, RELEASE, stage + 1, receive_buffers) for stage in senders)
    computations = (Wait(ENTER, stage, SEND, stage, _HELD_BY_SENDER) for stage in senders)
    return (*links, *computations)


def sequential(num_stages: int, receive_buffers: int) -> tuple[Wait, ...]:
    """One microbatch in flight: the next enters the first stage when the one before has left the last.

    Examples
    --------
    >>> sequential(2, receive_buffers=2)[-1]
    Wait(moment='enter', stage=0, after='leave', after_stage=1, lag=1)
    """
    return (*pipelined(num_stages, receive_buffers), Wait(ENTER, 0, LEAVE, num_stages - 1, 1))


SCHEDULE_FUNCTIONS: dict[str, Callable[[int, int], tuple[Wait, ...]]] = {
    "pipelined": pipelined,
    "sequential": sequential,
}
