"""What the label of a node says: what it does, what it takes and gives, where it runs, to which layer it belongs."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

from perfsim.ops.foreign.shapes import Shape, read_shapes

__all__ = ["EVERYWHERE", "Label", "layers_in", "read_label"]

EVERYWHERE = frozenset({-1})
"""Devices of what runs on all GPUs without saying which there are."""

_BREAK = re.compile(r"\\[nlr]|<br\s*/?>|\n", re.IGNORECASE)
_SECTION = re.compile(r"\s*(in|out)(?:put)?s?\s*\d*\s*(?:dim\w*|shapes?|tensors?)?\s*[:=]\s*(.*)", re.IGNORECASE)
_SHARE = re.compile(r"\s*per (?:gpu|device|rank)\s*:\s*(.*)", re.IGNORECASE)
_DEVICES = re.compile(
    r"\s*(?:(?:gpu|device)s?\s*[:=]\s*(.*)|((?:all |each )?(?:gpu|device)s? *\d(?:\d|[\s,→>–-]|all|gpus?|devices?)*)$)",
    re.IGNORECASE,
)
_ARROW = re.compile(r"→|->|=>")
_RANGE = re.compile(r"(\d+)(?:\s*(?:-|–|\.\.+|to)\s*(?:gpu\s*)?(\d+))?", re.IGNORECASE)
_NO_DEVICE = re.compile(r"\([^)]*\)|\b\d+/\d+\w*|\b\d+\s+(?:gpu|device)s?\b", re.IGNORECASE)
"""Notes in parentheses, fractions, and numbers of GPUs that say how many, not which."""
_LAYERS = re.compile(r"layers?[ _-]*(\d+)(?:\s*(?:-|–|to|\.\.+)\s*(\d+))?(?!\d)", re.IGNORECASE)
_SHORT_LAYER = re.compile(r"(?:^|[_.])l(\d+)(?=$|[_.])", re.IGNORECASE)
_MOST_NUMBERS = 2**16


@dataclass
class Label:
    """The parts of a label; what it does not say stays empty.

    Attributes
    ----------
    title : str
        Its words without shapes and devices.
    inputs, outputs : list of Shape
    device_inputs, device_outputs : list of Shape
        What one GPU holds of them, where a line ``per GPU: ... → ...`` says it.
    devices : frozenset of int or None
        All of them, or `EVERYWHERE`; None where nothing is said.
    targets : frozenset of int or None
        Where its output lies: what stands behind an arrow, else all devices.
    """

    title: str = ""
    inputs: list[Shape] = field(default_factory=list)
    outputs: list[Shape] = field(default_factory=list)
    device_inputs: list[Shape] = field(default_factory=list)
    device_outputs: list[Shape] = field(default_factory=list)
    devices: frozenset[int] | None = None
    targets: frozenset[int] | None = None


def read_label(text: str) -> Label:
    r"""Read a label of plain or HTML-like text.

    Examples
    --------
    >>> label = read_label(r"Query Linear\nInput: [B, S, 64]\nOutput: [B, S, heads=2, d_k=8]\nGPU: each of 0-3")
    >>> label.title, label.outputs[0].width, sorted(label.devices)
    ('Query Linear', 16, [0, 1, 2, 3])
    """
    label, words = Label(), []
    section: list[Shape] | None = None
    for line in _BREAK.split(text):
        plain = html.unescape(re.sub(r"</?[a-zA-Z][^<>]*>", " ", line)).strip()
        begun, share, devices = _SECTION.match(plain), _SHARE.match(plain), _DEVICES.match(plain)
        if begun:
            section = label.inputs if begun[1].lower() == "in" else label.outputs
            section += read_shapes(begun[2])
        elif share:
            taken, _, given = share[1].partition("→")
            label.device_inputs, label.device_outputs = list(read_shapes(taken)), list(read_shapes(given))
        elif devices:
            _place(label, devices[1] or devices[2])
        elif section is not None and read_shapes(plain):  # a section that goes on, with a line for each tensor
            section += read_shapes(plain)
        elif plain:
            words.append(plain)
    label.title = " ".join(words)
    return label


def _place(label: Label, text: str) -> None:
    """Add the devices of one line."""
    sides = [_devices(side) for side in _ARROW.split(text)]
    found = [side for side in sides if side is not None]
    if found:
        label.devices = frozenset().union(label.devices or (), *found)
        label.targets = found[-1] if len(sides) > 1 else label.devices


def _devices(text: str) -> frozenset[int] | None:
    numbers = _numbers(_RANGE, _NO_DEVICE.sub(" ", text))
    return numbers or (EVERYWHERE if re.search(r"\ball\b|\bevery\b|\beach\b", text, re.IGNORECASE) else None)


def _numbers(pattern: re.Pattern[str], text: str) -> frozenset[int]:
    """All numbers of the ranges in a text; a range that is absurdly long gives its ends."""
    found: set[int] = set()
    for first, last in pattern.findall(text):
        ends = int(first), int(last or first)
        found.update(range(ends[0], ends[1] + 1) if 0 <= ends[1] - ends[0] < _MOST_NUMBERS else ends)
    return frozenset(found)


def layers_in(text: str) -> tuple[int, ...]:
    """Numbers of the layers that a name or a title speaks of.

    Examples
    --------
    >>> layers_in("layer_03.mlp_up"), layers_in("Layers 2-5 (similar)"), layers_in("mha_l7"), layers_in("LayerNorm1")
    ((3,), (2, 3, 4, 5), (7,), ())
    """
    found = _numbers(_LAYERS, text) | {int(number) for number in _SHORT_LAYER.findall(text)}
    return tuple(sorted(found))
