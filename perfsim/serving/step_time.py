"""Look up what a step takes: compiled functions over tables that hold NaN where nobody has asked yet.

Tables by token count are exact. Decode attention is exact in the number of sequences and linear between knots of their
mean context; the attention of a chunk with a context before it is bilinear between knots of both. Knots are spaced
evenly within each octave: index ``octave KNOTS + position``, value ``2^octave (1 + position / KNOTS)``.

A look-up that finds NaN writes down which entry it missed and gives NaN; the caller has it filled and asks again.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.sim.jit import compiled
from perfsim.units import PICOSECONDS_PER_SECOND

# ruff: noqa: ANN001, ANN201, ANN202, PLR0917 - Numba infers the types, and takes positional arguments
# mypy: disable-error-code="no-untyped-def"

__all__ = [
    "CHUNK", "CHUNK_RECORD", "DECODE", "DECODE_LINEAR", "HEAD", "KNOTS", "LINEAR", "WHOLE", "Batch", "Tables",
    "decode_run", "decode_seconds", "step_seconds", "to_ps",
]  # fmt: skip

_KNOT_BITS = 4
KNOTS = 2**_KNOT_BITS
"""Knots of an octave: what curves like a square is off by at most 1/2048 between two of them."""

_MANTISSA_BITS, _EXPONENT_OF_ONE = 52, 1023  # of IEEE 754's 64-bit numbers
_REST = 2 ** (_MANTISSA_BITS - _KNOT_BITS) - 1
_REST_UNIT = 1.0 / (_REST + 1)
_PS = float(PICOSECONDS_PER_SECOND)

DECODE_LINEAR, LINEAR, HEAD, WHOLE, DECODE, CHUNK = range(6)
"""Which table an entry is missing in."""


CHUNK_RECORD = np.dtype([("request", np.int64), ("new", np.int64), ("before", np.int64)])
"""A chunk of a prompt: whose, its new tokens, and how many stand in the cache before them."""


class Batch(NamedTuple):
    """What the time of a step with prompts depends on, beside its chunks."""

    sequences: int
    context: int
    chunks: int
    started: int
    ended: int


class Tables(NamedTuple):
    """Seconds by pool and entry; a pool is a set of replicas that are alike.

    Attributes
    ----------
    counts : ndarray, shape (pools, 4, counts + 1)
        The tables by number of tokens or sequences: `DECODE_LINEAR`, `LINEAR`, `HEAD`, and `WHOLE`, the attention of a
        prompt without a context before it.
    decode : ndarray, shape (pools, sequences + 1, knots)
    chunk : ndarray, shape (pools, knots of new tokens, knots of the context before them)
    missing : ndarray of int, shape (4,)
        Table, pool and two indices of the entry that was missed.
    """

    counts: NDArray[np.float64]
    decode: NDArray[np.float64]
    chunk: NDArray[np.float64]
    missing: NDArray[np.int64]


@compiled
def _place(value):
    """Index of the last knot that is not above a value of at least 1, and the share of the way to the next one.

    Both stand in the bits of the number: the exponent is the octave, the first bits of the mantissa are the position.
    """
    bits = np.float64(value).view(np.int64)
    index = (bits >> (_MANTISSA_BITS - _KNOT_BITS)) - (_EXPONENT_OF_ONE << _KNOT_BITS)
    return index, (bits & _REST) * _REST_UNIT


@compiled
def _miss(tables, table, pool, index):
    """Write down what was missed; the second index stands in place 3 already."""
    tables.missing[0] = table
    tables.missing[1] = pool
    tables.missing[2] = index
    return math.nan


@compiled
def _decode_attention(tables, pool, sequences, context):
    """Attention of some decodes whose contexts sum to `context`."""
    if sequences == 0:
        return 0.0
    knot, share = _place(context / sequences)
    low, high = tables.decode[pool, sequences, knot], tables.decode[pool, sequences, knot + 1]
    if math.isnan(low) or math.isnan(high):
        tables.missing[3] = knot
        return _miss(tables, DECODE, pool, sequences)
    return low + (high - low) * share


@compiled
def _chunk_attention(tables, pool, new, before):
    """Attention of new tokens of one prompt, `before` of whose tokens have keys already."""
    if before == 0:
        seconds = tables.counts[pool, WHOLE, new]
        return _miss(tables, WHOLE, pool, new) if math.isnan(seconds) else seconds
    row, down = _place(float(new))
    column, along = _place(float(before))
    few, few_far = tables.chunk[pool, row, column], tables.chunk[pool, row, column + 1]
    many, many_far = tables.chunk[pool, row + 1, column], tables.chunk[pool, row + 1, column + 1]
    if math.isnan(few + few_far + many + many_far):
        tables.missing[3] = column
        return _miss(tables, CHUNK, pool, row)
    few += (few_far - few) * along
    many += (many_far - many) * along
    return few + (many - few) * down


@compiled
def to_ps(seconds):
    """Round the time of a step to whole picoseconds; no step takes none."""
    return max(int(np.rint(seconds * _PS)), 1)


@compiled
def decode_run(tables, rules, sequences, context, steps, until):
    """Time of a run of steps of decodes alone, whose contexts first sum to `context`, and how many steps it has.

    The run ends with the first step that ends `until` picoseconds after its start or later, at the latest after
    `steps`. It has no steps where the tables lack an entry.
    """
    same = _without_attention(tables, rules, sequences)
    time = 0
    for step in range(steps):
        seconds = same + _decode_attention(tables, rules.pool, sequences, context + step * sequences)
        if math.isnan(seconds):
            return 0, 0
        time += to_ps(seconds)
        if time >= until:
            return time, step + 1
    return time, steps


@compiled
def decode_seconds(tables, rules, sequences, context):
    """Time of one step of decodes alone, or NaN where something is missing."""
    return _without_attention(tables, rules, sequences) + _decode_attention(tables, rules.pool, sequences, context)


@compiled
def _without_attention(tables, rules, sequences):
    """The part of a step of decodes that does not depend on their context."""
    pool = rules.pool
    linear, head = tables.counts[pool, DECODE_LINEAR, sequences], tables.counts[pool, HEAD, sequences]
    if math.isnan(linear):
        return _miss(tables, DECODE_LINEAR, pool, sequences)
    if math.isnan(head):
        return _miss(tables, HEAD, pool, sequences)
    return linear + head + (rules.step_s + rules.decode_layers_s + sequences * rules.sequence_s)


@compiled
def step_seconds(tables, rules, step, chunks):
    """Time of a step with chunks of prompts, or NaN where something is missing.

    `step` has `sequences` and `context` of the decodes beside them, and how many prompts are `started` and `ended`.
    """
    pool, tokens = rules.pool, 0
    attention = _decode_attention(tables, pool, step.sequences, step.context)
    for position in range(step.chunks):
        chunk = chunks[position]
        tokens += chunk.new
        attention += _chunk_attention(tables, pool, chunk.new, chunk.before)
    heads = step.sequences + step.ended
    linear = tables.counts[pool, LINEAR, tokens + step.sequences]
    head = tables.counts[pool, HEAD, heads]
    if math.isnan(linear):
        return _miss(tables, LINEAR, pool, tokens + step.sequences)
    if math.isnan(head):
        return _miss(tables, HEAD, pool, heads)
    host = rules.step_s + rules.prefill_layers_s + step.sequences * rules.sequence_s
    host += tokens * rules.prefill_token_s + step.started * rules.prompt_s
    return linear + head + host + attention
