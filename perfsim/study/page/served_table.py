"""The request table on the page: sorted by a click on a column's head, filtered, each row a way to its time."""

from __future__ import annotations

from typing import Any

import numpy as np

from perfsim.serving.results import ServeResult
from perfsim.study.page.figures import script, themed

__all__ = ["MOST_ROWS", "request_table"]

MOST_ROWS = 5000
"""Requests that a page lists."""

_WORST = 1000
_ALL = "all"
_TIMES = ("queue", "ttft", "tpot", "latency")


def request_table(result: ServeResult, key: str) -> tuple[Any, str]:
    """Lay out the table with its filters.

    Parameters
    ----------
    result : ServeResult
    key : str
        Begins the names by which the page's script finds the parts.

    Returns
    -------
    LayoutDOM
    str
        Which of the requests it lists.
    """
    from bokeh.layouts import column, row
    from bokeh.models import CDSView, ColumnDataSource, DataTable, IndexFilter, Select, TextInput

    rows, listed = _listed(result)
    source = ColumnDataSource(_columns_of(result, rows))
    style = themed()
    fields = {
        name: TextInput(title=title, placeholder="ms", width=150, name=f"{key}-{name}", stylesheets=style)
        for name, title in (("ttft", "TTFT of at least"), ("tpot", "TPOT of at least"))
    }
    replicas = sorted(set(source.data["replica"].tolist()))
    choices = {
        "replica": Select(title="replica", value=_ALL, options=[_ALL, *map(str, replicas)], width=110,
                          name=f"{key}-replica", stylesheets=style),
        "which": Select(title="which", value=_ALL, width=190, name=f"{key}-which", stylesheets=style,
                        options=[_ALL, "preempted", "with a cached prefix", "not ended"]),
    }  # fmt: skip
    view = CDSView(filter=IndexFilter(indices=list(range(len(rows)))))
    table = DataTable(source=source, view=view, columns=_columns(), index_position=None, height=420,
                      sizing_mode="stretch_width", selectable=True, stylesheets=style, name=f"{key}-table",
                      autosize_mode="none", fit_columns=True, reorderable=False)  # fmt: skip
    keep = script("perfsim.served.filter", source=source, view=view, **fields, **choices, status=f"{key}-rows")
    for field in fields.values():
        field.js_on_change("value_input", keep)
    for choice in choices.values():
        choice.js_on_change("value", keep)
    source.selected.js_on_change("indices", script("perfsim.served.go", source=source, range=f"{key}-time"))
    return column(row(*fields.values(), *choices.values()), table, sizing_mode="stretch_width"), listed


def _listed(result: ServeResult) -> tuple[np.ndarray[Any, np.dtype[np.int64]], str]:
    """Choose the requests that are listed, and say which they are."""
    count = len(result.sent)
    if count <= MOST_ROWS:
        return np.arange(count), f"all {count:,} requests"
    slowest = np.argsort(result.requests["ttft_s"].fillna(np.inf).to_numpy(), kind="stable")[-_WORST:]
    others = np.setdiff1d(np.arange(count), slowest)
    even = others[np.linspace(0, len(others) - 1, MOST_ROWS - _WORST).astype(np.int64)]
    words = (
        f"{MOST_ROWS:,} of the {count:,} requests: the {_WORST:,} with the longest TTFT, and others at even distances"
    )
    return np.sort(np.concatenate([slowest, even])), words


def _columns_of(result: ServeResult, rows: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, Any]:
    table = result.requests.iloc[rows]
    whole = ("prompt_tokens", "output_tokens", "cached_tokens", "preemptions", "prefill_replica", "replica")
    return {
        "request": rows.astype(np.int32),
        "sent": table["sent_s"].to_numpy(),
        "finish": table["finish_s"].to_numpy(),
        **{name: table[name].to_numpy(dtype=np.int32) for name in whole},
        **{name: (1e3 * table[f"{name}_s"]).to_numpy(dtype=np.float32) for name in _TIMES},
    }


def _columns() -> list[Any]:
    from bokeh.models import NumberFormatter, TableColumn

    return [
        TableColumn(field=field, title=title, width=width,
                    formatter=NumberFormatter(format=digits, text_align="right", nan_format="–"))
        for field, title, width, digits in (
            ("request", "request", 75, "0,0"),
            ("sent", "sent (s)", 85, "0,0.000"),
            ("queue", "queue (ms)", 90, "0,0.0"),
            ("ttft", "TTFT (ms)", 90, "0,0.0"),
            ("tpot", "TPOT (ms)", 90, "0,0.00"),
            ("latency", "latency (ms)", 100, "0,0.0"),
            ("prompt_tokens", "prompt", 70, "0,0"),
            ("output_tokens", "output", 70, "0,0"),
            ("cached_tokens", "cached", 70, "0,0"),
            ("preemptions", "preemptions", 95, "0,0"),
            ("prefill_replica", "prefill on", 80, "0,0"),
            ("replica", "replica", 70, "0,0"),
        )
    ]  # fmt: skip
