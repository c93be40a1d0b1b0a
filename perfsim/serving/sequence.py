"""What a scheduler knows of a request, and what it composes a step of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Chunk", "Sequence", "Step"]


@dataclass(eq=False)
class Sequence:
    """A request in an engine.

    Attributes
    ----------
    number, prompt, output, prefix, prefix_tokens : int
        What was asked for.
    generated : int
        Output tokens so far.
    target, done : int
        Tokens to compute before the next output token, and how many of them are; after a preemption with those
        that were generated.
    cached : int
        Tokens in the cache of one that decodes, or of one that comes back with its cache.
    shared : int
        Blocks that are those of a stored prefix.
    comes_cached : bool
        Whether its cache was computed before and only has to be brought in.
    preemptions : int
    """

    number: int
    prompt: int
    output: int
    prefix: int
    prefix_tokens: int
    generated: int = 0
    target: int = 0
    done: int = 0
    cached: int = 0
    shared: int = 0
    comes_cached: bool = False
    preemptions: int = 0


class Chunk(NamedTuple):
    """New tokens of one prompt, and how many of its tokens stand in the cache before them."""

    sequence: Sequence
    new: int
    before: int


@dataclass
class Step:
    """The batch of a step: decodes, chunks of prompts, and time to move caches to the host's memory and back."""

    decodes: list[Sequence] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    started: int = 0
    extra_s: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.decodes or self.chunks)

    @property
    def context(self) -> int:
        """Keys that the decodes see, their new ones included."""
        return sum(sequence.cached + 1 for sequence in self.decodes)

    @property
    def tokens(self) -> int:
        """Tokens of prompts."""
        return sum(chunk.new for chunk in self.chunks)

    @property
    def ended(self) -> int:
        """Prompts that end with this step."""
        return sum(chunk.before + chunk.new == chunk.sequence.target for chunk in self.chunks)
