"""WHAT is asked: the phase, the batch and the sequences."""

from __future__ import annotations

from dataclasses import dataclass

from perfsim.errors import Faults
from perfsim.spec.tables import freeze_fields
from perfsim.units import DTYPE_BYTES, MAX_SIZE

__all__ = ["Workload"]

PHASES = ("prefill", "decode", "generation")


@dataclass(frozen=True)
class Workload:
    """One forward pass over a batch of sequences of equal length.

    Attributes
    ----------
    phase : str
        ``prefill`` computes all tokens of every sequence; ``decode`` one new token each, with `sequence_length`
        tokens of context, the new one included; ``generation`` a prefill, which gives each sequence its first token,
        and then decode steps until it has `output_length` tokens.
    batch_size : int
        Sequences.
    sequence_length : int
        Tokens of a sequence; of the prompt in a generation.
    causal : bool
        Whether a token attends only to itself and to what stands before it.
    keep_kv_cache : bool
        Whether K and V of every token stay in memory for a later decode.
    dtype : str, optional
        Data type of the computation; the model's when left out.
    kv_dtype : str, optional
        Data type of the KV cache; that of the computation when left out.
    output_length : int
        Tokens that a generation gives each sequence.
    expert_imbalance : float
        Pairs of a token and an expert on the busiest device over the mean, at least 1: the others wait for it.
    expert_skew : float
        How unlike the experts are in use: an expert's share falls as its rank to the power of minus this; 0 is even.

    Examples
    --------
    >>> Workload(batch_size=1024, sequence_length=10_000).tokens
    10240000
    """

    phase: str = "prefill"
    batch_size: int = 1
    sequence_length: int = 2048
    causal: bool = True
    keep_kv_cache: bool = True
    dtype: str | None = None
    kv_dtype: str | None = None
    output_length: int = 1
    expert_imbalance: float = 1.0
    expert_skew: float = 0.0

    def __post_init__(self) -> None:
        freeze_fields(self)
        faults = Faults("workload")
        faults.choice("phase", self.phase, PHASES)
        faults.integer("batch_size", self.batch_size, maximum=MAX_SIZE)
        faults.integer("sequence_length", self.sequence_length, maximum=MAX_SIZE)
        flags = faults.flag("causal", self.causal), faults.flag("keep_kv_cache", self.keep_kv_cache)
        for name in ("dtype", "kv_dtype"):
            if getattr(self, name) is not None:
                faults.choice(name, getattr(self, name), DTYPE_BYTES)
        if all(flags) and self.phase in {"decode", "generation"} and not self.keep_kv_cache:
            faults.add("keep_kv_cache", False, f"must be true in the {self.phase} phase", "decoding reads the cache")
        whole = faults.integer("output_length", self.output_length, maximum=MAX_SIZE)
        if whole and self.output_length > 1 and self.phase in {"prefill", "decode"}:
            way_out = 'choose phase="generation"'
            faults.add("output_length", self.output_length, f"must be 1 in the {self.phase} phase", way_out)
        if faults.number("expert_imbalance", self.expert_imbalance, at_most=1e6) and self.expert_imbalance < 1:
            faults.add("expert_imbalance", self.expert_imbalance, "must be at least 1, the mean itself")
        if self.expert_skew != 0:
            faults.number("expert_skew", self.expert_skew, at_most=10.0)
        faults.raise_if_any()

    @property
    def query_tokens(self) -> int:
        """Tokens of one sequence that one pass through the model computes; of a generation its prefill."""
        return 1 if self.phase == "decode" else self.sequence_length

    @property
    def tokens(self) -> int:
        """Tokens of the whole batch that are computed; of a generation those that it gives."""
        return self.batch_size * (self.output_length if self.phase == "generation" else self.query_tokens)

    @property
    def context_length(self) -> int:
        """Most tokens of a sequence that are in its KV cache at once."""
        return self.sequence_length + (self.output_length - 1 if self.phase == "generation" else 0)
