"""From tables (TOML, JSON) to frozen dataclasses: every fault is named with its path, and all come together."""

from __future__ import annotations

import dataclasses
import functools
import json
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from perfsim.errors import Faults, InputError, did_you_mean

__all__ = [
    "FrozenDict",
    "build",
    "check_keys",
    "find_file",
    "freeze",
    "freeze_fields",
    "preset_names",
    "read_json",
    "read_toml",
]

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

    _hash: int | None = None
    _is_deep = False
    """Whether `freeze` has made it, so that nothing inside can change either and copies may share it."""

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        message = "this mapping is frozen; make a changed copy with dataclasses.replace"
        raise TypeError(message)

    __setitem__ = __delitem__ = update = setdefault = pop = popitem = clear = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        # Tables of coefficients are large, and are looked up by their hash at every price.
        if self._hash is None:
            self._hash = hash(frozenset(self.items()))
        return self._hash

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)


def freeze(value: Any) -> Any:
    """Turn lists and arrays into tuples, mappings into `FrozenDict` and NumPy's scalars into Python's, at every depth.

    A frozen dataclass can then be hashed and written as JSON, and products of its sizes cannot overflow.

    Examples
    --------
    >>> import numpy as np
    >>> freeze([np.int8(100), np.array([3, 5])])
    (100, (3, 5))
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, FrozenDict) and value._is_deep:  # noqa: SLF001
        return value
    if isinstance(value, Mapping):
        frozen = FrozenDict({key: freeze(item) for key, item in value.items()})
        frozen._is_deep = True  # noqa: SLF001
        return frozen
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(freeze(item) for item in value)
    return value


def freeze_fields(value: Any) -> None:
    """Freeze what a frozen dataclass was given, in its ``__post_init__``: before checks that calculate with sizes."""
    for field in dataclasses.fields(value):
        object.__setattr__(value, field.name, freeze(getattr(value, field.name)))


def preset_names(folder: Path, suffix: str) -> tuple[str, ...]:
    """Names of the files in a folder that end in `suffix`, without it, sorted."""
    return tuple(sorted(path.stem for path in folder.glob(f"*{suffix}")))


def find_file(field: str, name: object, folder: Path, suffix: str) -> Path:
    """Find what a name means: a path that ends in `suffix`, or the name of a preset in `folder`.

    Raises
    ------
    InputError
        It is neither; the fault is that of `field`, lists the presets and suggests the nearest.
    """
    if isinstance(name, str | Path):
        path, preset = Path(name), folder / f"{name}{suffix}"
        if path.suffix == suffix:
            return path
        if preset.is_file():
            return preset
    known = preset_names(folder, suffix)
    raise InputError.of(
        field, str(name) if isinstance(name, Path) else name, f"must be one of {', '.join(known)}, or a path",
        did_you_mean(name, known) or f"give the path of a {suffix} file",
    )  # fmt: skip


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
    """Make a dataclass, and the dataclasses inside it, from a table with the names of its fields.

    Returns
    -------
    T or None
        None, with all faults of the table recorded, where there is any: a missing field hides no wrong one.
    """
    if not isinstance(table, Mapping):
        faults.add("", table, "must be a table of keys and values")
        return None
    own = Faults(faults.prefix)
    fields = [field for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    required = [f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    check_keys(table, required, [f.name for f in fields if f.name not in required], own)
    types = _field_types(kind)  # type: ignore[arg-type]
    arguments = dict.fromkeys(required) | {
        f.name: _build_inside(types[f.name], table[f.name], own.inside(f.name)) for f in fields if f.name in table
    }
    value = None
    try:
        value = kind(**arguments)
    except InputError as error:
        own.adopt(error)
    faults.found += own.found
    return None if own.found else value


def _build_inside(kind: Any, value: Any, faults: Faults) -> Any:
    """Build the table of one dataclass, or a list of such tables; the constructor judges what is no table."""
    if isinstance(kind, types.UnionType) and value is not None:  # a dataclass, or None
        kind = next((part for part in typing.get_args(kind) if dataclasses.is_dataclass(part)), kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return build(kind, value, faults)  # type: ignore[arg-type]
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        item_kind = typing.get_args(kind)[0]
        return type(value)(_build_inside(item_kind, item, faults.inside(str(i))) for i, item in enumerate(value))
    return value


@functools.cache
def _field_types(kind: type) -> dict[str, Any]:
    """Types of a dataclass's fields; resolving them is slow."""
    return typing.get_type_hints(kind)
