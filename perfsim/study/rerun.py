"""The same program again with other durations: what differs is priced again, what does not is kept."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfsim.report.lanes import Run
from perfsim.schedule.program import Program, make_program
from perfsim.sim.timeline import Timeline
from perfsim.spec.hardware import Cluster
from perfsim.spec.tables import FrozenDict

__all__ = ["Rerun", "in_double_precision"]


@dataclass(frozen=True, eq=False)
class Rerun:
    """A run that can be repeated with other speeds.

    A cluster whose numbers differ, and not its domains, has the same tasks on the same streams, each waiting for the
    same. So only prices and times are new, and they are those of `simulate`, to the bit.

    Attributes
    ----------
    run : Run

    Examples
    --------
    >>> import perfsim
    >>> run = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8)).run
    >>> Rerun(run).on(run.program.scenario.cluster).makespan_ps == run.makespan_ps
    True
    """

    run: Run

    def on(self, cluster: Cluster) -> Run:
        """Run the program on a cluster with the same domains."""
        program = self._program_on(cluster)
        return self._timed(program, program.operator_ps)

    def with_durations(self, operator_ps: NDArray[np.int64]) -> Run:
        """Run the program with other durations of its operators, shape (sizes, operators)."""
        return self._timed(self.run.program, operator_ps)

    def seconds_on(self, cluster: Cluster) -> NDArray[np.float64]:
        """Price the operators on a cluster with the same domains, not rounded, shape (sizes, operators)."""
        prices, num_sizes = self._program_on(cluster).prices, len(self.run.program.sizes)
        return np.stack([np.broadcast_to(price.seconds, num_sizes) for price in prices], axis=1)

    def _program_on(self, cluster: Cluster) -> Program:
        scenario = dataclasses.replace(self.run.program.scenario, cluster=cluster)
        return make_program(scenario, folded=self._is_folded)

    @property
    def _is_folded(self) -> bool:
        return self.run.program.template.devices_per_slot > 1

    @cached_property
    def _place(self) -> NDArray[np.int64]:
        """Where the duration of each task stands in those of all sizes and operators, one after the other."""
        program, tasks = self.run.program, self.run.timeline.graph
        operator = program.template.operator[tasks.label]
        return program.variant[tasks.microbatch] * len(self.run.operators) + operator

    def _timed(self, program: Program, operator_ps: NDArray[np.int64]) -> Run:
        from perfsim.sim.compiled import run_compiled

        graph = dataclasses.replace(self.run.timeline.graph, duration_ps=operator_ps.reshape(-1).take(self._place))
        return Run(program, Timeline(graph, run_compiled(graph)))


def in_double_precision(cluster: Cluster) -> Cluster:
    """Copy a cluster whose matrix multiplications are priced in double precision, as derivatives need it."""
    tables = {
        key: {**table, "single_precision": False} if key.startswith("matmul.") else table
        for key, table in cluster.coefficients.items()
    }
    segments = tuple([in_double_precision(segment) for segment in getattr(cluster, "segments", ())])
    inside: dict[str, Any] = {"segments": segments} if segments else {}
    return dataclasses.replace(cluster, coefficients=FrozenDict(tables), **inside)
