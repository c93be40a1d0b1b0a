"""Fit every shipped set of coefficients of matrix multiplication to the public tables, and write it with its errors.

A set's list of candidates is part of its form: a fit keeps the list of the coefficient file, and starts everything else
from `DEFAULT_FORM`, so that the same tables give the same file. `perfsim.cost.calibration.tile_choice` found the lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from perfsim.cost.calibration.matmul import DEFAULT_FORM, MatmulFit, MeasuredMatmuls, fit_matmul
from perfsim.cost.calibration.tile_choice import choose_tiles
from perfsim.cost.tiled_coefficients import Quantiser, TiledMatmul
from perfsim.spec.tables import read_toml
from perfsim.study.silicon.kernel_files import merge_into, plain
from perfsim.study.silicon.matmul_tables import (
    error_summary,
    measured_matmuls,
    read_matmuls,
    training_rows,
    version_of,
)
from perfsim.study.silicon.systems import DATA, kernel_file

__all__ = [
    "ROWS", "SETS", "MatmulSet", "draw", "fit_bf16", "fit_shipped_matmul", "half", "judged", "write_matmuls",
]  # fmt: skip

SEED = 0
ROWS = 6000
"""Rows that a set is fitted to, of the half that may be fitted; more change no digit that held-back rows notice."""

_FIRST_EVALUATIONS, _EVALUATIONS = 25, 40
_LIST_ROUNDS, _LIST_SHARE = 3, 2
"""How often a list of candidates is chosen and the coefficients fitted to it, and the share of rows that chooses."""
_PER_TENSOR = Quantiser(launch_s=10e-6, memory_efficiency=0.6, bytes_per_element=5.0)
_PER_BLOCK = Quantiser(launch_s=2e-6, memory_efficiency=0.6, bytes_per_element=3.0)


@dataclass(frozen=True)
class MatmulSet:
    """One set of coefficients.

    Attributes
    ----------
    architecture, library, dtype : str
    systems : tuple of str
        Whose measurements it is fitted to, together.
    own : bool
        Whether it stands beside the set of its architecture, as that of one system alone.
    """

    architecture: str
    library: str
    dtype: str
    systems: tuple[str, ...]
    own: bool = False

    @property
    def file(self) -> Path:
        """Where the set is written to."""
        return kernel_file(f"{self.architecture}-{self.library}")

    def shipped(self) -> TiledMatmul:
        """Read the set as it is shipped."""
        table = read_toml(self.file)["matmul"][self.dtype]
        return TiledMatmul.from_table(own_table(table, self.systems[0]) if self.own else shared_table(table))


_HOPPER, _BLACKWELL = ("h100_sxm", "h200_sxm"), ("b200_sxm", "gb200")

SETS = (
    MatmulSet("hopper", "trtllm", "bf16", _HOPPER),
    MatmulSet("hopper", "trtllm", "fp8", ("h100_sxm",)),
    MatmulSet("hopper", "trtllm", "fp8", ("h200_sxm",), own=True),  # one set for both costs 0.5 to 0.9 points
    MatmulSet("hopper", "trtllm", "fp8_block", _HOPPER),
    MatmulSet("blackwell", "trtllm", "bf16", _BLACKWELL),
    MatmulSet("blackwell", "trtllm", "fp8", _BLACKWELL),
    MatmulSet("blackwell", "trtllm", "fp8_block", _BLACKWELL),
    MatmulSet("ada", "trtllm", "bf16", ("l40s",)),
    MatmulSet("ada", "trtllm", "fp8", ("l40s",)),
    MatmulSet("ampere", "sglang", "bf16", ("a100_sxm",)),
    MatmulSet("hopper", "vllm", "bf16", _HOPPER),
    MatmulSet("hopper", "sglang", "bf16", _HOPPER),
    MatmulSet("hopper", "sglang", "fp8_block", _HOPPER),
    MatmulSet("blackwell", "vllm", "bf16", _BLACKWELL),
    MatmulSet("blackwell", "sglang", "bf16", _BLACKWELL),
    MatmulSet("blackwell", "sglang", "fp8_block", _BLACKWELL),
    MatmulSet("ada", "vllm", "bf16", ("l40s",)),
    MatmulSet("blackwell", "trtllm", "fp4", _BLACKWELL),
    MatmulSet("blackwell", "vllm", "fp4", _BLACKWELL),
    MatmulSet("blackwell", "sglang", "fp4", _BLACKWELL),
    MatmulSet("hopper", "vllm", "fp8", _HOPPER),
    MatmulSet("blackwell", "vllm", "fp8", _BLACKWELL),
    MatmulSet("hopper", "sglang", "fp8", _HOPPER),
    MatmulSet("blackwell", "sglang", "fp8", _BLACKWELL),
)
"""What is shipped. Those of bf16 come before those that take their launch time."""


def shared_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """Give the coefficients of a table that hold for its whole architecture."""
    return {key: value for key, value in table.items() if key != "systems"}


def own_table(table: Mapping[str, Any], system: str) -> dict[str, Any]:
    """Give the coefficients of a table that hold for one system: its own in the place of the architecture's."""
    return shared_table(table) | dict(table.get("systems", {}).get(system, {}))


def fit_shipped_matmul(matmul_set: MatmulSet, form: TiledMatmul, launch_s: float | None = None) -> MatmulFit:
    """Fit one set from `DEFAULT_FORM`.

    Parameters
    ----------
    matmul_set : MatmulSet
    form : TiledMatmul
        Its candidates, blocks and quantiser's traffic are kept; nothing else of it is looked at.
    launch_s : float, optional
        Launch time that is known from elsewhere. An fp8 set takes that of bf16, which leaves the rest to the quantiser:
        only their sum can be seen in its own table.
    """
    quantiser = {"fp8": _PER_TENSOR, "fp4": _PER_TENSOR, "fp8_block": _PER_BLOCK}.get(matmul_set.dtype)
    return _fit(_training_parts([matmul_set], ROWS), form, launch_s, quantiser)


def fit_bf16(sets: Sequence[MatmulSet], count: int = ROWS) -> TiledMatmul:
    """Fit one set of coefficients to the rows of several sets together, with a list of candidates of its own.

    Nothing of the shipped files is looked at, so that the fit knows no other device than those of the sets.

    Parameters
    ----------
    sets : sequence of MatmulSet
        Of bf16. Each has the same share of the rows.
    count : int
        Rows in all.
    """
    rows = _training_parts(sets, count)
    choosing = [draw(part, len(part) // _LIST_SHARE) for part in rows]
    form = DEFAULT_FORM
    for _ in range(_LIST_ROUNDS):
        form = choose_tiles(choosing, _fit(rows, form).coefficients)
    return _fit(rows, form).coefficients


def _training_parts(sets: Sequence[MatmulSet], count: int) -> list[MeasuredMatmuls]:
    """Draw rows to fit of every system of some sets."""
    return [
        draw(half(one, system, train=True), count // len(sets) // len(one.systems))
        for one in sets
        for system in one.systems
    ]


def _fit(
    rows: Sequence[MeasuredMatmuls], form: TiledMatmul, launch_s: float | None = None,
    quantiser: Quantiser | None = None,
) -> MatmulFit:  # fmt: skip
    """Fit from `DEFAULT_FORM`, with the candidates of a form: first all of them alike, then each with its own time."""
    default = replace(
        DEFAULT_FORM, tiles=tuple(replace(tile, relative_time=1.0) for tile in form.tiles), k_block=form.k_block,
        blocks_per_sm=form.blocks_per_sm, launch_s=DEFAULT_FORM.launch_s if launch_s is None else launch_s,
        quantiser=quantiser,
    )  # fmt: skip
    fixed = () if launch_s is None else ("launch_s",)
    first = fit_matmul(rows, default, fixed=fixed, relative_times=False, evaluations=_FIRST_EVALUATIONS)
    return fit_matmul(rows, first.coefficients, fixed=fixed, evaluations=_EVALUATIONS)


def judged(matmul_set: MatmulSet, form: TiledMatmul) -> dict[str, dict[str, float]]:
    """Summarise the errors of a set on the rows that were held back, by system."""
    held_back = {system: half(matmul_set, system, train=False) for system in matmul_set.systems}
    return {system: error_summary(rows.log_errors(form)) for system, rows in held_back.items()}


def write_matmuls(sets: tuple[MatmulSet, ...] = SETS, forms: Mapping[MatmulSet, TiledMatmul] | None = None) -> None:
    """Fit sets to the public tables and put them into the shipped files.

    Parameters
    ----------
    sets : tuple of MatmulSet
    forms : mapping, optional
        Lists of candidates for sets that are not shipped yet.
    """
    for matmul_set in sets:
        form = forms[matmul_set] if forms else matmul_set.shipped()
        launch_s = None
        if matmul_set.dtype != "bf16":
            launch_s = read_toml(matmul_set.file)["matmul"]["bf16"]["launch_s"]
        found = fit_shipped_matmul(matmul_set, form, launch_s)
        table = _table(matmul_set, found)
        beside = (
            read_toml(matmul_set.file).get("matmul", {}).get(matmul_set.dtype, {}) if matmul_set.file.exists() else {}
        )
        own = dict(beside.get("systems", {}))
        if matmul_set.own:
            own[matmul_set.systems[0]], table = table, shared_table(beside)
        table = {**table, "systems": own} if own else table
        merge_into(
            matmul_set.file, {f"matmul.{matmul_set.dtype}": table}, library=matmul_set.library,
            architecture=matmul_set.architecture, data=DATA,
        )  # fmt: skip


def _table(matmul_set: MatmulSet, found: MatmulFit) -> dict[str, Any]:
    """Write coefficients as they are shipped, with the errors of just these rounded numbers."""
    coefficients = plain(found.coefficients.to_table())
    first = matmul_set.systems[0]
    errors = judged(matmul_set, TiledMatmul.from_table(coefficients))
    fit = {
        "data": f"gemm/{matmul_set.library}/{version_of(first, matmul_set.library)}",
        "rows_used": found.rows,
        "rows_held_back": sum(int(error["n"]) for error in errors.values()),
        "seed": SEED,
        "at_bound": found.posterior.at_bound,
        "undetermined": found.posterior.undetermined,
        "errors": errors,
    }
    return {**coefficients, "fit": fit}


def half(matmul_set: MatmulSet, system: str, *, train: bool) -> MeasuredMatmuls:
    """Read the rows of a system that may be fitted, or those that are held back."""
    table = read_matmuls(system, matmul_set.library, matmul_set.dtype)
    marked = training_rows(table, SEED)
    return measured_matmuls(table[marked == train], system, matmul_set.library, matmul_set.dtype)


def draw(rows: MeasuredMatmuls, count: int, seed: int = SEED) -> MeasuredMatmuls:
    """Draw some rows, in the order of the table."""
    if len(rows) <= count:
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False)))
