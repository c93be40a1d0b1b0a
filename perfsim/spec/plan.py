"""WHAT goes where: degrees of parallelism, microbatches, the schedule and the layers of each stage."""

from __future__ import annotations

from dataclasses import dataclass

from perfsim.errors import Faults
from perfsim.spec.tables import freeze_fields
from perfsim.units import MAX_SIZE

__all__ = ["SCHEDULES", "Plan"]

SCHEDULES = ("pipelined", "sequential")


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
        Layers of each stage; as even as possible when left out, the first stages taking what is left over.
    scatter_gather : bool
        Whether each tensor rank sends its share of the hand-over between stages and the receivers gather it, rather
        than each sending the whole tensor to its peer.
    receive_buffers : int
        Hand-overs that a stage can hold before it works on them; a full set blocks the sender.

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

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("plan")
        for name in ("tensor", "data", "receive_buffers"):
            faults.integer(name, getattr(self, name))
        whole_stages = faults.integer("pipeline", self.pipeline)
        if self.microbatch_size is not None:
            faults.integer("microbatch_size", self.microbatch_size, maximum=MAX_SIZE)
        faults.choice("schedule", self.schedule, SCHEDULES)
        faults.flag("scatter_gather", self.scatter_gather)
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
        if all(good) and whole_stages and len(layers) != self.pipeline:
            faults.add(
                "layers_per_stage", list(layers), f"must have {self.pipeline} entries, one for each stage",
                f"or set pipeline={len(layers)}",
            )  # fmt: skip

    @property
    def label(self) -> str:
        """The plan in a few words.

        Examples
        --------
        >>> Plan(tensor=8, pipeline=2, microbatch_size=1).label
        'TP8 x PP2, microbatch 1'
        """
        parts = [f"TP{self.tensor} x PP{self.pipeline}" + (f" x DP{self.data}" if self.data > 1 else "")]
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
        return ", ".join(parts)

    @property
    def num_devices(self) -> int:
        """Devices that the plan occupies."""
        return self.tensor * self.pipeline * self.data
