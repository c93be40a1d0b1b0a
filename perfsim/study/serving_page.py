"""The page of serving accuracy: what `perfsim validate --serving` found, with the goals beside it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from perfsim.serving.engine_times import known_times
from perfsim.study.silicon.systems import DATA

if TYPE_CHECKING:
    from perfsim.study.serving_accuracy import ServingValidation

__all__ = ["serving_page"]

_GOALS = (9.0, 5.0)
_LEFT_OUT_GOALS = (13.0, 6.0)
_BAD = 15.0
_WORST = 15

_HEAD = """# Accuracy of serving

This page is written by `{call} --out FOLDER`, which needs the extra `silicon`.
It holds {rows:,} measured serving runs of {data} (`silicon_sample.csv`) beside their simulation; other runs of
that file were not looked at, and are kept to judge by. [Serving](serving.md) says what is simulated.

Each run is asked for by what its row says of itself: model and quantisation, GPU, library, tensor and expert degrees,
lengths, the client's concurrency. What a row does not say is the same for all: experts are used as rank^-0.6, nothing
is reused from a prefix cache, weights and KV cache are cold. Clients are of three kinds: closed loops of ten times
the concurrency with lengths from 0.8 to 1 of the nominal ones (P1, P2), and single bursts (P3, inferred; TTFT is not
judged there, nor where the client's own queue was measured). Predictions are means of three seeds.

GPU times are the calibrated costs of the [operators](accuracy.md), fitted to kernels alone. Only the times of the
engines' hosts and their share of memory-bound kernels are fitted to serving runs: to all of these, group by group as
the table of times says. **So the first table is in sample; those of runs left out are not.** Repeated runs differ by
4 % (TTFT; 23 % at the 90th percentile) and 0.7 % (TPOT; 9 %).

Errors are absolute ones in per cent: the median over the runs of a group, then the mean over groups.
"""


def serving_page(found: ServingValidation, call: str) -> str:
    """Write the page in Markdown.

    Parameters
    ----------
    found : ServingValidation
    call : str
        The command that found it.
    """
    parts = [_HEAD.format(call=call, rows=len(found.rows), data=DATA), "## Goals\n", *_goals(found)]
    parts += ["\n## Groups\n", *_groups(found), f"\n{_bad(found)}"]
    parts += ["\n## Times of the engines\n", *_times(found)]
    parts += ["\n## Where it is worst\n", *_worst(found)]
    return "\n".join(parts) + "\n"


def _goals(found: ServingValidation) -> list[str]:
    lines = ["| runs | TTFT (goal) | TPOT (goal) |", "|---|---|---|"]
    lines.append(_line(f"all {len(found.rows)}, in sample", found.mean_of_group_medians, _GOALS))
    if found.left_out_medians is not None:
        for row in found.left_out_medians.to_dict("records"):
            what = {"system": "a GPU left out of the fit", "prompt_tokens": "a prompt length left out"}[row["left_out"]]
            lines.append(_line(f"{what}, {row['n']} runs in {row['groups']} groups", row, _LEFT_OUT_GOALS))
    other = found.other_mean_of_group_medians
    if other is not None:
        missed = int(found.rows["other_tpot_s"].isna().sum())
        lines.append(
            f"| AIConfigurator 0.12, without the {missed} runs that it refuses | {other['ttft_percent']:.1f}"
            f" | {other['tpot_percent']:.1f} |"
        )
    return lines


def _line(words: str, medians: dict[str, float], goals: tuple[float, float]) -> str:
    return (
        f"| {words} | {medians['ttft_percent']:.1f} ({goals[0]:g}) | {medians['tpot_percent']:.1f} ({goals[1]:g}) |"
    )  # fmt: skip


def _groups(found: ServingValidation) -> list[str]:
    other = "other_tpot_median" in found.groups.columns
    names = ["model", "GPU", "library", "prompt / output", "n", "TTFT", "p90", "bias", "TPOT", "p90", "bias"]
    names += ["AIC TTFT", "AIC TPOT"] if other else []
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in found.groups.to_dict("records"):
        cells = [row["model"].split("/")[-1], row["system"], row["library"]]
        cells += [f"{row['prompt_tokens']} / {row['output_tokens']}", str(row["n"])]
        for name in ("ttft", "tpot"):
            cells += [_number(row[f"{name}_{key}"], sign=key == "bias") for key in ("median", "p90", "bias")]
        if other:
            cells += [_number(row[f"other_{name}_median"]) for name in ("ttft", "tpot")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _number(value: float, *, sign: bool = False) -> str:
    return "-" if math.isnan(value) else f"{value:+.1f}" if sign else f"{value:.1f}"


def _bad(found: ServingValidation) -> str:
    groups = found.groups
    bad = groups[(groups["ttft_median"] > _BAD) | (groups["tpot_median"] > _BAD)]
    names = [f"{row.model.split('/')[-1]} {row.prompt_tokens}/{row.output_tokens}" for row in bad.itertuples()]
    return f"{len(bad)} of {len(groups)} groups have a median error above {_BAD:g} %: {', '.join(names) or 'none'}."


def _times(found: ServingValidation) -> list[str]:
    known = known_times()
    used = [name for name in known if name in set(found.rows["times"])]
    fields = [field.name for field in dataclasses.fields(known[used[0]]) if field.name != "source"]
    fields = [name for name in fields if any(getattr(known[each], name) for each in used)]
    lines = [f"| times | runs | {' | '.join(fields)} |", "|---" * (len(fields) + 2) + "|"]
    for name in used:
        cells = [f"{getattr(known[name], field):.3g}" for field in fields]
        lines.append(f"| `{name}` | {int((found.rows['times'] == name).sum())} | {' | '.join(cells)} |")
    return lines


def _worst(found: ServingValidation) -> list[str]:
    lines = [
        "| model | GPU | library | prompt / output | TP | EP | concurrency | TTFT measured, predicted | TPOT |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.model.split('/')[-1]} | {row.system} | {row.library} | {row.prompt_tokens} / {row.output_tokens}"
        f" | {row.tensor} | {row.expert} | {row.concurrency} | {_pair(row.ttft_s, row.predicted_ttft_s)}"
        f" | {_pair(row.tpot_s, row.predicted_tpot_s)} |"
        for row in found.worst(_WORST).itertuples()
    ]
    return lines


def _pair(measured: float, predicted: float) -> str:
    """Measured and predicted milliseconds."""
    return "-" if math.isnan(measured) else f"{measured * 1e3:.4g} ms, {predicted * 1e3:.4g} ms"
