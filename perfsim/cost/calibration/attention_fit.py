"""The fit of one attention kernel: which coefficients are free, between which limits, and how they are put back.

Every coefficient that has a value for each head dimension is fitted for each, or moved as a whole where there are few
measurements. The clock that an accelerator sustains against its sibling's is one more coefficient with a narrow prior.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.attention_coefficients import DecodeCoefficients, PrefillCoefficients
from perfsim.cost.attention_kernels import AttentionTime
from perfsim.cost.calibration.posterior import Coefficient, maximum_a_posteriori
from perfsim.spec.tables import FrozenDict

__all__ = ["AttentionCoefficients", "AttentionFit", "Limits", "Measured", "fit_kernel", "limits_of"]

Array = NDArray[np.float64]
AttentionCoefficients: TypeAlias = PrefillCoefficients | DecodeCoefficients


class Limits(NamedTuple):
    """Where a coefficient starts without any knowledge, and what it may be."""

    start: float
    lowest: float
    highest: float


PREFILL_LIMITS = {
    "compute_efficiency": Limits(0.7, 0.15, 1.05),
    "cta_clocks": Limits(2500.0, 1.0, 6e4),
    "softmax_clocks": Limits(0.09, 0.02, 0.6),
    "launch_s": Limits(9e-6, 5e-7, 4e-5),
    "activation_bytes_per_clock": Limits(12.0, 1.0, 300.0),
    "kv_write_bytes_per_clock": Limits(6.0, 0.5, 300.0),
    "token_clocks": Limits(100.0, 0.1, 5000.0),
    "hbm_efficiency": Limits(0.7, 0.1, 2.5),
    "l2_share": Limits(0.6, 0.1, 3.0),
    "chain_factor": Limits(1.0, 0.4, 2.0),
    "overlap": Limits(4.0, 1.05, 30.0),
    "uneven_group_penalty": Limits(0.02, 1e-3, 0.5),
    "split_s": Limits(3e-6, 1e-7, 2e-5),
}
DECODE_LIMITS = {
    "launch_s": Limits(8e-6, 3e-7, 4e-5),
    "cta_clocks": Limits(5000.0, 100.0, 4e4),
    "key_clocks": Limits(2.0, 2e-3, 400.0),
    "head_clocks": Limits(40.0, 0.2, 1500.0),
    "wide_group_cost": Limits(0.1, 1e-3, 12.0),
    "chain_clocks": Limits(7.0, 0.2, 80.0),
    "hbm_efficiency": Limits(0.9, 0.4, 1.1),
    "l2_speedup": Limits(3.0, 1.0, 12.0),
    "l2_share": Limits(0.7, 0.2, 2.0),
    "overlap": Limits(3.0, 0.05, 12.0),
    "overlap_waves": Limits(20.0, 0.3, 80.0),
    "chain_overlap": Limits(2.0, 1.02, 8.0),
    "split_s": Limits(2e-6, 1e-8, 3e-5),
    "regroup_s": Limits(3e-6, 1e-7, 2e-5),
    "serial_s": Limits(1.7e-6, 1e-7, 1e-5),
    "serial_growth_s": Limits(4e-9, 1e-10, 1e-7),
    "serial_beyond_s": Limits(2e-7, 1e-8, 2e-6),
}
CLOCK = Limits(1.0, 0.8, 1.25)
CLOCK_WIDTH = 0.03
"""Width of the prior of one accelerator's sustained clock against its sibling's."""

_SOFT = 0.1
_MOST_EVALUATIONS = 80


@dataclass(frozen=True)
class Measured:
    """Measurements on one accelerator, and what prices them from coefficients.

    Attributes
    ----------
    device : str
        Name of the accelerator.
    time : callable
        From coefficients to the time of each measurement.
    seconds : array
        Measured seconds.
    """

    device: str
    time: Callable[[AttentionCoefficients], AttentionTime]
    seconds: Array


@dataclass(frozen=True)
class AttentionFit:
    """New coefficients of a kernel and how well they are known.

    Attributes
    ----------
    coefficients : PrefillCoefficients or DecodeCoefficients
    undetermined : tuple of str
        Coefficients about which the measurements say little; the head dimension is in brackets where each has its own.
    rows_used : int
    """

    coefficients: AttentionCoefficients
    undetermined: tuple[str, ...]
    rows_used: int


def limits_of(start: AttentionCoefficients) -> dict[str, Limits]:
    """Give the limits of those coefficients that a kernel has; one that is 0 describes a part that it lacks."""
    limits = PREFILL_LIMITS if isinstance(start, PrefillCoefficients) else DECODE_LIMITS
    return {name: limit for name, limit in limits.items() if getattr(start, name) != 0}


def fit_kernel(
    blocks: Sequence[Measured], start: AttentionCoefficients, *, prior_width: float, together: bool
) -> AttentionFit:
    """Fit one kernel's coefficients to measurements.

    Parameters
    ----------
    blocks : sequence of Measured
    start : PrefillCoefficients or DecodeCoefficients
        Where the fit begins and where the prior has its centre.
    prior_width : float
        Width of the prior as a natural logarithm: 0.4 means that a factor of 1.5 would not surprise.
    together : bool
        Whether the values of all head dimensions move by one factor, which a few dozen points can determine.
    """
    slots = _slots(start, prior_width, together=together)
    others = list(dict.fromkeys(block.device for block in blocks))[1:]
    clocks = [Coefficient(_clock(name), 1.0, 1.0, CLOCK_WIDTH, CLOCK.lowest, CLOCK.highest) for name in others]
    measured = [np.log(block.seconds) for block in blocks]

    def at(values: dict[str, float]) -> AttentionCoefficients:
        return _with_values(start, values, others)

    def log_errors(values: dict[str, float]) -> Array:
        found = at(values)
        return np.concatenate(
            [np.log(block.time(found).seconds) - log_s for block, log_s in zip(blocks, measured, strict=True)]
        )

    posterior = maximum_a_posteriori([*slots, *clocks], log_errors, soft=_SOFT, evaluations=_MOST_EVALUATIONS)
    rows = sum(len(block.seconds) for block in blocks)
    return AttentionFit(at(posterior.values), posterior.undetermined, rows)


def _slots(start: AttentionCoefficients, width: float, *, together: bool) -> list[Coefficient]:
    """The free coefficients: plain numbers, and for each head dimension its own or one factor for all."""
    slots = []
    for name, limits in limits_of(start).items():
        value = getattr(start, name)
        if not isinstance(value, tuple):
            slots.append(_slot(name, value, width, limits))
        elif together:
            low, high = limits.lowest / min(value), limits.highest / max(value)
            slots.append(_slot(name, 1.0, width, Limits(1.0, low, high)))
        else:
            slots += [
                _slot(_of_dim(name, dim), each, width, limits) for dim, each in zip(start.head_dims, value, strict=True)
            ]
    return slots


def _slot(name: str, value: float, width: float, limits: Limits) -> Coefficient:
    """A coefficient whose prior is centred where it starts, which limits may not cut off."""
    return Coefficient(name, value, value, width, min(limits.lowest, value * 0.99), max(limits.highest, value * 1.01))


def _with_values(
    start: AttentionCoefficients, values: dict[str, float], others: Sequence[str]
) -> AttentionCoefficients:
    """Put fitted values into the coefficients."""
    found: dict[str, Any] = {}
    for name in limits_of(start):
        current = getattr(start, name)
        if not isinstance(current, tuple):
            found[name] = values[name]
        elif name in values:
            found[name] = tuple(each * values[name] for each in current)
        else:
            found[name] = tuple(values[_of_dim(name, dim)] for dim in start.head_dims)
    ratios = {name: values[_clock(name)] for name in others}
    return dataclasses.replace(start, **found, clock_ratios=FrozenDict(start.clock_ratios | ratios))


def _of_dim(name: str, head_dim: int) -> str:
    return f"{name}[{head_dim}]"


def _clock(device: str) -> str:
    return f"clock_ratios[{device}]"
