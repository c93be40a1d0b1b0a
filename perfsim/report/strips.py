"""What devices do at every instant, one thing at a time, and how that fills the pixels of a picture.

A *strip* cuts a window of time into pieces, each of one kind of operator or of idling. Bars and pixels are both made
from strips, so a picture shows the same from far away and from near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfsim.report.breakdown import IDLE, KINDS
from perfsim.report.lanes import COMMUNICATION, COMPUTE, Run

__all__ = ["PARTS", "Executions", "Strip", "mean_shares", "strip_of"]

PARTS = {
    "compute": tuple(kind for kind in KINDS if kind in COMPUTE),
    "communication": tuple(kind for kind in KINDS if kind in COMMUNICATION),
}
"""The kinds of each of the two parts of a lane; to receive is a transfer too."""

_IDLE = KINDS.index(IDLE)


@dataclass(frozen=True, eq=False)
class Strip:
    """A window of time, cut into pieces of one kind each.

    Attributes
    ----------
    edge_ps : ndarray of int64, shape (pieces + 1,)
    kind : ndarray of int8, shape (pieces,)
        Index in `KINDS` of what goes on between two edges.
    """

    edge_ps: NDArray[np.int64]
    kind: NDArray[np.int8]

    @property
    def lengths_ps(self) -> NDArray[np.int64]:
        """Lengths of the pieces in which something goes on."""
        return np.diff(self.edge_ps)[self.kind != _IDLE]

    def pieces(self, kind: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts and ends of the pieces of one kind."""
        chosen = self.kind == KINDS.index(kind)
        return self.edge_ps[:-1][chosen], self.edge_ps[1:][chosen]

    def shares(self, pixel_ps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Exact share of every kind in the time of every pixel.

        Parameters
        ----------
        pixel_ps : ndarray, shape (pixels + 1,)
            Edges of the pixels, within the window.

        Returns
        -------
        ndarray, shape (kinds, pixels)
            A column adds up to 1.
        """
        length, width = np.diff(self.edge_ps), np.diff(pixel_ps)
        shares = np.zeros((len(KINDS), len(width)))
        for kind in np.flatnonzero(np.bincount(self.kind, minlength=len(KINDS))):
            until = np.concatenate([[0], np.cumsum(np.where(self.kind == kind, length, 0))])
            shares[kind] = np.diff(np.interp(pixel_ps, self.edge_ps, until)) / width
        return shares


def strip_of(
    start_ps: NDArray[np.int64], end_ps: NDArray[np.int64], kind: NDArray[np.int8], window_ps: tuple[int, int]
) -> Strip:
    """Cut a window into pieces; where several kinds go on at once, the first of `KINDS` counts.

    Parameters
    ----------
    start_ps, end_ps : ndarray of int64, shape (executions,)
    kind : ndarray of int8, shape (executions,)
        Index in `KINDS`.
    window_ps : tuple of int
        Start and end of the window.

    Examples
    --------
    >>> strip = strip_of(np.array([2, 4]), np.array([6, 9]), np.array([0, 4], np.int8), (0, 10))
    >>> strip.edge_ps.tolist(), [KINDS[kind] for kind in strip.kind]
    ([0, 2, 6, 9, 10], ['idle', 'matmul', 'collective', 'idle'])
    """
    low, high = window_ps
    inside = (end_ps > low) & (start_ps < high) & (end_ps > start_ps)
    start, end, code = np.maximum(start_ps[inside], low), np.minimum(end_ps[inside], high), kind[inside]
    time = np.concatenate([start, end])
    order = np.argsort(time, kind="stable")
    edge = np.concatenate([[low], time[order], [high]])
    sorted_code, sign = np.tile(code, 2)[order], np.where(order < len(start), 1, -1)
    # Last precedence first, so that the kinds that go before it write over it.
    doing = np.full(len(edge) - 1, _IDLE, dtype=np.int8)
    for this in np.flatnonzero(np.bincount(code, minlength=len(KINDS)))[::-1]:
        doing[1:][np.cumsum(np.where(sorted_code == this, sign, 0)) > 0] = this
    # Pieces without length are states between two events of one instant; equal neighbours make one piece.
    long = edge[1:] > edge[:-1]
    first, doing = edge[:-1][long], doing[long]
    begins = np.concatenate([[True], doing[1:] != doing[:-1]])
    return Strip(np.concatenate([first[begins], [high]]), doing[begins])


class Executions:
    """The executions of a run, by slot; finding them once serves all lanes of a picture.

    Parameters
    ----------
    run : Run

    Examples
    --------
    >>> import perfsim
    >>> run = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8)).run
    >>> strip = Executions(run).strip(0, "compute", (0, run.makespan_ps))
    >>> int(strip.edge_ps[-1]) == run.makespan_ps
    True
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        template = run.program.template
        code = {name: index for index, name in enumerate(KINDS)} | {"receive": KINDS.index("transfer")}
        kinds = np.array([code.get(operator.kind, _IDLE) for operator in run.operators], dtype=np.int8)
        order = np.argsort(template.entry_slot, kind="stable")
        self._row, self._kind = template.entry_row[order], kinds[template.entry_operator[order]]
        self._part = {
            part: np.isin(self._kind, [KINDS.index(kind) for kind in kinds_of]) for part, kinds_of in PARTS.items()
        }
        self._bounds = np.searchsorted(template.entry_slot[order], np.arange(template.num_slots + 1))

    def strip(self, slot: int, part: str, window_ps: tuple[int, int]) -> Strip:
        """What a slot does in a window, in one part of its lane; see `PARTS`."""
        mine = slice(self._bounds[slot], self._bounds[slot + 1])
        wanted = self._part[part][mine]
        rows, kind = self._row[mine][wanted], self._kind[mine][wanted]
        start, end = self.run.start_ps[:, rows].ravel(), self.run.end_ps[:, rows].ravel()
        return strip_of(start, end, np.tile(kind, len(self.run.end_ps)), window_ps)

    def microbatch_starts_ps(self, slot: int) -> NDArray[np.int64]:
        """When a slot starts its first kernel of each microbatch."""
        mine = slice(self._bounds[slot], self._bounds[slot + 1])
        rows = self._row[mine][self._part["compute"][mine]]
        return np.asarray(self.run.start_ps[:, rows].min(axis=1))

    def end_ps(self, slot: int) -> int:
        """When a slot ends its last task."""
        return int(self.run.end_ps[:, self._row[self._bounds[slot] : self._bounds[slot + 1]]].max())


def mean_shares(strips: Sequence[Strip], weights: Sequence[int], pixel_ps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of every kind in every pixel, on the mean over several strips; see `Strip.shares`."""
    together: dict[bytes, tuple[Strip, int]] = {}  # ranks that do the same are many, and asked once
    for strip, weight in zip(strips, weights, strict=True):
        key = strip.edge_ps.tobytes() + strip.kind.tobytes()
        together[key] = strip, weight + (together[key][1] if key in together else 0)
    shares = sum(weight * strip.shares(pixel_ps) for strip, weight in together.values())
    return np.asarray(shares / sum(weights), dtype=np.float64)
