"""Protocols of a collective inside one tier: what a library changes between as the payload grows, by group size.

A protocol (low-latency, 128-byte low-latency, simple, in-switch reduction) of a group of n devices takes

    T(M) = fixed_s + W + sqrt(fill_s W),     W = wire(op, n) M / (efficiency rate)

    wire = 2 (n - 1) / n      all-reduce over rings
           (n - 1) / n        all-gather, reduce-scatter, all-to-all
           1 + 1 / n          all-reduce that the switch adds up

with M the full tensor's bytes, as nccl-tests sizes it, and `rate` the datasheet bytes/s of one device in one direction.
The root is the fill of a chunked pipeline whose best chunk grows with the square root of the payload: Thakur,
Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 19(1), 2005, and the
tuning model of NCCL (https://github.com/NVIDIA/nccl, src/graph/tuning.cc). A library switches at fixed payloads, which
are not always where the curves cross, so real jumps upwards remain; downwards there is none.

Between two measured group sizes the logarithm of the time is linear in log2 n. Beyond the largest, the largest one's
time counts, and one `hop` more of fixed time for every further member: the step between the two largest measured ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import Faults
from perfsim.spec.tables import build, freeze_fields

__all__ = ["CollectiveCoefficients", "Floats", "Protocols", "group_parts", "wire_factor"]

Floats = NDArray[np.float64]

NOT_COEFFICIENTS = ("fit", "source")
"""What a table says about its coefficients."""
_GROUP = "group_"


@dataclass(frozen=True)
class Protocols:
    """The protocols of one operation and group size, smallest payloads first: one entry of every field for each.

    Attributes
    ----------
    fixed_s : tuple of float
        Time of an empty payload: kernel launch, synchronisation, hops.
    efficiency : tuple of float
        Fraction of a link's datasheet rate that the bytes on the wire reach.
    fill_s : tuple of float
        Scale of the pipeline's fill; 0 where whole payloads move at once.
    in_switch : tuple of bool
        Whether the switch adds up contributions on the way.
    switch_bytes : tuple of int
        Largest payload of each protocol but the last.
    """

    fixed_s: tuple[float, ...]
    efficiency: tuple[float, ...]
    fill_s: tuple[float, ...]
    in_switch: tuple[bool, ...]
    switch_bytes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults, count = Faults("coefficients"), len(self.switch_bytes) + 1
        for name in ("fixed_s", "efficiency", "fill_s", "in_switch"):
            if np.shape(getattr(self, name)) != (count,):
                faults.add(name, getattr(self, name), f"must have {count} entries, one more than switch_bytes")
        faults.raise_if_any()
        faults.quantities("fixed_s", self.fixed_s)
        faults.quantities("fill_s", self.fill_s, zero=True)
        for index, (efficiency, in_switch) in enumerate(zip(self.efficiency, self.in_switch, strict=True)):
            faults.number(f"efficiency.{index}", efficiency, at_most=1.0)
            faults.flag(f"in_switch.{index}", in_switch)
        if faults.quantities("switch_bytes", self.switch_bytes or (1,)) and any(
            low >= high for low, high in pairwise(self.switch_bytes)
        ):
            faults.add("switch_bytes", self.switch_bytes, "must grow")
        faults.raise_if_any()


@dataclass(frozen=True)
class CollectiveCoefficients:
    """What one library reaches with one operation inside one tier.

    Attributes
    ----------
    groups : mapping of int to Protocols
        By measured group size.

    Examples
    --------
    >>> table = {"group_2": {"fixed_s": [5e-6], "efficiency": [0.8], "fill_s": [0.0], "in_switch": [False]}}
    >>> CollectiveCoefficients.from_table(table).groups[2].efficiency
    (0.8,)
    """

    groups: Mapping[int, Protocols]

    def __post_init__(self) -> None:
        freeze_fields(self)
        if not self.groups:
            faults = Faults("coefficients")
            faults.add("groups", {}, "must have the protocols of at least one group size", "add a table group_2")
            faults.raise_if_any()

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> CollectiveCoefficients:
        """Read a table of a coefficient file: one table ``group_<size>`` for every group size.

        Raises
        ------
        InputError
            With all faults of the table together.
        """
        faults = Faults()
        groups = {}
        for key, item in table.items():
            size = key.removeprefix(_GROUP)
            if key in NOT_COEFFICIENTS:
                continue
            if not (key.startswith(_GROUP) and size.isdecimal() and int(size) > 1):
                faults.add(key, item, f"is not a known key; a group of two devices is {_GROUP}2")
                continue
            groups[int(size)] = build(Protocols, item, faults.inside(key))
        faults.raise_if_any()
        return cls({size: protocols for size, protocols in sorted(groups.items()) if protocols})

    def to_table(self) -> dict[str, Any]:
        """Write the table that `from_table` reads."""
        return {f"{_GROUP}{size}": asdict(protocols) for size, protocols in self.groups.items()}

    @property
    def hop_s(self) -> float:
        """Fixed time that a further member of the group adds, from the two largest measured groups."""
        if len(self.groups) == 1:
            return 0.0
        *_, smaller, larger = sorted(self.groups)
        return max(self.groups[larger].fixed_s[0] - self.groups[smaller].fixed_s[0], 0.0) / (larger - smaller)

    @property
    def launch_s(self) -> float:
        """Fixed time that is left of the smallest measured group when its hops are taken off."""
        smallest = min(self.groups)
        return max(self.groups[smallest].fixed_s[0] - (smallest - 1) * self.hop_s, 0.0)


def wire_factor(op: str, members: int, *, in_switch: bool = False) -> float:
    """Bytes on one device's wire in one direction, for each byte of the payload.

    Examples
    --------
    >>> wire_factor("all_reduce", 8), wire_factor("all_gather", 8), wire_factor("all_reduce", 8, in_switch=True)
    (1.75, 0.875, 1.125)
    """
    if in_switch:
        return 1 + 1 / members
    return (2 if op == "all_reduce" else 1) * (members - 1) / members


def group_parts(
    coefficients: CollectiveCoefficients, op: str, payload_bytes: Floats, members: int, bytes_per_s: float
) -> tuple[Floats, Floats]:
    """Fixed and network seconds inside one tier, for any group size.

    Parameters
    ----------
    coefficients : CollectiveCoefficients
    op : str
        ``all_reduce``, ``all_gather``, ``reduce_scatter`` or ``all_to_all``.
    payload_bytes : ndarray
        Bytes of the full tensor.
    members : int
        Devices of the group, at least 2.
    bytes_per_s : float
        Datasheet rate of one device in one direction.

    Examples
    --------
    Two devices: half of the payload a trip, two trips, at 0.8 of 100 GB/s.

    >>> one = Protocols(fixed_s=(5e-6,), efficiency=(0.8,), fill_s=(0.0,), in_switch=(False,))
    >>> fixed_s, network_s = group_parts(CollectiveCoefficients({2: one}), "all_reduce", np.array([8e9]), 2, 100e9)
    >>> float(fixed_s[0]), round(float(network_s[0]), 6)
    (5e-06, 0.1)
    """
    groups = coefficients.groups
    above = min((size for size in groups if size >= members), default=None)
    below = max((size for size in groups if size <= members), default=above)
    if above is None:
        largest = max(groups)
        fixed_s, network_s = _by_protocol(groups[largest], op, payload_bytes, members, bytes_per_s)
        return fixed_s + (members - largest) * coefficients.hop_s, network_s
    low_fixed, low_network = _by_protocol(groups[below or above], op, payload_bytes, below or above, bytes_per_s)
    if above == below:
        return low_fixed, low_network
    high_fixed, high_network = _by_protocol(groups[above], op, payload_bytes, above, bytes_per_s)
    weight = math.log((members) / (below or above)) / math.log(above / (below or above))
    low, high = low_fixed + low_network, high_fixed + high_network
    total = low * (high / low) ** weight
    fixed_share = (1 - weight) * low_fixed / low + weight * high_fixed / high
    return total * fixed_share, total * (1 - fixed_share)


def _by_protocol(
    protocols: Protocols, op: str, payload: Floats, members: int, bytes_per_s: float
) -> tuple[Floats, Floats]:
    """Fixed and network seconds of the protocol that each payload takes."""
    wire = [wire_factor(op, members, in_switch=in_switch) for in_switch in protocols.in_switch]
    per_byte = np.array(wire) / (np.array(protocols.efficiency) * bytes_per_s)
    fixed, fill = np.array(protocols.fixed_s), np.array(protocols.fill_s)
    if not protocols.switch_bytes:
        wire_s = payload * per_byte[0]
        return np.full_like(payload, fixed[0]), wire_s + np.sqrt(fill[0] * wire_s)
    # A table falls at a switch only where it is noisy, so no payload is made faster than a smaller one.
    ends = np.array(protocols.switch_bytes) * per_byte[:-1]
    ends += fixed[:-1] + np.sqrt(fill[:-1] * ends)
    reached_s = np.maximum.accumulate(np.append(0.0, ends))
    which = np.zeros(payload.shape, np.intp)
    for switch_bytes in protocols.switch_bytes:
        which += payload > switch_bytes
    wire_s = per_byte.take(which)
    wire_s *= payload
    if fill.any():
        filling = fill.take(which)
        filling *= wire_s
        wire_s += np.sqrt(filling, out=filling)
    fixed_s = reached_s.take(which)
    fixed_s -= wire_s
    return np.maximum(fixed_s, fixed.take(which), out=fixed_s), wire_s
