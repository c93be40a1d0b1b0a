"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["echo_json", "echo_table", "json_option", "records"]

_MOST_COLUMNS = 10_000

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs instead of tables.")


def echo_table(frame: pd.DataFrame) -> None:
    """Print a table: in a terminal as wide as that, where its words have room, in a pipe as wide as its rows are."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(str(frame.index.name or ""), no_wrap=True)
    for column in frame.columns:
        table.add_column(str(column), overflow="fold")
    for index, row in zip(frame.index, frame.itertuples(index=False), strict=True):
        table.add_row(str(index), *map(str, row))
    console = Console()
    need = Measurement.get(console, console.options.update(width=_MOST_COLUMNS), table)
    console.width = max(console.width, need.minimum) if sys.stdout.isatty() else need.maximum
    console.print(table)


def records(frame: pd.DataFrame, *, index: bool = True) -> list[dict[str, Any]]:
    """Give a table as plain values, one mapping a row, with or without its index."""
    rows = frame.reset_index() if index else frame
    return json.loads(rows.to_json(orient="records", double_precision=15))


def echo_json(value: Any) -> None:
    """Print plain values as JSON."""
    click.echo(json.dumps(value, indent=1))
