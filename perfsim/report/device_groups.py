"""Neighbouring GPUs that do the same, so that a picture of a thousand of them has a few bars that can be named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Bars", "bars_of"]

_FEW = 24  # devices: each has a bar, with room for a figure over it
_MOST_GROUPS = 32


@dataclass(frozen=True, eq=False)
class Bars:
    """What has a bar of its own.

    Attributes
    ----------
    frame : DataFrame
        A row for each bar.
    labels : list of str
        The GPUs of each bar, and their stage below them.
    named : bool
        Whether every bar has room for a figure over it.
    """

    frame: pd.DataFrame
    labels: list[str]
    named: bool


def bars_of(frame: pd.DataFrame) -> Bars:
    r"""Give a bar to each GPU, or to neighbours with the same figures where the GPUs are many and the groups few.

    Parameters
    ----------
    frame : DataFrame
        A row for each device, in their order, with the column ``stage``; equal rows are figures of equal devices.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"stage": [0] * 32 + [1] * 16, "busy_s": [1.0] * 32 + [2.0] * 16})
    >>> bars_of(frame).labels
    ['0–31\nstage 0', '32–47\nstage 1']
    >>> bars_of(frame[:4]).labels
    ['0', '1', '2', '3']
    """
    devices = frame.index.to_numpy()
    first = _starts(frame)
    if len(frame) <= _FEW or len(first) > _MOST_GROUPS:
        return Bars(frame, [str(device) for device in devices], len(frame) <= _FEW)
    last = np.append(first[1:], len(frame)) - 1
    groups = zip(
        devices[first].tolist(), devices[last].tolist(), frame["stage"].to_numpy()[first].tolist(), strict=True
    )
    labels = [(f"{a}–{b}" if a < b else f"{a}") + f"\nstage {stage}" for a, b, stage in groups]
    return Bars(frame.iloc[first], labels, len(first) <= _FEW)


def _starts(frame: pd.DataFrame) -> NDArray[np.int64]:
    """First row of each run of equal rows."""
    changes = np.zeros(len(frame), dtype=bool)
    changes[0] = True
    for name in frame.columns:
        column = frame[name].to_numpy()
        changes[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changes)
