"""From tables (TOML, JSON) to frozen dataclasses: unknown and missing keys are faults, each named with its path."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from perfsim.errors import Faults, InputError, did_you_mean

__all__ = ["FrozenDict", "build", "check_keys", "read_json", "read_toml"]

T = TypeVar("T")


class FrozenDict(dict[str, Any]):
    """A dictionary that cannot change, so that a frozen dataclass may hold one and still be hashed and pickled.

    Examples
    --------
    >>> rates = FrozenDict(bf16=989.4e12)
    >>> rates["fp8"] = 1.0
    Traceback (most recent call last):
    ...
    TypeError: this mapping is frozen; make a changed copy with dataclasses.replace
    """

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        message = "this mapping is frozen; make a changed copy with dataclasses.replace"
        raise TypeError(message)

    __setitem__ = __delitem__ = update = setdefault = pop = popitem = clear = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a missing or broken one is an `InputError` that names it."""
    return _read(path, tomllib.loads, tomllib.TOMLDecodeError, "TOML")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object; a missing or broken one is an `InputError` that names it."""
    return _read(path, json.loads, json.JSONDecodeError, "JSON")


def _read(path: Path, parse: Callable[[str], Any], broken: type[Exception], kind: str) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError.of("path", str(path), f"cannot be read ({reason})", "give the path of a file") from error
    except broken as error:
        raise InputError.of("path", str(path), f"is not {kind} ({error})", "mend the file at that place") from error
    if not isinstance(content, dict):
        raise InputError.of("path", str(path), f"must hold one {kind} object, not a list or a single value")
    return content


def check_keys(table: Mapping[str, Any], required: Iterable[str], optional: Iterable[str], faults: Faults) -> bool:
    """Record every unknown and every missing key of `table`; True when there is none."""
    required, optional = list(required), list(optional)
    allowed = [*required, *optional]
    unknown = [key for key in table if key not in allowed]
    missing = [key for key in required if key not in table]
    for key in unknown:
        way_out = did_you_mean(key, allowed) or f"the keys are {', '.join(allowed)}"
        faults.add(key, table[key], "is not a known key", way_out)
    for key in missing:
        faults.add(key, None, "is missing", "add it")
    return not unknown and not missing


def build(kind: type[T], table: object, faults: Faults) -> T | None:
    """Make a dataclass from a table with the names of its fields; None, with faults recorded, where that fails."""
    if not isinstance(table, Mapping):
        faults.add("", table, "must be a table of keys and values")
        return None
    fields = [field for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    required = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    optional = [f.name for f in fields if f.name not in required]
    known = check_keys(table, required, optional, faults)
    arguments = {f.name: table[f.name] for f in fields if f.name in table}
    if not all(name in table for name in required):
        return None
    try:
        value = kind(**arguments)
    except InputError as error:
        faults.take(error)
        return None
    return value if known else None
