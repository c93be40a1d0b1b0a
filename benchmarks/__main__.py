"""Run all benchmarks and print, or write, what they found: ``python -m benchmarks [--out FILE] [--no-peers]``."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks import engine, plans, serving, sweeps
from benchmarks.measure import machine, markdown


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write a page instead of printing a table.")
@click.option("--peers/--no-peers", default=True, help="Whether to install and time other tools.")
def main(out: Path | None, peers: bool) -> None:
    """Measure everything that has a goal; takes a few minutes on one core."""
    about = machine()
    found = [*engine.figures(), *plans.figures(), *serving.figures(), *sweeps.figures(with_peers=peers)]
    facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
    page = f"{_HEAD}\n\n{facts}\n\n{markdown(found)}\n"
    if out is None:
        click.echo(page)
    else:
        out.write_text(page, encoding="utf-8")


_HEAD = """# Performance

Measured by `python -m benchmarks --out docs/performance.md`; goals stand beside what was measured. CPU time of one
core, the least of several runs, warm unless a line says otherwise; start-up is wall time. Other tools are installed
from PyPI, each in an environment of its own, and evaluate the same points in the same run; where that would take
minutes, an even sample of them, scaled up."""

if __name__ == "__main__":
    main()
