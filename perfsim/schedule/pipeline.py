"""Pipeline schedules: pure functions that say which microbatch waits for which.

On every stage microbatches pass in order. What a schedule adds is a set of waits between stages, each with a lag in
microbatches: microbatch ``k`` may not do something before microbatch ``k - lag`` has done something else. With virtual
stages the passes through all stages are counted on, as if there were so many stages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "ENTER", "LEAVE", "RELEASE", "SCHEDULE_FUNCTIONS", "SEND", "Wait", "autoregressive", "pipelined", "sequential",
]  # fmt: skip

ENTER, LEAVE, SEND, RELEASE = "enter", "leave", "send", "release"
"""Moments of a microbatch at a stage: its first operators, its last ones, its hand-over to the next stage, and the
operators that work off the buffer in which it arrived."""

_HELD_BY_SENDER = 2
"""Microbatches on a stage that have not been handed over: one under way on the link beside one that is computed."""


@dataclass(frozen=True)
class Wait:
    """Microbatch ``k`` starts `moment` of `stage` once microbatch ``k - lag`` has ended `after` of `after_stage`.

    With virtual stages `stage` and `after_stage` are passes.
    """

    moment: str
    stage: int
    after: str
    after_stage: int
    lag: int


def pipelined(num_stages: int, receive_buffers: int, virtual_stages: int = 1) -> tuple[Wait, ...]:
    """Fill and drain: a microbatch follows the one before as soon as stages and buffers are free.

    A stage holds at most `receive_buffers` hand-overs that it has not worked off: a full set blocks the sender's link.
    A blocked link in turn blocks the sender's computation, so a fast stage cannot pile up what it has computed. One
    microbatch is computed while the one before is under way, so the link and the computation still overlap.

    With virtual stages microbatches go through in rounds of as many as there are stages (Narayanan et al., 2021). What
    comes back to the first stage has to lie there until the round is through, so there is room for all of it.

    Examples
    --------
    >>> for wait in pipelined(2, receive_buffers=3):
    ...     print(wait)
    Wait(moment='send', stage=0, after='release', after_stage=1, lag=3)
    Wait(moment='enter', stage=0, after='send', after_stage=0, lag=2)
    """
    senders = range(num_stages * virtual_stages - 1)
    back = max(receive_buffers, num_stages)
    links = (
        Wait(SEND, stage, RELEASE, stage + 1, receive_buffers if (stage + 1) % num_stages else back)
        for stage in senders
    )
    computations = (Wait(ENTER, stage, SEND, stage, _HELD_BY_SENDER) for stage in senders)
    return (*links, *computations)


def sequential(num_stages: int, receive_buffers: int, virtual_stages: int = 1) -> tuple[Wait, ...]:
    """One microbatch in flight: the next enters the first stage when the one before has left the last.

    Examples
    --------
    >>> sequential(2, receive_buffers=2)[-1]
    Wait(moment='enter', stage=0, after='leave', after_stage=1, lag=1)
    """
    last = num_stages * virtual_stages - 1
    return (*pipelined(num_stages, receive_buffers, virtual_stages), Wait(ENTER, 0, LEAVE, last, 1))


def autoregressive(num_passes: int, num_microbatches: int) -> Wait:
    """Every step of a generation takes the tokens that the step before has given the same sequences.

    Examples
    --------
    >>> autoregressive(2, num_microbatches=4)
    Wait(moment='enter', stage=0, after='leave', after_stage=1, lag=4)
    """
    return Wait(ENTER, 0, LEAVE, num_passes - 1, num_microbatches)


SCHEDULE_FUNCTIONS: dict[str, Callable[[int, int, int], tuple[Wait, ...]]] = {
    "pipelined": pipelined,
    "sequential": sequential,
}
