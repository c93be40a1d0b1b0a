"""Fit every shipped set of attention coefficients to the public tables, and write it with its errors.

The structure of a kernel (tiles, split rule, which sizes it serves) is part of its form: a fit keeps that of the
coefficient file, and starts every coefficient from the middle of what it may be, so that the same tables give the same
file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from perfsim.cost.attention_forms import PHASES
from perfsim.cost.attention_kernels import read_kernels
from perfsim.cost.calibration.attention import attention_times, fit_attention, serving_kernels
from perfsim.cost.calibration.attention_fit import AttentionCoefficients, AttentionFit, limits_of
from perfsim.spec.tables import FrozenDict, read_toml
from perfsim.study.silicon.attention_tables import LIBRARIES, read_attention, some_rows
from perfsim.study.silicon.kernel_files import merge_into, plain
from perfsim.study.silicon.matmul_tables import error_summary, version_of
from perfsim.study.silicon.systems import DATA, accelerator_of, kernel_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AttentionSet", "fit_shipped_attention", "held_back_errors", "shipped_attention_sets", "write_attention"]

SEED = 0
ROWS, WINDOWED_ROWS = 700, 175
"""Rows of each system and head dimension that a kernel is fitted to, without and with a window."""
PRIOR_WIDTH = 1.5

_SYSTEMS = {
    "hopper": ("h100_sxm", "h200_sxm"), "blackwell": ("b200_sxm", "gb200"), "ampere": ("a100_sxm",), "ada": ("l40s",),
}  # fmt: skip
_SOURCES = {
    "default": ("mla",),
    "trtllm_mla": ("mla",),
    "torch_flow": ("fmha", "gen", "xqa", "fallback", "mmha", "mmha_grouped"),
    "torch_flow_flashinfer": ("flashinfer",),
    "vllm_flash_attn_fa4": ("fa4",),
    "vllm_flash_attn_fa3": ("fa3", "mha", "gqa"),
    "vllm_flash_attn_fa2": ("fa2", "mha", "gqa"),
    "vllm_flash_attn": ("fa2", "mha", "gqa"),
    "vllm_flashinfer_fiprefill": ("fa2",),
    "vllm_flashinfer_fidecode": ("mha", "gqa", "gqa_wide"),
    "vllm_flashinfer_trtllmprefill": ("gen", "gen_512"),
    "vllm_flashinfer_trtllmdecode": ("gen",),
    "trtllm_mha": ("gen", "gen_512"),
    "triton": ("triton", "mla"),
    "fa3": ("fa3", "fa3_192", "mha", "gqa"),
    "flash_attention": ("fa2", "mha", "gqa", "mla"),
    "flashinfer": ("flashinfer", "mha", "mha_grouped", "gqa", "gqa_wide"),
}
"""What the tables call a kernel, and the kernels of the coefficient files that were fitted to its rows."""
_ONE_BYTE_CACHE = ("a100_sxm", "trtllm", "decode")
"""This table of bf16 caches moves one byte an element, more than the memory could otherwise deliver."""

Coefficients = TypeVar("Coefficients", bound=AttentionCoefficients)


@dataclass(frozen=True)
class AttentionSet:
    """The kernels of one library on one architecture, for one phase and pair of data types."""

    architecture: str
    library: str
    phase: str
    dtype: str
    kv_dtype: str

    @property
    def file(self) -> Path:
        """Where the set is written to."""
        return kernel_file(f"{self.architecture}-{self.library}")

    @property
    def systems(self) -> tuple[str, ...]:
        """Whose measurements the set is fitted to, together."""
        return _SYSTEMS[self.architecture]

    @property
    def types(self) -> str:
        """Data types of the products and of the cache, as in the file."""
        return f"{self.dtype}-{self.kv_dtype}"

    def shipped(self) -> tuple[AttentionCoefficients, ...]:
        """Read the set as it is shipped."""
        return read_kernels(PHASES[self.phase], read_toml(self.file)[self.phase][self.types])

    def rows(self, table: pd.DataFrame, system: str, kernels: Sequence[AttentionCoefficients]) -> pd.DataFrame:
        """Rows of a system that these kernels were measured for, with the index of the kernel as ``served_by``."""
        mine = table[
            (table["system"] == system) & (table["library"] == self.library) & (table["dtype"] == self.dtype)
            & (table["kv_dtype"] == self.kv_dtype)
        ]  # fmt: skip
        served_by = serving_kernels(accelerator_of(system), kernels, mine)
        names, dims = [kernel.kernel for kernel in kernels], [kernel.head_dims for kernel in kernels]
        kept = [
            names[index] in _SOURCES.get(source, ()) and head_dim in dims[index]
            for index, source, head_dim in zip(served_by, mine["kernel"], mine["head_dim"], strict=True)
        ]
        mine = mine.assign(served_by=served_by)[kept]
        stored = "fp8" if (system, self.library, self.phase) == _ONE_BYTE_CACHE else self.kv_dtype
        return mine.assign(kv_dtype=stored)


def shipped_attention_sets() -> tuple[AttentionSet, ...]:
    """Find all sets in the coefficient files."""
    return tuple(
        AttentionSet(architecture, library, phase, *types.split("-"))
        for architecture in _SYSTEMS
        for library in LIBRARIES
        for phase in PHASES
        for types in read_toml(kernel_file(f"{architecture}-{library}")).get(phase, {})
    )


def fit_shipped_attention(
    attention_set: AttentionSet, kernels: Sequence[AttentionCoefficients], table: pd.DataFrame,
    systems: Sequence[str] = (),
) -> tuple[AttentionFit, ...]:  # fmt: skip
    """Fit the kernels of a set to the rows that may be fitted, each from nothing but its structure.

    Parameters
    ----------
    attention_set : AttentionSet
    kernels : sequence of PrefillCoefficients or of DecodeCoefficients
        Their structure is kept; nothing else of them is looked at.
    table : DataFrame
        From `read_attention`.
    systems : sequence of str
        Whose rows are fitted; those of all systems of the set when empty.
    """
    import pandas as pd

    chosen = systems or attention_set.systems
    rows = pd.concat([attention_set.rows(table, system, kernels) for system in chosen])
    rows = rows[rows["trained"]]
    accelerators = {system: accelerator_of(system) for system in chosen}
    return tuple(
        fit_attention(
            accelerators,
            some_rows(rows[rows["served_by"] == index], ROWS, WINDOWED_ROWS, SEED),
            _structure(kernel),
            prior_width=PRIOR_WIDTH,
        )
        for index, kernel in enumerate(kernels)
    )


def _structure(kernel: Coefficients) -> Coefficients:
    """A kernel with its own structure, and with what is known of its coefficients before any measurement."""
    begin: dict[str, Any] = {
        name: (limits.start,) * len(kernel.head_dims) if isinstance(getattr(kernel, name), tuple) else limits.start
        for name, limits in limits_of(kernel).items()
    }
    return dataclasses.replace(kernel, **begin, clock_ratios=FrozenDict())


def held_back_errors(
    attention_set: AttentionSet, kernels: Sequence[AttentionCoefficients], table: pd.DataFrame, *, windowed: bool
) -> dict[str, dict[str, float]]:
    """Summarise the errors of a set on the rows that were held back, without or with a window, by system."""
    errors = {}
    for system in attention_set.systems:
        rows = attention_set.rows(table, system, kernels)
        rows = rows[~rows["trained"] & ((rows["window"] > 0) == windowed)]
        if len(rows):
            cache = rows["kv_dtype"].iloc[0]
            seconds = attention_times(accelerator_of(system), kernels, rows, attention_set.dtype, cache).seconds
            errors[system] = error_summary(np.log(seconds / rows["latency_s"].to_numpy()))
    return errors


def write_attention(sets: Sequence[AttentionSet] | None = None) -> None:
    """Fit sets (all of them when left out) to the public tables and put them into the shipped files."""
    chosen = shipped_attention_sets() if sets is None else sets
    for phase in dict.fromkeys(attention_set.phase for attention_set in chosen):
        table = read_attention(phase)
        for attention_set in chosen:
            if attention_set.phase == phase:
                key = f"{phase}.{attention_set.types}"
                merge_into(
                    attention_set.file, {key: _table(attention_set, table)}, library=attention_set.library,
                    architecture=attention_set.architecture, data=DATA,
                )  # fmt: skip


def _table(attention_set: AttentionSet, table: pd.DataFrame) -> dict[str, Any]:
    """Fit one set, and judge just the rounded numbers that are shipped."""
    fits = fit_shipped_attention(attention_set, attention_set.shipped(), table)
    written = plain({"kernels": [fit.coefficients.to_table() for fit in fits]})
    kernels = read_kernels(PHASES[attention_set.phase], written)
    errors = held_back_errors(attention_set, kernels, table, windowed=False)
    with_window = held_back_errors(attention_set, kernels, table, windowed=True)
    folder = "mla" if attention_set.phase.startswith("latent") else "attention"
    fit = {
        "data": f"{folder}/{attention_set.library}/{version_of(attention_set.systems[0], attention_set.library)}",
        "rows_used": sum(found.rows_used for found in fits),
        "rows_held_back": sum(int(error["n"]) for group in (errors, with_window) for error in group.values()),
        "seed": SEED,
        "undetermined": [f"{found.coefficients.kernel}.{name}" for found in fits for name in found.undetermined],
        "errors": errors,
    }
    return {**written, "fit": fit | ({"errors_with_window": with_window} if with_window else {})}
