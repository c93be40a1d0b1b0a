"""Which single change of a service helps most: every candidate is simulated on the same requests, none is guessed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from perfsim.errors import InputError
from perfsim.serving.deployment import ROUTERS, Deployment
from perfsim.serving.policies import Engine
from perfsim.serving.requests import Requests
from perfsim.serving.results import ServeResult, serve_requests
from perfsim.serving.run import Service
from perfsim.serving.scenario_costs import ScenarioCosts
from perfsim.serving.services import Services
from perfsim.spec.scenario import Scenario
from perfsim.study.serving_figures import num_gpus
from perfsim.units import DTYPE_BYTES

__all__ = ["ServingOption", "few_requests", "served_again", "serving_changes"]

_MOST_REQUESTS = 20_000
"""Requests, the first ones, with which changes are simulated: a dozen runs of a million would take minutes."""

Changes = dict[str, Any]


@dataclass(frozen=True)
class ServingOption:
    """A change of a service, simulated.

    Attributes
    ----------
    kind : str
        ``engine``, ``router``, ``cache``, ``plan``, or ``devices``, which takes more GPUs.
    changes : dict
        By dotted name, as the axes of a sweep.
    reason : str
        Why it may help, and what it asks for.
    before, after : ServeResult
        The same requests without and with it.
    """

    kind: str
    changes: Changes
    reason: str
    before: ServeResult = field(repr=False)
    after: ServeResult = field(repr=False)

    @property
    def extra_percent(self) -> float:
        """How much longer the mean request takes."""
        return 100 * (self.after.latency_s / self.before.latency_s - 1)

    @property
    def row(self) -> dict[str, Any]:
        """What stands in the table of an explanation."""
        after = self.after
        return {
            "change": str(self), "kind": self.kind, "latency_s": after.latency_s, "ttft_s": after.ttft_s,
            "tpot_s": after.tpot_s, "tokens_per_s": after.tokens_per_s, "gpus": num_gpus(after),
            "change_percent": self.extra_percent,
        }  # fmt: skip

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.changes.items())


class _Candidate(NamedTuple):
    """A change that is not simulated yet."""

    kind: str
    changes: Changes
    reason: str


def serving_changes(result: ServeResult) -> tuple[ServingOption, ...]:
    """Simulate single changes of a service with the same requests, and give those that are possible.

    Parameters
    ----------
    result : ServeResult

    Returns
    -------
    tuple of ServingOption
        By the mean latency of a request, the shortest first. In a closed loop that is also the order of their
        throughput.
    """
    before = few_requests(result)
    options = []
    for kind, changes, reason in _candidates(before):
        after = served_again(before, changes)
        if after is not None:
            options.append(ServingOption(kind, changes, reason, before, after))
    return tuple(sorted(options, key=lambda option: option.after.latency_s))


def few_requests(result: ServeResult) -> ServeResult:
    """Give a result of which all requests have ended, and which takes no long time to repeat."""
    if len(result.sent) <= _MOST_REQUESTS and (result.outcome.finish_ps >= 0).all():
        return result
    names = [column.name for column in dataclasses.fields(Requests) if column.name != "concurrency"]
    first = {name: getattr(result.sent, name)[:_MOST_REQUESTS] for name in names}
    return serve_requests(result.service, dataclasses.replace(result.sent, **first))


def served_again(before: ServeResult, changes: Changes) -> ServeResult | None:
    """Serve the same requests after some changes, by dotted names; nothing where they are impossible."""
    by_part: dict[str, Changes] = {"engine": {}, "deployment": {}, "scenario": {}}
    for name, value in changes.items():
        part, _, path = name.partition(".")
        by_part[part if part in by_part else "scenario"][path if part in by_part else name] = value
    try:
        return serve_requests(_service(before.service, by_part), before.sent)
    except InputError:
        return None


def _service(service: Service, changes: Mapping[str, Changes]) -> Service:
    """Change a service; a cache that was as large as fits is again."""
    deployment = dataclasses.replace(service.deployment, **changes["deployment"])
    engines = tuple(dataclasses.replace(engine, **changes["engine"]) for engine in service.engines)
    known = _known_services(service)
    if known is None:
        return Service(service.tables, engines, deployment)
    services = _changed_services(known, changes["scenario"])
    if service.engines[0].kv_blocks == known.kv_blocks(service.engines[0]) and "kv_blocks" not in changes["engine"]:
        engines = tuple(dataclasses.replace(engine, kv_blocks=services.kv_blocks(engine)) for engine in engines)
    tables = service.tables if services is known else services.of(engines[0], deployment).tables
    return Service(tables, engines, deployment)


def _known_services(service: Service) -> Services | None:
    """The services of the scenario, where the costs are those of one."""
    costs = service.tables.costs[0]
    return Services(costs.scenario) if isinstance(costs, ScenarioCosts) else None


def _changed_services(known: Services, changes: Changes) -> Services:
    """Change the scenario; where the degree changes, one replica stands for those that the deployment has."""
    if not changes:
        return known
    alone = {"data": 1, "batch_size": 1} if "tensor" in changes else {}
    return Services(known.costs.scenario.with_(**changes, **alone))


def _candidates(before: ServeResult) -> Iterator[_Candidate]:
    service = before.service
    engine, deployment, costs = service.engines[-1].resolved, service.deployment, service.tables.costs[0]
    yield from _of_engine(engine, before)
    yield from _of_deployment(deployment, service.lanes)
    if isinstance(costs, ScenarioCosts):
        yield from _of_scenario(costs.scenario, deployment, costs.ranks_in_step)


def _of_engine(engine: Engine, before: ServeResult) -> Iterator[_Candidate]:
    budget, most = engine.token_budget or 2, engine.max_sequences or 2
    kind = "engine"
    yield _Candidate(kind, {"engine.token_budget": 2 * budget}, "a step takes more of the prompts")
    yield _Candidate(kind, {"engine.token_budget": budget // 2}, "steps are shorter, so decodes wait less for prompts")
    yield _Candidate(kind, {"engine.max_sequences": 2 * most}, "more requests run at once")
    yield _Candidate(kind, {"engine.max_sequences": most // 2}, "fewer requests share a step")
    chunks = "prompts are no longer cut" if engine.chunked else "prompts fill the rest of each step"
    yield _Candidate(kind, {"engine.chunked": not engine.chunked}, chunks)
    mixed = "prompts no longer share steps with decodes" if engine.mixed else "decodes go on beside prompts"
    yield _Candidate(kind, {"engine.mixed": not engine.mixed}, mixed)
    if engine.batch_wait_steps:
        yield _Candidate(kind, {"engine.batch_wait_steps": 0}, "prompts are not held")
    if engine.kv_blocks is not None:
        full = engine.reservation == "full"
        kept = "requests enter with room for their prompt" if full else "no request is preempted"
        yield _Candidate("cache", {"engine.reservation": "grow" if full else "full"}, kept)
    if engine.preemption == "recompute" and before.outcome.preemptions.any():
        yield _Candidate("cache", {"engine.preemption": "swap"}, "the cache of preempted requests is kept by the host")
    if not engine.prefix_cache and before.sent.prefix_index[1]:
        yield _Candidate("cache", {"engine.prefix_cache": True}, "common beginnings are computed once")


def _of_deployment(deployment: Deployment, lanes: int) -> Iterator[_Candidate]:
    if deployment.replicas * lanes > 1:
        for router in ROUTERS:
            if router != deployment.router:
                yield _Candidate("router", {"deployment.router": router}, "requests are spread in another way")
    twice = {"deployment.replicas": 2 * deployment.replicas}
    yield _Candidate("devices", twice, "twice as many replicas share the requests")
    if deployment.prefill_replicas:
        more = {"deployment.prefill_replicas": 2 * deployment.prefill_replicas}
        yield _Candidate("devices", more, "twice as many replicas compute prompts")


def _of_scenario(scenario: Scenario, deployment: Deployment, ranks_in_step: int) -> Iterator[_Candidate]:
    if DTYPE_BYTES[scenario.kv_dtype] > 1:
        reason = "keys and values take half of the bytes; what that does to answers is not modelled"
        yield _Candidate("cache", {"kv_dtype": "fp8"}, reason)
    if ranks_in_step > 1:
        return
    tensor, replicas = scenario.plan.tensor, deployment.replicas
    yield _Candidate("devices", {"tensor": 2 * tensor}, "twice as many GPUs share each step")
    if deployment.prefill_replicas:
        return
    if replicas % 2 == 0:
        changes = {"tensor": 2 * tensor, "deployment.replicas": replicas // 2}
        yield _Candidate("plan", changes, "the same GPUs in half as many replicas")
    if tensor % 2 == 0:
        changes = {"tensor": tensor // 2, "deployment.replicas": 2 * replicas}
        yield _Candidate("plan", changes, "the same GPUs in twice as many replicas")
