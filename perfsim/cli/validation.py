"""``perfsim validate``: the shipped coefficients against public measurements that no fit has seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfsim.cli.printing import echo_json, echo_table, json_option, records
from perfsim.study.accuracy_page import accuracy_page
from perfsim.study.output import replace_file
from perfsim.study.validate import validate

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["validate_command"]

_WORST = 10


@click.command("validate", short_help="Judge the shipped coefficients by public measurements.")
@click.option("--gpu", "systems", multiple=True, metavar="SYSTEM",
              help="A measured GPU, such as h100_sxm; may be given again. All when left out.")  # fmt: skip
@click.option("--operator", "operators", multiple=True, help="Such as matmul or decode; may be given again.")
@click.option("--sample", type=click.IntRange(min=1), help="The most rows of each table; all when left out.")
@click.option("--transfer", is_flag=True,
              help="Fit without each of the GPUs too, and judge what that is worth on it; takes minutes.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for the tables, the picture and the page.")  # fmt: skip
@json_option
def validate_command(
    systems: tuple[str, ...], operators: tuple[str, ...], *, sample: int | None, transfer: bool, out: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Compare the shipped coefficients with rows of the public tables that their fits held back.

    The tables come with the extra: pip install 'perfsim[silicon]'

    Example: perfsim validate --gpu h100_sxm --operator matmul --sample 1000
    """
    found = validate(systems, operators, sample=sample, transfer=transfer)
    if out is not None:
        found.write(out)
        with replace_file(out / "accuracy.md") as stream:
            stream.write(accuracy_page(found, _call(systems, operators, sample, transfer=transfer)).encode())
    if as_json:
        worst = records(found.worst(_WORST), index=False)
        told = {"rows": len(found.rows), "summary": records(found.summary, index=False), "worst": worst}
        if found.transfer is not None:
            told["transfer"] = records(found.transfer, index=False)
        echo_json(told)
        return
    click.echo(f"{len(found.rows):,} measurements that no fit has seen; errors in per cent:")
    echo_table(_rounded(found.summary).set_index("operator"))
    if found.transfer is not None:
        click.echo("\nGPUs that were left out of a fit:")
        echo_table(_rounded(found.transfer).set_index("experiment"))
    click.echo("\nThe worst rows, one of a table:")
    worst = found.worst(_WORST)
    echo_table(
        worst.assign(**{name: worst[name].map("{:.4g}".format) for name in worst.columns[5:]}).set_index("operator")
    )
    if out is not None:
        click.echo(f"The tables, the picture and the page are in {out}")


def _rounded(summary: pd.DataFrame) -> pd.DataFrame:
    """Write per cents with one digit, and nothing where there is nothing."""
    numbers = [name for name in summary.columns if summary[name].dtype.kind == "f"]
    return summary.assign(**{name: summary[name].map("{:.1f}".format).replace("nan", "") for name in numbers})


def _call(systems: tuple[str, ...], operators: tuple[str, ...], sample: int | None, *, transfer: bool) -> str:
    """The command that was called, but for where it writes."""
    words = [word for system in systems for word in ("--gpu", system)]
    words += [word for operator in operators for word in ("--operator", operator)]
    words += [] if sample is None else ["--sample", str(sample)]
    words += ["--transfer"] if transfer else []
    return " ".join(["perfsim validate", *words])
