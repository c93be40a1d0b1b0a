"""Deployment files: a folder with the DAG, its pictures, the configuration and the verification of a result."""

from __future__ import annotations

import json
from pathlib import Path

from perfsim.errors import InputError
from perfsim.report.deployment import deployment_config
from perfsim.report.dot import dag_dot, layer_dot, overview_dot, render_svg
from perfsim.schedule.program import Program, make_program
from perfsim.simulation import Result
from perfsim.spec.files import scenario_from_table
from perfsim.spec.tables import read_json
from perfsim.study.output import new_folder
from perfsim.version import __version__

__all__ = ["draw_deployment", "write_deployment", "write_drawings"]

CONFIG = "deployment_config.json"

_SCRIPT = '''#!/usr/bin/env python3
"""Draw the pictures of this deployment again, from deployment_config.json beside this script."""

from pathlib import Path

import perfsim

if __name__ == "__main__":
    for path in perfsim.draw_deployment(Path(__file__).resolve().parent):
        print(path.name)
'''


def write_deployment(result: Result, folder: str | Path) -> tuple[Path, ...]:
    """Write the files of a deployment.

    Parameters
    ----------
    result : Result
    folder : str or Path
        Made where it does not exist. Files of the same names are replaced, others stay. Nothing is half-written: the
        files appear once all are there.

    Returns
    -------
    tuple of Path
        ``improved_tensor_parallel_dag.dot`` and ``.svg``, ``deployment_overview.svg``,
        ``layer_detailed_breakdown.svg``, ``deployment_config.json``, ``verification_report.txt`` and
        ``generate_visualizations.py``, which draws the pictures again when it is run.

    Raises
    ------
    InputError
        A file is in the way, or the folder cannot be written to.

    Examples
    --------
    >>> import perfsim, tempfile
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(path.suffix for path in perfsim.write_deployment(result, folder))
    ['.dot', '.json', '.py', '.svg', '.svg', '.svg', '.txt']
    """
    with new_folder(folder) as made:
        write_drawings(result.run.program, made)
        config = deployment_config(
            result.run,
            summary=result.summary,
            load_balance=result.load_balance,
            memory=result.memory,
            findings=result.memory_findings,
            version=__version__,
        )
        (made / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        (made / "verification_report.txt").write_text(f"{result.dag.verify()}\n", encoding="utf-8")
        (made / "generate_visualizations.py").write_text(_SCRIPT, encoding="utf-8")
        names = sorted(path.name for path in made.iterdir())
    return tuple(Path(folder) / name for name in names)


def draw_deployment(folder: str | Path) -> tuple[Path, ...]:
    """Draw the pictures of a deployment again, from its configuration file.

    Parameters
    ----------
    folder : str or Path
        What `write_deployment` wrote.

    Returns
    -------
    tuple of Path

    Raises
    ------
    InputError
        There is no configuration file, or it is not one.
    """
    config = read_json(Path(folder) / CONFIG)
    if "scenario" not in config:
        raise InputError.of(CONFIG, sorted(config), "must have the key scenario", "write it with write_deployment")
    program = make_program(scenario_from_table(config["scenario"]))
    with new_folder(folder) as made:
        write_drawings(program, made)
        names = sorted(path.name for path in made.iterdir())
    return tuple(Path(folder) / name for name in names)


def write_drawings(program: Program, folder: Path) -> None:
    """Draw the complete DAG, the overview of the stages and the operators of one layer."""
    graph, scenario = program.graphs[0], program.scenario
    operator_s = {o.name: float(cost.seconds) for o, cost in zip(graph, program.costs(0), strict=True)}
    title = (
        f"{scenario.model.name}: {scenario.plan.tensor}-way tensor parallel, {scenario.plan.pipeline} pipeline stages"
    )
    dag = dag_dot(graph, title)
    (folder / "improved_tensor_parallel_dag.dot").write_text(dag, encoding="utf-8")
    for name, dot in (
        ("improved_tensor_parallel_dag.svg", dag),
        ("deployment_overview.svg", overview_dot(scenario)),
        ("layer_detailed_breakdown.svg", layer_dot(graph, 0, operator_s)),
    ):
        (folder / name).write_text(render_svg(dot), encoding="utf-8")
