"""The steps of a served load, few enough for a page: of very many, neighbours are put together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfsim.serving.frames import host_ps
from perfsim.serving.results import ServeResult
from perfsim.units import seconds

__all__ = ["MOST_KEPT", "kept_steps"]

MOST_KEPT = 40_000
"""Rows that a page holds of all replicas together; with more it would grow beyond a few megabytes."""

_LEAST = 200  # rows of a replica


def kept_steps(result: ServeResult, most: int = MOST_KEPT) -> list[dict[str, NDArray[Any]]]:
    """Give the steps of each replica by time, in columns.

    Where there are more than `most`, runs of decode steps that are alike share a row; where there are still more, so do
    neighbours, but for the first and last steps of each replica.

    Parameters
    ----------
    result : ServeResult
    most : int
        Rows of all replicas together.

    Returns
    -------
    list of dict
        For each replica ``start`` and ``end`` in seconds; ``steps``, ``prompts``, ``prompt_tokens`` and the time of the
        ``host`` as sums; ``decodes`` and ``tokens`` of a step (those of prompts) as means over the time from start to
        end; and the most of ``waiting``, ``blocks`` and ``running``.
    """
    log = result.log(most)
    log = log[np.lexsort((log["start"], log["replica"]))]
    host = seconds(host_ps(log, result.service))
    replicas = np.arange(len(result.outcome.steps) + 1)
    bounds = np.searchsorted(log["replica"], replicas)
    return [
        _columns(log[first:last], host[first:last], _groups(last - first, most * (last - first) / max(len(log), 1)))
        for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]


def _groups(count: int, most: float) -> NDArray[np.int64]:
    """Where the rows of a replica begin: a quarter of them at either end are single, the others hold several each."""
    most = max(int(most), _LEAST)
    if count <= most:
        return np.arange(count)
    ends = most // 4
    size = -(-(count - 2 * ends) // (most - 2 * ends))
    return np.concatenate([np.arange(ends), np.arange(ends, count - ends, size), np.arange(count - ends, count)])


def _columns(log: NDArray[Any], host_s: NDArray[np.float64], first: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Put groups of rows together."""
    if not len(log):
        first = np.empty(0, np.int64)
    last = np.append(first[1:], len(log))[: len(first)] - 1
    start, end = log["start"][first], log["end"][last]
    length = log["end"] - log["start"]

    def total(values: NDArray[Any]) -> NDArray[Any]:
        return np.add.reduceat(values, first) if len(first) else np.empty(0)

    def mean(values: NDArray[np.int64]) -> NDArray[np.float32]:
        return (total(values * length.astype(np.float64)) / (end - start)).astype(np.float32)

    def most(name: str) -> NDArray[np.int32]:
        return (np.maximum.reduceat(log[name], first) if len(first) else np.empty(0)).astype(np.int32)

    return {
        "start": seconds(start),
        "end": seconds(end),
        "steps": total(log["steps"]).astype(np.int32),
        "decodes": mean(log["sequences"]),
        "tokens": mean(log["tokens"]),
        "prompts": total(log["chunks"]).astype(np.int32),
        "prompt_tokens": total(log["tokens"]).astype(np.float64),
        "host": total(host_s).astype(np.float32),
        "waiting": most("waiting"),
        "blocks": most("used_blocks"),
        "running": most("running"),
    }
