"""The public tables of mixtures of experts, as tidy frames, split into rows to fit and rows to judge by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.calibration.grouped_matmul import MeasuredLayers
from perfsim.cost.grouped_matmul import GroupedMatmul, LayerLoads, grouped_matmul_of_loads
from perfsim.errors import InputError
from perfsim.ops.operators import ELEMENT_BYTES
from perfsim.study.silicon.matmul_tables import TABLE_DTYPES, version_of
from perfsim.study.silicon.systems import accelerator_of, tables_folder

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "PackedLayers", "contradictory_rows", "expert_loads", "measured_layers", "read_layers", "stored_bytes",
    "training_rows",
]  # fmt: skip

Array = NDArray[np.float64]

_DTYPES = {**TABLE_DTYPES, "bf16-fp4": "w4a16_mxfp4", "fp8-fp4": "w4a8_mxfp4_mxfp8"}
"""The tables' own names; behind a hyphen is how weights are stored that a kernel unpacks."""

_CONFIGURATION = ["hidden_size", "inter_size", "topk", "num_experts"]
_UNGATED = {
    (2688, 1856, 6, 128), (1024, 2688, 22, 512), (4096, 2688, 22, 512), (2048, 5120, 22, 512), (8192, 5120, 22, 512),
}  # fmt: skip
"""Configurations of models without a gate (Nemotron-H): not all libraries have another name for their kernels."""

_SLACK = 1.5


def read_layers(system: str, library: str, kernel: str, dtype: str) -> pd.DataFrame:
    """Read one public table: gated experts without expert parallelism (the tables' loads of the others are faulty).

    Returns
    -------
    DataFrame
        ``num_tokens``, ``hidden_size``, ``inter_size``, ``topk``, ``num_experts``, ``moe_tp_size``, ``distribution``,
        ``latency_s``.

    Raises
    ------
    InputError
        The package with the tables is not installed, or has no such table.
    """
    import pandas as pd

    version = version_of(system, library)
    path = tables_folder() / system / "moe" / library / version / "moe_perf.parquet"
    if not path.is_file():
        raise InputError.of("system", system, f"must have a table of {library} {version}, and has none")
    table = pd.read_parquet(path)
    kept = (table["kernel_source"] == kernel) & (table["moe_dtype"] == _DTYPES[dtype])
    table = table[kept & (table["moe_ep_size"] == 1) & (table["version"] == version)]
    configurations = table[_CONFIGURATION].itertuples(index=False, name=None)
    table = table[[configuration not in _UNGATED for configuration in configurations]]
    names = ["num_tokens", *_CONFIGURATION, "moe_tp_size", "distribution"]
    tidy = table[names].assign(latency_s=table["latency"] * 1e-3)
    return tidy.groupby(names, as_index=False)["latency_s"].mean()


def contradictory_rows(table: pd.DataFrame, measured: MeasuredLayers) -> NDArray[np.bool_]:
    """Mark rows of series that contradict their own table or the speed of light.

    Splitting the experts over p times the devices can neither take longer nor gain more than a factor of p. A series (a
    configuration, a distribution, a split) that is slower than another split allows by half, in the median over its
    tokens, was not measured with the kernel of the others. And where a configuration reads the weights of the experts
    that its distribution uses, beyond what L2 holds, faster than memory gives them by half, fewer experts were used:
    all its splits had other loads. This looks at measurements and the datasheet alone, at no prediction.

    Parameters
    ----------
    table : DataFrame
        Of `read_layers`.
    measured : MeasuredLayers
        What `measured_layers` makes of it.
    """
    model = [*_CONFIGURATION, "distribution"]
    wide = table.pivot_table(index=[*model, "num_tokens"], columns="moe_tp_size", values="latency_s")
    faulty = set()
    for slow in wide.columns:
        for other in wide.columns.drop(slow):
            excess = wide[slow] / (wide[other] * max(1.0, other / slow))
            excess = excess.groupby(level=model).median()
            faulty |= {(*series, slow) for series in excess.index[excess > _SLACK]}
    keys = zip(*(table[name] for name in [*model, "moe_tp_size"]), strict=True)
    slow_rows = np.array([key in faulty for key in keys])
    excess = table.assign(excess=_weights_s(measured) / measured.latency_s).groupby(model)["excess"].transform("max")
    return np.asarray(slow_rows | (excess > _SLACK))


def _weights_s(measured: MeasuredLayers) -> Array:
    """Least time to read the weights of the experts in use that cannot lie in L2."""
    used = (measured.tokens_of_expert > 0).sum(axis=1)
    weights = 3 * used * measured.hidden_size * measured.expert_width * stored_bytes(measured)
    return (weights - measured.chip.l2_bytes) / measured.chip.memory_bytes_per_s


def training_rows(table: pd.DataFrame, seed: int = 0) -> NDArray[np.bool_]:
    """Mark the rows to fit: those of a random half of the configurations."""
    configurations = table[_CONFIGURATION].drop_duplicates().sort_values(_CONFIGURATION, ignore_index=True)
    order = np.random.default_rng(seed).permutation(len(configurations))
    trained = configurations.iloc[order[: (len(order) + 1) // 2]].assign(trained=True)
    return np.asarray(table[_CONFIGURATION].merge(trained, how="left", on=_CONFIGURATION)["trained"].notna())


def measured_layers(table: pd.DataFrame, system: str, dtype: str) -> MeasuredLayers:
    """Make a table's rows ready for the fit, with the device and the loads that the tables' routers gave."""
    most = int(table["num_experts"].max())
    loads = np.zeros((len(table), most))
    keys = ["num_tokens", "topk", "num_experts", "distribution"]
    for (tokens, top_k, experts, distribution), rows in table.groupby(keys).indices.items():
        power = None if distribution == "balanced" else float(distribution.removeprefix("power_law_"))
        loads[rows, :experts] = expert_loads(int(tokens), int(experts), int(top_k), power=power)
    size, _, stored = dtype.removesuffix("_block").partition("-")
    chip = accelerator_of(system)
    hidden, experts, latency_s = (table[name].to_numpy(float) for name in ("hidden_size", "num_experts", "latency_s"))
    width = table["inter_size"].to_numpy(float) / table["moe_tp_size"].to_numpy(float)
    about = chip, loads, hidden, width, experts, latency_s, chip.peak_flop_per_s[size], ELEMENT_BYTES[size]
    return PackedLayers(*about, weight_bytes=ELEMENT_BYTES[stored]) if stored else MeasuredLayers(*about)


def stored_bytes(measured: MeasuredLayers) -> float:
    """Bytes of a weight's element in memory."""
    return measured.weight_bytes if isinstance(measured, PackedLayers) else measured.operand_bytes


@dataclass(frozen=True)
class PackedLayers(MeasuredLayers):
    """Measurements of kernels that unpack weights: an element has `weight_bytes` in memory."""

    weight_bytes: float = 2.0

    def log_errors(self, layer: GroupedMatmul) -> Array:
        """Give log(predicted / measured) of each row."""
        counts = self.tokens_of_expert
        loads = LayerLoads(
            counts.sum(axis=1), (counts > 0).sum(axis=1), self.num_experts,
            lambda rows: np.maximum(np.ceil(counts / rows).sum(axis=1), 1.0),
        )  # fmt: skip
        time = grouped_matmul_of_loads(
            self.chip, layer, loads, self.hidden_size, self.expert_width, peak_flop_per_s=self.peak_flop_per_s,
            operand_bytes=self.operand_bytes, weight_bytes=self.weight_bytes, weights_in_l2=self.weights_in_l2,
        )  # fmt: skip
        return np.asarray(np.log(time.seconds / self.latency_s))


def expert_loads(tokens: int, num_experts: int, top_k: int, *, power: float | None = None) -> Array:
    """Tokens that each expert gets, most loaded first.

    Parameters
    ----------
    tokens : int
        Before routing; each goes to `top_k` experts.
    num_experts, top_k : int
    power : float, optional
        Exponent of a power law of the loads, as the public tables have it; None for balanced loads.

    Examples
    --------
    >>> expert_loads(3, 8, 2)
    array([1., 1., 1., 1., 1., 1., 0., 0.])
    >>> expert_loads(64, 8, 2, power=1.2)
    array([56., 30., 17., 10.,  6.,  4.,  3.,  2.])
    """
    pairs = tokens * top_k
    if power is None:
        each, rest = divmod(pairs, num_experts)
        return np.where(np.arange(num_experts) < rest, each + 1.0, float(each))
    low, high = (1.0, 0.8 * tokens) if pairs > num_experts else (0.01, 2.0)
    quantile = (np.arange(num_experts) + 0.5) / num_experts
    slope = 1 - power
    drawn = np.sort((low**slope + quantile * (high**slope - low**slope)) ** (1 / slope))[::-1]
    counts = np.minimum(np.round(drawn * (pairs / drawn.sum())), tokens)
    gap = int(pairs - counts.sum())
    while gap:  # what rounding and the cap took goes to the emptiest, what they added comes from the fullest
        index = int(counts.argmin() if gap > 0 else counts.argmax())
        counts[index] += np.sign(gap)
        gap -= int(np.sign(gap))
    return np.sort(counts)[::-1]
