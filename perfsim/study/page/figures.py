"""What the interactive pictures of the page share: their frame, their axis of time, and how scripts are attached.

Colours of frames and letters are set by the page's style sheet, which knows the reader's theme.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bokeh.models import CustomJS

__all__ = ["IDLE_COLOUR", "MARK", "TIP", "figure", "script", "stacked", "themed", "time_axis", "tip", "tip_rows"]

MARK = "#808080"
"""Lines that are seen on light and on dark ground."""

IDLE_COLOUR = "rgba(128, 128, 128, 0.18)"
"""Idling is no work: it looks like nearly nothing on either ground."""

_MOST_OUTLINED = 100
"""Of more bars the outlines would be all that is seen."""

TIP = "@tip{safe}"
"""What hovering shows, of a source with a column of tips."""


def figure(**options: Any) -> Any:
    """Make an empty picture as wide as the page, in which nothing but the bars and lines catches the eye.

    Plain turns of the wheel scroll the page; with the control key they zoom.
    """
    from bokeh.models import WheelZoomTool
    from bokeh.plotting import figure as bokeh_figure

    plot = bokeh_figure(**{"sizing_mode": "stretch_width", "toolbar_location": "above", **options})
    plot.toolbar.logo = None
    for tool in plot.select(type=WheelZoomTool):
        tool.modifiers = {"ctrl": True}
    plot.xgrid.visible = False
    for axis in plot.axis:
        axis.axis_label_text_font_style = "normal"
        axis.minor_tick_line_color = None
    plot.min_border_left = 70
    plot.min_border_right = 20
    return plot


def stacked(plot: Any, draw: str, colours: Mapping[str, str], columns: Mapping[str, Any], **place: str) -> None:
    """Stack bars that tell more when one hovers over them.

    Parameters
    ----------
    plot : figure
    draw : str
        ``vbar_stack`` or ``hbar_stack``.
    colours : mapping of str to str
        The parts from the axis outwards.
    columns : mapping of str to array
        A column for each part and for the place, and the tips.
    **place : str
        Which column has the places, such as ``x="device"``.
    """
    from bokeh.models import ColumnDataSource, HoverTool

    few = len(columns["tip"]) <= _MOST_OUTLINED
    bars = getattr(plot, draw)(
        list(colours), **place, color=list(colours.values()), line_color=MARK if few else None, line_width=0.5,
        **{"width" if "x" in place else "height": 0.75 if few else 1.0}, source=ColumnDataSource(dict(columns)),
    )  # fmt: skip
    plot.add_tools(HoverTool(renderers=bars, tooltips=TIP))


def script(function: str, **args: Any) -> CustomJS:
    """Call a function of the page's script, with some arguments, when something changes."""
    from bokeh.models import CustomJS

    return CustomJS(args=args, code=f"{function}({{{', '.join(args)}}}, cb_obj)")


def time_axis(plot: Any) -> None:
    """Write times in the unit that fits the window."""
    from bokeh.models import CustomJSTickFormatter

    plot.xaxis.formatter = CustomJSTickFormatter(code="return perfsim.timeTick(tick, ticks)")
    plot.xaxis.ticker.desired_num_ticks = 8


def tip_rows(facts: Mapping[str, str]) -> str:
    """Write facts as rows of the table that a tip shows.

    Examples
    --------
    >>> tip_rows({"op": "a<b", "layer": ""})
    '<tr><th align="left">op</th><td>a&lt;b</td></tr>'
    """
    rows = (
        f'<tr><th align="left">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in facts.items() if text
    )
    return "".join(rows)


def tip(title: str, facts: Mapping[str, str]) -> str:
    """Write what hovering shows: a title and a table of facts."""
    return f"<b>{escape(title)}</b><table>{tip_rows(facts)}</table>"


def themed() -> list[Any]:
    """Give the style sheet of fields, lists and tables, which take their colours from the page."""
    from bokeh.models import InlineStyleSheet

    return [InlineStyleSheet(css=_WIDGETS)]


_WIDGETS = """
:host { color: var(--ink); font-family: inherit; }
.bk-input { background-color: var(--panel); color: var(--ink); border-color: var(--line); }
.bk-input option { background-color: var(--panel); color: var(--ink); }
.slick-header.ui-state-default, .slick-header-column.ui-state-default {
  background: var(--panel) !important; color: var(--ink) !important; border-color: var(--line) !important; }
.slick-header-column.ui-state-default:hover { background: var(--hover) !important; }
.slick-viewport, .grid-canvas { background: var(--ground); }
.slick-row, .slick-row.odd, .slick-row.even { background: var(--ground); color: var(--ink); }
.slick-row:hover, .slick-row.odd:hover { background: var(--hover); }
.slick-cell { border-color: var(--line) !important; color: var(--ink) !important; background: inherit; }
.slick-cell.selected { background: var(--hover) !important; }
.slick-sort-indicator-asc::before { content: " \\25B2"; }
.slick-sort-indicator-desc::before { content: " \\25BC"; }
"""
