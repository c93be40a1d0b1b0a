"""The public tables of attention, as tidy frames, split into rows to fit and rows to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfsim.cost.attention_forms import grouped_query_sizes
from perfsim.errors import InputError
from perfsim.ops.operators import Attention
from perfsim.study.silicon.matmul_tables import version_of
from perfsim.study.silicon.systems import PROFILES, tables_folder

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LIBRARIES", "read_attention", "some_rows", "training_rows"]

LIBRARIES = ("trtllm", "vllm", "sglang")

_SYSTEMS = (*PROFILES, "b300_sxm", "gb300")
_TABLES = {"prefill": "context", "decode": "generation"}
_LATENT_TABLES = {"latent_prefill": "context_mla_perf", "latent_decode": "generation_mla_perf"}
_LATENT_LIBRARIES = ("trtllm", "sglang")
_RANK, _ROTARY, _HEAD = 512, 64, 128
"""Widths of DeepSeek-V3: of the latent vector, of the part with the position, and of a head."""
_DTYPES = {"bfloat16": "bf16", "fp8": "fp8"}
_ALWAYS_TRAINED = ((32, 8), (8, 1))
"""Configurations that the forms were drawn from: they cannot judge them."""
_ALSO_TRAINED = {"decode": ((64, 1),)}
"""Without (64, 1) no row of Blackwell's kernel for groups above 32 could be fitted."""


def read_attention(phase: str) -> pd.DataFrame:
    """Read the tables of a phase, of all systems and libraries.

    Parameters
    ----------
    phase : str
        ``prefill``, ``decode``, or one of latent attention: ``latent_prefill``, ``latent_decode``.

    Returns
    -------
    DataFrame
        The columns of `perfsim.cost.calibration.attention`, and ``system``, ``library``, ``kernel`` (what the table
        calls it), ``dtype``, ``kv_dtype`` and ``trained``.

    Raises
    ------
    InputError
        The package with the tables is not installed, or lacks one of them.
    """
    import pandas as pd

    if phase in _LATENT_TABLES:
        frames = [_read_latent(phase, system, library) for system in _SYSTEMS for library in _LATENT_LIBRARIES]
    else:
        frames = [_read(phase, system, library) for system in _SYSTEMS for library in LIBRARIES]
    rows = pd.concat([frame for frame in frames if frame is not None], ignore_index=True)
    if phase.endswith("prefill"):  # the tables' rows of one new token ran a decode kernel
        rows = rows[rows["query_tokens"] > 1].reset_index(drop=True)
    return rows.assign(trained=training_rows(rows, _ALSO_TRAINED.get(phase, ())))


def _read_latent(phase: str, system: str, library: str) -> pd.DataFrame | None:
    """Latent attention of DeepSeek-V3, in the sizes of `grouped_query_sizes`; repeated rows count once.

    Not every system has these tables: vLLM's are of whole layers, SGLang's of L40S is of no kernel that anyone serves.
    """
    import pandas as pd

    path = tables_folder() / system / "mla" / library / version_of(system, library)
    if not (path / f"{_LATENT_TABLES[phase]}.parquet").is_file():
        return None
    raw = pd.read_parquet(path / f"{_LATENT_TABLES[phase]}.parquet")
    keys = ["kernel_source", "mla_dtype", "kv_cache_dtype", "num_heads", "batch_size", "isl", "step"]
    raw = raw.groupby(keys, as_index=False)["latency"].mean()
    query, context, heads = raw["isl"].to_numpy(), (raw["isl"] + raw["step"]).to_numpy(), raw["num_heads"].to_numpy()
    widths: dict[str, Any]
    if phase == "latent_decode":
        widths = {"num_kv_heads": 1, "head_dim": _RANK + _ROTARY, "value_dim": _RANK, "latent": True}
    else:
        widths = {"num_kv_heads": heads, "head_dim": _HEAD + _ROTARY, "value_dim": _HEAD}
    work = Attention(
        sequences=raw["batch_size"].to_numpy(), query_tokens=query, context_tokens=context, num_heads=heads,
        dtype="bf16", kv_dtype="bf16", **widths,
    )  # fmt: skip
    return pd.DataFrame(
        {
            "system": system,
            "library": library,
            "kernel": raw["kernel_source"],
            "dtype": raw["mla_dtype"].map(_DTYPES),
            "kv_dtype": raw["kv_cache_dtype"].map(_DTYPES),
            **grouped_query_sizes(work),
            "window": 0,
            "latency_s": raw["latency"] * 1e-3,
        }
    )


def _read(phase: str, system: str, library: str) -> pd.DataFrame:
    import pandas as pd

    version = version_of(system, library)
    path = tables_folder() / system / "attention" / library / version / f"{_TABLES[phase]}_attention_perf.parquet"
    if not path.is_file():
        raise InputError.of("library", library, f"has no {phase} table of {system} and version {version}")
    raw = pd.read_parquet(path)
    return pd.DataFrame(
        {
            "system": system,
            "library": library,
            "kernel": raw["kernel_source"],
            "dtype": raw["attn_dtype"].map(_DTYPES),
            "kv_dtype": raw["kv_cache_dtype"].map(_DTYPES),
            "batch": raw["batch_size"].astype(int),
            "query_tokens": raw["isl"].astype(int),
            "context_tokens": (raw["isl"] + raw["step"]).astype(int),
            "num_heads": raw["num_heads"].astype(int),
            "num_kv_heads": raw["num_key_value_heads"].astype(int),
            "head_dim": raw["head_dim"].astype(int),
            "window": raw["window_size"].fillna(0).astype(int) if "window_size" in raw else 0,
            "latency_s": raw["latency"] * 1e-3,
        }
    )


def training_rows(rows: pd.DataFrame, also: Sequence[tuple[int, int]] = (), seed: int = 0) -> NDArray[np.bool_]:
    """Mark the rows to fit: of each head dimension half of the configurations (heads, KV heads), with all their sizes.

    Parameters
    ----------
    rows : DataFrame
        Of all systems and libraries, so that a configuration is on the same side everywhere.
    also : sequence of tuple
        Configurations that are fitted beside that half.
    seed : int
    """
    key = (rows["num_heads"] * 1000 + rows["num_kv_heads"]).to_numpy()
    known = np.unique(key)
    rank = dict(zip(known, np.random.default_rng(seed).permutation(len(known)), strict=True))
    always, more = ({heads * 1000 + kv_heads for heads, kv_heads in pairs} for pairs in (_ALWAYS_TRAINED, also))
    trained = np.zeros(len(rows), bool)
    for index in rows.groupby("head_dim").indices.values():
        order = sorted(np.unique(key[index]), key=lambda pair: (pair not in always, rank[pair]))
        trained[index] = np.isin(key[index], [*order[: (len(order) + 1) // 2], *more])
    return trained


def some_rows(rows: pd.DataFrame, count: int, windowed: int, seed: int = 0) -> pd.DataFrame:
    """Draw at most `count` rows of each system and head dimension, and `windowed` more that have a window."""
    generator, kept = np.random.default_rng(seed), []
    for _, group in rows.groupby(["system", "head_dim"]):
        has_window = group["window"] > 0
        for part, most in ((group[~has_window], count), (group[has_window], windowed)):
            kept.append(part.index.to_numpy()[np.sort(generator.permutation(len(part))[:most])])
    return rows.loc[np.sort(np.concatenate(kept))]
