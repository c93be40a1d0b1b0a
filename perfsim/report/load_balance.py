"""Load balance: what each device and each of its network ports is busy with, and for how long it is idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfsim.ops.operators import Collective, ExpertExchange, Transfer
from perfsim.report.lanes import COMMUNICATION, COMPUTE, Run
from perfsim.sim.timeline import union_ps
from perfsim.units import seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["links_frame", "load_balance_frame"]


def load_balance_frame(run: Run) -> pd.DataFrame:
    """Sum up every device.

    Parameters
    ----------
    run : Run

    Returns
    -------
    DataFrame
        Indexed by device: ``stage``; ``busy_s``, the time in which one of its streams works; ``compute_s`` and
        ``communication_s``, the same for kernels and for collectives and transfers, which may overlap; ``idle_s``;
        ``utilization``, busy over makespan; ``bubble_fraction``, idle over makespan; ``busy_over_mean``.
    """
    import pandas as pd

    sums = {model: _slot_sums(run, model) for model in set(run.models)}
    width = run.program.template.slots_per_stage
    rows = [
        {"device": device, "stage": slot // width, **sums[model]}
        for slot, model in enumerate(run.models)
        for device in run.devices_of(slot)
    ]
    frame = pd.DataFrame(rows).set_index("device").sort_index()
    frame["busy_over_mean"] = frame["busy_s"] / frame["busy_s"].mean()
    return frame


def _slot_sums(run: Run, slot: int) -> dict[str, float]:
    busy, compute, communication = (
        union_ps(*run.intervals(slot, kinds)) for kinds in (COMPUTE + COMMUNICATION, COMPUTE, COMMUNICATION)
    )
    idle = run.makespan_ps - busy
    return {
        "busy_s": float(seconds(busy)),
        "compute_s": float(seconds(compute)),
        "communication_s": float(seconds(communication)),
        "idle_s": float(seconds(idle)),
        "utilization": busy / run.makespan_ps,
        "bubble_fraction": idle / run.makespan_ps,
    }


def links_frame(run: Run) -> pd.DataFrame:
    """Sum up every port: a device's connection to a network tier.

    Parameters
    ----------
    run : Run

    Returns
    -------
    DataFrame
        Indexed by device and tier: ``sent_bytes`` (collectives as rings send them), ``busy_s``, the time in which
        something is under way through the port, and ``utilization``, sent bytes over what the port could send in the
        makespan. Ports that nothing passes are left out.
    """
    import pandas as pd

    sums = {model: _port_sums(run, model) for model in set(run.models)}
    rows = [
        {"device": device, **port}
        for slot, model in enumerate(run.models)
        for port in sums[model]
        for device in run.devices_of(slot)
    ]
    columns = ["device", "tier", "sent_bytes", "busy_s", "utilization"]
    return pd.DataFrame(rows, columns=columns).set_index(["device", "tier"]).sort_index()


def _port_sums(run: Run, slot: int) -> list[dict[str, object]]:
    """One row for each tier to which a slot sends."""
    scenario = run.program.scenario
    tiers = scenario.cluster.tiers_of(scenario.place_of(run.devices_of(slot)[0]))
    sent, using = _port_traffic(run, slot)
    rows: list[dict[str, object]] = []
    for tier, num_bytes in sent.items():
        task_rows = run.program.template.entry_row[using[tier]]
        busy = union_ps(run.start_ps[:, task_rows].ravel(), run.end_ps[:, task_rows].ravel())
        capacity = tiers[tier].device_bytes_per_s * float(seconds(run.makespan_ps))
        rows.append(
            {
                "tier": tiers[tier].name,
                "sent_bytes": num_bytes,
                "busy_s": float(seconds(busy)),
                "utilization": num_bytes / capacity,
            }
        )
    return rows


def _port_traffic(run: Run, slot: int) -> tuple[dict[int, float], dict[int, list[int]]]:
    """Bytes that a slot sends at each tier over all microbatches, and the entries of the template that send them."""
    sent: dict[int, float] = {}
    using: dict[int, list[int]] = {}
    counts = [count for _, count in run.program.shown]
    for entry in run.entries(slot, ("collective", "transfer")):
        index = run.program.template.entry_operator[entry]
        for graph, count in zip(run.program.graphs, counts, strict=True):
            work = graph.operators[index].work
            if isinstance(work, Transfer):
                traffic = {work.tier: float(work.payload_bytes)}
            elif isinstance(work, Collective | ExpertExchange):
                traffic = {tier: float(size) for tier, size in enumerate(work.wire_bytes) if size > 0}
            else:
                continue
            for tier, size in traffic.items():
                sent[tier] = sent.get(tier, 0.0) + size * count
                using.setdefault(tier, [])
        for tier in traffic:
            using[tier].append(int(entry))
    return sent, using
