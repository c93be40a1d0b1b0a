"""WHAT it runs on: accelerators, the network tiers that join them, and clusters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from perfsim.errors import Faults, InputError
from perfsim.spec.tables import FrozenDict, freeze_fields
from perfsim.units import DTYPE_BYTES, GIB

__all__ = ["Accelerator", "Cluster", "Efficiency", "NetworkTier"]

_PEAK_DTYPES = (*DTYPE_BYTES, "fp4")
_PROVENANCES = ("calibrated", "extrapolated")


@dataclass(frozen=True)
class Accelerator:
    """One device and its datasheet.

    Attributes
    ----------
    name, vendor, architecture : str
    peak_flop_per_s : mapping of str to float
        Dense matrix FLOP/s for every dtype that the device multiplies in.
    vector_flop_per_s : float
        FP32 FLOP/s outside the matrix units.
    sm_count : int
        Streaming multiprocessors (compute units on AMD).
    clock_hz : float
        Clock at which the peaks are stated.
    shared_memory_bytes_per_sm : int
        Scratchpad of one multiprocessor.
    l2_bytes : int
        Last-level cache on the chip.
    memory_bytes : int
        Device memory as the driver reports it.
    memory_bytes_per_s : float
        Bandwidth of that memory.
    tdp_watt : float
        Board power.
    """

    name: str
    vendor: str
    architecture: str
    peak_flop_per_s: FrozenDict
    vector_flop_per_s: float
    sm_count: int
    clock_hz: float
    shared_memory_bytes_per_sm: int
    l2_bytes: int
    memory_bytes: int
    memory_bytes_per_s: float
    tdp_watt: float

    def __post_init__(self) -> None:
        faults = Faults("accelerator")
        for name in ("name", "vendor", "architecture"):
            faults.text(name, getattr(self, name))
        for name in ("vector_flop_per_s", "clock_hz", "memory_bytes_per_s", "tdp_watt"):
            faults.number(name, getattr(self, name))
        for name in ("sm_count", "shared_memory_bytes_per_sm", "l2_bytes", "memory_bytes"):
            faults.integer(name, getattr(self, name))
        if not isinstance(self.peak_flop_per_s, Mapping) or not self.peak_flop_per_s:
            faults.add("peak_flop_per_s", self.peak_flop_per_s, "must give the dense FLOP/s of at least one dtype")
        else:
            for dtype, rate in self.peak_flop_per_s.items():
                faults.choice(f"peak_flop_per_s.{dtype}", dtype, _PEAK_DTYPES)
                faults.number(f"peak_flop_per_s.{dtype}", rate)
        faults.raise_if_any()
        freeze_fields(self)


@dataclass(frozen=True)
class NetworkTier:
    """One tier of the network that joins devices.

    Attributes
    ----------
    name : str
    bytes_per_s : float
        Bandwidth of one device in one direction.
    latency_s : float
        Time of one hop without payload.
    domain_size : int or None
        Devices that one domain of this tier joins; None for the outermost tier, which joins everything.
    reduces_in_switch : bool
        Whether the switch adds up contributions on the way (NVLink SHARP).
    """

    name: str
    bytes_per_s: float
    latency_s: float
    domain_size: int | None = None
    reduces_in_switch: bool = False

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("tiers")
        faults.text("name", self.name)
        faults.number("bytes_per_s", self.bytes_per_s)
        faults.number("latency_s", self.latency_s, at_most=1.0)
        if self.domain_size is not None:
            faults.integer("domain_size", self.domain_size, minimum=2)
        faults.flag("reduces_in_switch", self.reduces_in_switch)
        faults.raise_if_any()


@dataclass(frozen=True)
class Efficiency:
    """Fractions of the speed of light that kernels reach, and the fixed times beside them.

    Attributes
    ----------
    matmul : float
        Of the dense matrix peak, for large matrix multiplications.
    attention : float
        Of the dense matrix peak, for fused attention.
    memory : float
        Of the memory bandwidth, for streaming kernels.
    network : float
        Of a tier's bandwidth, for large transfers and rings.
    network_in_switch : float
        Of a tier's bandwidth, for all-reduces that the switch adds up.
    kernel_s : float
        Fixed time of a kernel.
    collective_s : float
        Fixed time of a collective.
    in_switch_s : float
        Fixed time of an all-reduce that the switch adds up.
    """

    matmul: float
    attention: float
    memory: float
    network: float
    network_in_switch: float = 1.0
    kernel_s: float = 0.0
    collective_s: float = 0.0
    in_switch_s: float = 0.0

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("efficiency")
        for name in ("matmul", "attention", "memory", "network", "network_in_switch"):
            faults.number(name, getattr(self, name), at_most=1.0)
        for name in ("kernel_s", "collective_s", "in_switch_s"):
            if getattr(self, name) != 0:
                faults.number(name, getattr(self, name), at_most=1.0)
        faults.raise_if_any()


@dataclass(frozen=True)
class Cluster:
    """Devices of one kind, joined by network tiers.

    Devices are numbered from 0; those with the same ``device // domain_size`` share a domain of a tier.

    Attributes
    ----------
    name : str
    accelerator : Accelerator
    tiers : tuple of NetworkTier
        Innermost first.
    num_devices : int
    efficiency : Efficiency
    reserve_bytes : int
        Device memory that driver context, communication library and framework keep for themselves.
    title : str
        One line for people.
    sources : mapping of str to str
        Where each number comes from, by its dotted name.
    kernels : str
        The kernel library whose kernels run on the devices; blank where none is known.
    coefficients : mapping of str to mapping
        Fitted coefficients by operator and data type, such as ``matmul.bf16``, each table with its ``source``:
        ``calibrated`` where it was scored on measurements of this device, else ``extrapolated``. Operators without a
        table are priced by `efficiency`.
    """

    name: str
    accelerator: Accelerator
    tiers: tuple[NetworkTier, ...]
    num_devices: int
    efficiency: Efficiency
    reserve_bytes: int = 2 * GIB
    title: str = ""
    sources: FrozenDict = field(default_factory=FrozenDict, repr=False)
    kernels: str = ""
    coefficients: FrozenDict = field(default_factory=FrozenDict, repr=False)

    def __post_init__(self) -> None:
        faults = Faults("cluster")
        faults.text("name", self.name)
        faults.instance("accelerator", self.accelerator, Accelerator)
        faults.instance("efficiency", self.efficiency, Efficiency)
        faults.integer("reserve_bytes", self.reserve_bytes, minimum=0)
        whole = faults.integer("num_devices", self.num_devices)
        faults.instance("title", self.title, str)
        faults.instance("kernels", self.kernels, str)
        self._check_coefficients(faults)
        if faults.instance("sources", self.sources, Mapping):
            for name, text in self.sources.items():
                faults.instance(f"sources.{name}", text, str)
        if isinstance(self.tiers, list | tuple) and all(isinstance(tier, NetworkTier) for tier in self.tiers):
            self._check_domains(faults, whole=whole)
        else:
            faults.add("tiers", self.tiers, "must be a list of NetworkTier")
        faults.raise_if_any()
        freeze_fields(self)

    def _check_coefficients(self, faults: Faults) -> None:
        if not faults.instance("coefficients", self.coefficients, Mapping):
            return
        for key, table in self.coefficients.items():
            if faults.instance(f"coefficients.{key}", table, Mapping):
                faults.choice(f"coefficients.{key}.source", table.get("source"), _PROVENANCES)

    def _check_domains(self, faults: Faults, *, whole: bool) -> None:
        sizes = [math.inf if tier.domain_size is None else tier.domain_size for tier in self.tiers]
        if any(inner >= outer for inner, outer in pairwise(sizes)):
            faults.add("tiers", [t.domain_size for t in self.tiers], "must grow in domain_size from the inside out")
        elif any(outer % inner for inner, outer in pairwise(sizes) if outer < math.inf):
            faults.add("tiers", sizes, "must have domain sizes that are multiples of the inner tier's")
        reach = max(sizes, default=1)
        if whole and self.num_devices > reach:
            faults.add(
                "num_devices", self.num_devices, f"must be at most {reach:g}, what the outermost tier joins",
                "leave domain_size out of the outermost tier, or add a tier",
            )  # fmt: skip

    def tier_between(self, first: int, second: int) -> int:
        """Index of the innermost tier that joins two devices."""
        for index, tier in enumerate(self.tiers):
            if tier.domain_size is None or first // tier.domain_size == second // tier.domain_size:
                return index
        raise InputError.of("devices", (first, second), f"are not joined by any tier of {self.name}")

    def span(self, devices: Sequence[int]) -> tuple[int, ...]:
        """Members that a group of devices has at each tier, innermost first.

        ``(8, 2)`` is a group of two domains with eight members each. Where domains hold different numbers of
        members the largest counts, since the others wait for it.

        Examples
        --------
        >>> import perfsim
        >>> perfsim.load_cluster("dgx-h100", num_devices=16).span(range(16))
        (8, 2)
        """
        leaders: list[int] = list(devices)
        members = []
        for tier in self.tiers:
            domain_of = {leader: 0 if tier.domain_size is None else leader // tier.domain_size for leader in leaders}
            members.append(max(Counter(domain_of.values()).values(), default=1))
            leaders = list({domain: leader for leader, domain in domain_of.items()}.values())
        while len(members) > 1 and members[-1] == 1:
            members.pop()
        return tuple(members) or (1,)
