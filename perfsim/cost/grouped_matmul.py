"""The multiplications of a mixture of experts: every expert multiplies the tokens that its router sends.

A layer is two grouped multiplications, ``[c_e, H] @ [H, 2 I]`` (``[H, I]`` without a gate) and ``[c_e, I] @ [I, H]``
for all experts e at once, and what is round them: routing, sorting, the activation, and summing up. Each grouped
multiplication is `perfsim.cost.tiled_matmul` with the tiles of all experts in common waves:
``tiles = ceil(n / bn) sum_e ceil(c_e / bm)``, the mean rows of a tile instead of its height, the weights of the experts
that have tokens instead of one weight, and no split-K. Then

``seconds = launch + expert E + first + second + traffic``,
``traffic = 2 R (2 H + 3 I) (from_memory (1 - hit) + from_l2 hit) / (efficiency bandwidth)`` for R pairs of token and
expert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.fastest_tile import RESULT_BYTES, Chip, fastest_tile, l2_hit_fraction
from perfsim.cost.tiled_coefficients import TiledMatmul, coefficients_of
from perfsim.cost.tiled_matmul import KernelTime
from perfsim.errors import Faults
from perfsim.spec.tables import freeze_fields

__all__ = ["GroupedMatmul", "LayerLoads", "grouped_matmul", "grouped_matmul_of_loads"]

Array = NDArray[np.floating]

_BLOCK_COUNTS = 1_000_000  # tokens of experts that are counted together


@dataclass(frozen=True)
class GroupedMatmul:
    """Coefficients of the experts of one kernel library on one architecture, for one data type.

    Attributes
    ----------
    matmul : TiledMatmul
        Of the multiplications; its `launch_s` is that of all kernels of the layer, and it has no splits.
    expert_s : float
        Time for each expert, whether it has tokens or not: what sorting and scheduling cost.
    traffic_from_memory, traffic_from_l2 : float
        How often the rows round the multiplications pass, in units of the streaming time of their bytes.
    """

    matmul: TiledMatmul
    expert_s: float
    traffic_from_memory: float
    traffic_from_l2: float

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("grouped_matmul")
        if faults.instance("matmul", self.matmul, TiledMatmul) and any(tile.splits > 1 for tile in self.matmul.tiles):
            faults.add("matmul.tiles", self.matmul.tiles, "must have one split each")
        for name in ("expert_s", "traffic_from_memory", "traffic_from_l2"):
            faults.number(name, getattr(self, name))
        faults.raise_if_any()

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> GroupedMatmul:
        """Read a table of a coefficient file.

        Raises
        ------
        InputError
            A key is missing or unknown, or a value is out of range.
        """
        return coefficients_of(cls, table, "grouped_matmul")

    def to_table(self) -> dict[str, Any]:
        """Give the table that `from_table` reads."""
        return {**asdict(self), "matmul": self.matmul.to_table()}


def grouped_matmul(
    chip: Chip,
    coefficients: GroupedMatmul,
    tokens_of_expert: ArrayLike,
    hidden_size: ArrayLike,
    expert_width: ArrayLike,
    *,
    peak_flop_per_s: float,
    num_experts: ArrayLike | None = None,
    operand_bytes: float = 2.0,
    gated: bool = True,
    weights_in_l2: bool = False,
) -> KernelTime:
    """Estimate the time of the experts of one layer on one device; the equations are in the module's text.

    Parameters
    ----------
    chip : Chip
        `perfsim.spec.hardware.Accelerator`, or anything with its fields.
    coefficients : GroupedMatmul
    tokens_of_expert : array_like, shape (..., experts)
        Tokens that each expert of this device multiplies. Experts without tokens cost no weight, so rows may be filled
        up with zeros.
    hidden_size, expert_width : array_like, shape (...)
        H, and I as this device has it: the experts' intermediate size over the tensor-parallel degree.
    peak_flop_per_s : float
        Dense peak of the data type.
    num_experts : array_like, shape (...), optional
        Experts of this device where rows are filled up.
    operand_bytes : float
    gated : bool
        Whether the first multiplication gives a gate too.
    weights_in_l2 : bool
        Whether the experts were used last in this same layer, as a benchmark does: those that fit are in L2 then.

    Returns
    -------
    KernelTime
        Arrays of shape (...).

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from perfsim.cost.tiled_coefficients import Tile
    >>> h100 = SimpleNamespace(sm_count=132, clock_hz=1.83e9, l2_bytes=50 * 2**20, memory_bytes_per_s=3.35e12)
    >>> form = TiledMatmul(
    ...     launch_s=17e-6, compute_efficiency=0.9, memory_efficiency=0.9, l2_bytes_per_clock=37,
    ...     staging_bytes_per_clock=260, epilogue_bytes_per_clock=100, k_step_s=60e-9, cold_k_step_s=0,
    ...     wave_overlap=0.1, split_s=1e-6, split_step_s=0, split_traffic=1, throttling=0.01, l2_share=0.9,
    ...     l2_sharpness=3, result_l2_weight=1, tile_s=3e-6, tiles=(Tile(16, 128), Tile(64, 128), Tile(256, 128)))
    >>> layer = GroupedMatmul(form, expert_s=3e-8, traffic_from_memory=2.0, traffic_from_l2=2.0)
    >>> loads = [[1, 1, 0, 0, 0, 0, 0, 0], [1024] * 8]
    >>> time = grouped_matmul(h100, layer, loads, 4096, 14336, peak_flop_per_s=989e12)
    >>> (time.seconds * 1e6).round(-1)
    array([ 250., 5120.])
    """
    counts = np.asarray(tokens_of_expert, float)
    shape = counts.shape[:-1]
    experts = counts.shape[-1] if num_experts is None else num_experts
    counts = counts.reshape(-1, counts.shape[-1])
    sizes = [
        np.broadcast_to(np.asarray(size, float), shape).reshape(-1) for size in (hidden_size, expert_width, experts)
    ]
    step = max(1, _BLOCK_COUNTS // counts.shape[1])
    blocks = [
        grouped_matmul_of_loads(
            chip, coefficients, _loads(counts[i : i + step], sizes[2][i : i + step]), sizes[0][i : i + step],
            sizes[1][i : i + step], peak_flop_per_s=peak_flop_per_s, operand_bytes=operand_bytes, gated=gated,
            weights_in_l2=weights_in_l2,
        )
        for i in range(0, max(1, len(counts)), step)
    ]  # fmt: skip
    return KernelTime(*(np.concatenate(part).reshape(shape) for part in zip(*blocks, strict=True)))


class LayerLoads(NamedTuple):
    """What layers of experts have to do, counted or expected; arrays of shape (layers,).

    Attributes
    ----------
    pairs : ndarray
        Of a token and an expert.
    active : ndarray
        Experts that have any.
    experts : ndarray
        Experts of the device.
    row_tiles : callable
        Tiles of so many rows, at least one a layer, that cover the pairs of all experts.
    """

    pairs: Array
    active: Array
    experts: Array
    row_tiles: Callable[[int], Array]


def grouped_matmul_of_loads(
    chip: Chip, layer: GroupedMatmul, loads: LayerLoads, hidden: Array, width: Array, *, peak_flop_per_s: float,
    operand_bytes: float = 2.0, weight_bytes: float | None = None, gated: bool = True, weights_in_l2: bool = False,
) -> KernelTime:  # fmt: skip
    """Estimate layers whose loads are known in sum only; the other arguments are those of `grouped_matmul`.

    `weight_bytes` are those of a weight's element in memory, where the kernel unpacks it to `operand_bytes`.
    """
    form, (pairs, active, experts, row_tiles) = layer.matmul, loads
    both = ((width * (2 if gated else 1), hidden), (hidden, width))
    stored = operand_bytes if weight_bytes is None else weight_bytes
    weights = active * stored * sum(n * k for n, k in both)
    missed = 1 - l2_hit_fraction(chip, form, weights if weights_in_l2 else np.full(len(pairs), np.inf))
    bandwidth = form.memory_efficiency * chip.memory_bytes_per_s
    tiles_s, compute_s, memory_s = (np.zeros(len(pairs)) for _ in range(3))
    for n, k in both:
        rows_in, rows_out = pairs * k * operand_bytes, RESULT_BYTES * pairs * n
        missed_rows = 1 - l2_hit_fraction(chip, form, rows_in + form.result_l2_weight * rows_out)
        streamed_s = (active * n * k * stored * missed + (rows_in + rows_out) * missed_rows) / bandwidth
        best_s, multiplied_s = fastest_tile(
            chip, form, pairs, n, k, memory_s=streamed_s, missed=missed, peak_flop_per_s=peak_flop_per_s,
            operand_bytes=operand_bytes, row_tiles=row_tiles,
        )  # fmt: skip
        tiles_s += best_s
        compute_s += multiplied_s
        memory_s += streamed_s
    around = RESULT_BYTES * pairs * (2 * hidden + 3 * width)
    hit = l2_hit_fraction(chip, form, around)
    memory_s += around * layer.traffic_from_memory * (1 - hit) / bandwidth
    around_s = around * (layer.traffic_from_memory * (1 - hit) + layer.traffic_from_l2 * hit) / bandwidth
    flop_s = 2 * pairs * sum(n * k for n, k in both) / peak_flop_per_s
    light_s = np.maximum(flop_s, 0.0 if weights_in_l2 else weights / chip.memory_bytes_per_s)
    seconds = np.maximum(form.launch_s + layer.expert_s * experts + tiles_s + around_s, light_s)
    overhead_s = np.maximum(seconds - np.maximum(compute_s, memory_s), 0.0)
    return KernelTime(seconds, compute_s, memory_s, overhead_s, light_s)


def _loads(counts: Array, experts: Array) -> LayerLoads:
    """Sum up the tokens of experts, shape (layers, experts)."""
    counted: dict[int, Array] = {}

    def row_tiles(rows: int) -> Array:
        if rows not in counted:
            counted[rows] = np.maximum(np.ceil(counts / rows).sum(axis=1), 1.0)
        return counted[rows]

    return LayerLoads(counts.sum(axis=1), (counts > 0).sum(axis=1), experts, row_tiles)
