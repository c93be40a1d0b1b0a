"""Interpolation of the public tables themselves, which a formula has to be compared with.

Logarithms of times are interpolated linearly over logarithms of sizes, between rows that may be fitted. Beyond them
there is no interpolation, and no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["interpolated_along", "interpolated_between"]

_CORNERS = 3


def interpolated_between(
    known: pd.DataFrame, wanted: pd.DataFrame, knots: Sequence[str], series: Sequence[str]
) -> NDArray[np.float64]:
    """Interpolate between points of a plane, for each value of what both tables have in common.

    Parameters
    ----------
    known, wanted : DataFrame
        Rows with ``latency_s``, and rows without.
    knots : sequence of str
        The two columns of the plane, such as ``n`` and ``k``.
    series : sequence of str
        Columns whose values must be the same, such as ``m``.

    Returns
    -------
    ndarray
        Seconds of the rows of `wanted`; NaN outside of the known points.

    Examples
    --------
    >>> import pandas as pd
    >>> known = pd.DataFrame({"n": [1, 1, 4, 4], "k": [1, 4, 1, 4], "m": 8, "latency_s": [1.0, 4.0, 4.0, 16.0]})
    >>> wanted = pd.DataFrame({"n": [2, 8], "k": [2, 8], "m": 8})
    >>> interpolated_between(known, wanted, ["n", "k"], ["m"]).round(3).tolist()
    [4.0, nan]
    """
    from scipy.interpolate import LinearNDInterpolator
    from scipy.spatial import QhullError

    logs = known.assign(log_s=np.log(known["latency_s"]))
    grid = logs.pivot_table(index=list(knots), columns=list(series), values="log_s")
    points = np.log(np.array([list(pair) for pair in grid.index], float).reshape(-1, 2))
    seconds = np.full(len(wanted), np.nan)
    if len(points) < _CORNERS or not len(wanted):
        return seconds
    pairs = wanted[list(knots)].drop_duplicates()
    try:
        between = LinearNDInterpolator(points, grid.to_numpy())(np.log(pairs.to_numpy(float)))
    except QhullError:  # all on one line
        return seconds
    row = {pair: index for index, pair in enumerate(pairs.itertuples(index=False, name=None))}
    column = {name if isinstance(name, tuple) else (name,): index for index, name in enumerate(grid.columns)}
    rows = [row[pair] for pair in wanted[list(knots)].itertuples(index=False, name=None)]
    columns = np.array([column.get(name, -1) for name in wanted[list(series)].itertuples(index=False, name=None)])
    seconds[columns >= 0] = np.exp(between[np.array(rows)[columns >= 0], columns[columns >= 0]])
    return seconds


def interpolated_along(
    known: pd.DataFrame, wanted: pd.DataFrame, along: str, series: Sequence[str]
) -> NDArray[np.float64]:
    """Interpolate along one column, for each value of what both tables have in common.

    Examples
    --------
    >>> import pandas as pd
    >>> known = pd.DataFrame({"payload_bytes": [1, 16], "op": "all_reduce", "latency_s": [1.0, 16.0]})
    >>> wanted = pd.DataFrame({"payload_bytes": [4, 64], "op": "all_reduce"})
    >>> interpolated_along(known, wanted, "payload_bytes", ["op"]).tolist()
    [4.0, nan]
    """
    seconds = np.full(len(wanted), np.nan)
    curves = known.groupby(list(series)).indices
    for name, rows in wanted.groupby(list(series)).indices.items():
        if name in curves:
            curve = known.iloc[curves[name]].groupby(along)["latency_s"].mean()
            at = np.log(wanted[along].to_numpy(float)[rows])
            logs = np.interp(at, np.log(curve.index.to_numpy(float)), np.log(curve), left=np.nan, right=np.nan)
            seconds[rows] = np.exp(logs)
    return seconds
