"""How the work of a drawing is spread over its GPUs, as far as shapes tell how much it is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from perfsim.ops.checks import BALANCE_TOLERANCE
from perfsim.ops.foreign.drawing import Drawing, Finding, Node, fault, gap
from perfsim.ops.foreign.roles import ATTENTION, COMPOSITE, ELEMENTWISE, LINEAR
from perfsim.ops.foreign.shapes import UNKNOWN, Extent, Shape, times
from perfsim.units import format_count, ranges

__all__ = ["Loads", "balance_findings", "loads_of"]

FLOP = "FLOP"
Loads = dict[str, dict[int, float]]
"""Work of each GPU by its unit: FLOP, FLOP for each token of symbolic shapes, or operators of unknown work."""


def loads_of(drawing: Drawing) -> Loads:
    """Add up the matrix work of each GPU."""
    loads: Loads = defaultdict(lambda: defaultdict(float))
    for node in drawing:
        for device in _computing(drawing, node) or ():
            unit, amount = _work(drawing, node)
            loads[unit][device] += amount
    return loads


def _computing(drawing: Drawing, node: Node) -> frozenset[int] | None:
    """GPUs of an operator with matrix work; nothing for any other."""
    heavy = node.role in LINEAR | ATTENTION | COMPOSITE | {"experts"} or (not node.role and node.is_abbreviated)
    return drawing.devices_of(node) if heavy else frozenset()


def balance_findings(drawing: Drawing, loads: Loads) -> Iterator[Finding]:
    """Name the GPUs that have more or less to do than others."""
    for node in drawing:
        if not _computing(drawing, node) and _computing(drawing, node) != frozenset():
            yield gap(f"{node.name}: does not say on which GPUs it runs")
    if not drawing.devices:
        yield gap("no node names the GPUs")
        return
    uneven = {unit: load for unit, load in loads.items() if _ratio(load, drawing.devices) > 1 + BALANCE_TOLERANCE}
    known = uneven.keys() == {FLOP}
    for unit, load in uneven.items():
        yield from _uneven(drawing, unit, load, decides=known)
    if not loads:
        yield gap("no operator has matrix work that can be read from its label")
    yield from _elementwise(drawing)


def _ratio(load: Mapping[int, float], devices: frozenset[int]) -> float:
    mean = sum(load.values()) / len(devices)
    return max(load.values()) / mean if mean else 1.0


def _uneven(drawing: Drawing, unit: str, load: Mapping[int, float], *, decides: bool) -> Iterator[Finding]:
    """Uneven FLOP are a fault, unless there is other work of unknown size that may make up for them."""
    alike: dict[float, list[int]] = defaultdict(list)
    for device in drawing.devices:
        alike[load.get(device, 0.0)].append(device)
    mean = sum(load.values()) / len(drawing.devices)
    for work, devices in sorted(alike.items(), key=lambda item: min(item[1])):
        what = f"{format_count(work, FLOP)}, {work / mean:.3f} of the mean" if unit == FLOP else f"{work:g} {unit}"
        text = f"GPU {ranges(devices)}: {what}"
        yield fault(text) if decides else gap(text)


def _work(drawing: Drawing, node: Node) -> tuple[str, float]:
    """Work of one GPU in one operator."""
    taken, given = (node.device_inputs or node.inputs), (node.device_outputs or node.outputs)
    flop = _flop(node, taken, given) if taken and given else UNKNOWN
    if UNKNOWN in str(flop):
        shape = f" of {node.inputs[0]}" if node.inputs else ""
        return f"operators of unknown work ({node.role or 'abbreviated'}{shape})", 1.0
    whole = not node.device_outputs and not drawing.local
    share = len(drawing.groups[node.name]) if whole else 1  # labels show all GPUs together
    if isinstance(flop, int):
        return FLOP, flop / share
    number, _, symbols = flop.partition(" × ")
    return (f"FLOP × {symbols}", int(number) / share) if number.isdecimal() else (f"FLOP × {flop}", 1 / share)


def _flop(node: Node, taken: tuple[Shape, ...], given: tuple[Shape, ...]) -> Extent:
    """A multiplication and an addition are two; attention counts all pairs of tokens, masked or not."""
    if node.role in LINEAR:
        widths = [shape.width for shape in given]
        if not all(isinstance(width, int) for width in widths):
            return times(2, given[0].rows, taken[0].width, *widths) if len(widths) == 1 else UNKNOWN
        return times(2, given[0].rows, taken[0].width, sum(widths))  # type: ignore[arg-type]
    if node.role not in ATTENTION:
        return UNKNOWN
    query = taken[0] if node.role == "score" else given[0]
    if query.tokens == 1:  # a decode step, whose label does not say how many keys it sees
        return UNKNOWN
    return times(4 if node.role == "attention" else 2, query.rows, query.tokens, query.width)


def _elementwise(drawing: Drawing) -> Iterator[Finding]:
    """Norms and additions run on all GPUs of their layer, or the others wait."""
    layers: dict[int, list[Node]] = defaultdict(list)
    for node in drawing:
        if node.layer is not None and drawing.devices_of(node) and node.role in ELEMENTWISE | LINEAR | ATTENTION:
            layers[node.layer].append(node)
    for layer, nodes in layers.items():
        devices = frozenset().union(*(drawing.devices_of(node) or () for node in nodes))
        light = [node for node in nodes if node.role in ELEMENTWISE]
        counts = Counter(device for node in light for device in drawing.devices_of(node) or ())
        if light and len({counts[device] for device in devices}) > 1:
            for node in light:
                mine = drawing.groups[node.name]
                if mine < devices:
                    text = f"runs on {len(mine)} of the {len(devices)} GPUs of layer {layer}, and the others wait"
                    yield fault(f"{node.name}: {text}")
