"""Results in files: the times, the scenario with every number in it, and the version that computed them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from perfsim.conditions import Conditions
from perfsim.errors import Faults, InputError
from perfsim.report.lanes import Run
from perfsim.schedule.program import Program, make_program
from perfsim.sim.timeline import Timeline
from perfsim.simulation import DETAILS, ENGINES, Result, simulate
from perfsim.spec.files import scenario_from_table, scenario_to_table, to_plain
from perfsim.spec.scenario import Scenario
from perfsim.spec.tables import build, check_keys
from perfsim.study.output import replace_file
from perfsim.version import __version__

__all__ = ["load_result", "save_result"]

FORMAT = 1

_WAY_OUT = "give a file that save_result wrote"
_BROKEN = (BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, ValueError)
"""What reading a spoilt or foreign archive raises."""


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
    times = {"end_ps": result.run.timeline.end_ps}
    if result.conditions is not None:
        about["conditions"] = to_plain(result.conditions)
        times["duration_ps"] = result.run.timeline.graph.duration_ps  # those that came about
    with replace_file(target) as stream:
        np.savez_compressed(stream, allow_pickle=False, about=np.array(json.dumps(about)), **times)
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
    saved = _read(Path(path))
    about, scenario, conditions = saved.about, saved.scenario, saved.conditions
    engine, detail = about["engine"], about["detail"]
    program = make_program(scenario, folded=detail == "folded")
    graph = program.task_graph
    if about["costs"] == _fingerprint(program) and len(saved.times["end_ps"]) == graph.num_tasks:
        graph = dataclasses.replace(graph, duration_ps=saved.times.get("duration_ps", graph.duration_ps))
        return Result(scenario, Run(program, Timeline(graph, saved.times["end_ps"])), engine, detail, conditions)
    if not rerun:
        raise InputError.of(
            "path", str(path),
            f"was made by perfsim {about['version']}, whose costs or tasks are not those of {__version__}",
            "load it with rerun=True to simulate its scenario again",
        )  # fmt: skip
    return simulate(scenario, engine=engine, detail=detail, conditions=conditions)


class _Saved(NamedTuple):
    """What a file holds."""

    about: dict[str, Any]
    times: dict[str, NDArray[np.int64]]
    scenario: Scenario
    conditions: Conditions | None


def _read(path: Path) -> _Saved:
    """Read a saved result; whatever is wrong with the file is a fault of its path."""
    try:
        # Whole members: their check sums are compared before anything in them is believed.
        with ZipFile(path) as archive:
            arrays = {name: np.load(io.BytesIO(archive.read(name))) for name in archive.namelist()}
        return _check(json.loads(str(arrays.pop("about.npy"))), arrays)
    except OSError as error:
        raise InputError.of("path", str(path), f"cannot be read ({error.strerror or error})", _WAY_OUT) from error
    except (*_BROKEN, InputError) as error:
        faults = "; ".join(map(str, error.faults)) if isinstance(error, InputError) else error
        raise InputError.of("path", str(path), f"is not a saved result ({faults})", _WAY_OUT) from error


def _check(about: object, arrays: dict[str, NDArray[Any]]) -> _Saved:
    """Check each part of a description before it is used."""
    faults = Faults()
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError.of("about", about, f"must have format {FORMAT}")
    if check_keys(about, ("format", "version", "engine", "detail", "costs", "scenario"), ("conditions",), faults):
        faults.choice("engine", about["engine"], ENGINES)
        faults.choice("detail", about["detail"], DETAILS)
        for name in ("version", "costs"):
            faults.text(name, about[name])
    conditions = None
    if about.get("conditions") is not None:
        conditions = build(Conditions, about["conditions"], faults.inside("conditions"))
    names = ("end_ps",) if conditions is None else ("end_ps", "duration_ps")
    times = {name: arrays[f"{name}.npy"] for name in names}
    for name, array in times.items():
        if array.dtype != np.int64 or array.shape != (times["end_ps"].size,):
            faults.add(name, f"{array.dtype} of shape {array.shape}", "must be one row of int64, as long as the others")
    faults.raise_if_any()
    return _Saved(about, times, scenario_from_table(about["scenario"]), conditions)


def _fingerprint(program: Program) -> str:
    """What the times depend on: the duration of every operator."""
    return hashlib.sha256(program.operator_ps.tobytes()).hexdigest()
