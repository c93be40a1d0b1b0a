"""Where the time of a run goes: every instant of every device, attributed to one kind of operator or to idling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfsim.report.lanes import Run
from perfsim.sim.timeline import union_ps
from perfsim.units import seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["IDLE", "KINDS", "time_by_kind"]

IDLE = "idle"
KINDS = ("matmul", "attention", "experts", "elementwise", "collective", "transfer", IDLE)
"""In the order of precedence: where a device does two things at once, the instant counts for the first of them."""


def time_by_kind(run: Run) -> pd.Series:
    """Split the makespan by what devices do, on the mean over devices.

    Communication counts only where no kernel runs beside it; so the parts add up to the makespan.

    Parameters
    ----------
    run : Run

    Returns
    -------
    Series
        Seconds, indexed by `KINDS`.

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8))
    >>> parts = time_by_kind(result.run)
    >>> bool(abs(parts.sum() - result.makespan_s) < 1e-9)
    True
    """
    import pandas as pd

    parts = {model: _slot_parts_ps(run, model) for model in set(run.models)}
    total_ps = {kind: sum(parts[model][kind] for model in run.models) for kind in KINDS}
    return pd.Series(
        {kind: float(seconds(total)) / len(run.models) for kind, total in total_ps.items()}, name="seconds"
    )


def _slot_parts_ps(run: Run, slot: int) -> dict[str, int]:
    parts, covered = {}, 0
    taken: tuple[str, ...] = ()
    for kind in KINDS[:-1]:
        taken = (*taken, kind, *(("receive",) if kind == "transfer" else ()))
        union = union_ps(*run.intervals(slot, taken))
        parts[kind] = union - covered
        covered = union
    return {**parts, IDLE: run.makespan_ps - covered}
