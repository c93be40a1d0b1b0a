"""An optional, learned layer over `perfsim.cost.tiled_matmul`, off unless asked for: small regression trees.

They know which kernels a library really picks, which no formula says: ``seconds = tiled_matmul * exp(base + sum over
trees of leaf)``. The trees are oblivious: all nodes of a level ask the same question, so the leaf of a shape is a
binary number of `depth` comparisons, and arrays hold everything (Prokhorenkova et al., "CatBoost", NeurIPS 2018). They
look at the shape and the device only, not at what lies in L2, so that what they learnt from tables of hot weights holds
for cold ones. The correction is limited to `LIMIT` either way, and the speed of light stays the floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.tiled_matmul import KernelTime
from perfsim.errors import Faults
from perfsim.spec.profiles import profile_folder
from perfsim.spec.tables import find_file, preset_names, read_toml

__all__ = [
    "FEATURES", "LIMIT", "RESIDUALS", "ResidualTrees", "corrected", "residual_factor", "shape_features",
    "shipped_trees", "tree_families",
]  # fmt: skip

Array = NDArray[np.float64]

LIMIT = 0.35
"""The largest correction, in the logarithm."""

RESIDUALS = ("trees",)
"""Learned layers that may be asked for."""

FEATURES = (
    "log2_m", "log2_n", "log2_k", "log2_mn", "log2_nk", "log2_mk", "log2_m_over_n", "log2_intensity", "waves_128x128",
    "waves_128x256", "fill_128x128", "fill_128x256", "m_mod_128", "n_mod_128",
)  # fmt: skip
"""What a tree may ask for; the intensity is relative to the device's peak over its bandwidth."""

_BLOCK = 8192
_INTEGERS, _NUMBERS = ("feature",), ("threshold", "leaf")


@dataclass(frozen=True, eq=False)
class ResidualTrees:
    """Trees as plain arrays.

    Attributes
    ----------
    base : float
        Correction of every shape, in the logarithm.
    feature : ndarray of int, shape (trees, depth)
        Index into `FEATURES` that each level asks for.
    threshold : ndarray, shape (trees, depth)
        The bit of a level is 1 where the feature exceeds it.
    leaf : ndarray, shape (trees, 2**depth)
        Corrections; the first level is the lowest bit of the index.
    """

    base: float
    feature: NDArray[np.int64]
    threshold: Array
    leaf: Array

    def __post_init__(self) -> None:
        faults = Faults("residual_trees")
        trees, depth = np.shape(self.feature) if np.ndim(self.feature) == len(("trees", "depth")) else (0, 0)
        if not trees or np.shape(self.threshold) != (trees, depth) or np.shape(self.leaf) != (trees, 2**depth):
            shapes = tuple(np.shape(part) for part in (self.feature, self.threshold, self.leaf))
            faults.add(
                "feature, threshold, leaf", shapes, "must have shapes (trees, depth) twice, and (trees, 2**depth)"
            )
        elif np.min(self.feature) < 0 or np.max(self.feature) >= len(FEATURES):
            faults.add("feature", int(np.max(self.feature)), f"must be an index into {len(FEATURES)} features")
        faults.raise_if_any()

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> ResidualTrees:
        """Read a table of a coefficient file, in which each tree is one line of numbers.

        Raises
        ------
        InputError
            A key is missing, or is not made of such lines.
        """
        try:
            features = np.array([line.split() for line in table["feature"]], np.int64)
            threshold, leaf = (np.array([line.split() for line in table[name]], float) for name in _NUMBERS)
            base = float(table["base"])
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            faults = Faults("residual_trees")
            faults.add(
                "", str(error), "must have base, and feature, threshold and leaf with one line of numbers a tree"
            )
            faults.raise_if_any()
            raise
        return cls(base, features, threshold, leaf)

    def to_table(self) -> dict[str, Any]:
        """Give the table that `from_table` reads."""
        lines = {
            name: [" ".join(f"{value:.4g}" for value in tree) for tree in getattr(self, name)]
            for name in (*_INTEGERS, *_NUMBERS)
        }
        return {"base": self.base, **lines}


def tree_families() -> tuple[str, ...]:
    """Name the architectures and kernel libraries whose bf16 kernels have shipped trees.

    Examples
    --------
    >>> tree_families()
    ('ada-trtllm', 'ampere-sglang', 'blackwell-trtllm', 'hopper-trtllm')
    """
    return preset_names(_tree_folder(), ".toml")


@lru_cache(maxsize=16)
def shipped_trees(family: str) -> ResidualTrees:
    """Read the trees of one of the `tree_families`."""
    path = find_file("family", family, _tree_folder(), ".toml")
    return ResidualTrees.from_table(read_toml(path)["matmul_residual_trees"]["bf16"])


def _tree_folder() -> Path:
    return profile_folder() / "kernels" / "residual-trees"


def shape_features(sm_count: int, m: ArrayLike, n: ArrayLike, k: ArrayLike, balance_flop_per_byte: float) -> Array:
    """Compute the features of shapes.

    Parameters
    ----------
    sm_count : int
        Multiprocessors of the device.
    m, n, k : array_like, shape (shapes,)
    balance_flop_per_byte : float
        The device's peak in the data type over its memory bandwidth.

    Returns
    -------
    ndarray, shape (features, shapes)

    Examples
    --------
    >>> features = shape_features(132, [4096], [4096], [4096], 295)
    >>> dict(zip(FEATURES, features[:, 0].round(2).tolist()))["waves_128x256"]
    3.88
    """
    m, n, k = np.broadcast_arrays(*(np.asarray(size, float) for size in (m, n, k)))
    log_m, log_n, log_k = np.log2(m), np.log2(n), np.log2(k)
    square = np.ceil(m / 128) * np.ceil(n / 128) / sm_count
    wide = np.ceil(m / 128) * np.ceil(n / 256) / sm_count
    intensity = np.log2(m * n * k / (m * n + n * k + m * k)) - np.log2(balance_flop_per_byte)
    return np.array([
        log_m, log_n, log_k, log_m + log_n, log_n + log_k, log_m + log_k, log_m - log_n, intensity, square, wide,
        square / np.ceil(square), wide / np.ceil(wide), m % 128, n % 128,
    ])  # fmt: skip


def residual_factor(trees: ResidualTrees, features: Array) -> Array:
    """Evaluate the factor on the analytical time.

    Examples
    --------
    One tree of one level, which takes a tenth off from m = 64 on:

    >>> trees = ResidualTrees(0.0, np.array([[0]]), np.array([[5.5]]), np.log([[1.0, 0.9]]))
    >>> residual_factor(trees, shape_features(132, [32, 64], 4096, 4096, 295))
    array([1. , 0.9])
    """
    total = np.full(features.shape[1], trees.base)
    weights = 1 << np.arange(trees.feature.shape[1])
    for start in range(0, features.shape[1], _BLOCK):
        block = features[:, start : start + _BLOCK]
        for feature, threshold, leaf in zip(trees.feature, trees.threshold, trees.leaf, strict=True):
            index = np.zeros(block.shape[1], np.intp)
            for level, weight in enumerate(weights):
                index += (block[feature[level]] > threshold[level]) * weight
            total[start : start + _BLOCK] += leaf[index]
    return np.asarray(np.exp(np.clip(total, -LIMIT, LIMIT)))


def corrected(time: KernelTime, trees: ResidualTrees, features: Array) -> KernelTime:
    """Put the learned layer over the time of shapes; what it changes is overhead, and light stays the floor."""
    factor = residual_factor(trees, features).reshape(time.seconds.shape)
    seconds = np.maximum(time.seconds * factor, time.light_s)
    overhead_s = np.maximum(seconds - np.maximum(time.compute_s, time.memory_s), 0.0)
    return time._replace(seconds=seconds, overhead_s=overhead_s)
