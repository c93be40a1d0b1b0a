"""The template of a plan: the tasks of one microbatch on all devices, and what they wait for in earlier microbatches.

Ranks that do the same thing may be folded into one slot: with folding a stage has a single slot that stands for all its
devices; without, every device is a slot of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import Operator
from perfsim.ops.operators import Elementwise
from perfsim.ops.structure_rules import pass_name
from perfsim.schedule.pipeline import ENTER, LEAVE, RELEASE, SCHEDULE_FUNCTIONS, SEND, autoregressive
from perfsim.schedule.taskgraph import Lists
from perfsim.spec.plan import Plan

__all__ = ["STREAMS", "Template", "make_template"]

STREAMS = ("compute", "collective", "send")
"""Streams of a slot. The last is its link to the peer in the next stage, so transfers run beside everything else."""

_COMPUTE, _COLLECTIVE, _SEND = range(3)
_TASKS = ("matmul", "attention", "experts", "elementwise", "collective", "transfer")
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
    passed : ndarray of int64, shape (rows,)
        How often a microbatch has been through all stages when it comes to each row: 0 without virtual stages.
    """

    graph: OperatorGraph
    slots_per_stage: int
    operator: NDArray[np.int32]
    streams: Lists
    waits: NDArray[np.int64]
    entry_row: NDArray[np.int64]
    entry_slot: NDArray[np.int64]
    entry_operator: NDArray[np.int64]
    passed: NDArray[np.int64]

    @property
    def round_size(self) -> int:
        """Microbatches that take turns: one, or with virtual stages as many as there are stages."""
        return self.graph.plan.pipeline if self.graph.plan.virtual_stages > 1 else 1

    @cached_property
    def position(self) -> NDArray[np.int64]:
        """Place of each row of each microbatch in the order of its round, shape (round_size, rows).

        The microbatches of a round go through all stages one after the other before the first comes again.
        """
        offsets, rows = np.divmod(np.arange(self.round_size * self.num_rows), self.num_rows)
        order = np.lexsort((rows, offsets, self.passed[rows]))
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        return position.reshape(self.round_size, self.num_rows)

    def locate(self, task: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Microbatch and row of tasks of a task graph that `perfsim.schedule.expand` made."""
        turns, place = np.divmod(task, self.position.size)
        offset, row = np.divmod(np.argsort(self.position.ravel())[place], self.num_rows)
        return turns * self.round_size + offset, row

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


_GROUPS = (None, "tensor", "context", "expert")
"""Who carries out a row together: each rank by itself, or a group."""


class _Row(NamedTuple):
    """A task of one rank: its operator, its stage, its stream, and the graph's ``receive`` where it is a transfer."""

    operator: int
    stage: int
    stream: int
    receiver: int
    receiver_stage: int
    group: int
    passed: int


class _Layout:
    """The tasks of one rank of each stage, and what they wait for: a row, an earlier row, a lag."""

    def __init__(self, graph: OperatorGraph) -> None:
        self.graph = graph
        self.rows: list[_Row] = []
        self.waits: set[tuple[int, int, int]] = set()
        self.num_passed = 0  # hand-overs that the operators so far lie behind
        # Rows whose results come out of each operator: its own, or what comes to a point without cost.
        self.feeds: dict[str, tuple[int, ...]] = {}
        # Rows that take what comes out of each operator, by themselves or behind points without cost.
        self.takers: dict[str, list[int]] = {}
        self.passes_on: dict[str, list[str]] = {}
        producers: dict[str, list[str]] = {operator.name: [] for operator in graph}
        for edge in graph.edges:
            producers[edge.consumer].append(edge.producer)
        for index, operator in enumerate(graph):
            self._add(index, operator, producers[operator.name])
        plan, workload = graph.plan, graph.workload
        waits = SCHEDULE_FUNCTIONS[plan.schedule](plan.pipeline, plan.receive_buffers, plan.virtual_stages)
        if workload.phase == "generation":
            size = plan.microbatch_size or workload.batch_size
            waits += (autoregressive(plan.num_passes, -(-workload.batch_size // plan.data // size)),)
        for wait in waits:
            earlier = self._moment(wait.after, wait.after_stage)
            self.waits |= {(row, e, wait.lag) for row in self._moment(wait.moment, wait.stage) for e in earlier}

    def _add(self, index: int, operator: Operator, producers: list[str]) -> None:
        before = {row for producer in producers for row in self.feeds[producer]}
        if operator.kind not in _TASKS:
            self.feeds[operator.name] = tuple(sorted(before))
            self.passes_on[operator.name] = producers
            if operator.kind == "receive":
                (sender,) = before
                self.rows[sender] = self.rows[sender]._replace(receiver=index, receiver_stage=operator.stage)
                self.num_passed += 1
            return
        row, stream = len(self.rows), self._stream(operator, producers)
        passed = self.num_passed // self.graph.plan.pipeline
        self.rows.append(_Row(index, operator.stage, stream, -1, -1, _GROUPS.index(operator.group), passed))
        self.feeds[operator.name] = (row,)
        self.waits |= {(row, earlier, 0) for earlier in before}
        waiting = list(producers)
        while waiting:
            producer = waiting.pop()
            self.takers.setdefault(producer, []).append(row)
            waiting += self.passes_on.get(producer, ())

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
        plan = self.graph.plan
        name = pass_name(stage, plan.pipeline)
        receive, send = f"{name}.receive", f"{name}.send"
        if moment == SEND:
            return self.feeds[send]
        if moment == RELEASE:
            return self.takers[receive]
        if moment == ENTER:
            return self.takers["split" if stage == 0 else receive]
        if moment == LEAVE:
            return self.feeds["gather" if stage == plan.num_passes - 1 else send]
        message = f"a stage has no moment {moment!r}"
        raise ValueError(message)


def _unfold(layout: _Layout, *, folded: bool) -> Template:
    """Spread the rows over the slots of their stages, rank by rank; a collective has one for each of its groups."""
    plan = layout.graph.plan
    width = 1 if folded else plan.stage_devices
    operator, stage, stream, receiver, receiver_stage, group, passed = np.array(layout.rows, dtype=np.int64).T
    group_of = _groups(plan, width)[group]  # of each rank, shape (rows, width)
    count = group_of.max(axis=1) + 1
    first = np.cumsum(count) - count
    ranks = np.arange(width)
    slots = stage[:, None] * width + ranks
    # One entry for each slot of a row, then one for each slot that receives: sort by row, the receivers last.
    rows = first[:, None] + group_of
    sends = receiver >= 0
    entry_row = np.concatenate([rows, rows[sends]])
    order = np.argsort(np.concatenate([np.arange(len(count)), np.flatnonzero(sends)]), kind="stable")
    entry_slot = np.concatenate([slots, receiver_stage[sends, None] * width + ranks])
    entry_operator = np.repeat(np.concatenate([operator, receiver[sends]])[order], width)
    members = np.take_along_axis(slots, np.argsort(group_of, axis=1, kind="stable"), axis=1)
    return Template(
        graph=layout.graph,
        slots_per_stage=width,
        operator=np.repeat(operator, count).astype(np.int32),
        streams=Lists.from_counts(np.repeat(width // count, count), (members * len(STREAMS) + stream[:, None]).ravel()),
        waits=_unfold_waits(np.array(sorted(layout.waits), dtype=np.int64).reshape(-1, 3), first, group_of),
        entry_row=entry_row[order].ravel(),
        entry_slot=entry_slot[order].ravel(),
        entry_operator=entry_operator,
        passed=np.repeat(passed, count),
    )


def _groups(plan: Plan, width: int) -> NDArray[np.int64]:
    """Number each rank's group, for each kind of group; one rank that stands for all has number 0."""
    ranks = np.arange(width)
    if width == 1:
        return np.zeros((len(_GROUPS), 1), np.int64)
    rings = ranks // (plan.tensor * plan.context) * plan.tensor + ranks % plan.tensor
    return np.stack([ranks, ranks // plan.tensor, rings, ranks // plan.expert])


def _unfold_waits(waits: NDArray[np.int64], first: NDArray[np.int64], group_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Let rank wait for rank; the one row of a group serves all its ranks."""
    row, earlier, lag = waits.T
    spread = np.stack(
        np.broadcast_arrays(
            first[row][:, None] + group_of[row], first[earlier][:, None] + group_of[earlier], lag[:, None]
        ),
        axis=-1,
    ).reshape(-1, 3)
    if group_of.shape[1] == 1:
        return spread
    # As whole numbers in one column, which sort far faster than rows do.
    span, lags = int(first[-1]) + group_of.shape[1], int(lag.max(initial=0)) + 1
    keys = np.unique((spread[:, 0] * span + spread[:, 1]) * lags + spread[:, 2])
    pairs, lag = np.divmod(keys, lags)
    row, earlier = np.divmod(pairs, span)
    return np.stack([row, earlier, lag], axis=1)
