"""The command line: ``perfsim demo | run | compare | profiles``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
import pandas as pd

from perfsim.errors import InputError, PerfsimError
from perfsim.simulation import DETAILS, ENGINES, simulate
from perfsim.spec.files import load_scenario, to_plain
from perfsim.spec.hardware import Cluster
from perfsim.spec.profiles import list_profiles, load_cluster
from perfsim.study.claims import deployment_claims
from perfsim.study.compare import Comparison, compare
from perfsim.study.demo import DEMO_BASELINE, DEMO_PLAN, DEMO_PLANS, write_demo, write_plan
from perfsim.units import format_bytes, format_count
from perfsim.version import __version__

__all__ = ["main"]

_USAGE = 2
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs instead of tables.")
_engine_option = click.option("--engine", type=click.Choice(ENGINES), default="compiled", show_default=True)


def _one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn perfsim's errors into one line and an exit status: 2 for bad input, 1 for what cannot be simulated."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except PerfsimError as error:
            text = "; ".join(map(str, error.faults)) if isinstance(error, InputError) else str(error)
            click.echo(f"perfsim: {' '.join(text.split())}", err=True)
            sys.exit(_USAGE if isinstance(error, InputError) else 1)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="perfsim")
def main() -> None:
    """Predict how a parallel plan runs a large language model on given hardware, and why."""


@main.command("demo")
@click.option("--out", type=click.Path(path_type=Path), default=Path("perfsim-demo"), show_default=True,
              help="Folder for the deployment files and the three plans.")  # fmt: skip
@_json_option
@_one_line_errors
def demo_command(out: Path, as_json: bool) -> None:
    """Simulate 16 layers on 16 GPUs under three plans and write everything about them.

    The plans: one layer a GPU and one microbatch at a time (the baseline), the same placement pipelined, and two stages
    of eight-way tensor parallelism.
    """
    comparison = compare({name: load_scenario(name) for name in DEMO_PLANS}, baseline=DEMO_BASELINE)
    claims = deployment_claims(comparison, DEMO_PLAN)
    paths = write_demo(comparison, claims, out)
    if as_json:
        tables = {"table": _records(comparison.table), "claims": [vars(claim) for claim in claims]}
        _echo_json({**tables, "files": [str(path) for path in paths]})
        return
    _echo_comparison(comparison)
    click.echo(f"\nWhat {DEMO_PLAN} claims:")
    for claim in claims:
        click.echo(f"  {claim}")
    for name, result in comparison.results.items():
        click.echo(f"\nMemory of {name}:")
        for finding in result.memory_findings:
            click.echo(f"  {finding}")
    click.echo(f"\n{len(paths)} files are in {out}; begin with {out / 'README.md'}")


@main.command("run")
@click.argument("scenario")
@_engine_option
@click.option("--detail", type=click.Choice(DETAILS), default="folded", show_default=True,
              help="Simulate one of the devices that do the same, or all.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Folder for tables, pictures and the DAG of the plan.")
@_json_option
@_one_line_errors
def run_command(scenario: str, engine: str, detail: str, out: Path | None, as_json: bool) -> None:
    """Simulate SCENARIO, the name of a shipped scenario or a TOML file."""
    result = simulate(load_scenario(scenario), engine=engine, detail=detail)
    paths = write_plan(result, out) if out is not None else ()
    if as_json:
        report = {"summary": result.summary.to_dict(), "load_balance": _records(result.load_balance),
                  "memory": _records(result.memory), "memory_findings": result.memory_findings}  # fmt: skip
        _echo_json({**report, "files": [str(path) for path in paths]})
        return
    click.echo(str(result))
    click.echo("")
    for finding in result.memory_findings:
        click.echo(finding)
    click.echo("")
    click.echo(str(result.dag.verify()))
    if out is not None:
        click.echo(f"\n{len(paths)} files are in {out}")


@main.command("compare")
@click.argument("scenarios", nargs=-1, required=True)
@click.option("--baseline", required=True, help="The scenario against which the others are held.")
@_json_option
@_one_line_errors
def compare_command(scenarios: tuple[str, ...], baseline: str, as_json: bool) -> None:
    """Simulate SCENARIOS, names or TOML files, and hold them against one of them."""
    comparison = compare({name: load_scenario(name) for name in scenarios}, baseline=baseline)
    if as_json:
        _echo_json({"baseline": baseline, "table": _records(comparison.table), "findings": comparison.findings})
    else:
        _echo_comparison(comparison)


@main.command("profiles")
@click.argument("name", required=False)
@_json_option
@_one_line_errors
def profiles_command(name: str | None, as_json: bool) -> None:
    """List the hardware profiles, or show NAME (a profile or a TOML file) with the source of every number."""
    if name is not None:
        _show_profile(load_cluster(name), as_json=as_json)
        return
    clusters = [load_cluster(profile) for profile in list_profiles()]
    rows = [
        {
            "profile": cluster.name,
            "devices": cluster.num_devices,
            "accelerator": cluster.accelerator.name,
            "bf16": format_count(cluster.accelerator.peak_flop_per_s["bf16"], "FLOP/s"),
            "memory": format_bytes(cluster.accelerator.memory_bytes),
            "bandwidth": f"{format_bytes(cluster.accelerator.memory_bytes_per_s)}/s",
            **{
                f"tier {i + 1}": f"{tier.name} {format_bytes(tier.bytes_per_s)}/s"
                for i, tier in enumerate(cluster.tiers)
            },
        }
        for cluster in clusters
    ]
    if as_json:
        _echo_json([_numbers(cluster) for cluster in clusters])
    else:
        _echo_table(pd.DataFrame(rows).fillna("").set_index("profile"))


def _numbers(cluster: Cluster) -> dict[str, Any]:
    return dict(to_plain(cluster))


def _show_profile(cluster: Cluster, *, as_json: bool) -> None:
    if as_json:
        _echo_json(_numbers(cluster))
        return
    click.echo(cluster.title or cluster.name)
    rows = []
    for path, source in cluster.sources.items():
        value: Any = cluster
        for part in path.split("."):
            value = (
                value[int(part)] if part.isdigit() else value[part] if isinstance(value, dict) else getattr(value, part)
            )
        rows.append({"number": path, "value": f"{value:.6g}", "source": source})
    _echo_table(pd.DataFrame(rows).set_index("number"))


def _echo_comparison(comparison: Comparison) -> None:
    table = comparison.table
    shown = pd.DataFrame(
        {
            "speed-up": table["speedup"].map("{:.2f}x".format),
            "makespan": table["makespan_s"].map("{:.2f} s".format),
            "tokens/s": table["tokens_per_s"].map("{:,.0f}".format),
            "first sequence": (1e3 * table["first_sequence_s"]).map("{:.1f} ms".format),
            "MFU": table["mfu"].map("{:.1%}".format),
            "bubble": table["bubble_fraction"].map("{:.1%}".format),
            "communication": table["communication_fraction"].map("{:.1%}".format),
            "peak memory": table["peak_bytes"].map(format_bytes),
            "fits": table["fits"].map({True: "yes", False: "NO"}),
        }
    )
    _echo_table(shown)
    click.echo("MFU counts the FLOP that the workload asks for: with a causal mask half of the pairs of tokens.")
    for finding in comparison.findings:
        click.echo(finding)


def _echo_table(frame: pd.DataFrame) -> None:
    """Print a table; in a pipe it is as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("" if frame.index.name is None else frame.index.name, *frame.columns):
        table.add_column(str(column), overflow="fold")
    for index, row in zip(frame.index, frame.itertuples(index=False), strict=True):
        table.add_row(str(index), *map(str, row))
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(frame.reset_index().to_json(orient="records", double_precision=15))


def _echo_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1))
