"""Kernels bound by memory: a fixed time against bytes at a part of the bandwidth.

A streaming kernel takes

    T = (fixed_s^p + W^p)^(1/p),     W = bytes (1 - h + h / l2_speedup) / (efficiency bandwidth)

`bytes` is what it reads and writes. The soft maximum with sharpness p lets start-up and streaming overlap: 1 adds both,
infinity takes the longer one. h is the part that the last-level cache serves: 0 when the operands come cold from memory
(the default), else a step at the size of the cache, h = 1 / (1 + (bytes / l2)^8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from perfsim.cost.protocols import NOT_COEFFICIENTS, Floats
from perfsim.errors import Faults
from perfsim.spec.hardware import Accelerator
from perfsim.spec.tables import build

__all__ = ["CLASSES", "MemoryBoundCoefficients", "MemoryBoundTime", "memory_bound_time"]

CLASSES = {
    "layernorm": "norm", "rmsnorm": "norm", "topk": "norm", "gelu": "gated_activation", "silu": "gated_activation",
    "relu": "gated_activation", "gated": "gated_activation", "swiglu": "gated_activation", "rope": "rope",
    "rotary": "rope", "add": "add", "embedding": "embedding",
}  # fmt: skip
"""Which class of kernels prices an operator."""

_CACHE_STEP = 8


@dataclass(frozen=True)
class MemoryBoundCoefficients:
    """What one class of streaming kernels reaches.

    Attributes
    ----------
    fixed_s : float
        Time of an empty kernel.
    efficiency : float
        Fraction of the datasheet bandwidth of device memory.
    sharpness : float
        Exponent of the soft maximum, at least 1.
    l2_speedup : float
        Bandwidth of the last-level cache in units of the kernel's own from device memory, at least 1.
    includes_gap : bool
        Whether `fixed_s` was measured in a replayed CUDA graph and so has the gap between its kernels inside.

    Examples
    --------
    >>> MemoryBoundCoefficients.from_table({"fixed_s": 2e-6, "efficiency": 0.8, "source": "calibrated"}).sharpness
    2.0
    """

    fixed_s: float
    efficiency: float
    sharpness: float = 2.0
    l2_speedup: float = 1.0
    includes_gap: bool = False

    def __post_init__(self) -> None:
        faults = Faults("coefficients")
        faults.number("fixed_s", self.fixed_s, at_most=1.0)
        faults.number("efficiency", self.efficiency, at_most=1.0)
        for name in ("sharpness", "l2_speedup"):
            value = getattr(self, name)
            if faults.number(name, value) and value < 1:
                faults.add(name, value, "must be at least 1")
        faults.flag("includes_gap", self.includes_gap)
        faults.raise_if_any()

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> MemoryBoundCoefficients:
        """Read a table of a coefficient file.

        Raises
        ------
        InputError
            With all faults of the table together.
        """
        faults = Faults()
        kept = {key: item for key, item in table.items() if key not in NOT_COEFFICIENTS}
        coefficients = build(cls, kept, faults)
        faults.raise_if_any()
        return coefficients  # type: ignore[return-value]  # nothing is missing where nothing is at fault

    def to_table(self) -> dict[str, Any]:
        """Write the table that `from_table` reads."""
        return asdict(self)


class MemoryBoundTime(NamedTuple):
    """The time of streaming kernels and its parts, in seconds, as arrays of the bytes' shape.

    Attributes
    ----------
    seconds : ndarray
    memory_s : ndarray
        What the bytes would take alone.
    overhead_s : ndarray
        What an empty kernel would take.
    roofline_s : ndarray
        Speed of light: the bytes at the datasheet bandwidth.
    """

    seconds: Floats
    memory_s: Floats
    overhead_s: Floats
    roofline_s: Floats


def memory_bound_time(
    accelerator: Accelerator, coefficients: MemoryBoundCoefficients, moved_bytes: ArrayLike, *, in_l2: bool = False
) -> MemoryBoundTime:
    """Estimate streaming kernels.

    Parameters
    ----------
    accelerator : Accelerator
    coefficients : MemoryBoundCoefficients
    moved_bytes : array_like
        Bytes that each kernel reads and writes.
    in_l2 : bool
        Whether operands that fit in the last-level cache are there already, as in a benchmark's loop. Otherwise no
        estimate is below the datasheet bandwidth.

    Examples
    --------
    >>> import perfsim
    >>> h100 = perfsim.load_cluster("dgx-h100").accelerator
    >>> coefficients = MemoryBoundCoefficients(fixed_s=3e-6, efficiency=1.0, sharpness=2.0)
    >>> float(memory_bound_time(h100, coefficients, 4e-6 * 3.35e12).seconds.round(9))
    5e-06
    """
    moved = np.asarray(moved_bytes, float)
    light_s = moved / accelerator.memory_bytes_per_s
    memory_s = light_s / coefficients.efficiency
    if in_l2 and coefficients.l2_speedup > 1:
        hit = 1 / (1 + (moved / accelerator.l2_bytes) ** _CACHE_STEP)
        memory_s = memory_s * (1 - hit * (1 - 1 / coefficients.l2_speedup))
    longer, shorter = np.maximum(memory_s, coefficients.fixed_s), np.minimum(memory_s, coefficients.fixed_s)
    seconds = longer * (1 + (shorter / longer) ** coefficients.sharpness) ** (1 / coefficients.sharpness)
    if not in_l2:
        seconds = np.maximum(seconds, light_s)
    return MemoryBoundTime(seconds, memory_s, np.full_like(memory_s, coefficients.fixed_s), light_s)
