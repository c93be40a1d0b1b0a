"""Fit the optional residual trees over the shipped bf16 coefficients, and write each family's into a file of its own.

No profile names these files: whoever wants the learned layer reads one and puts it over an estimate, see
`perfsim.cost.residual_trees`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.calibration.matmul import MeasuredMatmuls
from perfsim.cost.calibration.residual_trees import fit_residual_trees
from perfsim.cost.residual_trees import ResidualTrees, residual_factor, shape_features
from perfsim.study.silicon.fit_matmuls import SEED, SETS, MatmulSet, half
from perfsim.study.silicon.kernel_files import merge_into
from perfsim.study.silicon.matmul_tables import error_summary, version_of
from perfsim.study.silicon.systems import DATA, kernel_file

__all__ = ["fit_shipped_trees", "trees_file", "write_trees"]

Array = NDArray[np.float64]

_FAMILIES = {("hopper", "trtllm"), ("blackwell", "trtllm"), ("ada", "trtllm"), ("ampere", "sglang")}


def trees_file(matmul_set: MatmulSet) -> Path:
    """Give the place of a family's trees."""
    return kernel_file(f"residual-trees/{matmul_set.architecture}-{matmul_set.library}")


def fit_shipped_trees(matmul_set: MatmulSet) -> tuple[ResidualTrees, int]:
    """Boost trees on what the shipped set leaves unexplained in the rows that may be fitted, and count these rows."""
    form = matmul_set.shipped()
    rows = [half(matmul_set, system, train=True) for system in matmul_set.systems]
    features = np.concatenate([_features(part) for part in rows], axis=1)
    trees = fit_residual_trees(features, np.concatenate([-part.log_errors(form) for part in rows]))
    return ResidualTrees.from_table(trees.to_table()), features.shape[1]  # rounded as it is shipped


def write_trees() -> None:
    """Fit the trees of every family and put them into their files, with the errors on held-back rows."""
    for matmul_set in SETS:
        if matmul_set.dtype == "bf16" and (matmul_set.architecture, matmul_set.library) in _FAMILIES:
            trees, used = fit_shipped_trees(matmul_set)
            table = {**trees.to_table(), "fit": _judged(matmul_set, trees, used)}
            merge_into(
                trees_file(matmul_set), {"matmul_residual_trees.bf16": table}, library=matmul_set.library,
                architecture=matmul_set.architecture, data=DATA,
            )  # fmt: skip


def _judged(matmul_set: MatmulSet, trees: ResidualTrees, used: int) -> dict[str, Any]:
    form, errors = matmul_set.shipped(), {}
    for system in matmul_set.systems:
        rows = half(matmul_set, system, train=False)
        errors[system] = error_summary(rows.log_errors(form) + np.log(residual_factor(trees, _features(rows))))
    return {
        "data": f"gemm/{matmul_set.library}/{version_of(matmul_set.systems[0], matmul_set.library)}",
        "rows_used": used,
        "rows_held_back": sum(int(error["n"]) for error in errors.values()),
        "seed": SEED,
        "errors": errors,
    }


def _features(rows: MeasuredMatmuls) -> Array:
    balance = rows.peak_flop_per_s / rows.chip.memory_bytes_per_s
    return shape_features(rows.chip.sm_count, rows.m, rows.n, rows.k, balance)
