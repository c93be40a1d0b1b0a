"""A scenario: a cluster, a model, a plan and a workload, checked as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from perfsim.errors import Faults, InputError, did_you_mean
from perfsim.spec.hardware import Accelerator, Cluster, Efficiency, NetworkTier
from perfsim.spec.model import Model
from perfsim.spec.plan import Plan
from perfsim.spec.workload import Workload

__all__ = ["Scenario", "changed_parts", "field_path", "replace_nested"]

_PARTS = {"cluster": Cluster, "model": Model, "plan": Plan, "workload": Workload}
_INSIDE = {"cluster.accelerator": Accelerator, "cluster.efficiency": Efficiency, "cluster.tiers.0": NetworkTier}
"""Where fields of fields stand."""


@dataclass(frozen=True)
class Scenario:
    """WHAT is simulated.

    Tensor ranks are numbered fastest, then replicas, then stages: the devices of stage ``s`` and replica ``r`` are
    ``(s * data + r) * tensor`` and the next ``tensor - 1``.

    Attributes
    ----------
    cluster : Cluster
    model : Model
    plan : Plan
    workload : Workload

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved")
    >>> scenario.layers_per_stage, scenario.num_microbatches
    ((8, 8), 1024)
    >>> scenario.with_(batch_size=100, microbatch_size=8).microbatch_sizes[-1]
    4
    """

    cluster: Cluster
    model: Model
    plan: Plan
    workload: Workload

    def __post_init__(self) -> None:
        faults = Faults()
        whole = [faults.instance(name, getattr(self, name), kind) for name, kind in _PARTS.items()]
        faults.raise_if_any()
        if all(whole):
            _check_together(self, faults)
        faults.raise_if_any()

    @property
    def dtype(self) -> str:
        """Data type of the computation."""
        return self.workload.dtype or self.model.dtype

    @property
    def kv_dtype(self) -> str:
        """Data type of the KV cache."""
        return self.workload.kv_dtype or self.dtype

    @property
    def replica_batch(self) -> int:
        """Sequences that one replica computes."""
        return self.workload.batch_size // self.plan.data

    @property
    def microbatch_size(self) -> int:
        """Sequences of every microbatch but perhaps the last."""
        if self.plan.microbatch_size is not None:
            return min(self.plan.microbatch_size, self.replica_batch)
        return -(-self.replica_batch // self.plan.pipeline)

    @property
    def num_microbatches(self) -> int:
        """Microbatches that one replica computes."""
        return -(-self.replica_batch // self.microbatch_size)

    @cached_property
    def microbatch_sizes(self) -> tuple[int, ...]:
        """Sequences of each microbatch of one replica; the last may be smaller."""
        full, rest = divmod(self.replica_batch, self.microbatch_size)
        return (self.microbatch_size,) * full + ((rest,) if rest else ())

    @cached_property
    def layers_per_stage(self) -> tuple[int, ...]:
        """Number of layers of each stage."""
        if self.plan.layers_per_stage is not None:
            return self.plan.layers_per_stage
        even, rest = divmod(self.model.num_hidden_layers, self.plan.pipeline)
        return tuple(even + (stage < rest) for stage in range(self.plan.pipeline))

    def stage_layers(self, stage: int) -> range:
        """Indices of the layers of a stage."""
        first = sum(self.layers_per_stage[:stage])
        return range(first, first + self.layers_per_stage[stage])

    def tensor_group(self, stage: int, replica: int) -> range:
        """Devices that share the layers of a stage in one replica."""
        first = (stage * self.plan.data + replica) * self.plan.tensor
        return range(first, first + self.plan.tensor)

    def stage_devices(self, stage: int) -> range:
        """Devices of a stage, of all replicas."""
        width = self.plan.data * self.plan.tensor
        return range(stage * width, (stage + 1) * width)

    def with_(self, **changes: Any) -> Scenario:
        """Make a changed copy.

        Parameters
        ----------
        **changes
            Fields of the workload, the plan, the model or the cluster by name; whole parts as ``plan=...``; nested
            fields by dotted name, as in ``**{"cluster.accelerator.tdp_watt": 500}``.

        Returns
        -------
        Scenario

        Raises
        ------
        InputError
            A field is unknown or stands in more than one part, or the changed scenario is impossible.
        """
        return Scenario(**changed_parts(self, changes))


def changed_parts(scenario: Scenario, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Give the four parts of a scenario with changes as `Scenario.with_` takes them, not yet checked together."""
    faults = Faults()
    parts = {name: changes.get(name, getattr(scenario, name)) for name in _PARTS}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        path = None if name in _PARTS else field_path(name, faults)
        if path is not None:
            part, _, field = path.partition(".")
            nested.setdefault(part, {})[field] = value
    for part, kind in _PARTS.items():
        if faults.instance(part, parts[part], kind) and part in nested:
            parts[part] = _replaced(parts[part], nested[part], faults.inside(part))
    faults.raise_if_any()
    return parts


def replace_nested(part: Any, changes: Mapping[str, Any]) -> Any:
    """Copy a part of a scenario with changed members, nested ones by dotted name.

    Raises
    ------
    InputError
        There are no such members, or their new values are not allowed.
    """
    faults = Faults(next(name for name, kind in _PARTS.items() if isinstance(part, kind)))
    changed = _replaced(part, changes, faults)
    faults.raise_if_any()
    return changed


def _replaced(value: Any, changes: Mapping[str, Any], faults: Faults) -> Any:
    """Copy a dataclass, mapping or tuple, recording each change that is impossible by its whole name."""
    members = _contents(value)
    flat: dict[str, Any] = {}
    deeper: dict[str, dict[str, Any]] = {}
    for path, new in changes.items():
        head, _, tail = path.partition(".")
        if head not in members and (tail or not isinstance(value, Mapping)):
            known = f"there are {', '.join(members)}" if members else ""
            faults.add(path, new, f"is not a field of {type(value).__name__}", did_you_mean(head, members) or known)
        elif tail:
            deeper.setdefault(head, {})[tail] = new
        else:
            flat[head] = new
    for head, inner in deeper.items():
        flat[head] = _replaced(flat.get(head, members[head]), inner, faults.inside(head))
    if isinstance(value, Mapping):
        return {**members, **flat}
    if isinstance(value, tuple):
        return tuple({**members, **flat}.values())
    try:
        return dataclasses.replace(value, **flat) if flat else value
    except InputError as error:
        faults.adopt(error)
        return value


def _contents(value: Any) -> dict[str, Any]:
    """What a dataclass, mapping or tuple holds, by name; anything else holds nothing."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return {str(index): item for index, item in enumerate(value)}
    return {name: getattr(value, name) for name in _members(value)}


def _members(kind: type | Any) -> list[str]:
    """Names of the fields of a dataclass, or of its type."""
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def field_path(name: str, faults: Faults) -> str | None:
    """Find the dotted name of the field that a name means, or record why there is none.

    Examples
    --------
    >>> field_path("batch_size", Faults())
    'workload.batch_size'
    """
    part, _, path = name.partition(".")
    if path:
        if part in _PARTS and path.partition(".")[0] in _members(_PARTS[part]):
            return name
        owners: list[str] = []
    else:
        owners = [owner for owner, kind in _PARTS.items() if name in _members(kind)]
        if len(owners) == 1:
            return f"{owners[0]}.{name}"
    if owners:
        faults.add(name, "...", "stands in more than one part", f"write {' or '.join(f'{o}.{name}' for o in owners)}")
    else:
        known = [*_PARTS, *(f for kind in _PARTS.values() for f in _members(kind))]
        inside = [place for place, kind in _INSIDE.items() if name in _members(kind)]
        way_out = f"write {inside[0]}.{name}" if inside else did_you_mean(name, known)
        faults.add(name, "...", "is not a field of a scenario", way_out)
    return None


def _check_together(scenario: Scenario, faults: Faults) -> None:
    """Record what the parts of a scenario do not allow of each other."""
    cluster, model, plan, workload = scenario.cluster, scenario.model, scenario.plan, scenario.workload
    if plan.num_devices > cluster.num_devices:
        faults.add(
            "plan", f"{plan.tensor} tensor x {plan.pipeline} pipeline x {plan.data} data = {plan.num_devices} devices",
            f"must be at most the {cluster.num_devices} devices of the cluster",
            f"use smaller degrees, or a cluster with num_devices={plan.num_devices}",
        )  # fmt: skip
    for name, size in (
        ("num_attention_heads", model.num_attention_heads),
        ("num_key_value_heads", model.kv_heads),
        ("intermediate_size", model.intermediate_size),
        ("hidden_size", model.hidden_size),
    ):
        if size % plan.tensor:
            legal = [str(d) for d in range(1, min(size, cluster.num_devices) + 1) if size % d == 0]
            faults.add(
                "plan.tensor", plan.tensor, f"must divide model.{name} = {size}", f"use one of {', '.join(legal)}"
            )
    if plan.pipeline > model.num_hidden_layers:
        faults.add(
            "plan.pipeline", plan.pipeline, f"must be at most the {model.num_hidden_layers} layers of the model",
            "each stage needs a layer",
        )  # fmt: skip
    elif plan.layers_per_stage is not None and sum(plan.layers_per_stage) != model.num_hidden_layers:
        faults.add(
            "plan.layers_per_stage", list(plan.layers_per_stage),
            f"must add up to the {model.num_hidden_layers} layers of the model",
        )  # fmt: skip
    if workload.batch_size % plan.data:
        faults.add(
            "workload.batch_size", workload.batch_size, f"must be a multiple of plan.data = {plan.data}",
            "every replica takes an equal share",
        )  # fmt: skip
    if scenario.dtype not in cluster.accelerator.peak_flop_per_s:
        known = ", ".join(cluster.accelerator.peak_flop_per_s)
        faults.add(
            "workload.dtype", scenario.dtype, f"must be a dtype that {cluster.accelerator.name} multiplies in ({known})"
        )
