"""A program: the template of a scenario with the price of every operator, ready to be run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.estimate import Cost
from perfsim.cost.pricing import price
from perfsim.ops.build import operator_graph
from perfsim.ops.graph import OperatorGraph
from perfsim.ops.operators import Work
from perfsim.schedule.expand import expand
from perfsim.schedule.taskgraph import TaskGraph
from perfsim.schedule.template import Template, make_template
from perfsim.spec.scenario import Scenario
from perfsim.units import picoseconds

__all__ = ["Program", "make_program"]


@dataclass(frozen=True, eq=False)
class Program:
    """What the devices carry out.

    Attributes
    ----------
    scenario : Scenario
    sizes : tuple of int
        The distinct microbatch sizes: the usual one and perhaps a ragged last one.
    graphs : tuple of OperatorGraph
        The operator graph for each size; all have the same operators in the same order.
    costs : tuple of tuple of Cost
        The price of every operator, for each size.
    template : Template
    """

    scenario: Scenario
    sizes: tuple[int, ...]
    graphs: tuple[OperatorGraph, ...]
    costs: tuple[tuple[Cost, ...], ...]
    template: Template

    @cached_property
    def variant(self) -> NDArray[np.int64]:
        """Index in `sizes` of each microbatch."""
        return np.array([self.sizes.index(size) for size in self.scenario.microbatch_sizes])

    @cached_property
    def operator_ps(self) -> NDArray[np.int64]:
        """Duration of every operator, for each size."""
        return picoseconds([[float(cost.seconds) for cost in costs] for costs in self.costs])

    @cached_property
    def task_graph(self) -> TaskGraph:
        """The tasks of all microbatches."""
        return expand(self.template, self.operator_ps[:, self.template.operator], self.variant)

    def describe(self, task: int) -> str:
        """Name a task by its operator, its microbatch and its devices."""
        microbatch, row = divmod(task, self.template.num_rows)
        operator = self.graphs[0].operators[self.template.operator[row]]
        return f"{operator.name} of microbatch {microbatch} on stage {operator.stage}"


def make_program(scenario: Scenario, *, folded: bool = True) -> Program:
    """Price the operators of a scenario and lay out the tasks of a microbatch.

    Parameters
    ----------
    scenario : Scenario
    folded : bool
        Whether one rank stands for all that do the same.
    """
    sizes = tuple(sorted(set(scenario.microbatch_sizes), reverse=True))
    graphs = tuple(operator_graph(scenario, size) for size in sizes)
    prices: dict[Work, Cost] = {}
    costs = []
    for graph in graphs:
        for operator in graph:
            if operator.work not in prices:
                prices[operator.work] = price(operator.work, scenario.cluster)
        costs.append(tuple(prices[operator.work] for operator in graph))
    return Program(scenario, sizes, graphs, tuple(costs), make_template(graphs[0], folded=folded))
