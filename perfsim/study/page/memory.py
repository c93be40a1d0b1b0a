"""Memory on the page: how it fills and empties over time on one GPU, and what fills all of them at their peaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfsim.report.colours import KIND_COLOURS, MEMORY_COLOURS
from perfsim.report.labels import ranges
from perfsim.report.repetition import codes_of, find_repetition
from perfsim.simulation import Result
from perfsim.study.page.figures import TIP, figure, script, stacked, themed, time_axis, tip
from perfsim.units import GB, PICOSECONDS_PER_SECOND, format_bytes

if TYPE_CHECKING:
    from bokeh.models import Range1d

__all__ = ["capacity_figure", "memory_figure", "over_time"]

MOST_POINTS = 100_000
"""Instants that a page holds, of all curves together."""

_OVER = "#D55E00"


def over_time(result: Result, device: int) -> dict[str, Any]:
    """Give the memory of a device over time, what repeats written down once.

    Parameters
    ----------
    result : Result
    device : int

    Returns
    -------
    dict
        ``time`` in picoseconds and ``bytes`` of the instants that are kept, of which those from ``first`` on make a
        cycle of ``cycle`` instants that stands ``times`` times, each `growth` picoseconds later.
    """
    frame = result.memory_over_time(device)
    time = np.rint(frame["time_s"].to_numpy() * PICOSECONDS_PER_SECOND).astype(np.int64)
    live = frame["total_bytes"].to_numpy(dtype=np.int64)
    if len(time) and time[0] > 0:  # until then only what is resident is there
        time, live = np.append(0, time), np.append(live[0] - int(frame["activation_bytes"].iloc[0]), live)
    found = find_repetition(codes_of(np.stack([np.diff(time, append=-1), live], axis=1)))
    growth = int(time[found.first + found.cycle] - time[found.first]) if found.times else 0
    return {
        "time": time[found.kept].astype(np.float64),
        "bytes": live[found.kept].astype(np.float64),
        "first": found.first,
        "cycle": found.cycle,
        "times": found.times,
        "growth": growth,
    }


def memory_figure(result: Result, key: str, times: Range1d) -> tuple[list[Any], str]:
    """Draw the memory of a GPU over time against its capacity, with lists to choose the GPU and the scale from.

    Returns
    -------
    list
        The lists and the picture below them.
    str
        Which GPUs are left out, if any are.
    """
    from bokeh.layouts import row
    from bokeh.models import ColumnDataSource, HoverTool, Range1d, Select, Span

    curves = _curves(result)
    plot = figure(height=230, x_range=times, y_range=Range1d(0, 1), tools="xpan,xwheel_zoom,xbox_zoom,reset",
                  active_drag="xpan", active_scroll="xwheel_zoom", y_axis_label="memory (GB)",
                  name=f"{key}-memory")  # fmt: skip
    time_axis(plot)
    # Two points to begin with: the library never ends to draw steps through none.
    source = ColumnDataSource({"x": [0.0, 0.0], "y": [0.0, 0.0], "tip": ["", ""]})
    plot.varea_step(x="x", y1=0, y2="y", step_mode="after", fill_color=KIND_COLOURS["matmul"], fill_alpha=0.25,
                    source=source)  # fmt: skip
    line = plot.step("x", "y", mode="after", line_color=KIND_COLOURS["matmul"], line_width=1.5, source=source)
    plot.add_tools(HoverTool(renderers=[line], tooltips=TIP, mode="vline", line_policy="prev"))
    limit = Span(location=curves[0]["capacity"] / GB, dimension="width", line_color=_OVER, line_width=2,
                 line_dash="dashed")  # fmt: skip
    plot.add_layout(limit)
    lists = [
        Select(title=title, value=options[0], options=options, width=260, name=f"{key}-{name}", stylesheets=themed())
        for title, name, options in (
            ("Memory of GPU", "gpu", [curve["label"] for curve in curves]),
            ("Height", "height", ["up to the capacity", "up to the peak"]),
        )
    ]
    draw = script("perfsim.memory", plot=plot, source=source, choice=lists[0], height=lists[1], limit=limit,
                  curves=curves)  # fmt: skip
    for change in ("start", "end"):
        times.js_on_change(change, draw)
    plot.js_on_change("inner_width", draw)
    for choice in lists:
        choice.js_on_change("value", draw)
    groups = len(set(result.run.models))
    left_out = f"Memory over time is held for the {len(curves)} fullest of {groups} groups of GPUs, for want of room."
    return [row(*lists), plot], left_out if len(curves) < groups else ""


def _curves(result: Result) -> list[dict[str, Any]]:
    """One curve for all GPUs that do the same, the fullest first, as many as the page may hold."""
    run = result.run
    devices: dict[int, list[int]] = {}
    for slot, model in enumerate(run.models):
        devices.setdefault(model, []).extend(run.devices_of(slot))
    peak, capacity = result.memory["peak_bytes"], result.memory["capacity_bytes"]
    curves: list[dict[str, Any]] = []
    room = MOST_POINTS
    for members in sorted(devices.values(), key=lambda held: -peak[held[0]]):
        curve = over_time(result, members[0])
        room -= len(curve["time"])
        if curves and room < 0:
            break
        label = f"{ranges(members).replace('-', '–')}: at most {format_bytes(peak[members[0]])}"
        size = {"capacity": float(capacity[members[0]]), "peak": float(peak[members[0]])}
        curves.append({"label": label, **size, **curve})
    return curves


_PARTS = {
    "weights": "weights_bytes",
    "KV cache": "kv_cache_bytes",
    "activations": "activation_bytes",
    "buffers": "buffer_bytes",
    "reserve": "reserve_bytes",
}


def capacity_figure(result: Result) -> tuple[Any, dict[str, str]]:
    """Draw what fills each GPU at its peak, against its capacity; give the colours with it."""
    memory = result.memory
    sizes: dict[str, NDArray[np.float64]] = {
        name: memory[column].to_numpy(dtype=np.float64) / GB for name, column in _PARTS.items() if memory[column].any()
    }
    capacity = memory["capacity_bytes"].to_numpy(dtype=np.float64) / GB
    tips = [
        tip(f"GPU {device}: {format_bytes(row['peak_bytes'])} of {format_bytes(row['capacity_bytes'])}",
            {name: format_bytes(row[column]) if row[column] else "" for name, column in _PARTS.items()})
        for device, row in memory.iterrows()
    ]  # fmt: skip
    plot = figure(height=260, tools="", toolbar_location=None, x_axis_label="GPU", y_axis_label="memory (GB)")
    colours = {name: MEMORY_COLOURS[name] for name in sizes}
    stacked(plot, "vbar_stack", colours, {"device": memory.index.to_numpy(), "tip": tips, **sizes}, x="device")
    plot.step(memory.index.to_numpy(), capacity, mode="center", line_color=_OVER, line_width=2, line_dash="dashed")
    plot.y_range.start = 0
    return plot, {**colours, "capacity": _OVER}
