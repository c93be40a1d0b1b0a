"""How many replicas serve, what sends requests to them, and what stands between prefill and decode."""

from __future__ import annotations

from dataclasses import dataclass

from perfsim.errors import Faults
from perfsim.serving.cards import fields_card

__all__ = ["ROUTERS", "Deployment"]

ROUTERS = ("round-robin", "least-loaded", "prefix-aware")
_MOST_REPLICAS = 4096


@dataclass(frozen=True)
class Deployment:
    """Replicas behind a router; optionally prompts are computed on a pool of their own (disaggregated).

    A replica is whole: all of its pipeline stages, whose lanes the router sees one by one.

    Attributes
    ----------
    replicas : int
        Replicas that decode, and that compute prompts too unless there is a pool for them.
    router : str
        ``round-robin``; ``least-loaded``, to the replica with the fewest requests; ``prefix-aware``, to the one to
        which the last request with the same prefix went, unless it has `spill` requests more than the least loaded.
    spill : int
    prefill_replicas : int
        Replicas that only compute prompts; their KV cache then moves to the others. 0 for none.
    transfer_latency_s, transfer_token_s : float
        Seconds to move the KV cache of a request, and more for each token of its prompt. Transfers do not wait for
        each other.
    """

    replicas: int = 1
    router: str = "round-robin"
    spill: int = 8
    prefill_replicas: int = 0
    transfer_latency_s: float = 0.0
    transfer_token_s: float = 0.0

    def __post_init__(self) -> None:
        faults = Faults("deployment")
        faults.integer("replicas", self.replicas, maximum=_MOST_REPLICAS)
        faults.integer("prefill_replicas", self.prefill_replicas, minimum=0, maximum=_MOST_REPLICAS)
        faults.choice("router", self.router, ROUTERS)
        faults.integer("spill", self.spill, minimum=0)
        faults.quantities("transfer_latency_s", self.transfer_latency_s, zero=True)
        faults.quantities("transfer_token_s", self.transfer_token_s, zero=True)
        faults.raise_if_any()

    @property
    def pools(self) -> int:
        """Kinds of replicas."""
        return 2 if self.prefill_replicas else 1

    def _repr_html_(self) -> str:
        pools = f"{self.prefill_replicas:,} for prompts and " if self.prefill_replicas else ""
        return fields_card(f"Deployment of {pools}{self.replicas:,} behind a router", self)
