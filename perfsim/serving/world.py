"""The state of a fast simulation: records that compiled code works on, request by request and replica by replica."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.serving.deployment import ROUTERS, Deployment
from perfsim.serving.outcome import NEVER
from perfsim.serving.policies import Engine
from perfsim.serving.requests import Requests
from perfsim.serving.step_time import CHUNK_RECORD, Tables
from perfsim.units import PICOSECONDS_PER_SECOND

__all__ = [
    "BOTH", "CROSSING", "DECODES", "FIRST", "LAST", "NOBODY", "PREFILLS", "UNLIMITED", "Stores", "World",
    "make_world", "rules_of",
]  # fmt: skip

Records = NDArray[Any]

NOBODY = -1
UNLIMITED = 10**12
"""Blocks of a cache that has no limit."""
BOTH, PREFILLS, DECODES = range(3)
"""What a pool does."""
FIRST, LAST, CROSSING = range(3)
"""Rows of the calendar; see `Stores`."""

_INT, _FLOAT, _FLAG = np.int64, np.float64, np.bool_

RULES = np.dtype(
    [
        *((name, _INT) for name in ("token_budget", "max_sequences", "wait_steps", "block", "blocks", "role", "pool")),
        *((name, _FLAG) for name in ("chunked", "mixed", "static", "full", "swap", "prefix_cache")),
        *((name, _FLOAT) for name in ("wait_tokens", "step_s", "decode_layers_s", "prefill_layers_s", "sequence_s")),
        *((name, _FLOAT) for name in ("prefill_token_s", "prompt_s", "swap_block_s")),
    ]
)

REQUEST = np.dtype(
    [
        (name, _INT)
        for name in (
            # What was asked for.
            "sent", "prompt", "output", "prefix", "prefix_tokens",
            # What came of it: times in picoseconds.
            "admitted", "first", "finish", "replica", "prefill_replica", "cached_prompt", "preemptions",
            # Where it stands: generated tokens; computed tokens of the prompt; its target, with what is computed again;
            # blocks shared; cache that came with it; and, of a decode: tokens cached and steps done when it joined, and
            # the step at which it ends.
            "generated", "done", "target", "shared", "ready", "base", "joined", "last",
            # Neighbours in the queue or among those that end at the same step, and in the order of joining.
            "next", "before", "younger", "older",
        )
    ]
)  # fmt: skip

REPLICA = np.dtype(
    [
        *(
            (name, _INT)
            for name in (
                "index", "pool", "load", "waiting", "head", "tail", "running", "cached", "steps_done", "youngest",
                "oldest", "partial", "free", "evictable", "coldest", "warmest", "held",
                # The step, or run of steps, that is planned or under way.
                "start", "end", "steps", "sequences", "context", "chunks", "tokens", "started", "ended",
                "busy", "prompt_busy", "ran", "used", "used_most", "steps_all",
            )
        ),
        *((name, _FLAG) for name in ("planned", "under_way", "holding", "preempted", "closed")),
        ("extra_s", _FLOAT),
    ]
)  # fmt: skip

PREFIX = np.dtype([(name, _INT) for name in ("blocks", "users", "colder", "warmer")])
EVENT = np.dtype([("time", _INT), ("request", _INT)])
STEP = np.dtype(
    [
        (name, _INT)
        for name in (
            "replica", "start", "end", "steps", "sequences", "context", "chunks", "tokens", "waiting", "used_blocks",
            "running", "started", "moving",
        )
    ]
)  # fmt: skip
CLOCK = np.dtype(
    [
        *(
            (name, _INT)
            for name in ("now", "limit", "arriving", "first_later", "later", "finished", "events", "logged")
        ),
        *((name, _INT) for name in ("request_ps", "latency_ps", "token_ps", "router", "spill", "turn", "decode_turn")),
        *((name, _INT) for name in ("first_decoder",)),
        *((name, _FLAG) for name in ("skip", "log")),
    ]
)


class Stores(NamedTuple):
    """What the steps of a replica read and change beside the replica itself.

    Attributes
    ----------
    requests : records, shape (requests,)
    calendar : ndarray of int, shape (replicas, 3, slots)
        By decode steps: `FIRST` and `LAST` request that ends at a step, and how many decodes need a new block at it
        (`CROSSING`). A slot holds every step whose number leaves the same rest, for blocks that of their tokens.
    chunks : records, shape (replicas, sequences of a step)
    prefixes : records, shape (replicas, prefixes)
    """

    requests: Records
    calendar: NDArray[np.int64]
    chunks: Records
    prefixes: Records


class World(NamedTuple):
    """Everything that a simulation reads and changes.

    Attributes
    ----------
    stores : Stores
    rules : records, shape (pools,)
        Of the engines.
    tables : Tables
    replicas : records, shape (replicas,)
    homes : ndarray of int, shape (prefixes,)
        Where the router sent the last request with a prefix.
    events : records
        A heap of requests that will arrive: those of a closed loop, and transfers.
    clock : records, shape (1,)
    log : records
        Steps that are over.
    """

    stores: Stores
    rules: Records
    tables: Tables
    replicas: Records
    homes: NDArray[np.int64]
    events: Records
    clock: Records
    log: Records


def rules_of(engine: Engine, num_layers: int, role: int = BOTH, pool: int = 0) -> Records:
    """One record of numbers from an engine."""
    engine, host, record = engine.resolved, engine.host, np.zeros((), RULES)
    budget = engine.token_budget or 0
    values = {
        "token_budget": budget, "max_sequences": engine.max_sequences, "wait_steps": engine.batch_wait_steps,
        "wait_tokens": engine.batch_wait_fill * budget, "block": engine.kv_block_tokens,
        "blocks": engine.kv_blocks or UNLIMITED, "role": role, "pool": pool,
        "chunked": engine.chunked, "mixed": engine.mixed, "static": engine.policy == "static",
        "full": engine.reservation == "full", "swap": engine.preemption == "swap", "prefix_cache": engine.prefix_cache,
        "step_s": host.step_s, "decode_layers_s": host.decode_layer_s * num_layers,
        "prefill_layers_s": host.prefill_layer_s * num_layers, "sequence_s": host.sequence_s,
        "prefill_token_s": host.prefill_token_s, "prompt_s": host.prompt_s, "swap_block_s": host.swap_block_s,
    }  # fmt: skip
    for name, value in values.items():
        record[name] = value
    return record


def make_world(
    requests: Requests, engines: Sequence[Engine], layers: Sequence[int], tables: Tables, deployment: Deployment,
    *, skip: bool, log_capacity: int = 0, limit_ps: int = NEVER,
) -> World:  # fmt: skip
    """Set up the beginning of a simulation."""
    roles = (PREFILLS, DECODES) if deployment.prefill_replicas else (BOTH,)
    rules = np.array([rules_of(*each) for each in zip(engines, layers, roles, range(2), strict=False)], RULES)
    prefix, num_prefixes = requests.prefix_index
    replicas = _replicas(rules, deployment)
    count, most = len(replicas), int(rules["max_sequences"].max())
    slots = 1 << max(int(requests.output_tokens.max() + 1), int(rules["block"].max())).bit_length()
    calendar = np.full((count, 3, slots), NOBODY)
    calendar[:, CROSSING] = 0
    return World(
        stores=Stores(
            requests=_requests(requests, prefix),
            calendar=calendar,
            chunks=np.zeros((count, min(most, len(requests)) + 1), CHUNK_RECORD),
            prefixes=np.zeros((count, num_prefixes), PREFIX),
        ),
        rules=rules,
        tables=tables,
        replicas=replicas,
        homes=np.full(num_prefixes, NOBODY),
        events=np.zeros(len(requests) + 1 if requests.concurrency or len(roles) > 1 else 1, EVENT),
        clock=_clock(requests, engines[0], deployment, skip=skip, log=log_capacity > 0, limit_ps=limit_ps),
        log=np.zeros(log_capacity, STEP),
    )


def _requests(requests: Requests, prefix: NDArray[np.int64]) -> Records:
    records = np.zeros(len(requests), REQUEST)
    records["sent"], records["prompt"], records["output"] = (
        requests.arrival_ps, requests.prompt_tokens, requests.output_tokens,
    )  # fmt: skip
    records["prefix"], records["prefix_tokens"] = prefix, requests.prefix_tokens
    for name in ("admitted", "first", "finish", "replica", "prefill_replica"):
        records[name] = NOBODY
    for name in ("next", "before", "younger", "older"):
        records[name] = NOBODY
    return records


def _replicas(rules: Records, deployment: Deployment) -> Records:
    pools = np.repeat(
        np.arange(len(rules)), [count for count in (deployment.prefill_replicas, deployment.replicas) if count]
    )
    records = np.zeros(len(pools), REPLICA)
    records["index"], records["pool"] = np.arange(len(pools)), pools
    records["free"] = rules["blocks"][pools]
    for name in ("head", "tail", "youngest", "oldest", "partial", "coldest", "warmest"):
        records[name] = NOBODY
    return records


def _clock(
    requests: Requests, engine: Engine, deployment: Deployment, *, skip: bool, log: bool, limit_ps: int
) -> Records:
    ps, clock = PICOSECONDS_PER_SECOND, np.zeros(1, CLOCK)
    values = {
        "limit": limit_ps, "first_later": min(requests.concurrency or len(requests), len(requests)),
        "later": min(requests.concurrency or len(requests), len(requests)),
        "request_ps": round(engine.host.request_s * ps), "latency_ps": round(deployment.transfer_latency_s * ps),
        "token_ps": round(deployment.transfer_token_s * ps), "router": ROUTERS.index(deployment.router),
        "spill": deployment.spill, "first_decoder": deployment.prefill_replicas, "skip": skip, "log": log,
    }  # fmt: skip
    for name, value in values.items():
        clock[name] = value
    return clock
