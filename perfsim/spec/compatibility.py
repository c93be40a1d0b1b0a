"""What the parts of a scenario do not allow of each other, each with the nearest values that they allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from perfsim.errors import Faults
from perfsim.spec.hardware import Cluster
from perfsim.spec.model import Model
from perfsim.spec.plan import Plan
from perfsim.spec.workload import Workload

__all__ = ["check_together"]


class Scenario(Protocol):
    """What is asked of a `perfsim.spec.scenario.Scenario`, which stands above this module."""

    @property
    def cluster(self) -> Cluster: ...
    @property
    def model(self) -> Model: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def workload(self) -> Workload: ...
    @property
    def dtype(self) -> str: ...
    @property
    def num_microbatches(self) -> int: ...
    @property
    def microbatch_sizes(self) -> tuple[int, ...]: ...
    def stage_devices(self, stage: int) -> Sequence[int]: ...
    def place_of(self, device: int) -> int: ...


def check_together(scenario: Scenario, faults: Faults) -> None:
    """Record everything that the parts of a scenario do not allow of each other."""
    for check in (_devices, _tensor, _sharing, _stages, _batch, _experts, _context, _overlap, _segments, _dtype):
        check(scenario, faults)


def _multiples(wanted: int, step: int) -> str:
    """Say which multiples lie next to a wanted number."""
    below, above = wanted // step * step, (wanted // step + 1) * step
    return f"the nearest are {below} and {above}" if below else f"the nearest is {above}"


def _devices(scenario: Scenario, faults: Faults) -> None:
    cluster, plan = scenario.cluster, scenario.plan
    if plan.num_devices > cluster.num_devices:
        parts = [f"{plan.tensor} tensor", f"{plan.pipeline} pipeline", f"{plan.data} data"]
        if plan.context > 1:
            parts.append(f"{plan.context} context")
        faults.add(
            "plan", f"{' x '.join(parts)} = {plan.num_devices} devices",
            f"must be at most the {cluster.num_devices} devices of the cluster",
            f"use smaller degrees, or a cluster with num_devices={plan.num_devices}",
        )  # fmt: skip


def _tensor(scenario: Scenario, faults: Faults) -> None:
    """Check that tensor ranks get equal shares; heads of K and V may also be fewer than ranks, which then copy them."""
    model, tensor = scenario.model, scenario.plan.tensor
    sizes = {"num_attention_heads": model.num_attention_heads}
    if not all(kind.experts for kind in model.layers):
        sizes["intermediate_size"] = model.intermediate_size
    if model.shared_expert_intermediate_size:
        sizes["shared_expert_intermediate_size"] = model.shared_expert_intermediate_size
    if scenario.plan.scatter_gather:
        sizes["hidden_size"] = model.hidden_size

    kv_heads = {model.kv_heads_in(kind) for kind in model.layers}

    def shares(degree: int) -> bool:
        heads = model.is_latent or all(count % degree == 0 or degree % count == 0 for count in kv_heads)
        return heads and not any(size % degree for size in sizes.values())

    if not shares(tensor):
        wrong = [f"{name} = {size}" for name, size in sizes.items() if size % tensor]
        if not model.is_latent:
            odd = sorted(count for count in kv_heads if count % tensor and tensor % count)
            wrong += [f"num_key_value_heads = {count} (or be a multiple of it)" for count in odd]
        legal = [str(d) for d in range(1, scenario.cluster.num_devices + 1) if shares(d)]
        faults.add(
            "plan.tensor", tensor, f"must divide model.{', model.'.join(wrong)}", f"use one of {', '.join(legal)}"
        )


def _sharing(scenario: Scenario, faults: Faults) -> None:
    """Check that there is something to share or to overlap."""
    plan = scenario.plan
    needs = "needs a tensor degree above 1"
    if plan.tensor == 1 and plan.sequence_parallel:
        faults.add("plan.sequence_parallel", True, needs, "there is nobody to share tokens with")
    if plan.tensor == 1 and plan.overlap_chunks > 1:
        faults.add("plan.overlap_chunks", plan.overlap_chunks, needs, "there is no communication to overlap")
    if plan.sequence_parallel and plan.scatter_gather:
        faults.add(
            "plan.scatter_gather", True, "must be false with plan.sequence_parallel", "stages hand over shares anyway"
        )


def _stages(scenario: Scenario, faults: Faults) -> None:
    model, plan = scenario.model, scenario.plan
    if plan.num_passes > model.num_hidden_layers:
        field, value = (
            ("pipeline", plan.pipeline) if plan.virtual_stages == 1 else ("virtual_stages", plan.virtual_stages)
        )
        faults.add(
            f"plan.{field}", value, f"must give at most {model.num_hidden_layers} stages, the layers of the model"
            if plan.virtual_stages > 1 else f"must be at most the {model.num_hidden_layers} layers of the model",
            "each stage needs a layer",
        )  # fmt: skip
    elif plan.layers_per_stage is not None and sum(plan.layers_per_stage) != model.num_hidden_layers:
        faults.add(
            "plan.layers_per_stage", list(plan.layers_per_stage),
            f"must add up to the {model.num_hidden_layers} layers of the model",
        )  # fmt: skip


def _batch(scenario: Scenario, faults: Faults) -> None:
    plan, workload = scenario.plan, scenario.workload
    if workload.batch_size % plan.data:
        near = _multiples(workload.batch_size, plan.data)
        faults.add(
            "workload.batch_size", workload.batch_size, f"must be a multiple of plan.data = {plan.data}",
            f"every replica takes an equal share; {near}",
        )  # fmt: skip
    elif plan.virtual_stages > 1 and scenario.num_microbatches % plan.pipeline:
        count = scenario.num_microbatches
        near = _multiples(count, plan.pipeline)
        faults.add(
            "plan.virtual_stages", plan.virtual_stages,
            f"needs a number of microbatches that is a multiple of plan.pipeline = {plan.pipeline}, not {count}",
            f"choose batch_size or microbatch_size so; {near}",
        )  # fmt: skip


def _experts(scenario: Scenario, faults: Faults) -> None:
    model, plan = scenario.model, scenario.plan
    if plan.expert > 1 and not any(kind.experts for kind in model.layers):
        faults.add("plan.expert", plan.expert, f"must be 1: {model.name} has no experts")
        return
    if not any(kind.experts for kind in model.layers):
        return

    def fits(degree: int) -> bool:
        if model.num_experts % degree or model.moe_intermediate_size % max(1, plan.tensor // degree):
            return False
        if plan.sequence_parallel and 1 < degree < plan.tensor:
            return False
        if degree <= plan.tensor:
            return plan.tensor % degree == 0
        return degree % plan.tensor == 0 and plan.stage_devices % degree == 0 and plan.context == 1

    if not fits(plan.expert):
        legal = [str(degree) for degree in range(1, plan.stage_devices + 1) if fits(degree)]
        faults.add(
            "plan.expert", plan.expert,
            f"must divide model.num_experts = {model.num_experts}, and divide plan.tensor = {plan.tensor} or be a "
            f"multiple of it that divides the {plan.stage_devices} devices of a stage, and leave whole columns of "
            f"model.moe_intermediate_size = {model.moe_intermediate_size}; with sequence_parallel it is not between 1 "
            "and plan.tensor, with plan.context above 1 not above plan.tensor",
            f"use one of {', '.join(legal)}" if legal else "use another tensor degree",
        )  # fmt: skip


def _context(scenario: Scenario, faults: Faults) -> None:
    plan, workload, model = scenario.plan, scenario.workload, scenario.model
    if plan.context == 1:
        return
    if workload.phase != "prefill":
        faults.add("plan.context", plan.context, f"must be 1 in the {workload.phase} phase", "rings share a prefill")
    if model.is_latent or model.sliding_window is not None:
        what = "latent attention" if model.is_latent else "a sliding window"
        faults.add("plan.context", plan.context, f"must be 1 for a model with {what}", "use other degrees")
    length = workload.sequence_length
    if length % plan.context or length < 2 * plan.context:
        degrees = [c for c in range(1, 2 * plan.context + 1) if length % c == 0 and (c == 1 or length >= 2 * c)]
        degree = min(degrees, key=lambda c: abs(c - plan.context))
        near = _multiples(length, plan.context) if length > 2 * plan.context else f"the nearest is {2 * plan.context}"
        faults.add(
            "workload.sequence_length", length,
            f"must be a multiple of plan.context = {plan.context}, and at least twice as much: ranks hold tokens from "
            "both ends", f"{near}; the nearest degree is {degree}",
        )  # fmt: skip


def _overlap(scenario: Scenario, faults: Faults) -> None:
    """Check that every part has a token."""
    plan, workload = scenario.plan, scenario.workload
    if plan.overlap_chunks == 1 or plan.tensor == 1 or workload.batch_size % plan.data:
        return
    # A prefill divides the tokens of a rank, decoding the sequences of a microbatch, a generation does both.
    divided = []
    if workload.phase != "decode":
        divided.append((workload.sequence_length // plan.context, "a rank's tokens of a sequence"))
    if workload.phase != "prefill":
        divided.append((min(scenario.microbatch_sizes), "the sequences of the smallest microbatch"))
    least, what = min(divided)
    if plan.overlap_chunks > least:
        faults.add(
            "plan.overlap_chunks", plan.overlap_chunks, f"must be at most {least}, {what}", "each part needs one"
        )


def _segments(scenario: Scenario, faults: Faults) -> None:
    """Check that each stage of a plan on a mixed cluster has devices of one kind."""
    if not scenario.cluster.segments or scenario.plan.num_devices > scenario.cluster.num_devices:
        return
    for stage in range(scenario.plan.pipeline):
        places = [scenario.place_of(device) for device in scenario.stage_devices(stage)]
        names = {scenario.cluster.segment_of(place).name for place in (min(places), max(places))}
        if len(names) > 1:
            faults.add(
                "plan.pipeline", scenario.plan.pipeline,
                f"must give stages whose devices are alike: stage {stage} lies on {' and '.join(sorted(names))}",
                "choose degrees so that stages end where a kind of device ends",
            )  # fmt: skip
            return


def _dtype(scenario: Scenario, faults: Faults) -> None:
    for segment in scenario.cluster.segments or (scenario.cluster,):
        if scenario.dtype not in segment.accelerator.peak_flop_per_s:
            known = ", ".join(segment.accelerator.peak_flop_per_s)
            faults.add(
                "workload.dtype", scenario.dtype,
                f"must be a dtype that {segment.accelerator.name} multiplies in ({known})",
            )  # fmt: skip
