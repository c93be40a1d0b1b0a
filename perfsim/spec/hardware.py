"""WHAT it runs on: clusters of accelerators that the tiers of a network join."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, zip_longest

from perfsim import html
from perfsim.errors import Faults, InputError
from perfsim.spec.components import Accelerator, Efficiency, NetworkTier
from perfsim.spec.tables import FrozenDict, freeze_fields
from perfsim.units import GIB, format_bytes, format_count, format_seconds

__all__ = ["Accelerator", "Cluster", "Efficiency", "NetworkTier"]

_PROVENANCES = ("calibrated", "extrapolated")


@dataclass(frozen=True)
class Cluster:
    """Devices joined by network tiers: of one kind, or several segments with a kind each (`join_clusters`).

    Devices are numbered from 0; those with the same ``device // domain_size`` share a domain of a tier.

    In a joined cluster the devices of the first segment come first. The outermost tier joins the segments; inside of a
    segment its own tiers count, as does everything else about it: ask `segment_of`. What the cluster itself has
    beside them, such as `accelerator`, is what its first segment has.

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
    segments : tuple of Cluster
        The clusters of which a joined cluster consists; empty where all devices are of one kind.
    host_s : float
        Seconds that the host needs to issue one operator where no CUDA graph replays them: a shorter operator then
        takes as long. 0, the default, is in graphs. Public tables have it for all-reduces (20 to 70 us, in the files
        of coefficients) only; for other operators it is yours to measure.
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
    segments: tuple[Cluster, ...] = ()
    host_s: float = 0.0

    def __post_init__(self) -> None:
        faults = Faults("cluster")
        faults.text("name", self.name)
        faults.instance("accelerator", self.accelerator, Accelerator)
        faults.instance("efficiency", self.efficiency, Efficiency)
        faults.integer("reserve_bytes", self.reserve_bytes, minimum=0)
        whole = faults.integer("num_devices", self.num_devices)
        faults.instance("title", self.title, str)
        faults.instance("kernels", self.kernels, str)
        if self.host_s != 0:
            faults.number("host_s", self.host_s, at_most=1.0)
        self._check_coefficients(faults)
        if faults.instance("sources", self.sources, Mapping):
            for name, text in self.sources.items():
                faults.instance(f"sources.{name}", text, str)
        if isinstance(self.tiers, list | tuple) and all(isinstance(tier, NetworkTier) for tier in self.tiers):
            if self.segments == ():
                self._check_domains(faults, whole=whole)
        else:
            faults.add("tiers", self.tiers, "must be a list of NetworkTier")
        faults.raise_if_any()
        freeze_fields(self)
        if self.segments != ():
            self._check_segments(faults)
        faults.raise_if_any()

    def _check_coefficients(self, faults: Faults) -> None:
        if not faults.instance("coefficients", self.coefficients, Mapping):
            return
        for key, table in self.coefficients.items():
            if faults.instance(f"coefficients.{key}", table, Mapping):
                faults.choice(f"coefficients.{key}.source", table.get("source"), _PROVENANCES)

    def _check_domains(self, faults: Faults, *, whole: bool) -> None:
        sizes = [tier.domain_size for tier in self.tiers]
        check_domains(sizes, faults)
        reach = math.inf if None in sizes else max(filter(None, sizes), default=1)
        if whole and self.num_devices > reach:
            faults.add(
                "num_devices", self.num_devices, f"must be at most {reach:g}, what the outermost tier joins",
                "leave domain_size out of the outermost tier, or add a tier",
            )  # fmt: skip

    def _check_segments(self, faults: Faults) -> None:
        """Record what a joined cluster says of itself, but its segments do not."""
        way_out = "join the changed parts with perfsim.join_clusters"
        parts = self.segments if isinstance(self.segments, tuple) else ()
        if not parts or not all(isinstance(part, Cluster) and not part.segments for part in parts):
            names = [getattr(part, "name", part) for part in parts] or self.segments
            faults.add("segments", names, "must be clusters of one kind of device", way_out)
            return
        total = sum(part.num_devices for part in parts)
        if self.num_devices != total:
            faults.add("num_devices", self.num_devices, f"must be the {total} devices of the segments", way_out)
        for name in ("accelerator", "efficiency", "reserve_bytes", "kernels", "coefficients"):
            if getattr(self, name) != getattr(parts[0], name):
                faults.add(name, "...", f"must be that of the first segment, {parts[0].name}", way_out)
        if not self.tiers or self.tiers != self.tiers_of(0):
            names = [tier.name for tier in self.tiers]
            faults.add("tiers", names, "must be those of the first segment and the one that joins", way_out)

    @cached_property
    def _first_devices(self) -> tuple[int, ...]:
        """Number of the first device of each segment."""
        return tuple(accumulate((segment.num_devices for segment in self.segments[:-1]), initial=0))

    def _locate(self, device: int) -> tuple[int, int]:
        """Index of the segment of a device, and its number there."""
        index = bisect_right(self._first_devices, device) - 1
        return index, device - self._first_devices[index]

    def _check_devices(self, *devices: int) -> None:
        if not 0 <= min(devices) <= max(devices) < self.num_devices:
            allowed = f"must be some of 0 to {self.num_devices - 1}, those of {self.name}"
            raise InputError.of("devices", devices, allowed)

    def segment_of(self, device: int) -> Cluster:
        """Give the part of the cluster that a device belongs to, with devices of one kind: the cluster itself mostly.

        Examples
        --------
        >>> import perfsim
        >>> ethernet = perfsim.NetworkTier("ethernet", bytes_per_s=25e9, latency_s=5e-6)
        >>> parts = perfsim.load_cluster("dgx-h100"), perfsim.load_cluster("l40s-pcie-8x")
        >>> perfsim.join_clusters(*parts, tier=ethernet).segment_of(8).accelerator.name
        'L40S 48GB'
        """
        self._check_devices(device)
        return self.segments[self._locate(device)[0]] if self.segments else self

    def tiers_of(self, device: int) -> tuple[NetworkTier, ...]:
        """Tiers of the network as a device sees them, innermost first: `span` and `tier_between` count in them.

        In a joined cluster these are the tiers of the device's segment, the last of them repeated up to the depth of
        the deepest segment, and then the tier that joins the segments. So an index below is valid in the segment too,
        and the joining tier has the same index for all devices.
        """
        if not self.segments:
            return self.tiers
        own, joining = self.segment_of(device).tiers, self.tiers[-1]
        depth = max(1, *(len(segment.tiers) for segment in self.segments))
        return (*own, *[(own or (joining,))[-1]] * (depth - len(own)), joining)

    @property
    def domains(self) -> tuple[object, ...]:
        """What says which devices share a domain, whatever the speeds: equal where `span` and `tier_between` are."""
        if self.segments:
            return tuple((segment.num_devices, segment.domains) for segment in self.segments)
        return tuple(tier.domain_size for tier in self.tiers)

    def tier_between(self, first: int, second: int) -> int:
        """Index of the innermost tier that joins two devices."""
        self._check_devices(first, second)
        if self.segments:
            (index, one), (other_index, other) = self._locate(first), self._locate(second)
            return self.segments[index].tier_between(one, other) if index == other_index else len(self.tiers) - 1
        for index, tier in enumerate(self.tiers):
            if tier.domain_size is None or first // tier.domain_size == second // tier.domain_size:
                return index
        raise InputError.of("devices", (first, second), f"are not joined by any tier of {self.name}")

    def span(self, devices: Sequence[int]) -> tuple[int, ...]:
        """Members that a group of devices has at each tier, innermost first.

        ``(8, 2)`` is a group of two domains with eight members each. Where domains hold different numbers of
        members the largest counts, since the others wait for it. The time grows with the number of devices.

        Parameters
        ----------
        devices : sequence of int
            A range, with or without a step, or a list.

        Raises
        ------
        InputError
            The cluster does not have such devices.

        Examples
        --------
        >>> import perfsim
        >>> cluster = perfsim.load_cluster("dgx-h100", num_devices=4096)
        >>> cluster.span(range(16)), cluster.span(range(0, 4096, 8))
        ((8, 2), (1, 512))
        """
        return self._span_of_segments(devices) if self.segments else self._span(devices)

    def _span(self, devices: Sequence[int]) -> tuple[int, ...]:
        domains = set(devices)
        if len(domains) < 2:  # noqa: PLR2004
            return (1,)
        members, inner = [], 1
        outermost = self.tier_between(min(domains), max(domains))
        for tier in self.tiers[:outermost]:
            size = tier.domain_size or 1  # only the outermost tier is without
            counts = Counter([domain * inner // size for domain in domains])
            members.append(max(counts.values()))
            domains, inner = set(counts), size
        return (*members, len(domains))

    def _span_of_segments(self, devices: Sequence[int]) -> tuple[int, ...]:
        groups: dict[int, list[int]] = {}
        self._check_devices(min(devices, default=0), max(devices, default=0))
        for device in devices:
            index, own = self._locate(device)
            groups.setdefault(index, []).append(own)
        spans = [self.segments[index].span(own) for index, own in groups.items()]
        if len(spans) < 2:  # noqa: PLR2004 - inside of one segment
            return spans[0] if spans else (1,)
        widest = [max(members) for members in zip_longest(*spans, fillvalue=1)]
        return (*widest, *[1] * (len(self.tiers) - 1 - len(widest)), len(spans))

    def __str__(self) -> str:
        parts = self.segments or (self,)
        devices = " and ".join(f"{part.num_devices} x {part.accelerator.name}" for part in parts)
        return f"{self.name}: {devices}, {self.kernels or 'no'} kernels"

    def __repr__(self) -> str:
        return f"<Cluster {self}>"

    def _repr_html_(self) -> str:
        title = f"Cluster {self.name}{f': {self.title}' if self.title else ''}"
        tiers = (
            (tier.name, f"{tier.domain_size or 'all'} devices", f"{format_bytes(tier.bytes_per_s)}/s",
             format_seconds(tier.latency_s))
            for tier in self.tiers
        )  # fmt: skip
        network = html.table(("Network", "joins", "bandwidth of a device", "latency"), tiers)
        segments = (html.Markup(segment._repr_html_()) for segment in self.segments)
        return html.card(title, html.facts(self._facts()), network if self.tiers else "", *segments)

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Names and values for people; the segments of a joined cluster have their own."""
        if self.segments:
            yield "Segments", " and ".join(map(str, self.segments))
            return
        device = self.accelerator
        yield "Devices", f"{self.num_devices:,} × {device.name} ({device.architecture}, {device.sm_count} SMs)"
        memory = f"{format_bytes(device.memory_bytes)} at {format_bytes(device.memory_bytes_per_s)}/s"
        yield "Memory", f"{memory}, L2 {format_bytes(device.l2_bytes)}, {format_bytes(self.reserve_bytes)} reserved"
        peaks = (f"{dtype} {format_count(peak, 'FLOP/s')}" for dtype, peak in device.peak_flop_per_s.items())
        yield "Dense peak", ", ".join(peaks)
        sources = Counter(table["source"] for table in self.coefficients.values())
        fitted = ", ".join(f"{number} {source}" for source, number in sources.items())
        priced = f"tables of coefficients: {fitted}" if fitted else "documented efficiencies"
        yield "Kernels", f"{self.kernels or 'none named'}, {priced}"


def check_domains(sizes: Sequence[int | None], faults: Faults) -> None:
    """Record domain sizes of tiers, innermost first, that do not nest; only the outermost may be None."""
    inner = None
    for index, size in enumerate(sizes):
        field = f"tiers.{index}.domain_size"
        if size is None:
            if index < len(sizes) - 1:
                faults.add(
                    field, None, "must be given: only the outermost tier, which joins everything, goes without",
                    "say how many devices one domain joins; tiers stand with the innermost first",
                )  # fmt: skip
            continue
        if inner is not None and (size <= inner or size % inner):
            nearest = max(2 * inner, round(size / inner) * inner)
            faults.add(
                field, size, f"must be a larger multiple of the {inner} devices of the tier inside it",
                f"the nearest is {nearest}; tiers stand with the innermost first",
            )  # fmt: skip
        inner = size
