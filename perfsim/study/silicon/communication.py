"""The coefficients of collectives, ``<system>-nccl.toml``: fitted to the public tables, scored on held-back rows.

NCCL: one whole run of each system is held back (seed 0), and int8 rows where there is one run only. Custom all-reduces
have one row a payload: they are scored by fits on every other payload, both ways round, and what ships uses all rows.
Expert all-to-alls: half of the rows are held back (seed 0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perfsim.cost.calibration.collective import fit_custom, fit_nccl, predict
from perfsim.cost.calibration.expert_all_to_all import fit_expert_all_to_all, predict_expert_all_to_all
from perfsim.cost.protocols import Floats
from perfsim.study.silicon.communication_tables import custom_all_reduce_rows, expert_rows, nccl_rows
from perfsim.study.silicon.custom_all_reduce_sets import CUSTOM_SETS, CustomSet
from perfsim.study.silicon.kernel_files import merge_into
from perfsim.study.silicon.matmul_tables import error_summary
from perfsim.study.silicon.systems import DATA, kernel_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "alternate_predictions", "engine_rows", "file_name", "held_back_runs", "scores_by_system",
    "split_expert_rows", "write_communication",
]  # fmt: skip

SEED = 0
NCCL_SETS = (
    ("a100_sxm",), ("h100_sxm", "h200_sxm"), ("b200_sxm", "b300_sxm"), ("gb200",), ("gb300",), ("l40s",),
    ("rtx_pro_6000_server",),
)  # fmt: skip
"""Systems that share coefficients: where one set for all costs less than half a point of error."""
IN_SWITCH = ("h100_sxm", "h200_sxm", "b200_sxm", "b300_sxm")
"""Systems whose NVSwitch adds up; their 8-GPU all-reduce does so from a payload on that the fit finds."""
EXPERT_SETS = (("h100_sxm", "h200_sxm"), ("b200_sxm", "b300_sxm"), ("gb200", "gb300"))

_RACKS = ("gb200", "gb300")
_IN_A_RACK = "; 8 and 16 GPUs: NCCL in CUDA graphs of SGLang 0.5.14 and vLLM 0.27.0, gb300"
_SAME_WORK_BELOW = 2**24
_SHORTEST_INT8 = 512
_LONGEST_FLAT = 2**14
"""Payloads up to this take as long as the host needs, in eager mode."""

Tables = dict[str, dict[str, Any]]


def file_name(system: str) -> str:
    """Name of a system's file of coefficients, as `kernel_file` wants it.

    Examples
    --------
    >>> file_name("h100_sxm"), file_name("rtx_pro_6000_server")
    ('h100-nccl', 'rtx-pro-6000-nccl')
    """
    return f"{system.removesuffix('_sxm').removesuffix('_server').replace('_', '-')}-nccl"


def write_communication(folder: Path | None = None) -> list[Path]:
    """Fit and write the file of every system, in half a minute; tables of other operators in it stay.

    Parameters
    ----------
    folder : Path, optional
        Where to write; the shipped coefficient files when left out.
    """
    tables: dict[str, Tables] = {}
    for part in (_nccl(), _custom(), _experts()):
        for system, name, table in part:
            tables.setdefault(system, {})[name] = table
    written = []
    for system, own in tables.items():
        name = file_name(system)
        path = kernel_file(name) if folder is None else folder / f"{name}.toml"
        merge_into(path, own, library="nccl", system=system, data=DATA)
        written.append(path)
    return written


def scores_by_system(rows: pd.DataFrame, predicted_s: Floats) -> dict[str, dict[str, float]]:
    """Errors of predicted rows, by the system that they were measured on."""
    scored = rows.assign(log_error=np.log(predicted_s / rows["latency_s"]))
    return {system: error_summary(group["log_error"].to_numpy()) for system, group in scored.groupby("system")}


# NCCL


def _nccl() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """System, operation and table of every fit of NCCL."""
    import pandas as pd

    rows = nccl_rows()
    held = held_back_runs(rows)
    train, test = rows[~held & (rows["dtype"] == "half")], rows[held]
    train = pd.concat([train, _rack_rows()], ignore_index=True)
    for systems in NCCL_SETS:
        known, unknown = train[train["system"].isin(systems)], test[test["system"].isin(systems)]
        in_switch_sizes = (8,) if set(systems) & set(IN_SWITCH) else ()
        for op, coefficients in fit_nccl(known, in_switch_sizes=in_switch_sizes).items():
            scored = unknown[unknown["op"] == op]
            in_rack = systems[0] in _RACKS and op == "all_reduce"
            fit = {
                "data": f"{DATA}, nccl-tests, {' and '.join(systems)}{_IN_A_RACK if in_rack else ''}",
                "rows_used": int((known["op"] == op).sum()),
                "rows_held_back": len(scored),
                "seed": SEED,
                "errors": scores_by_system(scored, predict({op: coefficients}, scored)),
            }
            for system in systems:
                yield system, op, {**coefficients.to_table(), "fit": fit}


def held_back_runs(rows: pd.DataFrame) -> pd.Series:
    """Mark the rows of `nccl_rows` that no fit sees: a whole run of each system; int8 rows where it has one run only.

    An all-gather and an all-to-all of the same bytes is the same work in int8; reductions are below 16 MiB.
    """
    import pandas as pd

    generator = np.random.default_rng(SEED)
    held = pd.Series(data=False, index=rows.index)
    half, payload = rows["dtype"] == "half", rows["payload_bytes"]
    for system, group in rows[half].groupby("system"):
        runs = sorted(group["run"].unique())
        if len(runs) > 1:
            held |= (rows["system"] == system) & (rows["run"] == runs[generator.integers(len(runs))]) & half
        else:
            same = rows["op"].isin(["all_gather", "all_to_all"]) | (payload < _SAME_WORK_BELOW)
            held |= (rows["system"] == system) & ~half & same & (payload >= _SHORTEST_INT8)
    return held


def _rack_rows() -> pd.DataFrame:
    """NCCL's all-reduce over 8 and 16 GPUs of one NVLink domain, from engines without kernels of their own there.

    Measured on GB300 only: SGLang 0.5.14 (8 and 16) and vLLM 0.27.0 (16), replayed in a graph. GB200 takes them too.
    """
    import pandas as pd

    rows = custom_all_reduce_rows()
    rows = rows[(rows["system"] == "gb300") & (rows["mode"] == "graph") & (rows["num_devices"] > 4)]  # noqa: PLR2004
    sglang = (rows["library"] == "sglang") & (rows["version"] == "0.5.14")
    vllm = (rows["library"] == "vllm") & (rows["version"] == "0.27.0") & (rows["num_devices"] == 16)  # noqa: PLR2004
    rows = rows[sglang | vllm]
    return pd.concat([rows.assign(system=system) for system in _RACKS], ignore_index=True)


# Custom all-reduce


def _custom() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """System, name and table of every fit of an engine's own all-reduce."""
    rows = custom_all_reduce_rows()
    for one in CUSTOM_SETS:
        chosen = rows["system"].isin(one.systems) & (rows["library"] == one.library) & (rows["version"] == one.version)
        own = engine_rows(rows, one)
        coefficients = fit_custom(own, one.limit_bytes)
        fit = {
            "data": f"{DATA}, {one.library} {one.version} in CUDA graphs, {' and '.join(one.systems)}",
            "scored": "by fits on every other payload, both ways round; these coefficients use all rows",
            "rows_used": len(own),
            "rows_held_back": 0,
            "errors": scores_by_system(*alternate_predictions(own, one.limit_bytes)),
        }
        eager = rows[chosen & (rows["mode"] == "eager") & (rows["payload_bytes"] <= _LONGEST_FLAT)]
        for system in one.systems:
            host_s = _host_seconds(eager[eager["system"] == system])
            yield system, f"custom_all_reduce.{one.library}", {**coefficients.to_table(), "host_s": host_s, "fit": fit}


def engine_rows(rows: pd.DataFrame, one: CustomSet) -> pd.DataFrame:
    """Rows of a set in a CUDA graph, up to its limits."""
    chosen = rows["system"].isin(one.systems) & (rows["library"] == one.library) & (rows["version"] == one.version)
    table = rows[chosen & (rows["mode"] == "graph") & rows["num_devices"].isin(one.limit_bytes)]
    return table[table["payload_bytes"] <= table["num_devices"].map(one.limit_bytes)]


def alternate_predictions(own: pd.DataFrame, limit_bytes: Mapping[int, int]) -> tuple[pd.DataFrame, Floats]:
    """Rows, and what fits on every other payload predict for them."""
    import pandas as pd

    parity = np.log2(own["payload_bytes"]).round().astype(int) % 2
    rests, predictions = [], []
    for phase in (0, 1):
        some, rest = own[parity == phase], own[parity != phase]
        rest = rest[rest["payload_bytes"] >= some["payload_bytes"].min()]
        rests.append(rest)
        predictions.append(predict({"all_reduce": fit_custom(some, limit_bytes).kernels}, rest))
    return pd.concat(rests), np.concatenate(predictions)


def _host_seconds(eager: pd.DataFrame) -> float:
    """Host time of one eager call: where payloads are so short that the device waits; 0 where it was not measured."""
    return float(eager.groupby("num_devices")["latency_s"].median().min()) if len(eager) else 0.0


# Expert all-to-all


def split_expert_rows() -> pd.DataFrame:
    """Mark the half of the rows that is held back."""
    rows = expert_rows()
    return rows.assign(held=np.random.default_rng(SEED).random(len(rows)) < 1 / 2)


def _experts() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """System, name and table of every fit of an expert all-to-all."""
    rows = split_expert_rows()
    for (kernel, phase), table in rows.groupby(["kernel", "phase"]):
        for systems in EXPERT_SETS:
            part = table[table["system"].isin(systems)]
            known, unknown = part[~part["held"]], part[part["held"]]
            coefficients = fit_expert_all_to_all(known)
            fit = {
                "data": f"{DATA}, DeepEP in SGLang, one node, {' and '.join(systems)}",
                "rows_used": len(known),
                "rows_held_back": len(unknown),
                "seed": SEED,
                "errors": scores_by_system(unknown, predict_expert_all_to_all(coefficients, unknown)),
            }
            for system in systems:
                name = f"expert_all_to_all.deepep_{kernel}.{phase}"
                yield system, name, {**coefficients.to_table(), "fit": fit}
