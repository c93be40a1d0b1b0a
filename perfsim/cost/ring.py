"""Latency and bandwidth of one tier of the network: rings, trees and reducing switches, at documented efficiencies.

Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 19(1), 2005; the
payload is the full tensor, as nccl-tests sizes it.
"""

from __future__ import annotations

import math

import numpy as np

from perfsim.ops.operators import Collective, Quantity
from perfsim.spec.hardware import Efficiency, NetworkTier

__all__ = ["ring_parts"]


def ring_parts(
    work: Collective, index: int, payload: Quantity, tier: NetworkTier, efficiency: Efficiency
) -> tuple[Quantity, Quantity, Quantity]:
    """Seconds on the wire, seconds of hops and speed of light of a collective's part on one tier.

    Parameters
    ----------
    work : Collective
    index : int
        Which of the cluster's tiers this is, from the inside out.
    payload : float or array
        Part of the payload that the members of this tier exchange (`Collective.tier_payload_bytes`).
    tier : NetworkTier
    efficiency : Efficiency

    Examples
    --------
    >>> tier, efficiency = NetworkTier("ring", 100e9, 1e-6), Efficiency(1.0, 1.0, 1.0, 1.0)
    >>> wire_s, hops_s, _ = ring_parts(Collective("all_gather", 8e10, (8,)), 0, 8e10, tier, efficiency)
    >>> round(float(wire_s), 6), round(hops_s, 9)
    (0.7, 7e-06)
    """
    members = work.span[index]
    ring_bytes = payload * (members - 1) / members
    rate = tier.device_bytes_per_s * efficiency.network
    # A ring hops from neighbour to neighbour, an all-to-all to every peer that this tier is the innermost to reach.
    hops = (members - 1) * (math.prod(work.span[:index]) if work.op == "all_to_all" else 1)
    if work.op != "all_reduce":
        return ring_bytes / rate, hops * tier.latency_s, ring_bytes / tier.device_bytes_per_s
    light_bytes = payload if tier.reduces_in_switch else 2 * ring_bytes
    choices = [(2 * ring_bytes / rate, 2 * hops * tier.latency_s)]
    if members == work.group_size:  # over several tiers, each is a ring
        choices.append((2 * payload / rate, 2 * math.ceil(math.log2(members)) * tier.latency_s))
        if tier.reduces_in_switch:
            in_switch_bytes = payload * (1 + 1 / members)
            fixed_s = max(efficiency.in_switch_s - efficiency.collective_s, 0.0)
            choices.append((in_switch_bytes / (tier.device_bytes_per_s * efficiency.network_in_switch), fixed_s))
    totals = np.stack([np.asarray(wire_s + hops_s) for wire_s, hops_s in choices])
    best = totals.argmin(axis=0)
    wire_s = np.choose(best, [wire for wire, _ in choices])
    return wire_s, np.choose(best, [np.asarray(hop) for _, hop in choices]), light_bytes / tier.device_bytes_per_s
