"""The page as a whole: its parts, filled into `page.html` with the scripts that draw them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from perfsim.serving.results import ServeResult
from perfsim.simulation import Result
from perfsim.study.compare import Comparison
from perfsim.study.page import served_words, words
from perfsim.study.page.balance import balance_figure
from perfsim.study.page.dag import dag_layout
from perfsim.study.page.memory import capacity_figure
from perfsim.study.page.operators import operator_table
from perfsim.study.page.plans import comparison_rows, kinds_figure, latency_figure
from perfsim.study.page.served_figures import latencies_figure, served_timeline
from perfsim.study.page.served_table import MOST_ROWS, request_table
from perfsim.study.page.timeline import timeline_of
from perfsim.version import __version__

if TYPE_CHECKING:
    from bokeh.model import Model

__all__ = ["page_html"]

_SCRIPTS = ("bokeh", "bokeh-widgets", "bokeh-tables")
"""The parts of the library that the page uses; the others would make it twice as large."""


def page_html(shown: Result | Comparison | ServeResult) -> str:
    """Write the page of a result, a comparison or a served load.

    Parameters
    ----------
    shown : Result, Comparison or ServeResult

    Returns
    -------
    str
        HTML in which every script, style and figure is contained.
    """
    from bokeh.resources import Resources
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    page = _Page()
    if isinstance(shown, ServeResult):
        template, scripts, content = "serving.html", ["page.js", "serving.js"], page.served(shown)
    else:
        template, scripts, content = "page.html", ["page.js"], page.plans(shown)
    templates = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_text)
    )
    return templates.get_template(template).render(
        **content,
        version=__version__,
        style=_text("page.css"),
        script="".join(map(_text, scripts)),
        library=Resources(mode="inline", log_level="warn", components=[*_SCRIPTS]).render_js(),
        items={name: _as_script(item) for name, item in page.items.items()},
    )


def _text(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _as_script(item: dict[str, Any]) -> str:
    """Write plain values so that no text in them ends the script in which they stand."""
    return json.dumps(item, separators=(",", ":")).replace("<", "\\u003c")


@dataclass
class _Page:
    """What the template is filled with; interactive pictures gather in `items` under the places where they go."""

    items: dict[str, dict[str, Any]] = field(default_factory=dict)

    def _place(self, key: str, model: Model) -> str:
        from bokeh.embed import json_item

        self.items[key] = json_item(model, key)
        return key

    def plans(self, shown: Result | Comparison) -> dict[str, Any]:
        """Give what the page says about one plan or several."""
        if isinstance(shown, Result):
            title = words.title(shown)
            return {
                "title": title,
                "comparison": None,
                "plans": [self.plan(title, Comparison({title: shown}, title), "plan-0")],
            }
        return {
            "title": f"{len(shown.results)} plans compared with {shown.baseline}",
            "comparison": self.comparison(shown),
            "plans": [self.plan(name, shown, f"plan-{number}") for number, name in enumerate(shown.results)],
        }

    def served(self, result: ServeResult, key: str = "served") -> dict[str, Any]:
        """Give what the page says about a served load."""
        timeline = served_timeline(result, key)
        latencies, latency_colours = latencies_figure(result)
        requests, listed = request_table(result, key)
        return {
            "key": key,
            "title": served_words.title(result),
            "heading": served_words.heading(result),
            "drains": result.drains,
            "verdict": served_words.verdict(result),
            "facts": served_words.facts(result),
            "findings": served_words.findings(result),
            "percentiles": served_words.percentiles(result),
            "latencies": self._place(f"{key}-latency", latencies),
            "latency_colours": latency_colours,
            "timeline": self._place(f"{key}-timeline", timeline.layout),
            "notes": timeline.notes,
            "windows": timeline.windows,
            "colours": timeline.colours,
            "requests": self._place(f"{key}-requests", requests),
            "num_listed": f"{min(len(result.sent), MOST_ROWS):,}",
            "listed": listed,
            "inputs": served_words.inputs(result),
        }

    def comparison(self, comparison: Comparison) -> dict[str, Any]:
        """Give what the page says about several plans."""
        kinds, colours = kinds_figure(comparison)
        return {
            "plans": list(comparison.results),
            "rows": comparison_rows(comparison),
            "findings": comparison.findings,
            "kinds": self._place("comparison-kinds", kinds),
            "colours": colours,
            "latency": self._place("comparison-latency", latency_figure(comparison)),
        }

    def plan(self, name: str, comparison: Comparison, key: str) -> dict[str, Any]:
        """Give what the page says about one plan."""
        result = comparison[name]
        timeline = timeline_of(result, key)
        balance, balance_colours = balance_figure(result)
        capacity, capacity_colours = capacity_figure(result)
        dag, dag_colours = dag_layout(result, key)
        device, peak = words.peak_rows(result)
        return {
            "key": key,
            "name": name,
            "heading": words.heading(result),
            "fits": result.fits,
            "verdict": words.verdict(result),
            "facts": words.facts(result),
            "findings": words.findings(result),
            "checks": words.checks(result),
            "claims": words.claims(comparison, name),
            "timeline": self._place(f"{key}-timeline", timeline.layout),
            "notes": timeline.notes,
            "windows": timeline.windows,
            "colours": timeline.colours,
            "balance": self._place(f"{key}-balance", balance),
            "balance_colours": balance_colours,
            "capacity": self._place(f"{key}-capacity", capacity),
            "capacity_colours": capacity_colours,
            "peak_device": device,
            "peak": peak,
            "operators": self._place(f"{key}-operators", operator_table(result, key)),
            "num_operators": int((result.operators["seconds"] > 0).sum()),
            "dag": self._place(f"{key}-graph", dag),
            "dag_colours": dag_colours,
            "num_nodes": len(result.dag.operators),
            "num_edges": len(result.dag.edges),
        }
