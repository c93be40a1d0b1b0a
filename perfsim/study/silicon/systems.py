"""The measured systems of the public tables, and the hardware profiles that describe their devices."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from perfsim.errors import InputError
from perfsim.spec.hardware import Accelerator
from perfsim.spec.profiles import cluster_from_table, profile_folder
from perfsim.spec.tables import read_toml

__all__ = ["PROFILES", "accelerator_of", "kernel_file", "tables_folder"]

DATA = "aiconfigurator-core 0.12.0"
"""The package whose tables the shipped coefficients are fitted to."""

PROFILES = {
    "a100_sxm": "dgx-a100-80gb",
    "h100_sxm": "dgx-h100",
    "h200_sxm": "dgx-h200",
    "b200_sxm": "dgx-b200",
    "gb200": "gb200-nvl72",
    "l40s": "l40s-pcie-8x",
}
"""Hardware profile of each measured system."""


def accelerator_of(system: str) -> Accelerator:
    """Give the device of a measured system, from its datasheet alone: its coefficients need not be there yet.

    Examples
    --------
    >>> accelerator_of("h200_sxm").name
    'H200 SXM5 141GB'
    """
    table = read_toml(profile_folder() / f"{PROFILES[system]}.toml")
    return cluster_from_table({key: value for key, value in table.items() if key != "kernels"}).accelerator


def kernel_file(name: str) -> Path:
    """Give the place of a shipped coefficient file."""
    return profile_folder() / "kernels" / f"{name}.toml"


def tables_folder() -> Path:
    """Give the folder of the public tables, one folder a system.

    Raises
    ------
    InputError
        The package that has them is not installed.
    """
    try:
        return Path(str(files("aiconfigurator_core"))) / "systems" / "data"
    except ModuleNotFoundError as error:
        way_out = "install the extra that has them: pip install 'perfsim[silicon]'"
        raise InputError.of(
            "aiconfigurator_core", None, "is not installed, and has the public tables", way_out
        ) from error
