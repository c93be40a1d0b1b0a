"""Search for the list of candidates that explains measured multiplications, with all other coefficients fixed.

One candidate is added, dropped or exchanged at a time while that lowers the mean log error by more than a candidate
costs. The lists are effective: libraries have hundreds of kernels and heuristics between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from perfsim.cost.calibration.matmul import MeasuredMatmuls
from perfsim.cost.tiled_coefficients import Tile, TiledMatmul

__all__ = ["choose_tiles"]

_TILE_SHAPES = [
    (16, 32), (16, 64), (16, 128), (32, 16), (32, 32), (32, 64), (32, 128), (64, 8), (64, 16), (64, 32), (64, 64),
    (64, 96), (64, 128), (64, 192), (64, 256), (96, 64), (96, 128), (128, 32), (128, 64), (128, 96), (128, 128),
    (128, 160), (128, 192), (128, 256), (160, 128), (192, 64), (192, 128), (224, 128), (256, 64), (256, 128),
    (256, 192), (256, 256), (128, 512),
]  # fmt: skip
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_MOST_TILES = 16
_CLIP = 0.7  # a log error beyond a factor of two counts as that
_GAIN = 1e-5  # of the mean log error: less is no improvement


def choose_tiles(measured: Sequence[MeasuredMatmuls], form: TiledMatmul, *, cost: float = 3e-4) -> TiledMatmul:
    """Improve a form's list of candidates.

    Parameters
    ----------
    measured : sequence of MeasuredMatmuls
        Of a few thousand rows in all: the errors of some 330 candidates in every row are held at once.
    form : TiledMatmul
    cost : float
        A candidate must lower the mean log error by this.
    """
    own = {(tile.rows, tile.columns, tile.splits) for tile in form.tiles}
    shapes = [(*shape, splits) for shape in _TILE_SHAPES for splits in _SPLITS]
    pool = [*form.tiles, *(Tile(*shape) for shape in shapes if shape not in own)]
    errors = np.array(
        [
            np.concatenate([rows.log_errors(replace(form, tiles=(tile,))) for rows in measured]).astype(np.float32)
            for tile in pool
        ]
    )
    chosen = list(range(len(form.tiles)))
    current = float(_loss(errors[chosen].min(axis=0))) + cost * len(chosen)
    while True:
        score, best = min(_moves(errors, chosen, cost), key=lambda move: move[0])
        if score > current - _GAIN:
            return replace(form, tiles=tuple(sorted((pool[index] for index in chosen), key=_shape)))
        current, chosen = score, best


def _shape(tile: Tile) -> tuple[int, int, int]:
    return tile.rows, tile.columns, tile.splits


def _loss(error: np.ndarray) -> np.ndarray:
    return np.asarray(np.minimum(np.abs(error), _CLIP).mean(axis=-1))


def _moves(errors: np.ndarray, chosen: list[int], cost: float) -> list[tuple[float, list[int]]]:
    """Score every list that one step leads to, the best addition to each."""
    without = [[index for index in chosen if index != gone] for gone in chosen if len(chosen) > 1]
    moves = []
    for kept in [*([chosen] if len(chosen) < _MOST_TILES else []), *without]:
        least = errors[kept].min(axis=0)
        moves.append((float(_loss(least)) + cost * len(kept), kept))
        added = _loss(np.minimum(errors, least)) + cost * (len(kept) + 1)
        moves.append((float(added.min()), [*kept, int(added.argmin())]))
    return moves
