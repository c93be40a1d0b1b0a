"""What an explanation is: findings in plain sentences with the numbers that they name, by topic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perfsim import html
from perfsim.spec.tables import FrozenDict
from perfsim.study.advice import Option
from perfsim.study.serving_changes import ServingOption

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TOPICS", "Explanation", "Finding"]

TOPICS = {
    "comparison": "How the plans compare",
    "bound": "What bounds it",
    "lost": "Where time is lost",
    "memory": "What fits",
    "provenance": "Where the times come from",
    "claims": "What it may claim",
    "change": "What would help most",
}
"""What findings are about, and the words above them, in the order in which they are read."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes
    ----------
    topic : str
        One of ``TOPICS``.
    text : str
        A sentence or a few.
    numbers : mapping of str to float
        The numbers in it that others may want, their units in the names; shares are of 1.
    """

    topic: str
    text: str
    numbers: Mapping[str, float] = field(default_factory=FrozenDict)

    def __post_init__(self) -> None:
        numbers = FrozenDict({name: float(value) for name, value in self.numbers.items()})
        object.__setattr__(self, "numbers", numbers)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Findings about a result, a comparison or a served load. It prints itself, and shows itself in a notebook.

    Attributes
    ----------
    title : str
        What is explained.
    findings : tuple of Finding
    options : tuple of Option or ServingOption
        The single changes that were simulated and fit in memory, the fastest first; none for a comparison.
    plans : dict of str to Explanation
        Of a comparison the explanation of each plan.

    Examples
    --------
    >>> import perfsim
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=8))
    >>> explanation = perfsim.explain(result)
    >>> print(explanation.about("bound")[0])
    Compute bounds the plan: ...
    >>> explanation.about("bound")[0].numbers["compute_share"] > 0.4
    True
    """

    title: str
    findings: tuple[Finding, ...]
    options: tuple[Option, ...] | tuple[ServingOption, ...] = ()
    plans: Mapping[str, Explanation] = field(default_factory=FrozenDict)

    def about(self, topic: str) -> tuple[Finding, ...]:
        """Give the findings of one topic."""
        return tuple(finding for finding in self.findings if finding.topic == topic)

    @property
    def table(self) -> pd.DataFrame:
        """One row a single change, the fastest first: ``change``, ``kind``, ``makespan_s``, ``change_percent``.

        Changes of a service have ``latency_s``, the mean of its requests, ``ttft_s``, ``tpot_s``, ``tokens_per_s`` and
        ``gpus`` instead of the makespan.
        """
        import pandas as pd

        rows = [option.row for option in self.options]
        return pd.DataFrame(rows, columns=None if rows else ["change", "kind", "makespan_s", "change_percent"])

    def __str__(self) -> str:
        lines = [self.title]
        for topic, words in TOPICS.items():
            found = self.about(topic)
            lines += [words, *(f"  {finding}" for finding in found)] if found else []
        for name, explanation in self.plans.items():
            lines += ["", f"{name}: {explanation}"]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._card()

    def _card(self) -> html.Markup:
        topics = ((words, html.notes(map(str, self.about(topic)))) for topic, words in TOPICS.items())
        table = html.table((), ((words, notes) for words, notes in topics if notes))
        return html.card(self.title, table, *(explanation._card() for explanation in self.plans.values()))  # noqa: SLF001
