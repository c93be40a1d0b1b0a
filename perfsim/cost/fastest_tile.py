"""The time of the fastest candidate of a tiled multiplication: the inner loop of `perfsim.cost.tiled_matmul`.

The arithmetic works in place and in whatever precision the sizes have; single precision is enough by far (4e-7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.tiled_coefficients import Tile, TiledMatmul

__all__ = ["RESULT_BYTES", "Chip", "fastest_tile", "l2_hit_fraction"]

Array = NDArray[np.floating]

RESULT_BYTES = 2
"""Results leave as bf16 or fp16, whatever the operands are."""

_THROTTLED_S = 1e-3  # multiplications longer than about this lose clock to the power limit
_STEP_BYTES = 128  # the depth that the pipeline takes in one step
_SPLIT_DEPTH = 128  # the least depth that libraries leave to a split
_FEW_ROWS = 8  # the rows of the smallest matrix instruction
_TILE_ACCUMULATORS = 16384  # results of 128 x 128: tiles up to this size share a multiprocessor


class Chip(Protocol):
    """What the form needs of `perfsim.spec.hardware.Accelerator`."""

    @property
    def sm_count(self) -> int: ...  # noqa: D102
    @property
    def clock_hz(self) -> float: ...  # noqa: D102
    @property
    def l2_bytes(self) -> int: ...  # noqa: D102
    @property
    def memory_bytes_per_s(self) -> float: ...  # noqa: D102


class _Shared(NamedTuple):
    """What all candidates have in common; the arrays have one element a shape."""

    form: TiledMatmul
    n: Array
    k: Array
    step_s: Array
    result_s: Array
    slower: Array
    sm_count: int
    staging_s: float
    epilogue_s: float
    l2_s: float
    peak_flop_per_s: float


def l2_hit_fraction(chip: Chip, form: TiledMatmul, passed_bytes: ArrayLike) -> Array:
    """Fraction of accesses that L2 serves after `passed_bytes` have gone by."""
    capacity = form.l2_share * chip.l2_bytes
    with np.errstate(divide="ignore", over="ignore"):  # nothing passed: a ratio of 0 hits, log 0 = -inf does so
        logit = form.l2_sharpness * np.log(np.asarray(passed_bytes) / capacity)
        return np.asarray(1 / (1 + np.exp(logit)))


def fastest_tile(
    chip: Chip,
    form: TiledMatmul,
    m: Array,
    n: Array,
    k: Array,
    *,
    memory_s: Array,
    missed: Array,
    peak_flop_per_s: float,
    operand_bytes: float,
    row_tiles: Callable[[int], Array] | None = None,
) -> tuple[Array, Array]:
    """Seconds of the fastest candidate without the launch, and those of its multiplications alone.

    Parameters
    ----------
    chip : Chip
    form : TiledMatmul
    m, n, k : ndarray
        Sizes, of one shape and precision.
    memory_s : ndarray
        Seconds of the memory.
    missed : ndarray
        Fraction of the weight that comes from memory.
    peak_flop_per_s, operand_bytes : float
    row_tiles : callable, optional
        Counts the tiles of so many rows that cover a column of the result, for rows that lie in groups.
    """
    rate = form.l2_bytes_per_clock * chip.clock_hz * chip.sm_count
    step_s = (form.k_step_s + form.cold_k_step_s * missed) * (operand_bytes / _STEP_BYTES)
    step_s[m <= _FEW_ROWS] *= form.few_rows_latency
    result_s = m * n * (RESULT_BYTES / rate)
    shared = _Shared(
        form=form,
        n=n,
        k=k,
        step_s=step_s,
        result_s=result_s,
        slower=np.exp(form.throttling * np.log1p(m * n * k * (2 / (peak_flop_per_s * _THROTTLED_S)))),
        sm_count=chip.sm_count,
        staging_s=operand_bytes / (form.staging_bytes_per_clock * chip.clock_hz),
        epilogue_s=RESULT_BYTES / (form.epilogue_bytes_per_clock * chip.clock_hz),
        l2_s=operand_bytes / rate,
        peak_flop_per_s=peak_flop_per_s,
    )
    memory4 = _fourth(memory_s)
    best4 = np.full(m.shape, np.inf, m.dtype)
    compute_of_best = np.zeros_like(m)
    for tile in form.tiles:
        stack = row_tiles(tile.rows) if row_tiles else np.ceil(m / tile.rows)
        rows = np.minimum(m / stack if row_tiles else m, tile.rows)
        on_chip_s, compute_s, tiles = _on_chip(shared, tile, rows, stack)
        tile4: Array = _fourth(on_chip_s) + memory4
        if tile.splits > 1:
            tile4 = _fourth(_fourth_root(tile4) + _reduction(form, tile.splits, result_s))
            tile4[(k < _SPLIT_DEPTH * tile.splits) | (tiles > 2 * chip.sm_count)] = np.inf
        tile4 *= tile.relative_time**4
        np.copyto(compute_of_best, compute_s, where=tile4 < best4)
        np.minimum(best4, tile4, out=best4)
    return _fourth_root(best4), compute_of_best


def _on_chip(shared: _Shared, tile: Tile, rows: Array, stack: Array) -> tuple[Array, Array, Array]:
    """Seconds on the chip, those of the multiplications, and the number of tiles."""
    form, n, k = shared.form, shared.n, shared.k
    columns = np.minimum(n, tile.columns)
    edge = rows + columns
    depth = np.ceil(k / (tile.splits * form.k_block))
    depth *= form.k_block
    tiles = stack * np.ceil(n / tile.columns)
    tiles *= tile.splits
    waves = _waves(tiles / shared.sm_count, form.wave_overlap)
    area = tile.rows * tile.columns
    side_by_side = min(form.blocks_per_sm, max(1.0, _TILE_ACCUMULATORS / area))
    edges = 1 / form.compute_efficiency + form.tile_edge_cost * (1 / tile.rows + 1 / tile.columns)
    compute_s = waves * depth
    compute_s *= 2 * area * shared.sm_count / shared.peak_flop_per_s * edges
    lots = np.maximum(waves * (1 / side_by_side), 1.0)
    staging_s = lots * shared.step_s
    staging_s += waves * edge * shared.staging_s
    staging_s *= depth
    l2_s = tiles * edge
    l2_s *= depth
    l2_s *= shared.l2_s
    l2_s += shared.result_s
    on_chip_s = _fourth_root(_fourth(compute_s) + _fourth(staging_s) + _fourth(l2_s))
    on_chip_s += waves * rows * columns * shared.epilogue_s
    on_chip_s *= shared.slower
    if form.tile_s:
        on_chip_s += form.tile_s * lots
    return on_chip_s, compute_s, tiles


def _reduction(form: TiledMatmul, splits: int, result_s: Array) -> Array:
    """Seconds of adding up the partial results of the splits."""
    return form.split_s + form.split_step_s * splits + result_s * (4 * form.split_traffic * splits)


def _waves(filled: Array, overlap: float) -> Array:
    """Waves of tiles that fill the multiprocessors `filled` times."""
    waves = np.ceil(filled)
    waves *= 1 - overlap
    waves += overlap * filled
    return np.maximum(waves, 1.0, out=waves)


def _fourth(x: Array) -> Array:
    x = np.square(x)
    return np.square(x, out=x)


def _fourth_root(x: Array) -> Array:
    x = np.sqrt(x)
    return np.sqrt(x, out=x)
