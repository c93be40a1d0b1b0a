"""The measured systems of the public tables, and the hardware profiles that describe their devices."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from perfsim.errors import InputError
from perfsim.spec.hardware import Accelerator
from perfsim.spec.profiles import cluster_from_table, profile_folder
from perfsim.spec.tables import FrozenDict, read_toml
from perfsim.units import GIB, MIB

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

_WITHOUT_PROFILE = {
    "rtx_pro_6000_server": Accelerator(
        name="RTX PRO 6000 Blackwell Server Edition",
        vendor="NVIDIA",
        architecture="blackwell-rtx",
        peak_flop_per_s=FrozenDict({"bf16": 467.8e12}),
        vector_flop_per_s=117e12,
        sm_count=188,
        clock_hz=2.43e9,
        shared_memory_bytes_per_sm=102_400,
        l2_bytes=128 * MIB,
        memory_bytes=96 * GIB,
        memory_bytes_per_s=1.792e12,
        tdp_watt=600,
    ),
}
"""Measured systems that only lend their measurements to others.

Peak, clock and bandwidth are those that the tables' own package states for the node that was measured; multiprocessors,
L2 and shared memory those of Nvidia's RTX Blackwell PRO architecture whitepaper, 2025.
"""


def accelerator_of(system: str) -> Accelerator:
    """Give the device of a measured system, from its datasheet alone: its coefficients need not be there yet.

    Examples
    --------
    >>> accelerator_of("h200_sxm").name
    'H200 SXM5 141GB'
    """
    if system in _WITHOUT_PROFILE:
        return _WITHOUT_PROFILE[system]
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
