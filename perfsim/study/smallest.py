"""The fewest devices on which a model and a workload fit, and the plan that does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product, takewhile
from typing import NamedTuple

from perfsim.errors import Faults, InputError
from perfsim.spec.hardware import Cluster
from perfsim.spec.plan import Plan
from perfsim.spec.scenario import Scenario
from perfsim.study.figures import Figures, estimates, has_period, stage_memory
from perfsim.study.least_memory import is_hopeless, least_memory
from perfsim.units import format_bytes

__all__ = ["changed", "divisors", "grown", "min_devices", "smallest_plan"]

_MOST_DEVICES = 4096
"""Where the search ends, if no tier of the network ends it before."""
_MICROBATCHES = (1, 4, 16, 64)


def min_devices(scenario: Scenario) -> int:
    """Give the fewest devices of a cluster's kind on which some plan for the model and the workload fits.

    Parameters
    ----------
    scenario : Scenario
        Its degrees and its microbatch do not matter; see `smallest_plan`, which gives the plan as well.

    Returns
    -------
    int

    Raises
    ------
    InputError
        As in `smallest_plan`.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved")
    >>> perfsim.min_devices(scenario), perfsim.min_devices(scenario.with_(batch_size=64, keep_kv_cache=True))
    (1, 6)
    """
    return _on_fewest_devices("min_devices", scenario, _first_that_fits).plan.num_devices


def smallest_plan(scenario: Scenario) -> Scenario:
    """Give the fastest plan among those that fit on the fewest devices.

    All degrees of tensor, pipeline, data, context and expert parallelism are tried that the model and the workload
    allow, with and without sequence parallelism, and microbatches of 1, 4, 16 and 64 sequences; layers are as even as
    possible, there are no virtual stages and nothing is overlapped. Schedule, buffers and the order of ranks are the
    scenario's. Of a generation the fastest plan is that with the shortest estimate: its prefill and so many
    times its last step.

    Parameters
    ----------
    scenario : Scenario
        Its cluster is taken as one of as many devices as needed: up to those that its network joins, at most 4,096.

    Returns
    -------
    Scenario
        On a cluster of just as many devices.

    Raises
    ------
    InputError
        `scenario` is none or has a mixed cluster, or there is no such plan.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved").with_(batch_size=64, keep_kv_cache=True)
    >>> perfsim.smallest_plan(scenario).plan.label
    'TP1 x PP3 x CP2, microbatch 1'
    """
    return _on_fewest_devices("smallest_plan", scenario, _fastest)


def _on_fewest_devices(
    caller: str, scenario: Scenario, choose: Callable[[list[Scenario]], Scenario | None]
) -> Scenario:
    """Give what is chosen of the plans for the fewest devices for which anything is."""
    faults = Faults(caller)
    if faults.instance("scenario", scenario, Scenario) and scenario.cluster.segments:
        faults.add(
            "scenario.cluster", scenario.cluster.name, "must have devices of one kind, but is joined of several",
            "ask for each of its segments",
        )  # fmt: skip
    faults.raise_if_any()
    sizes = [tier.domain_size for tier in scenario.cluster.tiers]
    most = _MOST_DEVICES if None in sizes else min(_MOST_DEVICES, max(filter(None, sizes), default=1))
    capacity = scenario.cluster.accelerator.memory_bytes
    shapes = list(_shapes(scenario, most))
    possible = [shape for shape in shapes if shape.fixed_bytes <= capacity]
    for number in range(1, most + 1 if possible else 1):
        found = choose([plan for shape in possible for plan in shape.plans(number, scenario, capacity)])
        if found is not None:
            return found
    raise _nothing_fits(scenario, min(shape.fixed_bytes for shape in shapes), most)


class _Shape(NamedTuple):
    """The degrees that share a layer, and what a device holds of all layers with the fewest replicas."""

    plan: Plan
    weights_bytes: float
    kv_cache_bytes: float
    fixed_bytes: float
    """What no more devices make less: the framework's reserve, and what one operator touches."""

    def plans(self, number: int, scenario: Scenario, capacity: int) -> Iterator[Scenario]:
        """Give the plans of this shape for so many devices that may fit, each with every size of microbatch."""
        copies, rest = divmod(number, self.plan.num_devices)
        if rest:
            return
        for pipeline in divisors(copies, scenario.model.num_hidden_layers):
            replicas = copies // pipeline
            mean = scenario.cluster.reserve_bytes + (self.weights_bytes + self.kv_cache_bytes / replicas) / pipeline
            plan = dataclasses.replace(self.plan, pipeline=pipeline, data=self.plan.data * replicas)
            if mean > capacity or scenario.workload.batch_size % plan.data:
                continue
            made = changed(scenario, cluster=grown(scenario.cluster, number), plan=plan)
            if made is not None:
                sizes = [size for size in _MICROBATCHES if size <= made.replica_batch]
                every = (dataclasses.replace(made, plan=dataclasses.replace(plan, microbatch_size=m)) for m in sizes)
                yield from takewhile(lambda one: not is_hopeless(one), every)


def _shapes(scenario: Scenario, most: int) -> Iterator[_Shape]:
    """Give every way to share a layer that the model and the workload allow."""
    model, workload, old = scenario.model, scenario.workload, scenario.plan
    tensors = divisors(model.num_attention_heads, most)
    contexts = divisors(workload.sequence_length, most) if workload.phase == "prefill" else [1]
    experts = divisors(model.num_experts) if model.num_experts else [1]
    for tensor, context, expert, sequence_parallel in product(tensors, contexts, experts, (False, True)):
        plan = Plan(
            tensor=tensor, context=context, expert=expert, data=-(-expert // tensor), microbatch_size=1,
            sequence_parallel=sequence_parallel, schedule=old.schedule, receive_buffers=old.receive_buffers,
            rank_order=old.rank_order,
        )  # fmt: skip
        if plan.num_devices > most:
            continue
        made = changed(scenario, cluster=grown(scenario.cluster, most), plan=plan)
        if made is not None:
            least = least_memory(made)
            fixed = float(least.reserve_bytes[0] + least.touched_bytes[0])
            yield _Shape(plan, float(least.weights_bytes[0]), float(least.kv_cache_bytes[0]), fixed)


def _fits(plan: Scenario, figures: Figures | None) -> bool:
    """Whether a plan fits, of which there is an estimate; exact where microbatches simply repeat."""
    if figures is not None and has_period(plan):
        return figures.fits
    return figures is not None and all(stage.fits for stage in stage_memory(plan))


def _first_that_fits(plans: list[Scenario]) -> Scenario | None:
    """Give any plan that fits; those with the smallest microbatches have the least activations."""
    least = (plan for plan in plans if plan.plan.microbatch_size == 1)
    return next((plan for plan in least if _fits(plan, estimates([plan])[0])), None)


def _fastest(plans: list[Scenario]) -> Scenario | None:
    """Give the fastest of the plans that fit."""
    found = [(one.makespan_s, one, plan) for one, plan in zip(estimates(plans), plans, strict=True) if one]
    ranked = sorted(found, key=lambda entry: entry[0])
    return next((plan for _, one, plan in ranked if _fits(plan, one)), None)


def _nothing_fits(scenario: Scenario, least_bytes: float, most: int) -> InputError:
    workload, device = scenario.workload, scenario.cluster.accelerator
    why = "weights and KV cache need more devices, or are not divided further"
    if least_bytes > device.memory_bytes:
        why = (
            f"one operator with one sequence of {workload.sequence_length} tokens takes {format_bytes(least_bytes)} of "
            f"the {format_bytes(device.memory_bytes)} of a device, the framework's reserve included"
        )
    return InputError.of(
        "scenario", f"{scenario.model.name}, {workload.phase} of {workload.batch_size} x {workload.sequence_length}",
        f"does not fit on up to {most} x {device.name}, whatever the plan: {why}",
        "use shorter sequences, a smaller batch, or devices with more memory",
    )  # fmt: skip


def changed(scenario: Scenario, **parts: object) -> Scenario | None:
    """Copy a scenario with other parts, if they are possible together."""
    try:
        return dataclasses.replace(scenario, **parts)  # type: ignore[arg-type]
    except InputError:
        return None


@lru_cache(maxsize=64)
def grown(cluster: Cluster, num_devices: int) -> Cluster:
    """Give a cluster with another number of devices; a copy takes long, with all of its coefficients checked."""
    return dataclasses.replace(cluster, num_devices=num_devices)


def divisors(number: int, most: int | None = None) -> list[int]:
    """List the divisors of a number, up to a limit if there is one.

    Examples
    --------
    >>> divisors(12), divisors(12, 4)
    ([1, 2, 3, 4, 6, 12], [1, 2, 3, 4])
    """
    return [divisor for divisor in range(1, min(number, most or number) + 1) if number % divisor == 0]
