"""The demonstration: three plans for one model on 16 GPUs, with every file about them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from perfsim.report import plots
from perfsim.report.dot import dag_dot, render_svg
from perfsim.simulation import Result
from perfsim.study.archive import save_result
from perfsim.study.claims import Claim
from perfsim.study.compare import Comparison
from perfsim.study.deployment import write_deployment
from perfsim.study.output import new_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DEMO_BASELINE", "DEMO_PLAN", "DEMO_PLANS", "write_demo", "write_plan"]

DEMO_BASELINE, DEMO_PLAN = "seed-baseline", "seed-improved"
DEMO_PLANS = (DEMO_BASELINE, "seed-layerwise-pipelined", DEMO_PLAN)


def write_plan(result: Result, folder: str | Path) -> tuple[Path, ...]:
    """Write the tables, the DAG and the pictures of one result.

    Parameters
    ----------
    result : Result
    folder : str or Path
        Made where it does not exist; files of the same names are replaced once all are written.

    Returns
    -------
    tuple of Path
        ``timeline.parquet``, ``operators.csv``, ``load_balance.csv``, ``links.csv``, ``memory.csv``, ``report.txt``,
        ``dag.json``, ``dag.dot``, ``dag.svg``, ``result.npz``, and pictures of timeline, load balance and memory.
    """
    with new_folder(folder) as made:
        result.timeline.to_parquet(made / "timeline.parquet", index=False)
        for name in ("operators", "load_balance", "links", "memory"):
            getattr(result, name).to_csv(made / f"{name}.csv")
        report = [str(result), "", *result.memory_findings, "", str(result.dag.verify()), ""]
        (made / "report.txt").write_text("\n".join(report), encoding="utf-8")
        dag = dag_dot(result.dag)
        (made / "dag.json").write_text(result.dag.to_json(), encoding="utf-8")
        (made / "dag.dot").write_text(dag, encoding="utf-8")
        (made / "dag.svg").write_text(render_svg(dag), encoding="utf-8")
        _draw_plan(result, made)
        save_result(result, made / "result.npz")
        names = sorted(path.name for path in made.iterdir())
    return tuple(Path(folder) / name for name in names)


def _draw_plan(result: Result, folder: Path) -> None:
    _save(plots.plot_timeline(result.run), folder / "timeline.png")
    first = range(min(3, result.scenario.num_microbatches))
    _save(plots.plot_timeline(result.run, microbatch=first), folder / "timeline_first_microbatches.png")
    _save(plots.plot_load_balance(result.load_balance), folder / "load_balance.png")
    _save(plots.plot_memory(result.memory), folder / "memory.png")
    capacity = int(result.memory["capacity_bytes"].iloc[0])
    fullest = int(result.memory["peak_bytes"].idxmax())
    over_time = plots.plot_memory_over_time(result.memory_over_time(fullest), capacity)
    _save(over_time, folder / "memory_over_time.png")


def _save(ax: Axes, path: Path) -> None:
    from perfsim.report.canvas import write_png

    write_png(ax, path)


def write_demo(
    comparison: Comparison, claims: tuple[Claim, ...], folder: str | Path, helper: Executor | None = None
) -> tuple[Path, ...]:
    """Write the deployment files of the improved plan, everything about each plan, and their comparison.

    Parameters
    ----------
    comparison : Comparison
    claims : tuple of Claim
    folder : str or Path
    helper : concurrent.futures.Executor, optional
        Where all plans but the last are written, while this process writes the rest; everything here when left out.

    Returns
    -------
    tuple of Path
    """
    with new_folder(folder) as made:
        with _writing_plans(comparison.results, made / "plans", helper):
            write_deployment(comparison[DEMO_PLAN], made)
            _write_comparison(comparison, made / "comparison")
            (made / "README.md").write_text(_readme(comparison, claims), encoding="utf-8")
        paths = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    return tuple(Path(folder) / path for path in paths)


@contextmanager
def _writing_plans(results: dict[str, Result], folder: Path, helper: Executor | None) -> Iterator[None]:
    """Write the plans, most of them by the helper while this process goes on.

    Whatever happens meanwhile, the helper's work is over at the end: it writes into a folder that goes away then.
    """
    names = list(results)
    helped = [helper.submit(write_plan, results[name], folder / name) for name in names[:-1]] if helper else []
    try:
        for name in names[len(helped) :]:
            write_plan(results[name], folder / name)
        yield
    finally:
        wait(helped)
    for plan in helped:
        plan.result()


def _write_comparison(comparison: Comparison, folder: Path) -> None:
    folder.mkdir()
    comparison.table.to_csv(folder / "comparison.csv")
    comparison.time_by_kind.to_csv(folder / "time_by_kind.csv")
    comparison.waterfall(DEMO_PLAN).to_csv(folder / "waterfall.csv", index=False)
    _save(comparison.plot_timelines(), folder / "timelines.png")
    _save(comparison.plot_timelines(end_s=0.6), folder / "timelines_start.png")
    _save(comparison.plot_time_by_kind(), folder / "time_by_kind.png")
    _save(comparison.plot_waterfall(DEMO_PLAN), folder / "waterfall.png")


def _readme(comparison: Comparison, claims: tuple[Claim, ...]) -> str:
    """What lies in the folder, and what it says."""
    files = (
        ("improved_tensor_parallel_dag.dot, .svg", "the complete DAG of the deployment"),
        ("deployment_overview.svg", "stages, GPUs and what flows between them"),
        ("layer_detailed_breakdown.svg", "the operators of one layer"),
        ("deployment_config.json", "placement, dimensions, and what the simulation found"),
        ("verification_report.txt", "the five checks with their evidence"),
        ("generate_visualizations.py", "draws the pictures again: python3 generate_visualizations.py"),
        ("plans/", "for each plan: timeline, load balance, memory, operators, DAG, pictures"),
        ("comparison/", "the plans side by side: tables, timelines on one axis, waterfall"),
    )
    lines = [f"# {DEMO_PLAN} against {comparison.baseline}", "", "```", str(comparison), "```", "", "## Claims", ""]
    lines += [f"- {claim}" for claim in claims]
    lines += ["", "## Files", "", *(f"- `{name}`: {what}" for name, what in files), ""]
    return "\n".join(lines)
