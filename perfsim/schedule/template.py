"""The template of a plan: the tasks of one microbatch on all devices, and what they wait for in earlier microbatches.

Ranks that do the same thing may be folded into one slot: with folding a stage has a single slot that stands for all its
devices; without, every device is a slot of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import Operator
from perfsim.ops.operators import Elementwise
from perfsim.schedule.pipeline import ENTER, LEAVE, RELEASE, SCHEDULE_FUNCTIONS, SEND
from perfsim.schedule.taskgraph import Lists

__all__ = ["STREAMS", "Template", "make_template"]

STREAMS = ("compute", "collective", "send")
"""Streams of a slot. The last is its link to the peer in the next stage, so transfers run beside everything else."""

_COMPUTE, _COLLECTIVE, _SEND = range(3)
_TASKS = ("matmul", "attention", "elementwise", "collective", "transfer")
"""Kinds of operators that take time; the others are points of the graph."""


@dataclass(frozen=True, eq=False)
class Template:
    """The tasks of one microbatch, one a row, and every slot that takes part in each.

    Attributes
    ----------
    graph : OperatorGraph
    slots_per_stage : int
    operator : ndarray of int32, shape (rows,)
        Index in the graph of the operator that each row carries out.
    streams : Lists
        Streams that each row occupies; slot ``i`` has the streams ``3 i`` to ``3 i + 2``, named by `STREAMS`.
    waits : ndarray of int64, shape (waits, 3)
        Row, row that it waits for, and how many microbatches earlier.
    entry_row, entry_slot, entry_operator : ndarray of int64, shape (entries,)
        One entry for each slot that takes part in a row, with the operator that it carries out there: the receiver of a
        transfer carries out the graph's ``receive``.
    """

    graph: OperatorGraph
    slots_per_stage: int
    operator: NDArray[np.int32]
    streams: Lists
    waits: NDArray[np.int64]
    entry_row: NDArray[np.int64]
    entry_slot: NDArray[np.int64]
    entry_operator: NDArray[np.int64]

    @property
    def num_rows(self) -> int:
        """Tasks of one microbatch."""
        return len(self.operator)

    @property
    def num_slots(self) -> int:
        """Slots of all stages."""
        return self.slots_per_stage * self.graph.plan.pipeline

    @property
    def devices_per_slot(self) -> int:
        """Devices that each slot stands for."""
        return self.graph.plan.num_devices // self.num_slots


def make_template(graph: OperatorGraph, *, folded: bool) -> Template:
    """Lay out the tasks of one microbatch of a graph.

    A collective is one task on the streams of its whole group. An addition that completes an all-reduce is issued on
    the stream of the all-reduce, directly behind it, as engines that fuse the two do; so the next microbatch's first
    operators can run beside the last all-reduce of this one.

    Parameters
    ----------
    graph : OperatorGraph
    folded : bool
        Whether one slot stands for all devices of a stage.
    """
    return _unfold(_Layout(graph), folded=folded)


class _Row(NamedTuple):
    """A task of one rank: its operator, its stage, its stream, and the graph's ``receive`` where it is a transfer."""

    operator: int
    stage: int
    stream: int
    receiver: int
    is_collective: bool


class _Layout:
    """The tasks of one rank of each stage, and what they wait for: a row, an earlier row, a lag."""

    def __init__(self, graph: OperatorGraph) -> None:
        self.graph = graph
        self.rows: list[_Row] = []
        self.waits: set[tuple[int, int, int]] = set()
        # Rows whose results come out of each operator: its own, or what comes to a point without cost.
        self.feeds: dict[str, tuple[int, ...]] = {}
        # Rows that take what comes out of each operator.
        self.takers: dict[str, list[int]] = {}
        producers: dict[str, list[str]] = {operator.name: [] for operator in graph}
        for edge in graph.edges:
            producers[edge.consumer].append(edge.producer)
        for index, operator in enumerate(graph):
            self._add(index, operator, producers[operator.name])
        plan = graph.plan
        for wait in SCHEDULE_FUNCTIONS[plan.schedule](plan.pipeline, plan.receive_buffers):
            earlier = self._moment(wait.after, wait.after_stage)
            self.waits |= {(row, e, wait.lag) for row in self._moment(wait.moment, wait.stage) for e in earlier}

    def _add(self, index: int, operator: Operator, producers: list[str]) -> None:
        before = {row for producer in producers for row in self.feeds[producer]}
        if operator.kind not in _TASKS:
            self.feeds[operator.name] = tuple(sorted(before))
            if operator.kind == "receive":
                (sender,) = before
                self.rows[sender] = self.rows[sender]._replace(receiver=index)
            return
        row = len(self.rows)
        self.rows.append(
            _Row(index, operator.stage, self._stream(operator, producers), -1, operator.kind == "collective")
        )
        self.feeds[operator.name] = (row,)
        self.waits |= {(row, earlier, 0) for earlier in before}
        for producer in producers:
            self.takers.setdefault(producer, []).append(row)

    def _stream(self, operator: Operator, producers: list[str]) -> int:
        if operator.kind == "transfer":
            return _SEND
        if operator.kind == "collective":
            return _COLLECTIVE
        adds = isinstance(operator.work, Elementwise) and operator.work.op == "add"
        completes = adds and any(self.graph[producer].kind == "collective" for producer in producers)
        return _COLLECTIVE if completes else _COMPUTE

    def _moment(self, moment: str, stage: int) -> Sequence[int]:
        """Rows that make up a moment of a stage."""
        receive, send = f"stage_{stage}.receive", f"stage_{stage}.send"
        if moment == SEND:
            return self.feeds[send]
        if moment == RELEASE:
            return self.takers[receive]
        if moment == ENTER:
            return self.takers["split" if stage == 0 else receive]
        if moment == LEAVE:
            return self.feeds["gather" if stage == self.graph.plan.pipeline - 1 else send]
        message = f"a stage has no moment {moment!r}"
        raise ValueError(message)


def _unfold(layout: _Layout, *, folded: bool) -> Template:
    """Spread the rows over the slots of their stages, rank by rank; a collective has one for each tensor group."""
    plan = layout.graph.plan
    width, group = (1, 1) if folded else (plan.tensor * plan.data, plan.tensor)
    operator, stage, stream, receiver, collective = np.array(layout.rows, dtype=np.int64).T
    count = np.where(collective, width // group, width)
    first = np.cumsum(count) - count
    slots, ranks = stage[:, None] * width + np.arange(width), np.arange(width)
    # One entry for each slot of a row, then one for each slot that receives: sort by row, the receivers last.
    rows = first[:, None] + ranks * count[:, None] // width
    sends = receiver >= 0
    entry_row = np.concatenate([rows, rows[sends]])
    order = np.argsort(np.concatenate([np.arange(len(count)), np.flatnonzero(sends)]), kind="stable")
    entry_slot = np.concatenate([slots, slots[sends] + width])
    entry_operator = np.repeat(np.concatenate([operator, receiver[sends]])[order], width)
    return Template(
        graph=layout.graph,
        slots_per_stage=width,
        operator=np.repeat(operator, count).astype(np.int32),
        streams=Lists.from_counts(np.repeat(width // count, count), (slots * len(STREAMS) + stream[:, None]).ravel()),
        waits=_unfold_waits(np.array(sorted(layout.waits), dtype=np.int64).reshape(-1, 3), first, count),
        entry_row=entry_row[order].ravel(),
        entry_slot=entry_slot[order].ravel(),
        entry_operator=entry_operator,
    )


def _unfold_waits(waits: NDArray[np.int64], first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Let rank wait for rank; the one row of a group serves all its ranks."""
    row, earlier, lag = waits.T
    pairs = np.maximum(count[row], count[earlier])
    spread = np.repeat(np.arange(len(waits)), pairs)
    rank = np.arange(len(spread)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    row, earlier, lag, pairs = row[spread], earlier[spread], lag[spread], pairs[spread]
    return np.stack(
        [first[row] + rank * count[row] // pairs, first[earlier] + rank * count[earlier] // pairs, lag], axis=1
    )
