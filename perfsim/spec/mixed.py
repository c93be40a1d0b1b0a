"""Mixed clusters: several kinds of device, each for some stages of a pipeline."""

from __future__ import annotations

from perfsim.errors import Faults
from perfsim.spec.hardware import Cluster, NetworkTier

__all__ = ["join_clusters"]


def join_clusters(*clusters: Cluster, tier: NetworkTier, name: str = "") -> Cluster:
    """Join clusters, each with its own kind of device, into one.

    Devices are numbered through: those of the first cluster, then those of the second, and so on. A stage of a
    pipeline runs on devices of one of them, at their speed and over their network. What is sent from one to the next
    passes `tier`, with the fixed times and the efficiency of the network of the first cluster.

    Parameters
    ----------
    *clusters : Cluster
        Two or more, in the order of the stages.
    tier : NetworkTier
        What joins them. It lies outside of all their tiers and joins everything, so it has no `domain_size`.
    name : str
        Name of the whole; the names of the parts when left out.

    Returns
    -------
    Cluster
        With `segments`; see `Cluster.segment_of`.

    Raises
    ------
    InputError
        There are fewer than two clusters, one of them is joined already, or the tier has a `domain_size`.

    Examples
    --------
    >>> import perfsim
    >>> fast, cheap = perfsim.load_cluster("dgx-h100"), perfsim.load_cluster("l40s-pcie-8x", num_devices=16)
    >>> ethernet = perfsim.NetworkTier("ethernet", bytes_per_s=25e9, latency_s=5e-6)
    >>> cluster = join_clusters(fast, cheap, tier=ethernet)
    >>> cluster.num_devices, cluster.segment_of(7).accelerator.name, cluster.segment_of(8).accelerator.name
    (24, 'H100 SXM5 80GB', 'L40S 48GB')
    >>> cluster.tier_between(0, 7), cluster.tier_between(8, 16), cluster.tier_between(7, 8)
    (0, 1, 2)
    """
    faults = Faults("join_clusters")
    for index, cluster in enumerate(clusters):
        if faults.instance(f"clusters.{index}", cluster, Cluster) and cluster.segments:
            parts = " + ".join(segment.name for segment in cluster.segments)
            faults.add(
                f"clusters.{index}", cluster.name, "must have devices of one kind, but is joined itself",
                f"join all parts at once: {parts}",
            )  # fmt: skip
    if len(clusters) < 2:  # noqa: PLR2004
        faults.add("clusters", len(clusters), "must be at least two", "a single cluster needs no joining")
    if faults.instance("tier", tier, NetworkTier) and tier.domain_size is not None:
        faults.add("tier.domain_size", tier.domain_size, "must be left out: the tier joins everything")
    faults.raise_if_any()
    first = clusters[0]
    depth = max(1, *(len(cluster.tiers) for cluster in clusters))
    padding = [(first.tiers or (tier,))[-1]] * (depth - len(first.tiers))
    return Cluster(
        name=name or " + ".join(cluster.name for cluster in clusters),
        accelerator=first.accelerator,
        tiers=(*first.tiers, *padding, tier),
        num_devices=sum(cluster.num_devices for cluster in clusters),
        efficiency=first.efficiency,
        reserve_bytes=first.reserve_bytes,
        kernels=first.kernels,
        coefficients=first.coefficients,
        segments=clusters,
    )
