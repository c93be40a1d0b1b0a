"""Results in files: the times, the scenario with every number in it, and the version that computed them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import InputError
from perfsim.report.lanes import Run
from perfsim.schedule.program import Program, make_program
from perfsim.sim.timeline import Timeline
from perfsim.simulation import Result, simulate
from perfsim.spec.files import scenario_from_table, scenario_to_table
from perfsim.study.output import replace_file
from perfsim.version import __version__

__all__ = ["load_result", "save_result"]

FORMAT = 1


def save_result(result: Result, path: str | Path) -> Path:
    """Save a result with its scenario and the version of perfsim.

    Parameters
    ----------
    result : Result
    path : str or Path
        Ends in ``.npz``.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        The path has another ending or cannot be written to.

    Examples
    --------
    >>> import perfsim, tempfile
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = perfsim.load_result(perfsim.save_result(result, f"{folder}/result.npz"))
    >>> again.makespan_s == result.makespan_s
    True
    """
    target = Path(path)
    if target.suffix != ".npz":
        raise InputError.of("path", str(path), "must end in .npz", f"write {target.with_suffix('.npz')}")
    about = {
        "format": FORMAT,
        "version": __version__,
        "engine": result.engine,
        "detail": result.detail,
        "costs": _fingerprint(result.run.program),
        "scenario": scenario_to_table(result.scenario),
    }
    with replace_file(target) as stream:
        np.savez_compressed(stream, about=np.array(json.dumps(about)), end_ps=result.run.timeline.end_ps)
    return target


def load_result(path: str | Path, *, rerun: bool = False) -> Result:
    """Load a result that `save_result` wrote.

    Parameters
    ----------
    path : str or Path
    rerun : bool
        Whether to simulate the saved scenario again where this version prices its operators otherwise.

    Returns
    -------
    Result

    Raises
    ------
    InputError
        The file is not such a result, or was made with other costs and `rerun` is false.
    """
    about, end_ps = _read(Path(path))
    scenario = scenario_from_table(about["scenario"])
    program = make_program(scenario, folded=about["detail"] == "folded")
    if about["costs"] == _fingerprint(program) and len(end_ps) == program.task_graph.num_tasks:
        return Result(scenario, Run(program, Timeline(program.task_graph, end_ps)), about["engine"], about["detail"])
    if not rerun:
        raise InputError.of(
            "path", str(path), f"was made by perfsim {about['version']}, whose costs are not those of {__version__}",
            "load it with rerun=True to simulate its scenario again",
        )  # fmt: skip
    return simulate(scenario, engine=about["engine"], detail=about["detail"])


def _read(path: Path) -> tuple[dict[str, Any], NDArray[np.int64]]:
    way_out = "give a file that save_result wrote"
    try:
        with np.load(path, allow_pickle=False) as archive:
            about, end_ps = json.loads(str(archive["about"])), archive["end_ps"]
    except OSError as error:
        raise InputError.of("path", str(path), f"cannot be read ({error.strerror or error})", way_out) from error
    except (BadZipFile, KeyError, ValueError, EOFError) as error:
        raise InputError.of("path", str(path), f"is not a saved result ({error})", way_out) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError.of("path", str(path), f"must have format {FORMAT}", way_out)
    return about, end_ps


def _fingerprint(program: Program) -> str:
    """What the times depend on: the duration of every operator."""
    return hashlib.sha256(program.operator_ps.tobytes()).hexdigest()
