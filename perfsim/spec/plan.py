"""WHAT goes where: degrees of parallelism, microbatches, the schedule and the layers of each stage."""

from __future__ import annotations

from dataclasses import dataclass

from perfsim.errors import Faults
from perfsim.spec.tables import freeze_fields
from perfsim.units import MAX_SIZE

__all__ = ["RANK_ORDER", "SCHEDULES", "Plan"]

SCHEDULES = ("pipelined", "sequential")
RANK_ORDER = ("tensor", "context", "data", "pipeline")


@dataclass(frozen=True)
class Plan:
    """How a model is spread over devices and in which pieces the batch goes through.

    Attributes
    ----------
    tensor : int
        Tensor-parallel degree: devices that share the matrices of a layer.
    pipeline : int
        Pipeline stages.
    data : int
        Replicas of the whole model; each takes an equal share of the batch.
    microbatch_size : int, optional
        Sequences that go through together. When left out: the replica's whole batch without a pipeline, else that
        batch divided by the stages, rounded up.
    schedule : str
        ``pipelined``: microbatches follow each other through the stages. ``sequential``: a microbatch enters when the
        one before has left.
    layers_per_stage : tuple of int, optional
        Layers of each stage, of each pass where there are virtual stages; as even as possible when left out, the first
        ones taking what is left over.
    scatter_gather : bool
        Whether each tensor rank sends its share of the hand-over between stages and the receivers gather it, rather
        than each sending the whole tensor to its peer.
    receive_buffers : int
        Hand-overs that a stage can hold before it works on them; a full set blocks the sender.
    context : int
        Context-parallel degree: devices that share the tokens of each sequence and pass keys and values round a ring
        (Liu, Zaharia and Abbeel, Ring Attention, 2023).
    expert : int
        Expert-parallel degree: devices of a stage that share the experts of a layer. Up to `tensor` the ranks of a
        tensor group hold different experts; beyond, whole replicas share them and exchange tokens all-to-all.
    sequence_parallel : bool
        Whether tensor ranks share the tokens between their matrices, where they would hold copies (Korthikanti et al.,
        2022): all-reduces become reduce-scatters and all-gathers.
    virtual_stages : int
        Parts of the model that each stage holds; microbatches pass all stages so many times (Narayanan et al., 2021,
        section 2.2, interleaved schedule). The number of microbatches must be a multiple of `pipeline` then.
    overlap_chunks : int
        Parts in which the matrices before an all-reduce (or reduce-scatter) are computed, so that the communication of
        one part runs beside the computation of the next.
    rank_order : tuple of str
        ``tensor``, ``context``, ``data`` and ``pipeline`` in the order in which neighbouring devices of the cluster are
        given out, the innermost first: it says which groups stay inside of a node.

    Examples
    --------
    >>> Plan(tensor=8, pipeline=2, microbatch_size=1).num_devices
    16
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    microbatch_size: int | None = None
    schedule: str = "pipelined"
    layers_per_stage: tuple[int, ...] | None = None
    scatter_gather: bool = False
    receive_buffers: int = 2
    context: int = 1
    expert: int = 1
    sequence_parallel: bool = False
    virtual_stages: int = 1
    overlap_chunks: int = 1
    rank_order: tuple[str, ...] = RANK_ORDER

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("plan")
        for name in ("tensor", "data", "receive_buffers", "context", "expert", "overlap_chunks"):
            faults.integer(name, getattr(self, name))
        whole_stages = faults.integer("pipeline", self.pipeline) & faults.integer("virtual_stages", self.virtual_stages)
        if self.microbatch_size is not None:
            faults.integer("microbatch_size", self.microbatch_size, maximum=MAX_SIZE)
        faults.choice("schedule", self.schedule, SCHEDULES)
        faults.flag("scatter_gather", self.scatter_gather)
        faults.flag("sequence_parallel", self.sequence_parallel)
        if not isinstance(self.rank_order, tuple) or sorted(map(str, self.rank_order)) != sorted(RANK_ORDER):
            faults.add("rank_order", self.rank_order, f"must be a list of {', '.join(RANK_ORDER)} in any order")
        if whole_stages and self.virtual_stages > 1 and (self.pipeline == 1 or self.schedule != "pipelined"):
            faults.add(
                "virtual_stages", self.virtual_stages, "must be 1 without a pipeline or with another schedule than "
                "pipelined", "interleaving shortens the bubble of a pipeline",
            )  # fmt: skip
        self._check_layers(faults, whole_stages=whole_stages)
        faults.raise_if_any()

    def _check_layers(self, faults: Faults, *, whole_stages: bool) -> None:
        layers = self.layers_per_stage
        if layers is None:
            return
        if not isinstance(layers, tuple):
            faults.add("layers_per_stage", layers, "must be a list with the number of layers of each stage")
            return
        good = [faults.integer(f"layers_per_stage.{stage}", number) for stage, number in enumerate(layers)]
        if all(good) and whole_stages and len(layers) != self.num_passes:
            virtual = f" in each of {self.virtual_stages} passes" if self.virtual_stages > 1 else ""
            faults.add(
                "layers_per_stage", list(layers), f"must have {self.num_passes} entries, one for each stage{virtual}",
                f"or set pipeline={len(layers)}" if self.virtual_stages == 1 else "",
            )  # fmt: skip

    @property
    def label(self) -> str:
        """The plan in a few words.

        Examples
        --------
        >>> Plan(tensor=8, pipeline=2, microbatch_size=1).label
        'TP8 x PP2, microbatch 1'
        """
        more = (("CP", self.context), ("DP", self.data), ("EP", self.expert))
        degrees = [f"TP{self.tensor} x PP{self.pipeline}", *(f"{name}{size}" for name, size in more if size > 1)]
        parts = [" x ".join(degrees)]
        if self.microbatch_size is not None:
            parts.append(f"microbatch {self.microbatch_size}")
        if self.schedule != "pipelined":
            parts.append(self.schedule)
        if self.layers_per_stage is not None:
            parts.append(f"layers {'+'.join(map(str, self.layers_per_stage))}")
        if self.scatter_gather:
            parts.append("scatter-gather")
        if self.receive_buffers != 2:  # noqa: PLR2004  (the default)
            parts.append(f"{self.receive_buffers} receive buffers")
        if self.sequence_parallel:
            parts.append("sequence parallel")
        if self.virtual_stages > 1:
            parts.append(f"{self.virtual_stages} virtual stages")
        if self.overlap_chunks > 1:
            parts.append(f"overlapped in {self.overlap_chunks} chunks")
        if self.rank_order != RANK_ORDER:
            parts.append(f"ranks {'-'.join(self.rank_order)}")
        return ", ".join(parts)

    @property
    def num_devices(self) -> int:
        """Devices that the plan occupies."""
        return self.stage_devices * self.pipeline

    @property
    def stage_devices(self) -> int:
        """Devices of one stage, of all replicas."""
        return self.tensor * self.context * self.data

    @property
    def num_passes(self) -> int:
        """Parts of the model that a microbatch passes one after the other: stages times virtual stages."""
        return self.pipeline * self.virtual_stages
