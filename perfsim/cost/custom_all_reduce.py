"""All-reduces that serving engines bring along: one-shot, two-shot and in-switch kernels for short payloads.

They have the protocols of `perfsim.cost.protocols`, with coefficients of their own, up to a payload that the engine's
code sets for each group size; larger payloads go to NCCL. Measured in replayed CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perfsim.cost.protocols import CollectiveCoefficients
from perfsim.errors import Faults, InputError
from perfsim.spec.tables import freeze_fields

__all__ = ["CustomAllReduce"]


@dataclass(frozen=True)
class CustomAllReduce:
    """An engine's own all-reduce inside a node.

    Attributes
    ----------
    kernels : CollectiveCoefficients
        Its protocols, by group size.
    limit_bytes : mapping of int to int
        Largest payload, by group size, that the engine gives to its own kernels. A group size that is not listed takes
        the next larger one's limit, and one above all of them goes to NCCL.
    host_s : float
        Host time of one call without a CUDA graph; 0 where it is not known.

    Examples
    --------
    >>> group = {"fixed_s": [5e-6], "efficiency": [0.8], "fill_s": [0.0], "in_switch": [False], "limit_bytes": 1024}
    >>> custom = CustomAllReduce.from_table({"group_4": group})
    >>> custom.limit(3), custom.limit(8)
    (1024, 0)
    """

    kernels: CollectiveCoefficients
    limit_bytes: Mapping[int, int]
    host_s: float = 0.0

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("coefficients")
        if set(self.limit_bytes) != set(self.kernels.groups):
            groups = ", ".join(map(str, self.kernels.groups))
            faults.add("limit_bytes", dict(self.limit_bytes), f"must have a limit for each group size ({groups})")
        for size, limit in self.limit_bytes.items():
            faults.integer(f"group_{size}.limit_bytes", limit)
        if self.host_s != 0:
            faults.number("host_s", self.host_s, at_most=1.0)
        faults.raise_if_any()

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> CustomAllReduce:
        """Read a table of a coefficient file: groups as `CollectiveCoefficients` has them, each with its limit.

        Raises
        ------
        InputError
            With all faults of the table together.
        """
        faults = Faults()
        limits, groups = {}, {}
        for key, item in table.items():
            is_group = key.startswith("group_") and isinstance(item, Mapping)
            if is_group and "limit_bytes" in item:
                limits[key] = item["limit_bytes"]
            elif is_group:
                faults.add(f"{key}.limit_bytes", None, "is missing", "add it")
            if key != "host_s":
                groups[key] = {k: v for k, v in item.items() if k != "limit_bytes"} if is_group else item
        try:
            kernels = CollectiveCoefficients.from_table(groups)
        except InputError as error:
            faults.take(error)
        faults.raise_if_any()
        by_size = {int(key.removeprefix("group_")): limit for key, limit in limits.items()}
        return cls(kernels, by_size, table.get("host_s", 0.0))

    def to_table(self) -> dict[str, Any]:
        """Write the table that `from_table` reads."""
        groups = self.kernels.to_table()
        for size, limit in self.limit_bytes.items():
            groups[f"group_{size}"]["limit_bytes"] = limit
        return {"host_s": self.host_s, **groups}

    def limit(self, members: int) -> int:
        """Largest payload of the engine's own kernels for a group; 0 where it has none."""
        larger = min((size for size in self.limit_bytes if size >= members), default=None)
        return 0 if larger is None else self.limit_bytes[larger]
