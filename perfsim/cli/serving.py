"""``perfsim serve``: requests through an engine, what their users feel, and everything about it in files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from perfsim.cli.printing import echo_json, echo_table, json_option, records
from perfsim.cli.sweeps import read_value
from perfsim.errors import Faults, InputError, did_you_mean
from perfsim.html import quantity
from perfsim.serving.deployment import ROUTERS, Deployment
from perfsim.serving.goodput import Goodput
from perfsim.serving.policies import POLICIES, Engine
from perfsim.serving.results import OverloadError, ServeResult, serve_requests
from perfsim.serving.run import SIMULATORS
from perfsim.serving.services import Services
from perfsim.serving.traffic import Bursts, ClosedLoop, OpenLoop, Trace
from perfsim.spec.files import load_scenario
from perfsim.study.output import new_folder
from perfsim.study.page import write_page
from perfsim.study.trace import write_trace
from perfsim.units import format_bytes

__all__ = ["serve_command"]

_Traffic = ClosedLoop | OpenLoop | Bursts | Trace

_KINDS: dict[str, tuple[type[_Traffic], str]] = {
    "concurrency": (ClosedLoop, "concurrency"),
    "rate": (OpenLoop, "requests_per_s"),
    "burst": (Bursts, "size"),
    "trace": (Trace, "path"),
}
"""The option that chooses a kind of traffic, and the field that it sets."""

_FIELDS = {
    "prompt": "prompt_tokens", "output": "output_tokens", "requests": "num_requests", "shortest": "shortest",
    "prefix": "prefix_tokens", "prefixes": "num_prefixes", "seed": "seed", "ramp": "ramp_s", "variation": "variation",
    "interval": "interval_s", "speed": "speed",
}  # fmt: skip
"""Further options of traffic, and the fields that they set."""


@click.command("serve", short_help="Serve requests with an engine, and say what their users feel.")
@click.argument("scenario")
@click.option("--engine", "policy", type=click.Choice(list(POLICIES)), default="vllm", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE",
              help="A field of the engine, such as token_budget=16384; may be given again.")  # fmt: skip
@click.option("--concurrency", type=int, help="Clients that each have one request in flight (closed loop).")
@click.option("--rate", type=float, help="Requests a second that arrive at random (open loop).")
@click.option("--burst", type=int, help="Requests that come at once.")
@click.option("--trace", type=click.Path(path_type=Path), help="Recorded requests: .csv, .jsonl or .parquet.")
@click.option("--prompt", type=int, help="Tokens of a prompt, at most; not with --trace.")
@click.option("--output", type=int, help="Tokens of an answer, at most; not with --trace.")
@click.option("--requests", type=int, help="How many; ten a client, 1000, or one burst when left out.")
@click.option("--shortest", type=float, help="Shortest length as a share of the longest: 0.8, or 1 for all alike.")
@click.option("--prefix", type=int, help="Tokens with which prompts begin alike.")
@click.option("--prefixes", type=int, help="How many such beginnings there are; 1 when left out.")
@click.option("--seed", type=int, help="Of what is drawn; 0 when left out.")
@click.option("--ramp", type=float, help="Seconds over which the clients of a closed loop begin.")
@click.option("--variation", type=float, help="Of the gaps of an open loop: 1 for Poisson, above for bursts.")
@click.option("--interval", type=float, help="Seconds from one burst to the next.")
@click.option("--speed", type=float, help="How many times faster than recorded a trace arrives.")
@click.option("--replicas", type=int, help="Replicas behind the router; those of the plan when left out.")
@click.option("--router", type=click.Choice(ROUTERS), help="round-robin when left out.")
@click.option("--prefill-replicas", type=int, help="Replicas of a pool that only computes prompts.")
@click.option("--transfer-latency", "transfer_latency_s", type=float,
              help="Seconds to move the cache of a prompt between the pools ...")  # fmt: skip
@click.option("--transfer-token", "transfer_token_s", type=float, help="... and more for each of its tokens.")
@click.option("--ttft", "ttft_s", type=float, help="Objective of goodput: seconds to the first token.")
@click.option("--tpot", "tpot_s", type=float, help="Objective of goodput: seconds for each further token.")
@click.option("--latency", "latency_s", type=float, help="Objective of goodput: seconds to the last token.")
@click.option("--limit", "limit_s", type=float, help="Simulated seconds after which all must have ended.")
@click.option("--simulator", type=click.Choice(SIMULATORS), default="compiled", show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File for the page (.html).")
@click.option("--trace-out", type=click.Path(path_type=Path), help="File for a Perfetto trace (.json.gz or .json).")
@click.option("--csv", type=click.Path(path_type=Path),
              help="Folder for the tables of requests, steps and replicas.")  # fmt: skip
@json_option
def serve_command(
    scenario: str, policy: str, settings: tuple[str, ...], *, ttft_s: float | None, tpot_s: float | None,
    latency_s: float | None, limit_s: float | None, simulator: str, out: Path | None, trace_out: Path | None,
    csv: Path | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Serve requests on the GPUs of SCENARIO, a name or a TOML file; its phase, batch and sequence do not matter.

    Example: perfsim serve llama.toml --concurrency 32 --prompt 1024 --output 256 --ttft 0.5 -o report.html
    """
    given = {name: value for name, value in options.items() if value is not None}
    objectives = {"ttft_s": ttft_s, "tpot_s": tpot_s, "latency_s": latency_s}
    faults = Faults("serve")
    _check_files(faults, out, trace_out, csv)
    for name, limit in objectives.items():
        if limit is not None:
            faults.number(f"--{name.removesuffix('_s')}", limit)
    traffic, engine = _traffic(faults, given), _engine(faults, policy, settings)
    faults.raise_if_any()
    services = Services(load_scenario(scenario))
    service = services.of(engine, _deployment(services.deployment, given))
    overload = None
    try:
        result = serve_requests(service, traffic.requests(), simulator=simulator, limit_s=limit_s)
    except OverloadError as error:
        result, overload = error.partial, error
    goodput = result.goodput(**objectives) if any(objectives.values()) else None
    files = _write(result, out, trace_out, csv)
    if as_json:
        echo_json({**_plain(result, goodput), "files": [str(path) for path in files]})
    else:
        _echo(result, goodput, files)
    if overload is not None:
        raise overload


def _traffic(faults: Faults, given: Mapping[str, Any]) -> Any:
    """Make the traffic of which exactly one kind is chosen; None where there are faults."""
    chosen = [name for name in _KINDS if name in given]
    if len(chosen) != 1:
        told = ", ".join(f"--{name}" for name in chosen) or None
        faults.add("traffic", told, f"must be one of {', '.join(f'--{name}' for name in _KINDS)}")
        return None
    (name,) = chosen
    kind, field = _KINDS[name]
    known = {each.name for each in dataclasses.fields(kind)}
    fields = {field: given[name]}
    for option, target in _FIELDS.items():
        if option in given and target not in known:
            faults.add(f"--{option}", given[option], f"has no effect with --{name}", "leave it out")
        elif option in given:
            fields[target] = given[option]
        elif option in {"prompt", "output"} and target in known:
            faults.add(f"--{option}", None, f"must be given with --{name}", f"such as --{option} 1024")
    if faults.found:
        return None
    return _made(faults, kind, fields)


def _engine(faults: Faults, policy: str, settings: tuple[str, ...]) -> Any:
    """Make the engine; None where there are faults."""
    known = [field.name for field in dataclasses.fields(Engine) if field.name != "policy"]
    fields: dict[str, Any] = {"policy": policy}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            faults.add("--set", text, "must be a field and its value", "such as token_budget=16384")
        elif name not in known:
            faults.add("--set", text, f"must set one of {', '.join(known)}", did_you_mean(name, known))
        elif name in fields:
            faults.add("--set", text, f"sets {name}, which another --set does too", "leave one out")
        else:
            fields[name] = read_value(value)
    return _made(faults, Engine, fields)


def _made(faults: Faults, kind: type[Any], fields: Mapping[str, Any]) -> Any:
    """Make a part; None, with its faults recorded, where it cannot be."""
    try:
        return kind(**fields)
    except InputError as error:
        faults.take(error)
    return None


def _deployment(of_plan: Deployment, given: Mapping[str, Any]) -> Deployment:
    """Change the deployment of the plan as asked."""
    fields = {field.name: given[field.name] for field in dataclasses.fields(Deployment) if field.name in given}
    return dataclasses.replace(of_plan, **fields)


def _check_files(faults: Faults, out: Path | None, trace_out: Path | None, csv: Path | None) -> None:
    """Refuse files that could not be written at the end, before anything runs."""
    for name, path, endings in (("--out", out, (".html",)), ("--trace-out", trace_out, (".json.gz", ".json"))):
        if path is not None and not str(path).endswith(endings):
            faults.add(name, str(path), f"must end in {' or '.join(endings)}")
        elif path is not None and path.is_dir():
            faults.add(name, str(path), "is a folder", "give the name of a file")
    if csv is not None and csv.exists() and not csv.is_dir():
        faults.add("--csv", str(csv), "is a file", "give the name of a folder")


def _write(result: ServeResult, out: Path | None, trace_out: Path | None, csv: Path | None) -> list[Path]:
    files = []
    if out is not None:
        files.append(write_page(result, out))
    if trace_out is not None:
        files.append(write_trace(result, trace_out))
    if csv is not None:
        tables = {"requests": result.requests, "steps": result.steps, "replicas": result.replicas}
        with new_folder(csv) as made:
            for name, table in tables.items():
                table.to_csv(made / f"{name}.csv")
        files += [csv / f"{name}.csv" for name in tables]
    return files


def _plain(result: ServeResult, goodput: Goodput | None) -> dict[str, Any]:
    """Plain values for programs."""
    (summary,) = records(result.summary.to_frame().T, index=False)
    return {
        "summary": summary,
        "percentiles": records(result.percentiles()),
        "replicas": records(result.replicas),
        "goodput": None if goodput is None else dataclasses.asdict(goodput),
        "findings": result.findings,
    }


def _echo(result: ServeResult, goodput: Goodput | None, files: list[Path]) -> None:
    click.echo(f"{result}\n")
    table = result.percentiles()
    names = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "latency"}
    shown = table.apply(lambda column: column.map(lambda value: quantity(column.name, value))).rename(columns=names)
    echo_table(shown.set_axis([f"{percent:g} %" for percent in table.index]).rename_axis("within"))
    if goodput is not None:
        each = ", ".join(f"{names[name]} by {share:.1%}" for name, share in goodput.share_of_each.items())
        click.echo(f"\nGoodput: {goodput.requests_per_s:,.4g} requests/s; {goodput.share:.1%} meet all ({each}).")
        if goodput.finding:
            click.echo(goodput.finding)
    if files:
        click.echo("")
    for path in files:
        click.echo(f"{path} ({format_bytes(path.stat().st_size)})")
