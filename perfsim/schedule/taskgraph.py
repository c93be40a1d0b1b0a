"""The task graph: tasks in columns, the narrow waist between what is planned and when it happens.

It knows durations, streams and dependencies, and nothing of transformers. Time is a whole number of picoseconds, so
sums are exact and every engine gives the same times to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.errors import Faults

__all__ = ["Lists", "Period", "TaskGraph", "merge_predecessors"]

Index = NDArray[np.uint32]
_MAX_STREAMS = 2**31
"""So that one more than the last still fits in an index."""


@dataclass(frozen=True, eq=False)
class Lists:
    """A list of numbers for each row, in compressed form: row ``i`` has ``values[offsets[i]:offsets[i + 1]]``.

    Attributes
    ----------
    offsets : ndarray of uint32, shape (rows + 1,)
    values : ndarray of uint32

    Examples
    --------
    >>> Lists.of([[0, 2], [], [1]]).values
    array([0, 2, 1], dtype=uint32)
    """

    offsets: Index
    values: Index

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Index:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @classmethod
    def of(cls, rows: list[list[int]]) -> Lists:
        """Make from Python lists."""
        return cls.from_counts([len(row) for row in rows], [value for row in rows for value in row])

    @classmethod
    def from_counts(cls, counts: ArrayLike, values: ArrayLike) -> Lists:
        """Make from the length of each row and all values, row after row."""
        offsets = np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))])
        return cls(offsets.astype(np.uint32), np.asarray(values, dtype=np.uint32))

    @classmethod
    def from_pairs(cls, rows: ArrayLike, values: ArrayLike, num_rows: int) -> Lists:
        """Make from pairs of a row and a value; duplicates are dropped and values sorted within a row."""
        rows, values = np.asarray(rows, dtype=np.int64), np.asarray(values, dtype=np.int64)
        width = int(values.max(initial=0)) + 1
        keys = np.unique(rows * width + values)
        return cls.from_counts(np.bincount(keys // width, minlength=num_rows), keys % width)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Length of each row."""
        return self.offsets[1:].astype(np.int64) - self.offsets[:-1].astype(np.int64)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Row of each value."""
        return np.repeat(np.arange(len(self)), self.counts)


@dataclass(frozen=True, eq=False)
class TaskGraph:
    """Tasks, one a row.

    A task occupies its streams from start to end. A stream works on one task at a time, in the order of the rows, as a
    CUDA stream does. A task starts once its dependencies have ended and each of its streams has come to it; a task on
    several streams is a rendezvous.

    Attributes
    ----------
    duration_ps : ndarray of int64, shape (tasks,)
    streams : Lists
        Streams that each task occupies.
    dependencies : Lists
        Tasks that must have ended before each task starts.
    label : ndarray of int32, shape (tasks,)
        What each task is: a code that belongs to whoever made the graph.
    microbatch : ndarray of int32, shape (tasks,)
        Repetition that each task belongs to.
    num_streams : int
    merged : Lists, optional
        `predecessors`, where the maker knows them already.
    """

    duration_ps: NDArray[np.int64]
    streams: Lists
    dependencies: Lists
    label: NDArray[np.int32]
    microbatch: NDArray[np.int32]
    num_streams: int
    merged: Lists | None = None

    @classmethod
    def of(cls, duration_ps: ArrayLike, streams: list[list[int]], dependencies: list[list[int]]) -> TaskGraph:
        """Make a graph from Python lists and check it.

        Raises
        ------
        InputError
            Durations are not whole numbers of at least 0, a task names a stream twice, or lists do not fit together.

        Examples
        --------
        >>> TaskGraph.of([5, 3], streams=[[0], [1]], dependencies=[[], [0]]).num_tasks
        2
        """
        durations = np.asarray(duration_ps)
        if durations.shape == (0,):  # an empty list has no type of its own
            durations = durations.astype(np.int64)
        faults = Faults("tasks")
        total = len(durations)
        if not np.issubdtype(durations.dtype, np.integer) or (durations < 0).any():
            faults.add("duration_ps", duration_ps, "must be whole numbers of at least 0")
        for name, lists in (("streams", streams), ("dependencies", dependencies)):
            if len(lists) != total:
                faults.add(name, len(lists), f"must have {total} lists, one a task")
        if not _all_name(dependencies, total):
            faults.add("dependencies", dependencies, f"must name tasks from 0 to {total - 1}")
        if not _all_name(streams, _MAX_STREAMS):
            faults.add("streams", streams, f"must be whole numbers from 0 to {_MAX_STREAMS - 1}")
        if any(len(set(occupied)) < len(occupied) for occupied in streams):
            faults.add("streams", streams, "must name each stream of a task once")
        faults.raise_if_any()
        rows = np.arange(total, dtype=np.int32)
        num_streams = 1 + max((stream for occupied in streams for stream in occupied), default=-1)
        return cls(
            duration_ps=durations.astype(np.int64),
            streams=Lists.of(streams),
            dependencies=Lists.of(dependencies),
            label=rows,
            microbatch=np.zeros(total, np.int32),
            num_streams=num_streams,
        )

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self.duration_ps)

    @property
    def is_ordered(self) -> bool:
        """Whether every dependency stands above its task, so that one pass over the rows suffices."""
        return bool((self.dependencies.values < self.dependencies.rows).all())

    @cached_property
    def predecessors(self) -> Lists:
        """Dependencies of each task and the tasks before it on its streams, in one list without duplicates."""
        return self.merged if self.merged is not None else merge_predecessors(self.streams, self.dependencies)


def _all_name(lists: list[list[int]], count: int) -> bool:
    """Whether lists hold nothing but whole numbers from 0 to below `count`."""
    return all(isinstance(value, Integral) and 0 <= int(value) < count for values in lists for value in values)


def merge_predecessors(streams: Lists, dependencies: Lists) -> Lists:
    """Turn the order of the streams into predecessors and merge them with the dependencies.

    A dependency that the order of streams implies already, because both tasks share a stream, is one duplicate.
    """
    order = np.argsort(streams.values, kind="stable")
    stream, task = streams.values[order], streams.rows[order]
    follows = stream[1:] == stream[:-1]
    rows = np.concatenate([dependencies.rows, task[1:][follows]])
    values = np.concatenate([dependencies.values.astype(np.int64), task[:-1][follows]])
    return Lists.from_pairs(rows, values, len(streams))


@dataclass(frozen=True, eq=False)
class Period:
    """A task graph without end: the same rows again and again, each waiting for rows of its own and of earlier periods.

    Attributes
    ----------
    num_rows : int
    offsets : ndarray of int64, shape (rows + 1,)
        Row ``i`` waits for the entries ``offsets[i]`` to ``offsets[i + 1]`` of the other two.
    row, lag : ndarray of int64
        The row that is waited for, and how many periods earlier; of the same period only rows above.
    """

    num_rows: int
    offsets: NDArray[np.int64]
    row: NDArray[np.int64]
    lag: NDArray[np.int64]
