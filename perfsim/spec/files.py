"""Scenarios in files: TOML written by people, and the complete table that results carry with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from perfsim.errors import Faults, InputError
from perfsim.spec.hardware import Cluster
from perfsim.spec.model import Model, load_model
from perfsim.spec.plan import Plan
from perfsim.spec.profiles import load_cluster
from perfsim.spec.scenario import Scenario, replace_nested
from perfsim.spec.tables import build, check_keys, find_file, freeze, preset_names, read_toml
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
    return preset_names(_preset_folder(), ".toml")


def load_scenario(name: str | Path) -> Scenario:
    """Load a scenario that perfsim ships, or one from a TOML file.

    The file has the tables ``[cluster]`` (``profile``, a name or a path, ``num_devices`` and ``kernels``), ``[model]``
    (``preset``, a name or a path, and fields of `Model` that are to differ; or all of them), ``[plan]`` and
    ``[workload]``. Paths are relative to it.

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
    path = find_file("scenario", name, _preset_folder(), ".toml")
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
    if not isinstance(table, Mapping):
        raise InputError.of("scenario", table, "must be a table of keys and values")
    faults = Faults()
    check_keys(table, _PARTS, (), faults)
    parts: dict[str, Any] = {}
    for name, make in _PARTS.items():
        if name in table:
            try:
                parts[name] = make(table[name], folder, faults.inside(name))
            except InputError as error:
                faults.take(error)
    faults.raise_if_any()
    return Scenario(**parts)


def _cluster(table: object, folder: Path, faults: Faults) -> Cluster | None:
    if not isinstance(table, Mapping) or "accelerator" in table:
        return build(Cluster, table, faults)
    check_keys(table, ("profile",), ("num_devices", "kernels"), faults)
    if "profile" not in table:
        return None
    return load_cluster(_path(table["profile"], folder), table.get("num_devices"), table.get("kernels"))


def _model(table: object, folder: Path, faults: Faults) -> Model | None:
    if not isinstance(table, Mapping) or "preset" not in table:
        return build(Model, table, faults)
    fields = [field.name for field in dataclasses.fields(Model) if field.init]
    check_keys(table, ("preset",), fields, faults)
    model = load_model(_path(table["preset"], folder))
    return replace_nested(model, {key: freeze(value) for key, value in table.items() if key in fields})


_PARTS: dict[str, Callable[[object, Path, Faults], object]] = {
    "cluster": _cluster,
    "model": _model,
    "plan": lambda table, _folder, faults: build(Plan, table, faults),
    "workload": lambda table, _folder, faults: build(Workload, table, faults),
}


def _path(name: Any, folder: Path) -> str:
    """A preset's name as it is; a file, or a folder that is there, relative to the file that names it."""
    is_path = str(name).endswith((".toml", ".json")) or (folder / str(name)).is_dir()
    return str(folder / name) if is_path else str(name)


def scenario_to_table(scenario: Scenario) -> dict[str, Any]:
    """Write a scenario as one table of plain values with every number in it; `scenario_from_table` reads it back."""
    return {field.name: to_plain(getattr(scenario, field.name)) for field in dataclasses.fields(scenario)}


def to_plain(value: Any) -> Any:
    """Turn dataclasses, mappings and tuples into tables and lists of plain values."""
    if value is None or isinstance(value, str | int | float):  # most values, and soon told
        return value
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
