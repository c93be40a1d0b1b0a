"""From a template to the task graph of all microbatches, by array operations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import InputError
from perfsim.ops.operators import Quantity
from perfsim.schedule.taskgraph import Lists, Period, TaskGraph, merge_predecessors
from perfsim.schedule.template import STREAMS, Template

__all__ = ["check_length", "expand", "is_too_long", "period_of"]

_LONGEST_PS = 2**61
"""Times must stay well inside of 64 bits; this is 26 days."""


def expand(template: Template, duration_ps: NDArray[np.int64], variant: NDArray[np.integer]) -> TaskGraph:
    """Repeat a template for every microbatch.

    The first microbatches, which wait for less because there is nothing before them, are laid out one by one together
    with the first that waits for all it can; its pattern then repeats, shifted.

    Parameters
    ----------
    template : Template
    duration_ps : ndarray of int64, shape (variants, rows)
        Durations of the template's rows for each size of microbatch.
    variant : ndarray of int, shape (microbatches,)
        Size of each microbatch.

    Returns
    -------
    TaskGraph
        Rows are ordered by microbatch, then as in the template; with virtual stages by rounds of microbatches. The
        label of a task is its row in the template.

    Raises
    ------
    InputError
        The durations add up to more than whole picoseconds can hold.
    """
    check_length(float((duration_ps.sum(axis=1, dtype=np.float64)[variant]).sum()))
    turn = _turn_of(template)
    rows, count = len(turn.row), len(variant) // template.round_size
    head = min(count, _head_length(turn))
    dependencies, merged = _head(turn, head)
    return TaskGraph(
        duration_ps=_durations(turn, duration_ps, variant.reshape(count, -1)),
        streams=Lists(*_repeat(turn.streams, rows, 1, count, shift=0)),
        dependencies=Lists(*_repeat(dependencies, rows, head, count, shift=rows)),
        label=np.tile(turn.row.astype(np.int32), count),
        microbatch=_microbatches(turn, count, template.round_size),
        num_streams=template.num_slots * len(STREAMS),
        merged=Lists(*_repeat(merged, rows, head, count, shift=rows)),
    )


class _Turn(NamedTuple):
    """What repeats: the rows of a microbatch, or with virtual stages of a round of them, in the order of their issue.

    `row` and `offset` say which row of the template stands where, and of which microbatch of the round; the lags of
    `waits` count turns.
    """

    row: NDArray[np.int64]
    offset: NDArray[np.int64]
    streams: Lists
    waits: NDArray[np.int64]


def _turn_of(template: Template) -> _Turn:
    size, rows = template.round_size, template.num_rows
    if size == 1:
        return _Turn(np.arange(rows), np.zeros(rows, np.int64), template.streams, template.waits)
    offset, row = np.divmod(np.argsort(template.position.ravel()), rows)
    lists = [template.streams[r] for r in row.tolist()]
    streams = Lists.from_counts([len(one) for one in lists], np.concatenate(lists))
    waiting, earlier, lag = template.waits.T
    microbatch = np.arange(size)[:, None]
    turns, before = np.divmod(microbatch - lag, size)
    waits = np.stack([template.position[microbatch, waiting], template.position[before, earlier], -turns], axis=-1)
    return _Turn(row, offset, streams, waits.reshape(-1, 3))


def _durations(turn: _Turn, duration_ps: NDArray[np.int64], variant: NDArray[np.integer]) -> NDArray[np.int64]:
    """Duration of every task: of its row, for the size of its microbatch."""
    if variant.shape[1] == 1:
        return duration_ps[variant[:, 0]].reshape(-1)
    return duration_ps[variant[:, turn.offset], turn.row].reshape(-1)


def _microbatches(turn: _Turn, count: int, round_size: int) -> NDArray[np.int32]:
    """Microbatch of every task."""
    first = np.arange(count, dtype=np.int32) * round_size
    return np.repeat(first, len(turn.row)) + np.tile(turn.offset.astype(np.int32), count)


def is_too_long(total_ps: Quantity) -> Quantity:
    """Whether whole picoseconds cannot hold so much work; takes arrays."""
    return total_ps > _LONGEST_PS


def check_length(total_ps: float) -> None:
    """Refuse work that whole picoseconds cannot hold."""
    if is_too_long(total_ps):
        raise InputError.of(
            "workload", f"{total_ps / 1e12:.3g} s of work", f"must add up to at most {_LONGEST_PS / 1e12:.3g} s",
            "use a smaller batch, or the sum of several runs",
        )  # fmt: skip


def period_of(template: Template) -> Period:
    """Give what each row of a template waits for once there are microbatches enough before it."""
    turn = _turn_of(template)
    rows, head = len(turn.row), _head_length(turn)
    _, merged = _head(turn, head)
    first = int(merged.offsets[(head - 1) * rows])
    earlier = merged.values[first:].astype(np.int64)
    offsets = merged.offsets[(head - 1) * rows :].astype(np.int64) - first
    return Period(rows, offsets, row=earlier % rows, lag=head - 1 - earlier // rows)


def _head_length(turn: _Turn) -> int:
    """Turns until one waits for all it can; streams make each wait for the one before."""
    return 1 + max(1, int(turn.waits[:, 2].max(initial=0)))


def _head(turn: _Turn, head: int) -> tuple[Lists, Lists]:
    """Dependencies and merged predecessors of the first `head` turns."""
    dependencies = _head_dependencies(turn, head)
    streams = Lists(*_repeat(turn.streams, len(turn.row), 1, head, shift=0))
    return dependencies, merge_predecessors(streams, dependencies)


def _head_dependencies(turn: _Turn, head: int) -> Lists:
    """Dependencies of the first `head` turns; a wait for what was never there falls away."""
    row, earlier, lag = turn.waits.T
    rows, values, size = [], [], len(turn.row)
    for index in range(head):
        there = lag <= index
        rows.append(row[there] + index * size)
        values.append(earlier[there] + (index - lag[there]) * size)
    return Lists.from_pairs(np.concatenate(rows), np.concatenate(values), head * size)


def _repeat(
    lists: Lists, rows: int, head: int, count: int, *, shift: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Repeat the last `rows` of `lists` until there are `count` periods, values shifted by `shift` each time."""
    extra = count - head
    if extra <= 0:
        return lists.offsets, lists.values
    first = lists.offsets[(head - 1) * rows]
    period, ends = lists.values[first:], lists.offsets[(head - 1) * rows + 1 :] - first
    offsets = np.empty(count * rows + 1, dtype=np.uint32)
    values = np.empty(len(lists.values) + extra * len(period), dtype=np.uint32)
    offsets[: len(lists.offsets)], values[: len(lists.values)] = lists.offsets, lists.values
    step = np.arange(1, extra + 1, dtype=np.uint32)[:, None]
    np.add(period, step * np.uint32(shift), out=values[len(lists.values) :].reshape(extra, len(period)))
    np.add(ends, first + step * np.uint32(len(period)), out=offsets[len(lists.offsets) :].reshape(extra, rows))
    return offsets, values
