"""What an engine hands over: times in picoseconds, request by request and replica by replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEVER", "Outcome"]

NEVER = 2**62
"""Picoseconds after the end of every simulation."""

Column = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """The times of every request; -1 stands for what has not happened.

    Attributes
    ----------
    sent_ps, admitted_ps, first_ps, finish_ps : ndarray, shape (requests,)
        When the client sent it, a step first took it, its first token was out, and its last.
    replica, prefill_replica : ndarray, shape (requests,)
        Where it was last, and where its prompt was computed if that was elsewhere.
    cached_prompt_tokens, preemptions : ndarray, shape (requests,)
        Tokens of the prompt that a prefix cache held already; how often it was preempted.
    busy_ps, prompt_busy_ps, steps, most_blocks : ndarray, shape (replicas,)
        Time in steps, and in those with prompts; steps; most KV blocks in use at once.
    log : records, optional
        One for each step or run of alike steps; see `perfsim.serving.world.STEP`.
    """

    sent_ps: Column
    admitted_ps: Column
    first_ps: Column
    finish_ps: Column
    replica: Column
    prefill_replica: Column
    cached_prompt_tokens: Column
    preemptions: Column
    busy_ps: Column
    prompt_busy_ps: Column
    steps: Column
    most_blocks: Column
    log: NDArray[Any] | None = None
