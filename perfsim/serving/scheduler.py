"""The scheduler of one replica, step by step and sequence by sequence.

This is the readable statement of the policies; `perfsim.serving.fast_steps` does the same on counts. A step is composed
in this order:

1. Decodes that run take the blocks of their next token. While there are too few, what entered last is preempted.
2. The prompt that is begun goes on, as far as the token budget allows.
3. Waiting requests enter in their order, each while the step has tokens, the engine sequences and the cache blocks
   left. Nothing enters in a step that had to preempt. A scheduler may hold them back until a step is fuller.

Where prompts do not mix with decodes, a step takes prompts as long as there are any, and the first point comes last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from perfsim.serving.kv_cache import KvCache
from perfsim.serving.policies import Engine
from perfsim.serving.sequence import Chunk, Sequence, Step

__all__ = ["Scheduler"]


class Scheduler:
    """Chooses what a replica computes next.

    Parameters
    ----------
    engine : Engine
    prompts_only : bool
        Whether requests leave for another replica when their prompts are computed.
    on_admission : callable
        Called with a sequence that enters for the first time.
    """

    def __init__(self, engine: Engine, *, prompts_only: bool, on_admission: Callable[[Sequence], None]) -> None:
        self.engine = engine.resolved
        self.budget, self.most = self.engine.token_budget or 0, self.engine.max_sequences or 0
        self.host = engine.host
        self.cache = KvCache(self.engine, prompts_only=prompts_only)
        self.on_admission = on_admission
        self.queue: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.partial: Sequence | None = None
        self.closed = False  # a static batch is full: nobody enters until it has ended
        self.holding, self.held = False, 0
        self.preempted = False

    def plan(self) -> Step:
        """Compose the next step; an empty one when there is nothing to do."""
        step = self._compose()
        if not step and self.preempted:
            step = self._compose(step.extra_s)  # the last one that ran has just made room for itself
        return step

    def _compose(self, extra_s: float = 0.0) -> Step:
        step = Step(extra_s=extra_s)
        self.preempted = self.holding = False
        if not self.running and self.partial is None:
            self.closed = False
        if self.engine.mixed:
            self._make_room(step)
            self._take_prompts(step, self.budget - len(self.running))
        else:
            self._take_prompts(step, self.budget)
            if not step.chunks:
                self._make_room(step)
        if self.engine.mixed or not step.chunks:
            step.decodes = list(self.running)
        if not step.chunks:
            self.closed = bool(self.running) and self.engine.policy == "static"
        return step

    def _make_room(self, step: Step) -> None:
        """Take the blocks that the next token of each decode needs."""
        if self.cache.full:
            return
        while (need := self._growth(self.running)) > self.cache.available:
            self._preempt(step)
        self.cache.take(need)

    def _growth(self, sequences: list[Sequence]) -> int:
        """Blocks that the next token of each sequence needs."""
        return sum(sequence.cached % self.cache.block == 0 for sequence in sequences)

    def _preempt(self, step: Step) -> None:
        """Send back to the queue what entered last."""
        self.preempted = True
        if self.partial is not None:
            sequence, tokens = self.partial, self.partial.target
            self.partial, sequence.done = None, 0
        else:
            sequence = self.running.pop()
            tokens = sequence.cached
            if self.engine.preemption == "swap":
                sequence.comes_cached = True
                step.extra_s += -(-tokens // self.cache.block) * self.host.swap_block_s
        self.cache.leave(sequence, tokens)
        sequence.preemptions += 1
        self.queue.appendleft(sequence)

    def _take_prompts(self, step: Step, budget: int) -> None:
        """Fill the step with chunks of prompts."""
        if self.partial is not None:
            if budget <= 0:
                return
            budget -= self._add_chunk(step, self.partial, budget)
        if self.partial is not None or self.preempted or self.closed:
            return
        self.holding = bool(self.running) and not step.chunks and self._holds(budget)
        if self.holding:
            return
        while self.queue and budget > 0 and len(self.running) + len(step.chunks) < self.most:
            sequence = self.queue[0]
            if sequence.comes_cached:
                if not self._bring_back(step, sequence):
                    return
                budget -= 1
                continue
            if not self._admit(step, sequence, budget):
                return
            budget -= self._add_chunk(step, sequence, budget)
            step.started += 1
            self.held = 0
            if self.partial is not None:
                return

    def _add_chunk(self, step: Step, sequence: Sequence, budget: int) -> int:
        """Put as much of a prompt into the step as fits, and give its tokens."""
        left = sequence.target - sequence.done
        new = min(left, budget) if self.engine.chunked else left
        step.chunks.append(Chunk(sequence, new, sequence.done))
        sequence.done += new
        self.partial = sequence if new < left else None
        return new

    def _holds(self, budget: int) -> bool:
        """Whether waiting prompts are held until the step is fuller."""
        if self.held >= self.engine.batch_wait_steps:
            return False
        count, tokens, free = 0, 0, self.cache.available
        for sequence in self.queue:
            share, target = self.cache.shareable(sequence), sequence.prompt + sequence.generated
            new = max(1, target - share * self.cache.block)
            free -= self.cache.blocks_held(sequence, target) - share
            full = len(self.running) + count >= self.most or free < 0 or tokens + new > budget
            if full or sequence.comes_cached:
                break
            tokens, count = tokens + new, count + 1
        return count > 0 and len(self.running) + tokens < self.engine.batch_wait_fill * self.budget

    def _admit(self, step: Step, sequence: Sequence, budget: int) -> bool:
        """Let the first waiting request in if tokens and blocks suffice."""
        cache, target = self.cache, sequence.prompt + sequence.generated
        share = cache.share_that_fits(sequence, target)
        new = max(1, target - share * cache.block)
        # What was preempted may have outgrown the budget; then it goes alone.
        alone = not step.chunks and new > self.budget
        if (new > budget and not self.engine.chunked and not alone) or not cache.enter(sequence, target, share):
            return False
        sequence.target, sequence.done = target, target - new
        self.on_admission(self.queue.popleft())
        return True

    def _bring_back(self, step: Step, sequence: Sequence) -> bool:
        """Let a request whose cache was computed before decode on, if there is room for it and for its next token."""
        cache = self.cache
        growth = 0 if cache.full else self._growth([sequence])
        need = cache.blocks_held(sequence, sequence.cached)
        if need + growth > cache.available:
            return False
        # Where prompts go first, the blocks of the step are taken after them.
        cache.take(need + growth if self.engine.mixed else need)
        if sequence.preemptions and self.engine.preemption == "swap":
            step.extra_s += need * self.host.swap_block_s
        sequence.comes_cached = False
        self.on_admission(self.queue.popleft())
        self.running.append(sequence)
        return True

    def close(self, step: Step) -> tuple[list[Sequence], list[Sequence]]:
        """End a step: give the sequences that decoded their last token, and those whose prompt is computed."""
        if step.decodes:
            self.held += self.holding
        for sequence in step.decodes:
            sequence.cached += 1
            sequence.generated += 1
        ended = [sequence for sequence in step.decodes if sequence.generated == sequence.output]
        if ended:
            self.running = [sequence for sequence in self.running if sequence.generated < sequence.output]
        for sequence in ended:
            self.cache.leave(sequence, sequence.cached)
        return ended, [chunk.sequence for chunk in step.chunks if chunk.before + chunk.new == chunk.sequence.target]

    def start_decoding(self, sequence: Sequence) -> None:
        """Let a sequence whose prompt is computed decode."""
        sequence.cached = sequence.target
        self.running.append(sequence)
