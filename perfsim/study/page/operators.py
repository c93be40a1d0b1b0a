"""The operator table on the page: sorted by a click on a column's head, filtered by words, kind and bound."""

from __future__ import annotations

from typing import Any

import numpy as np

from perfsim.simulation import Result
from perfsim.study.page.figures import script, themed

__all__ = ["operator_table"]

_ALL = "all"


def operator_table(result: Result, key: str) -> Any:
    """Lay out the table with its filters.

    Parameters
    ----------
    result : Result
    key : str
        Begins the names by which the page's script finds the parts.
    """
    from bokeh.layouts import column, row
    from bokeh.models import CDSView, ColumnDataSource, DataTable, IndexFilter, Select, TextInput

    source = ColumnDataSource(_rows(result))
    style = themed()
    words = TextInput(
        title="Search", placeholder="operator or shape", width=240, name=f"{key}-words", stylesheets=style
    )
    choices = {
        name: Select(title=name, value=_ALL, options=[_ALL, *sorted(set(source.data[name]))], width=150,
                     name=f"{key}-{name}", stylesheets=style)
        for name in ("kind", "bound")
    }  # fmt: skip
    view = CDSView(filter=IndexFilter(indices=list(range(len(source.data["operator"])))))
    table = DataTable(source=source, view=view, columns=_columns(), index_position=None, height=420,
                      sizing_mode="stretch_width", selectable=True, stylesheets=style, name=f"{key}-table",
                      autosize_mode="none", fit_columns=True, reorderable=False)  # fmt: skip
    keep = script("perfsim.tableFilter", source=source, view=view, words=words, **choices, status=f"{key}-rows")
    words.js_on_change("value_input", keep)
    for choice in choices.values():
        choice.js_on_change("value", keep)
    return column(row(words, *choices.values()), table, sizing_mode="stretch_width")


def _rows(result: Result) -> dict[str, Any]:
    """Columns of the operators that take time, in the units of the heads."""
    table = result.operators.reset_index()
    table = table[table["seconds"] > 0]
    total = table["seconds"] * table["executions"]
    return {
        "operator": table["operator"].tolist(),
        "kind": table["kind"].tolist(),
        "stage": table["stage"].to_numpy(dtype=np.int32),
        "sequences": table["microbatch_size"].to_numpy(dtype=np.int32),
        "shape": table["shape"].tolist(),
        "gflop": table["flop"].to_numpy() / 1e9,
        "mb": table["bytes"].to_numpy() / 1e6,
        "us": table["seconds"].to_numpy() * 1e6,
        "light_us": table["roofline_s"].to_numpy() * 1e6,
        "share": (100 * total / total.sum()).to_numpy(),
        "bound": table["bound"].tolist(),
        "source": table["source"].tolist(),
        "executions": table["executions"].to_numpy(dtype=np.int32),
    }


def _columns() -> list[Any]:
    from bokeh.models import NumberFormatter, StringFormatter, TableColumn

    def number(digits: str) -> Any:
        return NumberFormatter(format=digits, text_align="right")

    return [
        TableColumn(field=field, title=title, width=width, formatter=formatter)
        for field, title, width, formatter in (
            ("operator", "operator", 215, StringFormatter()),
            ("kind", "kind", 100, StringFormatter()),
            ("stage", "stage", 50, number("0")),
            ("sequences", "sequences", 85, number("0,0")),
            ("shape", "shape on one GPU", 290, StringFormatter()),
            ("gflop", "GFLOP", 75, number("0,0.0")),
            ("mb", "MB", 70, number("0,0.0")),
            ("us", "time (us)", 80, number("0,0.0")),
            ("light_us", "speed of light (us)", 130, number("0,0.0")),
            ("share", "% of all work", 105, number("0.00")),
            ("bound", "bound", 85, StringFormatter()),
            ("source", "price", 100, StringFormatter()),
            ("executions", "executions", 85, number("0,0")),
        )
    ]
