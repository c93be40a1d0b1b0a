"""The public tables of matrix multiplications, as tidy frames, split into rows to fit and rows to judge by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.calibration.matmul import MeasuredMatmuls, Rotation
from perfsim.errors import InputError
from perfsim.ops.operators import ELEMENT_BYTES
from perfsim.study.silicon.systems import accelerator_of, tables_folder

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ROTATIONS", "error_summary", "measured_matmuls", "read_matmuls", "training_rows", "version_of"]

ROTATIONS = {
    "trtllm": Rotation(max_copies=5, fills_l2=True),
    "vllm": Rotation(max_copies=6),
    "sglang": Rotation(max_copies=6, activations=True),
}
"""How the collectors of the public tables go round their operands."""

TABLE_DTYPES = {"bf16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block", "fp4": "nvfp4"}
"""The tables' own names; ``fp8_block`` has a scale for each block of a tensor, ``fp8`` one for all of it."""

_VERSIONS = {"trtllm": "1.3.0rc20", "vllm": "0.24.0", "sglang": "0.5.14"}
_OWN_VERSIONS = {("a100_sxm", "trtllm"): "1.0.0", ("a100_sxm", "vllm"): "0.14.0", ("a100_sxm", "sglang"): "0.5.10"}


def version_of(system: str, library: str) -> str:
    """Give the version of a kernel library whose table of a system is read."""
    return _OWN_VERSIONS.get((system, library), _VERSIONS[library])


def read_matmuls(system: str, library: str, dtype: str) -> pd.DataFrame:
    """Read one public table.

    Returns
    -------
    DataFrame
        ``m``, ``n``, ``k``, ``latency_s``; sorted by n, k and m.

    Raises
    ------
    InputError
        The package with the tables is not installed, or has no such table.
    """
    import pandas as pd

    version = version_of(system, library)
    path = tables_folder() / system / "gemm" / library / version / "gemm_perf.parquet"
    if not path.is_file():
        raise InputError.of("system", system, f"must have a table of {library} {version}, and has none")
    table = pd.read_parquet(path)
    table = table[(table["gemm_dtype"] == TABLE_DTYPES[dtype]) & (table["version"] == version)]
    tidy = table[["m", "n", "k"]].assign(latency_s=table["latency"] * 1e-3)
    return tidy.sort_values(["n", "k", "m"], ignore_index=True)


def training_rows(table: pd.DataFrame, seed: int = 0, share: float = 0.5) -> NDArray[np.bool_]:
    """Mark the rows to fit: a random half of the weights (n, k), with all their m."""
    pairs = table[["n", "k"]].drop_duplicates().sort_values(["n", "k"], ignore_index=True)
    order = np.random.default_rng(seed).permutation(len(pairs))
    trained = pairs.iloc[order[: round(share * len(pairs))]].assign(trained=True)
    return np.asarray(table[["n", "k"]].merge(trained, how="left", on=["n", "k"])["trained"].notna())


def measured_matmuls(table: pd.DataFrame, system: str, library: str, dtype: str) -> MeasuredMatmuls:
    """Make a table's rows ready for the fit, with the device and the state of L2 that they were measured in."""
    chip = accelerator_of(system)
    size = "fp8" if dtype == "fp8_block" else dtype
    m, n, k, latency_s = (table[name].to_numpy(float) for name in ("m", "n", "k", "latency_s"))
    return MeasuredMatmuls(
        chip, m, n, k, latency_s, chip.peak_flop_per_s[size], ELEMENT_BYTES[size], ROTATIONS[library]
    )


def error_summary(log_errors: NDArray[np.float64]) -> dict[str, float]:
    """Summarise log(predicted / measured): n; MAPE, median, 90th percentile and bias in per cent; and a range.

    The bias is that of the geometric mean; ``log_p10`` and ``log_p90`` are percentiles of log(measured / predicted).

    Examples
    --------
    >>> error_summary(np.log([1.1, 0.9]))["mape"]
    10.0
    """
    error = 100 * np.abs(np.expm1(log_errors))
    return {
        "n": len(error),
        "mape": round(float(error.mean()), 2),
        "median": round(float(np.median(error)), 2),
        "p90": round(float(np.quantile(error, 0.9)), 2),
        "bias": round(float(100 * np.expm1(np.mean(log_errors))), 2),
        "log_p10": round(float(np.quantile(-log_errors, 0.1)), 4),
        "log_p90": round(float(np.quantile(-log_errors, 0.9)), 4),
    }
