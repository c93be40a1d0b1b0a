"""The page of accuracy: what `perfsim validate` found, with the goals beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from perfsim.study.silicon.held_back import NCCL
from perfsim.study.silicon.systems import DATA
from perfsim.study.transfer_page import transfer_goals, transfer_part

if TYPE_CHECKING:
    import pandas as pd

    from perfsim.study.validate import Validation

__all__ = ["accuracy_page"]

_BAD, _BIASED = 15.0, 2.0
_WORST = 20
_MEGABYTE = 1e6


class _Goal(NamedTuple):
    """What the mean of the errors of some rows of the summary is to be."""

    words: str
    percent: float
    belongs: Callable[[pd.DataFrame], Any]


def _of(operator: str, dtype: str, libraries: tuple[str, ...], systems: tuple[str, ...] = ()) -> Callable[..., Any]:
    def belongs(table: pd.DataFrame) -> Any:
        chosen = (table["operator"] == operator) & (table["dtype"] == dtype) & table["library"].isin(libraries)
        return chosen & table["system"].isin(systems) if systems else chosen

    return belongs


_HOPPER, _BLACKWELL = ("h100_sxm", "h200_sxm"), ("b200_sxm", "gb200")
_GOALS = (
    _Goal("matmul bf16, trtllm, H100 and H200", 4.5, _of("matmul", "bf16", ("trtllm",), _HOPPER)),
    _Goal("matmul bf16, trtllm, B200 and GB200", 7, _of("matmul", "bf16", ("trtllm",), _BLACKWELL)),
    _Goal("matmul bf16, sglang, A100", 7, _of("matmul", "bf16", ("sglang",), ("a100_sxm",))),
    _Goal("matmul bf16, trtllm, L40S", 10, _of("matmul", "bf16", ("trtllm",), ("l40s",))),
    _Goal("matmul fp8, trtllm, H100 and H200", 3, _of("matmul", "fp8", ("trtllm",), _HOPPER)),
    _Goal("matmul fp8, trtllm, B200 and GB200", 4.5, _of("matmul", "fp8", ("trtllm",), _BLACKWELL)),
    _Goal("matmul fp8 with block scales, trtllm", 8, _of("matmul", "fp8_block", ("trtllm",))),
    _Goal("matmul fp8 with block scales, sglang", 8, _of("matmul", "fp8_block", ("sglang",))),
    _Goal("prefill bf16, trtllm", 4.5, _of("prefill", "bf16-bf16", ("trtllm",))),
    _Goal("prefill bf16, vllm and sglang", 6, _of("prefill", "bf16-bf16", ("vllm", "sglang"))),
    _Goal("decode, all GPUs and libraries", 6, lambda table: table["operator"] == "decode"),
    _Goal("NCCL, 2 to 8 GPUs", 3.5, lambda table: table["operator"].isin(NCCL)),
    _Goal("custom all-reduce, alternate sizes", 4.5, lambda table: table["operator"] == "custom_all_reduce"),
    _Goal(
        "grouped matmul of unseen experts, trtllm",
        10,
        lambda table: (table["operator"] == "grouped_matmul") & (table["library"] == "trtllm"),
    ),
)

_HEAD = """# Accuracy

This page is written by the command `{call} --out FOLDER`, which needs the extra `silicon`. It judges the
shipped coefficients by {rows:,} measurements of {data} that no fit has seen.
[Calibration](calibration.md) says how they were fitted, and how to bring your own measurements.

What is held back, always with seed 0: of matrix multiplications half of the weights (n, k), with all m; of attention
half of the configurations of heads, at each head dimension; of experts half of the models; of NCCL a whole repeated
run, or the int8 rows where a system has one run only; of the engines' own all-reduces every other payload, both ways
round; of expert all-to-alls half of the rows. Attention with a window (`_window`) stands by itself, and so do series
of experts that contradict other series of their own table or the speed of memory (`_contradictory`), which no fit
uses. Predictions are for the state of L2 that the tables were measured in. Kernels bound by memory are not here:
their errors stand beside their coefficients, in `hardware_profiles/kernels/memory-bound.toml`.

Columns: errors in per cent (mean, median and 90th percentile of the absolute error; bias of the geometric mean);
`roofline`: the mean error of documented efficiencies without any coefficients; `interpolation`: that of logarithmic
interpolation between fitted rows of the same table, for the share of rows in brackets, where it is possible (of
payloads that were measured before it is a second measurement, so the noise of the measurement itself);
`in range`: the share of rows inside of the 80 % range that a result states; `others`: inside of the range that one
half of the series gives and the other half is counted in, which the rows themselves have no part in.
"""


def accuracy_page(found: Validation, call: str) -> str:
    """Write the page in Markdown.

    Parameters
    ----------
    found : Validation
    call : str
        The command that found it.
    """
    summary = found.summary
    parts = [_HEAD.format(call=call, rows=len(found.rows), data=DATA), "## Goals\n", *_goals(found)]
    for operator in summary["operator"].unique():
        parts += [f"\n## {operator}\n", *_table(summary[summary["operator"] == operator])]
    if found.transfer is not None:
        parts += transfer_part(found.transfer)
    parts += [
        "\n## Where it is bad\n",
        _bad(summary),
        f"\nThe worst row of each of the {_WORST} tables with the worst ones:\n",
        *_worst(found),
    ]
    return "\n".join(parts) + "\n"


def _goals(found: Validation) -> list[str]:
    lines = ["| operator | goal | mean over its tables | largest | met by |", "|---|---|---|---|---|"]
    for goal in _GOALS:
        lines += _goal(goal.words, goal.percent, found.summary["mape"][goal.belongs(found.summary)])
    rows = found.rows[found.rows["operator"].isin(NCCL)]
    payload = rows["sizes"].str.extract(r"payload_bytes (\d+)")[0].astype(float)
    long = rows[payload >= _MEGABYTE]
    error = 100 * (long["predicted_s"] / long["latency_s"] - 1).abs()
    lines += _goal("NCCL from 1 MB", 2.5, error.groupby([long["operator"], long["system"]]).mean())
    for goal_of_transfer in transfer_goals(found.transfer) if found.transfer is not None else ():
        lines += _goal(*goal_of_transfer)
    return lines


def _goal(words: str, percent: float, mape: pd.Series) -> list[str]:
    """Give the line of a goal, if anything was measured for it."""
    met = f"{int((mape <= percent).sum())} of {len(mape)}"
    return [f"| {words} | {percent:g} % | {mape.mean():.2f} | {mape.max():.2f} | {met} |"] if len(mape) else []


def _table(group: pd.DataFrame) -> list[str]:
    lines = [
        "| GPU | dtype | kernels | n | MAPE | median | p90 | bias | roofline | interpolation | in range | others |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in group.itertuples():
        share = f"{row.interpolation_mape:.1f} ({row.interpolated_n / row.n:.0%})" if row.interpolated_n else "-"
        lines.append(
            f"| {row.system} | {row.dtype} | {row.library} | {row.n:,} | {row.mape:.2f} | {row.median:.2f}"
            f" | {row.p90:.1f} | {row.bias:+.1f} | {row.roofline_mape:.1f} | {share} | {_percent(row.in_range)}"
            f" | {_percent(row.in_range_of_others)} |"
        )
    return lines


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0f} %"


def _bad(summary: pd.DataFrame) -> str:
    bad, biased = summary[summary["mape"] > _BAD], summary[summary["bias"].abs() > _BIASED]
    names = [f"{row.operator} {row.dtype} {row.library} on {row.system} ({row.mape:.1f} %)" for row in bad.itertuples()]
    return (
        f"{len(bad)} of {len(summary)} tables have a mean error above {_BAD:g} %: {'; '.join(names) or 'none'}. "
        f"{len(biased)} have a bias beyond {_BIASED:g} %, the limit of the goals."
    )


def _worst(found: Validation) -> list[str]:
    lines = [
        "| operator | dtype | kernels | GPU | sizes | measured | predicted | factor |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.operator} | {row.dtype} | {row.library} | {row.system} | {row.sizes}"
        f" | {row.latency_s * 1e6:.4g} us | {row.predicted_s * 1e6:.4g} us | {row.factor:.2f} |"
        for row in found.worst(_WORST).itertuples()
    ]
    return lines
