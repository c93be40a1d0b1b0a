"""How far coefficients carry to a GPU that they were not fitted to, judged on that GPU's held-back rows.

- ``sibling``: fitted without any row of the GPU, to its sibling of the same architecture;
- ``points``: the GPU is left out but for a few measured multiplications of its own, the data of
  `perfsim.cost.calibration.posterior` around the coefficients of the nearest known GPU;
- ``datasheet``: the whole architecture is left out, and the coefficients are those of the nearest other ones.

What is nearest is said by the tables below and not by any error. Lists of candidates of multiplications are chosen
anew from the rows of the known GPUs. The structure of attention kernels is that of the coefficient file which lends the
coefficients: what a library launches is known without a measurement of its time. Kernels that serve only wide heads
stay at home where an architecture is new, since they have rules of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.calibration.attention import attention_times
from perfsim.cost.calibration.collective import fit_nccl, predict
from perfsim.cost.calibration.matmul import MeasuredMatmuls, fit_matmul
from perfsim.cost.protocols import CollectiveCoefficients
from perfsim.cost.tiled_coefficients import TiledMatmul
from perfsim.spec.tables import read_toml
from perfsim.study.silicon.attention_tables import read_attention
from perfsim.study.silicon.communication import IN_SWITCH, file_name, held_back_runs
from perfsim.study.silicon.communication_tables import nccl_rows
from perfsim.study.silicon.fit_attentions import AttentionSet, fit_shipped_attention, shipped_attention_sets
from perfsim.study.silicon.fit_matmuls import ROWS, SETS, MatmulSet, draw, fit_bf16, half
from perfsim.study.silicon.held_back import NCCL, draw_rows
from perfsim.study.silicon.systems import accelerator_of, kernel_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "DRAWS", "POINTS", "bf16_set", "few_points", "matmul_of_sibling", "transfer_rows"]

COLUMNS = (
    "experiment", "operator", "dtype", "library", "system", "known", "n", "mape", "worst_mape", "median", "p90", "bias",
    "own_mape",
)  # fmt: skip
"""``known`` is whose rows were fitted; ``worst_mape`` that of the worst draw; ``own_mape`` that of the shipped set."""

POINTS, DRAWS = 32, 5
"""Measured points of the GPU that is left out, and draws of them, whose seeds are 0, 1 and so on."""

SIBLINGS = {"h100_sxm": "h200_sxm", "h200_sxm": "h100_sxm", "b200_sxm": "gb200", "gb200": "b200_sxm"}
_NCCL_SIBLINGS = {**SIBLINGS, "b200_sxm": "b300_sxm", "gb200": "gb300"}  # the GPUs on the same board or tray
NEAREST = {
    "hopper": ("blackwell",), "blackwell": ("hopper",), "ampere": ("ada", "blackwell-rtx"),
    "ada": ("ampere", "blackwell-rtx"),
}  # fmt: skip
"""Architectures whose matrix units are programmed alike: by groups of warps that run ahead of them, or by each warp."""
_NEAREST_LINKS = {
    "a100_sxm": ("h100_sxm",), "h100_sxm": ("a100_sxm", "b200_sxm"), "h200_sxm": ("a100_sxm", "b200_sxm"),
    "b200_sxm": ("h100_sxm",), "gb200": ("h100_sxm",), "l40s": ("rtx_pro_6000_server",),
}  # fmt: skip
"""The generations of NVLink before and after; for PCIe that of the next generation."""
_POINTS_SETS = (("hopper", "trtllm"), ("ampere", "sglang"), ("blackwell", "trtllm"), ("ada", "trtllm"))
_POINTS_SYSTEMS = ("h100_sxm", "a100_sxm", "b200_sxm", "l40s")

_SIBLING_WIDTH, _NEAREST_WIDTH = 0.1, 0.3
"""Widths of the prior, in the logarithm, which predict rows that may be fitted best."""
_POINTS_SOFT = 0.1
_WIDE_HEADS = 128

_LENT = (*SETS, *(MatmulSet("blackwell-rtx", name, "bf16", ("rtx_pro_6000_server",)) for name in ("trtllm", "sglang")))
"""Sets that lend: the shipped ones, and those of a GPU that has no profile."""

Array = NDArray[np.float64]
Row = dict[str, Any]


def transfer_rows(systems: Collection[str], operators: Collection[str], sample: int | None) -> Iterator[Row]:
    """Give the errors of each experiment, operator, data type, kernel library and GPU that was left out.

    Parameters
    ----------
    systems : collection of str
        GPUs to leave out, one at a time.
    operators : collection of str
        ``matmul`` (of bf16), ``prefill``, ``decode``, and NCCL's operations, which are judged together as ``nccl``.
    sample : int or None
        The most rows that each is judged by, drawn at random; None for all.

    Yields
    ------
    dict
        With the keys `COLUMNS`.

    Raises
    ------
    InputError
        The package with the public tables is not installed.
    """
    if "matmul" in operators:
        yield from _matmuls(systems, sample)
    for phase in ("prefill", "decode"):
        if phase in operators:
            yield from _attentions(phase, systems, sample)
    ops = [op for op in NCCL if op in operators]
    if ops:
        yield from _collectives(systems, ops, sample)


def _row(
    experiment: str, about: Sequence[str], known: Sequence[str], log_errors: Sequence[Array], own: Array
) -> Row:  # fmt: skip
    """Summarise log(predicted / measured) of each draw; the draws of an experiment have the same number of rows."""
    every = np.concatenate(log_errors)
    error = np.abs(np.expm1(every))
    per_cent = (
        error.mean(), max(_mape(draw) for draw in log_errors), np.median(error), np.quantile(error, 0.9),
        np.expm1(every.mean()), _mape(own),
    )  # fmt: skip
    numbers = (100 * float(value) for value in per_cent)
    return dict(zip(COLUMNS, (experiment, *about, " and ".join(known), len(own), *numbers), strict=True))


def _mape(log_errors: Array) -> float:
    return float(np.abs(np.expm1(log_errors)).mean())


# Multiplications


def bf16_set(architecture: str, library: str) -> MatmulSet:
    """Find the set of an architecture: that of the library, or the first one that the architecture has.

    Examples
    --------
    >>> bf16_set("ada", "sglang").library
    'trtllm'
    """
    own = [one for one in _LENT if one.architecture == architecture and one.dtype == "bf16"]
    return next((one for one in own if one.library == library), own[0])


def _known(sets: Sequence[MatmulSet]) -> TiledMatmul:
    """Give the coefficients of sets that lend: the shipped ones of a single set that has them, else a fit to all."""
    return sets[0].shipped() if len(sets) == 1 and sets[0] in SETS else fit_bf16(sets)


def matmul_of_sibling(one: MatmulSet, system: str, count: int = ROWS) -> TiledMatmul:
    """Fit a set without a system, to its sibling: coefficients and candidates."""
    return fit_bf16([replace(one, systems=(SIBLINGS[system],))], count)


def few_points(measured: MeasuredMatmuls, known: Mapping[str, TiledMatmul], width: float) -> tuple[str, TiledMatmul]:
    """Fit to a few points around what is nearest to them among known coefficients; gives its name too."""
    nearest = min(known, key=lambda name: float(np.abs(measured.log_errors(known[name])).mean()))
    fit = fit_matmul([measured], known[nearest], prior_width=width, soft=_POINTS_SOFT)
    return nearest, fit.coefficients


def _matmuls(systems: Collection[str], sample: int | None) -> Iterator[Row]:
    for one in (each for each in SETS if each.dtype == "bf16"):
        wanted = [system for system in one.systems if system in systems]
        if not wanted:
            continue
        near = [bf16_set(name, one.library) for name in NEAREST[one.architecture]]
        lent = _known(near)
        for system in wanted:
            about = ("matmul", "bf16", one.library, system)
            held = half(one, system, train=False)
            held = draw(held, sample or len(held))
            own = held.log_errors(one.shipped())
            sibling = None
            if system in SIBLINGS:
                sibling = matmul_of_sibling(one, system)
                yield _row("sibling", about, [SIBLINGS[system]], [held.log_errors(sibling)], own)
            if (one.architecture, one.library) in _POINTS_SETS and system in _POINTS_SYSTEMS:
                yield _points_row(about, one, held, sibling, own)
            yield _row("datasheet", about, _systems_of(near), [held.log_errors(lent)], own)


def _points_row(
    about: Sequence[str], one: MatmulSet, held: MeasuredMatmuls, sibling: TiledMatmul | None, own: Array
) -> Row:  # fmt: skip
    """Draw points from the rows that may be fitted, several times, and judge each fit by the held-back rows."""
    system, width = about[-1], _SIBLING_WIDTH
    if sibling is not None:
        known = {SIBLINGS[system]: sibling}
    else:
        near = [bf16_set(name, one.library) for name in NEAREST[one.architecture]]
        known, width = {each.systems[0]: _known([each]) for each in near}, _NEAREST_WIDTH
    measured = half(one, system, train=True)
    fits = [few_points(draw(measured, POINTS, seed), known, width) for seed in range(DRAWS)]
    used = sorted({name for name, _ in fits})
    return _row("points", about, used, [held.log_errors(form) for _, form in fits], own)


def _systems_of(sets: Sequence[MatmulSet] | Sequence[AttentionSet]) -> list[str]:
    return [system for one in sets for system in one.systems]


# Attention


def _attentions(phase: str, systems: Collection[str], sample: int | None) -> Iterator[Row]:
    sets = [one for one in shipped_attention_sets() if one.phase == phase]
    table = read_attention(phase)
    for one in sets:
        for system in (name for name in one.systems if name in systems):
            rows = one.rows(table, system, one.shipped())
            held = draw_rows(rows[~rows["trained"] & (rows["window"] == 0)], sample)
            about, own = (phase, one.types, one.library, system), _attention_errors(one, system, one.shipped(), held)
            if system in SIBLINGS:
                fits = fit_shipped_attention(one, one.shipped(), table, [SIBLINGS[system]])
                errors = _attention_errors(one, system, [fit.coefficients for fit in fits], held)
                yield _row("sibling", about, [SIBLINGS[system]], [errors], own)
            near = replace(one, architecture=NEAREST[one.architecture][0])
            if one.types == "bf16-bf16" and near in sets:
                lent = [kernel for kernel in near.shipped() if kernel.head_dim_above < _WIDE_HEADS]
                yield _row("datasheet", about, near.systems, [_attention_errors(one, system, lent, held)], own)


def _attention_errors(one: AttentionSet, system: str, kernels: Sequence[Any], held: pd.DataFrame) -> Array:
    """Give log(predicted / measured) of rows of one system, in the state that its table was measured in."""
    cache = held["kv_dtype"].iloc[0]
    seconds = attention_times(accelerator_of(system), kernels, held, one.dtype, cache).seconds
    return np.asarray(np.log(seconds / held["latency_s"].to_numpy(float)))


# NCCL


def _collectives(systems: Collection[str], ops: Sequence[str], sample: int | None) -> Iterator[Row]:
    rows = nccl_rows()
    rows = rows.assign(held=held_back_runs(rows))[rows["op"].isin(ops)]
    for system in (name for name in _NEAREST_LINKS if name in systems):
        unseen = draw_rows(rows[rows["held"] & (rows["system"] == system)], sample)
        about, own = ("nccl", "any", "nccl", system), _nccl_errors(_shipped(system, ops), unseen)
        if system in _NCCL_SIBLINGS:
            known = rows[~rows["held"] & (rows["dtype"] == "half") & (rows["system"] == _NCCL_SIBLINGS[system])]
            fitted = fit_nccl(known, in_switch_sizes=(8,) if system in IN_SWITCH else ())
            yield _row("sibling", about, [_NCCL_SIBLINGS[system]], [_nccl_errors(fitted, unseen)], own)
        lenders = _NEAREST_LINKS[system]
        lent = np.mean([_nccl_errors(_shipped(name, ops), unseen) for name in lenders], axis=0)
        yield _row("datasheet", about, lenders, [lent], own)


def _shipped(system: str, ops: Sequence[str]) -> dict[str, CollectiveCoefficients]:
    tables = read_toml(kernel_file(file_name(system)))
    return {op: CollectiveCoefficients.from_table(tables[op]) for op in ops}


def _nccl_errors(coefficients: Mapping[str, CollectiveCoefficients], rows: pd.DataFrame) -> Array:
    return np.asarray(np.log(predict(coefficients, rows) / rows["latency_s"].to_numpy(float)))
