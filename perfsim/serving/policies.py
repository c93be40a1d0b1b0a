"""The engine's scheduler: how it fills its steps and how it keeps its KV cache."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from perfsim import html
from perfsim.errors import Faults
from perfsim.serving.cards import field_texts
from perfsim.serving.engine_times import EngineTimes, known_times
from perfsim.units import MAX_SIZE

__all__ = ["POLICIES", "Engine"]

RESERVATIONS = ("full", "grow")
PREEMPTIONS = ("recompute", "swap")

POLICIES: dict[str, dict[str, Any]] = {
    "vllm": {
        "token_budget": 8192, "chunked": True, "mixed": True, "max_sequences": 1024, "reservation": "grow",
        "kv_block_tokens": 16, "prefix_cache": True, "times": "vllm-0.18-0.19",
    },
    "trtllm": {
        "token_budget": 8192, "chunked": False, "mixed": True, "max_sequences": 2048, "reservation": "full",
        "kv_block_tokens": 32, "prefix_cache": True, "times": "trtllm-2025-10",
    },
    "sglang": {
        "token_budget": 8192, "chunked": True, "mixed": False, "max_sequences": 1024, "reservation": "grow",
        "kv_block_tokens": 1, "prefix_cache": True, "times": "vllm-0.18-0.19",
    },
    "static": {
        "token_budget": 131_072, "chunked": False, "mixed": False, "max_sequences": 64, "reservation": "full",
        "kv_block_tokens": 16, "prefix_cache": False, "times": "none",
    },
}  # fmt: skip
"""What each policy does unless told otherwise: the libraries' own defaults on GPUs of 80 GB and more.

vLLM: ``max_num_batched_tokens``, ``max_num_seqs``, chunked prefill, blocks of 16 (V1). TensorRT-LLM:
``max_num_tokens``, ``max_batch_size``, ``GUARANTEED_NO_EVICT``, blocks of 32. SGLang: ``chunked_prefill_size``, prompts
before decodes, pages of one token; its engine times are not measured, so those of vLLM stand in for them.
"""


@dataclass(frozen=True)
class Engine:
    """How an engine schedules. What is left out is the policy's own default; `resolved` fills it in.

    Attributes
    ----------
    policy : str
        ``vllm``, ``trtllm``, ``sglang``, or ``static``: a batch is filled when the engine is empty and no request
        enters it until all of it has ended.
    token_budget : int, optional
        Most tokens of a step: decodes count one each.
    chunked : bool, optional
        Whether a prompt is cut where the budget ends; else it waits until it fits whole.
    mixed : bool, optional
        Whether decodes go on in steps that take prompts; else prompts go first and decodes wait.
    max_sequences : int, optional
        Most sequences that run at once.
    batch_wait_steps : int
        How many steps waiting prompts are held while anything decodes; 0 for not at all.
    batch_wait_fill : float
        The share of the budget from which on a step is full enough to hold prompts no longer.
    reservation : str, optional
        ``full``: a request enters when there is room for its prompt and its whole output. ``grow``: for its prompt;
        then block by block, and where none is left, the request that entered last is preempted.
    preemption : str
        ``recompute``: its cache is dropped and computed again. ``swap``: moved to the host's memory and back.
    prefix_cache : bool, optional
        Whether blocks of a prefix that requests share are computed and stored once, and kept until room is needed.
    kv_block_tokens : int, optional
        Tokens of a block.
    kv_blocks : int, optional
        Blocks of a replica; as many as anybody asks for when left out.
    times : EngineTimes or str, optional
        Times of the engine's host, or a name in ``perfsim.serving.engine_times.known_times``.

    Examples
    --------
    >>> engine = Engine("trtllm", token_budget=16_384, batch_wait_steps=20)
    >>> engine.resolved.chunked, engine.resolved.reservation
    (False, 'full')
    """

    policy: str = "vllm"
    token_budget: int | None = None
    chunked: bool | None = None
    mixed: bool | None = None
    max_sequences: int | None = None
    batch_wait_steps: int = 0
    batch_wait_fill: float = 0.9
    reservation: str | None = None
    preemption: str = "recompute"
    prefix_cache: bool | None = None
    kv_block_tokens: int | None = None
    kv_blocks: int | None = None
    times: EngineTimes | str | None = None

    def __post_init__(self) -> None:
        faults = Faults("engine")
        faults.choice("policy", self.policy, POLICIES)
        for name in ("token_budget", "max_sequences", "kv_block_tokens", "kv_blocks"):
            if getattr(self, name) is not None:
                faults.integer(name, getattr(self, name), maximum=MAX_SIZE)
        for name in ("chunked", "mixed", "prefix_cache"):
            if getattr(self, name) is not None:
                faults.flag(name, getattr(self, name))
        faults.integer("batch_wait_steps", self.batch_wait_steps, minimum=0, maximum=MAX_SIZE)
        faults.number("batch_wait_fill", self.batch_wait_fill, at_most=1.0)
        if self.reservation is not None:
            faults.choice("reservation", self.reservation, RESERVATIONS)
        faults.choice("preemption", self.preemption, PREEMPTIONS)
        if isinstance(self.times, str):
            faults.choice("times", self.times, known_times())
        elif self.times is not None:
            faults.instance("times", self.times, EngineTimes)
        faults.raise_if_any()
        self._check_together()

    def _check_together(self) -> None:
        """Check what only the resolved fields tell."""
        faults, engine = Faults("engine"), self.resolved
        if engine.mixed and engine.token_budget < engine.max_sequences:  # type: ignore[operator]
            faults.add(
                "token_budget", engine.token_budget, f"must be at least max_sequences = {engine.max_sequences}",
                "every decode takes a token of the budget",
            )  # fmt: skip
        if self.batch_wait_steps and not engine.mixed:
            faults.add(
                "batch_wait_steps", self.batch_wait_steps, "must be 0 where prompts go before decodes",
                "nothing decodes while a prompt waits; give mixed=True",
            )  # fmt: skip
        faults.raise_if_any()

    @property
    def resolved(self) -> Engine:
        """The same engine with the policy's defaults filled in."""
        defaults = POLICIES[self.policy]
        filled = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        if "max_sequences" in filled and self.token_budget is not None:
            filled["max_sequences"] = min(filled["max_sequences"], self.token_budget)
        return dataclasses.replace(self, **filled) if filled else self

    @property
    def host(self) -> EngineTimes:
        """Times of the engine's host."""
        times = self.resolved.times
        return known_times()[times] if isinstance(times, str) else times or EngineTimes()

    def _repr_html_(self) -> str:
        """The fields and whether they are the policy's own, and what its host takes."""
        given, resolved = (dict(field_texts(one, without=["policy", "times"])) for one in (self, self.resolved))
        rows = [(name, text, "" if given[name] == text else f"{self.policy}'s own") for name, text in resolved.items()]
        host, times = self.host, self.resolved.times
        takes = {name: text for name, text in field_texts(host, without=["source"]) if getattr(host, name)}
        title = f"Its host {times}" if isinstance(times, str) else "Its host"
        below = html.card(title, html.facts(takes), html.notes([host.source]))
        return html.card(f"Engine with the policy {self.policy}", html.table((), rows), below)
