"""Dispatch and combine of a mixture of experts: by measured kernels where a cluster has them, else an all-to-all.

There are two kinds of kernels (`perfsim.cost.expert_all_to_all`). Low-latency ones, which engines take for the few
tokens of decode, send a copy for each expert straight to its device. High-throughput ones send one copy to each domain
of the outermost tier that needs the token, where it is passed on inside. Where one follows the other, no exchange is
made faster than one of fewer tokens. Tiers work side by side, so that the slowest one counts:

    T = max(T_0, fixed + latencies + max_i bytes_i / (efficiency rate_i))

with T_0 the measured form inside the innermost tier, and for the other tiers i its fixed time, their hops and their
documented efficiency. DeepEP's own times over InfiniBand (low latency, 16 to 128 H800, 128 tokens of 7168 elements to 8
of 256 experts; https://github.com/deepseek-ai/DeepEP, docs/legacy.md) lie within 14 % of this, 7 % on average.

Without such kernels the time is that of an all-to-all of all copies. The speed of light is one copy for each domain of
the outermost tier that needs the token: no algorithm sends less over it.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.cost.arguments import check_group, check_quantities
from perfsim.cost.collective import collective_cost
from perfsim.cost.estimate import EXTRAPOLATED, Cost, error_range
from perfsim.cost.expert_all_to_all import ExpertAllToAllCoefficients, expert_all_to_all_seconds
from perfsim.errors import Faults
from perfsim.ops.operators import ELEMENT_BYTES, Collective, ExpertExchange
from perfsim.spec.hardware import Cluster
from perfsim.spec.tables import FrozenDict

__all__ = ["expert_exchange_cost", "expert_exchange_seconds"]

Array = NDArray[np.float64]

MULTIPROCESSORS = 20
"""Multiprocessors that high-throughput kernels are given: DeepEP's default (``Buffer.num_sms``)."""

FEW_TOKENS = 256
"""Tokens of a device up to which low-latency kernels are taken: what DeepEP recommends to keep their buffers to."""

_LOW_LATENCY, _HIGH_THROUGHPUT = "expert_all_to_all.deepep_low_latency", "expert_all_to_all.deepep_high_throughput"
_MEASURED_DEVICES = 8


def expert_exchange_cost(cluster: Cluster, work: ExpertExchange) -> Cost:
    """Price a dispatch or a combine of a group that may span several tiers."""
    if work.group_size == 1:
        return Cost(seconds=np.asarray(work.tokens, float) * 0.0)
    outermost = max(tier for tier, members in enumerate(work.span) if members > 1)
    light_s = _sent_bytes(work, outermost, one_copy=True) / cluster.tiers[outermost].device_bytes_per_s
    kernels = [_kernel(cluster.coefficients, f"{name}.{work.op}") for name in (_LOW_LATENCY, _HIGH_THROUGHPUT)]
    known = [kernel for kernel in kernels if kernel is not None]
    if len(known) < len(kernels):
        cost = collective_cost(cluster, Collective("all_to_all", work.payload_bytes, work.span), algorithm="nccl")
        source = EXTRAPOLATED if "all_to_all" in cluster.coefficients else cost.source
        return dataclasses.replace(cost, roofline_s=light_s, source=source)
    tokens = np.asarray(work.tokens, float)
    few = dataclasses.replace(work, tokens=np.minimum(tokens, FEW_TOKENS))
    low, high = _seconds(cluster, few, known[0], outermost), _seconds(cluster, work, known[1], outermost)
    takes_high = (tokens > FEW_TOKENS) & (high.seconds > low.seconds)
    seconds = np.maximum(np.where(takes_high, high.seconds, low.seconds), light_s)
    fixed_s = np.minimum(np.where(takes_high, high.fixed_s, low.fixed_s), seconds)
    measured = outermost == 0 and work.group_size <= _MEASURED_DEVICES and known[0].source == known[1].source
    ranges = [kernel.range_factors for kernel in known if kernel.range_factors]
    return Cost(
        seconds=seconds,
        network_s=seconds - fixed_s,
        overhead_s=fixed_s,
        roofline_s=light_s,
        source=known[0].source if measured else EXTRAPOLATED,
        range_factors=(min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None,
    )


class _Kernel(NamedTuple):
    """A measured kernel for one direction."""

    one_copy: bool
    coefficients: ExpertAllToAllCoefficients
    source: str
    range_factors: tuple[float, float] | None


@lru_cache(maxsize=64)
def _kernel(tables: FrozenDict, key: str) -> _Kernel | None:
    """Read a kernel of one direction, if it was measured."""
    if key not in tables:
        return None
    table = tables[key]
    coefficients = ExpertAllToAllCoefficients.from_table(table)
    return _Kernel(key.startswith(_HIGH_THROUGHPUT), coefficients, table["source"], error_range(table))


class _Time(NamedTuple):
    """Seconds, and those of an empty exchange."""

    seconds: Array
    fixed_s: Array


def _seconds(cluster: Cluster, work: ExpertExchange, kernel: _Kernel, outermost: int) -> _Time:
    """Price one kernel at all numbers of tokens."""
    settings: dict[str, Any] = {
        "num_experts": work.num_experts, "bytes_per_s": cluster.tiers[0].device_bytes_per_s, "sms": MULTIPROCESSORS,
    }  # fmt: skip
    fixed_s = expert_all_to_all_seconds(kernel.coefficients, 0.0, **settings)
    inside = _sent_bytes(work, 0, one_copy=kernel.one_copy)
    seconds = expert_all_to_all_seconds(kernel.coefficients, inside, **settings)
    outer = [tier for tier in range(1, outermost + 1) if work.span[tier] > 1]
    fixed_s = fixed_s + sum(cluster.tiers[tier].latency_s for tier in outer)
    for tier in outer:
        rate = cluster.tiers[tier].device_bytes_per_s * cluster.efficiency.network
        seconds = np.maximum(seconds, fixed_s + _sent_bytes(work, tier, one_copy=kernel.one_copy) / rate)
    return _Time(seconds, np.broadcast_to(fixed_s, seconds.shape))


def _sent_bytes(work: ExpertExchange, tier: int, *, one_copy: bool) -> Array:
    """Bytes that one device sends over a tier: all copies, or those to different domains of the tier inside of it."""
    if not one_copy:
        return np.asarray(work.wire_bytes[tier], float)
    domains, members = math.prod(work.span[tier:]), work.span[tier]
    reached = domains * (1 - (1 - 1 / domains) ** work.experts_per_token)
    token_bytes = np.asarray(work.payload_bytes, float) / work.experts_per_token
    return token_bytes * (reached * (members - 1) / members)


def expert_exchange_seconds(
    cluster: Cluster, *, direction: str, tokens: ArrayLike, hidden_size: ArrayLike, experts_per_token: ArrayLike,
    num_experts: ArrayLike, group_size: int, dtype: str = "bf16",
) -> NDArray[np.float64]:  # fmt: skip
    """Estimate the exchange of tokens between the first `group_size` devices of a cluster, which share the experts.

    Parameters
    ----------
    cluster : Cluster
    direction : str
        ``dispatch``, to the devices of the tokens' experts, or ``combine``, back with the results.
    tokens : array_like
        Of one device.
    hidden_size : array_like
        Width of a token.
    experts_per_token, num_experts : array_like
        Of the model; all devices hold equally many experts.
    group_size : int
    dtype : str
        Of what is sent; often ``fp8`` for a dispatch.

    Returns
    -------
    ndarray
        Seconds.

    Raises
    ------
    InputError
        The direction or the dtype is unknown, a size is not a finite number above 0, sizes do not broadcast, a token
        goes to more experts than there are, or the group is larger than the cluster.

    Examples
    --------
    >>> import perfsim
    >>> cluster = perfsim.load_cluster("dgx-h100", num_devices=64)
    >>> sizes = {"tokens": 128, "hidden_size": 7168, "experts_per_token": 8, "num_experts": 256, "dtype": "fp8"}
    >>> [f"{1e6 * perfsim.cost.expert_exchange_seconds(cluster, direction='dispatch', group_size=size, **sizes):.0f} us"
    ...  for size in (8, 64)]
    ['37 us', '186 us']
    """
    faults = Faults("expert_exchange_seconds")
    faults.choice("direction", direction, ("dispatch", "combine"))
    if check_quantities(
        faults, tokens=tokens, hidden_size=hidden_size, experts_per_token=experts_per_token, num_experts=num_experts
    ) and np.any(np.greater(experts_per_token, num_experts)):
        faults.add("experts_per_token", experts_per_token, "must be at most num_experts")
    faults.choice("dtype", dtype, ELEMENT_BYTES)
    check_group(cluster, group_size, faults)
    faults.raise_if_any()
    sizes: Any = np.broadcast_arrays(tokens, hidden_size, experts_per_token, num_experts)
    span = cluster.span(range(group_size))
    work = ExpertExchange(direction, sizes[0], sizes[1], sizes[2], sizes[3], dtype, span)
    return np.asarray(expert_exchange_cost(cluster, work).seconds)
