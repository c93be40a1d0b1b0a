"""HOW LONG: seconds of operators, from work and hardware. Every argument may be an array."""

from perfsim.cost.attention import attention_seconds
from perfsim.cost.collective import collective_seconds
from perfsim.cost.elementwise import elementwise_seconds
from perfsim.cost.estimate import Cost
from perfsim.cost.expert_exchange import expert_exchange_seconds
from perfsim.cost.experts import experts_seconds
from perfsim.cost.launch import LaunchCosts, launched_seconds
from perfsim.cost.matmul import matmul_seconds
from perfsim.cost.pricing import price

__all__ = [
    "Cost",
    "LaunchCosts",
    "attention_seconds",
    "collective_seconds",
    "elementwise_seconds",
    "expert_exchange_seconds",
    "experts_seconds",
    "launched_seconds",
    "matmul_seconds",
    "price",
]
