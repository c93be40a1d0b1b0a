"""From a template to the task graph of all microbatches, by array operations."""

from __future__ import annotations

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
        Rows are ordered by microbatch, then as in the template; the label of a task is its row in the template.

    Raises
    ------
    InputError
        The durations add up to more than whole picoseconds can hold.
    """
    check_length(float((duration_ps.sum(axis=1, dtype=np.float64)[variant]).sum()))
    rows, count = template.num_rows, len(variant)
    head = min(count, _head_length(template))
    dependencies, merged = _head(template, head)
    return TaskGraph(
        duration_ps=duration_ps[variant].reshape(-1),
        streams=Lists(*_repeat(template.streams, rows, 1, count, shift=0)),
        dependencies=Lists(*_repeat(dependencies, rows, head, count, shift=rows)),
        label=np.tile(np.arange(rows, dtype=np.int32), count),
        microbatch=np.repeat(np.arange(count, dtype=np.int32), rows),
        num_streams=template.num_slots * len(STREAMS),
        merged=Lists(*_repeat(merged, rows, head, count, shift=rows)),
    )


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
    rows, head = template.num_rows, _head_length(template)
    _, merged = _head(template, head)
    first = int(merged.offsets[(head - 1) * rows])
    earlier = merged.values[first:].astype(np.int64)
    offsets = merged.offsets[(head - 1) * rows :].astype(np.int64) - first
    return Period(rows, offsets, row=earlier % rows, lag=head - 1 - earlier // rows)


def _head_length(template: Template) -> int:
    """Microbatches until one waits for all it can; streams make each wait for the one before."""
    return 1 + max(1, int(template.waits[:, 2].max(initial=0)))


def _head(template: Template, head: int) -> tuple[Lists, Lists]:
    """Dependencies and merged predecessors of the first `head` microbatches."""
    dependencies = _head_dependencies(template, head)
    streams = Lists(*_repeat(template.streams, template.num_rows, 1, head, shift=0))
    return dependencies, merge_predecessors(streams, dependencies)


def _head_dependencies(template: Template, head: int) -> Lists:
    """Dependencies of the first `head` microbatches; a wait for what was never there falls away."""
    row, earlier, lag = template.waits.T
    rows, values = [], []
    for microbatch in range(head):
        there = lag <= microbatch
        rows.append(row[there] + microbatch * template.num_rows)
        values.append(earlier[there] + (microbatch - lag[there]) * template.num_rows)
    return Lists.from_pairs(np.concatenate(rows), np.concatenate(values), head * template.num_rows)


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
