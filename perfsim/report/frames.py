"""Tables of a run: the timeline, the operators and the critical path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfsim.memory import tile_bytes, working_set_bytes
from perfsim.ops.nodes import Operator
from perfsim.report.lanes import Run
from perfsim.schedule.template import STREAMS
from perfsim.sim.timeline import critical_tasks
from perfsim.units import seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["critical_path_frame", "operators_frame", "shape_text", "stream_name", "timeline_frame"]


def timeline_frame(run: Run) -> pd.DataFrame:
    """List every execution on every device, one row each.

    A collective or a transfer has a row on each device that takes part; a folded slot is unfolded to its devices.

    Parameters
    ----------
    run : Run

    Returns
    -------
    DataFrame
        ``device``, ``stream``, ``stage``, ``microbatch``, ``layer`` (missing between the layers), ``op``, ``kind``,
        ``start_s``, ``end_s``; ordered by microbatch, then operator, then device.
    """
    template = run.program.template
    width = template.devices_per_slot
    entry = np.repeat(np.arange(len(template.entry_row)), width)
    device = (template.entry_slot[:, None] * width + np.arange(width)).ravel()
    return _executions(run, entry, device, np.arange(len(run.end_ps)))


def _executions(
    run: Run, entry: NDArray[np.int64], device: NDArray[np.int64], microbatch: NDArray[np.int64]
) -> pd.DataFrame:
    """Rows for some entries of the template in each of some microbatches."""
    import pandas as pd

    template, operators = run.program.template, run.operators
    row, operator = template.entry_row[entry], template.entry_operator[entry]
    repeat = len(microbatch)
    stage = np.array([o.stage for o in operators], dtype=np.int16)[operator]
    layer = np.array([-1 if o.layer is None else o.layer for o in operators], dtype=np.int16)[operator]
    layer = np.tile(layer, repeat)
    return pd.DataFrame(
        {
            "device": np.tile(device.astype(np.int32), repeat),
            "stream": _category(
                [stream_name(o, template.streams[r]) for o, r in _rows(run, entry)], np.arange(len(entry)), repeat
            ),
            "stage": np.tile(stage, repeat),
            "microbatch": np.repeat(microbatch.astype(np.int32), len(entry)),
            "layer": pd.array(pd.arrays.IntegerArray(layer, layer < 0), dtype="Int16"),
            "op": _category([o.op for o in operators], operator, repeat),
            "kind": _category([_kind(o) for o in operators], operator, repeat),
            "start_s": seconds(run.start_ps[np.ix_(microbatch, row)]).ravel(),
            "end_s": seconds(run.end_ps[np.ix_(microbatch, row)]).ravel(),
        }
    )


def _rows(run: Run, entry: NDArray[np.int64]) -> list[tuple[Operator, int]]:
    template = run.program.template
    return [(run.operators[template.entry_operator[e]], int(template.entry_row[e])) for e in entry]


def stream_name(operator: Operator, streams: NDArray[np.uint32]) -> str:
    """Name of the stream on which a device carries out an operator; the receiver has the other end of a link."""
    return "receive" if operator.kind == "receive" else STREAMS[int(streams[0]) % len(STREAMS)]


def _kind(operator: Operator) -> str:
    return "transfer" if operator.kind == "receive" else operator.kind


def _category(names: list[str], code: NDArray[np.int64], repeat: int) -> pd.Categorical:
    import pandas as pd

    categories = sorted(set(names))
    codes = np.array([categories.index(name) for name in names], dtype=np.int8)[code]
    return pd.Categorical.from_codes(np.tile(codes, repeat), categories=categories)


def operators_frame(run: Run) -> pd.DataFrame:
    """List every operator with the work and the price of one execution on one device.

    Parameters
    ----------
    run : Run

    Returns
    -------
    DataFrame
        Indexed by operator and microbatch size (a generation has a row for its prefill and one for its last decode
        step): ``op``, ``kind``, ``stage``, ``layer``, ``shape``, ``flop``, ``bytes``,
        ``seconds``, ``low_s`` and ``high_s`` (an 80 % range, missing where nobody has measured an error), ``bound``,
        ``roofline_s``, ``source``, ``executions`` (on all devices, over all microbatches),
        ``working_set_bytes``, ``weight_bytes``, ``fits_in_l2``, ``weight_fits_in_l2``, ``tile_bytes`` and
        ``fits_in_shared_memory``.
    """
    import pandas as pd

    program = run.program
    scenario, model = program.scenario, program.scenario.model
    accelerators = [scenario.segment(stage).accelerator for stage in range(scenario.plan.pipeline)]
    rows = []
    for graph, (variant, count) in zip(program.graphs, program.shown, strict=True):
        for operator, cost in zip(graph, program.costs(variant), strict=True):
            working_set, tile = working_set_bytes(operator), tile_bytes(operator, model.head_size)
            weight = 0 if operator.weight is None else operator.weight.device_bytes(scenario.dtype)
            accelerator = accelerators[operator.stage]
            rows.append(
                {
                    "operator": operator.name,
                    "microbatch_size": program.sizes[variant],
                    "op": operator.op,
                    "kind": operator.kind,
                    "stage": operator.stage,
                    "layer": operator.layer,
                    "shape": shape_text(operator),
                    "flop": float(operator.work.flop),
                    "bytes": float(operator.work.read_bytes + operator.work.written_bytes),
                    "seconds": float(cost.seconds),
                    "low_s": float(cost.low_s),
                    "high_s": float(cost.high_s),
                    "bound": str(cost.bound),
                    "roofline_s": float(cost.roofline_s),
                    "source": cost.source,
                    "executions": count * len(operator.devices),
                    "working_set_bytes": working_set,
                    "weight_bytes": weight,
                    "fits_in_l2": working_set <= accelerator.l2_bytes,
                    "weight_fits_in_l2": weight <= accelerator.l2_bytes,
                    "tile_bytes": tile,
                    "fits_in_shared_memory": tile <= accelerator.shared_memory_bytes_per_sm,
                }
            )
    frame = pd.DataFrame(rows).set_index(["operator", "microbatch_size"])
    frame["layer"] = frame["layer"].astype("Int16")
    return frame


def shape_text(operator: Operator) -> str:
    """Device shapes of inputs and outputs, and of the weight where there is one."""
    inputs = " ".join(str(list(tensor.device_shape)) for tensor in operator.inputs)
    outputs = " ".join(str(list(tensor.device_shape)) for tensor in operator.outputs)
    return f"{inputs} -> {outputs}".strip()


def critical_path_frame(run: Run) -> pd.DataFrame:
    """List the executions that determine the makespan, first to last, each starting where the one before ends.

    Parameters
    ----------
    run : Run

    Returns
    -------
    DataFrame
        ``device`` (the first of those that take part), ``stage``, ``microbatch``, ``layer``, ``op``, ``kind``,
        ``start_s``, ``end_s``.
    """
    import pandas as pd

    template = run.program.template
    microbatch, row = template.locate(critical_tasks(run.timeline))
    operators = [run.operators[index] for index in template.operator]
    first_entry = np.unique(template.entry_row, return_index=True)[1]
    slot = template.entry_slot[first_entry]
    return pd.DataFrame(
        {
            "device": slot[row] * template.devices_per_slot,
            "stage": np.array([o.stage for o in operators])[row],
            "microbatch": microbatch,
            "layer": pd.array([operators[r].layer for r in row], dtype="Int16"),
            "op": pd.Categorical([operators[r].op for r in row]),
            "kind": pd.Categorical([operators[r].kind for r in row]),
            "start_s": seconds(run.start_ps[microbatch, row]),
            "end_s": seconds(run.end_ps[microbatch, row]),
        }
    )
