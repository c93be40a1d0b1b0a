"""The part of the page of accuracy about GPUs that were left out of a fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from perfsim.study.silicon.transfer import DRAWS, POINTS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["transfer_goals", "transfer_part"]


class _Experiment(NamedTuple):
    """What was left out, in words, and the goals by operator or by GPU."""

    title: str
    rule: str
    goals: dict[str, float]


_INTRODUCTION = """
## GPUs that were left out

What coefficients are worth on a GPU that they were not fitted to, judged by the held-back rows of that GPU, without
windows. `own` is the error of the shipped coefficients, which its other rows were part of. Multiplications are of bf16;
`nccl` is the four operations together.
"""

_SIBLING = """\
Fitted without any row of the GPU, to the rows of its sibling that may be fitted: the coefficients and, of
multiplications, the candidates. The structure of attention kernels (tiles, rule of splitting, which kernel serves what)
is that of the coefficient file. A100 and L40S have no sibling in the tables.
"""

_POINTS = f"""\
{POINTS} multiplications of the GPU, drawn from the rows that may be fitted with the seeds 0 to {DRAWS - 1}, move the
coefficients of the nearest known GPU as `perfsim.calibrate` does. The nearest one is the sibling; a GPU without one
takes, of the GPUs of the nearest architectures (below), the one whose predictions fit the points best. The prior has a
width of 0.1 for a sibling and of 0.3 else, which predicted other rows that may be fitted best. MAPE is the mean of the
draws.
"""

_DATASHEET = """\
The datasheet of the GPU, with the coefficients of the nearest other architectures. Of multiplications and attention
these are the ones whose matrix units are programmed alike: Hopper for Blackwell and back, where groups of warps start
products and go on, and Ampere for Ada and back, where each warp waits for its own. Multiplications of the last two are
fitted to the other one and RTX PRO 6000 together. Of NCCL they are the generations of NVLink before and after (the
geometric mean of their predictions), and the next generation of PCIe. The same kernel library lends, where it was
measured. Who lends to whom was settled with a look at rows that may be fitted, of these very GPUs: a truly new
architecture may be somewhat worse.
"""

_EXPERIMENTS = {
    "sibling": _Experiment(
        "a GPU left out, its sibling known", _SIBLING, {"matmul": 5.5, "prefill": 6, "decode": 7, "nccl": 5}
    ),
    "points": _Experiment(
        f"matmul of a GPU left out, {POINTS} measured points", _POINTS,
        {"h100_sxm": 4.5, "a100_sxm": 7.5, "b200_sxm": 7, "l40s": 12.5},
    ),
    "datasheet": _Experiment(
        "a new architecture, datasheet only", _DATASHEET, {"matmul": 12, "prefill": 10, "decode": 25, "nccl": 25}
    ),
}  # fmt: skip


def transfer_goals(found: pd.DataFrame) -> Iterator[tuple[str, float, pd.Series]]:
    """Give the goals of what was found: in words, in per cent, and the mean errors that they are for."""
    for name, experiment in _EXPERIMENTS.items():
        own = found[found["experiment"] == name]
        goals = _goals_of(own)
        for key in experiment.goals:
            yield f"{experiment.title}: {key}", experiment.goals[key], own["mape"][goals == key]


def transfer_part(found: pd.DataFrame) -> list[str]:
    """Write a section with one table for each experiment."""
    lines = [_INTRODUCTION.rstrip()]
    for name, experiment in _EXPERIMENTS.items():
        own = found[found["experiment"] == name]
        if len(own):
            title = experiment.title[0].upper() + experiment.title[1:]
            lines += [f"\n### {title}\n", experiment.rule, *_table(own, experiment)]
    return lines


def _goals_of(own: pd.DataFrame) -> pd.Series:
    """Say for each row what its goal is found under."""
    return own["system"].where(own["experiment"] == "points", own["operator"])


def _table(own: pd.DataFrame, experiment: _Experiment) -> list[str]:
    lines = [
        "| operator | GPU | dtype | kernels | fitted to | n | MAPE | worst draw | median | p90 | bias | own | goal | |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    row: Any
    for row, key in zip(own.itertuples(), _goals_of(own), strict=True):
        goal = experiment.goals[key]
        worst = f"{row.worst_mape:.2f}" if row.experiment == "points" else "-"
        lines.append(
            f"| {row.operator} | {row.system} | {row.dtype} | {row.library} | {row.known} | {row.n:,} | {row.mape:.2f}"
            f" | {worst} | {row.median:.2f} | {row.p90:.1f} | {row.bias:+.1f} | {row.own_mape:.2f} | {goal:g} %"
            f" | {'met' if row.mape <= goal else 'missed'} |"
        )
    return lines
