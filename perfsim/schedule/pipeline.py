"""Pipeline schedules: pure functions that say which microbatch waits for which.

On every stage microbatches pass in order. What a schedule adds is a set of waits between stages, each with a lag in
microbatches: microbatch ``k`` may not do something before microbatch ``k - lag`` has done something else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["ENTER", "LEAVE", "RELEASE", "SCHEDULE_FUNCTIONS", "SEND", "Wait", "pipelined", "sequential"]

ENTER, LEAVE, SEND, RELEASE = "enter", "leave", "send", "release"
"""Moments of a microbatch at a stage: its first operators start, its last one ends, its hand-over starts, the buffer in
which it arrived is free again."""


@dataclass(frozen=True)
class Wait:
    """Microbatch ``k`` comes to `moment` of `stage` when microbatch ``k - lag`` is past `after` of `after_stage`."""

    moment: str
    stage: int
    after: str
    after_stage: int
    lag: int


def pipelined(num_stages: int, receive_buffers: int) -> tuple[Wait, ...]:
    """Fill and drain: a microbatch follows the one before as soon as stages and buffers are free.

    A stage holds at most `receive_buffers` hand-overs that it has not worked off, so a fast stage cannot run ahead of
    its successor without end.

    Examples
    --------
    >>> pipelined(2, receive_buffers=2)
    (Wait(moment='send', stage=0, after='release', after_stage=1, lag=2),)
    """
    return tuple(Wait(SEND, stage, RELEASE, stage + 1, receive_buffers) for stage in range(num_stages - 1))


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
