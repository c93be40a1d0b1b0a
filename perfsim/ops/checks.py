"""The five claims that a deployment's graph makes, and the report that says which of them hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfsim import html

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BALANCE_TOLERANCE", "CLAIMS", "FAILS", "HOLDS", "OPEN", "Check", "VerificationReport", "check_of"]

BALANCE_TOLERANCE = 0.01
"""How far the busiest device's FLOP may lie above the mean."""

CLAIMS = {
    "acyclic": "No cycles in the DAG",
    "connected": "All nodes properly connected",
    "dimensions": "Input/output dimensions preserved",
    "balance": "GPU load balancing achieved",
    "structure": "Complete model structure maintained",
}

_SHOWN = 12
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
_MARKS = {HOLDS: "pass", FAILS: "FAIL", OPEN: " ?? "}


@dataclass(frozen=True)
class Check:
    """One claim.

    Attributes
    ----------
    name : str
        ``acyclic``, ``connected``, ``dimensions``, ``balance`` or ``structure``.
    claim : str
        In words.
    passed : bool
        Whether it is shown to hold; `verdict` tells what does not hold from what cannot be told.
    evidence : str
        What was counted.
    faults : tuple of str
        What contradicts the claim, each naming its operator; empty where nothing does.
    gaps : tuple of str
        What keeps it from being told, likewise; empty for a graph that says everything.
    """

    name: str
    claim: str
    passed: bool
    evidence: str
    faults: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """``holds``, ``does not hold``, or ``cannot be told``."""
        return HOLDS if self.passed else OPEN if self.gaps and not self.faults else FAILS

    def __str__(self) -> str:
        lines = [f"[{_MARKS[self.verdict]}] {self.claim}: {self.evidence}"]
        for mark, texts in (("-", self.faults), ("?", self.gaps)):
            lines += [f"       {mark} {text}" for text in texts[:_SHOWN]]
            if len(texts) > _SHOWN:
                lines.append(f"       {mark} and {len(texts) - _SHOWN} more")
        return "\n".join(lines)


def check_of(name: str, evidence: str, faults: Sequence[str], gaps: Sequence[str] = ()) -> Check:
    """Make a check, which holds where there are neither faults nor gaps."""
    return Check(name, CLAIMS[name], not faults and not gaps, evidence, tuple(faults), tuple(gaps))


@dataclass(frozen=True, repr=False)
class VerificationReport:
    """The five checks of a graph; prints itself.

    Attributes
    ----------
    checks : tuple of Check
    """

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    @property
    def title(self) -> str:
        """How many checks hold, in one line."""
        verdicts = [check.verdict for check in self.checks]
        unknown = f", {verdicts.count(OPEN)} cannot be told" if OPEN in verdicts else ""
        return f"Verification: {verdicts.count(HOLDS)} of {len(verdicts)} checks hold{unknown}"

    def __str__(self) -> str:
        return "\n".join([self.title, *map(str, self.checks)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [
            (
                html.verdict(None if check.verdict == OPEN else check.passed, check.verdict),
                check.claim,
                html.stack(check.evidence, html.fold("faults", check.faults), html.fold("not told", check.gaps)),
            )
            for check in self.checks
        ]
        return html.card(self.title, html.table(("", "Claim", "Evidence"), rows))

    def to_frame(self) -> pd.DataFrame:
        """Give the checks as a table, one row each."""
        import pandas as pd

        rows = [{**vars(check), "verdict": check.verdict} for check in self.checks]
        return pd.DataFrame(rows).set_index("name")
