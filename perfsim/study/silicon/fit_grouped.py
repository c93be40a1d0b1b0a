"""Fit every shipped set of coefficients of grouped multiplication to the public tables, and write it with its errors.

As with `fit_matmuls`, a set's list of candidates is part of its form, and a fit keeps that of the coefficient file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from perfsim.cost.calibration.grouped_matmul import DEFAULT_LAYER, GroupedFit, MeasuredLayers, fit_grouped_matmul
from perfsim.cost.calibration.matmul import WIDE
from perfsim.cost.grouped_matmul import GroupedMatmul
from perfsim.spec.tables import read_toml
from perfsim.study.silicon.grouped_tables import contradictory_rows, measured_layers, read_layers, training_rows
from perfsim.study.silicon.kernel_files import merge_into, plain
from perfsim.study.silicon.matmul_tables import error_summary, version_of
from perfsim.study.silicon.systems import DATA, kernel_file

__all__ = ["SETS", "GroupedSet", "fit_shipped_grouped_matmul", "write_grouped_matmuls"]

SEED = 0
ROWS = 5000
"""Rows that a set is fitted to, of the half that may be fitted."""

_EVALUATIONS = 60
_NEAR = 0.3
"""Width of the prior, in the logarithm, of a set that starts from another one."""


@dataclass(frozen=True)
class GroupedSet:
    """One set of coefficients, fitted to several systems of one architecture together.

    Attributes
    ----------
    architecture, library, dtype : str
    kernel : str
        The tables' name of what ran.
    systems : tuple of str
    """

    architecture: str
    library: str
    dtype: str
    kernel: str
    systems: tuple[str, ...]

    @property
    def file(self) -> Path:
        """Where the set is written to."""
        return kernel_file(f"{self.architecture}-{self.library}")

    def shipped(self) -> GroupedMatmul:
        """Read the set as it is shipped."""
        return GroupedMatmul.from_table(read_toml(self.file)["grouped_matmul"][self.dtype])


_SYSTEMS = {"hopper": ("h100_sxm", "h200_sxm"), "blackwell": ("b200_sxm", "gb200")}
_KERNELS = {
    ("hopper", "trtllm"): {
        "bf16": "moe_torch_flow_cutlass",
        "fp8": "moe_torch_flow_cutlass",
        "fp8_block": "moe_torch_flow_cutlass",
    },
    ("hopper", "vllm"): {
        "bf16": "vllm_unquantizedfusedmoe_triton_tritonexperts",
        "fp8": "vllm_modeloptfp8moe_flashinfer_cutlass_flashinferexperts",
        "fp8_block": "vllm_fp8moe_triton_tritonexperts",
        "bf16-fp4": "vllm_gptossmxfp4moe_triton_oaitritonmxfp4expertsmonolithic",
    },
    ("hopper", "sglang"): {
        "bf16": "sglang_fused_moe_triton",
        "fp8_block": "sglang_fused_moe_triton",
    },
    ("blackwell", "trtllm"): {
        "bf16": "moe_torch_flow_cutlass",
        "fp8": "moe_torch_flow_cutlass",
        "fp8_block": "deepgemm",
        "fp4": "moe_torch_flow_cutlass",
        "fp8-fp4": "moe_torch_flow",
    },
    ("blackwell", "vllm"): {
        "bf16": "vllm_unquantizedfusedmoe_flashinfer_trtllm_trtllmbf16experts",
        "fp8": "vllm_modeloptfp8moe_flashinfer_trtllm_trtllmfp8expertsmonolithic",
        "fp8_block": "vllm_fp8moe_flashinfer_trtllm_trtllmfp8expertsmonolithic",
        "fp4": "vllm_compressedtensorsw4a4nvfp4moe_flashinfer_trtllm_trtllmnvfp4expertsmonolithic",
        "bf16-fp4": "vllm_gptossmxfp4moe_flashinfer_trtllm_mxfp4_bf16_trtllmmxfp4expertsmonolithic",
        "fp8-fp4": "vllm_mxfp4moe_flashinfer_trtllm_mxfp4_mxfp8_trtllmmxfp4expertsmodular",
    },
    ("blackwell", "sglang"): {
        "bf16": "sglang_flashinfer_trtllm_moe",
        "fp8_block": "sglang_flashinfer_trtllm_moe",
        "fp4": "sglang_flashinfer_trtllm_moe",
    },
}
"""What a library runs for each data type, as its tables name it. What unpacks weights comes after what does not."""

SETS = tuple(
    GroupedSet(architecture, library, dtype, kernel, _SYSTEMS[architecture])
    for (architecture, library), kernels in _KERNELS.items()
    for dtype, kernel in kernels.items()
)
"""What is shipped."""


def fit_shipped_grouped_matmul(grouped_set: GroupedSet, layer: GroupedMatmul) -> GroupedFit:
    """Fit one set from its prior; only the candidates and the block of `layer` are kept."""
    prior, width = _prior(grouped_set)
    matmul = replace(prior.matmul, tiles=layer.matmul.tiles, k_block=layer.matmul.k_block)
    count = ROWS // len(grouped_set.systems)
    rows = [_some(_half(grouped_set, system, train=True), count) for system in grouped_set.systems]
    return fit_grouped_matmul(rows, replace(prior, matmul=matmul), prior_width=width, evaluations=_EVALUATIONS)


def _prior(grouped_set: GroupedSet) -> tuple[GroupedMatmul, float]:
    """Where a fit starts, and how freely it leaves that.

    Kernels that unpack weights are measured for two configurations. One alone does not tell the time of an expert from
    that of a launch, so they stay near the kernel of the same library that unpacks none.
    """
    multiplied, _, stored = grouped_set.dtype.partition("-")
    return (replace(grouped_set, dtype=multiplied).shipped(), _NEAR) if stored else (DEFAULT_LAYER, WIDE)


def write_grouped_matmuls(
    sets: tuple[GroupedSet, ...] = SETS, layers: Mapping[GroupedSet, GroupedMatmul] | None = None
) -> None:
    """Fit sets to the public tables and put them into the shipped files.

    Parameters
    ----------
    sets : tuple of GroupedSet
    layers : mapping, optional
        Lists of candidates for sets that are not shipped yet.
    """
    for grouped_set in sets:
        layer = layers[grouped_set] if layers else grouped_set.shipped()
        found = fit_shipped_grouped_matmul(grouped_set, layer)
        merge_into(
            grouped_set.file, {f"grouped_matmul.{grouped_set.dtype}": _table(grouped_set, found)},
            library=grouped_set.library, architecture=grouped_set.architecture, data=DATA,
        )  # fmt: skip


def _table(grouped_set: GroupedSet, found: GroupedFit) -> dict[str, Any]:
    """Write coefficients as they are shipped, with the errors of just these rounded numbers.

    Errors are given without rows that contradict their own table, and with all rows beside.
    """
    coefficients = plain(found.coefficients.to_table())
    layer = GroupedMatmul.from_table(coefficients)
    kept, whole = (
        {system: error_summary(_half(grouped_set, system, train=False, contradictory=both).log_errors(layer))
         for system in grouped_set.systems}
        for both in (False, True)
    )  # fmt: skip
    fit = {
        "data": f"moe/{grouped_set.library}/{version_of(grouped_set.systems[0], grouped_set.library)}",
        "kernel": grouped_set.kernel,
        "rows_used": found.rows,
        "rows_held_back": sum(int(error["n"]) for error in whole.values()),
        "seed": SEED,
        "at_bound": found.posterior.at_bound,
        "undetermined": found.posterior.undetermined,
        "errors": kept,
        "errors_of_all_rows": whole,
    }
    return {**coefficients, "fit": fit}


def _half(grouped_set: GroupedSet, system: str, *, train: bool, contradictory: bool = False) -> MeasuredLayers:
    """Read the rows of a system that may be fitted, or those that are held back."""
    table = read_layers(system, grouped_set.library, grouped_set.kernel, grouped_set.dtype)
    marked = training_rows(table, SEED) == train
    rows = measured_layers(table, system, grouped_set.dtype)
    if not contradictory:
        marked &= ~contradictory_rows(table, rows)
    return rows.take(np.flatnonzero(marked))


def _some(rows: MeasuredLayers, count: int) -> MeasuredLayers:
    """Draw some rows."""
    if len(rows) <= count:
        return rows
    return rows.take(np.sort(np.random.default_rng(SEED).choice(len(rows), count, replace=False)))
