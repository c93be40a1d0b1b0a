"""Expert all-to-all of a mixture of experts: tokens to the ranks of their experts, and results back.

    T = ((fixed_s + expert_s E)^p + W^p)^(1/p),     W = bytes ((efficiency rate)^-2 + (sms sm_bytes_per_s)^-2)^(1/2)

E is the number of experts. Low-latency kernels send one copy of a token to each of its `topk` experts; high-throughput
kernels send one copy to each rank that holds any of them, and are limited by the multiprocessors that they are given:

    bytes = tokens hidden element_bytes topk (n - 1) / n                       low latency
    bytes = tokens hidden element_bytes (n - 1) (1 - (1 - 1/n)^topk)           high throughput

with experts spread evenly over n ranks (DeepEP, https://github.com/deepseek-ai/DeepEP). Measured inside one node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from perfsim.cost.protocols import NOT_COEFFICIENTS, Floats
from perfsim.errors import Faults
from perfsim.spec.tables import build

__all__ = ["ExpertAllToAllCoefficients", "expert_all_to_all_bytes", "expert_all_to_all_seconds"]


@dataclass(frozen=True)
class ExpertAllToAllCoefficients:
    """What one kernel reaches in one direction.

    Attributes
    ----------
    fixed_s : float
        Time without experts and bytes.
    expert_s : float
        Time that every expert of the model adds: its counters and slots.
    efficiency : float
        Fraction of a link's datasheet rate.
    sharpness : float
        Exponent of the soft maximum of fixed time and bytes, at least 1.
    sm_bytes_per_s : float
        Bytes that one multiprocessor moves; infinite where the kernel takes all that it needs.

    Examples
    --------
    >>> table = {"fixed_s": 1e-5, "expert_s": 1e-8, "efficiency": 0.6}
    >>> ExpertAllToAllCoefficients.from_table(table).to_table() == {**table, "sharpness": 1.0}
    True
    """

    fixed_s: float
    expert_s: float
    efficiency: float
    sharpness: float = 1.0
    sm_bytes_per_s: float = math.inf

    def __post_init__(self) -> None:
        faults = Faults("coefficients")
        faults.number("fixed_s", self.fixed_s, at_most=1.0)
        faults.number("expert_s", self.expert_s, at_most=1.0)
        faults.number("efficiency", self.efficiency, at_most=1.0)
        if faults.number("sharpness", self.sharpness) and self.sharpness < 1:
            faults.add("sharpness", self.sharpness, "must be at least 1")
        if self.sm_bytes_per_s != math.inf:
            faults.number("sm_bytes_per_s", self.sm_bytes_per_s)
        faults.raise_if_any()

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> ExpertAllToAllCoefficients:
        """Read a table of a coefficient file; all faults come together as an `InputError`."""
        faults = Faults()
        kept = {key: item for key, item in table.items() if key not in NOT_COEFFICIENTS}
        coefficients = build(cls, kept, faults)
        faults.raise_if_any()
        return coefficients  # type: ignore[return-value]  # nothing is missing where nothing is at fault

    def to_table(self) -> dict[str, Any]:
        """Write the table that `from_table` reads."""
        return {name: value for name, value in asdict(self).items() if value != math.inf}


def expert_all_to_all_bytes(
    tokens: ArrayLike,
    hidden: ArrayLike,
    topk: ArrayLike,
    group_size: int,
    *,
    element_bytes: float,
    one_copy_a_rank: bool,
) -> Floats:
    """Bytes that one rank sends to other ranks, for `tokens` of its own.

    Examples
    --------
    Two experts a token over two ranks: one copy on average leaves, or three quarters of one where a rank gets only one.

    >>> expert_all_to_all_bytes(8, 100, 2, 2, element_bytes=1, one_copy_a_rank=False).tolist()
    800.0
    >>> expert_all_to_all_bytes(8, 100, 2, 2, element_bytes=1, one_copy_a_rank=True).tolist()
    600.0
    """
    tokens, hidden, topk = (np.asarray(value, float) for value in (tokens, hidden, topk))
    if one_copy_a_rank:
        copies = (group_size - 1) * (1 - (1 - 1 / group_size) ** topk)
    else:
        copies = topk * (group_size - 1) / group_size
    return tokens * hidden * element_bytes * copies


def expert_all_to_all_seconds(
    coefficients: ExpertAllToAllCoefficients,
    sent_bytes: ArrayLike,
    *,
    num_experts: ArrayLike,
    bytes_per_s: ArrayLike,
    sms: ArrayLike = np.inf,
) -> Floats:
    """Estimate a dispatch or a combine.

    Parameters
    ----------
    coefficients : ExpertAllToAllCoefficients
    sent_bytes : array_like
        What `expert_all_to_all_bytes` gives.
    num_experts : array_like
        Experts of the model.
    bytes_per_s : array_like
        Datasheet rate of one device in one direction.
    sms : array_like
        Multiprocessors that a high-throughput kernel is given.

    Examples
    --------
    >>> coefficients = ExpertAllToAllCoefficients(fixed_s=1e-5, expert_s=1e-8, efficiency=0.5)
    >>> float(expert_all_to_all_seconds(coefficients, 5e6, num_experts=100, bytes_per_s=100e9).round(9))
    0.000111
    """
    sent = np.asarray(sent_bytes, float)
    fixed = coefficients.fixed_s + coefficients.expert_s * np.asarray(num_experts, float)
    link = coefficients.efficiency * np.asarray(bytes_per_s, float)
    network = sent * np.hypot(1 / link, 1 / (np.asarray(sms, float) * coefficients.sm_bytes_per_s))
    longer, shorter = np.maximum(fixed, network), np.minimum(fixed, network)
    seconds = longer * (1 + (shorter / longer) ** coefficients.sharpness) ** (1 / coefficients.sharpness)
    return np.maximum(seconds, sent / np.asarray(bytes_per_s, float))
