"""The router: to which replica a request goes; the readable twin of what `perfsim.serving.fast` compiles."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

from perfsim.serving.deployment import Deployment
from perfsim.serving.requests import NO_PREFIX
from perfsim.serving.sequence import Sequence

__all__ = ["Router"]


class Router:
    """Chooses among the replicas of the pool that a request needs next."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        prompts, decodes = deployment.prefill_replicas, deployment.replicas
        self.decoders = range(prompts, prompts + decodes)
        self.receivers = range(prompts) if prompts else self.decoders
        self.turns = {self.decoders: 0, self.receivers: 0}
        self.homes: dict[int, int] = {}

    def choose(self, sequence: Sequence, loads: SequenceOf[int]) -> int:
        """Give the number of a replica, from the number of requests that each has."""
        pool = self.decoders if sequence.comes_cached else self.receivers
        if self.deployment.router == "round-robin":
            turn = self.turns[pool]
            self.turns[pool] += 1
            return pool[turn % len(pool)]
        least = min(pool, key=lambda number: (loads[number], number))
        if self.deployment.router == "prefix-aware" and not sequence.comes_cached and sequence.prefix != NO_PREFIX:
            home = self.homes.get(sequence.prefix, least)
            if loads[home] <= loads[least] + self.deployment.spill:
                least = home
            self.homes[sequence.prefix] = least
        return least
