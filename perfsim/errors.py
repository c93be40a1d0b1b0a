"""The errors that perfsim raises, and the collector that reports all faults of an input at once."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

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
    """Tasks wait for each other for ever.

    Attributes
    ----------
    blocked : tuple of str
        Names of tasks that cannot start; not necessarily all.
    total : int
        How many tasks can never start.
    """

    def __init__(self, blocked: Iterable[str], total: int) -> None:
        self.blocked = tuple(blocked)
        self.total = total
        super().__init__(self.blocked, total)  # what the error is made from again after a pickle

    def __str__(self) -> str:
        shown = self.blocked[:8]
        rest = self.total - len(shown)
        more = f"; and {rest} more" if rest else ""
        return f"deadlock: {self.total} tasks can never start: {'; '.join(shown)}{more}"


_LOADED = ("Cluster", "Model", "Scenario")
"""Types that have names, for which people give the name in their place."""


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

    def inside(self, field: str) -> Faults:
        """Make a collector for what stands inside `field`; it records into this one."""
        return Faults.nested(self, self._path(field))

    def add(self, field: str, value: object, allowed: str, way_out: str = "") -> None:
        """Record that `field` has an unusable `value`; the field ``""`` is the prefix itself."""
        self.found.append(Fault(self._path(field), value, allowed, way_out))

    def take(self, error: InputError) -> None:
        """Record the faults of another input error as they stand."""
        self.found.extend(error.faults)

    def adopt(self, error: InputError) -> None:
        """Record the faults of a part under this collector's prefix.

        A part does not know where it stands and calls itself by one word, such as ``tiers``, which the prefix
        replaces. What already has a fault, at itself or inside, gets no second one: the part only saw a gap there.
        """
        known = [f"{fault.field}." for fault in self.found]
        for fault in error.faults:
            path = self._path(fault.field.partition(".")[2])
            if not any(field.startswith(f"{path}.") for field in known):
                self.found.append(dataclasses.replace(fault, field=path))

    def _path(self, field: str) -> str:
        return f"{self.prefix}.{field}" if self.prefix and field else self.prefix or field

    def raise_if_any(self) -> None:
        """Raise `InputError` when anything was recorded."""
        if self.found:
            raise InputError(self.found)

    def integer(
        self, field: str, value: object, *, minimum: int = 1, maximum: int | None = None, way_out: str = ""
    ) -> bool:
        """Check for a whole number from `minimum` to `maximum`, if there is one; True when it is one."""
        good = isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= minimum
        if not good or (maximum is not None and int(value) > maximum):  # type: ignore[call-overload]
            upper = "" if maximum is None else f" and at most {maximum:,}"
            self.add(field, value, f"must be a whole number of at least {minimum}{upper}", way_out)
            return False
        return True

    def number(self, field: str, value: object, *, above: float = 0.0, at_most: float = math.inf) -> bool:
        """Check for a finite number in ``(above, at_most]``; True when it is one."""
        limit = min(at_most, sys.float_info.max)  # float() and isfinite() raise where an integer is larger
        good = (
            isinstance(value, numbers.Real)
            and not isinstance(value, bool)
            and bool(value <= limit)
            and not value <= above
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
        """Check for a text that is not blank; True when it is one."""
        good = isinstance(value, str) and value.strip() != ""
        if not good:
            self.add(field, value, "must be a text that is not blank")
        return good

    def instance(self, field: str, value: object, kind: type) -> bool:
        """Check for an instance of `kind`; True when it is one."""
        if not isinstance(value, kind):
            name = kind.__name__
            loader = f"load it with perfsim.load_{name.lower()}" if name in _LOADED and isinstance(value, str) else ""
            self.add(field, value, f"must be of type {name}", loader)
        return isinstance(value, kind)

    def choice(self, field: str, value: object, allowed: Collection[str]) -> bool:
        """Check for one of `allowed`; True when it is one."""
        good = isinstance(value, str) and value in allowed
        if not good:
            self.add(field, value, f"must be one of {', '.join(sorted(allowed))}", did_you_mean(value, allowed))
        return good

    def quantities(self, field: str, values: object, *, zero: bool = False) -> bool:
        """Check for finite numbers above 0 (or also 0), alone or in an array of any shape; True when they all are."""
        allowed = f"must be a finite number {'of at least 0' if zero else 'above 0'}"
        try:
            array = np.asarray(values)
        except ValueError:  # nested lists of different lengths
            array = np.empty((), dtype=object)
        if array.dtype.kind not in "iuf":
            self.add(field, values, f"{allowed}, or an array of such numbers")
            return False
        wrong = ~((array >= 0 if zero else array > 0) & (array < math.inf))  # NaN compares as false
        if wrong.any():
            index = np.argwhere(wrong)[0].tolist()
            self.add(field, array[tuple(index)].item(), allowed, f"mend the entry at {index}" if index else "")
        return not wrong.any()


def did_you_mean(value: object, allowed: Iterable[str]) -> str:
    """Suggest the nearest legal spelling, or nothing.

    Examples
    --------
    >>> did_you_mean("microbatch", ["tensor", "microbatch_size"])
    "did you mean 'microbatch_size'?"
    """
    near = difflib.get_close_matches(str(value), list(allowed), n=1)
    return f"did you mean {near[0]!r}?" if near else ""
