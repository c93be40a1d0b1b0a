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
from perfsim.spec.hardware import Cluster
from perfsim.spec.kernels import library_coefficients
from perfsim.spec.tables import build, check_keys, find_file, preset_names, read_toml

__all__ = ["cluster_from_table", "list_profiles", "load_cluster", "profile_folder"]

FORMAT = 1


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


def load_cluster(name: str | Path, num_devices: int | None = None, kernels: str | None = None) -> Cluster:
    """Load a cluster from a shipped hardware profile or from a TOML file.

    Parameters
    ----------
    name : str or Path
        A name that `list_profiles` gives, or the path of a profile.
    num_devices : int, optional
        Devices of the cluster; the profile's default (one node, or one NVLink domain) when left out.
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
    """
    path = find_file("cluster", name, profile_folder(), ".toml")
    return cluster_from_table(read_toml(path), num_devices, kernels, path.parent)


def cluster_from_table(
    table: Mapping[str, Any], num_devices: int | None = None, kernels: str | None = None, folder: Path = Path()
) -> Cluster:
    """Make a cluster from the table of a profile, with the source of every number.

    Paths of coefficient files are relative to `folder`.
    """
    faults = Faults()
    if table.get("format") != FORMAT:
        faults.add("format", table.get("format"), f"must be {FORMAT}", "see docs/hardware-profiles.md")
    reader = _Reader(table.get("sources"), faults)
    plain = {
        key: reader.plain(key, value) for key, value in table.items() if key not in {"format", "sources", "kernels"}
    }
    library, coefficients = _kernels(table, kernels, folder, faults)
    parts = {**plain, "sources": reader.sources, "kernels": library, "coefficients": coefficients}
    cluster = build(Cluster, parts, faults)
    if cluster is None or faults.found:
        raise InputError(faults.found)
    return cluster if num_devices is None else dataclasses.replace(cluster, num_devices=num_devices)


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

    def __init__(self, texts: object, faults: Faults) -> None:
        self.texts = texts if isinstance(texts, Mapping) else None
        self.faults = faults
        self.sources: dict[str, str] = {}
        if self.texts is None:
            faults.add("sources", texts, "must be a table of source keys and texts")
            return
        for key, text in self.texts.items():
            faults.inside("sources").text(key, text)

    def plain(self, path: str, value: object, source: object = None) -> object:
        """Return a value of the profile with every ``{ value, source }`` in it replaced by its value."""
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
        return self._sourced(path, member["value"], member.get("source"))

    def _sourced(self, path: str, value: object, source: object) -> object:
        """Remember the source of a number; without any texts, their own fault says enough."""
        if self.texts is None or isinstance(value, bool) or not isinstance(value, int | float):
            return value
        if isinstance(source, str) and source in self.texts:
            self.sources[path] = str(self.texts[source])
        else:
            self.faults.add(
                f"{path}.source", source, f"must be a key of [sources] ({', '.join(self.texts)})",
                "every number of a profile names where it comes from",
            )  # fmt: skip
        return value
