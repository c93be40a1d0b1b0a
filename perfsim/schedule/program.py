"""A program: the template of a scenario with the price of every operator, ready to be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.estimate import Cost
from perfsim.cost.pricing import price_all
from perfsim.ops.build import operator_graph, sized_graph, tokens_of
from perfsim.ops.graph import OperatorGraph
from perfsim.ops.operators import Transfer, Work
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
        Sequences of each variant of a microbatch: the usual one and perhaps a ragged last one; in a generation these
        of the prefill, and those of every decode step.
    graphs : tuple of OperatorGraph
        Operator graphs with the device shapes of the variants; all have the same operators in the same order.
    graph_of : tuple of int
        The graph of each variant. The decode steps of a generation share those of the last one: what a device holds of
        a microbatch does not depend on the length of its context.
    prices : tuple of Cost
        The price of every operator, holding arrays over the variants.
    variant : ndarray of int, shape (microbatches,)
        Variant of each microbatch.
    template : Template
    """

    scenario: Scenario
    sizes: tuple[int, ...]
    graphs: tuple[OperatorGraph, ...]
    graph_of: tuple[int, ...]
    prices: tuple[Cost, ...]
    variant: NDArray[np.int64]
    template: Template

    @cached_property
    def shown(self) -> tuple[tuple[int, int], ...]:
        """The last variant of each graph, which tables show, and how many microbatches have that graph."""
        counts = np.bincount(np.array(self.graph_of)[self.variant], minlength=len(self.graphs))
        last = {graph: variant for variant, graph in enumerate(self.graph_of)}
        return tuple((last[graph], int(count)) for graph, count in enumerate(counts))

    def costs(self, variant: int) -> tuple[Cost, ...]:
        """Give the price of every operator for one variant."""
        priced: dict[int, Cost] = {}
        for cost in self.prices:
            if id(cost) not in priced:
                priced[id(cost)] = cost.at(variant)
        return tuple(priced[id(cost)] for cost in self.prices)

    @cached_property
    def operator_ps(self) -> NDArray[np.int64]:
        """Duration of every operator, for each variant."""
        return operator_picoseconds(self.prices, len(self.sizes))

    @cached_property
    def task_graph(self) -> TaskGraph:
        """The tasks of all microbatches."""
        return expand(self.template, self.operator_ps[:, self.template.operator], self.variant)

    def describe(self, task: int) -> str:
        """Name a task by its operator, its microbatch and its devices."""
        microbatch, row = self.template.locate(np.array([task]))
        operator = self.graphs[0].operators[self.template.operator[int(row[0])]]
        return f"{operator.name} of microbatch {int(microbatch[0])} on stage {operator.stage}"


def make_program(scenario: Scenario, *, folded: bool = True) -> Program:
    """Price the operators of a scenario and lay out the tasks of a microbatch.

    Parameters
    ----------
    scenario : Scenario
    folded : bool
        Whether one rank stands for all that do the same.
    """
    sizes = tuple(sorted(set(scenario.microbatch_sizes), reverse=True))
    variant = np.array([sizes.index(size) for size in scenario.microbatch_sizes])
    graphs = tuple(operator_graph(scenario, size) for size in sizes)
    template = make_template(graphs[0], folded=folded)
    length = scenario.workload.sequence_length
    if scenario.workload.phase != "generation":
        prices = price_sizes(scenario, np.array(sizes), np.full(len(sizes), length))
        return Program(scenario, sizes, graphs, tuple(range(len(sizes))), prices, variant, template)
    # The prefill gives the first token of each sequence, every decode step one more.
    steps = np.arange(scenario.workload.output_length)
    context = np.repeat(length + steps, len(sizes))
    prices = price_sizes(scenario, np.tile(sizes, len(steps)), context, decoding=np.repeat(steps > 0, len(sizes)))
    if len(steps) > 1:
        graphs += tuple(
            sized_graph(scenario, tokens_of(scenario, size, int(context[-1]), decoding=True)) for size in sizes
        )
    graph_of = tuple(number + len(sizes) * (step > 0) for step in steps.tolist() for number in range(len(sizes)))
    variants = (steps[:, None] * len(sizes) + variant).ravel()
    return Program(scenario, sizes * len(steps), graphs, graph_of, prices, variants, template)


def operator_picoseconds(prices: Sequence[Cost], num_sizes: int) -> NDArray[np.int64]:
    """Give the duration of every operator for every size, shape (sizes, operators)."""
    durations = np.empty((len(prices), num_sizes))
    for row, cost in zip(durations, prices, strict=True):
        row[:] = cost.seconds
    return picoseconds(durations.T)


def price_sizes(
    scenario: Scenario,
    microbatch_size: NDArray[np.integer],
    sequence_length: NDArray[np.integer],
    decoding: NDArray[np.bool_] | None = None,
) -> tuple[Cost, ...]:
    """Price every operator of a scenario's graph for many sizes at once.

    One simulation and a sweep of millions both come here, so they get the same times to the bit.

    Parameters
    ----------
    scenario : Scenario
        Its own batch and sequence do not matter.
    microbatch_size, sequence_length : ndarray of int, shape (sizes,)
    decoding : ndarray of bool, shape (sizes,), optional
        Where one token of each sequence is computed; by the phase of the workload when left out.

    Returns
    -------
    tuple of Cost
        One for each operator, holding arrays.
    """
    tokens = tokens_of(scenario, microbatch_size.astype(float), sequence_length.astype(float), decoding=decoding)
    return price_graph(sized_graph(scenario, tokens), scenario)


def price_graph(graph: OperatorGraph, scenario: Scenario) -> tuple[Cost, ...]:
    """Price every operator of a graph, each work once on each kind of device; transfers between kinds as what joins."""
    joining = len(scenario.cluster.tiers) - 1
    segments = [scenario.segment(stage) for stage in range(scenario.plan.pipeline)]
    where: list[tuple[int, int]] = []
    asked: dict[int, tuple[Cluster, dict[int, Work]]] = {}
    for operator in graph:
        crosses = isinstance(operator.work, Transfer) and operator.work.tier == joining
        cluster = scenario.cluster if crosses else segments[operator.stage]
        asked.setdefault(id(cluster), (cluster, {}))[1].setdefault(id(operator.work), operator.work)
        where.append((id(cluster), id(operator.work)))
    priced: dict[tuple[int, int], Cost] = {}
    for key, (cluster, works) in asked.items():
        costs = price_all(list(works.values()), cluster)
        priced.update({(key, work): cost for work, cost in zip(works, costs, strict=True)})
    return tuple(priced[key] for key in where)
