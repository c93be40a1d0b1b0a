"""How a router spreads pairs of token and expert: expected numbers, continuous in the pairs.

Pairs fall to the experts at random, to the one of rank r with probability ``p_r`` that falls as ``r^-skew`` (0 spreads
them evenly). Of R pairs an expert has ``m = R p`` on average with variance ``m (1 - p)``, and any at all with
probability ``a = 1 - (1 - p)^R``. It fills

    a (1 + E[floor(x)]),    x evenly spread over  (m / a - 1 +- sqrt(3 m (1 - p))) / b

tiles of b rows: one as soon as it has a pair, and another for each b further ones; an even spread of the right variance
stands for the binomial's, whose sum over all tiles would be long.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.grouped_matmul import LayerLoads

__all__ = ["expected_loads"]

Array = NDArray[np.float64]

_SINGLE_RANKS = 8
_GROWTH = 1.3
"""The first ranks count one by one, further ones in groups that grow so much: their popularity hardly differs."""


def expected_loads(pairs: Array, num_experts: int, skew: float) -> LayerLoads:
    """Expect what the experts of one device have to do.

    Parameters
    ----------
    pairs : ndarray, shape (layers,)
        Above 0; fractions are means.
    num_experts : int
    skew : float

    Examples
    --------
    Four pairs leave most of 64 experts without work, and a hundred thousand none:

    >>> loads = expected_loads(np.array([4.0, 1e5]), 64, skew=0.0)
    >>> loads.active.round(1).tolist(), loads.row_tiles(128).round().tolist()
    ([3.9, 64.0], [4.0, 812.0])
    """
    count, popularity = _ranks(num_experts, skew)
    with np.errstate(divide="ignore"):  # a single expert gets every pair: log 0 = -inf gives it one for sure
        any_at_all = -np.expm1(pairs[:, None] * np.log1p(-popularity))
    mean = pairs[:, None] * popularity
    further, spread = mean / any_at_all - 1, np.sqrt(3 * mean * (1 - popularity))
    counted: dict[int, Array] = {}

    def row_tiles(rows: int) -> Array:
        if rows not in counted:
            more = _mean_floor((further - spread) / rows, (further + spread) / rows)
            counted[rows] = np.maximum((any_at_all * (1 + more)) @ count, 1.0)
        return counted[rows]

    return LayerLoads(pairs, any_at_all @ count, np.full(len(pairs), float(num_experts)), row_tiles)


@lru_cache(maxsize=64)
def _ranks(num_experts: int, skew: float) -> tuple[Array, Array]:
    """Experts of each group of ranks, and the popularity of one of them."""
    if skew == 0:
        return np.array([float(num_experts)]), np.array([1 / num_experts])
    edges = [*range(min(_SINGLE_RANKS, num_experts))]
    while edges[-1] < num_experts:
        edges.append(max(edges[-1] + 1, int(edges[-1] * _GROWTH)))
    edges[-1] = num_experts
    weight = np.arange(1, num_experts + 1) ** -skew
    count = np.diff(edges).astype(float)
    return count, np.add.reduceat(weight, edges[:-1]) / weight.sum() / count


def _mean_floor(low: Array, high: Array) -> Array:
    """Mean of the floor of what lies evenly between two values, negative ones counting as 0."""
    width = high - low
    narrow = width < 1e-9  # noqa: PLR2004 - a single value
    mean = (_floor_integral(high) - _floor_integral(low)) / np.where(narrow, 1.0, width)
    return np.where(narrow, np.floor(np.maximum(high, 0.0)), mean)


def _floor_integral(value: Array) -> Array:
    """Integral of the floor from 0; 0 below."""
    whole = np.maximum(np.floor(value), 0.0)
    return whole * value - whole * (whole + 1) / 2
