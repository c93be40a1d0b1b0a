"""Boosting of `perfsim.cost.residual_trees` on what a fitted formula leaves unexplained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.residual_trees import ResidualTrees

__all__ = ["fit_residual_trees"]

Array = NDArray[np.float64]

_BINS = 48
_LEAST_LEAF = 20  # measurements
_CLIP = 0.1  # of a residual, when a question is judged by the signs that it separates


def fit_residual_trees(
    features: Array, log_residual: Array, *, trees: int = 60, depth: int = 5, rate: float = 0.15
) -> ResidualTrees:
    """Boost trees on the log of measured over predicted time, towards the least absolute error.

    Each level takes the question that best separates the signs of what is left, over all leaves at once; each leaf
    gives the median of what is left, shrunk by `rate`, and nothing where it has few rows.

    Parameters
    ----------
    features : ndarray, shape (features, rows)
    log_residual : ndarray, shape (rows,)
    trees, depth : int
    rate : float

    Examples
    --------
    >>> features = np.arange(1000.0).reshape(1, -1)
    >>> residual = np.where(features[0] < 500, 0.1, -0.1)
    >>> found = fit_residual_trees(features, residual, trees=40, depth=1)
    >>> from perfsim.cost.residual_trees import residual_factor
    >>> np.log(residual_factor(found, features[:, [0, 999]])).round(2)
    array([ 0.1, -0.1])
    """
    edges = [np.unique(np.quantile(row, np.linspace(0, 1, _BINS + 1)[1:-1])) for row in features]
    bins = [np.searchsorted(edge, row) for edge, row in zip(edges, features, strict=True)]
    base = float(np.median(log_residual))
    left = log_residual - base
    asked = np.zeros((trees, depth), np.int64)
    thresholds, leaves = np.zeros((trees, depth)), np.zeros((trees, 2**depth))
    for tree in range(trees):
        index = np.zeros(len(left), np.int64)
        for level in range(depth):
            question = _best_question(bins, edges, np.clip(left, -_CLIP, _CLIP), index, level)
            asked[tree, level], thresholds[tree, level] = question
            index += (features[question[0]] > question[1]) * (1 << level)
        for number in np.unique(index):
            rows = left[index == number]
            if len(rows) >= _LEAST_LEAF:
                leaves[tree, number] = rate * np.median(rows)
        left = left - leaves[tree][index]
    return ResidualTrees(base, asked, thresholds, leaves)


def _best_question(
    bins: list[NDArray[np.int64]], edges: list[Array], gradient: Array, index: NDArray[np.int64], level: int
) -> tuple[int, float]:
    """Give the feature and the threshold whose split of all leaves gains most."""
    best, question = -np.inf, (0, 0.0)
    for feature, (row, edge) in enumerate(zip(bins, edges, strict=True)):
        if not len(edge):
            continue
        size = len(edge) + 1
        cell = index * size + row
        count = np.bincount(cell, minlength=size << level).reshape(-1, size).cumsum(axis=1)
        total = np.bincount(cell, gradient, minlength=size << level).reshape(-1, size).cumsum(axis=1)
        below, above = count[:, :-1], count[:, -1:] - count[:, :-1]
        low, high = total[:, :-1], total[:, -1:] - total[:, :-1]
        gain = (low**2 / (below + _LEAST_LEAF) + high**2 / (above + _LEAST_LEAF)).sum(axis=0)
        if gain.max() > best:
            best, question = float(gain.max()), (feature, float(edge[gain.argmax()]))
    return question
