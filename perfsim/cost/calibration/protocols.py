"""Fit of the protocols of a collective to a table of measurements: where they change, and what each one reaches.

A table has one payload an octave. Where the protocols change is found by dynamic programming over all partitions of the
measured payloads, with a price for every protocol, so that a kink within the noise makes none. Inside a partition the
coefficients minimise the soft-L1 loss of the logarithm of predicted over measured. A partition in which a larger
payload takes less time is not allowed: in the tables such falls are outliers. The table leaves open where within its
octave a switch lies: it is put where the two curves are closest, so that a sweep shows no larger jump than the
measurements demand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from perfsim.cost.protocols import Floats, Protocols, wire_factor

__all__ = ["NOISE", "SOFTNESS", "Measured", "fit_protocols", "soft_residual"]

NOISE = 0.02
"""Standard deviation of the logarithm of a repeated measurement, about the tables' own."""
SOFTNESS = 2.5
"""Residuals beyond this many standard deviations count linearly."""
PROTOCOL_PRICE = 4.0
"""Halved squared deviations, in units of NOISE, that a further protocol must save."""
MOST_PROTOCOLS = 5

_FEW_SIZES = 16
"""Tables with no more payloads than this may have protocols of two payloads; larger ones need three."""
_FEWEST_FOR_FILL = 4
_FILL_UNIT_S = 1e-5
_REWEIGHTINGS = 6
_SHORTEST_S = 1e-7
_PLACES_IN_AN_OCTAVE = 64
_LOWER, _UPPER = np.array([-18.0, 0.0, -28.0]), np.array([0.0, 9.0, 3.0])
"""Bounds of the logarithms of fixed time, inverse efficiency and fill."""

Span = tuple[int, int]
"""Index of the first payload of a protocol, and of the first one behind it."""


@dataclass(frozen=True)
class Measured:
    """Measurements of one operation and group size.

    Attributes
    ----------
    op : str
    members : int
    payload_bytes, latency_s : ndarray
    bytes_per_s : ndarray
        Datasheet rate of each row's links, so that rows of sibling devices may be pooled.
    ends_in_switch : bool
        Whether the last protocol of several lets the switch add up.
    """

    op: str
    members: int
    payload_bytes: Floats
    latency_s: Floats
    bytes_per_s: Floats
    ends_in_switch: bool = False

    def light_s(self, payload: Floats, bytes_per_s: Floats | float, *, in_switch: bool) -> Floats:
        """Time of the bytes on the wire at the datasheet rate."""
        return payload * wire_factor(self.op, self.members, in_switch=in_switch) / bytes_per_s


class _Curve(NamedTuple):
    """One protocol: ``fixed_s + inverse_efficiency light + fill sqrt(light)``."""

    fixed_s: float
    inverse_efficiency: float
    fill: float
    in_switch: bool
    loss: float

    def seconds(self, light_s: Floats) -> Floats:
        return self.fixed_s + self.inverse_efficiency * light_s + self.fill * np.sqrt(light_s)


def soft_residual(log_error: Floats, noise: float = NOISE) -> Floats:
    """Residuals whose squares are the soft-L1 loss of errors in units of `noise`; priors beside them stay quadratic."""
    scaled = log_error / noise / SOFTNESS
    return np.sign(scaled) * SOFTNESS * np.sqrt(2 * (np.sqrt(1 + scaled**2) - 1))


def fit_protocols(measured: Measured) -> Protocols:
    """Find the protocols of one operation and group size, and their coefficients.

    Examples
    --------
    One protocol, 5 us and 0.8 of 100 GB/s, is found again:

    >>> payload = 2.0 ** np.arange(10, 30)
    >>> latency = 5e-6 + payload / (0.8 * 100e9)
    >>> found = fit_protocols(Measured("all_reduce", 2, payload, latency, np.full(20, 100e9)))
    >>> found.switch_bytes, round(found.fixed_s[0] * 1e6, 3), round(found.efficiency[0], 3)
    ((), 5.0, 0.8)
    """
    sizes = np.unique(measured.payload_bytes)
    curves = _curves(measured, sizes)
    chosen = [
        (span, _polished(measured, sizes, span, curves[span])) for span in _best_partition(measured, sizes, curves)
    ]
    rate = float(np.median(measured.bytes_per_s))
    ordered = [curve for _, curve in chosen]
    edges = [
        _closest(measured, below, above, sizes[span[1] - 1 : span[1] + 1], rate)
        for (span, below), above in zip(chosen[:-1], ordered[1:], strict=True)
    ]
    return Protocols(
        switch_bytes=tuple(edges),
        fixed_s=tuple(curve.fixed_s for curve in ordered),
        efficiency=tuple(1 / curve.inverse_efficiency for curve in ordered),
        fill_s=tuple(curve.fill**2 / curve.inverse_efficiency for curve in ordered),
        in_switch=tuple(curve.in_switch for curve in ordered),
    )


def _curves(measured: Measured, sizes: Floats) -> dict[Span, _Curve]:
    """Give the best curve through the rows of every span of payloads."""
    shortest = 3 if sizes.size > _FEW_SIZES else 2
    curves = {}
    for start in range(sizes.size):
        for stop in range(start + min(shortest, sizes.size), sizes.size + 1):
            rows = _rows(measured, sizes, (start, stop))
            in_switch = measured.ends_in_switch and stop == sizes.size and start > 0
            light_s = measured.light_s(measured.payload_bytes[rows], measured.bytes_per_s[rows], in_switch=in_switch)
            with_fill = stop - start >= _FEWEST_FOR_FILL and not in_switch
            fixed_s, slope, fill, loss = _best_curve(light_s, measured.latency_s[rows], with_fill=with_fill)
            curves[start, stop] = _Curve(fixed_s, slope, fill, in_switch, loss)
    return curves


def _rows(measured: Measured, sizes: Floats, span: Span) -> np.ndarray:
    payload = measured.payload_bytes
    return (payload >= sizes[span[0]]) & (payload <= sizes[span[1] - 1])


def _best_curve(light_s: Floats, latency_s: Floats, *, with_fill: bool) -> tuple[float, float, float, float]:
    """Best fixed time, inverse efficiency (at least 1, the wire's speed of light) and root term, and their loss."""
    from scipy.optimize import nnls

    def fit(columns: Floats) -> tuple[float, Floats]:
        weight = np.ones_like(latency_s)
        for _ in range(_REWEIGHTINGS):
            scale = weight / latency_s
            found, _ = nnls(columns * scale[:, None], (latency_s - light_s) * scale)
            residual = np.log((light_s + columns @ found) / latency_s) / NOISE / SOFTNESS
            weight = (1 + residual**2) ** -0.25
        return SOFTNESS**2 * (np.sqrt(1 + residual**2) - 1).sum(), found

    plain = np.stack([np.ones_like(light_s), light_s], axis=1)
    loss, found = fit(plain)
    fixed_s, slope, fill = found[0], 1 + found[1], 0.0
    if with_fill:
        filled_loss, filled = fit(np.column_stack([plain, np.sqrt(_FILL_UNIT_S * light_s)]))
        if filled_loss + PROTOCOL_PRICE / 2 < loss:
            loss = filled_loss + PROTOCOL_PRICE / 2
            fixed_s, slope, fill = filled[0], 1 + filled[1], filled[2] * math.sqrt(_FILL_UNIT_S)
    return max(float(fixed_s), _SHORTEST_S), float(slope), float(fill), float(loss)


def _best_partition(measured: Measured, sizes: Floats, curves: dict[Span, _Curve]) -> list[Span]:
    """Choose the cheapest partition into protocols of which none starts below the end of the one before."""
    rate = float(np.median(measured.bytes_per_s))
    ends = {
        span: curve.seconds(
            measured.light_s(sizes[[span[0], span[1] - 1]], rate, in_switch=curve.in_switch)
        )
        for span, curve in curves.items()
    }  # fmt: skip
    best: dict[Span, tuple[float, list[Span]]] = {}
    for span in sorted(curves, key=lambda span: span[1]):
        before: list[tuple[float, list[Span]]] = [
            chain for last, chain in best.items()
            if last[1] == span[0] and len(chain[1]) < MOST_PROTOCOLS and ends[last][1] <= ends[span][0] * (1 + NOISE)
        ] if span[0] else [(0.0, [])]  # fmt: skip
        if before:
            loss, spans = min(before, key=lambda chain: chain[0])
            best[span] = (loss + curves[span].loss + PROTOCOL_PRICE, [*spans, span])
    return min((chain for last, chain in best.items() if last[1] == sizes.size), key=lambda chain: chain[0])[1]


def _polished(measured: Measured, sizes: Floats, span: Span, curve: _Curve) -> _Curve:
    """Minimise the soft-L1 loss of the log error over the coefficients of a protocol whose switches are given."""
    from scipy.optimize import least_squares

    rows = _rows(measured, sizes, span)
    light_s = measured.light_s(measured.payload_bytes[rows], measured.bytes_per_s[rows], in_switch=curve.in_switch)
    fill_s = curve.fill**2 / curve.inverse_efficiency
    free = 3 if fill_s > 0 else 2
    lower, upper = _LOWER[:free], _UPPER[:free]

    def moved(theta: Floats) -> _Curve:
        fixed_s, inverse_efficiency, *fill = (float(value) for value in np.exp(theta))
        root = math.sqrt(fill[0] * inverse_efficiency) if fill else 0.0
        return curve._replace(fixed_s=fixed_s, inverse_efficiency=inverse_efficiency, fill=root)

    def residual(theta: Floats) -> Floats:
        return np.log(moved(theta).seconds(light_s) / measured.latency_s[rows]) / NOISE

    start = np.log([curve.fixed_s, curve.inverse_efficiency, max(fill_s, 1e-12)])[:free]
    start = np.clip(start, lower + 1e-9, upper - 1e-9)
    return moved(least_squares(residual, start, bounds=(lower, upper), loss="soft_l1", f_scale=SOFTNESS).x)


def _closest(measured: Measured, below: _Curve, above: _Curve, octave: Floats, rate: float) -> int:
    """Payload between two measured ones at which the curves of two protocols are closest."""
    payload = np.geomspace(octave[0], octave[1], _PLACES_IN_AN_OCTAVE + 1)[:-1]
    low = below.seconds(measured.light_s(payload, rate, in_switch=below.in_switch))
    high = above.seconds(measured.light_s(payload, rate, in_switch=above.in_switch))
    return int(payload[np.abs(np.log(high / low)).argmin()])
