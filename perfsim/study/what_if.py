"""What if the hardware were faster: one scenario before and after some of its cluster's numbers change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from perfsim import html
from perfsim.errors import Faults
from perfsim.report.critical import BUBBLE
from perfsim.simulation import Result, simulate
from perfsim.spec.hardware import Cluster
from perfsim.spec.scenario import Scenario
from perfsim.study.compare import Comparison
from perfsim.study.hardware_numbers import Field, HardwareNumber, find_number, scaled
from perfsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["WhatIf", "what_if"]

BEFORE, AFTER = "before", "after"
_ALIKE = 5e-5
"""Relative change below which two makespans are the same in words."""
_SHIFT = 0.01
"""Share of the makespan from which on a change of one part of it is worth a word."""


def what_if(scenario: Scenario | Result, **factors: float) -> WhatIf:
    """Simulate a scenario again with some numbers of its hardware multiplied.

    Parameters
    ----------
    scenario : Scenario or Result
        A result is taken as what was before.
    **factors : float
        What each number is multiplied by. Names:

        - ``flops``, ``vector_flops``: dense matrix FLOP/s in every data type, and FLOP/s outside the matrix units;
        - ``clock``: of everything on the chip that has no rate of its own; the two above stay what they are;
        - ``hbm_bandwidth``, ``hbm_capacity``: of the device memory;
        - ``nvlink``, ``infiniband`` or whatever the tiers of the cluster are called: bandwidth of a tier, also
          ``nvlink_bandwidth``; ``network``: of all tiers; ``nvlink_latency``: one hop of a tier;
        - ``launch``, ``collective_launch``: fixed time of each kernel, and of each collective;
        - ``latency``: one hop of every tier, and the fixed time of collectives, in which the hops of a measured tier
          are;
        - the dotted name of any number, as in ``**{"accelerator.l2_bytes": 2}``. Whole numbers are rounded.

    Returns
    -------
    WhatIf

    Raises
    ------
    InputError
        A name is unknown, a factor is no number above 0, two names change the same number, or a number leaves its
        range.

    Examples
    --------
    >>> import perfsim
    >>> found = perfsim.what_if(perfsim.load_scenario("seed-improved").with_(batch_size=64), nvlink=1.5, flops=1.2)
    >>> 1.1 < found.speedup < 1.3
    True
    >>> found.before.scenario.cluster.tiers[0].bytes_per_s, found.after.scenario.cluster.tiers[0].bytes_per_s
    (450000000000.0, 675000000000.0)
    """
    faults = Faults("what_if")
    if not isinstance(scenario, Scenario | Result):
        faults.add("scenario", scenario, "must be a Scenario or a Result")
        faults.raise_if_any()
    given = scenario if isinstance(scenario, Scenario) else scenario.scenario
    numbers = _find(given.cluster, given.dtype, factors, faults)
    if isinstance(scenario, Result) and scenario.conditions is not None:
        way_out = "give the scenario without them"
        faults.add(
            "scenario.conditions", scenario.conditions, "must be none, for only one side would have them", way_out
        )
    faults.raise_if_any()
    cluster = given.cluster
    for name, number in numbers.items():
        cluster = scaled(cluster, number.fields, factors[name])
    before = scenario if isinstance(scenario, Result) else simulate(given)
    after = simulate(dataclasses.replace(given, cluster=cluster), engine=before.engine, detail=before.detail)
    return WhatIf(before, after, dict(factors), tuple(numbers.values()))


def _find(cluster: Cluster, dtype: str, factors: Mapping[str, float], faults: Faults) -> dict[str, HardwareNumber]:
    """Find what each name means, and record what is wrong with names and factors."""
    if not factors:
        faults.add("factors", {}, "must name at least one number of the hardware", "such as hbm_bandwidth=2.0")
    found: dict[str, HardwareNumber] = {}
    taken: dict[Field, str] = {}
    for name, factor in factors.items():
        faults.number(name, factor)
        number = find_number(cluster, dtype, name, faults, factor)
        if number is None:
            continue
        found[name] = number
        other = next((taken[field] for field in number.fields if field in taken), None)
        if other is not None:
            faults.add(name, factor, f"changes what {other} changes too", "leave one out")
        taken |= dict.fromkeys(number.fields, name)
    return found


@dataclass(frozen=True, eq=False)
class WhatIf:
    """A scenario before and after its hardware changed.

    Attributes
    ----------
    before, after : Result
    factors : dict of str to float
        By the names that were given.
    numbers : tuple of HardwareNumber
        What they mean, in the same order.
    """

    before: Result
    after: Result
    factors: dict[str, float]
    numbers: tuple[HardwareNumber, ...]

    @property
    def speedup(self) -> float:
        """Makespan before over makespan after."""
        return self.before.makespan_s / self.after.makespan_s

    @property
    def change_percent(self) -> float:
        """Change of the makespan in percent; below 0 where it became shorter."""
        return 100 * (self.after.makespan_s / self.before.makespan_s - 1)

    @cached_property
    def comparison(self) -> Comparison:
        """Both results, with their tables, pictures and findings."""
        return Comparison({BEFORE: self.before, AFTER: self.after}, baseline=BEFORE)

    @property
    def table(self) -> pd.DataFrame:
        """The main figures, ``before`` and ``after``; see `Comparison.table`."""
        return self.comparison.table

    @cached_property
    def composition(self) -> pd.DataFrame:
        """What the critical path is made of, in seconds: ``before``, ``after`` and ``change_s``."""
        import pandas as pd

        found = {name: result.critical_path_composition for name, result in self.comparison.results.items()}
        return pd.DataFrame(found).assign(change_s=found[AFTER] - found[BEFORE])

    @property
    def text(self) -> str:
        """What changes, and what follows, in one sentence."""
        old, new = self.before.makespan_s, self.after.makespan_s
        if abs(new / old - 1) < _ALIKE:
            return f"With {self._changes()} the makespan stays {format_seconds(old)}."
        return (
            f"With {self._changes()} the makespan goes from {format_seconds(old)} to {format_seconds(new)} "
            f"({self.change_percent:+.1f} %)."
        )

    @property
    def findings(self) -> tuple[str, ...]:
        """What follows, in plain words."""
        return (self.text, *self._shifts(), self._bottleneck(), *self._memory())

    def _changes(self) -> str:
        """What is changed, with the values before and after."""
        words = []
        for number, factor in zip(self.numbers, self.factors.values(), strict=True):
            cluster, changed = self.before.scenario.cluster, self.after.scenario.cluster
            values = f" ({number.text(cluster)} to {number.text(changed)})" if number.shown else ""
            words.append(f"{number.title} x {factor:g}{values}")
        return " and ".join([*([", ".join(words[:-1])] if len(words) > 1 else []), words[-1]])

    def _shifts(self) -> list[str]:
        """Parts of the critical path that changed by more than a hundredth of the makespan."""
        parts = self.composition
        moved = parts[parts["change_s"].abs() >= _SHIFT * self.before.makespan_s].sort_values("change_s", key=abs)
        words = [
            f"{name} from {format_seconds(row[BEFORE])} to {format_seconds(row[AFTER])}"
            for name, row in moved.iloc[::-1].iterrows()
        ]
        return [f"On the critical path: {', '.join(words)}."] if words else []

    def _bottleneck(self) -> str:
        """The largest part of the critical path, before and after."""
        before, after = (
            (parts.idxmax(), parts.max() / parts.sum()) for parts in (self.composition[BEFORE], self.composition[AFTER])
        )
        largest = "The largest part of the critical path"
        if before[0] == after[0]:
            return f"{largest} stays {_named(before[0])}, with {before[1]:.0%} before and {after[1]:.0%} after."
        return f"{largest} was {_named(before[0])} ({before[1]:.0%}) and becomes {_named(after[0])} ({after[1]:.0%})."

    def _memory(self) -> list[str]:
        """Whether what fits has changed."""
        if self.before.fits == self.after.fits:
            return []
        peak, capacity = self.after.memory["peak_bytes"].max(), self.after.memory["capacity_bytes"].min()
        verdict = "now fits" if self.after.fits else "no longer fits"
        return [f"The plan {verdict}: {format_bytes(peak)} of {format_bytes(capacity)} a GPU."]

    def __str__(self) -> str:
        return "\n".join(self.findings)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html.card(self.text, html.notes(self.findings[1:]), html.frame(self.comparison.readable.T))


def _named(part: object) -> str:
    return "the bubble" if part == BUBBLE else str(part)
