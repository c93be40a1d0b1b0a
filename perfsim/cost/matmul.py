"""Matrix multiplication: by the tiles of a kernel library where it has coefficients, else a fraction of the peak.

Weights that are stored in fewer bits than they are multiplied in (``weight_dtype``) pass memory as they are stored and
the chip as they are multiplied: the kernel unpacks them in front of the matrix units. No such kernel is measured here,
so these estimates are extrapolated.

A learned layer (`perfsim.cost.residual_trees`) may be put over the estimate by its name; the simulation has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.arguments import check_dtype, check_quantities, check_weight_dtype
from perfsim.cost.estimate import EXTRAPOLATED, Cost, error_range
from perfsim.cost.residual_trees import RESIDUALS, corrected, shape_features, shipped_trees, tree_families
from perfsim.cost.roofline import kernel_cost, light_seconds, matrix_peak_flop_per_s
from perfsim.cost.tiled_coefficients import TiledMatmul, nearest_table, tiled_matmul_for
from perfsim.cost.tiled_matmul import KernelTime, tiled_matmul
from perfsim.errors import Faults
from perfsim.ops.operators import ELEMENT_BYTES, MatMul
from perfsim.spec.hardware import Cluster
from perfsim.spec.tables import FrozenDict

__all__ = ["matmul_cost", "matmul_costs", "matmul_seconds"]


def matmul_cost(cluster: Cluster, work: MatMul, *, weights_in_l2: bool = False, residual: str | None = None) -> Cost:
    """Price ``[m, k] @ [k, n]``; every operand passes memory once, the weight not when it lies in L2."""
    peak = matrix_peak_flop_per_s(cluster, work.dtype)
    hbm_bytes = work.read_bytes + work.written_bytes - (work.weight_bytes if weights_in_l2 else 0)
    known = _coefficients(cluster.coefficients, work.dtype)
    if known is None:
        return kernel_cost(
            cluster, flop=work.flop, flop_per_s=peak, hbm_bytes=hbm_bytes, efficiency=cluster.efficiency.matmul
        )
    coefficients, source, range_factors = known
    stored = work.weight_dtype or work.dtype
    time = tiled_matmul(
        cluster.accelerator, coefficients, work.m, work.n, work.k, peak_flop_per_s=peak,
        operand_bytes=ELEMENT_BYTES[work.dtype], weight_bytes=ELEMENT_BYTES[stored], weights_in_l2=weights_in_l2,
        quantised=not work.static_scales,
    )  # fmt: skip
    if residual is not None:
        time = _with_trees(cluster, work, time, peak)
    return Cost.of_parts(
        time.seconds,
        compute_s=time.compute_s,
        memory_s=time.memory_s,
        roofline_s=light_seconds(cluster, flop=work.flop, flop_per_s=peak, hbm_bytes=hbm_bytes),
        source=source if stored == work.dtype else EXTRAPOLATED,
        range_factors=range_factors,
    )


@lru_cache(maxsize=64)
def _coefficients(tables: FrozenDict, dtype: str) -> tuple[TiledMatmul, str, tuple[float, float] | None] | None:
    """Coefficients that price a data type, their provenance and their range."""
    found, nearest = tiled_matmul_for(tables, dtype), nearest_table(tables, "matmul", dtype)
    return None if found is None or nearest is None else (*found, error_range(tables[nearest[0]]))


def matmul_costs(cluster: Cluster, works: Sequence[MatMul]) -> list[Cost]:
    """Price many multiplications, each as `matmul_cost` does, to the bit.

    Those in the same data types are laid end to end, so that the steps of the form are taken once: for the few hundred
    sizes of a sweep these steps, and not the sizes, take the time.

    Examples
    --------
    >>> import perfsim
    >>> cluster, works = perfsim.load_cluster("dgx-h100"), [MatMul(64, 4096, size, "bf16") for size in (1024, 4096)]
    >>> costs = matmul_costs(cluster, works)
    >>> [cost.seconds for cost in costs] == [matmul_cost(cluster, work).seconds for work in works]
    True
    """
    alike: dict[tuple[str, str | None, bool], list[int]] = {}
    for index, work in enumerate(works):
        alike.setdefault((work.dtype, work.weight_dtype, work.static_scales), []).append(index)
    costs: dict[int, Cost] = {}
    for about, indices in alike.items():
        sizes = [np.broadcast_arrays(works[index].m, works[index].n, works[index].k) for index in indices]
        m, n, k = (np.concatenate([part.reshape(-1) for part in parts]) for parts in zip(*sizes, strict=True))
        whole, end = matmul_cost(cluster, MatMul(m, n, k, *about)), 0
        for index, (first, *_) in zip(indices, sizes, strict=True):
            start, end = end, end + first.size
            costs[index] = whole.section(slice(start, end), first.shape)
    return [costs[index] for index in range(len(works))]


def _with_trees(cluster: Cluster, work: MatMul, time: KernelTime, peak: float) -> KernelTime:
    """Correct by the shipped trees of the cluster's kernel library."""
    m, n, k = (np.broadcast_to(size, time.seconds.shape).reshape(-1) for size in (work.m, work.n, work.k))
    chip = cluster.accelerator
    features = shape_features(chip.sm_count, m, n, k, peak / chip.memory_bytes_per_s)
    return corrected(time, shipped_trees(_family(cluster)), features)


def _family(cluster: Cluster) -> str:
    return f"{cluster.accelerator.architecture}-{cluster.kernels}"


def _check_residual(cluster: Cluster, dtype: str, weight_dtype: str | None, residual: str, faults: Faults) -> None:
    """Record that there is no such learned layer, or none for these kernels."""
    if not faults.choice("residual", residual, RESIDUALS):
        return
    if dtype not in {"bf16", "fp16"} or weight_dtype is not None:
        faults.add("residual", residual, f"must be left out for {weight_dtype or dtype}: trees know bf16 only")
    elif _family(cluster) not in tree_families():
        known = ", ".join(tree_families())
        faults.add("residual", residual, f"must be left out for {_family(cluster)}: trees are shipped for {known}")


def matmul_seconds(
    cluster: Cluster, *, m: ArrayLike, n: ArrayLike, k: ArrayLike, dtype: str = "bf16",
    weight_dtype: str | None = None, weights_in_l2: bool = False, residual: str | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """Estimate the time of matrix multiplications ``[m, k] @ [k, n]``.

    Parameters
    ----------
    cluster : Cluster
    m, n, k : array_like
        Sizes; they broadcast against each other.
    dtype : str
        Data type of the multiplication: one that the device has, or ``fp8_block`` (a scale for each block of fp8).
        Results leave in two bytes, and activations that have to be quantised first pay for it.
    weight_dtype : str, optional
        How the weight is stored where the kernel unpacks it: ``int4``, ``fp4``, ``fp8``, ``int8``.
    weights_in_l2 : bool
        Whether the right-hand side is in L2 already; in a model it comes from memory.
    residual : str, optional
        A learned layer over the formula, which is off where this is left out: ``trees``, for bf16 and the kernel
        libraries of `perfsim.cost.residual_trees.tree_families`. It takes half a point to a point off the error.

    Returns
    -------
    ndarray
        Seconds.

    Raises
    ------
    InputError
        A size is not a finite number above 0, sizes do not broadcast, the device does not multiply in `dtype`, no
        kernel stores weights in `weight_dtype`, or there is no such learned layer for these kernels.

    Examples
    --------
    >>> import perfsim
    >>> cluster = perfsim.load_cluster("dgx-h100")
    >>> seconds = perfsim.cost.matmul_seconds(cluster, m=4096, n=8192, k=[1024, 8192])
    >>> bool(seconds[1] > 4 * seconds[0])
    True

    Four bits a weight, multiplied in bf16, read a thin product's matrix in less than half of the time:

    >>> whole, packed = (
    ...     perfsim.cost.matmul_seconds(cluster, m=1, n=8192, k=8192, weight_dtype=stored) for stored in (None, "int4"))
    >>> bool(packed < 0.5 * whole)
    True
    """
    faults = Faults("matmul_seconds")
    check_quantities(faults, m=m, n=n, k=k)
    check_dtype(cluster, dtype, faults, blocks=True)
    check_weight_dtype(weight_dtype, faults)
    if residual is not None:
        _check_residual(cluster, dtype, weight_dtype, residual, faults)
    faults.raise_if_any()
    work = MatMul(np.asarray(m, float), np.asarray(n, float), np.asarray(k, float), dtype, weight_dtype)
    return np.asarray(matmul_cost(cluster, work, weights_in_l2=weights_in_l2, residual=residual).seconds)
