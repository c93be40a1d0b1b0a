"""Collectives and transfers: by measured protocols where a cluster has them, else by rings, trees and switches.

The payload is the full tensor, as nccl-tests sizes it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.arguments import check_group
from perfsim.cost.custom_all_reduce import CustomAllReduce
from perfsim.cost.estimate import EXTRAPOLATED, Cost, error_range
from perfsim.cost.nccl import ALGORITHMS, CollectiveTime, nccl_time, send_receive_time
from perfsim.cost.protocols import CollectiveCoefficients
from perfsim.cost.ring import ring_parts
from perfsim.errors import Faults
from perfsim.ops.operators import Collective, Transfer
from perfsim.spec.hardware import Cluster
from perfsim.spec.tables import FrozenDict

__all__ = ["KINDS", "collective_cost", "collective_seconds", "transfer_cost"]

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_receive")


def collective_cost(cluster: Cluster, work: Collective, *, algorithm: str = "auto") -> Cost:
    """Price a collective over a group that may span several tiers.

    An all-reduce over tiers scatters its sums inside, reduces across with what is left, and gathers inside; gathers
    and scatters go tier by tier; an all-to-all uses its tiers side by side.
    """
    payload = np.asarray(work.payload_bytes, float)
    if work.group_size == 1:
        return Cost(seconds=payload * 0.0)
    if work.op == "ring_shift":  # all pass on at once, and wait for those whose neighbour is the farthest
        outermost = max(tier for tier, members in enumerate(work.span) if members > 1)
        return transfer_cost(cluster, Transfer(payload, outermost))
    if work.op not in cluster.coefficients:
        return _by_rings(cluster, work, payload)
    custom = None if algorithm == "nccl" or work.op != "all_reduce" else _custom(cluster.coefficients)
    coefficients = _protocols(cluster.coefficients, work.op)
    time = nccl_time(
        work.op, payload, coefficients, span=work.span, tiers=cluster.tiers, efficiency=cluster.efficiency,
        custom=custom, algorithm=algorithm,
    )  # fmt: skip
    table = cluster.coefficients[work.op]
    measured = work.span[0] == work.group_size <= max(coefficients.groups)
    return _measured_cost(time, table["source"] if measured else EXTRAPOLATED, error_range(table))


def _measured_cost(time: CollectiveTime, source: str, range_factors: tuple[float, float] | None) -> Cost:
    """Give the cost of measured protocols; what the speed of light adds counts as overhead."""
    return Cost(
        seconds=time.seconds,
        network_s=time.network_s,
        overhead_s=np.maximum(time.seconds - time.network_s, 0.0),
        roofline_s=time.roofline_s,
        source=source,
        range_factors=range_factors,
    )


@lru_cache(maxsize=64)
def _protocols(tables: FrozenDict, op: str) -> CollectiveCoefficients:
    return CollectiveCoefficients.from_table(tables[op])


@lru_cache(maxsize=16)
def _custom(tables: FrozenDict) -> CustomAllReduce | None:
    """Read the serving engine's own all-reduce, if it has one."""
    table = tables.get("custom_all_reduce")
    return None if table is None else CustomAllReduce.from_table(table)


def _by_rings(cluster: Cluster, work: Collective, payload: NDArray[np.float64]) -> Cost:
    """Price with documented efficiencies."""
    efficiency = cluster.efficiency
    network, latency, bound = payload * 0.0, 0.0, payload * 0.0
    parts = zip(cluster.tiers, work.tier_payload_bytes, strict=False)
    for index, (tier, part) in enumerate(parts):
        if work.span[index] > 1:
            wire_s, hops_s, light_s = ring_parts(work, index, np.asarray(part, float), tier, efficiency)
            network = np.maximum(network, wire_s) if work.op == "all_to_all" else network + wire_s
            latency = latency + hops_s
            bound = np.maximum(bound, light_s)
    overhead = efficiency.collective_s + latency
    return Cost(seconds=network + overhead, network_s=network, overhead_s=overhead, roofline_s=bound)


def transfer_cost(cluster: Cluster, work: Transfer) -> Cost:
    """Price a transfer between two devices: one latency and the payload at the tier's bandwidth."""
    if "all_to_all" in cluster.coefficients:
        time = send_receive_time(
            work.payload_bytes, _protocols(cluster.coefficients, "all_to_all"), tier=work.tier, tiers=cluster.tiers,
            efficiency=cluster.efficiency,
        )  # fmt: skip
        return _measured_cost(time, EXTRAPOLATED, error_range(cluster.coefficients["all_to_all"]))
    tier, payload = cluster.tiers[work.tier], np.asarray(work.payload_bytes, float)
    network_s = payload / (tier.device_bytes_per_s * cluster.efficiency.network)
    overhead_s = cluster.efficiency.collective_s + tier.latency_s
    return Cost(
        seconds=network_s + overhead_s,
        network_s=network_s,
        overhead_s=overhead_s,
        roofline_s=payload / tier.device_bytes_per_s,
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
        ``nccl``; ``custom``, the serving engine's own all-reduce at every payload; or ``auto`` for what the simulation
        takes: the engine's own up to the payload where it hands over to NCCL. Across nodes all of them are NCCL.

    Returns
    -------
    ndarray
        Seconds.

    Raises
    ------
    InputError
        An unknown kind or algorithm, ``custom`` where the engine has nothing of its own, bytes that are not finite
        numbers of at least 0, or a group larger than the cluster.

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
    if faults.choice("algorithm", algorithm, ALGORITHMS) and algorithm == "custom":
        _check_custom(cluster, kind, faults)
    faults.quantities("payload_bytes", payload_bytes, zero=True)
    check_group(cluster, group_size, faults)
    faults.raise_if_any()
    if kind == "send_receive":
        tier = cluster.tier_between(0, group_size - 1)
        return np.asarray(transfer_cost(cluster, Transfer(np.asarray(payload_bytes, float), tier)).seconds)
    work = Collective(kind, np.asarray(payload_bytes, float), cluster.span(range(group_size)))
    return np.asarray(collective_cost(cluster, work, algorithm=algorithm).seconds)


def _check_custom(cluster: Cluster, kind: str, faults: Faults) -> None:
    """Record that there is no kernel of a serving engine for a kind of collective."""
    if kind != "all_reduce":
        faults.add("algorithm", "custom", "must be nccl or auto: serving engines bring an all_reduce only")
    elif "custom_all_reduce" not in cluster.coefficients:
        name = f"{cluster.name} with kernels {cluster.kernels!r}"
        faults.add("algorithm", "custom", f"must be nccl or auto: {name} has no all-reduce of a serving engine")
