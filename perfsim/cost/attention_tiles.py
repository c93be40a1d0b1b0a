"""Tiles of fused prefill attention: which key tiles a causal mask and a window leave to each tile of queries.

A head's queries are cut into tiles of `rows`, its keys into tiles of `keys`. With S keys of which the last N are new,
the i-th tile of queries (from 0) walks over the key tiles from ``floor(first / keys)`` to ``ceil(last / keys)``::

    last  = S - N + min((i + 1) rows, N)                   (S without a causal mask)
    first = max(S - N + i rows + 1 - window, 0)

Summed over i these are arithmetic series but for their rounding. What rounding adds is averaged exactly over the
residues that ``i rows`` has modulo `keys` (the multiples of their greatest common divisor g): rounding up adds
``(keys + g) / 2 - 1 - (S - N - 1) mod g`` on average. So the sum costs the same at any length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["QueryTiles", "cut_tiles", "windowed_pairs"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class QueryTiles:
    """Tiles of the queries of one head.

    Attributes
    ----------
    tiles : array
        Tiles of queries.
    key_tiles : array
        Key tiles of all of them together.
    rows, keys : array
        Tokens of a tile of queries (a fraction where it also holds several heads) and of keys.
    context, before : array
        All keys, and those before the new tokens.
    span : array
        Most key tiles that the window leaves to a tile of queries.
    causal : array of bool
    """

    tiles: Array
    key_tiles: Array
    rows: Array
    keys: Array
    context: Array
    before: Array
    span: Array
    causal: NDArray[np.bool_]

    def length(self, place: Array | float) -> Array:
        """Key tiles of the tile of queries at a place from the end, where they are longest; 0 beyond the first."""
        reach = self.before + self.rows * (self.tiles - np.floor(place))
        reach = np.where(self.causal, np.clip(reach, 0.0, self.context), self.context)
        return np.minimum(np.ceil(reach / self.keys), self.span)


def cut_tiles(
    query_tokens: Array, context_tokens: Array, window: Array, rows: Array, keys: Array, *, causal: NDArray[np.bool_]
) -> QueryTiles:
    """Cut one head into tiles and count them.

    Parameters
    ----------
    query_tokens, context_tokens : array
        New tokens, and all keys with them; a chunk of a longer prompt has fewer new tokens than keys.
    window : array
        Keys that a query sees at most; at least `context_tokens` for none.
    rows, keys : array
        Tokens of a tile of queries and of keys; all sizes broadcast.
    causal : array of bool

    Examples
    --------
    Four tiles of queries over causal keys take 1, 2, 3 and 4 key tiles:

    >>> size = np.array(512.0)
    >>> found = cut_tiles(size, size, size, np.array(128.0), np.array(128.0), causal=np.array(True))
    >>> float(found.tiles), float(found.key_tiles), float(found.length(0)), float(found.length(3))
    (4.0, 10.0, 4.0, 1.0)
    """
    tiles = np.ceil(query_tokens / rows)
    before = context_tokens - query_tokens
    grid = _grid(rows, keys)
    full = np.ceil(context_tokens / keys)
    round_up = (keys + grid) / 2 - 1 - np.mod(before - 1, grid)
    up_to_last = ((tiles - 1) * (before + round_up) + rows * tiles * (tiles - 1) / 2) / keys + full
    key_tiles = np.where(causal, up_to_last, tiles * full)
    windowed = window < context_tokens
    if np.any(windowed):
        skipped = _skipped(before + 1 - window, tiles, rows, keys, grid)
        key_tiles = np.where(windowed, np.maximum(key_tiles - skipped, tiles), key_tiles)
    widest = np.ceil((np.minimum(rows, query_tokens) + window - 1) / keys) + (1 - grid / keys)
    return QueryTiles(tiles, key_tiles, rows, keys, context_tokens, before, np.minimum(full, widest), causal)


def _grid(rows: Array, keys: Array) -> Array:
    """Greatest common divisor of whole rows and keys; rows that hold parts of tokens start anywhere, so 1."""
    whole = np.floor(rows)
    common = np.gcd(whole.astype(np.int64), keys.astype(np.int64))
    return np.maximum(np.where(whole == rows, common, 1.0), 1.0)


def _skipped(first: Array, tiles: Array, rows: Array, keys: Array, grid: Array) -> Array:
    """Key tiles before the window, over the tiles of queries whose first key ``first + i rows`` is above 0."""
    start = np.maximum(np.floor(-first / rows) + 1, 0.0)
    count = np.maximum(tiles - start, 0.0)
    round_down = np.mod(first, grid) + (keys - grid) / 2
    skipped = (count * (first - round_down) + rows * count * (start + tiles - 1) / 2) / keys
    return np.maximum(skipped, 0.0)


def windowed_pairs(query_tokens: Array, context_tokens: Array, window: Array, *, causal: NDArray[np.bool_]) -> Array:
    """Pairs of a query and a key that the mask leaves; half of a causal diagonal counts, as in the field's S^2/2.

    Query t (from 0) of N sees ``min(S - N + t + 1/2, window)`` keys; without a causal mask all, or the window.

    Examples
    --------
    >>> four, many = np.array(4.0), np.array(100.0)
    >>> float(windowed_pairs(four, four, many, causal=np.array(True)))
    8.0
    >>> float(windowed_pairs(four, many, np.array(10.0), causal=np.array(True)))
    40.0
    """
    before = context_tokens - query_tokens
    reach = np.minimum(window, context_tokens)
    rising = np.clip(reach - before, 0.0, query_tokens)
    causal_pairs = rising * before + rising * rising / 2 + (query_tokens - rising) * reach
    return np.where(causal, causal_pairs, query_tokens * reach)
