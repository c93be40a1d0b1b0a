"""Tables of step costs, filled where a simulation looks, and shared by all runs over the same costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import SimulationError
from perfsim.serving.costs import StepCosts
from perfsim.serving.sequence import Step
from perfsim.serving.step_time import (
    CHUNK,
    CHUNK_RECORD,
    DECODE,
    HEAD,
    KNOTS,
    LINEAR,
    WHOLE,
    Batch,
    Tables,
    decode_seconds,
    step_seconds,
    to_ps,
)  # fmt: skip

__all__ = ["StepTables"]

Array = NDArray[np.float64]

_COUNTS, _DOUBLINGS = 1024, 3
"""Neighbours by count that are filled together at first, and how often their number doubles."""
_SEQUENCES = 32
"""Numbers of sequences that are filled together, with an octave of contexts."""


class StepTables:
    """The tables of one or two pools of replicas.

    Parameters
    ----------
    costs : StepCosts
        Of each pool: one, or those of prefill and of decode.

    Examples
    --------
    >>> from perfsim.serving.costs import RooflineCosts
    >>> tables = StepTables(RooflineCosts())
    >>> tables.reserve(sequences=64, tokens=8192, context_tokens=2048)
    >>> tables.arrays.decode.shape
    (1, 65, 194)
    """

    def __init__(self, *costs: StepCosts) -> None:
        self.costs: Sequence[StepCosts] = costs
        pools = len(costs)
        empty = np.empty((pools, 0, 0))
        self.arrays = Tables(np.empty((pools, 4, 0)), empty, empty, np.zeros(4, np.int64))
        self._times_missed = np.zeros((pools, 4), np.int64)

    def reserve(self, *, sequences: int, tokens: int, context_tokens: int) -> None:
        """Make room for as many sequences of a step, tokens of a step, and tokens of a sequence; keep what is known."""
        old, knots = self.arrays, KNOTS * math.ceil(math.log2(context_tokens + 1)) + 2
        self.arrays = Tables(
            counts=_grown(old.counts, 4, max(sequences, tokens) + 1),
            decode=_grown(old.decode, sequences + 1, knots),
            chunk=_grown(old.chunk, knots, knots),
            missing=old.missing,
        )
        self.arrays.counts[:, HEAD, 0] = 0.0  # a step in which no prompt ends and nothing decodes

    def fill_missing(self) -> None:
        """Fill the entry that a look-up missed, and its neighbours.

        The more often a table lacks something, the more is filled at once: a call costs as much as hundreds of points.
        What is known stays as it is, to the bit.
        """
        table, pool, row, column = self.arrays.missing.tolist()
        if table in {DECODE, CHUNK}:
            place, values = self._around_knots(table, pool, row, column)
        else:
            place, values = self._around_count(table, pool, row)
        unknown = np.isnan(place)
        place[unknown] = _checked(np.asarray(values)).reshape(place.shape)[unknown]

    def _around_count(self, table: int, pool: int, count: int) -> tuple[Array, Array]:
        """Entries around a count, as a view of their table, and what they should be."""
        size = _COUNTS << min(self._times_missed[pool, table], _DOUBLINGS)
        self._times_missed[pool, table] += 1
        counts = _block(count, size, self.arrays.counts.shape[2], first=1)
        place, points = self.arrays.counts[pool, table, counts[0] : counts[-1] + 1], counts.astype(float)
        costs = self.costs[pool]
        if table == HEAD:
            return place, costs.head_s(points)
        if table == WHOLE:
            return place, costs.prefill_attention_s(points, points)
        return place, costs.linear_s(points, prompts=table == LINEAR)

    def _around_knots(self, table: int, pool: int, row: int, column: int) -> tuple[Array, Array]:
        """Entries around a pair of knots, as a view of their table, and what they should be."""
        array = self.arrays.decode if table == DECODE else self.arrays.chunk
        # Look-ups need a knot and the next one.
        columns = _block(column, KNOTS, array.shape[2] - 1, beyond=1)
        if table == DECODE:
            rows = _block(row, _SEQUENCES, array.shape[1], first=1)
        else:
            rows = _block(row, KNOTS, array.shape[1] - 1, beyond=1)
        place = array[pool, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        first, second = np.meshgrid(rows if table == DECODE else _knots(rows), _knots(columns), indexing="ij")
        count, context = first.ravel().astype(float), second.ravel()
        if table == DECODE:
            return place, self.costs[pool].decode_attention_s(count, count * context)
        return place, self.costs[pool].prefill_attention_s(count, count + context)

    def step_ps(self, rules: NDArray[Any], step: Step) -> int:
        """Time of one step in picoseconds, host and moves of caches included.

        Parameters
        ----------
        rules : record
            Of the engine; see `perfsim.serving.world.rules_of`.
        step : Step
        """
        decodes, context = len(step.decodes), step.context
        chunks = np.array([(chunk.sequence.number, chunk.new, chunk.before) for chunk in step.chunks], CHUNK_RECORD)
        batch = Batch(decodes, context, len(chunks), step.started, step.ended)
        while True:
            if len(chunks):
                seconds = step_seconds(self.arrays, rules[()], batch, chunks)
            else:
                seconds = decode_seconds(self.arrays, rules[()], decodes, context)
            if not math.isnan(seconds):
                return int(to_ps(seconds + step.extra_s))
            self.fill_missing()


def _grown(array: NDArray[np.float64], *shape: int) -> NDArray[np.float64]:
    """Enlarge a table where it is too small; new entries are NaN."""
    larger = tuple(np.maximum(array.shape[1:], shape).tolist())
    if larger == array.shape[1:]:
        return array
    grown = np.full((len(array), *larger), np.nan)
    grown[(slice(None), *(slice(size) for size in array.shape[1:]))] = array
    return grown


def _block(index: int, size: int, end: int, *, first: int = 0, beyond: int = 0) -> NDArray[np.int64]:
    """Indices of the aligned block around one, from `first` on, and so many beyond it."""
    start = index // size * size
    return np.arange(max(start, first), min(start + size, end) + beyond)


def _knots(indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where knots lie."""
    return np.asarray(np.ldexp(1.0 + (indices % KNOTS) / KNOTS, indices // KNOTS), np.float64)


def _checked(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Refuse costs that no simulation can use, rather than ask for them for ever."""
    if not (np.isfinite(values) & (np.asarray(values) >= 0)).all():
        message = "the costs of a step must be finite and not negative"
        raise SimulationError(message)
    return values
