"""A scenario: a cluster, a model, a plan and a workload, checked as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from perfsim import html
from perfsim.errors import Faults, InputError, did_you_mean
from perfsim.spec.compatibility import check_together
from perfsim.spec.hardware import Accelerator, Cluster, Efficiency, NetworkTier
from perfsim.spec.model import Model
from perfsim.spec.plan import RANK_ORDER, Plan
from perfsim.spec.workload import Workload

__all__ = ["Scenario", "changed_parts", "field_path", "replace_nested"]

_PARTS = {"cluster": Cluster, "model": Model, "plan": Plan, "workload": Workload}
_INSIDE = {"cluster.accelerator": Accelerator, "cluster.efficiency": Efficiency, "cluster.tiers.0": NetworkTier}
"""Where fields of fields stand."""

_QUANTIZED = {
    "fp8": ("fp8", False), "fp8_block": ("fp8_block", False), "int8": ("int8", False), "int4": ("int4", True),
    "mxfp4": ("fp4", True), "nvfp4": ("fp4", False),
}  # fmt: skip
"""How quantised weights are stored, and whether activations are left as they are."""


@dataclass(frozen=True)
class Scenario:
    """WHAT is simulated.

    Tensor ranks are numbered fastest, then context ranks, then replicas, then stages: the devices of stage ``s`` and
    replica ``r`` are ``(s * data + r) * context * tensor`` and the next ``context * tensor - 1``. Where in the cluster
    they sit is said by ``plan.rank_order``.

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
            check_together(self, faults)
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
        """Number of layers of each stage; with virtual stages, of each pass through each stage."""
        if self.plan.layers_per_stage is not None:
            return self.plan.layers_per_stage
        even, rest = divmod(self.model.num_hidden_layers, self.plan.num_passes)
        return tuple(even + (stage < rest) for stage in range(self.plan.num_passes))

    def stage_layers(self, stage: int) -> range:
        """Indices of the layers of a stage; with virtual stages, of one pass: pass 0 of all stages comes first."""
        first = sum(self.layers_per_stage[:stage])
        return range(first, first + self.layers_per_stage[stage])

    def tensor_group(self, stage: int, replica: int) -> range:
        """Devices that share the matrices of a stage's layers, in one replica (of one context rank, counted on)."""
        first = stage * self.plan.stage_devices + replica * self.plan.tensor
        return range(first, first + self.plan.tensor)

    def stage_devices(self, stage: int) -> range:
        """Devices of a stage, of all replicas."""
        width = self.plan.stage_devices
        return range(stage * width, (stage + 1) * width)

    def group_devices(self, kind: str, stage: int) -> list[range]:
        """Devices of each group of a stage that carries out collectives together.

        Parameters
        ----------
        kind : str
            ``tensor``, ``context`` or ``expert``.
        stage : int

        Examples
        --------
        >>> import perfsim
        >>> plan = perfsim.Plan(tensor=2, context=2, data=2)
        >>> scenario = perfsim.load_scenario("seed-improved").with_(plan=plan)
        >>> scenario.group_devices("context", 0)
        [range(0, 3, 2), range(1, 4, 2), range(4, 7, 2), range(5, 8, 2)]
        """
        plan, base = self.plan, stage * self.plan.stage_devices
        size, step = {"tensor": (plan.tensor, 1), "context": (plan.context, plan.tensor), "expert": (plan.expert, 1)}[
            kind
        ]
        ranks = [rank for rank in range(plan.stage_devices) if rank // step % size == 0]
        return [range(base + rank, base + rank + (size - 1) * step + 1, step) for rank in ranks]

    def place_of(self, device: int) -> int:
        """Device of the cluster on which a rank of the plan runs, by the plan's order of ranks.

        Examples
        --------
        >>> import perfsim
        >>> scenario = perfsim.load_scenario("seed-improved")
        >>> scattered = scenario.with_(rank_order=("pipeline", "tensor", "context", "data"))
        >>> [scattered.place_of(device) for device in (0, 1, 8)]
        [0, 2, 1]
        """
        plan = self.plan
        if plan.rank_order == RANK_ORDER:
            return device
        sizes = {"tensor": plan.tensor, "context": plan.context, "data": plan.data, "pipeline": plan.pipeline}
        coordinates = {}
        for name in RANK_ORDER:
            device, coordinates[name] = divmod(device, sizes[name])
        place, step = 0, 1
        for name in plan.rank_order:
            place += coordinates[name] * step
            step *= sizes[name]
        return place

    def span(self, devices: range) -> tuple[int, ...]:
        """Members of a group of ranks at each network tier, where the plan puts them."""
        if self.plan.rank_order == RANK_ORDER:
            return self.cluster.span(devices)
        return self.cluster.span([self.place_of(device) for device in devices])

    def segment(self, stage: int) -> Cluster:
        """The part of the cluster, of one kind of device, on which a stage runs."""
        return self.cluster.segment_of(self.place_of(self.stage_devices(stage)[0]))

    @cached_property
    def peak_flop_per_s(self) -> float:
        """Dense matrix peak of all devices of the plan, in the data type of the linear layers."""
        dtype = self.linear_precision[0].removesuffix("_block")
        peaks = (self.segment(stage).accelerator.peak_flop_per_s[dtype] for stage in range(self.plan.pipeline))
        return self.plan.stage_devices * sum(peaks)

    @cached_property
    def linear_precision(self) -> tuple[str, str | None, bool]:
        """Data type in which linear layers multiply, that of their weights where it is another, and static scales.

        One scale a tensor is known from the checkpoint, so activations come quantised from the kernel before; scales of
        blocks are computed as they come.
        """
        return self._precision(self.model.quantization)

    @cached_property
    def attention_precision(self) -> tuple[str, str | None, bool]:
        """The same for the projections of attention."""
        own = self.model.attention_quantization
        return self._precision(self.model.quantization if own is None else own)

    @cached_property
    def expert_precision(self) -> tuple[str, str | None, bool]:
        """The same for routed experts."""
        own = self.model.expert_quantization
        return self._precision(self.model.quantization if own is None else own)

    def _precision(self, quantization: str) -> tuple[str, str | None, bool]:
        """Multiply as the weights are stored where every device can; else unpack them to the activations' type."""
        if quantization == "none" or self.workload.dtype is not None:
            return self.dtype, None, False
        dtype, weights_only = _QUANTIZED[quantization]
        peak = "fp8" if dtype == "fp8_block" else dtype
        segments = self.cluster.segments or (self.cluster,)
        if not weights_only and all(peak in segment.accelerator.peak_flop_per_s for segment in segments):
            return dtype, None, dtype != "fp8_block"
        return self.dtype, peak, False

    @property
    def title(self) -> str:
        """What runs where and how, in one line."""
        plan, workload = self.plan, self.workload
        new = f", {workload.output_length} new ones each" if workload.phase == "generation" else ""
        return (
            f"{self.model.name} on {plan.num_devices} x {self.cluster.accelerator.name}, {plan.label}, "
            f"{workload.phase} of {workload.batch_size} x {workload.sequence_length} tokens{new}"
        )

    def __str__(self) -> str:
        return self.title

    def __repr__(self) -> str:
        return f"<Scenario {self}>"

    def _repr_html_(self) -> str:
        return html.card(f"Scenario: {self.title}", html.facts(self._facts()))

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Names and values for people."""
        plan, workload = self.plan, self.workload
        yield "Cluster", str(self.cluster)
        yield "Model", str(self.model)
        stages = f"{plan.pipeline} stage{'s' if plan.pipeline > 1 else ''} of {plan.stage_devices} devices"
        layers = sorted(set(self.layers_per_stage))
        yield "Plan", f"{plan.label}: {stages}, {' or '.join(map(str, layers))} layers in each"
        copies = f" in each of {plan.data} replicas" if plan.data > 1 else ""
        yield (
            "Microbatches",
            f"{self.num_microbatches:,} of {self.microbatch_size:,} sequences{copies}, {plan.schedule}",
        )
        mask = "causal" if workload.causal else "all pairs of tokens"
        kept = "kept" if workload.keep_kv_cache else "dropped"
        size = f"{workload.batch_size:,} sequences of {workload.sequence_length:,} tokens"
        yield "Workload", f"{workload.phase} of {size}, {mask}, KV cache {kept}"
        linear, weights, _ = self.linear_precision
        stored = f", weights in {weights}" if weights else ""
        yield "Data types", f"linear layers {linear}{stored}, activations {self.dtype}, KV cache {self.kv_dtype}"

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


def replace_nested(part: Any, changes: Mapping[str, Any], name: str = "") -> Any:
    """Copy a part of a scenario, or of something else by its name, with changed members, nested ones by dotted name.

    Raises
    ------
    InputError
        There are no such members, or their new values are not allowed.
    """
    faults = Faults(name or next(name for name, kind in _PARTS.items() if isinstance(part, kind)))
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


def field_path(name: str, faults: Faults, more: Mapping[str, type] | None = None) -> str | None:
    """Find the dotted name of the field that a name means, or record why there is none.

    `more` are parts beside those of a scenario, by their names.

    Examples
    --------
    >>> field_path("batch_size", Faults())
    'workload.batch_size'
    """
    kinds = {**_PARTS, **(more or {})}
    part, _, path = name.partition(".")
    if path:
        if part in kinds and path.partition(".")[0] in _members(kinds[part]):
            return name
        owners: list[str] = []
    else:
        owners = [owner for owner, kind in kinds.items() if name in _members(kind)]
        if len(owners) == 1:
            return f"{owners[0]}.{name}"
    if owners:
        faults.add(name, "...", "stands in more than one part", f"write {' or '.join(f'{o}.{name}' for o in owners)}")
    else:
        known = [*kinds, *(f for kind in kinds.values() for f in _members(kind))]
        inside = [place for place, kind in _INSIDE.items() if name in _members(kind)]
        way_out = f"write {inside[0]}.{name}" if inside else did_you_mean(name, known)
        faults.add(name, "...", f"is not a field of {' or '.join(['a scenario', *(more or ())])}", way_out)
    return None
