"""``perfsim validate``: the shipped coefficients against public measurements that no fit has seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perfsim.cli.printing import echo_json, echo_table, json_option, records
from perfsim.study.accuracy_page import accuracy_page
from perfsim.study.output import replace_file
from perfsim.study.serving_accuracy import validate_serving
from perfsim.study.serving_page import serving_page
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
@click.option("--serving", is_flag=True, help="Judge serving runs instead of operators.")
@click.option("--rows", type=click.Path(path_type=Path, dir_okay=False),
              help="Other serving runs than the listed ones: a CSV file with id, protocol and use_ttft.")  # fmt: skip
@click.option("--aiconfigurator", "other", type=click.Path(path_type=Path), metavar="PYTHON",
              help="Interpreter of an environment with aiconfigurator, to have its predictions beside.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for the tables, the picture and the page.")  # fmt: skip
@json_option
def validate_command(
    systems: tuple[str, ...], operators: tuple[str, ...], *, sample: int | None, transfer: bool, serving: bool,
    rows: Path | None, other: Path | None, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare the shipped coefficients with rows of the public tables that their fits held back.

    The tables come with the extra: pip install 'perfsim[silicon]'

    With --serving, predicted latencies of served models are compared with measured runs; --transfer then leaves each
    GPU and each prompt length out of the fit of the engines' times.

    Example: perfsim validate --gpu h100_sxm --operator matmul --sample 1000
    """
    _check_options(serving=serving, for_serving=(rows, other), for_operators=(systems, operators))
    if serving:
        _serving(rows, other, sample=sample, left_out=transfer, out=out, as_json=as_json)
        return
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


def _check_options(*, serving: bool, for_serving: tuple[object, ...], for_operators: tuple[object, ...]) -> None:
    """Refuse options that say nothing about what is judged."""
    if serving and any(for_operators):
        message = "--gpu and --operator choose operators; leave them out with --serving"
        raise click.UsageError(message)
    if not serving and any(each is not None for each in for_serving):
        message = "--rows and --aiconfigurator are about serving runs; give --serving too"
        raise click.UsageError(message)


def _serving(
    rows: Path | None, other: Path | None, *, sample: int | None, left_out: bool, out: Path | None, as_json: bool
) -> None:
    """Judge serving runs."""
    found = validate_serving(rows, left_out=left_out, aiconfigurator=other, sample=sample)
    if out is not None:
        found.write(out)
        with replace_file(out / "serving-accuracy.md") as stream:
            stream.write(serving_page(found, _serving_call(rows, other, sample, left_out=left_out)).encode())
    if as_json:
        echo_json(found.to_dict())
        return
    click.echo(f"{len(found.rows):,} measured serving runs; median errors of each group in per cent:")
    shown = found.groups[["model", "system", "library", "prompt_tokens", "output_tokens", "n"]]
    medians = [name for name in found.groups.columns if name.endswith("_median")]
    echo_table(shown.join(_rounded(found.groups[medians])).set_index("model"))
    means = found.mean_of_group_medians
    click.echo(f"\nMean over groups: TTFT {means['ttft_percent']:.1f} %, TPOT {means['tpot_percent']:.1f} %")
    if found.left_out_medians is not None:
        click.echo("\nThe same of runs that were left out of the fit:")
        echo_table(_rounded(found.left_out_medians).set_index("left_out"))
    if found.other_mean_of_group_medians is not None:
        means = found.other_mean_of_group_medians
        click.echo(f"AIConfigurator: TTFT {means['ttft_percent']:.1f} %, TPOT {means['tpot_percent']:.1f} %")
    if out is not None:
        click.echo(f"The tables and the page are in {out}")


def _serving_call(rows: Path | None, other: Path | None, sample: int | None, *, left_out: bool) -> str:
    """The command that was called, but for where things lie."""
    words = ["--rows FILE"] if rows is not None else []
    words += [] if sample is None else [f"--sample {sample}"]
    words += ["--transfer"] if left_out else []
    words += ["--aiconfigurator PYTHON"] if other is not None else []
    return " ".join(["perfsim validate --serving", *words])


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
