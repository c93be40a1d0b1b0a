"""What an engine's host adds to the time of its GPUs, by library, version and graph mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from perfsim.errors import Faults
from perfsim.spec.tables import read_toml

__all__ = ["TIMES_FILE", "EngineTimes", "known_times"]

TIMES_FILE = Path(__file__).with_name("engine_times.toml")
"""Where the shipped times stand."""


@dataclass(frozen=True)
class EngineTimes:
    """Seconds that an engine adds: they come on top of the GPUs' time, since measurements reject an overlap.

    Attributes
    ----------
    step_s : float
        For each step.
    decode_layer_s : float
        For each layer in a step without prompts: close to none where the whole step is one graph.
    prefill_layer_s : float
        For each layer in a step with prompts, whose kernels are launched one by one.
    sequence_s : float
        For each decoding sequence in a step.
    prefill_token_s : float
        For each token of a prompt that is computed.
    prompt_s : float
        For each prompt that starts, in the step in which it starts: the whole batch waits.
    request_s : float
        From sending a request until the scheduler sees it: the server and the tokenizer; requests do not wait for each
        other there.
    swap_block_s : float
        To move one block of KV to the host's memory or back, in the step in which it is moved.
    elementwise_share : float
        The part of the memory-bound kernels' time that is left in a step without prompts, where engines fuse them with
        their neighbours: norms with additions and all-reduces, activations with quantisers, rotation with attention.
    source : str
        Where the values come from.
    """

    step_s: float = 0.0
    decode_layer_s: float = 0.0
    prefill_layer_s: float = 0.0
    sequence_s: float = 0.0
    prefill_token_s: float = 0.0
    prompt_s: float = 0.0
    request_s: float = 0.0
    swap_block_s: float = 0.0
    elementwise_share: float = 1.0
    source: str = "given"

    def __post_init__(self) -> None:
        faults = Faults("engine.times")
        for field in dataclasses.fields(self):
            if field.name.endswith("_s"):
                faults.quantities(field.name, getattr(self, field.name), zero=True)
        if self.elementwise_share != 0:
            faults.number("elementwise_share", self.elementwise_share, at_most=1.0)
        faults.text("source", self.source)
        faults.raise_if_any()


@cache
def known_times() -> Mapping[str, EngineTimes]:
    """Give the shipped times by name. They belong to a version and a graph mode, not to a library as such.

    Examples
    --------
    >>> "vllm-0.18-0.19" in known_times()
    True
    """
    return {name: EngineTimes(**fields) for name, fields in read_toml(TIMES_FILE).items()}
