"""Coefficients from a user's own measurements, around those that a cluster has already."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from perfsim.cost.attention_coefficients import DecodeCoefficients, PrefillCoefficients
from perfsim.cost.attention_kernels import read_kernels, table_key
from perfsim.cost.calibration.attention import calibrate_attention
from perfsim.cost.calibration.collective import fit_custom_around, fit_nccl_around
from perfsim.cost.calibration.grouped_matmul import ExpectedLayers, fit_grouped_matmul
from perfsim.cost.calibration.matmul import DEFAULT_FORM, MeasuredMatmuls, Rotation, fit_matmul
from perfsim.cost.calibration.memory_bound import fit_memory_bound
from perfsim.cost.custom_all_reduce import CustomAllReduce
from perfsim.cost.estimate import CALIBRATED, EXTRAPOLATED
from perfsim.cost.expert_loads import expected_loads
from perfsim.cost.grouped_matmul import GroupedMatmul
from perfsim.cost.launch import LaunchCosts
from perfsim.cost.memory_bound import CLASSES, MemoryBoundCoefficients
from perfsim.cost.protocols import CollectiveCoefficients
from perfsim.cost.roofline import matrix_peak_flop_per_s
from perfsim.cost.tiled_coefficients import nearest_table, tiled_matmul_for
from perfsim.errors import Faults, InputError
from perfsim.ops.operators import ELEMENT_BYTES
from perfsim.spec.hardware import Cluster
from perfsim.spec.tables import FrozenDict
from perfsim.study.measurements import PHASES, Kind, by_kind, checked_measurements

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["calibrate"]

_FORMS: dict[str, Any] = {"prefill": PrefillCoefficients, "decode": DecodeCoefficients}
_SAME_DEVICE, _ANOTHER_DEVICE = 0.3, 1.0
"""Widths of the prior of matrix multiplication, in the logarithm. With 32 rows of A100, L40S or B200 round Hopper's
coefficients, or of H100 round Ampere's, a width of 1 predicts other fitted rows better than one of 0.3."""
_USER_SOFT = 0.1

Tables = dict[str, dict[str, Any]]


def calibrate(cluster: Cluster, measurements: pd.DataFrame, *, data: str = "a user's measurements") -> Cluster:
    """Fit the coefficients of a cluster's operators to measurements of your own.

    A few dozen rows of an operator are enough, since the coefficients that the cluster has are the prior: what the rows
    do not determine stays as it was, and the new tables name it.

    Parameters
    ----------
    cluster : Cluster
        Whose coefficients are the prior. Matrix multiplication also starts from none at all.
    measurements : DataFrame
        One measurement a row, with ``operator``, ``latency_s`` and the columns of the operator:

        ========================================  ==============================================================
        ``matmul``                                ``m``, ``n``, ``k``; optionally ``dtype``
        ``prefill``                               ``batch``, ``query_tokens``, ``context_tokens``, ``num_heads``,
                                                  ``num_kv_heads``, ``head_dim``; optionally ``dtype``, ``kv_dtype``
        ``decode``                                the same without ``query_tokens``
        ``experts``                               ``tokens``, ``hidden_size``, ``expert_width``, ``num_experts``,
                                                  ``experts_per_token`` (of a layer on one device, gated); optionally
                                                  ``skew``, ``dtype``
        ``elementwise``                           ``op``, such as ``rmsnorm``, ``read_bytes``, ``written_bytes``
        ``all_reduce``, ``all_gather``,           ``payload_bytes`` (of the full tensor), ``group_size`` (inside the
        ``reduce_scatter``, ``all_to_all``,       innermost tier)
        ``custom_all_reduce`` (an engine's own)
        ========================================  ==============================================================

        ``latency_s`` is in seconds, of one kernel inside of a CUDA graph; ``dtype`` and ``kv_dtype`` are bf16 where
        they are left out; ``in_l2`` says whether the weight, or K and V, were in L2, as in a loop over the same small
        tensors (false where it is left out). Cells of columns that an operator does not have may be empty.
    data : str
        Who measured what, which the new tables say.

    Returns
    -------
    Cluster
        With new tables in ``coefficients``. Each has ``source`` ``calibrated`` and, in ``fit``, ``data``,
        ``rows_used``, ``undetermined`` (coefficients that the rows left where they were) and ``prior``. The ranges of
        the estimates stay those of the prior.

    Raises
    ------
    InputError
        A column is missing, an operator or a data type is unknown, a size or a time is impossible, a time is below the
        speed of light or so long that it must be in another unit, or the cluster has no coefficients to start from.

    Examples
    --------
    A device that takes a fifth longer than the coefficients say:

    >>> import pandas as pd
    >>> import perfsim
    >>> cluster = perfsim.load_cluster("dgx-h100")
    >>> rows = pd.DataFrame({"operator": "matmul", "m": [64, 512, 2048, 8192], "n": 8192, "k": 8192})
    >>> rows["latency_s"] = 1.2 * perfsim.cost.matmul_seconds(cluster, m=rows["m"], n=rows["n"], k=rows["k"])
    >>> mine = perfsim.calibrate(cluster, rows)
    >>> ratio = perfsim.cost.matmul_seconds(mine, m=rows["m"], n=8192, k=8192) / rows["latency_s"]
    >>> bool(abs(ratio - 1).max() < 0.1), mine.coefficients["matmul.bf16"]["fit"]["rows_used"]
    (True, 4)
    """
    rows = checked_measurements(cluster, measurements)
    tables: Tables = {}
    faults = Faults()
    for kind, group in by_kind(rows):
        try:
            tables |= _fitted(cluster, kind, group, data)
        except InputError as error:
            faults.take(error)
    faults.raise_if_any()
    return dataclasses.replace(cluster, coefficients=FrozenDict({**cluster.coefficients, **tables}))


def _fitted(cluster: Cluster, kind: Kind, own: pd.DataFrame, data: str) -> Tables:
    """Fit the rows of one operator and pair of data types."""
    fits = {"matmul": _matmul, "experts": _experts, "elementwise": _elementwise, **dict.fromkeys(PHASES, _attention)}
    return fits.get(kind.operator, _collective)(cluster, kind, own, data)


def _matmul(cluster: Cluster, kind: Kind, own: pd.DataFrame, data: str) -> Tables:
    dtype = kind.dtype
    known = tiled_matmul_for(cluster.coefficients, dtype)
    prior, source = known or (DEFAULT_FORM, EXTRAPOLATED)
    width = _SAME_DEVICE if source == CALIBRATED else _ANOTHER_DEVICE
    chip = cluster.accelerator
    states = []
    for in_l2, rows in own.groupby("in_l2"):
        m, n, k, latency_s = (rows[name].to_numpy(float) for name in ("m", "n", "k", "latency_s"))
        rotation = Rotation(max_copies=1) if in_l2 else None
        peak, size = matrix_peak_flop_per_s(cluster, dtype), ELEMENT_BYTES[dtype]
        states.append(MeasuredMatmuls(chip, m, n, k, latency_s, peak, size, rotation))
    fit = fit_matmul(states, prior, prior_width=width, soft=_USER_SOFT)
    key = f"matmul.{dtype}"
    nearest = nearest_table(cluster.coefficients, "matmul", dtype)
    before = cluster.coefficients[nearest[0]] if nearest else {}
    about = _fit(before, len(own), fit.posterior.undetermined, data)
    return {key: {**fit.coefficients.to_table(), "source": CALIBRATED, "fit": about}}


def _experts(cluster: Cluster, kind: Kind, own: pd.DataFrame, data: str) -> Tables:
    nearest = nearest_table(cluster.coefficients, "grouped_matmul", kind.dtype)
    before = cluster.coefficients[nearest[0]] if nearest else {}  # checked_measurements asks for one
    layers = []
    for (count, skew, in_l2), rows in own.groupby(["num_experts", "skew", "in_l2"]):
        names = ("tokens", "experts_per_token", "hidden_size", "expert_width", "latency_s")
        tokens, per_token, hidden, width, latency_s = (rows[name].to_numpy(float) for name in names)
        loads = expected_loads(tokens * per_token, int(count), float(skew))
        peak, size = matrix_peak_flop_per_s(cluster, kind.dtype), ELEMENT_BYTES[kind.dtype]
        layers.append(
            ExpectedLayers(cluster.accelerator, loads, hidden, width, latency_s, peak, size, weights_in_l2=bool(in_l2))
        )
    width = _SAME_DEVICE if before.get("source") == CALIBRATED else _ANOTHER_DEVICE
    fit = fit_grouped_matmul(layers, GroupedMatmul.from_table(before), prior_width=width, soft=_USER_SOFT)
    about = _fit(before, len(own), fit.posterior.undetermined, data)
    return {f"grouped_matmul.{kind.dtype}": {**fit.coefficients.to_table(), "source": CALIBRATED, "fit": about}}


def _elementwise(cluster: Cluster, _kind: Kind, own: pd.DataFrame, data: str) -> Tables:
    """Fit each class of kernels; times in a CUDA graph have its gap inside."""
    before, device = cluster.coefficients["memory_bound"], {cluster.name: cluster.accelerator}
    rows = own.assign(system=cluster.name, moved_bytes=own["read_bytes"] + own["written_bytes"])
    classes = {}
    for name, mine in rows.groupby(rows["op"].map(CLASSES)):
        known = MemoryBoundCoefficients.from_table(before[name])
        gap_s = 0.0 if known.includes_gap else LaunchCosts().graph_gap_s
        prior = dataclasses.replace(known, fixed_s=known.fixed_s + gap_s, includes_gap=True)
        found, undetermined = fit_memory_bound(mine, device, prior, in_l2=bool(mine["in_l2"].iloc[0]))
        about = _fit(before[name], len(mine), undetermined, data)
        classes[name] = {**found.to_table(), "source": CALIBRATED, "fit": about}
    return {"memory_bound": {**before, **classes, "source": CALIBRATED}}


def _attention(cluster: Cluster, kind: Kind, own: pd.DataFrame, data: str) -> Tables:
    phase, dtype, kv_dtype = kind
    before = cluster.coefficients[table_key(cluster.coefficients, phase, dtype, kv_dtype) or ""]
    kernels = read_kernels(_FORMS[phase], before)
    fits = calibrate_attention(
        cluster.accelerator, kernels, own, dtype=dtype, kv_dtype=kv_dtype, kv_in_l2=bool(own["in_l2"].iloc[0])
    )
    undetermined = [f"{fit.coefficients.kernel}.{name}" for fit in fits for name in fit.undetermined]
    table = {key: value for key, value in before.items() if key == "borrowed"}
    table |= {"kernels": [fit.coefficients.to_table() for fit in fits], "source": CALIBRATED}
    return {f"{phase}.{dtype}-{kv_dtype}": {**table, "fit": _fit(before, len(own), undetermined, data)}}


def _collective(cluster: Cluster, kind: Kind, own: pd.DataFrame, data: str) -> Tables:
    operator = kind.operator
    before = cluster.coefficients[operator]
    op = "all_reduce" if operator == "custom_all_reduce" else operator
    rows = own.rename(columns={"group_size": "num_devices"}).assign(op=op, bytes_per_s=cluster.tiers[0].bytes_per_s)
    coefficients: CollectiveCoefficients | CustomAllReduce
    if operator == "custom_all_reduce":
        coefficients, fit = fit_custom_around(rows, CustomAllReduce.from_table(before))
    else:
        fit = fit_nccl_around(rows, {op: CollectiveCoefficients.from_table(before)})
        coefficients = fit.coefficients[op]
    about = _fit(before, len(own), fit.undetermined, data)
    return {operator: {**coefficients.to_table(), "source": CALIBRATED, "fit": about}}


def _fit(before: Mapping[str, Any], rows: int, undetermined: Any, data: str) -> dict[str, Any]:
    """What the new table says of its making; the errors, and so the range, are what they were before."""
    known = before.get("fit", {})
    prior = known.get("data", "no coefficients")
    return {
        "data": data, "rows_used": rows, "undetermined": tuple(undetermined), "prior": prior,
        "errors": known.get("errors", {}),
    }  # fmt: skip
