"""One function that prices any work: the seam between what is done and what it takes."""

from __future__ import annotations

from functools import singledispatch

from perfsim.cost.attention import attention_cost
from perfsim.cost.collective import collective_cost, transfer_cost
from perfsim.cost.elementwise import elementwise_cost
from perfsim.cost.estimate import Cost
from perfsim.cost.matmul import matmul_cost
from perfsim.ops.operators import Attention, Collective, Elementwise, MatMul, Nothing, Transfer, Work
from perfsim.spec.hardware import Cluster

__all__ = ["price"]


def price(work: Work, cluster: Cluster) -> Cost:
    """Price one execution of `work` on one device of `cluster`.

    Examples
    --------
    >>> import perfsim
    >>> from perfsim.ops.operators import MatMul
    >>> price(MatMul(m=10_000, n=3072, k=8192, dtype="bf16"), perfsim.load_cluster("dgx-h100")).bound
    'compute'
    """
    return _price(work, cluster)


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
