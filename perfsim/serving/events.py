"""The SimPy engine: clients, a router and replicas as processes, every step an event.

It is slow and readable: what `perfsim.serving.fast` does on counts in compiled code, this does request by request. Both
give the same times to the bit as long as the fast one does not skip.

At the same instant steps end first, then requests arrive, then steps begin; so a request that arrives as a step ends
may enter the next one.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import simpy
from simpy.events import EventPriority

from perfsim.serving.deployment import Deployment
from perfsim.serving.outcome import NEVER, Outcome
from perfsim.serving.policies import Engine
from perfsim.serving.requests import Requests
from perfsim.serving.routing import Router
from perfsim.serving.scheduler import Scheduler
from perfsim.serving.sequence import Sequence as Sequence_
from perfsim.serving.sequence import Step
from perfsim.serving.tables import StepTables
from perfsim.serving.world import NOBODY, STEP, rules_of
from perfsim.units import PICOSECONDS_PER_SECOND

__all__ = ["run_events"]

_END, _ARRIVE, _ROUTE, _BEGIN = 1, 2, 3, 4
"""The order of what happens at the same instant; SimPy's own events have 0 and 1."""

Process = Generator[simpy.Event, Any, None]


def run_events(
    requests: Requests, engines: Sequence[Engine], tables: StepTables, deployment: Deployment, limit_ps: int = NEVER
) -> Outcome:
    """Simulate a deployment event by event.

    Parameters
    ----------
    requests : Requests
    engines : sequence of Engine
        Of each pool: one, or those of prefill and of decode.
    tables : StepTables
        Of the same pools, with room for what the requests need.
    deployment : Deployment
    limit_ps : int
        When to stop, in picoseconds.

    Returns
    -------
    Outcome
        With every step in its log.
    """
    service = _Service(requests, engines, tables, deployment)
    service.env.process(service.crowd())
    service.env.run(until=None if limit_ps >= NEVER else limit_ps + 1)
    return service.outcome()


class _Instant(simpy.Event):
    """An event after a delay that comes at its turn within the instant."""

    def __init__(self, env: simpy.Environment, delay: int, turn: int) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        env.schedule(self, EventPriority(turn), delay)


class _Service:
    """Clients, router and replicas."""

    def __init__(
        self, requests: Requests, engines: Sequence[Engine], tables: StepTables, deployment: Deployment
    ) -> None:
        self.env = simpy.Environment(initial_time=0)
        index, _ = requests.prefix_index
        columns = (requests.prompt_tokens, requests.output_tokens, index, requests.prefix_tokens)
        self.sequences = [Sequence_(*row) for row in zip(range(len(requests)), *(c.tolist() for c in columns))]  # noqa: B905
        self.sent = requests.arrival_ps.tolist()
        self.times = {
            name: [NOBODY] * len(requests) for name in ("admitted", "first", "finish", "replica", "prefill_replica")
        }
        self.cached_prompt = [0] * len(requests)
        self.later = iter(range(min(requests.concurrency or len(requests), len(requests)), len(requests)))
        self.num_first = min(requests.concurrency or len(requests), len(requests))
        self.request_ps = round(engines[0].host.request_s * PICOSECONDS_PER_SECOND)
        self.deployment = deployment
        self.latency_ps = round(deployment.transfer_latency_s * PICOSECONDS_PER_SECOND)
        self.token_ps = round(deployment.transfer_token_s * PICOSECONDS_PER_SECOND)
        self.done: dict[int, simpy.Event] = {}
        self.arrived: list[int] = []
        counts = [count for count in (deployment.prefill_replicas, deployment.replicas) if count]
        pools = np.repeat(np.arange(len(counts)), counts).tolist()
        self.replicas = [_Replica(self, number, engines[pool], tables, pool) for number, pool in enumerate(pools)]
        self.router = Router(deployment)

    @property
    def now(self) -> int:
        """Picoseconds since the beginning."""
        return int(self.env.now)

    def at(self, delay: int, turn: int) -> simpy.Event:
        """An event after a delay, at its turn within the instant."""
        return _Instant(self.env, delay, turn)

    def crowd(self) -> Process:
        """Send the requests that have a time of their own, each by a client."""
        for number in range(self.num_first):
            if self.sent[number] > self.now:
                yield self.env.timeout(self.sent[number] - self.now)
            self.env.process(self._client(number))

    def _client(self, number: int | None) -> Process:
        """Send a request and wait for its end; in a closed loop go on with the next one that nobody has sent."""
        while number is not None:
            self.sent[number] = self.now
            self.done[number] = self.env.event()
            yield self.at(self.request_ps, _ARRIVE)
            self._knock(number)
            yield self.done[number]
            number = next(self.later, None)

    def transfer(self, sequence: Sequence_) -> Process:
        """Move the cache of a computed prompt to a replica that decodes."""
        yield self.at(self.latency_ps + self.token_ps * sequence.target, _ARRIVE)
        self._knock(sequence.number)

    def _knock(self, number: int) -> None:
        """Gather what arrives at the same instant, so that the router sees it in the order of the requests."""
        if not self.arrived:
            self.at(0, _ROUTE).callbacks.append(lambda _: self._route())
        self.arrived.append(number)

    def _route(self) -> None:
        for number in sorted(self.arrived):
            sequence = self.sequences[number]
            replica = self.replicas[self.router.choose(sequence, [replica.load for replica in self.replicas])]
            self.times["replica"][number] = replica.number
            replica.receive(sequence)
        self.arrived.clear()

    def outcome(self) -> Outcome:
        """Gather what happened."""
        return Outcome(
            **{f"{name}_ps": np.array(self.times[name]) for name in ("admitted", "first", "finish")},
            sent_ps=np.array(self.sent),
            replica=np.array(self.times["replica"]),
            prefill_replica=np.array(self.times["prefill_replica"]),
            cached_prompt_tokens=np.array(self.cached_prompt),
            preemptions=np.array([sequence.preemptions for sequence in self.sequences]),
            busy_ps=np.array([replica.busy for replica in self.replicas]),
            prompt_busy_ps=np.array([replica.prompt_busy for replica in self.replicas]),
            steps=np.array([replica.steps for replica in self.replicas]),
            most_blocks=np.array([replica.most_blocks for replica in self.replicas]),
            log=np.array([row for replica in self.replicas for row in replica.log], STEP),
        )


class _Replica:
    """One copy of the model with its engine: a process that composes steps and lives through them."""

    def __init__(self, service: _Service, number: int, engine: Engine, tables: StepTables, pool: int) -> None:
        self.service, self.number, self.tables = service, number, tables
        self.prompts_only = service.deployment.pools > 1 and pool == 0
        self.scheduler = Scheduler(engine, prompts_only=self.prompts_only, on_admission=self._admitted)
        self.rules = rules_of(engine, tables.costs[pool].num_layers, pool=pool)
        self.load = self.busy = self.prompt_busy = self.steps = self.most_blocks = 0
        self.idle: simpy.Event | None = None
        self.log: list[tuple[int, ...]] = []
        service.env.process(self._live())

    def receive(self, sequence: Sequence_) -> None:
        """Let a request wait, and wake up if there was nothing to do."""
        self.load += 1
        self.scheduler.queue.append(sequence)
        if self.idle is not None:
            self.idle.succeed()
            self.idle = None

    def _live(self) -> Process:
        """Step after step, for ever; the simulation ends when all replicas are idle and nothing is on its way."""
        while True:
            step = self.scheduler.plan()
            if not step:
                self.idle = self.service.env.event()
                yield self.idle
            else:
                duration = self.tables.step_ps(self.rules, step)
                yield self.service.at(duration, _END)
                self._close(step, duration)
            yield self.service.at(0, _BEGIN)

    def _close(self, step: Step, duration: int) -> None:
        self.busy += duration
        self.prompt_busy += duration if step.chunks else 0
        self.steps += 1
        self._write_log(step, duration)
        ended, computed = self.scheduler.close(step)
        for sequence in ended:
            self._finish(sequence)
        for sequence in computed:
            self._first_token(sequence)

    def _first_token(self, sequence: Sequence_) -> None:
        """A prompt is computed and gives a token: the request ends, decodes, or moves to another replica."""
        cache, first = self.scheduler.cache, self.service.times["first"]
        cache.publish(sequence)
        sequence.generated += 1
        if first[sequence.number] < 0:
            first[sequence.number] = self.service.now
        if sequence.generated == sequence.output:
            cache.leave(sequence, sequence.target)
            self._finish(sequence)
        elif self.prompts_only:
            cache.leave(sequence, sequence.target)
            self.load -= 1
            self.service.times["prefill_replica"][sequence.number] = self.number
            sequence.cached, sequence.comes_cached = sequence.target, True
            self.service.env.process(self.service.transfer(sequence))
        else:
            self.scheduler.start_decoding(sequence)

    def _finish(self, sequence: Sequence_) -> None:
        self.load -= 1
        self.service.times["finish"][sequence.number] = self.service.now
        self.service.done.pop(sequence.number).succeed()

    def _admitted(self, sequence: Sequence_) -> None:
        admitted = self.service.times["admitted"]
        if admitted[sequence.number] < 0:
            admitted[sequence.number] = self.service.now
            self.service.cached_prompt[sequence.number] = sequence.done

    def _write_log(self, step: Step, duration: int) -> None:
        """Note a step that is over, before its requests leave."""
        now, used = self.service.now, self.scheduler.cache.used
        self.most_blocks = max(self.most_blocks, used)
        row = (self.number, now - duration, now, 1, len(step.decodes), step.context, len(step.chunks), step.tokens)
        moving = round(step.extra_s * PICOSECONDS_PER_SECOND)
        self.log.append((*row, len(self.scheduler.queue), used, len(self.scheduler.running), step.started, moving))
