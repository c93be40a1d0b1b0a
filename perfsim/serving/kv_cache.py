"""The KV cache of a replica and the prefixes in it; the readable twin of `perfsim.serving.fast_cache`."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from perfsim.serving.policies import Engine
from perfsim.serving.requests import NO_PREFIX
from perfsim.serving.sequence import Sequence
from perfsim.serving.world import UNLIMITED

__all__ = ["KvCache"]


@dataclass
class _Prefix:
    """A beginning that requests share: its blocks, and how many requests use it."""

    blocks: int
    users: int = 1


class KvCache:
    """Counts blocks; nobody needs to know which block holds what.

    Parameters
    ----------
    engine : Engine
        With its defaults filled in.
    prompts_only : bool
        Whether requests leave when their prompts are computed.
    """

    def __init__(self, engine: Engine, *, prompts_only: bool) -> None:
        self.block = engine.kv_block_tokens or 1
        self.blocks = self.free = engine.kv_blocks or UNLIMITED
        self.full = engine.reservation == "full"
        self.shares = bool(engine.prefix_cache)
        self.prompts_only = prompts_only
        self.prefixes: dict[int, _Prefix] = {}
        self.unused: OrderedDict[int, _Prefix] = OrderedDict()
        """Prefixes without users stay until room is needed; the one unused for longest stands first."""

    @property
    def available(self) -> int:
        """Blocks that are free or can be made so."""
        return self.free + sum(prefix.blocks for prefix in self.unused.values())

    @property
    def used(self) -> int:
        """Blocks that requests hold."""
        return self.blocks - self.available

    def blocks_held(self, sequence: Sequence, tokens: int) -> int:
        """Blocks of a sequence of which some tokens are cached, shared ones included."""
        if self.full:
            tokens = sequence.prompt if self.prompts_only else sequence.prompt + sequence.output
        return -(-tokens // self.block)

    def shareable(self, sequence: Sequence) -> int:
        """Blocks of a stored prefix that a sequence can use."""
        stored = self.prefixes.get(sequence.prefix) if self.shares else None
        return min(sequence.prefix_tokens // self.block, stored.blocks) if stored else 0

    def share_that_fits(self, sequence: Sequence, tokens: int) -> int:
        """Blocks of a stored prefix that a sequence should use.

        None, where nobody uses the prefix and it is so much longer than what this sequence shares of it that there is
        no room for the rest of the sequence beside it.
        """
        share, stored = self.shareable(sequence), self.prefixes.get(sequence.prefix)
        if share and stored and not stored.users:
            beside = self.available - stored.blocks
            return share if self.blocks_held(sequence, tokens) - share <= beside else 0
        return share

    def enter(self, sequence: Sequence, tokens: int, share: int) -> bool:
        """Take the blocks of a sequence, `share` of them those of a stored prefix; False where too few are left."""
        need, stored = self.blocks_held(sequence, tokens) - share, self.prefixes.get(sequence.prefix)
        pinned = stored.blocks if share and stored and not stored.users else 0
        if need > self.available - pinned:
            return False
        if share and stored:
            self.unused.pop(sequence.prefix, None)
            stored.users += 1
            sequence.shared = share
        self.take(need)
        return True

    def take(self, blocks: int) -> None:
        """Take blocks, of unused prefixes where no others are left."""
        while self.free < blocks:
            number, prefix = self.unused.popitem(last=False)
            self.free += prefix.blocks
            del self.prefixes[number]
        self.free -= blocks

    def leave(self, sequence: Sequence, tokens: int) -> None:
        """Give back the blocks of a sequence of which some tokens are cached."""
        self.free += self.blocks_held(sequence, tokens) - sequence.shared
        if sequence.shared:
            prefix = self.prefixes[sequence.prefix]
            prefix.users -= 1
            if not prefix.users:
                self.unused[sequence.prefix] = prefix
            sequence.shared = 0

    def publish(self, sequence: Sequence) -> None:
        """Store the prefix of a sequence whose prompt is computed, unless it is stored already."""
        blocks = sequence.prefix_tokens // self.block
        if self.shares and sequence.prefix != NO_PREFIX and blocks and sequence.prefix not in self.prefixes:
            self.prefixes[sequence.prefix] = _Prefix(blocks)
            sequence.shared = blocks
