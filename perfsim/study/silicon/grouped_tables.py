"""The public tables of mixtures of experts, as tidy frames, split into rows to fit and rows to judge by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.calibration.grouped_matmul import MeasuredLayers
from perfsim.errors import InputError
from perfsim.ops.operators import ELEMENT_BYTES
from perfsim.study.silicon.matmul_tables import TABLE_DTYPES, version_of
from perfsim.study.silicon.systems import accelerator_of, tables_folder

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["contradictory_rows", "expert_loads", "measured_layers", "read_layers", "training_rows"]

Array = NDArray[np.float64]

_CONFIGURATION = ["hidden_size", "inter_size", "topk", "num_experts"]
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
    kept = (table["kernel_source"] == kernel) & (table["moe_dtype"] == TABLE_DTYPES[dtype])
    table = table[kept & (table["moe_ep_size"] == 1) & (table["version"] == version)]
    names = ["num_tokens", *_CONFIGURATION, "moe_tp_size", "distribution"]
    tidy = table[names].assign(latency_s=table["latency"] * 1e-3)
    return tidy.groupby(names, as_index=False)["latency_s"].mean()


def contradictory_rows(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Mark rows of series that take longer than another series of their own table allows.

    Splitting the experts over p times the devices can neither take longer nor gain more than a factor of p. A series (a
    configuration, a distribution, a split) that is slower than another split allows by half, in the median over its
    tokens, was not measured with the kernel of the others. This looks at measurements alone, at no prediction.
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
    return np.array([key in faulty for key in keys])


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
    size = "fp8" if dtype == "fp8_block" else dtype
    chip = accelerator_of(system)
    hidden, experts, latency_s = (table[name].to_numpy(float) for name in ("hidden_size", "num_experts", "latency_s"))
    width = table["inter_size"].to_numpy(float) / table["moe_tp_size"].to_numpy(float)
    return MeasuredLayers(
        chip, loads, hidden, width, experts, latency_s, chip.peak_flop_per_s[size], ELEMENT_BYTES[size]
    )


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
