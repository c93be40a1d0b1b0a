"""What the shipped coefficients predict for rows of the public tables that no fit has seen, and what else would.

The splits are those of the fits. Predictions are for the state of L2 that a table was measured in; the roofline is that
of a cluster without coefficients, with its documented efficiencies, and knows no L2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.attention import attention_seconds
from perfsim.cost.attention_forms import PHASES
from perfsim.cost.calibration.attention import attention_times
from perfsim.cost.calibration.collective import predict
from perfsim.cost.calibration.expert_all_to_all import predict_expert_all_to_all
from perfsim.cost.collective import collective_seconds
from perfsim.cost.estimate import error_range
from perfsim.cost.expert_all_to_all import ExpertAllToAllCoefficients
from perfsim.cost.matmul import matmul_seconds
from perfsim.cost.protocols import CollectiveCoefficients
from perfsim.cost.tiled_coefficients import TiledMatmul
from perfsim.spec.hardware import Cluster
from perfsim.spec.profiles import load_cluster
from perfsim.spec.tables import FrozenDict, read_toml
from perfsim.study.silicon import fit_grouped, fit_matmuls, grouped_tables, matmul_tables
from perfsim.study.silicon.attention_tables import read_attention
from perfsim.study.silicon.communication import (
    alternate_predictions,
    engine_rows,
    file_name,
    held_back_runs,
    split_expert_rows,
)
from perfsim.study.silicon.communication_tables import custom_all_reduce_rows, nccl_rows
from perfsim.study.silicon.custom_all_reduce_sets import CUSTOM_SETS
from perfsim.study.silicon.fit_attentions import AttentionSet, shipped_attention_sets
from perfsim.study.silicon.interpolation import interpolated_along, interpolated_between
from perfsim.study.silicon.systems import PROFILES, kernel_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "NCCL", "OPERATORS", "draw_rows", "held_back_rows"]

COLUMNS = (
    "system", "operator", "dtype", "library", "sizes", "series", "latency_s", "predicted_s", "roofline_s",
    "interpolated_s", "range_low", "range_high",
)  # fmt: skip
"""Of every frame. ``series`` is what a split keeps together; the range is in factors on the prediction."""

SEED = 0
_GROUP = ("num_devices", "payload_bytes")
NCCL = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")

Array = NDArray[np.float64]


def held_back_rows(systems: Collection[str], operators: Collection[str], sample: int | None) -> Iterator[pd.DataFrame]:
    """Predict what was held back, one frame for each system, operator, data type and kernel library.

    Parameters
    ----------
    systems : collection of str
        Measured systems, of `perfsim.study.silicon.systems.PROFILES`.
    operators : collection of str
        Of `OPERATORS`.
    sample : int or None
        The most rows of a frame, drawn at random; None for all.

    Yields
    ------
    DataFrame
        With the columns `COLUMNS`.

    Raises
    ------
    InputError
        The package with the public tables is not installed.
    """
    producers = {_OPERATORS[name]: None for name in OPERATORS if name in operators}
    for producer in producers:
        yield from producer(systems, operators, sample)


def _matmuls(systems: Collection[str], _operators: Collection[str], sample: int | None) -> Iterator[pd.DataFrame]:
    for one in fit_matmuls.SETS:
        table, form = read_toml(one.file)["matmul"][one.dtype], one.shipped()
        for system in (name for name in one.systems if name in systems):
            rows = matmul_tables.read_matmuls(system, one.library, one.dtype)
            trained = matmul_tables.training_rows(rows, SEED)
            held = draw_rows(rows[~trained], sample)
            measured = matmul_tables.measured_matmuls(held, system, one.library, one.dtype)
            own = fit_matmuls.own_table(table, system) if one.own else fit_matmuls.shared_table(table)
            yield _frame(
                held, (system, "matmul", one.dtype, one.library), sizes=("m", "n", "k"), series=("n", "k"), table=own,
                predicted_s=_seconds_of(measured, form),
                roofline_s=matmul_seconds(
                    _plain(system), m=measured.m, n=measured.n, k=measured.k, dtype=one.dtype.removesuffix("_block")
                ),
                interpolated_s=interpolated_between(rows[trained], held, ["n", "k"], ["m"]),
            )  # fmt: skip


def _seconds_of(measured: Any, form: TiledMatmul) -> Array:
    return np.asarray(measured.time_of(form).seconds)


def _grouped(systems: Collection[str], _operators: Collection[str], sample: int | None) -> Iterator[pd.DataFrame]:
    sizes = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "distribution")
    for one in fit_grouped.SETS:
        table, layer = read_toml(one.file)["grouped_matmul"][one.dtype], one.shipped()
        for system in (name for name in one.systems if name in systems):
            rows = grouped_tables.read_layers(system, one.library, one.kernel, one.dtype)
            unseen = ~grouped_tables.training_rows(rows, SEED)
            faulty = grouped_tables.contradictory_rows(rows, grouped_tables.measured_layers(rows, system, one.dtype))
            for operator, chosen in (("grouped_matmul", ~faulty), ("grouped_matmul_contradictory", faulty)):
                held = draw_rows(rows[unseen & chosen].reset_index(drop=True), sample)
                if not held.empty:
                    measured = grouped_tables.measured_layers(held, system, one.dtype)
                    yield _frame(
                        held, (system, operator, one.dtype, one.library), sizes=sizes, series=sizes[1:5], table=table,
                        predicted_s=measured.latency_s * np.exp(measured.log_errors(layer)),
                        roofline_s=_layer_roofline(_plain(system), measured),
                        interpolated_s=np.full(len(held), np.nan),
                    )  # fmt: skip


def _layer_roofline(cluster: Cluster, measured: Any) -> Array:
    """Two grouped multiplications at the documented efficiencies: gate and up, then down, of the experts in use."""
    efficiency, loads = cluster.efficiency, measured.tokens_of_expert
    pairs, used = loads.sum(axis=1), (loads > 0).sum(axis=1)
    hidden, width = measured.hidden_size, measured.expert_width
    compute_s = 6 * pairs * hidden * width / (measured.peak_flop_per_s * efficiency.matmul)
    weights = grouped_tables.stored_bytes(measured) * 3 * used * hidden * width
    moved = weights + pairs * (measured.operand_bytes * (hidden + width) + 2 * (2 * width + hidden))
    memory_s = moved / (cluster.accelerator.memory_bytes_per_s * efficiency.memory)
    return np.asarray(np.maximum(compute_s, memory_s) + 2 * efficiency.kernel_s)


def _attentions(systems: Collection[str], operators: Collection[str], sample: int | None) -> Iterator[pd.DataFrame]:
    wanted = [one for one in shipped_attention_sets() if one.phase in operators and set(one.systems) & set(systems)]
    for phase in dict.fromkeys(one.phase for one in wanted):
        whole = read_attention(phase)
        for one in (each for each in wanted if each.phase == phase):
            for system in (name for name in one.systems if name in systems):
                rows = one.rows(whole, system, one.shipped())
                for chosen in (rows["window"] == 0, rows["window"] > 0):
                    held = draw_rows(rows[chosen & ~rows["trained"]], sample)
                    if not held.empty:
                        yield _attention_frame(one, system, held, rows[rows["trained"]])


def _attention_frame(one: AttentionSet, system: str, held: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """Attention with a window is another operator: the roofline has none, and goals are without."""
    sizes = ("batch", "query_tokens", "context_tokens", "num_heads", "num_kv_heads", "head_dim", "window")
    cluster, cache = _plain(system), held["kv_dtype"].iloc[0]
    given = {name: held[name].to_numpy(float) for name in sizes[:-1]}
    if one.phase.endswith("decode"):
        given["query_tokens"] = np.ones(len(held))
    operator = f"{one.phase}_window" if (held["window"] > 0).all() else one.phase
    return _frame(
        held, (system, operator, one.types, one.library), sizes=sizes, series=sizes[3:6],
        table=read_toml(one.file)[one.phase][one.types],
        predicted_s=attention_times(cluster.accelerator, one.shipped(), held, one.dtype, cache).seconds,
        roofline_s=attention_seconds(cluster, **given, dtype=one.dtype, kv_dtype=cache),
        interpolated_s=interpolated_between(trained, held, sizes[3:5], [*sizes[:3], *sizes[5:]]),
    )  # fmt: skip


def _collectives(systems: Collection[str], operators: Collection[str], sample: int | None) -> Iterator[pd.DataFrame]:
    rows = nccl_rows()
    held = held_back_runs(rows)
    for (system, op), own in rows.groupby(["system", "op"]):
        if system not in systems or op not in operators:
            continue
        table = read_toml(kernel_file(file_name(system)))[op]
        unseen = draw_rows(own[held[own.index]], sample)
        known = own[~held[own.index] & (own["dtype"] == "half")]
        yield _frame(
            unseen, (system, op, "any", "nccl"), sizes=_GROUP, series=_GROUP, table=table,
            predicted_s=predict({op: CollectiveCoefficients.from_table(table)}, unseen),
            roofline_s=_collective_roofline(system, op, unseen),
            interpolated_s=interpolated_along(known, unseen, "payload_bytes", ["num_devices"]),
        )  # fmt: skip


def _customs(systems: Collection[str], _operators: Collection[str], sample: int | None) -> Iterator[pd.DataFrame]:
    rows = custom_all_reduce_rows()
    for one in CUSTOM_SETS:
        if not set(one.systems) & set(systems):
            continue
        own = engine_rows(rows, one)
        rest, predicted_s = alternate_predictions(own, one.limit_bytes)
        for system in (name for name in one.systems if name in systems):
            mine = draw_rows(rest.assign(predicted_s=predicted_s)[(rest["system"] == system).to_numpy()], sample)
            table = read_toml(kernel_file(file_name(system)))["custom_all_reduce"][one.library]
            yield _frame(
                mine, (system, "custom_all_reduce", "bf16", one.library), sizes=_GROUP,
                series=_GROUP, table=table, predicted_s=mine["predicted_s"].to_numpy(),
                roofline_s=_collective_roofline(system, "all_reduce", mine),
                interpolated_s=_between_neighbours(own[own["system"] == system], mine),
            )  # fmt: skip


def _experts(systems: Collection[str], _operators: Collection[str], sample: int | None) -> Iterator[pd.DataFrame]:
    rows = split_expert_rows()
    for (system, kernel, phase), own in rows[rows["held"]].groupby(["system", "kernel", "phase"]):
        if system in systems:
            held, cluster = draw_rows(own, sample), _plain(system)
            table = read_toml(kernel_file(file_name(system)))["expert_all_to_all"][f"deepep_{kernel}"][phase]
            wire_s = held["sent_bytes"] / (held["bytes_per_s"] * cluster.efficiency.network)
            yield _frame(
                held, (system, "expert_all_to_all", f"{kernel} {phase}", "deepep"),
                sizes=("sent_bytes", "num_experts", "sms"), series=("sent_bytes", "num_experts"), table=table,
                predicted_s=predict_expert_all_to_all(ExpertAllToAllCoefficients.from_table(table), held),
                roofline_s=wire_s.to_numpy() + cluster.efficiency.collective_s,
                interpolated_s=np.full(len(held), np.nan),
            )  # fmt: skip


def _between_neighbours(own: pd.DataFrame, wanted: pd.DataFrame) -> Array:
    """Interpolate every other payload from those between."""
    parity, mine = (np.log2(frame["payload_bytes"]).round().astype(int) % 2 for frame in (own, wanted))
    seconds = np.full(len(wanted), np.nan)
    for phase in (0, 1):
        chosen = (mine == phase).to_numpy()
        seconds[chosen] = interpolated_along(own[parity != phase], wanted[chosen], "payload_bytes", ["num_devices"])
    return seconds


def _collective_roofline(system: str, op: str, rows: pd.DataFrame) -> Array:
    cluster, seconds = _plain(system), np.empty(len(rows))
    for members, index in rows.groupby("num_devices").indices.items():
        payload = rows["payload_bytes"].to_numpy(float)[index]
        group = dataclasses.replace(cluster, num_devices=max(cluster.num_devices, int(members)))
        seconds[index] = collective_seconds(group, kind=op, payload_bytes=payload, group_size=int(members))
    return seconds


def _plain(system: str) -> Cluster:
    """A cluster without coefficients, which documented efficiencies price."""
    return dataclasses.replace(load_cluster(PROFILES[system]), kernels="", coefficients=FrozenDict())


def draw_rows(rows: pd.DataFrame, sample: int | None) -> pd.DataFrame:
    """Draw some rows, in the order of the table."""
    if sample is None or len(rows) <= sample:
        return rows
    return rows.iloc[np.sort(np.random.default_rng(SEED).choice(len(rows), sample, replace=False))]


def _frame(
    rows: pd.DataFrame, about: tuple[str, str, str, str], *, sizes: tuple[str, ...], series: tuple[str, ...],
    table: Mapping[str, Any], **seconds: Array,
) -> pd.DataFrame:  # fmt: skip
    """Lay predictions beside measurements."""
    import pandas as pd

    low, high = error_range(table) or (np.nan, np.nan)

    def words(names: tuple[str, ...]) -> list[str]:
        return [
            ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
            for values in rows[list(names)].itertuples(index=False, name=None)
        ]

    return pd.DataFrame(
        {
            **dict(zip(COLUMNS, about, strict=False)), "sizes": words(sizes),
            "series": words(series), "latency_s": rows["latency_s"].to_numpy(float), **seconds, "range_low": low,
            "range_high": high,
        }
    )  # fmt: skip


_Producer = Callable[[Collection[str], Collection[str], int | None], Iterator["pd.DataFrame"]]
_OPERATORS: dict[str, _Producer] = {
    "matmul": _matmuls, "grouped_matmul": _grouped, **dict.fromkeys(PHASES, _attentions),
    **dict.fromkeys(NCCL, _collectives), "custom_all_reduce": _customs,
    "expert_all_to_all": _experts,
}  # fmt: skip
OPERATORS = tuple(_OPERATORS)
"""What can be validated."""
