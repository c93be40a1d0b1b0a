"""The executions of a run, written down so compactly that a page can carry all of them.

Slots that do the same at the same times are one *player*; of a player only those microbatches are kept that do not
repeat. The page's script works every execution out again, to the picosecond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.report.lanes import Run
from perfsim.report.repetition import Repetition, codes_of, find_repetition

__all__ = ["MOST_KEPT", "Overview", "Player", "players_of"]

MOST_KEPT = 120_000
"""Executions that a page holds as they are, of all players together; with more it would grow beyond a few megabytes."""

_BINS = 1000


@dataclass(frozen=True, eq=False)
class Overview:
    """What goes on in the time that is not kept: the share of each kind of operator in each bin of it.

    Attributes
    ----------
    edge_ps : tuple of int
        Start and end.
    shares : ndarray, shape (kinds, bins)
        Above 1 where executions of one kind overlap.
    microbatches : tuple of int
        First and last that are not kept.
    """

    edge_ps: tuple[int, int]
    shares: NDArray[np.float64]
    microbatches: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Player:
    """What some devices do, all of them the same.

    Attributes
    ----------
    devices : list of int
    operator : ndarray of int64, shape (rows,)
        Index in the graph of the operator of each row.
    microbatch : ndarray of int64, shape (kept,)
    repeats : ndarray of int64, shape (kept,)
        How often each kept microbatch comes again: every `cycle` microbatches, `growth_ps` later.
    cycle : int
    growth_ps : ndarray of int64, shape (rows,)
    start_ps, length_ps : ndarray of int64, shape (kept, rows)
    overview : Overview or None
        In place of the microbatches that are too many to be kept.
    """

    devices: list[int]
    operator: NDArray[np.int64]
    microbatch: NDArray[np.int64]
    repeats: NDArray[np.int64]
    cycle: int
    growth_ps: NDArray[np.int64]
    start_ps: NDArray[np.int64]
    length_ps: NDArray[np.int64]
    overview: Overview | None = None

    @property
    def count(self) -> int:
        """Executions that follow from what is kept."""
        return int(self.repeats.sum()) * len(self.operator)


def players_of(run: Run, kind: NDArray[np.int64], num_kinds: int, most_kept: int = MOST_KEPT) -> list[Player]:
    """Write down what all devices do.

    Parameters
    ----------
    run : Run
    kind : ndarray of int64, shape (operators,)
        Number of the kind of each operator of the graph.
    num_kinds : int
    most_kept : int
        The most executions that are kept as they are.

    Returns
    -------
    list of Player
        In the order of their first devices.
    """
    devices: dict[int, list[int]] = {}
    for slot, model in enumerate(run.models):
        devices.setdefault(model, []).extend(run.devices_of(slot))
    tracks = {slot: _track(run, slot) for slot in sorted(devices)}
    # What does not repeat and is too much shrinks by the same share everywhere.
    endless = sum(track.start_ps.size for track in tracks.values() if not track.found.times)
    share = min(1.0, most_kept / max(endless, 1))
    return [_player(track, devices[slot], kind[track.operator], num_kinds, share) for slot, track in tracks.items()]


class _Track(NamedTuple):
    """All that a slot does, with what repeats in it."""

    operator: NDArray[np.int64]
    start_ps: NDArray[np.int64]
    length_ps: NDArray[np.int64]
    found: Repetition


def _track(run: Run, slot: int) -> _Track:
    """Find the microbatches that repeat: as far from the one before as its counterpart was, and as long."""
    template, entries = run.program.template, run.entries(slot)
    rows = template.entry_row[entries]
    start, length = run.start_ps[:, rows], run.end_ps[:, rows] - run.start_ps[:, rows]
    later = np.diff(start, axis=0, append=np.iinfo(np.int64).min)
    found = find_repetition(codes_of(np.concatenate([later, length], axis=1)))
    return _Track(template.entry_operator[entries], start, length, found)


def _player(track: _Track, devices: list[int], kind: NDArray[np.int64], num_kinds: int, share: float) -> Player:
    start, length, found = track.start_ps, track.length_ps, track.found
    kept, repeats, overview = found.kept, found.repeats, None
    ends = max(int(len(start) * share / 2), 1)  # microbatches that are kept at either end
    if share < 1 and not found.times and 2 * ends < len(start):
        kept = np.concatenate([np.arange(ends), np.arange(len(start) - ends, len(start))])
        repeats = np.ones(len(kept), np.int64)
        overview = _overview(start[ends:-ends], length[ends:-ends], kind, num_kinds, ends)
    growth = start[found.first + found.cycle] - start[found.first] if found.times else np.zeros(len(kind), np.int64)
    return Player(devices, track.operator, kept, repeats, found.cycle, growth, start[kept], length[kept], overview)


def _overview(
    start: NDArray[np.int64], length: NDArray[np.int64], kind: NDArray[np.int64], num_kinds: int, first: int
) -> Overview:
    """Sum up microbatches that are not kept."""
    edges = int(start.min()), int((start + length).max())
    edge = np.linspace(*edges, _BINS + 1)
    shares = np.zeros((num_kinds, _BINS))
    for number in np.unique(kind):
        begins, lasts = start[:, kind == number].ravel(), length[:, kind == number].ravel()
        shares[number] = np.diff(_covered(begins, begins + lasts, edge)) / np.diff(edge)
    return Overview(edges, shares, (first, first + len(start) - 1))


def _covered(start: NDArray[np.int64], end: NDArray[np.int64], until: NDArray[np.float64]) -> NDArray[np.float64]:
    """Length of all intervals up to some instants; where intervals overlap, each counts."""
    total = np.zeros(len(until))
    for sign, instants in ((1, np.sort(start)), (-1, np.sort(end))):
        passed = np.searchsorted(instants, until)
        sums = np.concatenate([[0.0], np.cumsum(instants.astype(np.float64))])
        total += sign * (passed * until - sums[passed])
    return total
