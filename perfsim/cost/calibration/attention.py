"""Fit attention coefficients to measurements: shipped ones to public tables, a user's to a few dozen points.

Measurements are a DataFrame with one row each:

==================  ====================================================================================
batch               sequences
query_tokens        new tokens of a sequence (prefill only)
context_tokens      all keys, the new tokens included
num_heads           query heads on the device
num_kv_heads        KV heads on the device
head_dim            head dimension
latency_s           measured seconds of the operator inside a CUDA graph
window              keys that a query sees at most; optional, 0 is none
causal              whether the mask is causal; optional, true where it is left out
==================  ====================================================================================

The structure of a kernel (tiles, split rule, which sizes it serves) is taken from the coefficients that the fit starts
from; `perfsim.cost.calibration.attention_starts` has it for the kernels of the public tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.attention_coefficients import PrefillCoefficients
from perfsim.cost.attention_kernels import AttentionTime
from perfsim.cost.calibration.attention_fit import (
    AttentionCoefficients,
    AttentionFit,
    Measured,
    fit_kernel,
    limits_of,
)
from perfsim.cost.decode_attention import choose_decode_kernel, decode_attention_time
from perfsim.cost.prefill_attention import (
    choose_prefill_kernel,
    count_prefill_work,
    prefill_attention_time,
    time_of_prefill_work,
)
from perfsim.errors import Faults, InputError
from perfsim.spec.hardware import Accelerator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["attention_times", "calibrate_attention", "fit_attention", "serving_kernels"]

USER_PRIOR_WIDTH = 0.4
"""A user's kernels are near the shipped ones: a factor of 1.5 would not surprise."""
_SIZES = ("batch", "context_tokens", "num_heads", "num_kv_heads", "head_dim")
_MANY_ROWS = 300
"""From so many rows on, the coefficients of each head dimension move by themselves."""


def fit_attention(
    accelerators: Mapping[str, Accelerator], measurements: pd.DataFrame, start: AttentionCoefficients, *,
    prior_width: float = 1.5, together: bool = False, kv_in_l2: bool = True,
) -> AttentionFit:  # fmt: skip
    """Fit one kernel's coefficients to measurements of one or more accelerators.

    Parameters
    ----------
    accelerators : mapping of str to Accelerator
        Datasheets, by what the column ``system`` says.
    measurements : DataFrame
        Rows that this kernel served, with the module's columns and ``system``, ``dtype`` and ``kv_dtype``.
    start : PrefillCoefficients or DecodeCoefficients
        The structure, and the centre of the prior.
    prior_width : float
        Width of the prior as a natural logarithm.
    together : bool
        Whether the values of all head dimensions move by one factor.
    kv_in_l2 : bool
        The state in which was measured: repeated runs, as in the public tables, leave the cache in L2.

    Returns
    -------
    AttentionFit

    Raises
    ------
    InputError
        A column is missing, there is no row, or a size or a time is impossible.
    """
    _check(measurements, start, also=("system", "dtype", "kv_dtype"))
    blocks = []
    for (system, dtype, kv_dtype), rows in measurements.groupby(["system", "dtype", "kv_dtype"], sort=True):
        blocks.append(_measured(accelerators[system], rows, start, dtype, kv_dtype, kv_in_l2=kv_in_l2))
    return fit_kernel(blocks, start, prior_width=prior_width, together=together)


def calibrate_attention(
    accelerator: Accelerator, kernels: Sequence[AttentionCoefficients], measurements: pd.DataFrame, *,
    dtype: str = "bf16", kv_dtype: str = "bf16", kv_in_l2: bool = True,
) -> tuple[AttentionFit, ...]:  # fmt: skip
    """Refit the kernels of a library, each to those of a user's measurements that it serves.

    Parameters
    ----------
    accelerator : Accelerator
    kernels : sequence of PrefillCoefficients or of DecodeCoefficients
        The prior, such as a shipped set.
    measurements : DataFrame
        With the module's columns.
    dtype, kv_dtype : str
        Data types that were measured.
    kv_in_l2 : bool
        Whether repeated runs left the cache in L2.

    Returns
    -------
    tuple of AttentionFit
        One for each kernel. One that served no row keeps the prior, and all its coefficients are undetermined.

    Raises
    ------
    InputError
        A column is missing, there is no row, a size or a time is impossible, or a time is below the speed of light.

    Examples
    --------
    Two measured points move the launch time, which both depend on:

    >>> import pandas as pd
    >>> import perfsim
    >>> from perfsim.cost.attention_coefficients import DecodeCoefficients
    >>> prior = DecodeCoefficients(
    ...     kernel="fa3", head_dims=(128,), launch_s=(9e-6,), cta_clocks=(5000.0,), key_clocks=(2.0,), head_clocks=40.0,
    ...     wide_group_cost=0.1, chain_clocks=7.0, hbm_efficiency=0.9, l2_speedup=3.0, l2_share=0.7, overlap=3.0,
    ...     overlap_waves=20.0, chain_overlap=2.0, split_s=2e-6)
    >>> points = pd.DataFrame(
    ...     {"batch": [1, 4], "context_tokens": 256, "num_heads": 32, "num_kv_heads": 8, "head_dim": 128,
    ...      "latency_s": [20e-6, 21e-6]})
    >>> (fit,) = calibrate_attention(perfsim.load_cluster("dgx-h100").accelerator, [prior], points)
    >>> fit.coefficients.launch_s[0] > 10e-6, "hbm_efficiency" in fit.undetermined
    (True, True)
    """
    _check(measurements, kernels[0])
    light = attention_times(accelerator, kernels, measurements, dtype, kv_dtype, kv_in_l2=kv_in_l2).roofline_s
    _check_speed_of_light(measurements["latency_s"].to_numpy(float), light)
    rows = measurements.assign(system=accelerator.name, dtype=dtype, kv_dtype=kv_dtype)
    served = serving_kernels(accelerator, kernels, rows)
    fits = []
    for index, kernel in enumerate(kernels):
        mine = rows[served == index]
        if mine.empty:
            fits.append(AttentionFit(kernel, tuple(limits_of(kernel)), 0))
            continue
        found = fit_attention(
            {accelerator.name: accelerator}, mine, kernel, prior_width=USER_PRIOR_WIDTH,
            together=len(mine) < _MANY_ROWS, kv_in_l2=kv_in_l2,
        )  # fmt: skip
        fits.append(found)
    return tuple(fits)


def serving_kernels(
    accelerator: Accelerator, kernels: Sequence[AttentionCoefficients], measurements: pd.DataFrame
) -> NDArray[np.intp]:
    """Find the index of the kernel that serves each row."""
    if isinstance(kernels[0], PrefillCoefficients):
        return choose_prefill_kernel(cast("Any", kernels), measurements["head_dim"].to_numpy(float))
    sizes = {name: measurements[name].to_numpy(float) for name in _SIZES}
    return choose_decode_kernel(accelerator, cast("Any", kernels), **sizes)


def attention_times(
    accelerator: Accelerator, kernels: Sequence[AttentionCoefficients], measurements: pd.DataFrame, dtype: str,
    kv_dtype: str, *, kv_in_l2: bool = True,
) -> AttentionTime:  # fmt: skip
    """Price the rows of measurements, in the state in which they were measured."""
    given = _arguments(measurements, kernels[0], dtype, kv_dtype, kv_in_l2=kv_in_l2)
    if isinstance(kernels[0], PrefillCoefficients):
        return prefill_attention_time(accelerator, cast("Any", kernels), **given)
    return decode_attention_time(accelerator, cast("Any", kernels), **given)


def _arguments(
    rows: pd.DataFrame, kernel: AttentionCoefficients, dtype: str, kv_dtype: str, *, kv_in_l2: bool
) -> dict[str, Any]:
    """What the cost functions are given for rows of measurements."""
    given: dict[str, Any] = {name: rows[name].to_numpy(float) for name in _columns(kernel)}
    given["window"] = rows["window"].to_numpy(float) if "window" in rows else 0.0
    given |= {"dtype": dtype, "kv_dtype": kv_dtype, "kv_in_l2": kv_in_l2}
    if isinstance(kernel, PrefillCoefficients):
        given["causal"] = rows["causal"].to_numpy(bool) if "causal" in rows else True
    return given


def _measured(
    accelerator: Accelerator, rows: pd.DataFrame, start: AttentionCoefficients, dtype: str, kv_dtype: str, *,
    kv_in_l2: bool,
) -> Measured:  # fmt: skip
    """Rows of one accelerator and data type, with what prices them; what tiles alone determine is counted once."""
    given = _arguments(rows, start, dtype, kv_dtype, kv_in_l2=kv_in_l2)
    if isinstance(start, PrefillCoefficients):
        work = count_prefill_work(accelerator, start, **given)

        def time(found: Any) -> AttentionTime:
            return time_of_prefill_work(accelerator, found, work, dtype)
    else:

        def time(found: Any) -> AttentionTime:
            return decode_attention_time(accelerator, [found], **given)

    return Measured(accelerator.name, time, rows["latency_s"].to_numpy(float))


def _columns(start: AttentionCoefficients) -> tuple[str, ...]:
    """Columns of sizes that measurements of a kernel must have."""
    return (*_SIZES, "query_tokens") if isinstance(start, PrefillCoefficients) else _SIZES


def _check(measurements: pd.DataFrame, start: AttentionCoefficients, also: tuple[str, ...] = ()) -> None:
    """Refuse measurements that lack a column or a row, or have impossible numbers; all faults together."""
    faults = Faults("measurements")
    for name in (*also, *_columns(start), "latency_s"):
        if name not in measurements:
            faults.add(name, None, "is missing", f"the columns are {', '.join((*also, *_columns(start), 'latency_s'))}")
        elif name not in also:
            faults.quantities(name, measurements[name].to_numpy())
    if not len(measurements):
        faults.add("", 0, "must have at least one row")
    faults.raise_if_any()


def _check_speed_of_light(seconds: NDArray[np.float64], light_s: NDArray[np.float64]) -> None:
    """Refuse times that no device of that datasheet can reach, the first of which is named."""
    impossible = np.flatnonzero(seconds < light_s)
    if len(impossible):
        row = int(impossible[0])
        field = f"measurements.latency_s[{row}]"
        raise InputError.of(
            field, float(seconds[row]),
            f"must not be below the speed of light of that row, {light_s[row]:.3g} s",
            "latencies are in seconds: were they measured in another unit, or with fewer keys?",
        )  # fmt: skip
