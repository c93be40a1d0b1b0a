"""Whether the model is drawn as a whole: every layer, with every operator that a transformer's layer has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator

from perfsim.ops.foreign.drawing import Drawing, Finding, Node, fault, gap
from perfsim.ops.foreign.roles import COMMUNICATION, COMPOSITE, REDUCING
from perfsim.units import ranges

__all__ = ["Parts", "parts_of", "structure_findings"]

Parts = dict[int, Counter[str]]
"""How many operators of each role every layer has, on the GPU that has most."""

_COMPARED = REDUCING | {"all_gather"}
_NEEDED: dict[str, Callable[[Counter[str]], bool]] = {
    "norm": lambda parts: parts["norm"] > 0,
    "projections of Q, K and V": lambda parts: parts["qkv"] > 0 or min(parts["q"], parts["k"], parts["v"]) > 0,
    "attention": lambda parts: parts["attention"] > 0 or min(parts["score"], parts["value"]) > 0,
    "projection after attention": lambda parts: parts["out_proj"] > 0,
    "MLP": lambda parts: min(parts["up"], parts["down"]) > 0 or parts["experts"] + parts["mlp"] > 0,
    "activation": lambda parts: parts["activation"] + parts["experts"] + parts["mlp"] > 0,
    # Attention and MLP side by side have one norm and one addition.
    "addition of the residual after attention or after the MLP": lambda parts: (
        parts["residual"] > 1 or parts["residual"] == parts["norm"] == 1
    ),
}


def parts_of(drawing: Drawing) -> Parts:
    """Count what each layer has. Operators that are drawn once a GPU count once."""
    counts: dict[int, dict[int, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for node in drawing:
        for layer in node.layers:
            for device in drawing.devices_of(node) or drawing.devices or {0}:
                counts[layer][device][node.role] += 1
    return {
        layer: Counter({role: max(found[role] for found in devices.values())
                        for role in {role for found in devices.values() for role in found}})
        for layer, devices in sorted(counts.items())
    }  # fmt: skip


def structure_findings(drawing: Drawing, parts: Parts) -> Iterator[Finding]:
    """Name layers and operators that are not there, and nodes that stand for several."""
    if not parts:
        yield gap("no node says to which layer it belongs")
        return
    known = set(parts) | drawing.claimed_layers
    missing = [layer for layer in range(min(known), max(known) + 1) if layer not in parts]
    if missing:
        yield fault(f"{_layers(missing, 'is', 'are')} not drawn")
    short = {layer for node in drawing if _is_short(node) for layer in node.layers}
    for node in drawing:
        if _is_short(node):
            where = f" of {_layers(node.layers)}" if node.layers else ""
            yield fault(f"{node.name}: one node for several operators{where}, {node.title!r}")
    whole = {layer: found for layer, found in parts.items() if not found["layer"]}
    for part, is_there in _NEEDED.items():
        without = [layer for layer, found in whole.items() if not is_there(found)]
        vague = [layer for layer in without if whole[layer]["linear"] + whole[layer][""]]
        clear = [layer for layer in without if layer not in vague]
        if clear:
            yield fault(f"{_layers(clear, 'has', 'have')} no {part}")
        if vague:
            yield gap(f"{_layers(vague, 'has', 'have')} no {part} that is called so")
    yield from _unlike({layer: found for layer, found in whole.items() if layer not in short})


def _layers(layers: Collection[int], *verbs: str) -> str:
    """Write layers as ranges, with the verb for one or for several."""
    return f"layer{'s' if len(layers) > 1 else ''} {ranges(layers)} {verbs[len(layers) > 1] if verbs else ''}".rstrip()


def _is_short(node: Node) -> bool:
    return node.role in COMPOSITE or node.is_abbreviated


def _unlike(parts: Parts) -> Iterator[Finding]:
    """Layers of one kind, dense or with experts, have the same operators; most of them say which."""
    kinds: dict[bool, Parts] = defaultdict(dict)
    for layer, found in parts.items():
        compared = {role: found[role] for role in found if role not in COMMUNICATION or role in _COMPARED}
        kinds[found["experts"] > 0][layer] = Counter(compared)
    for layers in kinds.values():
        usual = dict(Counter(tuple(sorted((+found).items())) for found in layers.values()).most_common(1)[0][0])
        for role in sorted({role for found in layers.values() for role in found} - {""}):
            odd: dict[int, list[int]] = defaultdict(list)
            for layer, found in layers.items():
                odd[found[role]].append(layer)
            odd.pop(usual.get(role, 0), None)
            for number, unlike in odd.items():
                text = f"{number} x {role.replace('_', '-')}, others of its kind {usual.get(role, 0)}"
                yield fault(f"{_layers(unlike, 'has', 'have')} {text}")
