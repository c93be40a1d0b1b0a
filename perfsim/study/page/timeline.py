"""The timeline of the page, with memory over time below it on the same axis: how they are drawn from compact data.

`page.js` draws: bars with their texts where there is room for them, else the share of each kind in each pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfsim.report.colours import KIND_COLOURS, TOTAL, ink_on
from perfsim.report.labels import ranges
from perfsim.report.lanes import COMPUTE
from perfsim.simulation import Result
from perfsim.study.page.executions import Player, players_of
from perfsim.study.page.figures import MARK, TIP, figure, script, time_axis, tip_rows
from perfsim.study.page.memory import memory_figure
from perfsim.units import format_bytes, format_count, format_seconds

if TYPE_CHECKING:
    from bokeh.models import LayoutDOM, Range1d

__all__ = ["Timeline", "timeline_of"]

MOST_LANES = 64
"""With more GPUs than that, those that do the same share a lane."""

_BANDS = {"kernels": (0.36, 0.94), "collective": (0.20, 0.34), "transfer": (0.06, 0.18)}
"""Lower and upper edge of the parts of a lane, which is one high."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """The timeline of a result, ready for the page.

    Attributes
    ----------
    layout : LayoutDOM
        The interactive pictures.
    notes : tuple of str
        What is drawn, and how exactly.
    windows : dict of str to tuple of float
        Seconds from and to which the buttons zoom.
    colours : dict of str to str
        What the colours mean.
    """

    layout: LayoutDOM
    notes: tuple[str, ...]
    windows: dict[str, tuple[float, float]]
    colours: dict[str, str]


def timeline_of(result: Result, key: str) -> Timeline:
    """Draw what each GPU does over time, and its memory.

    Parameters
    ----------
    result : Result
    key : str
        Begins the names by which the page's script finds the parts.
    """
    from bokeh.layouts import column
    from bokeh.models import Range1d

    kinds = _kinds(result)
    players = players_of(result.run, _kind_codes(result), len(kinds))
    lanes = _lanes(players, result.run.num_devices)
    end_s = result.makespan_s
    times = Range1d(0, end_s, bounds=(-0.02 * end_s, 1.02 * end_s), min_interval=1e-8, name=f"{key}-time")
    lanes_plot = _lanes_figure(result, key, players, lanes, times)
    memory_plots, left_out = memory_figure(result, key, times)
    layout = column(lanes_plot, *memory_plots, sizing_mode="stretch_width")
    notes = [*_notes(result, players, lanes), *filter(None, [left_out])]
    return Timeline(layout, tuple(notes), _windows(result), kinds)


def _kinds(result: Result) -> dict[str, str]:
    """Colour of each kind of operator that takes time."""
    present = {operator.kind for operator in result.run.operators}
    return {kind: KIND_COLOURS.get(kind, TOTAL) for kind in (*COMPUTE, "collective", "transfer") if kind in present}


def _kind_codes(result: Result) -> NDArray[np.int64]:
    """Number of the kind of each operator; points of the graph, which are never drawn, have the first."""
    number = {kind: code for code, kind in enumerate(_kinds(result))}
    number["receive"] = number.get("transfer", 0)
    return np.array([number.get(operator.kind, 0) for operator in result.run.operators], dtype=np.int64)


def _lanes(players: list[Player], num_devices: int) -> list[tuple[str, int]]:
    """Label of each lane from top to bottom, and who plays in it."""
    if num_devices > MOST_LANES:
        return [(f"GPU {ranges(player.devices)}".replace("-", "–"), number) for number, player in enumerate(players)]
    of = {device: number for number, player in enumerate(players) for device in player.devices}
    return [(f"GPU {device}", of[device]) for device in sorted(of)]


def _lanes_figure(result: Result, key: str, players: list[Player], lanes: list[tuple[str, int]], times: Range1d) -> Any:
    from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d

    count = len(lanes)
    rows = Range1d(0, count, bounds=(0, count), min_interval=min(count, 1))
    plot = figure(height=int(min(max(90 + 26 * count, 190), 900)), x_range=times, y_range=rows, tools=_tools(count),
                  active_drag="xpan", active_scroll="xwheel_zoom", name=f"{key}-lanes")  # fmt: skip
    time_axis(plot)
    image = ColumnDataSource({"image": [np.zeros((1, 1), np.uint32)], "x": [0.0], "dw": [1.0]})
    bars = ColumnDataSource({name: [] for name in ("left", "right", "bottom", "top", "colour", "tip")})
    words = ColumnDataSource({name: [] for name in ("x", "y", "text", "colour")})
    plot.image_rgba("image", x="x", y=0, dw="dw", dh=count, source=image)
    quads = plot.quad(left="left", right="right", bottom="bottom", top="top", fill_color="colour",
                      line_color=MARK, line_width=0.5, line_alpha=0.6, source=bars)  # fmt: skip
    plot.text("x", "y", "text", text_color="colour", text_font_size="11px", text_baseline="middle", x_offset=3,
              source=words)  # fmt: skip
    plot.add_tools(HoverTool(renderers=[quads], tooltips=TIP, point_policy="follow_mouse"))
    step = -(-count // 40)
    middles = {count - 0.5 - lane: label for lane, (label, _) in enumerate(lanes) if lane % step == 0}
    plot.yaxis.ticker = FixedTicker(ticks=list(middles))
    plot.yaxis.major_label_overrides = middles
    plot.ygrid.visible = False
    plot.hspan(y=list(range(1, count)), line_color=MARK, line_alpha=0.3)
    draw = script("perfsim.timeline", plot=plot, image=image, bars=bars, words=words, status=f"{key}-shown",
                  lanes=[player for _, player in lanes], labels=[label for label, _ in lanes],
                  players=[_plain(player) for player in players], **_operators(result))  # fmt: skip
    for model, changes in ((times, ("start", "end")), (rows, ("start", "end")), (plot, ("inner_width",))):
        for change in changes:
            model.js_on_change(change, draw)
    return plot


def _tools(count: int) -> str:
    """Zoom in time only, unless there are so many lanes that one may want to see a few."""
    lanes = "ypan,ywheel_zoom," if count > MOST_LANES / 2 else ""
    return f"xpan,xwheel_zoom,xbox_zoom,{lanes}xzoom_in,xzoom_out,undo,reset"


def _plain(player: Player) -> dict[str, Any]:
    """What the script needs of a player: times as floating-point picoseconds, exact up to 2**53."""
    overview = player.overview and {
        "start": player.overview.edge_ps[0],
        "end": player.overview.edge_ps[1],
        "shares": np.rint(np.minimum(player.overview.shares, 1.0) * 255).astype(np.uint8),
    }
    return {
        "operator": player.operator.astype(np.int32),
        "microbatch": player.microbatch.astype(np.int32),
        "repeats": player.repeats.astype(np.int32),
        "cycle": player.cycle,
        "growth": player.growth_ps.astype(np.float64),
        "start": player.start_ps.astype(np.float64),
        "length": player.length_ps.astype(np.float64),
        "overview": overview,
    }


def _operators(result: Result) -> dict[str, Any]:
    """What hovering tells of each operator, for each size of microbatch."""
    kinds = _kinds(result)
    operators, table = result.run.operators, result.operators
    bands = [_BANDS.get(kind, _BANDS["kernels"]) for kind in kinds]
    return {
        "kinds": [{"name": kind, "colour": colour, "ink": ink_on(colour)} for kind, colour in kinds.items()],
        "bands": bands,
        "kind_of": _kind_codes(result).astype(np.int32),
        "names": [operator.op for operator in operators],
        "layers": [-1 if operator.layer is None else operator.layer for operator in operators],
        "stages": [operator.stage for operator in operators],
        "details": [_details(row) for row in table.itertuples()],
        "variant": _variants(result),
    }


def _details(row: Any) -> str:
    work = (format_count(row.flop, "FLOP") if row.flop else "", format_bytes(row.bytes) if row.bytes else "")
    facts = {
        "shape": row.shape,
        "work": ", ".join(filter(None, work)),
        "bound by": row.bound,
        "speed of light": format_seconds(row.roofline_s),
        "price": row.source,
    }
    return tip_rows(facts)


def _variants(result: Result) -> Any:
    """Which part of the operator table each microbatch belongs to; it has one part for each size, in its order.

    The steps of a generation that come after the prefill have the last parts.
    """
    sizes = list(result.operators.index.get_level_values("microbatch_size"))[:: len(result.run.operators)]
    batches = result.scenario.microbatch_sizes
    variant = np.zeros(len(result.run.end_ps), np.int32)
    for number in range(len(variant)):
        step, microbatch = divmod(number, len(batches))
        places = [place for place, size in enumerate(sizes) if size == batches[microbatch]]
        variant[number] = places[0 if step == 0 else -1] if places else 0
    return variant


def _windows(result: Result) -> dict[str, tuple[float, float]]:
    """Times that are worth a look: all, while the pipeline fills, some microbatches in the middle, the end."""
    end_s = result.makespan_s
    some_s = 3 * end_s / len(result.run.end_ps)
    fill_s = min(max(1.2 * result.first_sequence_s, some_s), end_s)
    middle_s = max((end_s - some_s) / 2, 0)
    return {
        "Whole run": (0.0, end_s),
        "Beginning": (0.0, fill_s),
        "Middle": (middle_s, min(middle_s + some_s, end_s)),
        "End": (end_s - fill_s, end_s),
    }


def _notes(result: Result, players: list[Player], lanes: list[tuple[str, int]]) -> Iterator[str]:
    """Say what is drawn, and how exactly."""
    executions = sum(player.count * len(player.devices) for player in players)
    exact = [player for player in players if not player.overview]
    words = "all" if len(exact) == len(players) else "some of the"
    yield (
        f"This page holds {words} {executions:,} executions at their simulated times. Where a window has too many for "
        "bars, each colour is as high as its share of the time; zoom in to see every one."
    )
    repeated = [player for player in exact if player.repeats.max(initial=1) > 1]
    if repeated:
        most = max(int(player.repeats.max()) for player in repeated)
        yield (
            f"What repeats to the picosecond is stored once and worked out again when it is drawn: cycles of up to "
            f"{max(player.cycle for player in repeated)} microbatches, up to {most:,} times."
        )
    for player in players:
        if player.overview:
            first, last = player.overview.microbatches
            yield (
                f"GPU {ranges(player.devices)}: microbatches {first:,} to {last:,} do not repeat and are too many for "
                "the page; of these only the shares of the time are drawn, however far you zoom in."
            )
    if len(lanes) < result.run.num_devices:
        shared = f"{len(lanes)} lanes for {result.run.num_devices:,} GPUs"
        yield f"GPUs that do the same at the same times share a lane: {shared}."
    if result.scenario.workload.phase not in {"prefill", "decode"}:
        yield "Shapes and bytes of decode steps are those of the last one."
