"""Coefficients of `perfsim.cost.tiled_matmul` from measured multiplications; the estimate is that of `posterior`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.calibration.posterior import Coefficient, Posterior, maximum_a_posteriori
from perfsim.cost.fastest_tile import Chip
from perfsim.cost.tiled_coefficients import Tile, TiledMatmul
from perfsim.cost.tiled_matmul import KernelTime, tiled_matmul
from perfsim.errors import Faults

__all__ = ["DEFAULT_FORM", "MatmulFit", "MeasuredMatmuls", "Rotation", "fit_matmul"]

Array = NDArray[np.float64]

BOUNDS = {
    "launch_s": (2e-7, 3e-5),
    "compute_efficiency": (0.3, 1.0),
    "memory_efficiency": (0.4, 1.0),
    "l2_bytes_per_clock": (5, 400),
    "staging_bytes_per_clock": (10, 600),
    "epilogue_bytes_per_clock": (1, 400),
    "k_step_s": (2e-9, 6e-7),
    "cold_k_step_s": (1e-10, 6e-7),
    "wave_overlap": (0.01, 1),
    "split_s": (5e-8, 1e-5),
    "split_step_s": (1e-9, 5e-7),
    "split_traffic": (0.05, 20),
    "throttling": (0.001, 0.4),
    "l2_share": (0.1, 1.5),
    "l2_sharpness": (2, 60),
    "result_l2_weight": (0.001, 4),
    "tile_edge_cost": (0.0005, 60),
    "single_row_bandwidth": (0.5, 2),
    "few_rows_latency": (0.5, 3),
}
"""Of every coefficient that is fitted, in its own unit."""

WIDE = 1.5
"""Width of a prior that thousands of measurements outweigh: a factor of 4.5 either way."""
SOFT = 0.03
"""Log error where the loss turns from square to absolute, for tables of thousands of rows."""

_QUANTISER_BOUNDS = {"launch_s": (5e-8, 3e-5), "memory_efficiency": (0.1, 1.0)}
_RELATIVE_TIME_BOUNDS = (0.5, 2.0)
_RELATIVE_TIME_WIDTH = 0.1
_OWN_WIDTH = {"single_row_bandwidth": 0.3, "few_rows_latency": 0.3, "tile_edge_cost": 3.0}
_OFF = 1e-9  # where the fit starts a coefficient that is 0; the bounds lift it

DEFAULT_FORM = TiledMatmul(
    launch_s=2.5e-6,
    compute_efficiency=0.83,
    memory_efficiency=0.82,
    l2_bytes_per_clock=80,
    staging_bytes_per_clock=300,
    epilogue_bytes_per_clock=18,
    k_step_s=80e-9,
    cold_k_step_s=30e-9,
    wave_overlap=0.5,
    split_s=2e-6,
    split_step_s=1e-8,
    split_traffic=3,
    throttling=0.06,
    l2_share=0.7,
    l2_sharpness=9,
    result_l2_weight=0.7,
    tile_edge_cost=0.01,
    tiles=tuple(
        Tile(*shape)
        for shape in [
            (16, 32, 1), (32, 32, 1), (32, 32, 16), (64, 64, 1), (64, 64, 4), (64, 64, 16), (64, 128, 1), (128, 128, 1),
            (128, 128, 4), (128, 256, 1), (192, 128, 1), (256, 256, 1),
        ]
    ),
)  # fmt: skip
"""Where a fit without any knowledge of the device starts."""


@dataclass(frozen=True)
class Rotation:
    """How a benchmark goes round its operands, which decides what it finds in L2.

    Attributes
    ----------
    max_copies : int
        Copies of the weight that take turns.
    fills_l2 : bool
        Whether it takes only as many as fill L2.
    activations : bool
        Whether the activations take turns too.
    """

    max_copies: int
    fills_l2: bool = False
    activations: bool = False

    def working_set_bytes(self, l2_bytes: float, activation_bytes: ArrayLike, weight_bytes: ArrayLike) -> Array:
        """Operand bytes that pass between two uses of the same weight.

        Examples
        --------
        >>> Rotation(max_copies=5, fills_l2=True).working_set_bytes(50e6, 1e6, [1e6, 20e6, 100e6]) / 1e6
        array([  6.,  61., 101.])
        """
        activation, weight = np.asarray(activation_bytes, float), np.asarray(weight_bytes, float)
        copies = np.clip(np.ceil(l2_bytes / weight), 1, self.max_copies) if self.fills_l2 else self.max_copies
        return copies * (weight + activation) if self.activations else copies * weight + activation


@dataclass(frozen=True)
class MeasuredMatmuls:
    """Measurements of one device with one kernel library and data type.

    Attributes
    ----------
    chip : Chip
    m, n, k, latency_s : ndarray, shape (rows,)
    peak_flop_per_s : float
        Of the data type.
    operand_bytes : float
    rotation : Rotation or None
        How the operands took turns; None where every weight came from memory.
    """

    chip: Chip
    m: Array
    n: Array
    k: Array
    latency_s: Array
    peak_flop_per_s: float
    operand_bytes: float = 2.0
    rotation: Rotation | None = None

    def __post_init__(self) -> None:
        faults = Faults("measurements")
        names = ("m", "n", "k", "latency_s")
        good = [faults.quantities(name, getattr(self, name)) for name in names]
        shapes = {np.shape(getattr(self, name)) for name in names}
        if all(good) and (len(shapes) > 1 or len(next(iter(shapes))) != 1 or not np.size(self.m)):
            faults.add("m, n, k, latency_s", shapes, "must be arrays of one dimension and one length, not empty")
        elif all(good):
            self._check_light(faults)
        faults.raise_if_any()

    def _check_light(self, faults: Faults) -> None:
        """Record times that no device of this datasheet could reach."""
        light_s = self.time_of(DEFAULT_FORM).light_s
        too_fast = np.flatnonzero(np.asarray(self.latency_s) < light_s)
        if too_fast.size:
            row = int(too_fast[0])
            faults.add(
                "latency_s", float(self.latency_s[row]),
                f"must not be below the speed of light, which is {light_s[row]:.3g} s in row {row}",
                f"give seconds, and the data type and device that were measured ({too_fast.size} such rows)",
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.m)

    def take(self, rows: NDArray[Any]) -> MeasuredMatmuls:
        """Keep some of the rows."""
        return replace(self, **{name: getattr(self, name)[rows] for name in ("m", "n", "k", "latency_s")})

    def time_of(self, form: TiledMatmul) -> KernelTime:
        """Predict the rows, in the state of L2 that the measurements had."""
        passed, size = None, self.operand_bytes
        if self.rotation:
            passed = self.rotation.working_set_bytes(self.chip.l2_bytes, self.m * self.k * size, self.n * self.k * size)
        return tiled_matmul(
            self.chip, form, self.m, self.n, self.k, peak_flop_per_s=self.peak_flop_per_s, operand_bytes=size,
            working_set_bytes=passed, activations_rotate=bool(self.rotation and self.rotation.activations),
        )  # fmt: skip

    def log_errors(self, form: TiledMatmul) -> Array:
        """Give log(predicted / measured) of each row."""
        return np.asarray(np.log(self.time_of(form).seconds / self.latency_s))


@dataclass(frozen=True)
class MatmulFit:
    """Coefficients, and what the measurements say of them.

    Attributes
    ----------
    coefficients : TiledMatmul
    posterior : Posterior
        Names are those of the fields of `TiledMatmul`, ``quantiser.`` and ``tile.`` before those inside.
    rows : int
    """

    coefficients: TiledMatmul
    posterior: Posterior
    rows: int


def fit_matmul(
    measured: Sequence[MeasuredMatmuls],
    prior: TiledMatmul,
    *,
    prior_width: float | None = None,
    fixed: Sequence[str] = (),
    relative_times: bool = True,
    soft: float = SOFT,
    evaluations: int = 40,
) -> MatmulFit:
    """Fit one set of coefficients to measurements of one or more devices.

    Parameters
    ----------
    measured : sequence of MeasuredMatmuls
    prior : TiledMatmul
        Where the fit starts and what it keeps where the data are silent; its list of tiles stays. Its quantiser, if it
        has one, is taken to be part of what was measured.
    prior_width : float, optional
        Standard deviation of the prior in the logarithm, 0.3 for a few dozen points; None for a wide one that tables of
        thousands of rows outweigh, in which all candidates are taken to be alike.
    fixed : sequence of str
        Fields that are not fitted.
    relative_times : bool
        Whether the candidates' relative times are fitted too.
    soft : float
        Log error where the loss turns from square to absolute; 0.1 for a few dozen points.
    evaluations : int
        The most steps of the solver.
    """
    coefficients = _coefficients(prior, prior_width, fixed, relative_times=relative_times)

    def log_errors(values: dict[str, float]) -> Array:
        form = _with(prior, values)
        return np.concatenate([rows.log_errors(form) for rows in measured])

    posterior = maximum_a_posteriori(coefficients, log_errors, soft=soft, evaluations=evaluations)
    return MatmulFit(_with(prior, posterior.values), posterior, sum(map(len, measured)))


def _coefficients(
    prior: TiledMatmul, width: float | None, fixed: Sequence[str], *, relative_times: bool
) -> list[Coefficient]:
    """List what is fitted, with its prior."""
    found = []
    for name, bounds in BOUNDS.items():
        if name not in fixed:
            value = getattr(prior, name) or _OFF
            found.append(Coefficient(name, value, value, width or _OWN_WIDTH.get(name, WIDE), *bounds))
    for index, tile in enumerate(prior.tiles if relative_times else ()):
        centre, own = (1.0, _RELATIVE_TIME_WIDTH) if width is None else (tile.relative_time, width / 10)
        found.append(Coefficient(_tile_name(index, tile), tile.relative_time, centre, own, *_RELATIVE_TIME_BOUNDS))
    for name, bounds in _QUANTISER_BOUNDS.items() if prior.quantiser else ():
        value = getattr(prior.quantiser, name)
        found.append(Coefficient(f"quantiser.{name}", value, value, width or WIDE, *bounds))
    return found


def _tile_name(index: int, tile: Tile) -> str:
    return f"tile.{index} ({tile.rows}x{tile.columns}, {tile.splits} splits)"


def _with(prior: TiledMatmul, values: dict[str, float]) -> TiledMatmul:
    """Put fitted values in the place of the prior's."""
    own: dict[str, Any] = {name: values[name] for name in BOUNDS if name in values}
    times = [values.get(_tile_name(index, tile), tile.relative_time) for index, tile in enumerate(prior.tiles)]
    tiles = tuple(replace(tile, relative_time=time) for tile, time in zip(prior.tiles, times, strict=True))
    quantiser = prior.quantiser
    if quantiser:
        quantiser = replace(quantiser, **{name: values[f"quantiser.{name}"] for name in _QUANTISER_BOUNDS})
    return replace(prior, tiles=tiles, quantiser=quantiser, **own)
