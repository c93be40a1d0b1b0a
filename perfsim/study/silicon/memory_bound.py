"""The file of memory-bound kernels' coefficients, ``memory-bound.toml``: one table a device and class of kernels.

Quantisers are fitted to the public tables with half of the widths held back (seed 0). Siblings share coefficients where
that costs less than half a point of error. Norms, activations and additions have no public table there; theirs are fits
to the kernel times of Vidur's profiles (https://github.com/microsoft/vidur), which have A100, H100 and A40. The error
beside them is that of the held-out half. Other devices take the nearest one's, with their own bandwidth.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from perfsim.cost.calibration.memory_bound import fit_memory_bound
from perfsim.cost.memory_bound import MemoryBoundCoefficients, memory_bound_time
from perfsim.cost.protocols import Floats
from perfsim.spec.hardware import Accelerator
from perfsim.study.silicon.communication import scores_by_system
from perfsim.study.silicon.communication_tables import quantiser_rows
from perfsim.study.silicon.kernel_files import merge_into
from perfsim.study.silicon.systems import DATA, accelerator_of, kernel_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_memory_bound"]

SEED = 0
MOST_FOR_SHARING = 0.5
"""Points of error that a set for several devices may cost."""

_FAMILIES = (("h100_sxm", "h200_sxm"), ("b200_sxm", "gb200"), ("l40s",))
_QUANTISERS = {
    ("trtllm", "scale_matrix"): ("trtllm_quantise_static", 3),
    ("trtllm", "computescale"): ("trtllm_quantise_scale", 2),
    ("vllm", "scale_matrix"): ("vllm_quantise_static", 3),
    ("sglang", "scale_matrix"): ("sglang_quantise_block", 3),
}
"""Class of each library's table, and bytes that it reads and writes for an element."""


class _Published(NamedTuple):
    """What a class of kernels reaches, and the error on the held-out half, in percent."""

    fixed_s: float
    efficiency: float
    sharpness: float
    mape: float


# The addition on H100 was fitted at 1.02 of the datasheet's bandwidth; nothing is faster than that here.
_PUBLISHED = {
    "a100_sxm": {
        "norm": _Published(5.8e-6, 0.36, 3.3, 11),
        "gated_activation": _Published(3.3e-6, 0.48, 1.7, 8),
        "rope": _Published(3.1e-6, 0.43, 1.5, 8),
        "add": _Published(2.2e-6, 0.90, 2.1, 9),
        "embedding": _Published(4.3e-6, 0.15, 1.7, 5),
    },
    "h100_sxm": {
        "norm": _Published(5.4e-6, 0.39, 3.4, 13),
        "gated_activation": _Published(2.1e-6, 0.57, 1.1, 9),
        "rope": _Published(2.6e-6, 0.48, 1.5, 9),
        "add": _Published(1.9e-6, 1.00, 2.1, 9),
        "embedding": _Published(3.5e-6, 0.18, 1.4, 5),
    },
    "a40": {
        "norm": _Published(5.4e-6, 0.58, 4.1, 7),
        "gated_activation": _Published(3.0e-6, 0.76, 5.7, 7),
        "rope": _Published(2.8e-6, 0.76, 5.9, 10),
        "add": _Published(1.0e-6, 0.85, 2.6, 11),
        "embedding": _Published(3.2e-6, 0.50, 1.5, 5),
    },
}
_NEAREST = {
    "a100_sxm": "a100_sxm", "h100_sxm": "h100_sxm", "h200_sxm": "h100_sxm", "b200_sxm": "h100_sxm",
    "gb200": "h100_sxm", "l40s": "a40",
}  # fmt: skip
"""Whose published coefficients a device takes."""


def write_memory_bound(folder: Path | None = None) -> Path:
    """Fit and write the coefficients of every device, in seconds.

    Parameters
    ----------
    folder : Path, optional
        Where to write; the shipped coefficient files when left out.
    """
    path = kernel_file("memory-bound") if folder is None else folder / "memory-bound.toml"
    tables = {
        f"{_device(system)}.{name}": table for part in (_published(), _quantisers()) for system, name, table in part
    }
    merge_into(path, tables, data=DATA)
    return path


def _device(system: str) -> str:
    return system.removesuffix("_sxm")


def _published() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for system, nearest in _NEAREST.items():
        for name, known in _PUBLISHED[nearest].items():
            coefficients = MemoryBoundCoefficients(known.fixed_s, known.efficiency, known.sharpness)
            data = f"Vidur's kernel profiles of {nearest}, rounded to 1 us, without the gaps of a CUDA graph"
            yield (
                system,
                name,
                {**coefficients.to_table(), "fit": {"data": data, "errors": {nearest: {"mape": known.mape}}}},
            )


def _quantisers() -> Iterator[tuple[str, str, dict[str, Any]]]:
    rows = quantiser_rows()
    accelerators = {system: accelerator_of(system) for family in _FAMILIES for system in family}
    # The widths of all systems, so that the same ones are held back whichever are fitted.
    widths = np.sort(rows["columns"].unique())
    held_widths = np.random.default_rng(SEED).choice(widths, widths.size // 2, replace=False)
    for (library, table), (name, element_bytes) in _QUANTISERS.items():
        own = rows[(rows["library"] == library) & (rows["table"] == table)]
        own = own.assign(
            moved_bytes=own["rows"] * own["columns"] * float(element_bytes), held=own["columns"].isin(held_widths)
        )
        for family in _FAMILIES:
            shared = _Fit(own[own["system"].isin(family)], accelerators)
            alone = {system: _Fit(own[own["system"] == system], accelerators) for system in family}
            cost = np.mean([shared.errors[system]["mape"] - alone[system].errors[system]["mape"] for system in family])
            for system in family:
                yield system, name, (shared if cost <= MOST_FOR_SHARING else alone[system]).table(system, library)


class _Fit:
    """A fit of one class of kernels on some devices, and its errors on the widths held back."""

    def __init__(self, rows: pd.DataFrame, accelerators: dict[str, Accelerator]) -> None:
        self.known, self.unknown = rows[~rows["held"]], rows[rows["held"]]
        self.coefficients, self.undetermined = fit_memory_bound(self.known, accelerators)
        self.errors = scores_by_system(self.unknown, self._predict(accelerators))

    def _predict(self, accelerators: dict[str, Accelerator]) -> Floats:
        seconds, moved = np.empty(len(self.unknown)), self.unknown["moved_bytes"].to_numpy(float)
        for system, index in self.unknown.groupby("system").indices.items():
            accelerator = accelerators[system]
            seconds[index] = memory_bound_time(accelerator, self.coefficients, moved[index], in_l2=True).seconds
        return seconds

    def table(self, system: str, library: str) -> dict[str, Any]:
        fit = {
            "data": f"{DATA}, {library}, operands in L2, {' and '.join(self.known['system'].unique())}",
            "rows_used": len(self.known),
            "rows_held_back": len(self.unknown),
            "seed": SEED,
            "undetermined": self.undetermined,
            "errors": {system: self.errors[system]},
        }
        return {**self.coefficients.to_table(), "fit": fit}
