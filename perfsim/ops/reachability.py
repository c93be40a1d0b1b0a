"""What follows from the edges of a graph alone: who is reached from where, and whether edges go in a circle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["Neighbours", "a_cycle", "neighbours", "reached"]

Neighbours = Mapping[str, list[str]]


def neighbours(names: Iterable[str], edges: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Ends of the edges that begin at each name; edges to or from unknown names are left out.

    Examples
    --------
    >>> neighbours(["a", "b"], [("a", "b"), ("b", "c")])
    {'a': ['b'], 'b': []}
    """
    after: dict[str, list[str]] = {name: [] for name in names}
    for start, end in edges:
        if start in after and end in after:
            after[start].append(end)
    return after


def reached(after: Neighbours, starts: Iterable[str]) -> set[str]:
    """Names that can be reached, the starts included.

    Examples
    --------
    >>> sorted(reached({"a": ["b"], "b": [], "c": ["a"]}, ["a"]))
    ['a', 'b']
    """
    stack = list(starts)
    seen = set(stack)
    while stack:
        for name in after[stack.pop()]:
            if name not in seen:
                seen.add(name)
                stack.append(name)
    return seen


def a_cycle(after: Neighbours) -> list[str]:
    """One circle of names, the first repeated at its end; empty where there is none.

    Names without open ends are peeled off (Kahn, 1962): what cannot be peeled off lies on a circle or before one.

    Examples
    --------
    >>> a_cycle({"a": ["b"], "b": ["c"], "c": ["b"]}), a_cycle({"a": ["b"], "b": []})
    (['b', 'c', 'b'], [])
    """
    before: dict[str, list[str]] = {name: [] for name in after}
    for start, ends in after.items():
        for end in ends:
            before[end].append(start)
    open_ends = {name: len(ends) for name, ends in after.items()}
    ready = [name for name, count in open_ends.items() if count == 0]
    while ready:
        for start in before[ready.pop()]:
            open_ends[start] -= 1
            if open_ends[start] == 0:
                ready.append(start)
    left = {name for name, count in open_ends.items() if count > 0}
    walk = [min(left)] if left else []
    while walk:
        following = next(name for name in after[walk[-1]] if name in left)
        if following in walk:
            return [*walk[walk.index(following) :], following]
        walk.append(following)
    return []
