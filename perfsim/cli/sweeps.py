"""``perfsim sweep``: axes as text, the table in a file, a picture, and what the terminal shows of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perfsim.cli.printing import echo_json, echo_table, json_option, records
from perfsim.errors import Faults, InputError
from perfsim.spec.files import load_scenario
from perfsim.study.output import replace_file
from perfsim.study.sweep import sweep
from perfsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_axis", "read_value", "sweep_command"]

_SHOWN = 20
_WORDS = {"true": True, "false": False, "none": None}


@click.command("sweep", short_help="Simulate every point of a product of axes.")
@click.argument("scenario")
@click.option("--axis", "axes", multiple=True, required=True, metavar="FIELD=VALUES",
              help="A field and its values: 1,2,4 or first:last:step or first:last:*factor.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes of this machine.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the table: .parquet or .csv.")
@click.option("--plot", type=click.Path(path_type=Path),
              help="File for a picture (.png): lines over one axis, or a heat map over the first two.")  # fmt: skip
@click.option("--value", default="tokens_per_s", show_default=True, help="The column that the picture shows.")
@click.option("--resume", type=click.Path(path_type=Path),
              help="Folder that keeps the points as they come; the same call goes on from there.")  # fmt: skip
@json_option
def sweep_command(
    scenario: str, axes: tuple[str, ...], *, workers: int, out: Path | None, plot: Path | None, value: str,
    resume: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Simulate every point of a product of axes around SCENARIO, a name or a TOML file.

    Example: perfsim sweep seed-improved --axis batch_size=64:1024:*2 --axis sequence_length=1000:10000:1000
    """
    read = _read_axes(axes)
    _check_files(out, plot, read)
    table = sweep(load_scenario(scenario), workers=workers, path=resume, progress=not as_json, **read)
    if out is not None:
        _write_table(table, out)
    if plot is not None:
        _write_plot(table, list(read), value, plot)
    if as_json:
        echo_json(records(table, index=False))
        return
    _show(table, list(read))
    for file, what in ((out, "The table"), (plot, "The picture")):
        if file is not None:
            click.echo(f"{what} is in {file}")


def _read_axes(texts: tuple[str, ...]) -> dict[str, Any]:
    faults, axes = Faults("sweep"), {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name:
            faults.add("axis", text, "must be a field and its values", "such as batch_size=64,128")
        elif name in axes:
            faults.add("axis", text, f"varies {name}, which another axis varies too", "leave one out")
        else:
            try:
                axes[name] = read_axis(values)
            except InputError as error:
                faults.take(error)
    faults.raise_if_any()
    return axes


def read_axis(text: str) -> list[Any]:
    """Read the values of an axis.

    Raises
    ------
    InputError
        A range has no end, no step forward, or holds something else than numbers.

    Examples
    --------
    >>> read_axis("64,128"), read_axis("true,none,bf16"), read_axis("1:8:*2"), read_axis("0.5:1.5:0.5")
    ([64, 128], [True, None, 'bf16'], [1, 2, 4, 8], [0.5, 1.0, 1.5])
    """
    first, colon, rest = text.partition(":")
    if not colon:
        return [read_value(word) for word in text.split(",") if word]
    last, _, step = rest.partition(":")
    geometric = step.startswith("*")
    numbers = [read_value(word) for word in (first, last, step.removeprefix("*") or "1")]
    way_out = "write first:last:step or first:last:*factor, such as 1000:10000:1000 or 1:1024:*2"
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise InputError.of("sweep.axis", text, "must be a range of numbers", way_out)
    value, end, by = numbers
    if by <= (1 if geometric else 0) or end < value or (geometric and value <= 0):
        raise InputError.of("sweep.axis", text, "must be a range that goes up", way_out)
    # By its position, so that no error adds up along a range of decimal fractions; the end belongs to it.
    values: list[Any] = []
    while (point := value * by ** len(values) if geometric else value + by * len(values)) <= end * (1 + 1e-12):
        values.append(min(point, end))
    return values


def read_value(word: str) -> Any:
    """Read a word as true, false, none, a number, or else as itself."""
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _check_files(out: Path | None, plot: Path | None, axes: dict[str, Any]) -> None:
    """Refuse files that could not be written at the end, before anything runs."""
    faults = Faults("sweep")
    for name, path, endings in (("out", out, (".parquet", ".csv")), ("plot", plot, (".png",))):
        if path is not None and path.suffix not in endings:
            faults.add(name, str(path), f"must end in {' or '.join(endings)}")
        elif path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            faults.add(name, str(path), "must be a file in a folder that exists")
    if plot is not None and len(axes) > 2:  # noqa: PLR2004  (a picture has two directions)
        faults.add("plot", str(plot), "shows one or two axes", "sweep fewer axes, or draw from the table in Python")
    faults.raise_if_any()


def _write_table(table: pd.DataFrame, path: Path) -> None:
    with replace_file(path) as stream:
        if path.suffix == ".csv":
            table.to_csv(stream, index=False)
        else:
            table.to_parquet(stream)


def _write_plot(table: pd.DataFrame, names: list[str], value: str, path: Path) -> None:
    from perfsim.report.canvas import write_png
    from perfsim.report.plot_sweep import plot_heatmap, plot_lines

    ax = plot_lines(table, names[0], value) if len(names) == 1 else plot_heatmap(table, names[1], names[0], value)
    with replace_file(path) as stream:
        write_png(ax, stream)


def _show(table: pd.DataFrame, names: list[str]) -> None:
    """Print the points, or the best of many."""
    fitting = table[table["fits"]]
    click.echo(f"{len(table):,} points, {len(fitting):,} of them fit in memory.")
    shown = table if len(table) <= _SHOWN else fitting.nlargest(_SHOWN, "tokens_per_s")
    if shown.empty:
        click.echo(f"The first says: {table['reason'].iloc[0]}")
        return
    if len(table) > _SHOWN:
        click.echo(f"The {len(shown)} with the most tokens a second:")
    columns = {
        "makespan": shown["makespan_s"].map(format_seconds, na_action="ignore"),
        "tokens/s": shown["tokens_per_s"].map("{:,.0f}".format, na_action="ignore"),
        "first sequence": shown["first_sequence_s"].map(format_seconds, na_action="ignore"),
        "MFU": shown["mfu"].map("{:.1%}".format, na_action="ignore"),
        "peak memory": shown["peak_bytes"].map(format_bytes, na_action="ignore"),
        "fits": shown["fits"].map({True: "yes", False: "NO"}),
        "reason": shown["reason"],
    }
    echo_table(shown[names].assign(**columns).fillna("").set_index(names[0]))
