"""What an engine's host adds to the time of its GPUs, by library, version and graph mode."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from perfsim.errors import Faults

__all__ = ["ENGINE_TIMES", "EngineTimes"]


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
    source: str = "given"

    def __post_init__(self) -> None:
        faults = Faults("engine.times")
        for field in dataclasses.fields(self):
            if field.name != "source":
                faults.quantities(field.name, getattr(self, field.name), zero=True)
        faults.text("source", self.source)
        faults.raise_if_any()


_FITTED = "fitted to public measurements of Llama-3.1-70B (InferenceX), {}"

ENGINE_TIMES = {
    "none": EngineTimes(source="an engine that costs nothing"),
    "trtllm-graphs": EngineTimes(
        step_s=222e-6, sequence_s=0.9e-6, prefill_layer_s=201e-6, prefill_token_s=0.76e-6,
        source=_FITTED.format("TensorRT-LLM 1.x, graphs in decode, eager prefill"),
    ),
    "vllm-piecewise-graphs": EngineTimes(
        decode_layer_s=24e-6, sequence_s=41e-6, prefill_layer_s=50e-6, prefill_token_s=5.4e-6,
        prompt_s=10e-3, request_s=22e-3,
        source=_FITTED.format("older vLLM, graphs between the attention layers"),
    ),
    "vllm-full-graphs-async": EngineTimes(
        prefill_layer_s=50e-6, source=_FITTED.format("vLLM with full graphs and asynchronous scheduling"),
    ),
}  # fmt: skip
"""Defaults by name. They belong to a version and a graph mode, not to a library as such."""
