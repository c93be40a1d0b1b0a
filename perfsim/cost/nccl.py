"""Collectives of NCCL and of serving engines: measured protocols inside a node, pipelined through the tiers around it.

The innermost tier has measured coefficients (`perfsim.cost.protocols`); a group inside it takes their time. Tiers
outside of a node (InfiniBand, Ethernet) have no table: they keep the latency and bandwidth of `perfsim.cost.ring`. A
collective over several tiers is one kernel whose chunks stream through all of them at once:

    T = sum_i start_i + max_i (T_i(M_i) - start_i)

with T_i the time of tier i for its part M_i of the payload and start_i its time for an empty one. NCCL's maintainers
measure 192 GB/s of bus bandwidth between DGX A100 with 200 Gb/s a GPU (https://github.com/NVIDIA/nccl/issues/812): the
pace of the outer tier alone. The sum of all tiers' times would give two of them 145 GB/s.

A send and its receive are NCCL's all-to-all of two devices with twice the payload, half of which stays at home: an
all-to-all is a group of sends and receives. Across tiers they are a launch, one hop and the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from perfsim.cost.custom_all_reduce import CustomAllReduce
from perfsim.cost.protocols import CollectiveCoefficients, Floats, group_parts, wire_factor
from perfsim.cost.ring import ring_parts
from perfsim.ops.operators import Collective
from perfsim.spec.hardware import Efficiency, NetworkTier

__all__ = ["ALGORITHMS", "CollectiveTime", "nccl_time", "send_receive_time"]

ALGORITHMS = ("nccl", "custom", "auto")

_BLOCK = 4_096
"""Payloads at a time, so that the temporaries stay in a core's cache."""


@dataclass(frozen=True)
class CollectiveTime:
    """The time of collectives and its parts, in seconds, as arrays of the payload's shape.

    Attributes
    ----------
    seconds : ndarray
    network_s : ndarray
        Time of the bytes on the slowest tier's wires.
    overhead_s : ndarray
        Fixed time: launches and hops.
    roofline_s : ndarray
        Speed of light: datasheet rates and nothing else. Rings bound it, or the payload alone where the switch adds up.
    """

    seconds: Floats
    network_s: Floats
    overhead_s: Floats
    roofline_s: Floats


def nccl_time(
    op: str,
    payload_bytes: ArrayLike,
    coefficients: CollectiveCoefficients,
    *,
    span: Sequence[int],
    tiers: Sequence[NetworkTier],
    efficiency: Efficiency,
    custom: CustomAllReduce | None = None,
    algorithm: str = "nccl",
) -> CollectiveTime:
    """Estimate collectives of a group that may span several tiers.

    The time never falls as the payload grows, with one exception that is measured: ``auto`` beyond the limit of an
    engine whose own kernels are slower there than NCCL.

    Parameters
    ----------
    op : str
        ``all_reduce``, ``all_gather``, ``reduce_scatter`` or ``all_to_all``.
    payload_bytes : array_like
        Bytes of the full tensor, as nccl-tests sizes it.
    coefficients : CollectiveCoefficients
        What NCCL reaches with `op` in the innermost tier.
    span : sequence of int
        Members of the group at each tier, innermost first (`Cluster.span`).
    tiers : sequence of NetworkTier
        Innermost first.
    efficiency : Efficiency
        Of the tiers outside of the innermost one.
    custom : CustomAllReduce, optional
        The serving engine's own all-reduce, for groups inside the innermost tier.
    algorithm : str
        ``nccl``; ``custom``, the engine's kernels at every payload; or ``auto``, those up to their limit.

    Examples
    --------
    Two devices at 0.8 of 100 GB/s: half of the payload a trip, two trips, and 5 us.

    >>> group = {"fixed_s": [5e-6], "efficiency": [0.8], "fill_s": [0.0], "in_switch": [False]}
    >>> coefficients = CollectiveCoefficients.from_table({"group_2": group})
    >>> tiers = (NetworkTier("nvlink", 100e9, 1e-6, domain_size=8), NetworkTier("infiniband", 50e9, 2e-6))
    >>> efficiency = Efficiency(matmul=1.0, attention=1.0, memory=1.0, network=1.0)
    >>> time = nccl_time("all_reduce", [8e6, 8e9], coefficients, span=(2,), tiers=tiers, efficiency=efficiency)
    >>> time.seconds.round(6).tolist()
    [0.000105, 0.100005]
    """
    payload = np.asarray(payload_bytes, float)
    flat = payload.reshape(-1)
    parts = np.empty((4, flat.size))
    whole = span[0] > 1 and max(span[1:], default=1) == 1
    engine = custom if whole and op == "all_reduce" and algorithm != "nccl" else None
    for start in range(0, flat.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        work = Collective(op, flat[block], tuple(span))
        if whole:
            _inside(parts[:, block], work, coefficients, tiers[0], engine=engine, algorithm=algorithm)
        else:
            _across(parts[:, block], work, coefficients, tiers, efficiency)
    return _shaped(parts, payload)


def send_receive_time(
    payload_bytes: ArrayLike,
    all_to_all: CollectiveCoefficients,
    *,
    tier: int,
    tiers: Sequence[NetworkTier],
    efficiency: Efficiency,
) -> CollectiveTime:
    """Estimate sends, with their receives, between two devices that `tiers[tier]` joins.

    No table has it measured: inside the innermost tier it is derived from NCCL's all-to-all of two devices.

    Parameters
    ----------
    payload_bytes : array_like
    all_to_all : CollectiveCoefficients
        What NCCL reaches with an all-to-all in the innermost tier.
    tier : int
        Index of the innermost tier that joins both ends (`Cluster.tier_between`).
    tiers : sequence of NetworkTier
    efficiency : Efficiency

    Examples
    --------
    >>> group = {"fixed_s": [5e-6], "efficiency": [0.8], "fill_s": [0.0], "in_switch": [False]}
    >>> all_to_all = CollectiveCoefficients.from_table({"group_2": group})
    >>> tiers, efficiency = (NetworkTier("nvlink", 100e9, 1e-6),), Efficiency(1.0, 1.0, 1.0, 1.0)
    >>> float(send_receive_time(8e9, all_to_all, tier=0, tiers=tiers, efficiency=efficiency).seconds.round(6))
    0.100005
    """
    payload, link = np.asarray(payload_bytes, float), tiers[tier]
    flat = payload.reshape(-1)
    parts = np.empty((4, flat.size))
    seconds, network_s, overhead_s, light_s = parts
    if tier == 0:
        overhead_s[:], network_s[:] = group_parts(all_to_all, "all_to_all", 2 * flat, 2, link.device_bytes_per_s)
    else:
        overhead_s[:] = all_to_all.launch_s + link.latency_s
        network_s[:] = flat / (link.device_bytes_per_s * efficiency.network)
    light_s[:] = flat / link.device_bytes_per_s
    np.maximum(network_s + overhead_s, light_s, out=seconds)
    return _shaped(parts, payload)


def _shaped(parts: Floats, payload: Floats) -> CollectiveTime:
    return CollectiveTime(*(part.reshape(payload.shape) for part in parts))


def _inside(
    out: Floats, work: Collective, coefficients: CollectiveCoefficients, tier: NetworkTier, *,
    engine: CustomAllReduce | None, algorithm: str,
) -> None:  # fmt: skip
    """Fill the rows of `out` with total, network, fixed and speed-of-light seconds of a group inside one tier."""
    total, network, overhead, light = out
    members, payload, rate = work.group_size, work.payload_bytes, tier.device_bytes_per_s
    limit_bytes = engine.limit(members) if engine else 0
    if engine and algorithm == "custom":
        overhead[:], network[:] = group_parts(engine.kernels, work.op, payload, members, rate)
    else:
        overhead[:], network[:] = group_parts(coefficients, work.op, payload, members, rate)
        if engine and limit_bytes:
            own = payload <= limit_bytes
            fixed_s, wire_s = group_parts(engine.kernels, work.op, payload, members, rate)
            np.copyto(overhead, fixed_s, where=own)
            np.copyto(network, wire_s, where=own)
    np.multiply(payload, _light_factor(work.op, members, tier) / rate, out=light)
    np.add(network, overhead, out=total)
    np.maximum(total, light, out=total)


def _across(
    out: Floats, work: Collective, coefficients: CollectiveCoefficients, tiers: Sequence[NetworkTier],
    efficiency: Efficiency,
) -> None:  # fmt: skip
    """Fill the rows of `out` for a group that reaches beyond the innermost tier."""
    total, network, overhead, light = out
    network[:], light[:] = 0.0, 0.0
    started_s = 0.0 if work.span[0] > 1 else coefficients.launch_s
    for index, (tier, share) in enumerate(zip(tiers, work.tier_payload_bytes, strict=False)):
        members = work.span[index]
        if members == 1:
            continue
        if index == 0:
            fixed_s, wire_s = group_parts(coefficients, work.op, share, members, tier.device_bytes_per_s)
            start_s = float(group_parts(coefficients, work.op, np.zeros(1), members, tier.device_bytes_per_s)[0][0])
            light_s = share * (_light_factor(work.op, members, tier) / tier.device_bytes_per_s)
        else:
            wire_s, fixed_s, light_s = ring_parts(work, index, share, tier, efficiency)
            start_s = float(np.ravel(ring_parts(work, index, np.zeros(1), tier, efficiency)[1])[0])
        started_s += start_s
        np.maximum(network, fixed_s + wire_s - start_s, out=network)
        np.maximum(light, light_s, out=light)
    overhead[:] = started_s
    np.add(network, overhead, out=total)
    np.maximum(total, light, out=total)


def _light_factor(op: str, members: int, tier: NetworkTier) -> float:
    """Bytes that must cross one device's link in one direction, for each byte of the payload."""
    factor = wire_factor(op, members)
    return min(factor, 1.0) if tier.reduces_in_switch else factor
