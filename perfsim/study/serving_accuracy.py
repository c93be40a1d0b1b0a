"""How right predictions of serving are: measured public runs beside those of perfsim, group by group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perfsim.errors import Faults
from perfsim.study.output import new_folder
from perfsim.study.silicon.serving_rows import GROUP, read_serving_rows
from perfsim.study.silicon.serving_runs import serving_runs, times_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ServingValidation", "validate_serving"]

SEEDS = (0, 1, 2)
_MEASURES = ("ttft", "tpot")


@dataclass(frozen=True, eq=False)
class ServingValidation:
    """Measured serving runs and what was predicted for them.

    Attributes
    ----------
    rows : DataFrame
        One run each: the columns of `read_serving_rows` with the measured ``ttft_s`` (NaN where it may not be judged)
        and ``tpot_s``; ``times``, the name of the engine's times; ``predicted_ttft_s`` and ``predicted_tpot_s``, means
        of three seeds; where AIConfigurator was asked, ``other_ttft_s``, ``other_tpot_s`` and why it failed.
    left_out : DataFrame or None
        The same runs, predicted with times that were fitted without their GPU or their prompt length (``left_out``
        says which); None where it was not asked for.
    """

    rows: pd.DataFrame
    left_out: pd.DataFrame | None = None

    @cached_property
    def groups(self) -> pd.DataFrame:
        """Errors of each group of runs, in per cent.

        Columns: those of `GROUP` and ``times``; ``n``; for TTFT and TPOT the ``median``, mean (``mape``) and 90th
        percentile (``p90``) of the absolute error and the ``bias`` of the geometric mean, such as ``ttft_median``;
        where AIConfigurator was asked, ``other_ttft_median`` and ``other_tpot_median``.
        """
        import pandas as pd

        parts = {
            key: {"times": ", ".join(dict.fromkeys(group["times"])), **_errors(group)}
            for key, group in self.rows.groupby(GROUP, sort=False)
        }
        table = pd.DataFrame.from_dict(parts, orient="index")
        table.index = pd.MultiIndex.from_tuples(table.index, names=GROUP)
        return table.reset_index()

    @cached_property
    def mean_of_group_medians(self) -> dict[str, float]:
        """Mean over groups of the medians: ``ttft_percent`` and ``tpot_percent``."""
        return {f"{name}_percent": float(self.groups[f"{name}_median"].mean()) for name in _MEASURES}

    @cached_property
    def other_mean_of_group_medians(self) -> dict[str, float] | None:
        """The same of AIConfigurator, over the runs that it predicts; None where it was not asked."""
        if "other_ttft_s" not in self.rows.columns:
            return None
        return {f"{name}_percent": float(self.groups[f"other_{name}_median"].mean()) for name in _MEASURES}

    @cached_property
    def left_out_medians(self) -> pd.DataFrame | None:
        """Mean over groups of the medians of left-out runs: one row a kind (``system`` or ``prompt_tokens``)."""
        import pandas as pd

        if self.left_out is None:
            return None
        found = {}
        for kind, rows in self.left_out.groupby("left_out", sort=False):
            groups = ServingValidation(rows)
            found[kind] = {"n": len(rows), "groups": len(groups.groups), **groups.mean_of_group_medians}
        return pd.DataFrame.from_dict(found, orient="index").rename_axis("left_out").reset_index()

    def worst(self, count: int = 20) -> pd.DataFrame:
        """Give the runs with the largest factor between predicted and measured, of TTFT or of TPOT."""
        table = self.rows
        factors = {f"{name}_factor": table[f"predicted_{name}_s"] / table[f"{name}_s"] for name in _MEASURES}
        table = table.assign(**factors)
        largest = np.abs(np.log(table[list(factors)])).max(axis=1)
        latencies = [f"{kind}{name}_s" for name in _MEASURES for kind in ("", "predicted_")]
        columns = [*GROUP, "tensor", "expert", "concurrency", *latencies, *factors]
        return table.loc[largest.sort_values(ascending=False, kind="stable").index, columns].head(count)

    def to_dict(self) -> dict[str, Any]:
        """Everything but single runs, ready for JSON."""
        told: dict[str, Any] = {
            "rows": len(self.rows), "mean_of_group_medians": self.mean_of_group_medians, "groups": _records(self.groups)
        }  # fmt: skip
        if self.other_mean_of_group_medians is not None:
            told["aiconfigurator"] = {
                "mean_of_group_medians": self.other_mean_of_group_medians,
                "rows_without_prediction": int(self.rows["other_tpot_s"].isna().sum()),
            }
        if self.left_out_medians is not None:
            told["left_out"] = _records(self.left_out_medians)
        return told

    def write(self, folder: str | Path) -> None:
        """Write ``serving-groups.csv``, ``serving-runs.csv`` and, where there are any, ``serving-left-out.csv``.

        Raises
        ------
        InputError
            The folder cannot be written to.
        """
        with new_folder(folder) as inside:
            self.groups.to_csv(inside / "serving-groups.csv", index=False)
            self.rows.to_csv(inside / "serving-runs.csv", index=False)
            if self.left_out is not None:
                self.left_out.to_csv(inside / "serving-left-out.csv", index=False)


def validate_serving(
    rows: str | Path | None = None, *, left_out: bool = False, aiconfigurator: str | Path | None = None,
    sample: int | None = None,
) -> ServingValidation:  # fmt: skip
    """Simulate measured serving runs and hold the measured latencies beside the predicted ones.

    Parameters
    ----------
    rows : str or Path, optional
        Which rows of the public package; see `perfsim.study.silicon.serving_rows.read_serving_rows`.
    left_out : bool
        Whether to fit the times of engines without each GPU and each prompt length too, and judge them on those; takes
        minutes.
    aiconfigurator : str or Path, optional
        The Python interpreter of an environment with ``aiconfigurator``, to have its predictions beside.
    sample : int, optional
        The most runs of each group, drawn at random (seed 0).

    Returns
    -------
    ServingValidation

    Raises
    ------
    InputError
        The rows have faults, or a package is not installed (``pip install 'perfsim[silicon]'``).
    """
    faults = Faults("validate")
    if sample is not None:
        faults.integer("sample", sample)
    faults.raise_if_any()
    table = read_serving_rows(rows)
    if sample is not None:
        kept = table.groupby(GROUP, sort=False, group_keys=False).sample(frac=1, random_state=0)
        kept = kept.groupby(GROUP, sort=False).head(sample)
        table = table.loc[table.index.isin(kept.index)].reset_index(drop=True)
    table = table.assign(times=[times_of(row) for row in table.itertuples(index=False)])
    table[["predicted_ttft_s", "predicted_tpot_s"]] = [run.latencies(SEEDS) for run in serving_runs(table)]
    if aiconfigurator is not None:
        from perfsim.study.silicon.aiconfigurator import aiconfigurator_predictions

        other = aiconfigurator_predictions(_package_rows(table), aiconfigurator).add_prefix("other_")
        table = table.join(other, on="id")
    outside = None
    if left_out:
        from perfsim.study.silicon.serving_transfer import left_out_runs

        outside = left_out_runs(table)
    return ServingValidation(table, outside)


def _errors(rows: pd.DataFrame) -> dict[str, float]:
    """Summarise one group of runs."""
    found: dict[str, float] = {"n": len(rows)}
    for name in _MEASURES:
        found |= {f"{name}_{key}": value for key, value in _summary(rows, f"predicted_{name}_s", name).items()}
        if f"other_{name}_s" in rows.columns:
            found[f"other_{name}_median"] = _summary(rows, f"other_{name}_s", name)["median"]
    return found


def _summary(rows: pd.DataFrame, predicted: str, name: str) -> dict[str, float]:
    ratio = (rows[predicted] / rows[f"{name}_s"]).dropna()
    if ratio.empty:
        return dict.fromkeys(("median", "mape", "p90", "bias"), float("nan"))
    error = 100 * (ratio - 1).abs()
    return {
        "median": float(error.median()), "mape": float(error.mean()), "p90": float(error.quantile(0.9)),
        "bias": float(100 * np.expm1(np.log(ratio).mean())),
    }  # fmt: skip


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, with None for what is not there."""
    return [
        {key: None if value != value else value for key, value in row.items()}  # noqa: PLR0124 - NaN is not itself
        for row in table.to_dict("records")
    ]


def _package_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows as the public package has them, with the client's concurrency."""
    import pandas as pd

    from perfsim.study.silicon.systems import tables_folder

    package = pd.read_csv(tables_folder().parent / "silicon_sample.csv")
    return table[["id", "concurrency"]].rename(columns={"concurrency": "conc"}).merge(package, on="id")
