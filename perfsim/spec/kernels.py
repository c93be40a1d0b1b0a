"""Kernel libraries: the files of fitted coefficients that a hardware profile names, and what a cluster takes of them.

The formats have their page in ``docs/hardware-profiles.md``. What the numbers of a table mean belongs to the cost
forms; here they are only found, and marked ``calibrated`` or ``extrapolated``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from perfsim.errors import Faults, InputError, did_you_mean
from perfsim.spec.tables import FrozenDict, check_keys, find_file, read_toml

__all__ = ["library_coefficients"]

FORMAT = 1
CALIBRATED, EXTRAPOLATED = "calibrated", "extrapolated"

_ABOUT = ("format", "library", "architecture", "system", "data", "note")
"""Keys of a coefficient file beside its operators."""
_NESTED = {
    "matmul": 1, "grouped_matmul": 1, "prefill": 1, "decode": 1, "latent_prefill": 1, "latent_decode": 1,
    "custom_all_reduce": 1, "expert_all_to_all": 2,
}  # fmt: skip
"""Operators with a table for every data type, serving library, or kernel and direction: how deep their tables lie."""
_ATTENTION = ("prefill", "decode", "latent_prefill", "latent_decode")

Tables = dict[str, dict[str, Any]]


def library_coefficients(
    kernels: Mapping[str, Any], library: str | None, shipped: Path, folder: Path, faults: Faults
) -> tuple[str, Tables]:
    """Read what the ``[kernels]`` table of a profile names.

    A library lacks some operators or data types. Those are taken from the profile's other libraries, in their order,
    and marked ``extrapolated``: another library's kernel on the same device is nearer than a fraction of the datasheet.

    Parameters
    ----------
    kernels : mapping
        ``default``, ``libraries`` (names and files), and optionally ``system``, ``collectives``, ``memory_bound`` and
        ``wide_heads``.
    library : str or None
        The library that is asked for; None for the default one.
    shipped, folder : Path
        Folders of the shipped coefficient files, and of the profile, to which paths are relative.
    faults : Faults
        Collects what is wrong with the table and the files.

    Returns
    -------
    name : str
    tables : dict
        Operator keys, such as ``matmul.bf16``, and their tables with ``source``.
    """
    optional = ("system", "collectives", "memory_bound", "wide_heads")
    if not check_keys(kernels, ("default", "libraries"), optional, faults) or not _check(kernels, faults):
        return "", {}
    libraries: Mapping[str, str] = kernels["libraries"]
    name = kernels["default"] if library is None else library
    if not isinstance(name, str) or name not in libraries:
        faults.add("", name, f"must be one of {', '.join(libraries)}", did_you_mean(name, libraries))
        return "", {}
    place = _Place(shipped, folder, kernels.get("system"))
    try:
        return name, _gather(kernels, name, place)
    except InputError as error:
        faults.take(error)
        return "", {}


def _check(kernels: Mapping[str, Any], faults: Faults) -> bool:
    """Check the types of the table, and that the libraries that it names are there."""
    libraries = kernels["libraries"]
    good = [faults.text(key, kernels[key]) for key in kernels if key != "libraries"]
    if not isinstance(libraries, Mapping) or not libraries:
        faults.add("libraries", libraries, "must be a table of libraries and their coefficient files")
        return False
    good += [faults.text(f"libraries.{name}", file) for name, file in libraries.items()]
    named = [key for key in ("default", "wide_heads") if isinstance(kernels.get(key), str)]
    good += [faults.choice(key, kernels[key], libraries) for key in named]
    return all(good)


@lru_cache(maxsize=64)
def _parsed(path: Path, _changed_ns: int) -> Mapping[str, Any]:
    """Read a file once: every cluster of an architecture asks for the same ones, and parsing is slow."""
    return FrozenDict(read_toml(path))


def _fault(field: str, value: object, allowed: str, way_out: str = "") -> InputError:
    return InputError.of(f"kernels.{field}", value, allowed, way_out)


class _Place:
    """Where coefficient files lie, and which of the measured systems the device is."""

    def __init__(self, shipped: Path, folder: Path, system: str | None) -> None:
        self.shipped, self.folder, self.system = shipped, folder, system

    def read(self, field: str, name: str) -> Mapping[str, Any]:
        """Read one coefficient file: a shipped one by its name, or a path relative to the profile."""
        named = str(self.folder / name) if name.endswith(".toml") else name
        path = find_file(f"kernels.{field}", named, self.shipped, ".toml")
        table = _parsed(path, path.stat().st_mtime_ns if path.is_file() else 0)
        if table.get("format") != FORMAT:
            place = f"{field}.format"
            raise _fault(place, table.get("format"), f"must be {FORMAT}", "see docs/hardware-profiles.md")
        return table

    def operators(self, field: str, name: str) -> Tables:
        """Operator keys of a file and their tables."""
        return {key: self.marked(key, table) for key, table in _flat(self.read(field, name), field)}

    def marked(self, key: str, value: object) -> dict[str, Any]:
        """Take the device's own numbers of a table, and mark whether the table was scored on this device."""
        plain = dict(_table(key, value))
        for system, own in _table(f"{key}.systems", plain.pop("systems", {})).items():
            plain |= _table(f"{key}.systems.{system}", own) if system == self.system else {}
        errors = _table(f"{key}.fit.errors", _table(f"{key}.fit", plain.get("fit", {})).get("errors", {}))
        if key.partition(".")[0] in _ATTENTION:
            _check_kernels(key, plain.get("kernels"))
        return {**plain, "source": CALIBRATED if self.system in errors else EXTRAPOLATED}


def _table(key: str, value: object) -> Mapping[str, Any]:
    """Give what must be a table as one."""
    if not isinstance(value, Mapping):
        raise _fault(key, value, "must be a table")
    return value


def _check_kernels(key: str, kernels: object) -> None:
    """Refuse attention kernels that do not say which head dimensions they were measured with."""
    listed = kernels if isinstance(kernels, list) else []
    if not listed or not all(isinstance(kernel, Mapping) and kernel.get("head_dims") for kernel in listed):
        place = f"{key}.kernels"
        raise _fault(place, kernels, "must be a list of kernels, each with its head_dims")


def _flat(table: Mapping[str, Any], field: str) -> Iterator[tuple[str, object]]:
    """Operator tables of a file: ``matmul.bf16`` for what has one for each data type."""
    for name, value in table.items():
        if name not in _ABOUT:
            yield from _members(name, value, field, _NESTED.get(name, 0))


def _members(name: str, value: object, field: str, depth: int) -> Iterator[tuple[str, object]]:
    if depth == 0:
        yield name, value
        return
    for key, member in _table(f"{field}.{name}", value).items():
        yield from _members(f"{name}.{key}", member, field, depth - 1)


def _gather(kernels: Mapping[str, Any], library: str, place: _Place) -> Tables:
    files: Mapping[str, str] = kernels["libraries"]
    read = {
        name: place.operators(f"libraries.{name}", files[name])
        for name in dict.fromkeys((library, kernels["default"], *files))
    }
    tables: Tables = {}
    for wide_only in (False, True):  # a table without the usual heads comes last, for it would have to price them too
        for name, known in read.items():
            for key, table in known.items():
                if key not in tables and _serves_wide_heads_only(table) == wide_only:
                    tables[key] = table if name == library else {**table, "source": EXTRAPOLATED}
    wide = kernels.get("wide_heads")
    if wide is not None and wide != library:
        for key in [key for key in tables if key.split(".")[0] in _ATTENTION and key in read[wide]]:
            tables[key] = _with_wide_heads(tables[key], read[wide][key])
    if "collectives" in kernels:
        tables |= _collectives(place.operators("collectives", kernels["collectives"]), library)
    if "memory_bound" in kernels:
        tables["memory_bound"] = _memory_bound(kernels["memory_bound"], place)
    return tables


def _serves_wide_heads_only(table: Mapping[str, Any]) -> bool:
    """Say whether a table of attention has kernels only for heads above some dimension."""
    kernels = table.get("kernels", ())
    return bool(kernels) and all(kernel.get("head_dim_above", 0) > 0 for kernel in kernels)


def _with_wide_heads(own: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Put those kernels of another library first that serve only heads wider than the library's own measured ones."""
    widest = max(max(kernel["head_dims"]) for kernel in own["kernels"])
    borrowed = [
        {**kernel, "head_dim_above": max(widest, kernel.get("head_dim_above", 0))}
        for kernel in other["kernels"]
        if min(kernel["head_dims"]) > widest
    ]
    if not borrowed:
        return own
    about = {"count": len(borrowed), "fit": other.get("fit", {})}
    return {**own, "kernels": [*borrowed, *own["kernels"]], "borrowed": about}


def _collectives(tables: Tables, library: str) -> Tables:
    """The communication library's operations, and the serving library's own all-reduce where it has one."""
    found = {key: table for key, table in tables.items() if not key.startswith("custom_all_reduce.")}
    own = tables.get(f"custom_all_reduce.{library}")
    return found if own is None else {**found, "custom_all_reduce": own}


def _memory_bound(device: str, place: _Place) -> dict[str, Any]:
    """The classes of memory-bound kernels of one device in the file that has them of all."""
    file = place.read("memory_bound", "memory-bound")
    devices = [name for name in file if name not in _ABOUT]
    if device not in devices:
        raise _fault("memory_bound", device, f"must be one of {', '.join(devices)}", did_you_mean(device, devices))
    found = _table(device, file[device])
    classes = {name: place.marked(f"memory_bound.{name}", table) for name, table in found.items()}
    known = any(table["source"] == CALIBRATED for table in classes.values())
    return {**classes, "source": CALIBRATED if known else EXTRAPOLATED}
