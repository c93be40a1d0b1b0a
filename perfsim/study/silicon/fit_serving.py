"""Fit the times of engines to the public serving runs.

A set of times is fitted to all runs that it belongs to (`perfsim.study.silicon.serving_runs.times_of`). What is
minimised is the soft absolute value of log(predicted / measured) of TTFT and TPOT, each group of runs counting alike.
The share of memory-bound kernels is the best of a few: each has tables of its own, over which the rest is fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfsim.serving.engine_times import TIMES_FILE, EngineTimes
from perfsim.study.output import replace_file
from perfsim.study.silicon.serving_rows import GROUP, read_serving_rows
from perfsim.study.silicon.serving_runs import TIMES, ServingRun, serving_runs, times_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TimesFit", "fit_times", "write_engine_times"]

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
SEED = 0
"""Of the requests; one seed does for a fit."""

_START = {
    "step_s": 3e-4, "sequence_s": 2e-6, "prefill_layer_s": 1e-4, "prefill_token_s": 1e-6, "prompt_s": 1e-3,
    "request_s": 5e-3,
}  # fmt: skip
_WITHOUT_TTFT = ("step_s", "sequence_s", "prefill_layer_s")
_BURST = ("step_s", "sequence_s")
_SOFTNESS = 0.08
_EVALUATIONS, _TOLERANCE = 30, 1e-3
_STEP = 0.2
"""Relative step of the slopes: latencies jump a little wherever another request shares a step."""
_DIGITS, _NOTHING = 3, 1e-3
_HEADING = "# Times of engines, written by perfsim.study.silicon: fit them again instead of changing them here.\n\n"
_SOURCE = "fitted to {count} public runs of {models} on {systems} (aiconfigurator-core 0.12.0, silicon_sample.csv)"


@dataclass(frozen=True, eq=False)
class TimesFit:
    """One set of times that is fitted to some runs.

    Attributes
    ----------
    name : str
        Of the times.
    rows : DataFrame
    """

    name: str
    rows: pd.DataFrame

    @property
    def free(self) -> tuple[str, ...]:
        """Which times the runs can tell."""
        if self.rows["ttft_s"].notna().any():
            return tuple(_START)
        return _BURST if self.name == TIMES.SGLANG else _WITHOUT_TTFT

    @property
    def source(self) -> str:
        """What was fitted, in words."""
        models, systems = (", ".join(sorted(set(self.rows[name]))) for name in ("model", "system"))
        return _SOURCE.format(count=len(self.rows), models=models, systems=systems)

    def solve(self, runs: Sequence[ServingRun], share: float) -> tuple[float, EngineTimes]:
        """Fit the times over tables of one share; give the cost and the times."""
        from scipy.optimize import least_squares

        start = np.array([_START[name] for name in self.free])

        def times_of_values(values: NDArray[np.float64]) -> EngineTimes:
            named = dict(zip(self.free, values.tolist(), strict=True))
            return EngineTimes(**named, elementwise_share=share, source=self.source)

        def residuals(factors: NDArray[np.float64]) -> NDArray[np.float64]:
            times = times_of_values(factors * start)
            return self._residuals(np.array([run.latencies((SEED,), times) for run in runs]))

        found = least_squares(
            residuals, np.ones(len(start)), bounds=(0, np.inf), diff_step=_STEP, max_nfev=_EVALUATIONS,
            ftol=_TOLERANCE, xtol=_TOLERANCE,
        )  # fmt: skip
        rounded = np.array([float(f"{value:.{_DIGITS}g}") for value in found.x * start])
        return float(found.cost), times_of_values(np.where(rounded < start * _NOTHING, 0.0, rounded))

    def _residuals(self, predicted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Soft absolute errors, so weighted that each group counts alike; 0 where TTFT may not be judged."""
        measured = self.rows[["ttft_s", "tpot_s"]].to_numpy()
        error = np.nan_to_num(np.log(predicted / measured))
        soft = np.sign(error) * _SOFTNESS * np.sqrt(2 * (np.sqrt(1 + (error / _SOFTNESS) ** 2) - 1))
        size = self.rows.groupby(GROUP)["id"].transform("size").to_numpy()
        return np.asarray((soft / np.sqrt(size)[:, None]).ravel())


def fit_times(fits: Mapping[Any, TimesFit]) -> dict[Any, EngineTimes]:
    """Fit several sets of times.

    Parameters
    ----------
    fits : mapping
        From any key to what is to be fitted; the rows may overlap, and the tables of their scenarios are shared.
    """
    import pandas as pd

    rows = pd.concat([fit.rows for fit in fits.values()]).drop_duplicates("id")
    names = {times_of(row) for row in rows.itertuples(index=False)}
    best: dict[Any, tuple[float, EngineTimes]] = {}
    for share in SHARES:
        times = dict.fromkeys(names, EngineTimes(elementwise_share=share))
        runs = {run.row.id: run for run in serving_runs(rows, times)}
        for key, fit in fits.items():
            solved = fit.solve([runs[name] for name in fit.rows["id"]], share)
            if key not in best or solved[0] < best[key][0]:
                best[key] = solved
    return {key: solved for key, (_, solved) in best.items()}


def write_engine_times() -> None:
    """Fit all times to the listed runs and write ``perfsim/serving/engine_times.toml``."""
    import tomli_w

    rows = read_serving_rows()
    names = [times_of(row) for row in rows.itertuples(index=False)]
    fits = {name: TimesFit(name, rows[[each == name for each in names]]) for name in dict.fromkeys(names)}
    tables = {
        name: {field: value for field, value in asdict(times).items() if value != getattr(EngineTimes(), field)}
        for name, times in fit_times(fits).items()
    }  # fmt: skip
    whole = {"none": {"source": "an engine that costs nothing"}, **tables}
    with replace_file(TIMES_FILE) as stream:
        stream.write((_HEADING + tomli_w.dumps(whole)).encode())
