"""What all traces are written with: names of processes and threads, counters, and JSON in ASCII."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.report.number_text import Blank, Form

__all__ = ["BEGIN", "MICROSECOND", "Text", "counter_text", "end_text", "json_text", "process_text", "thread_text"]

Text = bytes | memoryview

MICROSECOND = 6
"""Decimals of a microsecond that a picosecond has."""

BEGIN = b'{"traceEvents":['


def json_text(value: Any) -> str:
    """Write plain values without blanks."""
    return json.dumps(value, separators=(",", ":"))


def end_text(about: Mapping[str, Any]) -> bytes:
    """Write what follows the last event: plain values that say where the trace comes from."""
    return f'\n],"displayTimeUnit":"ns","otherData":{json.dumps(dict(about))}}}\n'.encode("ascii")


def process_text(pid: int, name: str, labels: str) -> str:
    """Write what a process is called, each line behind a comma; processes stand in the order of their numbers."""
    metadata = (
        ("process_name", {"name": name}),
        ("process_labels", {"labels": labels}),
        ("process_sort_index", {"sort_index": pid}),
    )
    return "".join(f',\n{{"ph":"M","pid":{pid},"name":"{key}","args":{json_text(args)}}}' for key, args in metadata)


def thread_text(pid: int, tid: int, name: str) -> str:
    """Write what a thread is called, each line behind a comma; threads stand in the order of their numbers."""
    metadata = (("thread_name", {"name": name}), ("thread_sort_index", {"sort_index": tid}))
    return "".join(
        f',\n{{"ph":"M","pid":{pid},"tid":{tid},"name":"{key}","args":{json_text(args)}}}' for key, args in metadata
    )


def counter_text(
    pids: Sequence[int], time_ps: NDArray[np.int64], values: ArrayLike, *, name: str, series: str, first: int = 0
) -> Iterator[Text]:
    """Write a counter of processes that do the same, each value valid until the next; `first` from the beginning on.

    Parameters
    ----------
    pids : sequence of int
    time_ps, values : ndarray of int, shape (instants,)
    name, series : str
        Of the counter, and of what it counts.
    first : int
    """
    times, numbers = np.asarray(time_ps, np.int64), np.asarray(values, np.int64)
    if not len(times) or times[0] > 0:
        times, numbers = np.append(np.int64(0), times), np.append(np.int64(first), numbers)
    time, value = Blank.of(1, int(times.max()), MICROSECOND), Blank.of(2, int(numbers.max()))
    for pid in pids:
        form = Form(f',\n{{"ph":"C","pid":{pid},"ts":{time},"name":"{name}","args":{{"{series}":{value}}}}}')
        yield from form.filled({time: times[:, None], value: numbers[:, None]}, len(times))
