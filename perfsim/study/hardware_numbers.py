"""The numbers of a cluster by short names, and copies of the cluster in which one of them is larger or smaller.

A name may stand for several fields, such as the bandwidths of all tiers. Every number of a cluster also has a dotted
name, such as ``accelerator.memory_bytes_per_s``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perfsim.errors import Faults, did_you_mean
from perfsim.spec.hardware import Cluster
from perfsim.units import format_count, format_seconds

__all__ = ["Field", "HardwareNumber", "find_number", "hardware_numbers", "known_numbers", "scaled"]

Field = tuple[str | int, ...]
"""Where a number stands in a cluster: names of fields, keys of mappings, places in tuples."""

_SPELLED = {"nvlink": "NVLink", "infiniband": "InfiniBand", "pcie": "PCIe", "ethernet": "Ethernet"}
_UNITS = {"flop_per_s": "FLOP/s", "bytes_per_s": "B/s", "bytes": "B", "hz": "Hz", "watt": "W", "s": "s"}
_BANDWIDTH = "_bandwidth"
_ABOUT = ("fit", "borrowed", "sources")
"""What a cluster and its tables of coefficients say about themselves."""


@dataclass(frozen=True)
class HardwareNumber:
    """A number of a cluster, or several that change together.

    Attributes
    ----------
    name : str
        What a user writes.
    title : str
        What people read.
    fields : tuple of tuple
        Where it stands in the cluster.
    shown : tuple, optional
        The field whose value is shown; none where fields have little in common.
    less_is_better : bool
        Whether it is a time, and not a rate or a size.
    """

    name: str
    title: str
    fields: tuple[Field, ...]
    shown: Field | None = None
    less_is_better: bool = False

    @property
    def unit(self) -> str:
        """Unit of the value that is shown; blank for plain numbers."""
        names = [part for part in self.shown or () if isinstance(part, str)]
        endings = [
            unit for name in reversed(names) for ending, unit in _UNITS.items() if f"_{name}".endswith(f"_{ending}")
        ]
        return endings[0] if endings else ""

    def value(self, cluster: Cluster) -> float | None:
        """The value that is shown, if there is one."""
        return None if self.shown is None else float(_at(cluster, self.shown))

    def text(self, cluster: Cluster) -> str:
        """The value that is shown with its unit, for people; blank where there is none."""
        value = self.value(cluster)
        if value is None:
            return ""
        return format_seconds(value) if self.unit == "s" else format_count(value, self.unit)


def hardware_numbers(cluster: Cluster, dtype: str) -> dict[str, HardwareNumber]:
    """Give the numbers on which times depend, by name; no two of them share a field.

    Parameters
    ----------
    cluster : Cluster
    dtype : str
        Data type of the peak that is shown.

    Examples
    --------
    >>> import perfsim
    >>> list(hardware_numbers(perfsim.load_cluster("dgx-h100"), "bf16"))
    ['flops', 'vector_flops', 'clock', 'hbm_bandwidth', 'nvlink_bandwidth', 'nvlink_latency', 'infiniband_bandwidth',
     'infiniband_latency', 'launch', 'collective_launch']
    """
    found: dict[str, HardwareNumber] = {}
    for place, part in _parts(cluster):
        for number in _numbers_of(part, dtype):
            fields = tuple([(*place, *field) for field in number.fields])
            known = found.setdefault(number.name, dataclasses.replace(number, fields=()))
            found[number.name] = dataclasses.replace(known, fields=(*known.fields, *fields))
    return found


def _parts(cluster: Cluster) -> list[tuple[Field, Cluster]]:
    """The cluster, and the clusters that it joins where it has several kinds of devices."""
    segments = getattr(cluster, "segments", ())
    return [((), cluster), *((("segments", index), segment) for index, segment in enumerate(segments))]


def _numbers_of(cluster: Cluster, dtype: str) -> Iterator[HardwareNumber]:
    chip = "accelerator"
    peaks = tuple((chip, "peak_flop_per_s", name) for name in cluster.accelerator.peak_flop_per_s)
    yield HardwareNumber("flops", "matrix FLOP/s", peaks, (chip, "peak_flop_per_s", dtype))
    yield _single("vector_flops", "vector FLOP/s", (chip, "vector_flop_per_s"))
    yield _single("clock", "clock", (chip, "clock_hz"))
    yield _single("hbm_bandwidth", "HBM bandwidth", (chip, "memory_bytes_per_s"))
    for index, tier in enumerate(cluster.tiers):
        name, title = tier.name.replace("-", "_"), _SPELLED.get(tier.name, tier.name)
        yield _single(f"{name}{_BANDWIDTH}", f"{title} bandwidth", ("tiers", index, "bytes_per_s"))
        yield _single(f"{name}_latency", f"{title} latency", ("tiers", index, "latency_s"))
    kernels, collectives = _fixed_times(cluster)
    yield HardwareNumber("launch", "kernel launch", kernels, less_is_better=True)
    yield HardwareNumber("collective_launch", "fixed time of collectives", collectives, less_is_better=True)


def known_numbers(cluster: Cluster, dtype: str) -> dict[str, HardwareNumber]:
    """Give the numbers of `hardware_numbers` with what stands for several of them, by name.

    ``network`` is the bandwidth of all tiers and each tier's own name is its bandwidth. ``latency`` is that of all
    tiers with the fixed time of collectives, in which the hops of a measured tier are. ``hbm_capacity`` decides what
    fits.
    """
    numbers = hardware_numbers(cluster, dtype)
    of_tiers = [number for number in numbers.values() if "tiers" in number.fields[0]]
    rates = [number for number in of_tiers if not number.less_is_better]
    times = [number for number in of_tiers if number.less_is_better] + [numbers["collective_launch"]]
    capacities = tuple((*place, "accelerator", "memory_bytes") for place, _ in _parts(cluster))
    groups = [
        HardwareNumber("network", "network bandwidth", tuple(field for n in rates for field in n.fields)),
        HardwareNumber("latency", "network latency", tuple(field for n in times for field in n.fields), None, True),
        HardwareNumber("hbm_capacity", "HBM capacity", capacities, capacities[0]),
    ]
    known = {**numbers, **{number.name: number for number in groups if number.fields}}
    return {**{number.name.removesuffix(_BANDWIDTH): number for number in rates}, **known}


def _single(name: str, title: str, field: Field) -> HardwareNumber:
    last = str(field[-1])
    is_time = last.endswith(("_s", "_clocks")) and not last.endswith("_per_s")
    return HardwareNumber(name, title, (field,), field, less_is_better=is_time)


def _fixed_times(cluster: Cluster) -> tuple[tuple[Field, ...], tuple[Field, ...]]:
    """Fields of the fixed times of kernels, and of those of collectives."""
    kernels: list[Field] = [("efficiency", "kernel_s")]
    collectives: list[Field] = [("efficiency", "collective_s"), ("efficiency", "in_switch_s")]
    for field in _numbers_in(cluster.coefficients, ("coefficients",)):
        if "launch_s" in field or (field[1] == "memory_bound" and field[-1] == "fixed_s"):
            kernels.append(field)
        elif "fixed_s" in field:
            collectives.append(field)
    return tuple(kernels), tuple(collectives)


def find_number(cluster: Cluster, dtype: str, name: str, faults: Faults, value: object = None) -> HardwareNumber | None:
    """Find the number that a short or dotted name means, or record that there is none, with the list of names.

    `value` is what was given for it, for the message.

    Examples
    --------
    >>> import perfsim
    >>> find_number(perfsim.load_cluster("dgx-h100"), "bf16", "accelerator.sm_count", Faults()).fields
    (('accelerator', 'sm_count'),)
    """
    known = known_numbers(cluster, dtype)
    if name in known:
        return known[name]
    fields = {".".join(map(str, field)): field for field in _numbers_in(cluster)} if "." in name else {}
    dotted = name.removeprefix("cluster.")
    if dotted in fields:
        return _single(name, dotted, fields[dotted])
    way_out = did_you_mean(dotted, fields) if fields else did_you_mean(name, known)
    allowed = f"must be one of {', '.join(known)}, or the dotted name of a number such as accelerator.clock_hz"
    faults.add(name, value, allowed, way_out)
    return None


def scaled(cluster: Cluster, fields: tuple[Field, ...], factor: float) -> Cluster:
    """Copy a cluster with some numbers multiplied; whole numbers stay whole.

    Raises
    ------
    InputError
        A number leaves its range, such as an efficiency above 1.

    Examples
    --------
    >>> import perfsim
    >>> faster = scaled(perfsim.load_cluster("dgx-h100"), (("tiers", 0, "bytes_per_s"),), 2.0)
    >>> [tier.bytes_per_s for tier in faster.tiers]
    [900000000000.0, 50000000000.0]
    """
    changed: Cluster = _scaled(cluster, fields, factor)
    return changed


def _scaled(value: Any, fields: tuple[Field, ...], factor: float) -> Any:
    if fields == ((),):
        return max(1, round(value * factor)) if isinstance(value, int) else value * factor
    inside: dict[Any, list[Field]] = {}
    for head, *tail in fields:
        inside.setdefault(head, []).append(tuple(tail))
    changed: dict[Any, Any] = {
        head: _scaled(_at(value, (head,)), tuple(tails), factor) for head, tails in inside.items()
    }
    if isinstance(value, Mapping):
        return {**value, **changed}
    if isinstance(value, tuple):
        return tuple(changed.get(index, item) for index, item in enumerate(value))
    return dataclasses.replace(value, **changed)


def _at(value: Any, field: Field) -> Any:
    """What stands at a field."""
    part: Any
    for part in field:
        value = value[part] if isinstance(value, Mapping | tuple) else getattr(value, part)
    return value


def _numbers_in(value: Any, start: Field = ()) -> Iterator[Field]:
    """Every field inside of a value that is a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield start
        return
    members: Any = ()
    if isinstance(value, Mapping):
        members = value.items()
    elif isinstance(value, tuple):
        members = enumerate(value)
    elif dataclasses.is_dataclass(value):
        members = vars(value).items()
    for key, member in members:
        if key not in _ABOUT:
            yield from _numbers_in(member, (*start, key))
