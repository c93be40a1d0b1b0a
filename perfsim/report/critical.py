"""What a makespan is made of: the parts of the executions on its critical path, and the slack of all others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.estimate import Cost
from perfsim.report.lanes import Run
from perfsim.sim.timeline import critical_tasks
from perfsim.units import seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BUBBLE", "PARTS", "CriticalPath", "composition", "slack_frame", "slack_ps"]

PARTS = ("compute", "memory", "network", "overhead")
"""What an execution spends its time on, as `Cost.bound` names it."""
BUBBLE = "bubble"


@dataclass(frozen=True, eq=False)
class CriticalPath:
    """The executions that fill the makespan, as columns.

    Attributes
    ----------
    run : Run
    """

    run: Run

    @cached_property
    def _task(self) -> NDArray[np.int64]:
        """Task of each execution, first to last."""
        return critical_tasks(self.run.timeline)

    @property
    def _row(self) -> NDArray[np.int32]:
        """Row of the template that each execution carries out."""
        return self.run.timeline.graph.label[self._task]

    @cached_property
    def duration_ps(self) -> NDArray[np.int64]:
        """Length of each execution; they add up to the makespan."""
        return self.run.timeline.graph.duration_ps[self._task]

    @property
    def executions(self) -> NDArray[np.int64]:
        """How often each operator stands on the path, shape (sizes, operators)."""
        return self._summed(None).astype(np.int64)

    @property
    def operator_ps(self) -> NDArray[np.float64]:
        """Time of each operator on the path, shape (sizes, operators)."""
        return self._summed(self.duration_ps)

    def parts_ps(self, chosen: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Split the time of all executions, or of those chosen, into the `PARTS`."""
        spent_ps = self._summed(self.duration_ps if chosen is None else np.where(chosen, self.duration_ps, 0))
        program = self.run.program
        distinct = {id(price): price for price in program.prices}
        shares = {key: _shares(price, len(program.sizes)) for key, price in distinct.items()}
        return np.einsum("so,osp->p", spent_ps, np.array([shares[id(price)] for price in program.prices]))

    @cached_property
    def bound(self) -> str:
        """The largest of the `PARTS` of the whole path, on whatever stage."""
        return PARTS[int(self.parts_ps().argmax())]

    def _summed(self, weights: NDArray[np.int64] | None) -> NDArray[np.float64]:
        """Add up what executions weigh, or count them, by microbatch size and operator."""
        program = self.run.program
        shape = len(program.sizes), len(self.run.operators)
        microbatch = self.run.timeline.graph.microbatch[self._task]
        place = program.variant[microbatch] * shape[1] + program.template.operator[self._row]
        return np.asarray(np.bincount(place, weights, minlength=shape[0] * shape[1]), float).reshape(shape)

    @cached_property
    def takes_part(self) -> NDArray[np.bool_]:
        """Whether the stage on which the path spends most of its time takes part in each execution."""
        template = self.run.program.template
        stages = np.zeros((template.num_rows, template.num_slots // template.slots_per_stage), bool)
        stages[template.entry_row, template.entry_slot // template.slots_per_stage] = True
        busy_ps = self.duration_ps @ stages[self._row]
        return stages[self._row, busy_ps.argmax()]


def _shares(price: Cost, num_sizes: int) -> NDArray[np.float64]:
    """Shares of the `PARTS` in the time of an operator, shape (sizes, parts); they add up to 1.

    Compute and memory overlap, so the longer of the two counts.
    """
    compute_s, memory_s = np.asarray(price.compute_s), np.asarray(price.memory_s)
    computes = compute_s >= memory_s
    parts = np.empty((len(PARTS), num_sizes))
    for row, part in zip(
        parts,
        (compute_s * computes, memory_s * ~computes, price.network_s, price.overhead_s),
        strict=True,
    ):
        row[:] = part
    parts[-1, ~parts.any(axis=0)] = 1.0
    shares: NDArray[np.float64] = (parts / parts.sum(axis=0)).T
    return shares


def composition(run: Run) -> pd.Series:
    """Split the makespan by what the executions on the critical path spend their time on.

    The path is looked at from the stage on which it spends most of its time. What that stage takes part in is
    computing, waiting for its memory, for the network, or fixed time. The rest of the path runs on other stages, which
    that stage waits for while a pipeline fills and drains, or all the time where microbatches do not overlap: the
    bubble.

    Parameters
    ----------
    run : Run

    Returns
    -------
    Series
        Seconds, indexed by ``compute``, ``memory``, ``network``, ``overhead`` (launches, latencies, everything fixed)
        and ``bubble``. They add up to the makespan, to the picosecond.

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-baseline").with_(batch_size=8))
    >>> bool(composition(result.run)["bubble"] > 0.9 * result.makespan_s)  # one of 16 stages works at a time
    True
    """
    import pandas as pd

    path = CriticalPath(run)
    own_ps = int(path.duration_ps[path.takes_part].sum())
    parts_ps = np.rint(path.parts_ps(path.takes_part)).astype(np.int64)
    parts_ps[parts_ps.argmax()] += own_ps - parts_ps.sum()  # what rounding has lost
    return pd.Series(seconds([*parts_ps, run.makespan_ps - own_ps]), index=[*PARTS, BUBBLE], name="seconds")


def slack_ps(run: Run) -> NDArray[np.int64]:
    """By how much each task could end later without a longer makespan, shape (microbatches, rows of the template)."""
    from perfsim.sim.critical import latest_ends

    graph = run.timeline.graph
    slack = np.empty(run.end_ps.shape, np.int64)
    latest = latest_ends(graph.predecessors, graph.duration_ps, run.makespan_ps)
    slack[graph.microbatch, graph.label] = latest - run.timeline.end_ps
    return slack


def slack_frame(run: Run) -> pd.DataFrame:
    """Say of every operator by how much an execution of it could take longer without a longer makespan.

    Parameters
    ----------
    run : Run

    Returns
    -------
    DataFrame
        Indexed by operator: ``op``, ``kind``, ``stage``, ``layer``; ``slack_s``, the least over all executions, and
        ``microbatch``, the first that has it; ``mean_slack_s``; ``critical_share``, the share of its executions
        without any slack. Least slack first.

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8))
    >>> float(slack_frame(result.run)["slack_s"].min())
    0.0
    """
    import pandas as pd

    slack, of_row = slack_ps(run), run.program.template.operator
    order = np.argsort(of_row, kind="stable")
    index, first = np.unique(of_row[order], return_index=True)
    ends = np.append(first[1:], len(order))
    rows = []
    for operator, columns in zip(index, (order[a:b] for a, b in zip(first, ends, strict=True)), strict=True):
        node, own = run.operators[operator], slack[:, columns]
        least = own.min(axis=1)
        rows.append(
            {
                "operator": node.name,
                "op": node.op,
                "kind": node.kind,
                "stage": node.stage,
                "layer": node.layer,
                "slack_s": float(seconds(least.min())),
                "microbatch": int(least.argmin()),
                "mean_slack_s": float(seconds(own).mean()),
                "critical_share": float((own == 0).mean()),
            }
        )
    frame = pd.DataFrame(rows).set_index("operator").astype({"layer": "Int16"})
    return frame.sort_values("slack_s", kind="stable")
