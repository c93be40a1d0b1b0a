"""Memory per device and over time: what stays resident, and the activations that live on the simulated timeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfsim.memory import Buffer, Resident, activation_buffers, hidden_state, resident_memory
from perfsim.report.lanes import Run
from perfsim.units import format_bytes, seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Activations",
    "activations_over_time",
    "memory_findings",
    "memory_frame",
    "memory_over_time_frame",
    "peak_frame",
]


@dataclass(frozen=True, eq=False)
class Activations:
    """The activations of one slot over time.

    Attributes
    ----------
    time_ps : ndarray of int64
        Instants at which something is allocated or freed, in order.
    live_bytes : ndarray of int64
        Bytes that live from each instant to the next; what is freed at an instant makes room for what is allocated.
    alive_ps : ndarray of int64, shape (buffers, microbatches, 2)
        When each buffer is allocated and freed.
    size_bytes : ndarray of int64, shape (buffers, microbatches)
    buffers : tuple of Buffer
    """

    time_ps: NDArray[np.int64]
    live_bytes: NDArray[np.int64]
    alive_ps: NDArray[np.int64]
    size_bytes: NDArray[np.int64]
    buffers: tuple[Buffer, ...]

    @property
    def peak_bytes(self) -> int:
        """Most bytes that live at once."""
        return int(self.live_bytes.max(initial=0))

    def at_peak(self) -> list[tuple[Buffer, int, int]]:
        """Every buffer that lives at the first instant of the peak, with its microbatch and its bytes."""
        if not len(self.time_ps):
            return []
        peak_ps = self.time_ps[self.live_bytes.argmax()]
        alive = (self.alive_ps[:, :, 0] <= peak_ps) & (peak_ps < self.alive_ps[:, :, 1])
        return [(self.buffers[b], int(k), int(self.size_bytes[b, k])) for b, k in np.argwhere(alive)]


def activations_over_time(run: Run, slot: int) -> Activations:
    """Follow the activations of a slot: allocated when their operator starts, freed when the last user has ended."""
    program, template = run.program, run.program.template
    stage = slot // template.slots_per_stage
    graph_of = np.array(program.graph_of)[program.variant]
    variants = [[b for b in activation_buffers(graph) if b.stage == stage] for graph in program.graphs]
    entries = run.entries(slot)
    row_of = dict(zip(template.entry_operator[entries].tolist(), template.entry_row[entries].tolist(), strict=True))
    alive = np.empty((len(variants[0]), len(run.end_ps), 2), dtype=np.int64)
    sizes = np.empty(alive.shape[:2], dtype=np.int64)
    for index, buffer in enumerate(variants[0]):
        alive[index, :, 0] = run.start_ps[:, row_of[buffer.allocated_by]]
        alive[index, :, 1] = run.end_ps[:, [row_of[user] for user in buffer.users]].max(axis=1)
        sizes[index] = np.array([buffers[index].bytes for buffers in variants])[graph_of]
    time = np.concatenate([alive[:, :, 1].ravel(), alive[:, :, 0].ravel()])
    change = np.concatenate([-sizes.ravel(), sizes.ravel()])
    order = np.argsort(time, kind="stable")  # stable, so that at one instant the freed come before the allocated
    time, live = time[order], np.cumsum(change[order])
    last = np.concatenate([time[1:] != time[:-1], [True]]) if len(time) else np.empty(0, bool)
    return Activations(time[last], live[last], alive, sizes, tuple(variants[0]))


def memory_frame(run: Run, activations: Sequence[Activations]) -> pd.DataFrame:
    """Sum up the memory of every device.

    Parameters
    ----------
    run : Run
    activations : sequence of Activations
        One for each slot.

    Returns
    -------
    DataFrame
        Indexed by device: ``stage``, ``weights_bytes``, ``kv_cache_bytes``, ``activation_bytes`` (the peak over time),
        ``buffer_bytes``, ``reserve_bytes``, ``peak_bytes``, ``capacity_bytes``, ``fits``, and
        ``kv_cache_if_kept_bytes`` and ``fits_if_kept`` for the case that K and V of all tokens stay.
    """
    import pandas as pd

    template, scenario = run.program.template, run.program.scenario
    stages = resident_memory(scenario, run.program.graphs[0])
    rows = []
    for slot, activation in enumerate(activations):
        stage = slot // template.slots_per_stage
        capacity = scenario.segment(stage).accelerator.memory_bytes
        row = _memory_row(stages[stage], activation.peak_bytes, capacity)
        rows += [{"device": device, "stage": stage, **row} for device in run.devices_of(slot)]
    return pd.DataFrame(rows).set_index("device").sort_index()


def _memory_row(resident: Resident, activation_bytes: int, capacity_bytes: int) -> dict[str, int | bool]:
    peak = resident.total_bytes + activation_bytes
    if_kept = peak - resident.kv_cache_bytes + resident.kv_cache_if_kept_bytes
    return {
        "weights_bytes": resident.weights_bytes,
        "kv_cache_bytes": resident.kv_cache_bytes,
        "activation_bytes": activation_bytes,
        "buffer_bytes": resident.buffer_bytes,
        "reserve_bytes": resident.reserve_bytes,
        "peak_bytes": peak,
        "capacity_bytes": capacity_bytes,
        "fits": peak <= capacity_bytes,
        "kv_cache_if_kept_bytes": resident.kv_cache_if_kept_bytes,
        "fits_if_kept": if_kept <= capacity_bytes,
    }


_PARTS = {
    "weights_bytes": "the weights",
    "kv_cache_bytes": "the KV cache",
    "activation_bytes": "activations",
    "buffer_bytes": "receive buffers",
    "reserve_bytes": "the framework's reserve",
}


def memory_findings(run: Run, memory: pd.DataFrame, operators: pd.DataFrame) -> tuple[str, ...]:
    """Say in plain words what fits, what does not, and by how much.

    Parameters
    ----------
    run : Run
    memory, operators : DataFrame
        As `memory_frame` and `operators_frame` give them.
    """
    scenario = run.program.scenario
    return (
        _verdict(memory),
        _whole_batch(run),
        _kv_cache(run, memory),
        *_on_chip(scenario.cluster.accelerator.l2_bytes, operators),
    )


def _verdict(memory: pd.DataFrame) -> str:
    device = int(memory["peak_bytes"].to_numpy().argmax())
    row = memory.loc[device]
    peak, capacity = row["peak_bytes"], row["capacity_bytes"]
    if row["fits"]:
        return f"The plan fits: at most {format_bytes(peak)} of {format_bytes(capacity)} a GPU (GPU {device})."
    largest = max(_PARTS, key=lambda part: row[part])
    short = (~memory["fits"]).sum()
    return (
        f"The plan does NOT fit on {short} of {len(memory)} GPUs: GPU {device} needs {format_bytes(peak)}, "
        f"{format_bytes(peak - capacity)} more than its {format_bytes(capacity)}. The largest part is "
        f"{_PARTS[largest]} with {format_bytes(row[largest])}."
    )


def _whole_batch(run: Run) -> str:
    workload, size = run.program.scenario.workload, run.program.scenario.microbatch_size
    hidden = hidden_state(run.program.graphs[0])
    whole = math.prod(hidden.shape) * hidden.device_bytes // math.prod(hidden.device_shape)
    return (
        f"One hidden state of the whole batch of {workload.batch_size} sequences takes {format_bytes(whole)}; "
        f"it goes through in microbatches of {size}, {format_bytes(hidden.device_bytes)} each on a GPU."
    )


def _kv_cache(run: Run, memory: pd.DataFrame) -> str:
    workload = run.program.scenario.workload
    kept = memory["kv_cache_if_kept_bytes"]
    size = f"{format_bytes(kept.max())} a GPU, {format_bytes(kept.sum())} in all"
    tokens = f"{workload.batch_size} x {workload.context_length} tokens"
    fits = "would fit" if memory["fits_if_kept"].all() else "would not fit"
    if workload.keep_kv_cache:
        return f"The KV cache of all {tokens} is kept: {size}."
    return f"The KV cache is dropped. Keeping that of all {tokens} would take {size}; that {fits}."


def _on_chip(l2_bytes: int, operators: pd.DataFrame) -> list[str]:
    """What of the operators' data fits in L2 and in shared memory."""
    work = operators[operators["seconds"] > 0]
    layer = work[work["layer"] == work["layer"].min()]
    weights = int(layer["weight_bytes"].groupby(level="operator").first().sum())
    fits = "fits in" if weights <= l2_bytes else f"is {weights / l2_bytes:.1f} times"
    inside = sorted(set(layer.loc[layer["fits_in_l2"], "op"]))
    findings = [
        f"A layer's weight shard of {format_bytes(weights)} {fits} the {format_bytes(l2_bytes)} of L2; "
        f"of its operators' working sets {', '.join(inside) if inside else 'none'} fits there."
    ]
    wide = sorted(set(layer.loc[~layer["fits_in_shared_memory"], "op"]))
    findings.append(
        f"Tiles of {', '.join(wide)} do not fit in the shared memory of a multiprocessor."
        if wide
        else "Tiles of every operator fit in the shared memory of a multiprocessor."
    )
    return findings


def memory_over_time_frame(run: Run, activations: Activations, slot: int) -> pd.DataFrame:
    """Give the memory of a device from instant to instant.

    Returns
    -------
    DataFrame
        ``time_s``, ``activation_bytes`` and ``total_bytes``, each valid until the next row.
    """
    import pandas as pd

    resident = _resident(run, slot)
    return pd.DataFrame(
        {
            "time_s": seconds(activations.time_ps),
            "activation_bytes": activations.live_bytes,
            "total_bytes": activations.live_bytes + resident.total_bytes,
        }
    )


def peak_frame(run: Run, activations: Activations, slot: int) -> pd.DataFrame:
    """List what lives on a device at the first instant of its peak, largest first.

    Returns
    -------
    DataFrame
        ``what``, ``microbatch`` (missing for what is resident) and ``bytes``; they add up to the peak.
    """
    import pandas as pd

    resident = _resident(run, slot)
    rows = [
        {"what": _PARTS[part], "microbatch": None, "bytes": getattr(resident, part)}
        for part in _PARTS
        if getattr(resident, part, 0)
    ]
    rows += [
        {"what": buffer.name, "microbatch": microbatch, "bytes": num_bytes}
        for buffer, microbatch, num_bytes in activations.at_peak()
    ]
    frame = pd.DataFrame(rows).sort_values("bytes", ascending=False, kind="stable", ignore_index=True)
    return frame.astype({"microbatch": "Int32"})


def _resident(run: Run, slot: int) -> Resident:
    stages = resident_memory(run.program.scenario, run.program.graphs[0])
    return stages[slot // run.program.template.slots_per_stage]
