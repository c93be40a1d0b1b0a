"""Coefficients of `perfsim.cost.grouped_matmul` from measured layers; the estimate is that of `posterior`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.calibration.matmul import SOFT, WIDE
from perfsim.cost.calibration.posterior import Coefficient, Posterior, maximum_a_posteriori
from perfsim.cost.fastest_tile import Chip
from perfsim.cost.grouped_matmul import GroupedMatmul, LayerLoads, grouped_matmul, grouped_matmul_of_loads
from perfsim.cost.tiled_coefficients import Tile, TiledMatmul
from perfsim.errors import Faults

__all__ = [
    "DEFAULT_LAYER", "ExpectedLayers", "GroupedFit", "MeasuredLayers", "choose_grouped_tiles", "fit_grouped_matmul",
]  # fmt: skip

Array = NDArray[np.float64]

BOUNDS = {
    "launch_s": (1e-6, 2e-4),
    "compute_efficiency": (0.2, 1.0),
    "memory_efficiency": (0.4, 1.0),
    "l2_bytes_per_clock": (5, 400),
    "staging_bytes_per_clock": (10, 600),
    "epilogue_bytes_per_clock": (1, 4000),
    "k_step_s": (2e-9, 6e-7),
    "cold_k_step_s": (1e-10, 6e-7),
    "wave_overlap": (0.01, 1),
    "throttling": (0.001, 0.4),
    "l2_share": (0.1, 1.5),
    "l2_sharpness": (2, 60),
    "tile_edge_cost": (0.0005, 60),
    "tile_s": (1e-9, 2e-5),
}
"""Of the multiplications' coefficients that are fitted, in their own units."""

LAYER_BOUNDS = {"expert_s": (1e-10, 1e-6), "traffic_from_memory": (0.05, 10), "traffic_from_l2": (0.05, 10)}
"""Of the layer's own."""

_OFF = 1e-9  # where the fit starts a coefficient that is 0; the bounds lift it
_TILE_SHAPES = [(rows, columns) for rows in (8, 16, 32, 64, 128, 192, 256) for columns in (32, 64, 128, 256)]
_CLIP = 0.7  # a log error beyond a factor of two counts as that
_GAIN = 1e-5  # of the mean log error: less is no improvement

DEFAULT_LAYER = GroupedMatmul(
    TiledMatmul(
        launch_s=17e-6, compute_efficiency=0.85, memory_efficiency=0.88, l2_bytes_per_clock=50,
        staging_bytes_per_clock=300, epilogue_bytes_per_clock=500, k_step_s=10e-9, cold_k_step_s=100e-9,
        wave_overlap=0.2, split_s=1e-6, split_step_s=1e-8, split_traffic=1, throttling=0.01, l2_share=0.5,
        l2_sharpness=3, result_l2_weight=1.0, tile_edge_cost=0.01, tile_s=2e-6,
        tiles=(Tile(16, 128), Tile(32, 128), Tile(64, 128), Tile(128, 256), Tile(256, 256)),
    ),
    expert_s=3e-8, traffic_from_memory=1.5, traffic_from_l2=3.0,
)  # fmt: skip
"""Where a fit without any knowledge of the device starts."""


@dataclass(frozen=True)
class MeasuredLayers:
    """Measurements of layers of experts on one device, each of which used the same experts over and over.

    Attributes
    ----------
    chip : Chip
    tokens_of_expert : ndarray, shape (rows, experts)
        Filled up with zeros.
    hidden_size, expert_width, num_experts, latency_s : ndarray, shape (rows,)
    peak_flop_per_s : float
        Of the data type.
    operand_bytes : float
    weights_in_l2 : bool
        Whether the experts that fit were in L2, as benchmarks without a flush have them.
    """

    chip: Chip
    tokens_of_expert: Array
    hidden_size: Array
    expert_width: Array
    num_experts: Array
    latency_s: Array
    peak_flop_per_s: float
    operand_bytes: float = 2.0
    weights_in_l2: bool = True

    def __post_init__(self) -> None:
        faults = Faults("measurements")
        names = ("hidden_size", "expert_width", "num_experts", "latency_s")
        good = [faults.quantities(name, getattr(self, name)) for name in names]
        good.append(faults.quantities("tokens_of_expert", self.tokens_of_expert, zero=True))
        shapes = {np.shape(getattr(self, name)) for name in names} | {np.shape(self.tokens_of_expert)[:-1]}
        if all(good) and (len(shapes) > 1 or np.ndim(self.latency_s) != 1 or not np.size(self.latency_s)):
            faults.add("measurements", shapes, "must be arrays with the same number of rows, not empty")
        faults.raise_if_any()

    def __len__(self) -> int:
        return len(self.latency_s)

    def take(self, rows: NDArray[Any]) -> MeasuredLayers:
        """Keep some of the rows."""
        per_row = ("tokens_of_expert", "hidden_size", "expert_width", "num_experts", "latency_s")
        return replace(self, **{name: getattr(self, name)[rows] for name in per_row})

    def log_errors(self, layer: GroupedMatmul) -> Array:
        """Give log(predicted / measured) of each row."""
        time = grouped_matmul(
            self.chip, layer, self.tokens_of_expert, self.hidden_size, self.expert_width,
            peak_flop_per_s=self.peak_flop_per_s, num_experts=self.num_experts, operand_bytes=self.operand_bytes,
            weights_in_l2=self.weights_in_l2,
        )  # fmt: skip
        return np.asarray(np.log(time.seconds / self.latency_s))


@dataclass(frozen=True)
class ExpectedLayers:
    """Measurements of layers whose loads are not known expert by expert, but expected (`expected_loads`).

    Attributes
    ----------
    chip : Chip
    loads : LayerLoads
    hidden_size, expert_width, latency_s : ndarray, shape (rows,)
    peak_flop_per_s, operand_bytes : float
        Of the data type.
    weights_in_l2 : bool
    """

    chip: Chip
    loads: LayerLoads
    hidden_size: Array
    expert_width: Array
    latency_s: Array
    peak_flop_per_s: float
    operand_bytes: float
    weights_in_l2: bool

    def __len__(self) -> int:
        return len(self.latency_s)

    def log_errors(self, layer: GroupedMatmul) -> Array:
        """Give log(predicted / measured) of each row."""
        time = grouped_matmul_of_loads(
            self.chip, layer, self.loads, self.hidden_size, self.expert_width, peak_flop_per_s=self.peak_flop_per_s,
            operand_bytes=self.operand_bytes, weights_in_l2=self.weights_in_l2,
        )  # fmt: skip
        return np.asarray(np.log(time.seconds / self.latency_s))


@dataclass(frozen=True)
class GroupedFit:
    """Coefficients, and what the measurements say of them.

    Attributes
    ----------
    coefficients : GroupedMatmul
    posterior : Posterior
        By the names of the fields of `GroupedMatmul` and of its `TiledMatmul`.
    rows : int
    """

    coefficients: GroupedMatmul
    posterior: Posterior
    rows: int


def fit_grouped_matmul(
    measured: Sequence[MeasuredLayers | ExpectedLayers],
    prior: GroupedMatmul,
    *,
    prior_width: float = WIDE,
    soft: float = SOFT,
    evaluations: int = 40,
) -> GroupedFit:
    """Fit one set of coefficients to measurements of one or more devices.

    Parameters
    ----------
    measured : sequence of MeasuredLayers or ExpectedLayers
    prior : GroupedMatmul
        Where the fit starts and what it keeps where the data are silent; its list of tiles stays.
    prior_width : float
        Standard deviation of the prior in the logarithm, 0.3 for a few dozen points.
    soft : float
        Log error where the loss turns from square to absolute; 0.1 for a few dozen points.
    evaluations : int
        The most steps of the solver.
    """
    starts = {name: getattr(prior.matmul, name) or _OFF for name in BOUNDS}
    starts |= {name: getattr(prior, name) for name in LAYER_BOUNDS}
    bounds = {**BOUNDS, **LAYER_BOUNDS}
    coefficients = [Coefficient(name, start, start, prior_width, *bounds[name]) for name, start in starts.items()]

    def log_errors(values: dict[str, float]) -> Array:
        layer = _with(prior, values)
        return np.concatenate([rows.log_errors(layer) for rows in measured])

    posterior = maximum_a_posteriori(coefficients, log_errors, soft=soft, evaluations=evaluations)
    return GroupedFit(_with(prior, posterior.values), posterior, sum(map(len, measured)))


def _with(prior: GroupedMatmul, values: dict[str, float]) -> GroupedMatmul:
    """Put fitted values in the place of the prior's."""
    of_matmul: dict[str, Any] = {name: values[name] for name in BOUNDS}
    of_layer: dict[str, Any] = {name: values[name] for name in LAYER_BOUNDS}
    return replace(prior, matmul=replace(prior.matmul, **of_matmul), **of_layer)


def choose_grouped_tiles(
    measured: Sequence[MeasuredLayers], layer: GroupedMatmul, *, cost: float = 5e-4
) -> GroupedMatmul:
    """Add, drop or exchange one candidate at a time while that lowers the mean log error by more than `cost`."""

    def score(tiles: tuple[Tile, ...]) -> float:
        trial = replace(layer, matmul=replace(layer.matmul, tiles=tiles))
        error = np.concatenate([rows.log_errors(trial) for rows in measured])
        return float(np.minimum(np.abs(error), _CLIP).mean()) + cost * len(tiles)

    tiles = layer.matmul.tiles
    best = score(tiles)
    while True:
        new = [Tile(*shape) for shape in _TILE_SHAPES if Tile(*shape) not in tiles]
        without = [tiles[:index] + tiles[index + 1 :] for index in range(len(tiles)) if len(tiles) > 1]
        lists = [*without, *((*kept, tile) for kept in [tiles, *without] for tile in new)]
        least, found = min(((score(kept), kept) for kept in lists), key=lambda move: move[0])
        if least > best - _GAIN:
            ordered = sorted(tiles, key=lambda tile: (tile.rows, tile.columns))
            return replace(layer, matmul=replace(layer.matmul, tiles=tuple(ordered)))
        best, tiles = least, found
