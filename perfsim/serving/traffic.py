"""What clients send: closed loops, open loops, bursts, recorded traces. All draws come from a seed, to the bit."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from perfsim.errors import Faults
from perfsim.serving.cards import fields_card
from perfsim.serving.requests import NO_PREFIX, Requests
from perfsim.serving.trace_file import read_trace
from perfsim.units import MAX_SIZE

__all__ = ["Bursts", "ClosedLoop", "OpenLoop", "Trace", "Traffic"]


_TITLES = {
    "ClosedLoop": "A closed loop: clients that each have one request in flight",
    "OpenLoop": "An open loop: requests that arrive at random",
    "Bursts": "Bursts: several requests at once",
    "Trace": "A trace: recorded requests",
}
"""What kinds of traffic call themselves in a notebook."""


class Traffic(Protocol):
    """Whatever makes requests."""

    def requests(self) -> Requests:
        """Give the requests; the same ones each time."""


@dataclass(frozen=True)
class _Drawn:
    """Requests whose lengths are drawn.

    Attributes
    ----------
    prompt_tokens, output_tokens : int
        Nominal lengths.
    num_requests : int, optional
    shortest : float
        Lengths are whole numbers, uniform between this share of the nominal one and the nominal one itself; 1 for
        requests that are all alike.
    prefix_tokens : int
        Tokens at the beginning of the prompts that requests share, such as a system prompt.
    num_prefixes : int
        How many different such beginnings there are; each request draws one.
    seed : int
    """

    prompt_tokens: int
    output_tokens: int
    num_requests: int | None = None
    shortest: float = 0.8
    prefix_tokens: int = 0
    num_prefixes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        faults = Faults("traffic")
        for name in ("prompt_tokens", "output_tokens", "num_prefixes"):
            faults.integer(name, getattr(self, name), maximum=MAX_SIZE)
        if self.num_requests is not None:
            faults.integer("num_requests", self.num_requests, maximum=MAX_SIZE)
        faults.number("shortest", self.shortest, at_most=1.0)
        faults.integer("prefix_tokens", self.prefix_tokens, minimum=0, maximum=MAX_SIZE)
        faults.integer("seed", self.seed, minimum=0)
        self._check(faults)
        faults.raise_if_any()
        shortest_prompt = math.ceil(self.shortest * self.prompt_tokens)
        if self.prefix_tokens > shortest_prompt:
            faults.add("prefix_tokens", self.prefix_tokens, f"must be at most the shortest prompt, {shortest_prompt}")
        faults.raise_if_any()

    def _check(self, faults: Faults) -> None:
        """Record faults of the further fields."""

    def _repr_html_(self) -> str:
        return fields_card(_TITLES[type(self).__name__], self)

    def _make(self, arrival_s: NDArray[np.float64], random: Generator, concurrency: int | None = None) -> Requests:
        count = len(arrival_s)
        prompt, output = (
            random.integers(math.ceil(self.shortest * most), most, count, endpoint=True)
            for most in (self.prompt_tokens, self.output_tokens)
        )
        shares = self.prefix_tokens > 0
        return Requests(
            arrival_s=arrival_s,
            prompt_tokens=prompt,
            output_tokens=output,
            prefix_id=random.integers(0, self.num_prefixes, count) if shares else np.full(count, NO_PREFIX),
            prefix_tokens=np.full(count, self.prefix_tokens),
            concurrency=concurrency,
        )


@dataclass(frozen=True, kw_only=True)
class ClosedLoop(_Drawn):
    """A fixed number of clients, each of which sends its next request when its last one has ended.

    Attributes
    ----------
    concurrency : int
        Clients.
    num_requests : int, optional
        In all; ten for each client when left out.
    ramp_s : float
        The clients begin one after the other, evenly over this time; 0 for all at once.

    Examples
    --------
    >>> traffic = ClosedLoop(concurrency=4, prompt_tokens=1024, output_tokens=128)
    >>> len(traffic.requests()), int(traffic.requests().prompt_tokens.min()) >= 820
    (40, True)
    """

    concurrency: int = 1
    ramp_s: float = 0.0

    def _check(self, faults: Faults) -> None:
        faults.integer("concurrency", self.concurrency, maximum=MAX_SIZE)
        faults.quantities("ramp_s", self.ramp_s, zero=True)

    def requests(self) -> Requests:
        """Give the requests; only the first of each client has a time of its own."""
        count = self.num_requests or 10 * self.concurrency
        arrival_s = np.minimum(np.arange(count) / self.concurrency, 1.0) * self.ramp_s
        return self._make(arrival_s, np.random.default_rng(self.seed), self.concurrency)


@dataclass(frozen=True, kw_only=True)
class OpenLoop(_Drawn):
    """Requests that arrive at random, whether or not others have ended.

    Attributes
    ----------
    requests_per_s : float
        Mean rate.
    num_requests : int, optional
        1000 when left out.
    variation : float
        Coefficient of variation of the times between arrivals, which follow a gamma distribution: 1 for Poisson
        arrivals, above 1 for bursts, 0 for an even flow.

    Examples
    --------
    >>> requests = OpenLoop(requests_per_s=20, prompt_tokens=512, output_tokens=64, seed=7).requests()
    >>> bool(45 < requests.arrival_s[-1] < 55)
    True
    """

    requests_per_s: float = 1.0
    variation: float = 1.0

    def _check(self, faults: Faults) -> None:
        faults.number("requests_per_s", self.requests_per_s)
        faults.quantities("variation", self.variation, zero=True)

    def requests(self) -> Requests:
        """Draw the times between arrivals, then the lengths."""
        random, count = np.random.default_rng(self.seed), self.num_requests or 1000
        mean_s, shape = 1 / self.requests_per_s, self.variation**-2 if self.variation else math.inf
        gaps_s = random.gamma(shape, mean_s / shape, count) if self.variation else np.full(count, mean_s)
        return self._make(np.cumsum(gaps_s), random)


@dataclass(frozen=True, kw_only=True)
class Bursts(_Drawn):
    """Several requests at once, at fixed times.

    Attributes
    ----------
    size : int
        Requests of a burst.
    num_requests : int, optional
        In all; one burst when left out.
    interval_s : float
        From one burst to the next.

    Examples
    --------
    >>> Bursts(size=2, num_requests=5, interval_s=3, prompt_tokens=64, output_tokens=8).requests().arrival_s.tolist()
    [0.0, 0.0, 3.0, 3.0, 6.0]
    """

    size: int = 1
    interval_s: float = 1.0

    def _check(self, faults: Faults) -> None:
        faults.integer("size", self.size, maximum=MAX_SIZE)
        faults.number("interval_s", self.interval_s)

    def requests(self) -> Requests:
        """Give the requests, burst by burst."""
        arrival_s = np.arange(self.num_requests or self.size) // self.size * self.interval_s
        return self._make(np.asarray(arrival_s, np.float64), np.random.default_rng(self.seed))


@dataclass(frozen=True)
class Trace:
    """Recorded requests from a file; see `perfsim.serving.trace_file.read_trace` for its columns.

    Attributes
    ----------
    path : str or Path
        Of a ``.csv``, ``.jsonl`` or ``.parquet`` file.
    speed : float
        How many times faster than recorded the requests arrive.
    """

    path: str | Path
    speed: float = 1.0

    def __post_init__(self) -> None:
        faults = Faults("traffic")
        if not isinstance(self.path, str | Path):
            faults.add("path", self.path, "must be the path of a file")
        faults.number("speed", self.speed)
        faults.raise_if_any()

    @cached_property
    def _recorded(self) -> Requests:
        return read_trace(Path(self.path))

    def _repr_html_(self) -> str:
        return fields_card(_TITLES["Trace"], self)

    def requests(self) -> Requests:
        """Read the file once, and hasten its arrivals."""
        recorded = self._recorded
        return dataclasses.replace(recorded, arrival_s=recorded.arrival_s / self.speed)
