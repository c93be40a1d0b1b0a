"""How accurate the shipped coefficients are: predictions beside public measurements that no fit has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perfsim.errors import Faults
from perfsim.report.plot_accuracy import plot_accuracy
from perfsim.study.output import new_folder, replace_file
from perfsim.study.silicon.held_back import OPERATORS, held_back_rows
from perfsim.study.silicon.systems import DATA, PROFILES
from perfsim.study.silicon.transfer import COLUMNS, transfer_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Validation", "validate"]

KEYS = ["operator", "dtype", "library", "system"]
SEED = 0
_DPI = 120


@dataclass(frozen=True, eq=False)
class Validation:
    """Measured rows that were held back, and what was predicted for them.

    Attributes
    ----------
    rows : DataFrame
        One measurement each: ``system``, ``operator``, ``dtype``, ``library``, ``sizes`` in words, ``series`` (what a
        split keeps together), ``latency_s``, ``predicted_s``, ``roofline_s`` (documented efficiencies alone),
        ``interpolated_s`` (between rows that were fitted; NaN beyond them), ``range_low`` and ``range_high`` (factors
        on the prediction: the stated 80 % range).
    transfer : DataFrame or None
        One experiment each, with the columns of `perfsim.study.silicon.transfer`: errors on GPUs that were left out of
        a fit; None where it was not asked for.
    """

    rows: pd.DataFrame
    transfer: pd.DataFrame | None = None

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Errors of each operator, data type, kernel library and system.

        Columns: ``n``; ``mape``, ``median``, ``p90`` and ``bias`` (of the geometric mean) in per cent;
        ``roofline_mape`` and ``interpolation_mape``, this one of the ``interpolated_n`` rows between fitted ones;
        ``in_range``, the share of rows in the stated 80 % range, in per cent; and ``in_range_of_others``, the same with
        the range that one half of the series gives, counted in the other half, both ways round.
        """
        import pandas as pd

        parts = {key: _errors(group) for key, group in self.rows.groupby(KEYS, sort=False)}
        table = pd.DataFrame.from_dict(parts, orient="index")
        table.index = pd.MultiIndex.from_tuples(table.index, names=KEYS)
        return table.reset_index()

    def worst(self, count: int = 20, *, of_each: int = 1) -> pd.DataFrame:
        """Give the rows with the largest factors between predicted and measured.

        Parameters
        ----------
        count : int
        of_each : int
            The most rows of one operator, data type, library and system: a bad table fills the list otherwise.
        """
        factor = self.rows["predicted_s"] / self.rows["latency_s"]
        order = np.argsort(-np.abs(np.log(factor.to_numpy())), kind="stable")
        columns = [*KEYS, "sizes", "latency_s", "predicted_s", "factor"]
        ranked = self.rows.assign(factor=factor)[columns].iloc[order]
        return ranked.groupby(KEYS, sort=False).head(of_each).head(count)

    def write(self, folder: str | Path) -> None:
        """Write ``summary.csv``, ``worst.csv``, ``rows.parquet`` and ``predicted-measured.png`` into a folder.

        And ``transfer.csv``, where there is something to write into it.

        Raises
        ------
        InputError
            The folder cannot be written to.
        """
        with new_folder(folder) as inside:
            self.summary.to_csv(inside / "summary.csv", index=False)
            self.worst(500, of_each=5).to_csv(inside / "worst.csv", index=False)
            self.rows.to_parquet(inside / "rows.parquet")
            if self.transfer is not None:
                self.transfer.to_csv(inside / "transfer.csv", index=False)
            with replace_file(inside / "predicted-measured.png") as stream:
                figure: Any = plot_accuracy(self.rows).get_figure(root=True)
                figure.savefig(stream, format="png", dpi=_DPI)


def validate(
    systems: Sequence[str] = (), operators: Sequence[str] = (), *, sample: int | None = None, transfer: bool = False
) -> Validation:  # fmt: skip
    """Compare the shipped coefficients with the rows of the public tables that their fits held back.

    Parameters
    ----------
    systems : sequence of str
        Measured GPUs, such as ``h100_sxm``; all when empty.
    operators : sequence of str
        Such as ``matmul`` or ``decode``; all when empty.
    sample : int, optional
        The most rows of each system, operator, data type and kernel library, drawn at random (seed 0).
    transfer : bool
        Whether to fit coefficients without each of the GPUs too, and judge what they are worth on it; takes minutes.

    Returns
    -------
    Validation

    Raises
    ------
    InputError
        There is no such system or operator, `sample` is no number above 0, or the package that has the public tables
        is not installed (``pip install 'perfsim[silicon]'``).
    """
    import pandas as pd

    faults = Faults("validate")
    for name, values, known in (("gpu", systems, tuple(PROFILES)), ("operator", operators, OPERATORS)):
        for value in values:
            faults.choice(name, value, known)
    if sample is not None:
        faults.integer("sample", sample)
    faults.raise_if_any()
    asked = (systems or tuple(PROFILES), operators or OPERATORS, sample)
    frames = list(held_back_rows(*asked))
    if not frames:
        faults.add("", (tuple(systems), tuple(operators)), f"has no held-back rows in {DATA}", "ask for more")
    faults.raise_if_any()
    left_out = pd.DataFrame(transfer_rows(*asked), columns=list(COLUMNS)) if transfer else None
    return Validation(pd.concat(frames, ignore_index=True), left_out)


def _errors(rows: pd.DataFrame) -> dict[str, Any]:
    """Summarise one group of rows."""
    log_error = np.log(rows["predicted_s"] / rows["latency_s"]).to_numpy()
    error = 100 * np.abs(np.expm1(log_error))
    interpolated = 100 * (rows["interpolated_s"] / rows["latency_s"] - 1).abs()
    low, high = np.log(rows["range_low"].to_numpy()), np.log(rows["range_high"].to_numpy())
    inside = np.where(np.isnan(low), np.nan, (-log_error >= low) & (-log_error <= high))
    return {
        "n": len(rows),
        "mape": error.mean(),
        "median": np.median(error),
        "p90": np.quantile(error, 0.9),
        "bias": 100 * np.expm1(log_error.mean()),
        "roofline_mape": 100 * (rows["roofline_s"] / rows["latency_s"] - 1).abs().mean(),
        "interpolation_mape": interpolated.mean(),
        "interpolated_n": int(interpolated.notna().sum()),
        "in_range": 100 * inside.mean(),
        "in_range_of_others": 100 * _unseen_coverage(rows["series"].to_numpy(), -log_error),
    }


def _unseen_coverage(series: Any, log_ratio: Any) -> float:
    """Share of rows in the 80 % range that other series give.

    The stated range is that of the same held-back rows, so that it covers them by construction. This one is not.
    """
    names = np.unique(series)
    half = np.random.default_rng(SEED).permutation(names)[: len(names) // 2]
    first = np.isin(series, half)
    if first.all() or not first.any():
        return float("nan")
    inside = np.empty(len(first), bool)
    for known, unseen in ((first, ~first), (~first, first)):
        low, high = np.quantile(log_ratio[known], [0.1, 0.9])
        inside[unseen] = (log_ratio[unseen] >= low) & (log_ratio[unseen] <= high)
    return float(inside.mean())
