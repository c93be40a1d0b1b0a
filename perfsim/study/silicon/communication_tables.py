"""The public tables of collectives and quantisers as tidy frames: one row a measurement, SI units, faults left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perfsim.cost.expert_all_to_all import expert_all_to_all_bytes
from perfsim.study.silicon.systems import tables_folder

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LINK_BYTES_PER_S", "custom_all_reduce_rows", "expert_rows", "nccl_rows", "quantiser_rows",
]  # fmt: skip

LINK_BYTES_PER_S = {
    "a100_sxm": 300e9, "h100_sxm": 450e9, "h200_sxm": 450e9, "b200_sxm": 900e9, "b300_sxm": 900e9, "gb200": 900e9,
    "gb300": 900e9, "l40s": 31.5e9, "rtx_pro_6000_server": 63e9,
}  # fmt: skip
"""Datasheet bytes/s of one device in one direction: NVLink, and PCIe for the last two, as in the hardware profiles."""

_NCCL_VERSION = {"a100_sxm": "2.27.3", "l40s": "2.27.3"}
_NEWEST_NCCL = "2.29.2"
_DEEPEP = {"systems": ("h100_sxm", "h200_sxm", "b200_sxm", "b300_sxm", "gb200", "gb300"), "version": "0.5.12"}
_DEVICES_OF_A_NODE = {"gb200": 4, "gb300": 4}
_EXPERT_TIMES = {
    ("low_latency", "dispatch"): "dispatch_avg_t_us",
    ("low_latency", "combine"): "combine_avg_t_us",
    ("high_throughput", "dispatch"): "dispatch_transmit_us",
    ("high_throughput", "combine"): "combine_transmit_us",
}
_FP8_WITH_SCALES, _BF16 = 1 + 4 / 128, 2.0
_SAME_ROWS = 40
"""Tables whose first rows agree in this many latencies are copies of one another."""


def _tables(pattern: str) -> Iterator[tuple[str, Path, pd.DataFrame]]:
    """Every table of the known systems whose path fits, in a fixed order."""
    import pandas as pd

    for system in LINK_BYTES_PER_S:
        for path in sorted((tables_folder() / system).glob(pattern)):
            yield system, path, pd.read_parquet(path)


def nccl_rows() -> pd.DataFrame:
    """NCCL inside a node, by nccl-tests, of the one library version that counts for a system.

    Columns: system, op, num_devices, payload_bytes, latency_s, bytes_per_s, dtype (``half`` or ``int8``), run. A file
    may hold several runs, and its folder may be named after another version: the column ``version`` decides.
    """
    import pandas as pd

    frames = []
    for system, path, whole in _tables("comm/*/*/nccl_perf.parquet"):
        if "version" not in whole:
            continue
        table = whole[whole["version"] == _NCCL_VERSION.get(system, _NEWEST_NCCL)]
        repeat = table.groupby(["op_name", "nccl_dtype", "num_gpus", "message_size"]).cumcount()
        frames.append(
            pd.DataFrame(
                {
                    "system": system,
                    "op": table["op_name"].replace({"alltoall": "all_to_all"}),
                    "num_devices": table["num_gpus"].astype(int),
                    "payload_bytes": table["message_size"] * table["nccl_dtype"].map({"half": 2, "int8": 1}),
                    "latency_s": table["latency"] * 1e-3,
                    "bytes_per_s": LINK_BYTES_PER_S[system],
                    "dtype": table["nccl_dtype"],
                    "run": [f"{path.parent.parent.name}/{path.parent.name}#{number}" for number in repeat],
                }
            )
        )
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def custom_all_reduce_rows() -> pd.DataFrame:
    """The serving engines' all-reduce.

    Columns: system, library, version, op, num_devices, payload_bytes, latency_s, bytes_per_s, mode (``graph`` or
    ``eager``). Left out are rows in a folder of one engine that another one made, and copies of another folder.
    """
    import pandas as pd

    frames, seen = [], set()
    for system, path, table in _tables("comm/*/*/custom_allreduce_perf.parquet"):
        library = path.parent.parent.name
        fingerprint = (system, tuple(table["latency"].head(_SAME_ROWS)))
        if fingerprint in seen or not table["kernel_source"].str.lower().str.startswith(library).all():
            continue
        seen.add(fingerprint)
        backend = table["backend"] if "backend" in table else pd.Series("graph", index=table.index)
        frames.append(
            pd.DataFrame(
                {
                    "system": system,
                    "library": library,
                    "version": path.parent.name,
                    "op": "all_reduce",
                    "num_devices": table["num_gpus"].astype(int),
                    "payload_bytes": table["message_size"] * 2,
                    "latency_s": table["latency"] * 1e-3,
                    "bytes_per_s": LINK_BYTES_PER_S[system],
                    "mode": np.where(backend.str.contains("eager"), "eager", "graph"),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def quantiser_rows() -> pd.DataFrame:
    """The quantisers from bf16 to fp8.

    Columns: system, library, table (``scale_matrix`` applies a scale, ``computescale`` finds it), rows, columns,
    latency_s.
    """
    import pandas as pd

    frames = []
    for system, path, whole in _tables("quantize/*/*/*_perf.parquet"):
        # A scale found in no time is a difference of two timings that came out negative.
        table = whole[whole["latency"] > 0]
        frames.append(
            pd.DataFrame(
                {
                    "system": system,
                    "library": path.parent.parent.name,
                    "table": path.name.removesuffix("_perf.parquet"),
                    "rows": table["m"],
                    "columns": table["k"],
                    "latency_s": table["latency"] * 1e-3,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def expert_rows() -> pd.DataFrame:
    """DeepEP inside one node.

    Columns: system, kernel (``low_latency`` or ``high_throughput``), phase (``dispatch`` or ``combine``), sent_bytes,
    num_experts, sms, latency_s, bytes_per_s.
    """
    import pandas as pd

    frames = []
    for system in _DEEPEP["systems"]:
        folder = tables_folder() / system / "comm" / "sglang" / str(_DEEPEP["version"])
        for (kernel, phase), column in _EXPERT_TIMES.items():
            name = "ll" if kernel == "low_latency" else "normal"
            table = pd.read_parquet(folder / f"wideep_deepep_{name}_perf.parquet")
            sent = expert_all_to_all_bytes(
                table["num_token"], table["hidden_size"], table["num_topk"], _DEVICES_OF_A_NODE.get(system, 8),
                element_bytes=_FP8_WITH_SCALES if phase == "dispatch" else _BF16,
                one_copy_a_rank=kernel == "high_throughput",
            )  # fmt: skip
            frames.append(
                pd.DataFrame(
                    {
                        "system": system,
                        "kernel": kernel,
                        "phase": phase,
                        "sent_bytes": sent,
                        "num_experts": table["num_experts"],
                        "sms": table[f"{phase}_sms"] if kernel == "high_throughput" else np.inf,
                        "latency_s": table[column] * 1e-6,
                        "bytes_per_s": LINK_BYTES_PER_S[system],
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)
