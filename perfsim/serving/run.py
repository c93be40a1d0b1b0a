"""From requests to a result: checks what fits together, makes room in the tables and runs an engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from perfsim.errors import Faults, SimulationError
from perfsim.serving.costs import StepCosts
from perfsim.serving.deployment import Deployment
from perfsim.serving.outcome import NEVER, Outcome
from perfsim.serving.policies import Engine
from perfsim.serving.requests import Requests
from perfsim.units import PICOSECONDS_PER_SECOND

if TYPE_CHECKING:
    from perfsim.serving.tables import StepTables

__all__ = ["SIMULATORS", "Service", "run_service"]

SIMULATORS = ("compiled", "simpy")


@dataclass(frozen=True, eq=False)
class Service:
    """What serves: costs of the steps, engines and how many replicas.

    Attributes
    ----------
    tables : StepTables
        Costs of each pool: one, or those of prefill and of decode. Runs that share them fill them once.
    engines : tuple of Engine
        Of each pool.
    deployment : Deployment
        Counts whole replicas, whatever their stages.
    fits_memory : bool
        Whether the engines' `kv_blocks` are those that fit, not a user's own.

    Examples
    --------
    >>> from perfsim.serving.costs import RooflineCosts
    >>> service = Service.of(RooflineCosts(), Engine("trtllm"))
    >>> service.deployment.replicas
    1
    """

    tables: StepTables
    engines: tuple[Engine, ...]
    deployment: Deployment = field(default_factory=Deployment)
    fits_memory: bool = False

    def __post_init__(self) -> None:
        pools, given = self.deployment.pools, (len(self.tables.costs), len(self.engines))
        if given != (pools, pools):
            faults = Faults("service")
            faults.add(
                "tables, engines", given, f"must be {pools} each",
                "a pool of its own for prompts needs costs and an engine of its own",
            )  # fmt: skip
            faults.raise_if_any()
        lanes = [costs.lanes for costs in self.tables.costs]
        if len(set(lanes)) > 1:
            faults = Faults("service")
            faults.add("tables", lanes, "must have as many lanes in each pool", "give all pools as many stages")
            faults.raise_if_any()

    @property
    def lanes(self) -> int:
        """Engines of a replica: one for each batch on its way through the stages."""
        return self.tables.costs[0].lanes

    @cached_property
    def engine_deployment(self) -> Deployment:
        """The deployment as routers and simulators see it: each lane of a replica is one of their replicas."""
        whole, lanes = self.deployment, self.lanes
        if lanes == 1:
            return whole
        return dataclasses.replace(
            whole, replicas=whole.replicas * lanes, prefill_replicas=whole.prefill_replicas * lanes
        )

    def engine_name(self, number: int) -> str:
        """Name an engine by its number among those of `engine_deployment`."""
        replica, lane = divmod(number, self.lanes)
        return f"replica {replica}, lane {lane}" if self.lanes > 1 else f"replica {replica}"

    @classmethod
    def of(cls, costs: StepCosts, engine: Engine, deployment: Deployment | None = None) -> Service:
        """Make a service whose pools are all alike."""
        from perfsim.serving.tables import StepTables

        deployment = deployment or Deployment()
        return cls(StepTables(*[costs] * deployment.pools), (engine,) * deployment.pools, deployment)


def run_service(
    service: Service, requests: Requests, *, simulator: str = "compiled", skip: bool = True, log: bool = False,
    limit_s: float | None = None,
) -> Outcome:  # fmt: skip
    """Serve requests.

    Parameters
    ----------
    service : Service
    requests : Requests
    simulator : str
        ``compiled``, or ``simpy`` for the event-by-event simulation.
    skip : bool
        Whether the compiled one takes runs of alike decode steps as one event.
    log : bool
        Whether every step (or run of steps) is noted; the SimPy engine always does.
    limit_s : float, optional
        When to stop.

    Returns
    -------
    Outcome

    Raises
    ------
    InputError
        Requests are longer than the model's context, the token budget or the KV cache allows.
    """
    faults = Faults("serve")
    faults.choice("simulator", simulator, SIMULATORS)
    if limit_s is not None:
        faults.number("limit_s", limit_s)
    _check(service, requests, faults)
    faults.raise_if_any()
    _reserve(service, requests)
    limit_ps = NEVER if limit_s is None else min(round(limit_s * PICOSECONDS_PER_SECOND), NEVER)
    parts = requests, service.engines, service.tables, service.engine_deployment, limit_ps
    if simulator == "simpy":
        from perfsim.serving.events import run_events

        outcome = run_events(*parts)
    else:
        from perfsim.serving.fast import run_fast

        outcome = run_fast(*parts, skip=skip, log=log)
    if limit_ps == NEVER and (outcome.finish_ps < 0).any():
        message = f"{(outcome.finish_ps < 0).sum():,} requests can never end; this is a fault of the scheduler"
        raise SimulationError(message)
    return outcome


def _check(service: Service, requests: Requests, faults: Faults) -> None:
    """Record requests that an engine can never serve."""
    context_tokens = min(costs.max_context_tokens for costs in service.tables.costs)
    requests.check_context(context_tokens, Faults.nested(faults, "requests"))
    faults = Faults.nested(faults, "engine")
    longest, prompt = requests.prompt_tokens + requests.output_tokens, int(requests.prompt_tokens.max())
    for engine in dict.fromkeys(each.resolved for each in service.engines):
        if not engine.chunked and prompt > (engine.token_budget or 0):
            faults.add(
                "token_budget", engine.token_budget, f"must hold the longest prompt of {prompt:,} tokens whole",
                "raise it, or give chunked=True",
            )  # fmt: skip
        block, row = engine.kv_block_tokens or 1, int(longest.argmax())
        need = -(-int(longest[row]) // block)
        if engine.kv_blocks is not None and engine.kv_blocks < need:
            faults.add(
                "kv_blocks", engine.kv_blocks,
                f"must hold one request: number {row} takes {need:,} blocks of {block} tokens",
                "use more GPUs, a smaller KV data type, or shorter requests"
                if service.fits_memory
                else "raise kv_blocks, or leave it out",
            )  # fmt: skip


def _reserve(service: Service, requests: Requests) -> None:
    """Make room in the tables for every step that can come."""
    longest = int((requests.prompt_tokens + requests.output_tokens).max())
    engines: Sequence[Engine] = [engine.resolved for engine in service.engines]
    sequences = int(np.max([min(engine.max_sequences or 0, len(requests)) for engine in engines]))
    budget = max(engine.token_budget or 0 for engine in engines)
    most = min(budget, int(requests.prompt_tokens.sum()) + len(requests))
    service.tables.reserve(sequences=sequences + 1, tokens=max(most, longest) + sequences, context_tokens=longest + 1)
