"""``perfsim report``: one file that shows and explains a plan, or compares several."""

from __future__ import annotations

from pathlib import Path

import click

from perfsim.cli.commands import load_scenarios
from perfsim.cli.printing import echo_json, json_option
from perfsim.errors import Faults
from perfsim.simulation import DETAILS, simulate
from perfsim.study.compare import compare
from perfsim.study.page import write_page
from perfsim.units import format_bytes

__all__ = ["report_command"]


@click.command("report", short_help="Write a page that shows and explains a plan, or compares several.")
@click.argument("scenarios", nargs=-1, required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True,
              help="The file to write; one of that name is replaced.")  # fmt: skip
@click.option("--baseline", help="The scenario against which the others are held; the first when left out.")
@click.option("--detail", type=click.Choice(DETAILS), default="folded", show_default=True,
              help="Simulate one of the devices that do the same, or all.")  # fmt: skip
@json_option
def report_command(scenarios: tuple[str, ...], out: Path, baseline: str | None, detail: str, as_json: bool) -> None:
    """Simulate SCENARIOS, names or TOML files, and write everything about them into one page.

    The page is a single file that opens in a browser without a network: summary, findings, timeline, memory, load
    balance, operators, DAG, and with several scenarios their comparison.

    Example: perfsim report seed-baseline seed-improved -o report.html
    """
    loaded = load_scenarios(scenarios)
    if baseline is not None:
        faults = Faults()
        faults.choice("--baseline", baseline, list(loaded))
        faults.raise_if_any()
    results = {name: simulate(scenario, detail=detail) for name, scenario in loaded.items()}
    first, *others = results
    shown = compare(results, baseline=baseline or first) if others else results[first]
    path = write_page(shown, out)
    verdicts = {name: result.memory_findings[0] for name, result in results.items()}
    if as_json:
        fits = {name: result.fits for name, result in results.items()}
        echo_json({"file": str(path), "bytes": path.stat().st_size, "fits": fits, "verdicts": verdicts})
        return
    for name, text in verdicts.items():
        click.echo(f"{name}: {text}")
    click.echo(f"The page is {path} ({format_bytes(path.stat().st_size)}); open it in a browser.")
