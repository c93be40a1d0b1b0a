"""The requests of a run, column by column: what clients send, and when."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import Faults
from perfsim.units import MAX_SIZE, picoseconds

__all__ = ["NO_PREFIX", "Requests"]

NO_PREFIX = -1
_MOST_SECONDS = 4e6  # a run has to end before its picoseconds leave 64 bits


def _none() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests in the order in which they are sent.

    Attributes
    ----------
    arrival_s : ndarray, shape (requests,)
        When a client sends each, not falling. In a closed loop only the first `concurrency` count; each later one is
        sent when one before it ends.
    prompt_tokens, output_tokens : ndarray of int, shape (requests,)
        At least 1 each.
    prefix_id : ndarray of int, shape (requests,), optional
        Requests with the same number begin with the same tokens; -1 for those that share nothing.
    prefix_tokens : ndarray of int, shape (requests,), optional
        How many tokens they share.
    concurrency : int, optional
        Requests that are in flight at any time in a closed loop; None in an open one.

    Raises
    ------
    InputError
        With all faults together: columns of different lengths, times that are negative or not in order, lengths below
        1.
    """

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    prefix_id: NDArray[np.int64] = field(default_factory=_none)
    prefix_tokens: NDArray[np.int64] = field(default_factory=_none)
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if not len(self.prefix_id) and len(self.arrival_s):
            object.__setattr__(self, "prefix_id", np.full(len(self.arrival_s), NO_PREFIX))
            object.__setattr__(self, "prefix_tokens", np.zeros(len(self.arrival_s), np.int64))
        faults = Faults("requests")
        if not len(self.arrival_s):
            faults.add("arrival_s", [], "must hold at least one request")
        lengths = {f.name: len(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "concurrency"}
        if len(set(lengths.values())) > 1:
            faults.add("", lengths, "must have columns of the same length")
        faults.raise_if_any()
        self._check_values(faults)
        faults.raise_if_any()

    def __len__(self) -> int:
        return len(self.arrival_s)

    def _check_values(self, faults: Faults) -> None:
        first_fault(faults, "arrival_s", self.arrival_s, self.arrival_s >= 0, "must not be negative")
        first_fault(faults, "arrival_s", self.arrival_s, self.arrival_s <= _MOST_SECONDS, "must be within 46 days")
        in_order = np.concatenate([[True], np.diff(self.arrival_s) >= 0])
        if not np.isnan(self.arrival_s).any():
            first_fault(
                faults, "arrival_s", self.arrival_s, in_order, "must not be before the arrival above it",
                way_out="sort the requests by their arrival",
            )  # fmt: skip
        for name in ("prompt_tokens", "output_tokens"):
            column = getattr(self, name)
            good = (column >= 1) & (column <= MAX_SIZE)
            first_fault(faults, name, column, good, f"must be at least 1 and at most {MAX_SIZE:,}")
        # A prompt of no tokens has its fault already.
        shared = (self.prefix_tokens >= 0) & (self.prefix_tokens <= np.maximum(self.prompt_tokens, 1))
        first_fault(faults, "prefix_tokens", self.prefix_tokens, shared, "must be between 0 and the prompt's tokens")
        if self.concurrency is not None:
            faults.integer("concurrency", self.concurrency, maximum=MAX_SIZE)

    @property
    def arrival_ps(self) -> NDArray[np.int64]:
        """When each is sent, in picoseconds; -1 for those that a closed loop sends later."""
        arrival_ps = picoseconds(self.arrival_s)
        if self.concurrency is not None:
            arrival_ps[self.concurrency :] = -1
        return arrival_ps

    @property
    def prefix_index(self) -> tuple[NDArray[np.int64], int]:
        """The prefixes numbered from 0 (-1 for none), and how many there are."""
        shares = (self.prefix_id >= 0) & (self.prefix_tokens > 0)
        index = np.full(len(self), NO_PREFIX)
        known, index[shares] = np.unique(self.prefix_id[shares], return_inverse=True)
        return index, len(known)

    def check_context(self, most_tokens: int, faults: Faults) -> None:
        """Record the first request that is longer than a model's context."""
        total = self.prompt_tokens + self.output_tokens
        first_fault(
            faults, "prompt_tokens + output_tokens", total, total <= most_tokens,
            f"must be at most the model's context of {most_tokens:,} tokens", way_out="leave such requests out",
        )  # fmt: skip


def first_fault(
    faults: Faults, name: str, values: NDArray[Any], good: NDArray[np.bool_], allowed: str, *, way_out: str = ""
) -> None:
    """Record the first value of a column that is not good, with its row and how many more there are."""
    wrong = np.flatnonzero(~good)
    if len(wrong):
        more = f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""
        faults.add(f"{name}[{wrong[0]}]", values[wrong[0]].item(), f"{allowed}{more}", way_out)
