"""What a search for the largest load found: the load, what was tried, and what binds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfsim import html
from perfsim.errors import Fault, InputError
from perfsim.serving.results import ServeResult
from perfsim.units import format_seconds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["MaxLoad", "UnmetError", "load_text"]

_SHOWN = ["ttft_s", "tpot_s", "latency_s", "tokens_per_s", "goodput_share", "drains", "meets"]

_COLD_START = (
    "This is the load of a cold start: the first prompts of all clients wait for each other; give the traffic ramp_s, "
    "and more requests for each client"
)


class UnmetError(InputError):
    """Nothing meets a service level.

    Attributes
    ----------
    table : DataFrame
        The loads that were tried; see `perfsim.MaxLoad`.
    """

    def __init__(self, faults: tuple[Fault, ...], table: pd.DataFrame) -> None:
        super().__init__(faults)
        self.table = table
        self.args = (self.faults, table)  # what the error is made from again after a pickle


@dataclass(frozen=True, eq=False, repr=False)
class MaxLoad:
    """The largest load that meets a service level.

    Attributes
    ----------
    name : str
        What was varied: ``concurrency`` or ``requests_per_s``.
    load : int or float
    result : ServeResult
        The service under this load.
    objectives : dict of str to float
        Limits of ``ttft_s``, ``tpot_s`` and ``latency_s``.
    share : float
        Of the requests that must meet all objectives.
    table : DataFrame
        One row a load that was tried, by rising load: the load, the columns of a sweep of serving, and ``meets``.
    next_load : int or float or None
        The smallest load above that was tried; it does not meet the service level. None where none was: even the
        largest load that was allowed meets it.
    binding : str
        What the next load misses: the objective that the fewest requests meet, or ``drains`` where requests come faster
        than they are served; empty where there is no next load.
    """

    name: str
    load: float
    result: ServeResult
    objectives: Mapping[str, float]
    share: float
    table: pd.DataFrame
    next_load: float | None
    binding: str

    @property
    def is_bounded(self) -> bool:
        """Whether a larger load was found that does not meet the service level."""
        return self.next_load is not None

    @property
    def is_of_cold_start(self) -> bool:
        """Whether TTFT binds a closed loop whose clients all begin at once, so that their first prompts queue up."""
        at_once = self.name == "concurrency" and not self.result.sent.arrival_s.any()
        return at_once and self.binding == "ttft_s"

    def plot(self, latency: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw throughput against latency for the loads that were tried; markers of those that miss are open.

        Parameters
        ----------
        latency : str, optional
            A column of the table; the 99th percentile of the binding objective when left out.
        ax : Axes, optional

        Returns
        -------
        Axes
        """
        from perfsim.study.plot_load import plot_load

        objective = self.binding if self.binding in self.objectives else next(iter(self.objectives))
        latency = latency or f"{objective.removesuffix('_s')}_p99_s"
        limit_s = self.objectives.get(f"{latency.partition('_')[0]}_s")
        return plot_load(self.table, self.name, latency, load=self.load, limit_s=limit_s, ax=ax)

    def __str__(self) -> str:
        limits = ", ".join(f"{name} <= {format_seconds(limit)}" for name, limit in self.objectives.items())
        first = f"{load_text(self.name, self.load)} meets {limits} for {self.share:.4g} of the requests"
        if self.next_load is None:
            bound = "no larger load was allowed, so the service level sets no limit up to there"
        else:
            bound = f"{load_text(self.name, self.next_load)} does not, because of {_words(self.binding)}"
        lines = [f"{first}; {bound}; {len(self.table)} loads tried", str(self.result).splitlines()[1]]
        return "\n".join([*lines, *self._notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        title, figures, *notes = str(self).splitlines()
        return html.card(title, figures, html.frame(self.table.set_index(self.name)[_SHOWN]), html.notes(notes))

    @property
    def _notes(self) -> list[str]:
        return [_COLD_START] if self.is_of_cold_start else []


def load_text(name: str, load: float) -> str:
    """Write a load with what it is.

    Examples
    --------
    >>> load_text("concurrency", 64), load_text("requests_per_s", 2.5)
    ('a concurrency of 64', 'a rate of 2.5 requests/s')
    """
    return f"a concurrency of {load:,}" if name == "concurrency" else f"a rate of {load:.4g} requests/s"


def _words(binding: str) -> str:
    return "the queue, which grows without end" if binding == "drains" else binding
