"""WHAT a cluster is made of: accelerators, tiers of a network, and how much of them real kernels reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from perfsim.errors import Faults
from perfsim.spec.tables import FrozenDict, freeze_fields
from perfsim.units import DTYPE_BYTES

__all__ = ["Accelerator", "Efficiency", "NetworkTier"]

_PEAK_DTYPES = (*DTYPE_BYTES, "fp4")
_PREFIXES = {"T": 12, "G": 9, "M": 6, "k": 3}
_LONGEST_S = 0.1
_UNITS = {
    "peak_flop_per_s": ("FLOP/s", 1e9, 1e17),
    "vector_flop_per_s": ("FLOP/s", 1e9, 1e17),
    "clock_hz": ("Hz", 1e6, 1e10),
    "memory_bytes_per_s": ("B/s", 1e8, 1e14),
    "bytes_per_s": ("B/s", 1e6, 1e13),
    "memory_bytes": ("B", 1e8, 1e13),
    "l2_bytes": ("B", 1e5, 1e10),
    "shared_memory_bytes_per_sm": ("B", 512, 1e7),
}
"""Units of fields, the least that there is of each, and the most that there soon will be."""


def _check_unit(faults: Faults, field: str, value: object) -> None:
    """Check a number that has a unit. What is absurdly small was given in another unit: name that one."""
    unit, least, most = _UNITS[field.partition(".")[0]]
    if faults.number(field, value) and isinstance(value, Real) and float(value) < least:
        number = f"{float(value):.12g}"
        prefix, power = next((p for p in _PREFIXES.items() if float(value) * 10 ** p[1] <= most), ("k", 3))
        allowed = f"must be in {unit}, and so at least {least:g}"
        faults.add(field, value, allowed, f"{number} {prefix}{unit} is {number}e{power}")


def _check_seconds(faults: Faults, field: str, value: object) -> None:
    """Check a fixed time. What takes far too long was given in microseconds."""
    if faults.number(field, value) and isinstance(value, Real) and float(value) > _LONGEST_S:
        allowed = f"must be in seconds, and so at most {_LONGEST_S:g}"
        faults.add(field, value, allowed, f"{float(value):.12g} us is {float(value):.12g}e-6")


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
        for name in ("vector_flop_per_s", "clock_hz", "memory_bytes_per_s"):
            _check_unit(faults, name, getattr(self, name))
        faults.number("tdp_watt", self.tdp_watt)
        faults.integer("sm_count", self.sm_count)
        for name in ("shared_memory_bytes_per_sm", "l2_bytes", "memory_bytes"):
            size = getattr(self, name)
            if isinstance(size, float) and size.is_integer():  # 80e9 reads better than 80_000_000_000
                object.__setattr__(self, name, int(size))
            if faults.integer(name, getattr(self, name)):
                _check_unit(faults, name, size)
        if not isinstance(self.peak_flop_per_s, Mapping) or not self.peak_flop_per_s:
            faults.add("peak_flop_per_s", self.peak_flop_per_s, "must give the dense FLOP/s of at least one dtype")
        else:
            for dtype, rate in self.peak_flop_per_s.items():
                faults.choice(f"peak_flop_per_s.{dtype}", dtype, _PEAK_DTYPES)
                _check_unit(faults, f"peak_flop_per_s.{dtype}", rate)
        faults.raise_if_any()
        freeze_fields(self)


@dataclass(frozen=True)
class NetworkTier:
    """One tier of the network that joins devices.

    A tier is oversubscribed where its links carry less than the devices below them can send together. All traffic
    that crosses such a tier gets the share of a device when all devices send at once, `device_bytes_per_s`: the ranks
    of a plan do the same step at the same time, so they do send at once. Traffic that stays in a tier further in gets
    all of that tier's bandwidth: give the switches next to the devices a tier of their own where only those above them
    are oversubscribed.

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
    oversubscription : float
        What the devices of a domain can send together over what the tier's links carry; 1 at full bisection.

    Examples
    --------
    >>> NetworkTier("spine", bytes_per_s=50e9, latency_s=4e-6, oversubscription=2).device_bytes_per_s
    25000000000.0
    """

    name: str
    bytes_per_s: float
    latency_s: float
    domain_size: int | None = None
    reduces_in_switch: bool = False
    oversubscription: float = 1.0

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("tiers")
        faults.text("name", self.name)
        _check_unit(faults, "bytes_per_s", self.bytes_per_s)
        _check_seconds(faults, "latency_s", self.latency_s)
        if self.domain_size is not None:
            faults.integer("domain_size", self.domain_size, minimum=2)
        faults.flag("reduces_in_switch", self.reduces_in_switch)
        if faults.number("oversubscription", self.oversubscription) and self.oversubscription < 1:
            faults.add(
                "oversubscription", self.oversubscription, "must be at least 1, full bisection",
                f"2:1 is 2: write {1 / self.oversubscription:g} if the ratio is the other way round",
            )  # fmt: skip
        faults.raise_if_any()

    @property
    def device_bytes_per_s(self) -> float:
        """Bandwidth of one device in one direction while all devices send: what traffic over this tier gets."""
        return self.bytes_per_s / self.oversubscription


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
                _check_seconds(faults, name, getattr(self, name))
        faults.raise_if_any()
