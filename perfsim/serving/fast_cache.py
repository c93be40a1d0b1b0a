"""Compiled: the blocks of a replica's KV cache, and the prefixes that requests share.

A prefix that nobody uses stays until its blocks are needed; the one whose last use is longest ago goes first.
"""

from __future__ import annotations

from perfsim.serving.world import NOBODY
from perfsim.sim.jit import compiled

# ruff: noqa: ANN001, ANN201, ANN202 - Numba infers the types
# mypy: disable-error-code="no-untyped-def"

__all__ = ["acquire", "blocks_held", "publish", "release", "shareable", "take"]


@compiled
def blocks_held(rules, request, tokens):
    """Blocks of a request of which some tokens are cached, shared ones included."""
    if rules.full:
        tokens = request.prompt if rules.role == 1 else request.prompt + request.output
    return (tokens + rules.block - 1) // rules.block


@compiled
def shareable(me, rules, prefixes, request):
    """Blocks of a cached prefix that a request can use."""
    if not rules.prefix_cache or request.prefix == NOBODY:
        return 0
    return min(request.prefix_tokens // rules.block, prefixes[me.index, request.prefix].blocks)


@compiled
def acquire(me, prefixes, request, share):
    """Let a request share a cached prefix."""
    prefix = prefixes[me.index, request.prefix]
    if prefix.users == 0:
        _leave_the_unused(me, prefixes, request.prefix)
    prefix.users += 1
    request.shared = share


@compiled
def publish(me, rules, prefixes, request):
    """Store the prefix of a request whose prompt is computed, unless it is stored already."""
    if not rules.prefix_cache or request.prefix == NOBODY or request.shared:
        return
    prefix, blocks = prefixes[me.index, request.prefix], request.prefix_tokens // rules.block
    if prefix.blocks == 0 and blocks > 0:
        prefix.blocks = blocks
        prefix.users = 1
        request.shared = blocks


@compiled
def release(me, rules, prefixes, request, tokens):
    """Give back the blocks of a request of which some tokens are cached."""
    me.free += blocks_held(rules, request, tokens) - request.shared
    if request.shared:
        prefix = prefixes[me.index, request.prefix]
        prefix.users -= 1
        if prefix.users == 0:
            _join_the_unused(me, prefixes, request.prefix)
        request.shared = 0


@compiled
def take(me, prefixes, blocks):
    """Take blocks, of unused prefixes where no others are left; the caller has seen that there are enough."""
    while me.free < blocks:
        coldest = me.coldest
        _leave_the_unused(me, prefixes, coldest)
        me.free += prefixes[me.index, coldest].blocks
        prefixes[me.index, coldest].blocks = 0
    me.free -= blocks


@compiled
def _join_the_unused(me, prefixes, number):
    prefix = prefixes[me.index, number]
    me.evictable += prefix.blocks
    prefix.colder, prefix.warmer = me.warmest, NOBODY
    if me.warmest == NOBODY:
        me.coldest = number
    else:
        prefixes[me.index, me.warmest].warmer = number
    me.warmest = number


@compiled
def _leave_the_unused(me, prefixes, number):
    prefix = prefixes[me.index, number]
    me.evictable -= prefix.blocks
    if prefix.colder == NOBODY:
        me.coldest = prefix.warmer
    else:
        prefixes[me.index, prefix.colder].warmer = prefix.warmer
    if prefix.warmer == NOBODY:
        me.warmest = prefix.colder
    else:
        prefixes[me.index, prefix.warmer].colder = prefix.colder
