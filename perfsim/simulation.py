"""The path from a scenario to a result, on one screen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfsim import html
from perfsim.conditions import Conditions, check_conditions, disturbances_of
from perfsim.errors import Faults
from perfsim.ops.flop import closed_form_flop
from perfsim.ops.graph import OperatorGraph
from perfsim.report import critical, frames, load_balance, memory_report, plots, uncertainty
from perfsim.report.breakdown import time_by_kind
from perfsim.report.lanes import Run
from perfsim.schedule.program import Program, make_program
from perfsim.sim.timeline import Timeline
from perfsim.spec.scenario import Scenario
from perfsim.units import format_bytes, format_seconds, seconds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["DETAILS", "ENGINES", "Result", "simulate"]

ENGINES = ("compiled", "simpy")
DETAILS = ("folded", "full")


def simulate(
    scenario: Scenario, *, engine: str = "compiled", detail: str = "folded", conditions: Conditions | None = None
) -> Result:
    """Simulate a scenario.

    Parameters
    ----------
    scenario : Scenario
    engine : str
        ``compiled``, or ``simpy`` for the event-by-event simulation; both give the same times to the bit.
    detail : str
        ``folded`` simulates one of the devices that do the same, ``full`` all of them; both give the same times to the
        bit, and the reports show every device either way.
    conditions : Conditions, optional
        What interferes while the plan runs: slow devices, jitter, shared links. Only ``engine="simpy"`` with
        ``detail="full"`` follows them.

    Returns
    -------
    Result

    Raises
    ------
    InputError
        `scenario` is none, `engine` or `detail` is unknown, the work takes longer than times can hold, or `conditions`
        are given to an engine that does not follow them or name what the scenario does not have.

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=16))
    >>> result.load_balance.shape[0]
    16
    """
    faults = Faults("simulate")
    faults.instance("scenario", scenario, Scenario)
    faults.choice("engine", engine, ENGINES)
    faults.choice("detail", detail, DETAILS)
    if conditions is not None and faults.instance("conditions", conditions, Conditions):
        if (engine, detail) != ("simpy", "full"):
            way_out = 'simulate(..., engine="simpy", detail="full", conditions=...)'
            faults.add("engine, detail", (engine, detail), "must be simpy and full where conditions are given", way_out)
        elif isinstance(scenario, Scenario):
            check_conditions(conditions, scenario, faults.inside("conditions"))
    faults.raise_if_any()
    program = make_program(scenario, folded=detail == "folded")
    return Result(scenario, Run(program, _run(program, engine, conditions)), engine, detail, conditions)


def _run(program: Program, engine: str, conditions: Conditions | None) -> Timeline:
    """Run a program on one of the engines, which bring heavy libraries with them."""
    graph = program.task_graph
    if engine == "compiled":
        from perfsim.sim.compiled import run_compiled

        return Timeline(graph, run_compiled(graph))
    from perfsim.sim.events import run_disturbed, run_simpy

    if conditions is None:
        return Timeline(graph, run_simpy(graph, program.describe))
    return Timeline(*run_disturbed(graph, disturbances_of(program, conditions), program.describe))


@dataclass(frozen=True, eq=False)
class Result:
    """What a simulation found; everything beyond the times is derived when it is asked for.

    Attributes
    ----------
    scenario : Scenario
    run : Run
        The program and the times of its tasks.
    engine, detail : str
        How it was simulated.
    conditions : Conditions or None
        What interfered.
    """

    scenario: Scenario
    run: Run = field(repr=False)
    engine: str = "compiled"
    detail: str = "folded"
    conditions: Conditions | None = None

    @property
    def makespan_s(self) -> float:
        """Seconds until the last output of the last microbatch."""
        return float(seconds(self.run.makespan_ps))

    @cached_property
    def makespan_range_s(self) -> tuple[float, float]:
        """Seconds between which the makespan lies with a chance of about 80 %.

        How: `perfsim.report.uncertainty.makespan_range_s`.
        """
        return uncertainty.makespan_range_s(self.run)

    @property
    def tokens_per_s(self) -> float:
        """Computed tokens of the whole batch over the makespan; of a generation the tokens that it gives."""
        return self.scenario.workload.tokens / self.makespan_s

    @cached_property
    def first_sequence_s(self) -> float:
        """Seconds until the first microbatch, and with it the first sequence, has left the last stage."""
        return float(seconds(self.run.end_ps[0].max()))

    @cached_property
    def ttft_s(self) -> float:
        """Mean seconds until a sequence has its first token: its microbatch leaves the last stage. Not of decode."""
        if self.scenario.workload.phase == "decode":
            return math.nan
        return self._mean_over_sequences(self._left_s[: self.scenario.num_microbatches])

    @cached_property
    def tpot_s(self) -> float:
        """Mean seconds between the tokens of a sequence: a whole step of decode; missing where one token is all."""
        workload = self.scenario.workload
        if workload.phase == "decode":
            return self.makespan_s
        if workload.output_length == 1:
            return math.nan
        last_s = self._left_s[-self.scenario.num_microbatches :]
        return (self._mean_over_sequences(last_s) - self.ttft_s) / (workload.output_length - 1)

    @property
    def _left_s(self) -> NDArray[np.float64]:
        """When each microbatch has left the last stage."""
        return seconds(self.run.end_ps.max(axis=1))

    def _mean_over_sequences(self, left_s: NDArray[np.float64]) -> float:
        return float(np.average(left_s, weights=self.scenario.microbatch_sizes))

    @property
    def mfu(self) -> float:
        """Model FLOP utilization: the FLOP that the workload asks for (causal: half of the pairs) over the peak."""
        return self._mfu(self.scenario.workload.causal)

    @property
    def mfu_full_attention(self) -> float:
        """The same with the FLOP of all pairs of tokens, masked or not, as some reports count it."""
        return self._mfu(causal=False)

    def _mfu(self, causal: bool) -> float:
        workload = dataclasses.replace(self.scenario.workload, causal=causal)
        available = self.makespan_s * self.scenario.peak_flop_per_s
        return closed_form_flop(self.scenario.model, workload) / available

    @property
    def bubble_fraction(self) -> float:
        """Mean share of the makespan in which a device is idle."""
        return float(self.load_balance["bubble_fraction"].mean())

    @property
    def communication_fraction(self) -> float:
        """Mean share of the makespan in which a device communicates, beside kernels or not."""
        return float(self.load_balance["communication_s"].mean() / self.makespan_s)

    @property
    def fits(self) -> bool:
        """Whether every device has memory enough."""
        return bool(self.memory["fits"].all())

    @property
    def dag(self) -> OperatorGraph:
        """The operator graph."""
        return self.run.program.graphs[0]

    @cached_property
    def timeline(self) -> pd.DataFrame:
        """Every execution on every device; see `perfsim.report.frames.timeline_frame`."""
        return frames.timeline_frame(self.run)

    @cached_property
    def load_balance(self) -> pd.DataFrame:
        """One row a device; see `perfsim.report.load_balance.load_balance_frame`."""
        return load_balance.load_balance_frame(self.run)

    @cached_property
    def links(self) -> pd.DataFrame:
        """One row a device and network tier; see `perfsim.report.load_balance.links_frame`."""
        return load_balance.links_frame(self.run)

    @cached_property
    def activations(self) -> tuple[memory_report.Activations, ...]:
        """Activations over time, for each slot of the program."""
        models = {model: memory_report.activations_over_time(self.run, model) for model in set(self.run.models)}
        return tuple(models[model] for model in self.run.models)

    @cached_property
    def memory(self) -> pd.DataFrame:
        """One row a device; see `perfsim.report.memory_report.memory_frame`."""
        return memory_report.memory_frame(self.run, self.activations)

    @cached_property
    def memory_findings(self) -> tuple[str, ...]:
        """What fits, what does not and by how much, in plain words."""
        return memory_report.memory_findings(self.run, self.memory, self.operators)

    def memory_over_time(self, device: int = 0) -> pd.DataFrame:
        """Memory of one device from instant to instant; see `perfsim.report.memory_report.memory_over_time_frame`."""
        slot = self.run.slot_of(device)
        return memory_report.memory_over_time_frame(self.run, self.activations[slot], slot)

    def memory_at_peak(self, device: int = 0) -> pd.DataFrame:
        """What lives on one device at its peak; see `perfsim.report.memory_report.peak_frame`."""
        slot = self.run.slot_of(device)
        return memory_report.peak_frame(self.run, self.activations[slot], slot)

    @cached_property
    def operators(self) -> pd.DataFrame:
        """One row an operator; see `perfsim.report.frames.operators_frame`."""
        return frames.operators_frame(self.run)

    @cached_property
    def critical_path(self) -> pd.DataFrame:
        """The executions that determine the makespan; see `perfsim.report.frames.critical_path_frame`."""
        return frames.critical_path_frame(self.run)

    @cached_property
    def critical_path_composition(self) -> pd.Series:
        """Seconds of the makespan by what they are spent on; see `perfsim.report.critical.composition`."""
        return critical.composition(self.run)

    @cached_property
    def slack(self) -> pd.DataFrame:
        """One row an operator; see `perfsim.report.critical.slack_frame`."""
        return critical.slack_frame(self.run)

    def plot_timeline(self, ax: Axes | None = None, **zoom: Any) -> Axes:
        """Draw what each GPU does over time.

        ``time_s=(a, b)``, ``stage``, ``microbatch`` and ``devices`` say what to show;
        see `perfsim.report.plots.plot_timeline`.
        """
        return plots.plot_timeline(self.run, ax, **zoom)

    def plot_roofline(self, ax: Axes | None = None) -> Axes:
        """Draw every operator below the roofs of its device; see `perfsim.report.plots.plot_roofline`."""
        return plots.plot_roofline(self.run, ax)

    def plot_operators(self, ax: Axes | None = None) -> Axes:
        """Draw the time by operator and by bound; see `perfsim.report.plots.plot_operators`."""
        return plots.plot_operators(self.operators, ax)

    def plot_load_balance(self, ax: Axes | None = None) -> Axes:
        """Draw what each GPU spends the time with; see `perfsim.report.plots.plot_load_balance`."""
        return plots.plot_load_balance(self.load_balance, ax)

    def plot_memory(self, ax: Axes | None = None) -> Axes:
        """Draw what fills each GPU at its peak; see `perfsim.report.plots.plot_memory`."""
        return plots.plot_memory(self.memory, ax)

    def plot_memory_over_time(self, device: int = 0, ax: Axes | None = None, **window: float) -> Axes:
        """Draw the memory of one device over time; see `perfsim.report.plots.plot_memory_over_time`."""
        over_time = self.memory_over_time(device)
        return plots.plot_memory_over_time(over_time, int(self.memory["capacity_bytes"].loc[device]), ax, **window)

    @property
    def summary(self) -> pd.Series:
        """The main figures."""
        import pandas as pd

        stage_busy_s = self.load_balance.groupby("stage")["busy_s"].mean()
        return pd.Series(
            {
                "makespan_s": self.makespan_s,
                "tokens_per_s": self.tokens_per_s,
                "first_sequence_s": self.first_sequence_s,
                **{name: value for name in ("ttft_s", "tpot_s") if not math.isnan(value := getattr(self, name))},
                "mfu": self.mfu,
                "mfu_full_attention": self.mfu_full_attention,
                "bubble_fraction": self.bubble_fraction,
                "communication_fraction": self.communication_fraction,
                "busy_max_over_mean": float(self.load_balance["busy_over_mean"].max()),
                "stage_busy_max_over_mean": float(stage_busy_s.max() / stage_busy_s.mean()),
                "peak_bytes": int(self.memory["peak_bytes"].max()),
                "capacity_bytes": int(self.memory["capacity_bytes"].min()),
                "fits": self.fits,
            },
            dtype=object,
            name="result",
        )

    def _range_text(self) -> str:
        low, high = self.makespan_range_s
        return f" (80 % range {format_seconds(low)} to {format_seconds(high)})" if low < high else ""

    def _latency_text(self) -> str:
        if self.scenario.workload.phase != "generation":
            return ""
        tpot = "" if math.isnan(self.tpot_s) else f", TPOT {format_seconds(self.tpot_s)}"
        return f", TTFT {format_seconds(self.ttft_s)}{tpot}"

    def __str__(self) -> str:
        return "\n".join(
            [
                self.scenario.title,
                f"makespan {format_seconds(self.makespan_s)}{self._range_text()}, {self.tokens_per_s:,.0f} tokens/s, "
                f"first sequence after {format_seconds(self.first_sequence_s)}{self._latency_text()}",
                f"MFU {self.mfu:.1%} (all pairs counted: {self.mfu_full_attention:.1%}), "
                f"bubble {self.bubble_fraction:.1%}, communicating {self.communication_fraction:.1%}",
                f"memory {self._memory_text()}: {'fits' if self.fits else 'DOES NOT FIT'}",
                *([] if self.conditions is None else [f"under {self.conditions}"]),
            ]
        )

    __repr__ = __str__

    def _memory_text(self) -> str:
        peak, capacity = self.memory["peak_bytes"].max(), self.memory["capacity_bytes"].min()
        return f"{format_bytes(peak)} of {format_bytes(capacity)} a GPU"

    def _repr_html_(self) -> str:
        parts = time_by_kind(self.run)
        shares = {f"{kind} time": float(spent_s / parts.sum()) for kind, spent_s in parts.items() if spent_s}
        spent = {f"{kind} time": f"{format_seconds(spent_s)}, {spent_s / parts.sum():.1%}"
                 for kind, spent_s in parts.items()}  # fmt: skip
        return html.card(self.scenario.title, html.facts(self._facts()), html.bars(shares, spent))

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Names and values for people."""
        yield "Makespan", f"{format_seconds(self.makespan_s)}{self._range_text()}"
        yield "Throughput", f"{self.tokens_per_s:,.0f} tokens/s"
        yield "First sequence", f"after {format_seconds(self.first_sequence_s)}{self._latency_text()}"
        yield "MFU", f"{self.mfu:.1%}, all pairs of tokens counted {self.mfu_full_attention:.1%}"
        yield "Bubble", f"{self.bubble_fraction:.1%}, communicating {self.communication_fraction:.1%}"
        busy = self.load_balance
        spread = f"{busy['utilization'].min():.1%} to {busy['utilization'].max():.1%} of the time"
        yield "GPUs busy", f"{spread}, max/mean {busy['busy_over_mean'].max():.4f}"
        yield "Memory", html.stack(html.verdict(self.fits, f"{html.FITS[self.fits]}: {self._memory_text()}"))
        if self.conditions is not None:
            yield "Conditions", str(self.conditions)
