"""The errors that perfsim raises, and the collector that reports all faults of an input at once."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Collection, Iterable
from dataclasses import dataclass

__all__ = [
    "DeadlockError",
    "Fault",
    "Faults",
    "InputError",
    "PerfsimError",
    "SimulationError",
]


class PerfsimError(Exception):
    """Root of every error that perfsim raises on purpose."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with an input.

    Attributes
    ----------
    field : str
        Dotted name of the field at fault, such as ``plan.tensor``.
    value : object
        What was given there.
    allowed : str
        What would have been accepted.
    way_out : str
        What the user can do about it; may be empty.
    """

    field: str
    value: object
    allowed: str
    way_out: str = ""

    def __str__(self) -> str:
        tail = f"; {self.way_out}" if self.way_out else ""
        return f"{self.field} = {self.value!r}: {self.allowed}{tail}"


class InputError(PerfsimError, ValueError):
    """An input is unusable; `faults` lists everything that is wrong with it.

    Attributes
    ----------
    faults : tuple of Fault
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(self.faults)

    @classmethod
    def of(cls, field: str, value: object, allowed: str, way_out: str = "") -> InputError:
        """Make the error of a single fault."""
        return cls([Fault(field, value, allowed, way_out)])

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return str(self.faults[0])
        return "\n".join([f"{len(self.faults)} faults:", *(f"  {fault}" for fault in self.faults)])


class SimulationError(PerfsimError, RuntimeError):
    """A simulation cannot be carried out."""


class DeadlockError(SimulationError):
    """Tasks wait for each other for ever; `blocked` names those that could not start.

    Attributes
    ----------
    blocked : tuple of str
    """

    def __init__(self, blocked: Iterable[str], total: int) -> None:
        self.blocked = tuple(blocked)
        shown = "; ".join(self.blocked[:8])
        more = f"; and {total - 8} more" if total > len(self.blocked[:8]) else ""
        super().__init__(f"deadlock: {total} tasks can never start: {shown}{more}")


class Faults:
    """Collects faults of one input, so that all are reported together.

    Parameters
    ----------
    prefix : str
        Put before every field name, such as ``plan``.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.found: list[Fault] = []

    @classmethod
    def nested(cls, parent: Faults, prefix: str) -> Faults:
        """Make a collector with another prefix that records into `parent`."""
        child = cls(prefix)
        child.found = parent.found
        return child

    def add(self, field: str, value: object, allowed: str, way_out: str = "") -> None:
        """Record that `field` has an unusable `value`."""
        self.found.append(Fault(f"{self.prefix}.{field}" if self.prefix else field, value, allowed, way_out))

    def take(self, error: InputError) -> None:
        """Record the faults of another input error as they stand."""
        self.found.extend(error.faults)

    def raise_if_any(self) -> None:
        """Raise `InputError` when anything was recorded."""
        if self.found:
            raise InputError(self.found)

    def integer(self, field: str, value: object, *, minimum: int = 1, way_out: str = "") -> bool:
        """Check for a whole number of at least `minimum`; True when it is one."""
        good = isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= minimum
        if not good:
            self.add(field, value, f"must be a whole number of at least {minimum}", way_out)
        return good

    def number(self, field: str, value: object, *, above: float = 0.0, at_most: float = math.inf) -> bool:
        """Check for a finite number in ``(above, at_most]``; True when it is one."""
        good = (
            isinstance(value, numbers.Real)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and above < float(value) <= at_most
        )
        if not good:
            upper = "" if at_most == math.inf else f" and at most {at_most:g}"
            self.add(field, value, f"must be a finite number above {above:g}{upper}")
        return good

    def flag(self, field: str, value: object) -> bool:
        """Check for a boolean; True when it is one."""
        if not isinstance(value, bool):
            self.add(field, value, "must be true or false")
        return isinstance(value, bool)

    def text(self, field: str, value: object) -> bool:
        """Check for a text that is not empty; True when it is one."""
        good = isinstance(value, str) and value != ""
        if not good:
            self.add(field, value, "must be a text that is not empty")
        return good

    def instance(self, field: str, value: object, kind: type) -> bool:
        """Check for an instance of `kind`; True when it is one."""
        if not isinstance(value, kind):
            self.add(field, value, f"must be a {kind.__name__}")
        return isinstance(value, kind)

    def choice(self, field: str, value: object, allowed: Collection[str]) -> bool:
        """Check for one of `allowed`; True when it is one."""
        good = isinstance(value, str) and value in allowed
        if not good:
            self.add(field, value, f"must be one of {', '.join(sorted(allowed))}", did_you_mean(value, allowed))
        return good


def did_you_mean(value: object, allowed: Iterable[str]) -> str:
    """Suggest the nearest legal spelling, or nothing.

    Examples
    --------
    >>> did_you_mean("microbatch", ["tensor", "microbatch_size"])
    "did you mean 'microbatch_size'?"
    """
    near = difflib.get_close_matches(str(value), list(allowed), n=1)
    return f"did you mean {near[0]!r}?" if near else ""
