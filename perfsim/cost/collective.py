"""Collectives and transfers: latency and bandwidth of rings, trees and reducing switches over the network's tiers.

Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 19(1), 2005, for
rings and trees; the payload is the full tensor, as nccl-tests sizes it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.estimate import Cost
from perfsim.errors import Faults
from perfsim.ops.operators import Collective, Quantity, Transfer
from perfsim.spec.hardware import Cluster, Efficiency, NetworkTier

__all__ = ["KINDS", "collective_cost", "collective_seconds", "transfer_cost"]

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_receive")
ALGORITHMS = ("nccl", "auto")


def collective_cost(cluster: Cluster, work: Collective) -> Cost:
    """Price a collective over a group that may span several tiers.

    An all-reduce over tiers scatters its sums inside, reduces across with what is left, and gathers inside; gathers
    and scatters go tier by tier; an all-to-all uses its tiers side by side.
    """
    efficiency, payload = cluster.efficiency, np.asarray(work.payload_bytes, float)
    if work.group_size == 1:
        return Cost(seconds=payload * 0.0)
    network, latency, bound = payload * 0.0, 0.0, payload * 0.0
    parts = zip(cluster.tiers, work.tier_payload_bytes, strict=False)
    for index, (tier, part) in enumerate(parts):
        if work.span[index] > 1:
            wire_s, hops_s, light_s = _one_tier(work, index, np.asarray(part, float), tier, efficiency)
            network = np.maximum(network, wire_s) if work.op == "all_to_all" else network + wire_s
            latency = latency + hops_s
            bound = np.maximum(bound, light_s)
    overhead = efficiency.collective_s + latency
    return Cost(seconds=network + overhead, network_s=network, overhead_s=overhead, roofline_s=bound)


def _one_tier(
    work: Collective, index: int, payload: Quantity, tier: NetworkTier, efficiency: Efficiency
) -> tuple[Quantity, Quantity, Quantity]:
    """Seconds on the wire, seconds of hops and speed of light of a collective's part on one tier."""
    members = work.span[index]
    ring_bytes = payload * (members - 1) / members
    rate = tier.bytes_per_s * efficiency.network
    # A ring hops from neighbour to neighbour, an all-to-all to every peer that this tier is the innermost to reach.
    hops = (members - 1) * (math.prod(work.span[:index]) if work.op == "all_to_all" else 1)
    if work.op != "all_reduce":
        return ring_bytes / rate, hops * tier.latency_s, ring_bytes / tier.bytes_per_s
    light_bytes = payload if tier.reduces_in_switch else 2 * ring_bytes
    choices = [(2 * ring_bytes / rate, 2 * hops * tier.latency_s)]
    if members == work.group_size:  # over several tiers, each is a ring
        choices.append((2 * payload / rate, 2 * math.ceil(math.log2(members)) * tier.latency_s))
        if tier.reduces_in_switch:
            in_switch_bytes = payload * (1 + 1 / members)
            fixed_s = max(efficiency.in_switch_s - efficiency.collective_s, 0.0)
            choices.append((in_switch_bytes / (tier.bytes_per_s * efficiency.network_in_switch), fixed_s))
    totals = np.stack([np.asarray(wire_s + hops_s) for wire_s, hops_s in choices])
    best = totals.argmin(axis=0)
    wire_s = np.choose(best, [wire for wire, _ in choices])
    return wire_s, np.choose(best, [np.asarray(hop) for _, hop in choices]), light_bytes / tier.bytes_per_s


def transfer_cost(cluster: Cluster, work: Transfer) -> Cost:
    """Price a transfer between two devices: one latency and the payload at the tier's bandwidth."""
    tier, payload = cluster.tiers[work.tier], np.asarray(work.payload_bytes, float)
    network_s = payload / (tier.bytes_per_s * cluster.efficiency.network)
    overhead_s = cluster.efficiency.collective_s + tier.latency_s
    return Cost(
        seconds=network_s + overhead_s,
        network_s=network_s,
        overhead_s=overhead_s,
        roofline_s=payload / tier.bytes_per_s,
    )


def collective_seconds(
    cluster: Cluster, *, kind: str, payload_bytes: ArrayLike, group_size: int, algorithm: str = "nccl"
) -> NDArray[np.float64]:
    """Estimate the time of collectives of the first `group_size` devices of a cluster.

    Parameters
    ----------
    cluster : Cluster
    kind : str
        ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all`` or ``send_receive``.
    payload_bytes : array_like
        Bytes of the full tensor, as nccl-tests sizes it.
    group_size : int
        Devices of the group; of a ``send_receive``, how far apart its two ends are, plus one.
    algorithm : str
        ``nccl``, or ``auto`` for what the simulation takes.

    Returns
    -------
    ndarray
        Seconds.

    Raises
    ------
    InputError
        An unknown kind or algorithm, bytes that are not finite numbers of at least 0, or a group larger than the
        cluster.

    Examples
    --------
    >>> import perfsim
    >>> cluster = perfsim.load_cluster("dgx-h100")
    >>> seconds = perfsim.cost.collective_seconds(cluster, kind="all_reduce", payload_bytes=[1e6, 1e8], group_size=8)
    >>> seconds.shape
    (2,)
    """
    faults = Faults("collective_seconds")
    faults.choice("kind", kind, KINDS)
    faults.choice("algorithm", algorithm, ALGORITHMS)
    faults.quantities("payload_bytes", payload_bytes, zero=True)
    if faults.integer("group_size", group_size, minimum=1) and group_size > cluster.num_devices:
        faults.add(
            "group_size", group_size, f"must be at most the {cluster.num_devices} devices of {cluster.name}",
            f"load it with num_devices={group_size}",
        )  # fmt: skip
    faults.raise_if_any()
    if kind == "send_receive":
        tier = cluster.tier_between(0, group_size - 1)
        return np.asarray(transfer_cost(cluster, Transfer(np.asarray(payload_bytes, float), tier)).seconds)
    work = Collective(kind, np.asarray(payload_bytes, float), cluster.span(range(group_size)))
    return np.asarray(collective_cost(cluster, work).seconds)
