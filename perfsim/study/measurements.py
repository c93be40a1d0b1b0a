"""Measurements that a user brings: their columns, and the faults that they may have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.arguments import check_dtype
from perfsim.cost.attention import attention_cost
from perfsim.cost.attention_kernels import table_key
from perfsim.cost.collective import collective_cost
from perfsim.cost.elementwise import elementwise_cost
from perfsim.cost.estimate import Cost
from perfsim.cost.experts import experts_cost
from perfsim.cost.matmul import matmul_cost
from perfsim.cost.memory_bound import CLASSES
from perfsim.cost.tiled_coefficients import nearest_table
from perfsim.errors import Faults
from perfsim.ops.operators import ELEMENT_BYTES, Attention, Collective, Elementwise, Experts, MatMul
from perfsim.spec.hardware import Cluster

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "PHASES", "Kind", "by_kind", "checked_measurements"]

_SIZES = ("batch", "context_tokens", "num_heads", "num_kv_heads", "head_dim")
COLUMNS = {
    "matmul": ("m", "n", "k"),
    "prefill": (*_SIZES, "query_tokens"),
    "decode": _SIZES,
    "experts": ("tokens", "hidden_size", "expert_width", "num_experts", "experts_per_token"),
    "elementwise": ("read_bytes", "written_bytes"),
    **dict.fromkeys(
        ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "custom_all_reduce"),
        ("payload_bytes", "group_size"),
    ),
}
"""Columns of sizes that the rows of each operator need, beside ``operator`` and ``latency_s``."""

PHASES = ("prefill", "decode")
_SAME = {"experts": ("num_experts", "skew"), "elementwise": ("op",)}
"""Columns in which rows agree that one work can have; of all other operators here, ``group_size``."""

Floats = NDArray[np.float64]
_MULTIPLIED = ("matmul", "experts")
_TYPED = (*_MULTIPLIED, *PHASES)
_ONE_STATE = ("elementwise", *PHASES)
"""Operators whose fit knows one state of L2 for all rows."""
_SAME_UNIT = 100.0
"""A median this many times the estimate is not a slow device: it is another unit."""


class Kind(NamedTuple):
    """What has coefficients of its own; data types are blank where an operator has none."""

    operator: str
    dtype: str
    kv_dtype: str


def by_kind(rows: pd.DataFrame) -> Iterator[tuple[Kind, pd.DataFrame]]:
    """Take checked measurements apart."""
    for key, own in rows.groupby(["operator", "dtype", "kv_dtype"], sort=False):
        yield Kind(*key), own


def checked_measurements(cluster: Cluster, measurements: pd.DataFrame) -> pd.DataFrame:
    """Refuse measurements that cannot be meant, with all faults; fill in what may be left out."""
    faults = Faults("measurements")
    for name in ("operator", "latency_s"):
        if name not in measurements:
            faults.add(name, None, "is missing", "every row needs an operator and a latency_s")
    if not len(measurements):
        faults.add("", 0, "must have at least one row")
    faults.raise_if_any()
    rows = measurements.reset_index(drop=True)
    for operator, own in rows.groupby("operator", dropna=False, sort=False):
        if faults.choice("operator", operator, tuple(COLUMNS)):
            _check_columns(cluster, str(operator), own, faults)
    rows = _with_defaults(rows, faults)
    faults.raise_if_any()
    for kind, own in by_kind(rows):
        _check_types(cluster, kind, own, faults)
    faults.raise_if_any()
    for kind, own in by_kind(rows):
        for in_l2, state in own.groupby("in_l2"):
            _check_times(_cost(cluster, kind, state, in_l2=bool(in_l2)), kind.operator, state, faults)
    faults.raise_if_any()
    return rows


def _check_columns(cluster: Cluster, operator: str, own: pd.DataFrame, faults: Faults) -> None:
    """Check the numbers of the rows of one operator."""
    known, most = len(faults.found), cluster.tiers[0].domain_size or cluster.num_devices
    for name in (*COLUMNS[operator], "latency_s"):
        if name not in own:
            faults.add(name, None, f"is missing, which {operator} needs", f"it has {', '.join(COLUMNS[operator])}")
            continue
        numbers = _numbers(own[name])
        allowed = "must be a finite number above 0"
        _check_rows(~(np.isfinite(numbers) & (numbers > 0)), own[name], allowed, faults)
    if len(faults.found) > known:
        return
    if "group_size" in COLUMNS[operator]:
        size = own["group_size"].astype(float)
        wrong = (size < 2) | (size > most) | (size % 1 != 0)  # noqa: PLR2004 - a group has two members
        allowed = f"must be a whole number from 2 to {most}, the devices of the innermost tier"
        _check_rows(wrong.to_numpy(), own["group_size"], allowed, faults)
    if operator == "prefill":
        short = own["context_tokens"].astype(float) < own["query_tokens"].astype(float)
        _check_rows(short.to_numpy(), own["context_tokens"], "must include the query_tokens", faults)
    if operator == "experts":
        _check_experts(own, faults)
    if operator == "elementwise":
        _check_ops(own, faults)


def _check_experts(own: pd.DataFrame, faults: Faults) -> None:
    """Check the numbers and the popularity of experts."""
    count, per_token = own["num_experts"].astype(float), own["experts_per_token"].astype(float)
    _check_rows((count % 1 != 0).to_numpy(), own["num_experts"], "must be a whole number", faults)
    _check_rows((per_token > count).to_numpy(), own["experts_per_token"], "must be at most num_experts", faults)
    if "skew" in own:
        wrong = ~(_numbers(own["skew"].fillna(0.0)) >= 0)
        _check_rows(wrong, own["skew"], "must be a number of at least 0", faults)


def _check_ops(own: pd.DataFrame, faults: Faults) -> None:
    """Check what memory-bound kernels do."""
    if "op" not in own:
        faults.add("op", None, "is missing, which elementwise needs", f"it is one of {', '.join(CLASSES)}")
        return
    for op in own["op"].unique():
        faults.choice("op", op, CLASSES)


def _check_rows(wrong: NDArray[np.bool_], values: pd.Series, allowed: str, faults: Faults) -> None:
    """Record the first row that is wrong, and how many are."""
    if wrong.any():
        more = f"and {wrong.sum() - 1} rows more" if wrong.sum() > 1 else ""
        faults.add(f"{values.name}[{values.index[wrong][0]}]", values[wrong].iloc[0], allowed, more)


def _numbers(values: pd.Series) -> NDArray[np.float64]:
    """Numbers of a column of anything; NaN for what is none."""
    import pandas as pd

    return pd.to_numeric(values, errors="coerce").to_numpy(float)


def _with_defaults(rows: pd.DataFrame, faults: Faults) -> pd.DataFrame:
    """Fill in data types and the state of L2; fp16 runs the kernels of bf16."""
    filled = rows.copy()
    typed = rows["operator"].isin(_TYPED)
    for name, used in (("dtype", typed), ("kv_dtype", rows["operator"].isin(PHASES))):
        given = rows[name].where(rows[name].notna(), "bf16") if name in rows else "bf16"
        filled[name] = given
        filled[name] = filled[name].where(used, "").replace({"fp16": "bf16"})
    filled["skew"] = rows["skew"].fillna(0.0).astype(float) if "skew" in rows and not faults.found else 0.0
    state = rows["in_l2"].where(rows["in_l2"].notna(), other=False) if "in_l2" in rows else [False] * len(rows)
    filled["in_l2"] = state
    if not set(filled["in_l2"]) <= {True, False}:
        faults.add("in_l2", sorted(map(str, set(filled["in_l2"]))), "must be true or false")
    else:
        filled["in_l2"] = filled["in_l2"].astype(bool)
    return filled


def _check_types(cluster: Cluster, kind: Kind, own: pd.DataFrame, faults: Faults) -> None:
    """Check that the device has the data types, and that the cluster has what a fit can start from."""
    operator, dtype, kv_dtype = kind
    if operator in _TYPED:
        check_dtype(cluster, dtype, faults, blocks=operator in _MULTIPLIED)
    if operator in PHASES:
        faults.choice("kv_dtype", kv_dtype, tuple(ELEMENT_BYTES))
    if operator in _ONE_STATE and own["in_l2"].nunique() > 1:
        faults.add("in_l2", [False, True], f"must be the same for all rows of {operator} {dtype} {kv_dtype}".rstrip())
    if not _has_start(cluster, kind, own):
        faults.add(
            "operator", operator, f"must have coefficients to start from, and {cluster.name} has none",
            "load a profile of the same architecture that has some, with a kernel library that has them",
        )  # fmt: skip


def _has_start(cluster: Cluster, kind: Kind, own: pd.DataFrame) -> bool:
    """Whether the cluster has coefficients from which a fit of these rows can start."""
    operator, dtype, kv_dtype = kind
    if operator in PHASES:
        return table_key(cluster.coefficients, operator, dtype, kv_dtype) is not None
    if operator == "experts":
        return nearest_table(cluster.coefficients, "grouped_matmul", dtype) is not None
    if operator == "elementwise":
        return set(own["op"].map(CLASSES)) <= set(cluster.coefficients.get("memory_bound", {}))
    return operator == "matmul" or operator in cluster.coefficients


def _cost(cluster: Cluster, kind: Kind, own: pd.DataFrame, *, in_l2: bool) -> Cost:
    """Price the rows with what the cluster has."""
    operator, dtype, kv_dtype = kind
    size = {name: own[name].to_numpy(float) for name in COLUMNS[operator]}
    if operator == "matmul":
        return matmul_cost(cluster, MatMul(size["m"], size["n"], size["k"], dtype), weights_in_l2=in_l2)
    if operator in PHASES:
        work = Attention(
            sequences=size["batch"],
            query_tokens=size.get("query_tokens", np.ones(len(own))),
            context_tokens=size["context_tokens"],
            num_heads=size["num_heads"],
            num_kv_heads=size["num_kv_heads"],
            head_dim=size["head_dim"],
            dtype=dtype,
            kv_dtype=kv_dtype,
        )
        return attention_cost(cluster, work, kv_in_l2=in_l2)
    seconds, light_s = np.empty(len(own)), np.empty(len(own))
    for key, alike in own.reset_index(drop=True).groupby(list(_SAME.get(operator, ("group_size",)))):
        index = alike.index.to_numpy()
        part = {name: values[index] for name, values in size.items()}
        cost = _cost_of_alike(cluster, kind, part, key, in_l2=in_l2)
        seconds[index], light_s[index] = cost.seconds, cost.roofline_s
    return Cost(seconds=seconds, roofline_s=light_s)


def _cost_of_alike(cluster: Cluster, kind: Kind, size: dict[str, Floats], key: Any, *, in_l2: bool) -> Cost:
    """Price rows that agree in what a work has once, for all its sizes."""
    operator, dtype, _ = kind
    if operator == "elementwise":
        return elementwise_cost(cluster, Elementwise(key[0], size["read_bytes"], size["written_bytes"]), in_l2=in_l2)
    if operator == "experts":
        pairs = size["tokens"] * size["experts_per_token"]
        hidden: Any = size["hidden_size"]
        width: Any = size["expert_width"]
        work = Experts(pairs, int(key[0]), hidden, width, dtype, skew=float(key[1]))
        return experts_cost(cluster, work, weights_in_l2=in_l2)
    op, algorithm = ("all_reduce", "custom") if operator == "custom_all_reduce" else (operator, "nccl")
    return collective_cost(cluster, Collective(op, size["payload_bytes"], (int(key[0]),)), algorithm=algorithm)


def _check_times(cost: Cost, operator: str, own: pd.DataFrame, faults: Faults) -> None:
    """Record times that no device of the datasheet reaches, and such that are in another unit."""
    measured, light_s = own["latency_s"].to_numpy(float), np.broadcast_to(cost.roofline_s, len(own))
    below = np.flatnonzero(measured < light_s)
    if below.size:
        first = int(below[0])
        faults.add(
            f"latency_s[{own.index[first]}]", float(measured[first]),
            f"must not be below the speed of light of this {operator}, {light_s[first]:.3g} s ({below.size} such rows)",
            "latencies are in seconds; check sizes and data type too, and say in_l2 where operands were in the cache",
        )  # fmt: skip
    ratio = float(np.median(measured / cost.seconds))
    if ratio > _SAME_UNIT:
        faults.add(
            "latency_s", float(np.median(measured)),
            f"is {ratio:.3g} times the estimate of {operator} in the median, which no device is",
            "latencies are in seconds: divide milliseconds by 1e3 and microseconds by 1e6",
        )  # fmt: skip
