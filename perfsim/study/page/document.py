"""The page as a whole: its parts, filled into `page.html` with the scripts that draw them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from perfsim.simulation import Result
from perfsim.study.compare import Comparison
from perfsim.study.page import words
from perfsim.study.page.balance import balance_figure
from perfsim.study.page.dag import dag_layout
from perfsim.study.page.memory import capacity_figure
from perfsim.study.page.operators import operator_table
from perfsim.study.page.plans import comparison_rows, kinds_figure, latency_figure
from perfsim.study.page.timeline import timeline_of
from perfsim.version import __version__

if TYPE_CHECKING:
    from bokeh.model import Model

__all__ = ["page_html"]

_SCRIPTS = ("bokeh", "bokeh-widgets", "bokeh-tables")
"""The parts of the library that the page uses; the others would make it twice as large."""


def page_html(shown: Result | Comparison) -> str:
    """Write the page of a result or a comparison.

    Parameters
    ----------
    shown : Result or Comparison

    Returns
    -------
    str
        HTML in which every script, style and figure is contained.
    """
    from bokeh.resources import Resources
    from jinja2 import Environment, StrictUndefined

    page = _Page()
    if isinstance(shown, Comparison):
        comparison = page.comparison(shown)
        plans = [page.plan(name, shown, f"plan-{number}") for number, name in enumerate(shown.results)]
        title = f"{len(plans)} plans compared with {shown.baseline}"
    else:
        title = words.title(shown)
        comparison = None
        plans = [page.plan(title, Comparison({title: shown}, title), "plan-0")]
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return template.from_string(_text("page.html")).render(
        title=title,
        comparison=comparison,
        plans=plans,
        version=__version__,
        style=_text("page.css"),
        script=_text("page.js"),
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
