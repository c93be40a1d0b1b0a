"""A program: the template of a scenario with the price of every operator, ready to be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.estimate import Cost
from perfsim.cost.pricing import price
from perfsim.ops.build import operator_graph, sized_graph, tokens_of
from perfsim.ops.graph import OperatorGraph
from perfsim.schedule.expand import expand
from perfsim.schedule.taskgraph import TaskGraph
from perfsim.schedule.template import Template, make_template
from perfsim.spec.hardware import Cluster
from perfsim.spec.scenario import Scenario
from perfsim.units import picoseconds

__all__ = ["Program", "make_program", "operator_picoseconds", "price_graph", "price_sizes"]


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
    prices : tuple of Cost
        The price of every operator, holding arrays over the sizes.
    template : Template
    """

    scenario: Scenario
    sizes: tuple[int, ...]
    graphs: tuple[OperatorGraph, ...]
    prices: tuple[Cost, ...]
    template: Template

    @cached_property
    def costs(self) -> tuple[tuple[Cost, ...], ...]:
        """The price of every operator, for each size."""
        return tuple(tuple(price.at(index) for price in self.prices) for index in range(len(self.sizes)))

    @cached_property
    def variant(self) -> NDArray[np.int64]:
        """Index in `sizes` of each microbatch."""
        return np.array([self.sizes.index(size) for size in self.scenario.microbatch_sizes])

    @cached_property
    def operator_ps(self) -> NDArray[np.int64]:
        """Duration of every operator, for each size."""
        return operator_picoseconds(self.prices, len(self.sizes))

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
    prices = price_sizes(scenario, np.array(sizes), np.full(len(sizes), scenario.workload.sequence_length))
    return Program(scenario, sizes, graphs, prices, make_template(graphs[0], folded=folded))


def operator_picoseconds(prices: Sequence[Cost], num_sizes: int) -> NDArray[np.int64]:
    """Give the duration of every operator for every size, shape (sizes, operators)."""
    durations = np.empty((len(prices), num_sizes))
    for row, cost in zip(durations, prices, strict=True):
        row[:] = cost.seconds
    return picoseconds(durations.T)


def price_sizes(
    scenario: Scenario, microbatch_size: NDArray[np.integer], sequence_length: NDArray[np.integer]
) -> tuple[Cost, ...]:
    """Price every operator of a scenario's graph for many sizes at once.

    One simulation and a sweep of millions both come here, so they get the same times to the bit.

    Parameters
    ----------
    scenario : Scenario
        Its own batch and sequence do not matter.
    microbatch_size, sequence_length : ndarray of int, shape (sizes,)

    Returns
    -------
    tuple of Cost
        One for each operator, holding arrays.
    """
    tokens = tokens_of(scenario, microbatch_size.astype(float), sequence_length.astype(float))
    return price_graph(sized_graph(scenario, tokens), scenario.cluster)


def price_graph(graph: OperatorGraph, cluster: Cluster) -> tuple[Cost, ...]:
    """Price every operator of a graph, each work once."""
    priced: dict[int, Cost] = {}
    for operator in graph:
        if id(operator.work) not in priced:
            priced[id(operator.work)] = price(operator.work, cluster)
    return tuple(priced[id(operator.work)] for operator in graph)
