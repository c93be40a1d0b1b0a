"""Maximum a posteriori estimates of positive coefficients, and which of them the measurements determined.

Each coefficient is free in its logarithm, between bounds. A residual is the log of predicted over measured time, under
a soft L1 loss; and each coefficient has a prior, a normal distribution of its logarithm. So a few points move only what
they determine, and the rest keeps its value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Coefficient", "Posterior", "maximum_a_posteriori"]

Array = NDArray[np.float64]

NOISE = 0.1
"""Standard deviation of the logarithm of one measurement: two libraries' tables of one device differ by about this."""
DETERMINED = 0.3
"""A coefficient is determined when the measurements take this share off the width of its prior."""

_NEAR = 0.01  # of a bound, in the logarithm
_STEP = 1e-3  # of finite differences: well above the rounding of single precision
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Coefficient:
    """A coefficient to fit.

    Attributes
    ----------
    name : str
    start : float
        Where the fit starts.
    centre : float
        The most likely value before any measurement.
    width : float
        Standard deviation of the logarithm before any measurement.
    lowest, highest : float
        Bounds.
    """

    name: str
    start: float
    centre: float
    width: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Posterior:
    """What measurements say of coefficients.

    Attributes
    ----------
    values : dict of str to float
        The most likely values.
    determined : dict of str to float
        How much each was determined: 1 - width after / width before.
    at_bound : tuple of str
        Coefficients that ended at a bound: the measurements only say that they lie beyond.
    """

    values: dict[str, float]
    determined: dict[str, float]
    at_bound: tuple[str, ...]

    @property
    def undetermined(self) -> tuple[str, ...]:
        """Coefficients that the measurements say little about: they kept about what they were before."""
        return tuple(name for name, share in self.determined.items() if share < DETERMINED)


def maximum_a_posteriori(
    coefficients: Sequence[Coefficient],
    log_errors: Callable[[dict[str, float]], Array],
    *,
    soft: float,
    evaluations: int,
) -> Posterior:
    """Fit coefficients to measurements.

    Parameters
    ----------
    coefficients : sequence of Coefficient
    log_errors : callable
        Gives log(predicted / measured) of all measurements for given values.
    soft : float
        Log error where the loss turns from square to absolute.
    evaluations : int
        The most steps of the solver.

    Examples
    --------
    Three measurements of a + 0 b determine a and leave b alone:

    >>> wanted = [Coefficient(name, 1.0, 1.0, 1.0, 0.01, 100.0) for name in "ab"]
    >>> found = maximum_a_posteriori(
    ...     wanted, lambda value: np.log(value["a"] / np.array([2.0, 2.0, 2.0])), soft=0.1, evaluations=50)
    >>> round(found.values["a"], 2), round(found.values["b"], 2), found.undetermined
    (2.0, 1.0, ('b',))
    """
    from scipy.optimize import least_squares

    names = [item.name for item in coefficients]
    lowest, highest = np.array([[item.lowest, item.highest] for item in coefficients], float).T
    low, high = np.log(lowest), np.log(highest)
    offset = low - 1  # the solver's steps are relative: what it sees starts at 1, and is never 0
    start = np.clip(np.log([item.start for item in coefficients]), low + 1e-6, high - 1e-6) - offset
    centre = np.clip(np.log([item.centre for item in coefficients]), low, high) - offset
    width = np.array([item.width for item in coefficients])

    def at(vector: Array) -> dict[str, float]:
        values = np.clip(np.exp(vector + offset), lowest, highest)  # rounding must not step over a bound
        return dict(zip(names, values.tolist(), strict=True))

    def residuals(vector: Array) -> Array:
        error = log_errors(at(vector))
        softened = soft * np.sqrt(2 * (np.hypot(1, error / soft) - 1)) * np.sign(error)
        return np.concatenate([softened, (vector - centre) * (NOISE / width)])

    found = least_squares(
        residuals, start, bounds=(low - offset, high - offset), x_scale="jac", diff_step=_STEP, xtol=_TOLERANCE,
        ftol=_TOLERANCE, max_nfev=evaluations,
    )  # fmt: skip
    after = np.sqrt(np.diag(np.linalg.pinv(found.jac.T @ found.jac))) * NOISE
    determined = (1 - np.minimum(after / width, 1)).round(3).tolist()
    near = np.minimum(found.x + offset - low, high - found.x - offset) < _NEAR
    return Posterior(
        values=at(found.x),
        determined=dict(zip(names, determined, strict=True)),
        at_bound=tuple(name for name, at_bound in zip(names, near, strict=True) if at_bound),
    )
