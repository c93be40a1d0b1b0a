"""Sweeps: a table with a row for every point of a product of axes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from perfsim.errors import Faults, InputError, PerfsimError
from perfsim.spec.files import scenario_from_table, scenario_to_table
from perfsim.spec.scenario import Scenario
from perfsim.study.axes import PARTS, Axes, plain, read_axes
from perfsim.study.blocks import RESULTS, evaluate_block
from perfsim.study.parts import Parts
from perfsim.study.serving_sweep import serving_task
from perfsim.study.tasks import Expected, Task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SweepInterruptedError", "scenario_at", "sweep"]

BLOCK = 20_000
"""Points that are evaluated together at most: enough for arrays to pay, few enough to show progress and to resume."""

SCENARIOS = 64
"""Scenarios that are evaluated together at most: each takes some milliseconds, however few its points."""

ATTRIBUTE = "perfsim_sweep"
"""Where a table carries what `scenario_at` needs, as JSON text."""


class SweepInterruptedError(PerfsimError, KeyboardInterrupt):
    """A sweep was interrupted; the message says what is done and how to go on."""


def sweep(
    scenario: Scenario, *, traffic: Any = None, engine: Any = None, deployment: Any = None,
    ttft_s: float | None = None, tpot_s: float | None = None, latency_s: float | None = None,
    workers: int = 1, executor: Executor | None = None, path: str | Path | None = None, progress: bool = True,
    **axes: Any,
) -> pd.DataFrame:  # fmt: skip
    """Simulate every point of a product of axes; with traffic and an engine, serve it.

    The time of each point equals that of `simulate` to the bit. Batch, sequence and microbatch sizes are evaluated
    together, by arrays, at hundreds of thousands of points a second; other axes one value at a time.

    Parameters
    ----------
    scenario : Scenario
        What the axes change.
    traffic, engine, deployment : optional
        As `perfsim.serve` takes them: every point is served, and axes may be fields of these too. Several of them, in a
        list or a mapping from labels, are an axis of whole parts. `deployment` may be left out.
    ttft_s, tpot_s, latency_s : float, optional
        Objectives of goodput, where points are served.
    workers : int
        Processes on this machine.
    executor : concurrent.futures.Executor, optional
        Where to evaluate instead, such as ``dask.distributed.Client(...).get_executor()``.
    path : str or Path, optional
        A folder for Parquet files, written as the sweep goes. A sweep that was interrupted goes on where it stopped
        when it is called again in the same way.
    progress : bool
        Whether a bar shows the progress, in a terminal or a notebook, of sweeps that take longer than a second.
    **axes
        Fields of the workload, the plan, the model or the cluster, or whole parts such as ``plan``, each with a
        sequence of values or a mapping from labels to values. Nested fields have dotted names, as in
        ``**{"cluster.accelerator.memory_bytes_per_s": [2e12, 4e12]}``.

    Returns
    -------
    DataFrame
        One row a point, the last axis varying fastest: the axes (whole parts by their label, with their fields beside),
        ``makespan_s``, ``tokens_per_s``, ``first_sequence_s``, ``mfu``, ``mfu_full_attention``, ``peak_bytes``,
        ``capacity_bytes``, ``fits``, and ``reason``, which says why a point does not fit or is impossible. The figures
        of an impossible point are missing. Points that are served have other columns, from ``ttft_s`` to ``drains``;
        see ``docs/serving.md``.

    Raises
    ------
    InputError
        Before anything runs: an axis is unknown or empty, a value cannot stand in its field, or `path` holds the files
        of another sweep.
    SweepInterruptedError
        Ctrl-C.

    Examples
    --------
    >>> import perfsim
    >>> scenario = perfsim.load_scenario("seed-improved")
    >>> table = perfsim.sweep(scenario, batch_size=[64, 1024], sequence_length=[1000, 10_000])
    >>> table[["batch_size", "sequence_length", "fits"]].values.tolist()
    [[64, 1000, True], [64, 10000, True], [1024, 1000, True], [1024, 10000, True]]
    >>> perfsim.scenario_at(table.iloc[-1]) == scenario
    True

    Served:

    >>> chat = perfsim.Scenario(
    ...     perfsim.load_cluster("dgx-h100"), perfsim.load_model("llama-3.1-8b"), perfsim.Plan(), perfsim.Workload())
    >>> traffic = perfsim.ClosedLoop(prompt_tokens=512, output_tokens=32)
    >>> table = perfsim.sweep(chat, traffic=traffic, engine=perfsim.Engine("vllm"), concurrency=[1, 8], tensor=[1, 2])
    >>> table[["concurrency", "tensor", "gpus"]].values.tolist()
    [[1.0, 1.0, 1.0], [1.0, 2.0, 2.0], [8.0, 1.0, 1.0], [8.0, 2.0, 2.0]]
    """
    import pandas as pd

    serving = {
        "traffic": traffic, "engine": engine, "deployment": deployment,
        "ttft_s": ttft_s, "tpot_s": tpot_s, "latency_s": latency_s,
    }  # fmt: skip
    task = _check(scenario, axes, serving, workers=workers, executor=executor, path=path, progress=progress)
    parts = None if path is None else Parts.open(Path(path), task.fingerprint(), task.results)
    frames: dict[int, pd.DataFrame] = {} if parts is None else parts.read(Expected(task))
    _run_blocks(task, frames, parts, workers=workers, executor=executor, progress=progress)
    table = pd.concat([frames[first] for first in sorted(frames)]).sort_index()
    axes_text = json.dumps(task.axes.to_table())
    table.attrs[ATTRIBUTE] = f'{{"scenario": {_scenario_text(task.scenario)}, "axes": {axes_text}}}'
    return table


@lru_cache(maxsize=4)
def _scenario_text(scenario: Scenario) -> str:
    """Write a scenario as JSON; with all coefficients of its cluster that takes as long as thousands of points."""
    return json.dumps(scenario_to_table(scenario))


def _check(scenario: Any, axes: Mapping[str, Any], serving: Mapping[str, Any], **arguments: Any) -> Task:
    """Check everything that a sweep is given, and read its axes."""
    faults = Faults("sweep")
    faults.integer("workers", arguments["workers"])
    faults.flag("progress", arguments["progress"])
    if arguments["executor"] is not None and not callable(getattr(arguments["executor"], "submit", None)):
        faults.add("executor", arguments["executor"], "must be a concurrent.futures.Executor")
    if not isinstance(arguments["path"], str | Path | None):
        faults.add("path", arguments["path"], "must be the path of a folder")
    task: Task = _Task(scenario, Axes(()))
    if faults.instance("scenario", scenario, Scenario):
        try:
            if any(value is not None for value in serving.values()):
                task = serving_task(scenario, axes, serving)
            else:
                task = _Task(scenario, read_axes(scenario, axes))
        except InputError as error:
            faults.take(error)
    faults.raise_if_any()
    return task


@dataclass(frozen=True)
class _Task(Task):
    """A sweep of simulations."""

    results: ClassVar[tuple[str, ...]] = RESULTS

    def block(self, first: int) -> pd.DataFrame:
        """Evaluate the block that begins with point number `first` of the work order."""
        return evaluate_block(self.scenario, self.axes, self.points(first))

    @property
    def length(self) -> int:
        """Points of a block."""
        return min(BLOCK, SCENARIOS * self.axes.points_per_scenario)


def _run_blocks(
    task: Task, frames: dict[int, pd.DataFrame], parts: Parts | None, *,
    workers: int, executor: Executor | None, progress: bool,
) -> None:  # fmt: skip
    """Evaluate the blocks that are not there yet, keeping each as it comes."""
    from tqdm.auto import tqdm

    missing = [first for first in task.firsts() if first not in frames]
    done = sum(len(frame) for frame in frames.values())
    bar = tqdm(total=task.axes.num_points, initial=done, unit="points", delay=1.0, disable=not progress)
    try:
        with bar, _evaluated(task, missing, workers, executor) as evaluated:
            for first, frame in evaluated:
                if parts is not None:
                    parts.write(first, frame)
                frames[first] = frame
                bar.update(len(frame))
    except KeyboardInterrupt as interrupt:
        kept = sum(len(frame) for frame in frames.values())
        where = (
            f"are in {parts.folder}; call it again in the same way to go on"
            if parts
            else "are lost; give a path to keep them"
        )
        message = f"the sweep was interrupted: {kept} of {task.axes.num_points} points were done and {where}"
        raise SweepInterruptedError(message) from interrupt


@contextmanager
def _evaluated(
    task: Task, firsts: list[int], workers: int, executor: Executor | None
) -> Iterator[Iterator[tuple[int, pd.DataFrame]]]:
    """Give the blocks as they are done: here, in processes of this machine, or where an executor takes them."""
    if executor is None and (workers == 1 or len(firsts) < 2):  # noqa: PLR2004  (one block needs no helpers)
        yield ((first, task.block(first)) for first in firsts)
        return
    own = ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if executor is None else None
    pool = executor or own
    futures: dict[Future[pd.DataFrame], int] = {pool.submit(task.block, first): first for first in firsts}  # type: ignore[union-attr]
    try:
        # A block that is done is let go: the caller keeps it.
        yield ((futures.pop(future), future.result()) for future in as_completed(tuple(futures)))
    finally:
        for future in futures:
            future.cancel()
        if own is not None:
            own.shutdown(cancel_futures=True)


def scenario_at(row: pd.Series) -> Scenario:
    """Give the scenario of a point.

    Parameters
    ----------
    row : Series
        A row of a table that `sweep` gave, such as ``table.iloc[0]`` or ``table.loc[table["makespan_s"].idxmin()]``.

    Returns
    -------
    Scenario

    Raises
    ------
    InputError
        The row is not of such a table, or its point is impossible.

    Examples
    --------
    >>> import perfsim
    >>> plans = [perfsim.Plan(tensor=8, pipeline=2, microbatch_size=m) for m in (1, 2)]
    >>> table = perfsim.sweep(perfsim.load_scenario("seed-improved"), plan=plans)
    >>> perfsim.scenario_at(table.iloc[1]).plan.microbatch_size
    2
    """
    import pandas as pd

    text = getattr(row, "attrs", {}).get(ATTRIBUTE)
    if not isinstance(row, pd.Series) or text is None:
        raise InputError.of(
            "row", type(row).__name__, "must be one row of a sweep's table", "take it with .iloc or .loc"
        )
    about = json.loads(text)
    table, axes = about["scenario"], about["axes"]
    # Whole parts first: fields of theirs may vary too.
    of_scenario = [axis for axis in axes if axis["path"].partition(".")[0] in PARTS]
    for axis in sorted(of_scenario, key=lambda axis: axis["path"].count(".")):
        table = _replaced(table, axis["path"].split("."), axis["values"][_position(axis, row)])
    return scenario_from_table(table)


def _position(axis: Mapping[str, Any], row: pd.Series) -> int:
    """Which of an axis's values a row has; a missing number was none."""
    wanted = plain(row.get(axis["name"], default=axis))
    if isinstance(wanted, float) and math.isnan(wanted):
        wanted = None
    for position, label in enumerate(axis["labels"]):
        if label == wanted and isinstance(label, bool) == isinstance(wanted, bool):
            return position
    way_out = "take it with .iloc or .loc from the table as sweep gave it"
    raise InputError.of("row", row.name, f"must have a value of the axis {axis['name']}", way_out)


def _replaced(table: Any, path: list[str], value: Any) -> Any:
    """Copy a table of plain values with one of them replaced, by its place."""
    if not path:
        return value
    if isinstance(table, list):
        return [_replaced(item, path[1:], value) if str(i) == path[0] else item for i, item in enumerate(table)]
    return {**table, path[0]: _replaced(table.get(path[0]), path[1:], value)}
