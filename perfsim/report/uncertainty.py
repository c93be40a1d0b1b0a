"""How far off a makespan may be: the ranges of its operators, along the critical path."""

from __future__ import annotations

import math

import numpy as np

from perfsim.report.lanes import Run
from perfsim.sim.timeline import critical_tasks
from perfsim.units import seconds

__all__ = ["makespan_range_s"]


def makespan_range_s(run: Run) -> tuple[float, float]:
    """Give the range in which the makespan lies with a chance of about 80 %.

    Every execution of an operator at one size has the same error, and operators that differ have errors of their own:
    the deviations of the operators on the critical path, each from its held-back measurements, are added as independent
    ones are, in quadrature. Operators whose error nobody has measured (transfers, some memory-bound kernels) count as
    exact, and another path that becomes critical is not looked at: so the range is rather too narrow than too wide.

    Parameters
    ----------
    run : Run

    Returns
    -------
    tuple of float
        Seconds. Both are the makespan where no operator has a range.

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8))
    >>> low, high = makespan_range_s(result.run)
    >>> low < result.makespan_s < high
    True
    """
    program = run.program
    microbatch, row = program.template.locate(critical_tasks(run.timeline))
    variant, operator = program.variant[microbatch], program.template.operator[row]
    took_s = seconds((run.end_ps - run.start_ps)[microbatch, row])
    below, above = 0.0, 0.0
    groups: dict[tuple[int, str], list[int]] = {}
    graph = np.array(program.graph_of)[variant]
    for position, key in enumerate(zip(graph.tolist(), operator.tolist(), strict=True)):
        groups.setdefault((key[0], run.operators[key[1]].op), []).append(position)
    for positions in groups.values():
        factors = program.prices[operator[positions[0]]].range_factors
        if factors is not None:
            total_s = float(took_s[positions].sum())
            below += (total_s * (1 - min(factors[0], 1.0))) ** 2
            above += (total_s * (max(factors[1], 1.0) - 1)) ** 2
    makespan_s = float(seconds(run.makespan_ps))
    return makespan_s - math.sqrt(below), makespan_s + math.sqrt(above)
