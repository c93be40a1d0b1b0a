"""What fitted times of engines are worth on runs that they have not seen: a GPU or a prompt length left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perfsim.study.silicon.fit_serving import TimesFit, fit_times
from perfsim.study.silicon.serving_runs import TIMES, serving_runs

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["left_out_runs"]

_KINDS = ("system", "prompt_tokens")
_KIN = {
    TIMES.VLLM_HOPPER: TIMES.VLLM_BLACKWELL, TIMES.VLLM_BLACKWELL: TIMES.VLLM_HOPPER, TIMES.VLLM_16: TIMES.VLLM,
}  # fmt: skip
"""Whose runs stand in where the GPU that is left out was the only one that the times belong to."""


def left_out_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """Predict runs by times that were fitted without their GPU, or without their prompt length.

    Parameters
    ----------
    rows : DataFrame
        Runs as of `read_serving_rows`, with ``times``, the name of their engine's times.

    Returns
    -------
    DataFrame
        The rows with new ``predicted_ttft_s`` and ``predicted_tpot_s``, and ``left_out``: ``system`` or
        ``prompt_tokens``. Runs on a GPU without which nothing is left to fit to are not there.
    """
    import pandas as pd

    folds: dict[tuple[str, Any, str], pd.DataFrame] = {}
    fits: dict[tuple[str, Any, str], TimesFit] = {}
    for kind in _KINDS:
        for (value, name), seen in rows.groupby([kind, "times"], sort=False):
            others = rows[(rows["times"] == name) & (rows[kind] != value)]
            if others.empty and kind == "system":
                others = rows[(rows["times"] == _KIN.get(name)) & (rows[kind] != value)]
            if not others.empty:
                folds[kind, value, name], fits[kind, value, name] = seen, TimesFit(name, others)
    found = []
    for key, times in fit_times(fits).items():
        predicted = [run.latencies((0,)) for run in serving_runs(folds[key], {key[2]: times})]
        fold = folds[key].assign(left_out=key[0])
        fold[["predicted_ttft_s", "predicted_tpot_s"]] = predicted
        found.append(fold)
    return pd.concat(found, ignore_index=True)
