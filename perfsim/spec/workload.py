"""WHAT is asked: the phase, the batch and the sequences."""

from __future__ import annotations

from dataclasses import dataclass

from perfsim.errors import Faults
from perfsim.spec.tables import freeze_fields
from perfsim.units import DTYPE_BYTES, MAX_SIZE

__all__ = ["Workload"]

PHASES = ("prefill", "decode")


@dataclass(frozen=True)
class Workload:
    """One forward pass over a batch of sequences of equal length.

    Attributes
    ----------
    phase : str
        ``prefill`` computes all tokens of every sequence; ``decode`` one new token each, with `sequence_length`
        tokens of context, the new one included.
    batch_size : int
        Sequences.
    sequence_length : int
        Tokens of a sequence.
    causal : bool
        Whether a token attends only to itself and to what stands before it.
    keep_kv_cache : bool
        Whether K and V of every token stay in memory for a later decode.
    dtype : str, optional
        Data type of the computation; the model's when left out.
    kv_dtype : str, optional
        Data type of the KV cache; that of the computation when left out.

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
        if all(flags) and self.phase == "decode" and not self.keep_kv_cache:
            faults.add("keep_kv_cache", False, "must be true in the decode phase", "decoding reads the cache")
        faults.raise_if_any()

    @property
    def query_tokens(self) -> int:
        """Tokens of one sequence that are computed."""
        return 1 if self.phase == "decode" else self.sequence_length

    @property
    def tokens(self) -> int:
        """Tokens of the whole batch that are computed."""
        return self.batch_size * self.query_tokens
