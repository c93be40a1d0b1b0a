"""Matrix multiplication ``[m, k] @ [k, n]`` by a kernel that cuts the result into tiles.

A library of kernels offers candidates: tiles of ``bm x bn`` results, with the depth k cut into ``s`` splits. For each

- the tiles run in waves over the multiprocessors: ``f = ceil(m/bm) ceil(n/bn) s / SMs``,
  ``waves = max(1, (1 - overlap) ceil(f) + overlap f)``;
- a tile goes through ``d = k_block ceil(k / (s k_block))`` of the depth. It multiplies full tiles, edges included:
  ``compute = waves 2 bm bn d / (peak / SMs) (1 / efficiency + edge (1/bm + 1/bn))``;
- it stages ``g = (min(bm, m) + min(bn, n)) d`` operand elements and waits for the pipeline of each 128-byte step:
  ``staging = waves g bytes / staging rate + waves' d bytes / 128 step``, where ``waves' = max(1, waves / tiles that one
  multiprocessor holds at once)`` because tiles that run side by side wait side by side;
- all tiles together read ``l2 = (tiles g bytes + result bytes) / L2 rate``;
- it writes its tile: ``epilogue = waves min(bm, m) min(bn, n) 2 / epilogue rate``.

These overlap, the longest counts, and a 4-norm rounds the corners where two are alike:

``on_chip = |compute, staging, l2|_4 + epilogue``, ``tile = |on_chip, memory|_4 + (s > 1) split-K reduction``.

Long multiplications lose clock to the power limit, which memory does not: ``on_chip`` takes
``(1 + flop / peak / 1 ms)^throttling`` times as long. Each candidate has a relative time near 1 on top, and the kernel
that the library picks is about the fastest: ``seconds = launch + min over candidates of tile``.

``memory`` counts the bytes that L2 does not serve. The fraction of an operand that it does serve falls with the bytes
that pass between two uses of it: ``hit(x) = 1 / (1 + (x / (share L2))^sharpness)``. In a model each weight comes from
memory once a step, so what passes is without limit; benchmarks that repeat one multiplication find small weights in L2,
so their own working set has to be given when coefficients are fitted to them.

Waves, staging and the pipeline's latency: Nvidia, "Matrix Multiplication Background User's Guide", 2023, and Osama et
al., "Stream-K", PPoPP 2023, for split-K. That the coefficients price what libraries do was found by fitting them to the
public tables; each coefficient file says how well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.fastest_tile import RESULT_BYTES, Chip, fastest_tile, l2_hit_fraction
from perfsim.cost.tiled_coefficients import Quantiser, TiledMatmul

__all__ = ["KernelTime", "tiled_matmul"]

Array = NDArray[np.floating]

_BLOCK = 16384  # shapes priced together: what their temporaries need fits in a core's cache; single precision halves it
_LONG_S = 1e5  # a day: its fourth power leaves room for slow candidates below the largest number of single precision
_SAVED_IN_L2 = 0.5  # of the time of a byte that the quantiser finds there


class KernelTime(NamedTuple):
    """The time of kernels, and what it is made of.

    Attributes
    ----------
    seconds : ndarray
    compute_s : ndarray
        What the chosen tiles multiply, full tiles and their fill included.
    memory_s : ndarray
        What the memory streams.
    overhead_s : ndarray
        All that is beyond the longer of the two: launch, latency of the pipeline, epilogue, reduction, lost clock.
    light_s : ndarray
        The speed of light, which `seconds` never goes below: the peak, and all bytes but those of a weight in L2.
    """

    seconds: Array
    compute_s: Array
    memory_s: Array
    overhead_s: Array
    light_s: Array


def tiled_matmul(
    chip: Chip,
    coefficients: TiledMatmul,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    peak_flop_per_s: float,
    operand_bytes: float = 2.0,
    weight_bytes: float | None = None,
    weights_in_l2: bool = False,
    quantised: bool = True,
    working_set_bytes: ArrayLike | None = None,
    activations_rotate: bool = False,
) -> KernelTime:
    """Estimate the time of multiplications and what bounds each; the equations are in the module's text.

    Parameters
    ----------
    chip : Chip
        `perfsim.spec.hardware.Accelerator`, or anything with its fields.
    coefficients : TiledMatmul
    m, n, k : array_like
        Sizes above 0; they broadcast against each other.
    peak_flop_per_s : float
        Dense peak of the data type.
    operand_bytes : float
        Bytes of an operand's element.
    weight_bytes : float, optional
        Bytes of the weight's element in memory, where the kernel unpacks it to `operand_bytes` on the chip.
    weights_in_l2 : bool
        Whether the weight is in L2 already; in a model it comes from memory.
    quantised : bool
        Whether the activations are quantised first, where the coefficients have a `Quantiser`; static scales and
        activations that a fused kernel has quantised need none.
    working_set_bytes : array_like, optional
        Operand bytes that pass between two uses of the weight, instead of `weights_in_l2`: what a benchmark does, see
        `perfsim.cost.calibration.matmul.Rotation`. The speed of light then counts no byte.
    activations_rotate : bool
        Whether the activations are as old as the weight; else the kernel before has just written them.

    Returns
    -------
    KernelTime
        Arrays of the shape that the sizes broadcast to.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from perfsim.cost.tiled_coefficients import Tile
    >>> h100 = SimpleNamespace(sm_count=132, clock_hz=1.83e9, l2_bytes=50 * 2**20, memory_bytes_per_s=3.35e12)
    >>> form = TiledMatmul(
    ...     launch_s=2.8e-6, compute_efficiency=0.86, memory_efficiency=0.84, l2_bytes_per_clock=144,
    ...     staging_bytes_per_clock=463, epilogue_bytes_per_clock=19.4, k_step_s=77e-9, cold_k_step_s=30e-9,
    ...     wave_overlap=0.78, split_s=2.4e-6, split_step_s=1e-8, split_traffic=3.8, throttling=0.058, l2_share=0.7,
    ...     l2_sharpness=9.4, result_l2_weight=1.4, tiles=(Tile(64, 64), Tile(128, 256)))
    >>> time = tiled_matmul(h100, form, [1, 8192], 8192, 8192, peak_flop_per_s=989e12)
    >>> (time.seconds * 1e6).round()
    array([  51., 1396.])
    >>> time.compute_s > time.memory_s
    array([False,  True])
    """
    passed = (0.0 if weights_in_l2 else np.inf) if working_set_bytes is None else working_set_bytes
    shapes = _Shapes(*np.broadcast_arrays(*(np.asarray(size, float) for size in (m, n, k, passed))))
    flat = [shape.reshape(-1) for shape in shapes]
    stored = operand_bytes if weight_bytes is None else weight_bytes
    state = _State(operand_bytes, stored, weights_in_l2, working_set_bytes is not None, activations_rotate)
    blocks = [
        _block(chip, coefficients, _Shapes(*(size[i : i + _BLOCK] for size in flat)), peak_flop_per_s, state)
        for i in range(0, max(1, flat[0].size), _BLOCK)
    ]
    time = KernelTime(*(np.concatenate(part).reshape(shapes.m.shape) for part in zip(*blocks, strict=True)))
    if not (quantised and coefficients.quantiser):
        return time
    elements = shapes.m * shapes.k
    hit = l2_hit_fraction(chip, coefficients, shapes.passed if activations_rotate else 2 * elements)  # it reads bf16
    return _after_quantiser(time, chip, coefficients.quantiser, elements, hit)


class _Shapes(NamedTuple):
    """Sizes, and the operand bytes that pass between two uses of the weight."""

    m: Array
    n: Array
    k: Array
    passed: Array


class _State(NamedTuple):
    """Bytes of an element of the operands, and which of these may be found in L2."""

    operand_bytes: float
    weight_bytes: float
    weights_in_l2: bool
    benchmark: bool
    activations_rotate: bool


def _block(chip: Chip, form: TiledMatmul, exact: _Shapes, peak_flop_per_s: float, state: _State) -> KernelTime:
    """Price some shapes, in single precision wherever it is enough and a fourth power of their time fits in it."""
    light_s = _light(chip, exact, peak_flop_per_s, state)
    single = form.single_precision and light_s.max(initial=0.0) < _LONG_S
    precision: type[np.floating] = np.float32 if single else np.float64
    shapes = _Shapes(*(size.astype(precision) for size in exact))
    memory_s, missed = _memory(chip, form, shapes, state)
    tile_s, compute_s = fastest_tile(
        chip, form, *shapes[:3], memory_s=memory_s, missed=missed, peak_flop_per_s=peak_flop_per_s,
        operand_bytes=state.operand_bytes,
    )  # fmt: skip
    seconds = np.maximum(form.launch_s + tile_s.astype(float), light_s)
    overhead_s = np.maximum(seconds - np.maximum(compute_s, memory_s), 0.0)
    return KernelTime(seconds, compute_s.astype(float), memory_s.astype(float), overhead_s, light_s)


def _light(chip: Chip, shapes: _Shapes, peak_flop_per_s: float, state: _State) -> Array:
    """Speed of light; a benchmark that goes round its operands may find all of them in L2."""
    m, n, k, _ = shapes
    compute_s = 2 * m * n * k / peak_flop_per_s
    if state.benchmark:
        return compute_s
    moved = k * m * state.operand_bytes + RESULT_BYTES * m * n
    if not state.weights_in_l2:
        moved = moved + k * n * state.weight_bytes
    return np.maximum(compute_s, moved / chip.memory_bytes_per_s)


def _memory(chip: Chip, form: TiledMatmul, shapes: _Shapes, state: _State) -> tuple[Array, Array]:
    """Seconds of the memory, and the fraction of the weight that comes from there."""
    m, n, k, passed = shapes
    activation, weight, result = m * k * state.operand_bytes, n * k * state.weight_bytes, RESULT_BYTES * m * n
    passed = passed + form.result_l2_weight * result
    missed = 1 - l2_hit_fraction(chip, form, passed)
    fresh = activation + weight + form.result_l2_weight * result
    missed_activation = missed if state.activations_rotate else 1 - l2_hit_fraction(chip, form, fresh)
    missed_result = 1 - l2_hit_fraction(chip, form, passed + result)
    moved = activation * missed_activation + weight * missed + result * missed_result
    moved[m == 1] /= form.single_row_bandwidth
    return moved / (form.memory_efficiency * chip.memory_bytes_per_s), missed


def _after_quantiser(time: KernelTime, chip: Chip, quantiser: Quantiser, elements: Array, l2_hit: Array) -> KernelTime:
    """Put the quantiser of so many activations in front; its traffic and the multiplications do not overlap."""
    rate = quantiser.memory_efficiency * chip.memory_bytes_per_s
    traffic_s = elements * quantiser.bytes_per_element / rate * (1 - _SAVED_IN_L2 * l2_hit)
    seconds, memory_s = time.seconds + quantiser.launch_s + traffic_s, time.memory_s + traffic_s
    overhead_s = np.maximum(seconds - np.maximum(time.compute_s, memory_s), 0.0)
    return time._replace(seconds=seconds, memory_s=memory_s, overhead_s=overhead_s)
