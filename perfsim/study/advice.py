"""What an adviser says: a verdict, and options with what each costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from perfsim.spec.scenario import Scenario
from perfsim.study.changes import Change
from perfsim.study.figures import Figures
from perfsim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Advice", "Option"]


@dataclass(frozen=True)
class Option:
    """A change, simulated.

    Attributes
    ----------
    change : Change
    old : Scenario
        What was changed.
    before, after : Figures
        Time and memory of the old and of the changed scenario.
    """

    change: Change = field(repr=False)
    old: Scenario = field(repr=False)
    before: Figures
    after: Figures

    @property
    def scenario(self) -> Scenario:
        """The changed scenario."""
        return self.change.scenario

    @property
    def changes(self) -> dict[str, Any]:
        """What `perfsim.Scenario.with_` takes to make it."""
        return self.change.changes

    @property
    def reason(self) -> str:
        """Why it helps, and what it asks for."""
        return self.change.reason

    @property
    def extra_s(self) -> float:
        """Seconds that the tokens of the old scenario take longer; of a smaller batch, in several runs."""
        tokens = self.old.workload.tokens / self.scenario.workload.tokens
        return self.after.makespan_s * tokens - self.before.makespan_s

    @property
    def extra_percent(self) -> float:
        """The same as a share of the old makespan."""
        return 100 * self.extra_s / self.before.makespan_s

    @property
    def cost_percent(self) -> float:
        """How many more device-seconds a token takes: the measure of cheap."""
        devices = self.scenario.plan.num_devices / self.old.plan.num_devices
        return (100 + self.extra_percent) * devices - 100

    @property
    def row(self) -> dict[str, Any]:
        """What stands in the table of an explanation."""
        kind = " and ".join(self.change.kinds)
        after_s, percent = self.after.makespan_s, self.extra_percent
        return {"change": str(self), "kind": kind, "makespan_s": after_s, "change_percent": percent}

    def __str__(self) -> str:
        return ", ".join(
            f"{name}={list(value) if isinstance(value, tuple) else value}" for name, value in self.changes.items()
        )

    def describe(self) -> str:
        """Say the change, its cost and its reason in one line."""
        devices, old = self.scenario.plan.num_devices, self.old.plan.num_devices
        more = "" if devices == old else f", {self.cost_percent:+.1f} % device-seconds on {devices} devices"
        return (
            f"{self}: {'+' if self.extra_s >= 0 else '-'}{format_seconds(abs(self.extra_s))} "
            f"({self.extra_percent:+.1f} %){more}, {format_bytes(self.after.peak_bytes)} instead of "
            f"{format_bytes(self.before.peak_bytes)}; {self.reason}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Advice:
    """What can be done about a scenario. Iterate over it for its options.

    Attributes
    ----------
    scenario : Scenario
    before : Figures
        Its time and memory.
    verdict : str
        Whether it fits, in plain words.
    options : tuple of Option
        The cheapest first. Where the scenario does not fit, changes with which it does; where it fits, changes with
        which it is faster.
    """

    scenario: Scenario
    before: Figures
    verdict: str
    options: tuple[Option, ...]

    @property
    def fits(self) -> bool:
        """Whether the scenario fits as it is."""
        return self.before.fits

    @property
    def headroom_bytes(self) -> int:
        """Bytes that are left on the fullest device; below 0 where they do not suffice."""
        return self.before.capacity_bytes - self.before.peak_bytes

    def __iter__(self) -> Iterator[Option]:
        return iter(self.options)

    def __len__(self) -> int:
        return len(self.options)

    @property
    def table(self) -> pd.DataFrame:
        """One row an option.

        Columns: ``kind`` of change; ``makespan_s``; ``extra_s`` and ``extra_percent``, how much longer the same tokens
        take; ``devices``; ``cost_percent``, how many more device-seconds a token takes; ``peak_before_bytes``,
        ``peak_bytes`` and ``capacity_bytes`` of the fullest device; ``reason``.
        """
        import pandas as pd

        rows = {
            str(option): {
                "kind": " and ".join(option.change.kinds),
                "makespan_s": option.after.makespan_s,
                "extra_s": option.extra_s,
                "extra_percent": option.extra_percent,
                "devices": option.scenario.plan.num_devices,
                "cost_percent": option.cost_percent,
                "peak_before_bytes": option.before.peak_bytes,
                "peak_bytes": option.after.peak_bytes,
                "capacity_bytes": option.after.capacity_bytes,
                "reason": option.reason,
            }
            for option in self.options
        }
        columns = list(next(iter(rows.values()), {}))
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns or None).rename_axis("change")

    def __str__(self) -> str:
        return "\n".join([self.verdict, *(f"  {option.describe()}" for option in self.options)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(self.verdict)}</p>{self.table.to_html(float_format='{:.4g}'.format)}"
