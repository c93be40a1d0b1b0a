"""The command line: ``perfsim demo | run | compare | report | sweep | serve | validate | verify | profiles``."""

from __future__ import annotations

import click

from perfsim.cli.commands import compare_command, demo_command, profiles_command, run_command, verify_command
from perfsim.cli.failures import Commands
from perfsim.cli.report import report_command
from perfsim.cli.serving import serve_command
from perfsim.cli.sweeps import sweep_command
from perfsim.cli.validation import validate_command
from perfsim.version import __version__

__all__ = ["main"]


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="perfsim")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Predict how a parallel plan runs a large language model on given hardware, and why."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in (
    demo_command, run_command, compare_command, report_command, sweep_command, serve_command, validate_command,
    verify_command, profiles_command,
):  # fmt: skip
    main.add_command(_command)
