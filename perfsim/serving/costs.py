"""What one step of an engine takes on its GPUs: the seam between the serving simulation and the cost model.

A step takes some *decodes* (one new token of each sequence) and some *chunks* of prompts (new tokens of one sequence).
All tokens of a step pass the linear layers together; attention is each sequence's own. So the time of a step is ::

    linear(tokens) + head(sequences that get a token) + decode_attention(decodes, their summed context)
    + sum over the chunks of prefill_attention(new tokens, context)

Each term is asked for arrays of points and tabulated by `perfsim.serving.tables`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perfsim.errors import Faults

__all__ = ["RooflineCosts", "StepCosts"]

Array = NDArray[np.float64]


class StepCosts(Protocol):
    """Seconds of the parts of a step, over all layers of one replica, without the time of the engine's host.

    Arguments are arrays of the same shape, of numbers of at least 1 that are not always whole, and so are the results.
    A replica of several pipeline stages gives the time in which all of its microbatches take a step, one whose
    attention is data parallel that of its slowest rank.
    """

    @property
    def num_layers(self) -> int:
        """Layers of the model, for times of the engine that are per layer."""

    @property
    def max_context_tokens(self) -> int:
        """Longest sequence that the model takes, prompt and output together."""

    @property
    def lanes(self) -> int:
        """Batches of a replica that are on their way at any time, each of an engine of its own."""

    def linear_s(self, tokens: Array, *, prompts: bool) -> Array:
        """All that depends on the number of tokens: matmuls, experts, norms, all-reduces, without the logits.

        `prompts` tells steps with chunks of prompts from pure decode steps, which may run as captured graphs, padded
        to their sizes, and with other kernels.
        """

    def head_s(self, sequences: Array) -> Array:
        """Logits and sampling for the sequences that get a token: decodes and prompts that end."""

    def decode_attention_s(self, sequences: Array, context_tokens: Array) -> Array:
        """Attention of one new token of each of `sequences`, whose keys (the new ones included) sum to the context.

        It is interpolated between knots of the mean context, 16 an octave, so jumps are smoothed.
        """

    def prefill_attention_s(self, new_tokens: Array, context_tokens: Array) -> Array:
        """Causal attention of a chunk of one prompt, of which all keys (the new ones included) are the context."""


@dataclass(frozen=True)
class RooflineCosts:
    """A dense model at the speed of light of its replica, with a fixed time for each kind of work.

    ``linear = fixed + max(weights / bandwidth, tokens flop / peak)``; ``decode attention = keys' bytes / bandwidth``;
    ``prefill attention = pairs' FLOP / peak``: for trials and tests, where no scenario is at hand.

    Attributes
    ----------
    num_layers, max_context_tokens, lanes : int
    weight_bytes : float
        Read in every step.
    flop_per_token : float
        Of the linear layers; about two for each parameter.
    flop_per_pair : float
        Of a query and a key in all layers: ``4 heads head_dim layers``.
    kv_bytes_per_token : float
        K and V of all layers.
    flop_per_s, bytes_per_s : float
        Of all GPUs of the replica together.
    fixed_s : float
        Of a step, beside the roofline: launches and latencies of collectives.

    Examples
    --------
    >>> import numpy as np
    >>> RooflineCosts().linear_s(np.array([1.0, 8192.0]), prompts=False).round(4).tolist()
    [0.0046, 0.0744]
    """

    num_layers: int = 80
    max_context_tokens: int = 131_072
    weight_bytes: float = 70e9
    flop_per_token: float = 140e9
    flop_per_pair: float = 4 * 64 * 128 * 80
    kv_bytes_per_token: float = 2 * 8 * 128 * 80 * 2
    flop_per_s: float = 8 * 1.979e15
    bytes_per_s: float = 8 * 3.35e12
    fixed_s: float = 0.002
    lanes: int = 1

    def __post_init__(self) -> None:
        faults = Faults("costs")
        faults.integer("num_layers", self.num_layers)
        faults.integer("max_context_tokens", self.max_context_tokens)
        faults.integer("lanes", self.lanes)
        names = ("weight_bytes", "flop_per_token", "flop_per_pair", "kv_bytes_per_token", "flop_per_s", "bytes_per_s")
        for name in (*names, "fixed_s"):
            faults.number(name, getattr(self, name))
        faults.raise_if_any()

    def linear_s(self, tokens: ArrayLike, *, prompts: bool) -> Array:
        """Weights or arithmetic, whichever takes longer; a step with prompts has its launches twice."""
        compute_s = np.asarray(tokens, np.float64) * self.flop_per_token / self.flop_per_s
        return self.fixed_s * (1 + prompts) + np.maximum(self.weight_bytes / self.bytes_per_s, compute_s)

    def head_s(self, sequences: ArrayLike) -> Array:
        """A hundredth of the linear layers' arithmetic."""
        return np.asarray(sequences, np.float64) * self.flop_per_token / self.flop_per_s / 100

    def decode_attention_s(self, sequences: ArrayLike, context_tokens: ArrayLike) -> Array:
        """The time to read the cache, and a little for each sequence."""
        keys, count = np.asarray(context_tokens, np.float64), np.asarray(sequences, np.float64)
        return (keys * self.kv_bytes_per_token + count * 1e4) / self.bytes_per_s

    def prefill_attention_s(self, new_tokens: ArrayLike, context_tokens: ArrayLike) -> Array:
        """Every new token with all keys before it."""
        new, context = np.asarray(new_tokens, np.float64), np.asarray(context_tokens, np.float64)
        return new * (context - (new - 1) / 2) * self.flop_per_pair / self.flop_per_s
