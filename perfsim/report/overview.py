"""The deployment from afar as a Graphviz picture: stages, their devices, and what flows between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perfsim.ops.build import operator_graph
from perfsim.ops.graph import OperatorGraph
from perfsim.ops.nodes import Operator
from perfsim.ops.operators import Collective, ExpertExchange, Transfer
from perfsim.report.grid import Point
from perfsim.report.labels import FONT, INK, devices_text, fill, html, quote, ranges, wide_table
from perfsim.report.routes import spline
from perfsim.spec.hardware import NetworkTier
from perfsim.spec.plan import Plan
from perfsim.spec.scenario import Scenario
from perfsim.units import format_bytes

__all__ = ["overview_dot"]

_CELLS_A_ROW = 8
_DEVICES_SHOWN = 64
_GROUPS_SHOWN = 32
_CHARACTER = 7.0
"""Mean width of a character of the text, in the widest of the fonts that browsers fall back on."""
_LINE, _TITLE, _CELL = 26.0, 40.0, 28.0
_HEAD, _POINT, _MARGIN = 130.0, 60.0, 24.0
_BESIDE, _BELOW = 230.0, 130.0
"""Room for the hand-over between stages side by side, and between rows."""


def overview_dot(scenario: Scenario) -> str:
    """Write the stages of a deployment in DOT.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    str
        DOT text: a table a stage, with its layers, GPUs, weights and all-reduces, and edges with the hand-over between
        stages: shape, bytes and network tier. Above 64 GPUs a cell stands for a tensor group.

    Examples
    --------
    >>> import perfsim
    >>> text = overview_dot(perfsim.load_scenario("seed-improved"))
    >>> "Stage 1: layers 8-15" in text, "GPU 15" in text, "infiniband" in text
    (True, True, True)
    """
    return _Overview(scenario).text()


@dataclass(frozen=True)
class _Stage:
    """The texts of a stage: what it holds, its devices in rows of cells, and what they say to each other."""

    title: str
    facts: tuple[str, ...]
    devices: tuple[tuple[str, ...], ...]
    said: tuple[str, ...]

    @property
    def width(self) -> float:
        texts = max(len(text) for text in (self.title, *self.facts, *self.said)) * _CHARACTER + 20
        return max(texts, *(sum(6.2 * len(cell) + 18 for cell in row) + 20 for row in self.devices))

    @property
    def height(self) -> float:
        return _TITLE + _LINE * (len(self.facts) + len(self.said)) + _CELL * len(self.devices) + 14


class _Overview:
    """Stages of one size in a grid, read like a page."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.graph = scenario, operator_graph(scenario)
        self.stages = [_describe(scenario, self.graph, stage) for stage in range(scenario.plan.pipeline)]
        number = len(self.stages)
        self.across = min(number, max(4, math.ceil(math.sqrt(number))))
        self.cell = max(stage.width for stage in self.stages), max(stage.height for stage in self.stages)
        down = math.ceil(number / self.across)
        title = max(len(line) for line in _titles(scenario)) * 1.1 * _CHARACTER
        self.width = 2 * _MARGIN + max(title, self.across * self.cell[0] + (self.across - 1) * _BESIDE)
        self.height = _HEAD + 2 * (_POINT + 60) + down * self.cell[1] + (down - 1) * _BELOW + _MARGIN

    def text(self) -> str:
        lines = ["digraph overview {", *self._head()]
        lines += [f"  {self._stage(number)}" for number in range(len(self.stages))]
        lines += [f"  {line}" for line in (*self._ends(), *self._hand_overs())]
        return "\n".join([*lines, "}"]) + "\n"

    def _centre(self, stage: int) -> Point:
        row, column = divmod(stage, self.across)
        width, height = self.cell
        x = _MARGIN + width / 2 + column * (width + _BESIDE)
        return x, _HEAD + _POINT + 60 + height / 2 + row * (height + _BELOW)

    def _pos(self, point: Point) -> str:
        return f'"{point[0]:g},{self.height - point[1]:g}"'

    def _head(self) -> Iterator[str]:
        title, *texts = _titles(self.scenario)
        rows = [f'<FONT POINT-SIZE="20">{html(title)}</FONT>', *map(html, texts)]
        label = wide_table("".join(f'<TR><TD ALIGN="LEFT">{row}</TD></TR>' for row in rows), self.width - 2 * _MARGIN)
        bounds = f'bb="0,0,{self.width:g},{self.height:g}", lp={self._pos((self.width / 2, _HEAD / 2))}'
        yield f"  graph [layout=nop2, {bounds}, fontname={quote(FONT)}, fontsize=13, fontcolor={quote(INK)},"
        yield f"    pad=0.2, label=<{label}>];"
        yield f"  node [fontname={quote(FONT)}, fontsize=13, fontcolor={quote(INK)}, shape=plain];"
        yield f"  edge [fontname={quote(FONT)}, fontsize=12, fontcolor={quote(INK)}, color={quote(INK)}, penwidth=2];"

    def _stage(self, number: int) -> str:
        stage, (light, border), (width, height) = self.stages[number], fill("matmul"), self.cell
        title = f'<FONT POINT-SIZE="16">{html(stage.title)}</FONT>'
        rows = [
            f'<TR><TD BGCOLOR="{light}" SIDES="B" WIDTH="{width - 6:.0f}" HEIGHT="{_TITLE - 4:.0f}">{title}</TD></TR>'
        ]
        rows += [_line(text) for text in stage.facts]
        rows.append(f'<TR><TD BORDER="0">{_cells(stage.devices)}</TD></TR>')
        rows += [_line(text, fill("collective")[0]) for text in stage.said]
        table = (
            f'<TABLE BORDER="2" COLOR="{border}" STYLE="ROUNDED" BGCOLOR="#FFFFFF" CELLBORDER="1" CELLSPACING="0" '
            f'CELLPADDING="5" WIDTH="{width:.0f}" HEIGHT="{height:.0f}">{"".join(rows)}</TABLE>'
        )
        return f"{quote(f'stage {number}')} [pos={self._pos(self._centre(number))}, label=<{table}>];"

    def _ends(self) -> Iterator[str]:
        """Write where the model begins, over the first stage, and where it ends, under the last."""
        workload, (_, height) = self.scenario.workload, self.cell
        model, batch = self.scenario.model, f"batch={workload.batch_size}"
        hidden = f"[{batch}, seq={workload.query_tokens}, hidden={model.hidden_size}]"
        ids, logits = (
            f"[{batch}, seq={workload.query_tokens}] token ids",
            f"[{batch}, vocabulary={model.vocab_size}] logits",
        )
        shapes = {"input": ids, "output": logits} if model.vocab_size else {"input": hidden, "output": hidden}
        look = f"shape=hexagon, style=filled, fillcolor={quote('#FFFFFF')}, fixedsize=shape, width=5, height=0.75"
        first, last = self._centre(0), self._centre(len(self.stages) - 1)
        top, bottom = first[1] - height / 2, last[1] + height / 2
        for name, point in (("input", (first[0], top - 60 - 27)), ("output", (last[0], bottom + 60 + 27))):
            label = quote(f"{name.capitalize()}\n{shapes[name]}")
            yield f"{name} [{look}, pos={self._pos(point)}, label={label}];"
        path = spline([(first[0], top - 60), (first[0], top)], self.height)
        yield f'input -> {quote("stage 0")} [pos="{path}"];'
        path = spline([(last[0], bottom), (last[0], bottom + 60)], self.height)
        yield f'{quote(f"stage {len(self.stages) - 1}")} -> output [pos="{path}"];'

    def _hand_overs(self) -> Iterator[str]:
        """Write what flows from each stage to the next, beside it or in the row below."""
        (width, height), colour, drawn = self.cell, quote(fill("transfer")[1]), set()
        for operator in self.graph:
            if not isinstance(operator.work, Transfer):
                continue
            following = (operator.stage + 1) % len(self.stages)
            if (operator.stage, following) in drawn:
                continue
            drawn.add((operator.stage, following))
            (x, y), (to_x, to_y) = self._centre(operator.stage), self._centre(following)
            if following < operator.stage:  # back to the first stage, round the left side
                under, left = y + height / 2 + 24, _MARGIN / 2
                corners = [
                    (x + 60, y + height / 2),
                    (x + 60, under),
                    (left, under),
                    (left, to_y),
                    (to_x - width / 2, to_y),
                ]
                middle = ((x + to_x) / 2, under + 46)
            elif y == to_y:
                corners = [(x + width / 2, y), (to_x - width / 2, y)]
                middle = ((x + to_x) / 2, y - 46)
            else:
                between = y + height / 2 + 24
                corners = [(x, y + height / 2), (x, between), (to_x, between), (to_x, to_y - height / 2)]
                middle = ((x + to_x) / 2, between + 46)
            label = quote("\n".join(_hand_over(self.scenario, operator, operator.work)))
            ends = f"{quote(f'stage {operator.stage}')} -> {quote(f'stage {following}')}"
            place = f'pos="{spline(corners, self.height)}", lp={self._pos(middle)}'
            yield f"{ends} [color={colour}, {place}, label={label}];"


def _titles(scenario: Scenario) -> tuple[str, ...]:
    plan, workload, model = scenario.plan, scenario.workload, scenario.model
    plural = "s" if model.num_hidden_layers > 1 else ""
    copies = f" in each of {plan.data} replicas" if plan.data > 1 else ""
    return (
        f"{model.name} on {plan.num_devices} × {scenario.cluster.accelerator.name}",
        f"{model.num_hidden_layers} layer{plural}, hidden {model.hidden_size}, {model.num_attention_heads} heads, "
        f"{model.num_parameters / 1e9:.4g} billion parameters in {scenario.dtype}",
        f"Plan: {_degrees(plan)}, schedule {plan.schedule}",
        f"Workload: {workload.phase} of {workload.batch_size} sequences of {workload.sequence_length} tokens: "
        f"{scenario.num_microbatches} microbatches of {scenario.microbatch_size}{copies}",
    )


def _degrees(plan: Plan) -> str:
    """Degrees of parallelism: the three that every plan has, and others where they are above 1."""
    more = [f" × {name} {size}" for name, size in (("context", plan.context), ("expert", plan.expert)) if size > 1]
    virtual = f", {plan.virtual_stages} virtual stages" if plan.virtual_stages > 1 else ""
    shared = ", sequence parallel" if plan.sequence_parallel else ""
    return f"tensor {plan.tensor} × pipeline {plan.pipeline} × data {plan.data}{''.join(more)}{shared}{virtual}"


def _describe(scenario: Scenario, graph: OperatorGraph, stage: int) -> _Stage:
    passes = range(stage, scenario.plan.num_passes, scenario.plan.pipeline)
    layers = [layer for index in passes for layer in scenario.stage_layers(index)]
    operators = [operator for operator in graph if operator.stage == stage]
    return _Stage(
        f"Stage {stage}: layer{'s' if len(layers) > 1 else ''} {ranges(layers)}",
        (devices_text(scenario.stage_devices(stage)), *_weights(scenario, operators)),
        tuple(_devices(scenario, stage)),
        tuple(_collectives(operators, scenario.cluster.tiers_of(scenario.place_of(operators[0].devices[0])))),
    )


def _line(text: str, colour: str = "#FFFFFF") -> str:
    return f'<TR><TD ALIGN="LEFT" BORDER="0" BGCOLOR="{colour}" HEIGHT="{_LINE:.0f}">{html(text)}</TD></TR>'


def _weights(scenario: Scenario, operators: Sequence[Operator]) -> Iterator[str]:
    weights = [o.weight for o in operators if o.weight is not None and not (o.weight.tied and o.layer is not None)]
    held = sum(weight.device_count for weight in weights)
    size = sum(weight.device_bytes(scenario.dtype) for weight in weights)
    capacity = format_bytes(scenario.segment(operators[0].stage).accelerator.memory_bytes)
    yield f"{held / 1e6:.4g} million parameters per GPU"
    yield f"{size / 1e9:.4g} GB of weights per GPU, of {capacity} memory"


def _collectives(operators: Sequence[Operator], tiers: Sequence[NetworkTier]) -> Iterator[str]:
    """Count the collectives of each sort in a stage, for one microbatch."""
    counts: dict[Collective | ExpertExchange, int] = {}
    for operator in operators:
        if isinstance(operator.work, Collective | ExpertExchange):
            counts[operator.work] = counts.get(operator.work, 0) + 1
    for work, count in counts.items():
        name = work.op.replace("_", "-") + ("s" if count > 1 else "")
        tier = tiers[len(work.span) - 1].name
        yield f"{count} {name} of {format_bytes(work.payload_bytes)} per microbatch"
        yield f"over {work.group_size} GPUs by {tier}"


def _devices(scenario: Scenario, stage: int) -> Iterator[tuple[str, ...]]:
    """Name the devices of a stage in rows of cells: a row or more a replica, or a cell a tensor group."""
    plan = scenario.plan
    groups = scenario.group_devices("tensor", stage)
    if plan.num_devices <= _DEVICES_SHOWN:
        # Whole tensor groups fill a row; a longer one has several, of about the same length.
        whole = plan.tensor * max(1, _CELLS_A_ROW // plan.tensor)
        for start in range(0, plan.stage_devices, whole):
            row = scenario.stage_devices(stage)[start : start + whole]
            across = math.ceil(len(row) / math.ceil(len(row) / _CELLS_A_ROW))
            for first in range(0, len(row), across):
                yield tuple(f"GPU {device}" for device in row[first : first + across])
        return
    texts = [f"GPU {ranges(group)}" for group in groups]
    if len(texts) > _GROUPS_SHOWN:
        texts = [*texts[: _GROUPS_SHOWN - 2], f"... {len(texts) - _GROUPS_SHOWN + 1} more", texts[-1]]
    for first in range(0, len(texts), _CELLS_A_ROW // 2):
        yield tuple(texts[first : first + _CELLS_A_ROW // 2])


def _cells(rows: Sequence[Sequence[str]]) -> str:
    light, border = fill("attention")
    lines = []
    for row in rows:
        cells = "".join(
            f'<TD BGCOLOR="{light}" COLOR="{border}"><FONT POINT-SIZE="11">{html(text)}</FONT></TD>' for text in row
        )
        lines.append(f"<TR>{cells}</TR>")
    return f'<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="3" CELLPADDING="4">{"".join(lines)}</TABLE>'


def _hand_over(scenario: Scenario, operator: Operator, work: Transfer) -> Iterator[str]:
    (wire,) = operator.outputs
    yield "hand-over"
    yield f"{list(wire.device_shape)} {wire.dtype}"
    yield f"{format_bytes(work.payload_bytes)} a GPU"
    yield f"for each microbatch ({scenario.num_microbatches} ×)"
    yield f"by {scenario.cluster.tiers_of(scenario.place_of(operator.devices[0]))[work.tier].name}"
