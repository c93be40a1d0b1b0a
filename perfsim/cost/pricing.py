"""One function that prices any work: the seam between what is done and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from perfsim.cost.attention import attention_cost
from perfsim.cost.collective import collective_cost, transfer_cost
from perfsim.cost.elementwise import elementwise_cost
from perfsim.cost.estimate import Cost
from perfsim.cost.expert_exchange import expert_exchange_cost
from perfsim.cost.experts import experts_cost
from perfsim.cost.launch import LaunchCosts
from perfsim.cost.matmul import matmul_cost, matmul_costs
from perfsim.ops.operators import (
    Attention,
    Collective,
    Elementwise,
    ExpertExchange,
    Experts,
    MatMul,
    Nothing,
    Transfer,
    Work,
)
from perfsim.spec.hardware import Cluster

__all__ = ["price", "price_all"]


def price(work: Work, cluster: Cluster) -> Cost:
    """Price one execution of `work` on one device of `cluster`.

    Where the host issues operators one by one (`Cluster.host_s`), none is faster than that.

    Examples
    --------
    >>> import perfsim
    >>> from perfsim.ops.operators import MatMul
    >>> price(MatMul(m=10_000, n=3072, k=8192, dtype="bf16"), perfsim.load_cluster("dgx-h100")).bound
    'compute'
    """
    return _issued(_price(work, cluster), cluster)


def price_all(works: Sequence[Work], cluster: Cluster) -> list[Cost]:
    """Price many works on one device of `cluster` as `price` does, to the bit; matrix multiplications at once.

    Examples
    --------
    >>> import perfsim
    >>> from perfsim.ops.operators import MatMul
    >>> works = [MatMul(m=10_000, n=3072, k=8192, dtype="bf16"), Nothing(), MatMul(m=1, n=3072, k=8192, dtype="bf16")]
    >>> [cost.bound for cost in price_all(works, perfsim.load_cluster("dgx-h100"))]
    ['compute', 'none', 'memory']
    """
    matmuls = [work for work in works if isinstance(work, MatMul)]
    stacked = iter(matmul_costs(cluster, matmuls))
    costs = [next(stacked) if isinstance(work, MatMul) else _price(work, cluster) for work in works]
    return [_issued(cost, cluster) for cost in costs]


def _issued(cost: Cost, cluster: Cluster) -> Cost:
    """Add what the host takes to issue it, where no graph replays it."""
    return cost.issued(LaunchCosts(host_s=cluster.host_s), in_graph=False) if cluster.host_s else cost


@singledispatch
def _price(work: Work, _cluster: Cluster) -> Cost:
    message = f"no cost model prices {type(work).__name__}"
    raise NotImplementedError(message)


@_price.register
def _(work: MatMul, cluster: Cluster) -> Cost:
    return matmul_cost(cluster, work)


@_price.register
def _(work: Attention, cluster: Cluster) -> Cost:
    return attention_cost(cluster, work)


@_price.register
def _(work: Experts, cluster: Cluster) -> Cost:
    return experts_cost(cluster, work)


@_price.register
def _(work: ExpertExchange, cluster: Cluster) -> Cost:
    return expert_exchange_cost(cluster, work)


@_price.register
def _(work: Elementwise, cluster: Cluster) -> Cost:
    return elementwise_cost(cluster, work)


@_price.register
def _(work: Collective, cluster: Cluster) -> Cost:
    return collective_cost(cluster, work)


@_price.register
def _(work: Transfer, cluster: Cluster) -> Cost:
    return transfer_cost(cluster, work)


@_price.register
def _(_work: Nothing, _cluster: Cluster) -> Cost:
    return Cost(seconds=0.0)
