"""Scenarios in files: TOML written by people, and the complete table that results carry with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from perfsim.errors import Faults, InputError, did_you_mean
from perfsim.spec.hardware import Accelerator, Cluster, Efficiency, NetworkTier
from perfsim.spec.model import Model, load_model
from perfsim.spec.plan import Plan
from perfsim.spec.profiles import load_cluster
from perfsim.spec.scenario import Scenario
from perfsim.spec.tables import build, check_keys, read_toml
from perfsim.spec.workload import Workload

__all__ = ["list_scenarios", "load_scenario", "scenario_from_table", "scenario_to_table", "to_plain"]


def _preset_folder() -> Path:
    return Path(str(resources.files("perfsim"))) / "presets" / "scenarios"


def list_scenarios() -> tuple[str, ...]:
    """Names of the shipped scenarios, sorted.

    Examples
    --------
    >>> import perfsim
    >>> perfsim.list_scenarios()
    ('seed-baseline', 'seed-improved', 'seed-layerwise-pipelined')
    """
    return tuple(sorted(path.stem for path in _preset_folder().glob("*.toml")))


def load_scenario(name: str | Path) -> Scenario:
    """Load a scenario that perfsim ships, or one from a TOML file.

    The file has the tables ``[cluster]`` (``profile``, a name or a path, and ``num_devices``), ``[model]``
    (``preset``, a name or a path, or the fields of `Model`), ``[plan]`` and ``[workload]``. Paths are relative to it.

    Parameters
    ----------
    name : str or Path
        A name that `list_scenarios` gives, or the path of a ``.toml`` file.

    Returns
    -------
    Scenario

    Raises
    ------
    InputError
        With all faults of the file together.

    Examples
    --------
    >>> import perfsim
    >>> perfsim.load_scenario("seed-improved").plan.tensor
    8
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = _preset_folder() / f"{name}.toml"
        if not path.is_file():
            known = list_scenarios()
            way_out = did_you_mean(name, known) or "give the path of a .toml file"
            raise InputError.of("scenario", str(name), f"must be one of {', '.join(known)}, or a path", way_out)
    return scenario_from_table(read_toml(path), path.parent)


def scenario_from_table(table: Mapping[str, Any], folder: Path = Path()) -> Scenario:
    """Make a scenario from its table, reporting the faults of all parts together.

    Parameters
    ----------
    table : mapping
        As `load_scenario` describes, or as `scenario_to_table` gives it.
    folder : Path
        What relative paths in the table are relative to.
    """
    faults = Faults()
    check_keys(table, ("cluster", "model", "plan", "workload"), (), faults)
    cluster = _part(table, "cluster", lambda part: _cluster(part, folder, faults), faults)
    model = _part(table, "model", lambda part: _model(part, folder, faults), faults)
    plan = _part(table, "plan", lambda part: build(Plan, part, Faults.nested(faults, "plan")), faults)
    workload = _part(table, "workload", lambda part: build(Workload, part, Faults.nested(faults, "workload")), faults)
    faults.raise_if_any()
    return Scenario(cluster, model, plan, workload)


def _part(table: Mapping[str, Any], name: str, make: Any, faults: Faults) -> Any:
    """Make one part of a scenario, recording its faults instead of raising them."""
    if name not in table:
        return None
    if not isinstance(table[name], Mapping):
        faults.add(name, table[name], "must be a table of keys and values")
        return None
    try:
        return make(table[name])
    except InputError as error:
        faults.take(error)
        return None


def _cluster(table: Mapping[str, Any], folder: Path, faults: Faults) -> Cluster | None:
    if "accelerator" not in table:
        collector = Faults.nested(faults, "cluster")
        known = check_keys(table, ("profile",), ("num_devices",), collector)
        return load_cluster(_path(table["profile"], folder), table.get("num_devices")) if known else None
    tiers = [build(NetworkTier, tier, Faults.nested(faults, "cluster.tiers")) for tier in table.get("tiers", ())]
    parts = {
        **table,
        "accelerator": build(Accelerator, table["accelerator"], Faults.nested(faults, "cluster.accelerator")),
        "efficiency": build(Efficiency, table.get("efficiency"), Faults.nested(faults, "cluster.efficiency")),
        "tiers": tuple(tiers),
    }
    return None if faults.found else build(Cluster, parts, Faults.nested(faults, "cluster"))


def _model(table: Mapping[str, Any], folder: Path, faults: Faults) -> Model | None:
    collector = Faults.nested(faults, "model")
    if "preset" not in table:
        return build(Model, table, collector)
    return load_model(_path(table["preset"], folder)) if check_keys(table, ("preset",), (), collector) else None


def _path(name: Any, folder: Path) -> str:
    """A preset's name as it is, a path relative to the file that names it."""
    return str(folder / name) if str(name).endswith((".toml", ".json")) else str(name)


def scenario_to_table(scenario: Scenario) -> dict[str, Any]:
    """Write a scenario as one table of plain values with every number in it; `scenario_from_table` reads it back."""
    return {field.name: to_plain(getattr(scenario, field.name)) for field in dataclasses.fields(scenario)}


def to_plain(value: Any) -> Any:
    """Turn dataclasses, mappings and tuples into tables and lists of plain values."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return [to_plain(item) for item in value] if isinstance(value, tuple) else value
