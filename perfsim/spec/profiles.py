"""Hardware profiles: TOML files in which every number has a source, and the clusters made from them.

The format has its page in ``docs/hardware-profiles.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from perfsim.errors import Faults, InputError, did_you_mean
from perfsim.spec.hardware import Accelerator, Cluster, Efficiency, NetworkTier
from perfsim.spec.tables import build, check_keys, read_toml

__all__ = ["cluster_from_table", "list_profiles", "load_cluster"]

FORMAT = 1


def _profile_folder() -> Path:
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
    return tuple(sorted(path.stem for path in _profile_folder().glob("*.toml")))


def load_cluster(name: str | Path, num_devices: int | None = None) -> Cluster:
    """Load a cluster from a shipped hardware profile or from a TOML file.

    Parameters
    ----------
    name : str or Path
        A name that `list_profiles` gives, or the path of a profile.
    num_devices : int, optional
        Devices of the cluster; the profile's default (one node, or one NVLink domain) when left out.

    Returns
    -------
    Cluster

    Raises
    ------
    InputError
        The profile does not exist, is broken, or has a number without a source.

    Examples
    --------
    >>> import perfsim
    >>> cluster = perfsim.load_cluster("dgx-h100", num_devices=16)
    >>> cluster.accelerator.sm_count
    132
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = _profile_folder() / f"{name}.toml"
        if not path.is_file():
            known = list_profiles()
            way_out = did_you_mean(name, known) or "give the path of a .toml file"
            raise InputError.of("cluster", str(name), f"must be one of {', '.join(known)}, or a path", way_out)
    return cluster_from_table(read_toml(path), num_devices)


def cluster_from_table(table: Mapping[str, Any], num_devices: int | None = None) -> Cluster:
    """Make a cluster from the table of a profile, with the source of every number."""
    faults = Faults()
    required = ("format", "name", "num_devices", "sources", "accelerator", "tiers", "efficiency")
    if not check_keys(table, required, ("title", "reserve_bytes"), faults):
        faults.raise_if_any()
    if table["format"] != FORMAT:
        faults.add("format", table["format"], f"must be {FORMAT}", "see docs/hardware-profiles.md")
    reader = _Reader(table["sources"], faults)
    accelerator = build(
        Accelerator, reader.plain("accelerator", table["accelerator"]), Faults.nested(faults, "accelerator")
    )
    efficiency = build(Efficiency, reader.plain("efficiency", table["efficiency"]), Faults.nested(faults, "efficiency"))
    tables = table["tiers"] if isinstance(table["tiers"], list) else [table["tiers"]]
    tiers = [
        build(NetworkTier, reader.plain(f"tiers.{i}", tier), Faults.nested(faults, f"tiers.{i}"))
        for i, tier in enumerate(tables)
    ]
    faults.raise_if_any()
    reserve = {"reserve_bytes": table["reserve_bytes"]} if "reserve_bytes" in table else {}
    return Cluster(
        name=table["name"],
        title=table.get("title", ""),
        accelerator=accelerator,  # type: ignore[arg-type]
        tiers=tuple(tiers),  # type: ignore[arg-type]
        num_devices=table["num_devices"] if num_devices is None else num_devices,
        efficiency=efficiency,  # type: ignore[arg-type]
        sources=reader.sources,  # type: ignore[arg-type]
        **reserve,
    )


class _Reader:
    """Strips the sources from the tables of a profile and remembers the source of each number."""

    def __init__(self, named: object, faults: Faults) -> None:
        self.named = named if isinstance(named, Mapping) else {}
        self.faults = faults
        self.sources: dict[str, str] = {}
        if not isinstance(named, Mapping):
            faults.add("sources", named, "must be a table of source keys and texts")

    def plain(self, path: str, table: object, inherited: str | None = None) -> object:
        """Return the table with ``{ value, source }`` replaced by the value."""
        if not isinstance(table, Mapping):
            return table
        source = table.get("source", inherited)
        content = {}
        for key, value in table.items():
            here = f"{path}.{key}"
            if key == "source":
                continue
            if isinstance(value, Mapping) and "value" in value:
                check_keys(value, ("value", "source"), (), Faults.nested(self.faults, here))
                content[key] = self._sourced(here, value["value"], value.get("source"))
            elif isinstance(value, Mapping):
                content[key] = self.plain(here, value, source)
            else:
                content[key] = self._sourced(here, value, source)
        return content

    def _sourced(self, path: str, value: object, source: object) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool):
            if source not in self.named:
                known = ", ".join(self.named)
                self.faults.add(
                    f"{path}.source", source, f"must be a key of [sources] ({known})",
                    "every number of a profile names where it comes from",
                )  # fmt: skip
            else:
                self.sources[path] = str(self.named[source])
        return value
