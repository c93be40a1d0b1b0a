"""Hardware profiles: TOML files in which every number has a source, and the clusters made from them.

The format has its page in ``docs/hardware-profiles.md``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from perfsim.errors import Faults, InputError
from perfsim.spec.defaults import fill_gaps
from perfsim.spec.hardware import Cluster, check_domains
from perfsim.spec.kernels import library_coefficients
from perfsim.spec.tables import build, check_keys, find_file, preset_names, read_toml

__all__ = ["cluster_from_table", "list_profiles", "load_cluster", "profile_folder"]

FORMAT = 1
_BESIDE = {"format", "source", "sources", "kernels"}
"""Keys of a profile that are not fields of its cluster."""


def profile_folder() -> Path:
    """The folder of the shipped profiles: inside the wheel, or beside the package in a checkout."""
    package = Path(str(resources.files("perfsim")))
    inside = package / "hardware_profiles"
    return inside if inside.is_dir() else package.parent / "hardware_profiles"


def list_profiles() -> tuple[str, ...]:
    """Names of the shipped hardware profiles, sorted.

    Examples
    --------
    >>> import perfsim
    >>> "dgx-h100" in perfsim.list_profiles()
    True
    """
    return preset_names(profile_folder(), ".toml")


def load_cluster(
    name: str | Path | Mapping[str, Any], num_devices: int | None = None, kernels: str | None = None
) -> Cluster:
    """Load a cluster from a shipped hardware profile, from a TOML file or from the numbers of a datasheet.

    Parameters
    ----------
    name : str, Path or mapping
        A name that `list_profiles` gives, the path of a profile, or the table that stands in such a file.
    num_devices : int, optional
        Devices of the cluster, in any number of nodes; the profile's default (one node, or one NVLink domain) when
        left out.
    kernels : str, optional
        Kernel library whose kernels run on the devices, such as ``trtllm``, ``vllm`` or ``sglang``; the profile's
        default when left out.

    Returns
    -------
    Cluster

    Raises
    ------
    InputError
        The profile does not exist, is broken, has a number without a source, or does not have the kernel library.

    Examples
    --------
    >>> import perfsim
    >>> cluster = perfsim.load_cluster("dgx-h100", num_devices=16)
    >>> cluster.accelerator.sm_count
    132

    A datasheet is enough; `Cluster.sources` says what the rest rests on.

    >>> device = {"name": "My GPU", "peak_flop_per_s": {"bf16": 181e12}, "memory_bytes": 48e9}
    >>> device["memory_bytes_per_s"] = 864e9
    >>> pcie = {"name": "pcie", "bytes_per_s": 32e9}
    >>> mine = {"name": "mine", "source": "Data sheet, 2025", "accelerator": device, "tiers": [pcie]}
    >>> perfsim.load_cluster(mine).sources["tiers.0.latency_s"]
    'default: 1 us, a middle value of the innermost tiers of the shipped profiles'
    """
    if isinstance(name, Mapping):
        return cluster_from_table(name, num_devices, kernels)
    path = find_file("cluster", name, profile_folder(), ".toml")
    return cluster_from_table(read_toml(path), num_devices, kernels, path.parent)


def cluster_from_table(
    table: Mapping[str, Any], num_devices: int | None = None, kernels: str | None = None, folder: Path = Path()
) -> Cluster:
    """Make a cluster from the table of a profile, with the source of every number.

    Paths of coefficient files are relative to `folder`.
    """
    faults = Faults()
    if table.get("format", FORMAT) != FORMAT:
        faults.add("format", table.get("format"), f"must be {FORMAT}", "see docs/hardware-profiles.md")
    reader = _Reader(table, faults)
    plain = {key: reader.plain(key, value) for key, value in _as_meant(table, faults).items() if key not in _BESIDE}
    fill_gaps(plain, reader.sources, faults, kernels="kernels" in table)
    library, coefficients = _kernels(table, kernels, folder, faults)
    parts = {**plain, "sources": reader.sources, "kernels": library, "coefficients": coefficients}
    cluster = build(Cluster, parts, faults)
    if cluster is None or faults.found:
        _check_nesting(plain.get("tiers"), faults)
        raise InputError(faults.found)
    return cluster if num_devices is None else dataclasses.replace(cluster, num_devices=num_devices)


def _as_meant(table: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """Give a profile with single and double brackets as they must be, so that what is inside is checked too."""
    meant = dict(table)
    tiers = table.get("tiers")
    if isinstance(tiers, Mapping):
        faults.add(
            "tiers", dict(tiers), "must be a list of tables", "write [[tiers]], in two brackets, before each tier"
        )
        nested = [tier for tier in tiers.values() if isinstance(tier, Mapping) and "value" not in tier]
        meant["tiers"] = nested if len(nested) == len(tiers) else [tiers]
    for part in ("accelerator", "efficiency"):
        if isinstance(table.get(part), list) and all(isinstance(item, Mapping) for item in table[part]):
            faults.add(part, table[part], "must be one table", f"write [{part}], in single brackets, once")
            meant[part] = {key: value for item in table[part] for key, value in item.items()}
    return meant


def _check_nesting(tiers: object, faults: Faults) -> None:
    """Check the domains of tiers of which one is broken, which hides them from the check of the cluster."""
    if any(fault.field.endswith(".domain_size") for fault in faults.found) or not isinstance(tiers, list):
        return
    sizes = [tier.get("domain_size") if isinstance(tier, dict) else 0 for tier in tiers]
    if all(size is None or (isinstance(size, int) and size > 1) for size in sizes):
        check_domains(sizes, faults)


def _kernels(
    table: Mapping[str, Any], library: str | None, folder: Path, faults: Faults
) -> tuple[str, dict[str, dict[str, Any]]]:
    """The kernel library of a profile and its coefficients; none where the profile names none."""
    if isinstance(table.get("kernels"), Mapping):
        shipped = profile_folder() / "kernels"
        return library_coefficients(table["kernels"], library, shipped, folder, faults.inside("kernels"))
    if "kernels" in table:
        faults.add("kernels", table["kernels"], "must be a table", "see docs/hardware-profiles.md")
    elif library is not None:
        faults.add("kernels", library, "must be left out: the profile has no kernel libraries")
    return "", {}


class _Reader:
    """Strips the sources from the tables of a profile and remembers the source of each number."""

    def __init__(self, table: Mapping[str, Any], faults: Faults) -> None:
        self.texts: dict[str, Any] | None = None
        self.source = table.get("source")
        self.faults = faults
        self.sources: dict[str, str] = {}
        texts = table.get("sources")
        self.literal = texts is None and "source" in table  # without [sources], a source is no key but the text itself
        if self.literal:
            faults.text("source", self.source)
        elif isinstance(texts, Mapping):
            self.texts = dict(texts)
            for key, text in texts.items():
                faults.inside("sources").text(key, text)
        else:
            faults.add(
                "sources", texts, "must be a table of source keys and texts",
                'or give one line for all numbers instead: source = "..."',
            )  # fmt: skip

    def plain(self, path: str, value: object, source: object = None) -> object:
        """Return a value of the profile with every ``{ value, source }`` in it replaced by its value."""
        source = self.source if source is None else source
        if isinstance(value, list):
            return [self.plain(f"{path}.{index}", item, source) for index, item in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        source = value.get("source", source)
        return {key: self._member(f"{path}.{key}", member, source) for key, member in value.items() if key != "source"}

    def _member(self, path: str, member: object, source: object) -> object:
        if not isinstance(member, Mapping):
            return self._sourced(path, member, source)
        if "value" not in member:
            return self.plain(path, member, source)
        check_keys(member, ("value",), ("source",), self.faults.inside(path))
        return self._sourced(path, member["value"], member.get("source", self.source))

    def _sourced(self, path: str, value: object, source: object) -> object:
        """Remember the source of a number; without any texts, their own fault says enough."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if self.literal:
            if source is self.source or self.faults.text(f"{path}.source", source):
                self.sources[path] = str(source)
        elif self.texts is None:
            return value
        elif isinstance(source, str) and source in self.texts:
            self.sources[path] = str(self.texts[source])
        else:
            self.faults.add(
                f"{path}.source", source, f"must be a key of [sources] ({', '.join(self.texts)})",
                "every number of a profile names where it comes from",
            )  # fmt: skip
        return value
