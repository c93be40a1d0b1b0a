"""``perfsim demo | run | compare | verify | profiles``."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from perfsim.cli.printing import echo_json, echo_table, json_option, records
from perfsim.errors import Faults, InputError
from perfsim.ops.checks import FAILS
from perfsim.ops.foreign.verify import verify
from perfsim.simulation import DETAILS, ENGINES, simulate
from perfsim.spec.defaults import profile_template
from perfsim.spec.files import load_scenario, to_plain
from perfsim.spec.hardware import Cluster
from perfsim.spec.profiles import list_profiles, load_cluster
from perfsim.spec.scenario import Scenario
from perfsim.study.advise import advise
from perfsim.study.claims import deployment_claims
from perfsim.study.compare import Comparison, compare
from perfsim.study.demo import DEMO_BASELINE, DEMO_PLAN, DEMO_PLANS, write_demo, write_plan
from perfsim.units import format_bytes, format_count

__all__ = ["compare_command", "demo_command", "load_scenarios", "profiles_command", "run_command", "verify_command"]

_engine_option = click.option("--engine", type=click.Choice(ENGINES), default="compiled", show_default=True)


@click.command("demo", short_help="Compare three plans for 16 GPUs and write everything about them.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("perfsim-demo"), show_default=True,
              help="Folder for the deployment files and the three plans.")  # fmt: skip
@json_option
def demo_command(out: Path, as_json: bool) -> None:
    """Simulate 16 layers on 16 GPUs under three plans and write everything about them.

    The plans: one layer a GPU and one microbatch at a time (the baseline), the same placement pipelined, and two stages
    of eight-way tensor parallelism.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as helper:
        helper.submit(import_module, "perfsim.report.canvas")  # the helper loads what it needs while this one simulates
        comparison = compare({name: load_scenario(name) for name in DEMO_PLANS}, baseline=DEMO_BASELINE)
        claims = deployment_claims(comparison, DEMO_PLAN)
        paths = write_demo(comparison, claims, out, helper)
    if as_json:
        tables = {"table": records(comparison.table), "claims": [vars(claim) for claim in claims]}
        echo_json({**tables, "files": [str(path) for path in paths]})
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


@click.command("run", short_help="Simulate a scenario.")
@click.argument("scenario")
@_engine_option
@click.option("--detail", type=click.Choice(DETAILS), default="folded", show_default=True,
              help="Simulate one of the devices that do the same, or all.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Folder for tables, pictures and the DAG of the plan.")
@click.option("--advise", "advised", is_flag=True, help="List changes with which it fits, or else is faster.")
@json_option
def run_command(scenario: str, engine: str, detail: str, out: Path | None, *, advised: bool, as_json: bool) -> None:
    """Simulate SCENARIO, the name of a shipped scenario or a TOML file."""
    result = simulate(load_scenario(scenario), engine=engine, detail=detail)
    paths = write_plan(result, out) if out is not None else ()
    advice = advise(result.scenario) if advised else None
    if as_json:
        report = {"summary": result.summary.to_dict(), "load_balance": records(result.load_balance),
                  "memory": records(result.memory), "memory_findings": result.memory_findings}  # fmt: skip
        if advice is not None:
            report["advice"] = {"verdict": advice.verdict, "options": records(advice.table)}
        echo_json({**report, "files": [str(path) for path in paths]})
        return
    click.echo(str(result))
    click.echo("")
    for finding in result.memory_findings:
        click.echo(finding)
    click.echo("")
    click.echo(str(result.dag.verify()))
    if advice is not None:
        click.echo(f"\n{advice}")
    if out is not None:
        click.echo(f"\n{len(paths)} files are in {out}")


@click.command("compare", short_help="Hold scenarios against one of them.")
@click.argument("scenarios", nargs=-1, required=True)
@click.option("--baseline", required=True, help="The scenario against which the others are held.")
@json_option
def compare_command(scenarios: tuple[str, ...], baseline: str, as_json: bool) -> None:
    """Simulate SCENARIOS, names or TOML files, and hold them against one of them."""
    comparison = compare(load_scenarios(scenarios), baseline=baseline)
    if as_json:
        echo_json({"baseline": baseline, "table": records(comparison.table), "findings": comparison.findings})
    else:
        _echo_comparison(comparison)


def load_scenarios(names: tuple[str, ...]) -> dict[str, Scenario]:
    """Load several scenarios; the faults of all come together, each with the name of its scenario."""
    faults, loaded = Faults(), {}
    for name in names:
        try:
            loaded[name] = load_scenario(name)
        except InputError as error:
            for fault in error.faults:
                faults.found.append(replace(fault, field=f"{name}: {fault.field}"))
    faults.raise_if_any()
    return loaded


@click.command("verify", short_help="Check the graph of a deployment, anybody's.")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def verify_command(ctx: click.Context, path: Path, as_json: bool) -> None:
    """Say which of five claims hold of the graph in PATH, a DOT file or the JSON of an operator graph.

    The exit status is 1 where a claim does not hold, 0 where none is refuted.
    """
    report = verify(path)
    if as_json:
        echo_json(records(report.to_frame()))
    else:
        click.echo(str(report))
    if any(check.verdict == FAILS for check in report.checks):
        ctx.exit(1)


@click.command("profiles", short_help="List the hardware profiles, or show one.")
@click.argument("name", required=False)
@click.option("--template", is_flag=True, help="Print a profile to fill in with the numbers of a datasheet.")
@json_option
def profiles_command(name: str | None, template: bool, as_json: bool) -> None:
    """List the hardware profiles, or show NAME (a profile or a TOML file) with the source of every number."""
    import pandas as pd

    if template:
        if name is not None or as_json:
            given = name if name is not None else "--json"
            raise InputError.of("profiles", given, "must be left out beside --template", "the template is TOML")
        click.echo(profile_template(), nl=False)
        return
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
        echo_json([_numbers(cluster) for cluster in clusters])
    else:
        echo_table(pd.DataFrame(rows).fillna("").set_index("profile"))


def _numbers(cluster: Cluster) -> dict[str, Any]:
    return dict(to_plain(cluster))


def _show_profile(cluster: Cluster, *, as_json: bool) -> None:
    import pandas as pd

    if as_json:
        echo_json(_numbers(cluster))
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
    echo_table(pd.DataFrame(rows).set_index("number"))


def _echo_comparison(comparison: Comparison) -> None:
    echo_table(comparison.readable)
    click.echo("MFU counts the FLOP that the workload asks for: with a causal mask half of the pairs of tokens.")
    for finding in comparison.findings:
        click.echo(finding)
