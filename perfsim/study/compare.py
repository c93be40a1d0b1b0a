"""Comparison of plans: each simulated, one of them named as the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from perfsim import html
from perfsim.errors import Faults
from perfsim.report.breakdown import IDLE, KINDS, time_by_kind
from perfsim.simulation import Result, simulate
from perfsim.spec.scenario import Scenario
from perfsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Comparison", "compare"]


def compare(scenarios: Mapping[str, Scenario | Result], *, baseline: str) -> Comparison:
    """Simulate several plans and hold them against one of them.

    Parameters
    ----------
    scenarios : mapping of str to Scenario or Result
        The plans by name; results are taken as they are.
    baseline : str
        The name of the plan against which the others are held.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        There is nothing to compare, or no plan has the baseline's name.

    Examples
    --------
    >>> import perfsim
    >>> names = ["seed-baseline", "seed-improved"]
    >>> plans = {name: perfsim.load_scenario(name).with_(batch_size=32) for name in names}
    >>> comparison = perfsim.compare(plans, baseline="seed-baseline")
    >>> list(comparison.table.index)
    ['seed-baseline', 'seed-improved']
    >>> bool(comparison.table.loc["seed-improved", "speedup"] > 1)
    True
    """
    faults = Faults("compare")
    if not isinstance(scenarios, Mapping) or not scenarios or not all(isinstance(name, str) for name in scenarios):
        faults.add("scenarios", scenarios, "must be a mapping of names to at least one plan", 'such as {"a": scenario}')
        faults.raise_if_any()
    faults.choice("baseline", baseline, list(scenarios))
    for name, scenario in scenarios.items():
        if not isinstance(scenario, Scenario | Result):
            faults.add(f"scenarios[{name!r}]", scenario, "must be a Scenario or a Result")
    faults.raise_if_any()
    results = {
        name: scenario if isinstance(scenario, Result) else simulate(scenario) for name, scenario in scenarios.items()
    }
    return Comparison(results, baseline)


def _times_as_fast(table: pd.DataFrame, plan: str, baseline: str) -> str:
    """How much faster than the baseline a plan is, where it is another."""
    return "" if plan == baseline else f", {table.loc[plan, 'speedup']:.2f} times as fast as {baseline}"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Results of several plans.

    Attributes
    ----------
    results : dict of str to Result
    baseline : str
        The plan against which the others are held.
    """

    results: dict[str, Result]
    baseline: str

    def __getitem__(self, name: str) -> Result:
        faults = Faults("comparison")
        faults.choice("plan", name, list(self.results))
        faults.raise_if_any()
        return self.results[name]

    @property
    def table(self) -> pd.DataFrame:
        """One row a plan.

        ``speedup`` is how many times as fast as the baseline the plan computes tokens: with the same workload, the
        baseline's makespan over the plan's. ``first_sequence_speedup`` is the baseline's time for the first sequence
        over the plan's; ``mfu`` counts the FLOP that the workload asks for (causal: half of the pairs of tokens),
        ``mfu_full_attention`` all pairs. The rest is `Result.summary`.
        """
        import pandas as pd

        table = pd.DataFrame({name: result.summary for name, result in self.results.items()}).T.infer_objects()
        table.index.name = "plan"
        tokens = self[self.baseline].scenario.workload.tokens
        work = [result.scenario.workload.tokens / tokens for result in self.results.values()]
        faster, sooner = (table.loc[self.baseline, of] / table[of] for of in ("makespan_s", "first_sequence_s"))
        table.insert(0, "speedup", faster * work)
        table.insert(1, "first_sequence_speedup", sooner)
        return table

    @cached_property
    def time_by_kind(self) -> pd.DataFrame:
        """Seconds of the makespan by kind of operator, one row a plan; a row adds up to the makespan."""
        import pandas as pd

        return pd.DataFrame({name: time_by_kind(result.run) for name, result in self.results.items()}).T

    def waterfall(self, plan: str, start: str | None = None) -> pd.DataFrame:
        """Say by kind of operator where the time went from one plan to another.

        Parameters
        ----------
        plan : str
            Where the waterfall ends.
        start : str, optional
            Where it begins; the baseline when left out.

        Returns
        -------
        DataFrame
            ``kind``, ``change_s``, ``start_s``, ``end_s``: first the makespan of the one plan, then the change by each
            kind of operator and by idling, last the makespan of the other.
        """
        import pandas as pd

        start = self.baseline if start is None else start
        faults = Faults("waterfall")
        faults.choice("plan", plan, list(self.results))
        faults.choice("start", start, list(self.results))
        faults.raise_if_any()
        before, after = self.time_by_kind.loc[start], self.time_by_kind.loc[plan]
        level = self.results[start].makespan_s
        rows = [(start, level, 0.0, level)]
        for kind in KINDS:
            change = float(after[kind] - before[kind])
            rows.append((kind, change, level, level + change))
            level += change
        rows.append((plan, self.results[plan].makespan_s, 0.0, self.results[plan].makespan_s))
        return pd.DataFrame(rows, columns=["kind", "change_s", "start_s", "end_s"])

    @property
    def findings(self) -> tuple[str, ...]:
        """What the comparison says, in plain words."""
        table = self.table
        fastest, soonest = table["speedup"].idxmax(), table["first_sequence_s"].idxmin()
        findings = [
            f"Throughput: {fastest} is fastest, with {format_seconds(table.loc[fastest, 'makespan_s'])} for the whole "
            f"batch{_times_as_fast(table, fastest, self.baseline)}.",
            f"Latency: the first sequence is done soonest under {soonest}, after "
            f"{format_seconds(table.loc[soonest, 'first_sequence_s'])} "
            f"({self.baseline}: {format_seconds(table.loc[self.baseline, 'first_sequence_s'])}).",
        ]
        for name, parts in self.time_by_kind.iterrows():
            largest = parts.idxmax()
            share = parts[largest] / parts.sum()
            what = "idle" if largest == IDLE else f"in {largest} operators"
            findings.append(f"{name}: a GPU is {what} for {share:.0%} of the makespan, more than in anything else.")
        models = {result.scenario.model for result in self.results.values()}
        workloads = {result.scenario.workload for result in self.results.values()}
        if len(models) > 1 or len(workloads) > 1:
            what = " and ".join(w for w, kinds in (("models", models), ("workloads", workloads)) if len(kinds) > 1)
            findings.append(f"These plans have different {what}: tokens are compared with tokens, not like with like.")
        return tuple(findings)

    def plot_timelines(self, ax: Axes | None = None, *, end_s: float | None = None, **zoom: Any) -> Axes:
        """Draw the timelines of all plans on one axis.

        ``time_s=(a, b)``, ``stage`` and ``microbatch`` say what to show, ``end_s=b`` is short for ``time_s=(0, b)``;
        see `perfsim.report.plots.plot_timelines`.
        """
        from perfsim.report.plots import plot_timelines

        if end_s is not None:
            faults = Faults()
            faults.number("end_s", end_s)
            if zoom.get("time_s") is not None:
                faults.add("end_s, time_s", (end_s, zoom["time_s"]), "must not both be given", "leave one out")
            faults.raise_if_any()
            zoom["time_s"] = (0.0, end_s)
        return plot_timelines({name: result.run for name, result in self.results.items()}, ax, **zoom)

    def plot_waterfall(self, plan: str, start: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw `waterfall`, without the kinds that neither plan has."""
        from perfsim.report.plots import plot_waterfall

        steps = self.waterfall(plan, start)
        return plot_waterfall(steps[steps["change_s"] != 0], ax)

    def plot_time_by_kind(self, ax: Axes | None = None) -> Axes:
        """Draw `time_by_kind`."""
        from perfsim.report.plots import plot_time_by_kind

        return plot_time_by_kind(self.time_by_kind, ax)

    @property
    def readable(self) -> pd.DataFrame:
        """The main columns of `table` as texts with their units."""
        import pandas as pd

        table = self.table
        return pd.DataFrame(
            {
                "speed-up": table["speedup"].map("{:.2f}x".format),
                "makespan": table["makespan_s"].map(format_seconds),
                "tokens/s": table["tokens_per_s"].map("{:,.0f}".format),
                "first sequence": table["first_sequence_s"].map(format_seconds),
                "MFU": table["mfu"].map("{:.1%}".format),
                "bubble": table["bubble_fraction"].map("{:.1%}".format),
                "communication": table["communication_fraction"].map("{:.1%}".format),
                "peak memory": table["peak_bytes"].map(format_bytes),
                "fits": table["fits"].map({True: "yes", False: "NO"}),
            }
        )

    @property
    def title(self) -> str:
        """What is compared, in one line."""
        return f"Comparison with {self.baseline} as the baseline"

    def __str__(self) -> str:
        return "\n".join([self.title, self.readable.to_string(), *self.findings])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        readable = self.readable
        fits = [html.verdict(result.fits, html.FITS[result.fits]) for result in self.results.values()]
        rows = [(name, *row[:-1], good) for (name, *row), good in zip(readable.itertuples(), fits, strict=True)]
        header = ("plan", *readable.columns)
        return html.card(self.title, html.table(header, rows, numbers=True), html.notes(self.findings))
