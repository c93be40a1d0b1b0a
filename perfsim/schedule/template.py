"""The template of a plan: the tasks of one microbatch on all devices, and what they wait for in earlier microbatches.

Ranks that do the same thing may be folded into one slot: with folding a stage has a single slot that stands for all its
devices; without, every device is a slot of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import Operator
from perfsim.ops.operators import Elementwise
from perfsim.schedule.pipeline import ENTER, LEAVE, RELEASE, SCHEDULE_FUNCTIONS, SEND, Wait
from perfsim.schedule.taskgraph import Lists

__all__ = ["STREAMS", "Template", "make_template"]

STREAMS = ("compute", "collective", "send")
"""Streams of a slot. The last is its link to the peer in the next stage, so transfers run beside everything else."""

_COMPUTE, _COLLECTIVE, _SEND = range(3)
_COMPUTES = ("matmul", "attention", "elementwise")


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
    return _Layout(graph, folded=folded).template()


class _Layout:
    """Gives rows to operators, one operator after the other, and strings up what they wait for."""

    def __init__(self, graph: OperatorGraph, *, folded: bool) -> None:
        self.graph = graph
        self.width = 1 if folded else graph.plan.tensor * graph.plan.data
        self.group = 1 if folded else graph.plan.tensor
        self.index = {operator.name: i for i, operator in enumerate(graph)}
        self.producers: dict[str, list[str]] = {operator.name: [] for operator in graph}
        for edge in graph.edges:
            self.producers[edge.consumer].append(edge.producer)
        self.rows: dict[str, NDArray[np.int64]] = {}
        self.num_rows = 0
        for operator in graph:
            if operator.kind in (*_COMPUTES, "collective", "transfer"):
                count = self.width // self.group if operator.kind == "collective" else self.width
                self.rows[operator.name] = np.arange(self.num_rows, self.num_rows + count)
                self.num_rows += count

    def template(self) -> Template:
        tasks = [operator for operator in self.graph if operator.name in self.rows]
        waits = [self._within(operator) for operator in tasks]
        waits += [self._across(wait) for wait in self._schedule()]
        counts, streams = zip(*(self._streams(operator) for operator in tasks), strict=True)
        entries = np.concatenate([self._entries(operator) for operator in tasks])
        return Template(
            graph=self.graph,
            slots_per_stage=self.width,
            operator=np.concatenate([np.full(len(self.rows[o.name]), self.index[o.name], np.int32) for o in tasks]),
            streams=Lists.from_counts(np.concatenate(counts), np.concatenate(streams)),
            waits=np.unique(np.concatenate(waits), axis=0),
            entry_row=entries[:, 0],
            entry_slot=entries[:, 1],
            entry_operator=entries[:, 2],
        )

    def _slots(self, stage: int) -> NDArray[np.int64]:
        return np.arange(stage * self.width, (stage + 1) * self.width)

    def _sources(self, name: str) -> set[str]:
        """Operators with a task that feed `name`, seen through the points without cost."""
        sources: set[str] = set()
        for producer in self.producers[name]:
            sources |= {producer} if producer in self.rows else self._sources(producer)
        return sources

    def _stream_of(self, operator: Operator) -> int:
        if operator.kind == "transfer":
            return _SEND
        completes = any(self.graph[source].kind == "collective" for source in self.producers[operator.name])
        adds = isinstance(operator.work, Elementwise) and operator.work.op == "add"
        return _COLLECTIVE if operator.kind == "collective" or (adds and completes) else _COMPUTE

    def _streams(self, operator: Operator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Number of streams of each row of an operator, and the streams."""
        rows, slots = self.rows[operator.name], self._slots(operator.stage)
        return np.full(len(rows), len(slots) // len(rows)), slots * len(STREAMS) + self._stream_of(operator)

    def _entries(self, operator: Operator) -> NDArray[np.int64]:
        rows, slots = self.rows[operator.name], self._slots(operator.stage)
        taking_part = [self._entry(np.repeat(rows, len(slots) // len(rows)), slots, operator.name)]
        if operator.kind == "transfer":
            taking_part.append(self._entry(rows, slots + self.width, f"stage_{operator.stage + 1}.receive"))
        return np.concatenate(taking_part)

    def _entry(self, rows: NDArray[np.int64], slots: NDArray[np.int64], name: str) -> NDArray[np.int64]:
        return np.stack([rows, slots, np.full(len(rows), self.index[name])], axis=1)

    def _pairs(self, name: str, earlier: str, lag: int) -> NDArray[np.int64]:
        """Waits of the rows of one operator for those of another, rank by rank; a group's row serves all its ranks."""
        rows, before = self.rows[name], self.rows[earlier]
        width = max(len(rows), len(before))
        rows, before = np.repeat(rows, width // len(rows)), np.repeat(before, width // len(before))
        return np.stack([rows, before, np.full(width, lag)], axis=1)

    def _within(self, operator: Operator) -> NDArray[np.int64]:
        pairs = [self._pairs(operator.name, source, 0) for source in sorted(self._sources(operator.name))]
        return np.concatenate(pairs) if pairs else np.empty((0, 3), np.int64)

    def _schedule(self) -> Iterable[Wait]:
        plan = self.graph.plan
        return SCHEDULE_FUNCTIONS[plan.schedule](plan.pipeline, plan.receive_buffers)

    def _across(self, wait: Wait) -> NDArray[np.int64]:
        moments, after = self._moment(wait.moment, wait.stage), self._moment(wait.after, wait.after_stage)
        return np.concatenate([self._pairs(name, earlier, wait.lag) for name in moments for earlier in after])

    def _moment(self, moment: str, stage: int) -> list[str]:
        """Operators that make up a moment of a stage."""
        if moment == SEND:
            return [f"stage_{stage}.send"]
        if moment == RELEASE:
            return self._consumers(f"stage_{stage}.receive")
        if moment == ENTER:
            return self._consumers("split") if stage == 0 else self._consumers(f"stage_{stage}.receive")
        if moment == LEAVE:
            last = "gather" if stage == self.graph.plan.pipeline - 1 else f"stage_{stage}.send"
            return sorted(self._sources(last))
        message = f"a stage has no moment {moment!r}"
        raise ValueError(message)

    def _consumers(self, name: str) -> list[str]:
        return [consumer for consumer, producers in self.producers.items() if name in producers]
