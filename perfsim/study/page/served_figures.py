"""The pictures of a served load on the page: steps of every replica, cache and queue of one, latencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfsim.report.colours import KIND_COLOURS, MEMORY_COLOURS
from perfsim.serving.results import ServeResult
from perfsim.study.page.figures import MARK, TIP, figure, script, themed, time_axis, tip
from perfsim.study.page.served_steps import kept_steps
from perfsim.units import format_seconds

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource, LayoutDOM, Range1d

__all__ = ["ServedTimeline", "latencies_figure", "served_timeline"]

MOST_LANES = 32
"""Replicas that a page shows."""

_PROMPTS, _DECODES = KIND_COLOURS["collective"], KIND_COLOURS["matmul"]
_CACHE, _LIMIT = MEMORY_COLOURS["KV cache"], "#D55E00"
_REQUESTS = {"running": ("running", KIND_COLOURS["attention"]), "waiting": ("waiting", "#CC79A7")}
_LATENCIES = {"TTFT": ("ttft_s", _PROMPTS), "TPOT": ("tpot_s", _DECODES), "latency": ("latency_s", MARK)}
_POINTS = 300
_MARGIN = 1.2


@dataclass(frozen=True, eq=False)
class ServedTimeline:
    """Steps, cache and queue over time, ready for the page.

    Attributes
    ----------
    layout : LayoutDOM
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


class _Curves(NamedTuple):
    """A picture of what one replica holds.

    Attributes
    ----------
    name, label : str
    parts : mapping of str to tuple of str
        By the column of the steps: words and colour.
    sources : list of ColumnDataSource
        The steps of each replica.
    choice : Select
        Chooses the replica.
    limits : list of float
        Of each replica, NaN for none; empty where there is none of any.
    """

    name: str
    label: str
    parts: Mapping[str, tuple[str, str]]
    sources: list[ColumnDataSource]
    choice: Any
    limits: list[float]


def served_timeline(result: ServeResult, key: str) -> ServedTimeline:
    """Draw the steps of each replica, and below them cache and queue of one that can be chosen.

    Parameters
    ----------
    result : ServeResult
    key : str
        Begins the names by which the page's script finds the parts.
    """
    from bokeh.layouts import column
    from bokeh.models import ColumnDataSource, Range1d, Select

    kept = kept_steps(result)[:MOST_LANES]
    sources = [ColumnDataSource(columns) for columns in kept]
    start_s = float(result.outcome.sent_ps[0]) / 1e12
    end_s = max(float(columns["end"].max(initial=start_s)) for columns in kept) or 1.0
    margin = 0.02 * (end_s - start_s) or 1.0
    times = Range1d(start_s, end_s, bounds=(start_s - margin, end_s + margin), min_interval=1e-7, name=f"{key}-time")
    labels = [_label(result, replica) for replica in range(len(kept))]
    tallest = {name: max(float(columns[name].max(initial=0)) for columns in kept) for name in ("decodes", "tokens")}
    decoder = min(result.service.engine_deployment.prefill_replicas, len(labels) - 1)
    choice = Select(title="Cache and queue of", value=labels[decoder], options=labels, width=260, name=f"{key}-of",
                    stylesheets=themed())  # fmt: skip
    capacity = (result.replicas["most_kv_blocks"] / result.replicas["most_kv_share"]).tolist()
    cache = _Curves("cache", "KV blocks", {"blocks": ("KV blocks", _CACHE)}, sources, choice, capacity)
    queue = _Curves("queue", "requests", _REQUESTS, sources, choice, [])
    layout = column(
        _steps_figure(key, sources, labels, tallest, times),
        choice, _curves(key, cache, times), _curves(key, queue, times),
        sizing_mode="stretch_width",
    )  # fmt: skip
    colours = {
        f"tokens of prompts, at full height {tallest['tokens']:,.0f} a step": _PROMPTS,
        f"decodes, at full height {tallest['decodes']:,.0f} a step": _DECODES,
        "KV blocks in use": _CACHE,
        "capacity of the cache (dashed, where it is near)": _LIMIT,
        **{f"{words} requests": colour for words, colour in _REQUESTS.values()},
    }
    return ServedTimeline(layout, _notes(result, kept), _windows(result, start_s, end_s), colours)


def _label(result: ServeResult, replica: int) -> str:
    pool = result.replicas["pool"][replica]
    name = result.service.engine_name(replica)
    return name if pool == "both" else f"{name}, {pool}"


def _steps_figure(
    key: str, sources: list[ColumnDataSource], labels: list[str], tallest: Mapping[str, float], times: Range1d
) -> Any:
    from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d

    count = len(labels)
    plot = figure(height=int(min(110 + 60 * count, 900)), x_range=times, y_range=Range1d(0, count),
                  tools="xpan,xwheel_zoom,xbox_zoom,xzoom_in,xzoom_out,undo,reset", active_drag="xpan",
                  active_scroll="xwheel_zoom", name=f"{key}-lanes")  # fmt: skip
    time_axis(plot)
    image = ColumnDataSource({"image": [np.zeros((1, 1), np.uint32)], "x": [0.0], "dw": [1.0]})
    bars = ColumnDataSource({name: [] for name in ("left", "right", "bottom", "top", "colour", "tip")})
    plot.image_rgba("image", x="x", y=0, dw="dw", dh=count, source=image)
    quads = plot.quad(left="left", right="right", bottom="bottom", top="top", fill_color="colour",
                      line_color=None, source=bars)  # of many bars outlines would be all that is seen  # fmt: skip
    plot.add_tools(HoverTool(renderers=[quads], tooltips=TIP, point_policy="follow_mouse"))
    middles = {count - 0.5 - lane: label for lane, label in enumerate(labels)}
    plot.yaxis.ticker = FixedTicker(ticks=list(middles))
    plot.yaxis.major_label_overrides = middles
    plot.ygrid.visible = False
    plot.hspan(y=list(range(1, count)), line_color=MARK, line_alpha=0.3)
    draw = script("perfsim.served.steps", plot=plot, image=image, bars=bars, status=f"{key}-shown", replicas=sources,
                  labels=labels, tallest=dict(tallest), colours=[_PROMPTS, _DECODES])  # fmt: skip
    _on_change(draw, times, plot)
    return plot


def _curves(key: str, curves: _Curves, times: Range1d) -> Any:
    """Draw what one replica holds over time: blocks of its cache, or requests that run and wait."""
    from bokeh.models import ColumnDataSource, HoverTool, Range1d, Span

    plot = figure(height=210, x_range=times, y_range=Range1d(0, 1), tools="xpan,xwheel_zoom,xbox_zoom,reset",
                  active_drag="xpan", active_scroll="xwheel_zoom", y_axis_label=curves.label,
                  name=f"{key}-{curves.name}")  # fmt: skip
    time_axis(plot)
    drawn = []
    for name, (words, colour) in curves.parts.items():
        # Two points to begin with: the library never ends to draw steps through none.
        source = ColumnDataSource({"x": [0.0, 0.0], "y": [0.0, 0.0], "tip": ["", ""]})
        if len(curves.parts) == 1:
            plot.varea_step(x="x", y1=0, y2="y", step_mode="after", fill_color=colour, fill_alpha=0.45, source=source)
        line = plot.step("x", "y", mode="after", line_color=colour, line_width=1.5, source=source)
        plot.add_tools(HoverTool(renderers=[line], tooltips=TIP, mode="vline", line_policy="prev"))
        drawn.append([name, words, source])
    limit = Span(location=0, dimension="width", line_color=_LIMIT, line_width=2, line_dash="dashed", visible=False)
    plot.add_layout(limit)
    draw = script("perfsim.served.curves", plot=plot, limit=limit, drawn=drawn, limits=curves.limits,
                  replicas=curves.sources, labels=curves.choice.options, choice=curves.choice)  # fmt: skip
    _on_change(draw, times, plot)
    curves.choice.js_on_change("value", draw)
    return plot


def _on_change(draw: Any, times: Range1d, plot: Any) -> None:
    for change in ("start", "end"):
        times.js_on_change(change, draw)
    plot.js_on_change("inner_width", draw)


def _windows(result: ServeResult, start_s: float, end_s: float) -> dict[str, tuple[float, float]]:
    """Times that are worth a look: all, the beginning, some steps in the middle, the end."""
    steps = max(int(result.outcome.steps.max()), 1)
    some_s = min((end_s - start_s) * 200 / steps, end_s - start_s)
    middle_s = (start_s + end_s - some_s) / 2
    return {
        "Whole run": (start_s, end_s),
        "Beginning": (start_s, start_s + some_s),
        "Middle": (middle_s, middle_s + some_s),
        "End": (end_s - some_s, end_s),
    }


def _notes(result: ServeResult, kept: list[dict[str, NDArray[Any]]]) -> tuple[str, ...]:
    """Say what is drawn, and how exactly."""
    steps, rows = int(result.outcome.steps.sum()), sum(len(columns["start"]) for columns in kept)
    notes = [
        "In a lane, tokens of prompts stand above and decodes below, each bar as high as its share of the most of a "
        "step. Where a window has too many for bars, each column of pixels has their mean over time, idling included; "
        "of cache and queue it has the most."
    ]
    if rows == steps:
        notes.append(f"This page holds all {steps:,} steps at their simulated times.")
    else:
        notes.append(
            f"This page holds the {steps:,} steps in {rows:,} rows. Decode steps that are alike share one; where these "
            "are still too many, so do neighbours, with their sums and means, but for the first and last rows of each "
            "replica."
        )
    if len(kept) < len(result.outcome.steps):
        notes.append(f"Of {len(result.outcome.steps):,} replicas the first {len(kept)} are shown.")
    notes.append(
        "The dashed line is the size of the cache, where it is near. Waiting requests are counted as a step ends."
    )
    return tuple(notes)


def latencies_figure(result: ServeResult) -> tuple[Any, dict[str, str]]:
    """Draw which share of the requests takes at most how long; give the colours with it."""
    from bokeh.models import ColumnDataSource, CustomJSTickFormatter, HoverTool

    known = {name: result.percentile_columns[column] for name, (column, _) in _LATENCIES.items()}
    known = {name: column[column > 0] for name, column in known.items()}
    every = np.concatenate([*known.values(), [] if any(map(len, known.values())) else [1e-3, 1.0]])
    plot = figure(height=320, x_axis_type="log", x_axis_label="time", y_axis_label="% of the requests",
                  x_range=(every.min() / _MARGIN, every.max() * _MARGIN), y_range=(0, 100), tools="",
                  toolbar_location=None)  # fmt: skip
    plot.xaxis.formatter = CustomJSTickFormatter(code="return perfsim.timeTick(tick, [tick])")
    plot.xgrid.visible = True
    percent = np.unique(np.concatenate([np.linspace(0, 100, _POINTS), 100 - np.geomspace(0.01, 1, _POINTS // 3)]))
    for name, column in known.items():
        times = np.percentile(column, percent, method="inverted_cdf") if len(column) else np.full(len(percent), np.nan)
        tips = [
            tip(name, {f"{share:.4g} % within": format_seconds(time)})
            for share, time in zip(percent, times, strict=True)
        ]
        source = ColumnDataSource({"x": times, "y": percent, "tip": tips})
        line = plot.line("x", "y", line_color=_LATENCIES[name][1], line_width=2, source=source)
        plot.add_tools(HoverTool(renderers=[line], tooltips=TIP, mode="mouse"))
    return plot, {name: colour for name, (_, colour) in _LATENCIES.items()}
