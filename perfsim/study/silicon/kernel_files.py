"""The files of fitted coefficients, `hardware_profiles/kernels/*.toml`: written by code, one table an operator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perfsim.errors import InputError
from perfsim.spec.tables import read_toml
from perfsim.study.output import replace_file

__all__ = ["merge_into", "plain"]

_HEADING = "# Fitted coefficients, written by perfsim.study.silicon: fit them again instead of changing them here.\n\n"
_DIGITS = 4


def merge_into(path: Path, tables: Mapping[str, Mapping[str, Any]], **head: Any) -> None:
    r"""Replace or add tables of a file of coefficients; all other tables stay as they are.

    Parameters
    ----------
    path : Path
        The file; it is made where there is none.
    tables : mapping of str to mapping
        Whole tables by their dotted names, such as ``matmul.bf16`` or ``all_reduce``. NumPy's numbers and arrays may be
        in them; floating-point numbers are rounded to four significant digits.
    **head
        Keys of the file itself, such as ``library`` and ``architecture``.

    Raises
    ------
    InputError
        The file cannot be read or written, `tomli_w` is not installed, or a name leads through what is no table.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "hopper-trtllm.toml"
    >>> merge_into(path, {"matmul.bf16": {"launch_s": 2.74312e-6}}, library="trtllm")
    >>> merge_into(path, {"decode.bf16-fp8": {"launch_s": 3e-6}})
    >>> print(path.read_text().partition("\n\n")[2])
    format = 1
    library = "trtllm"
    <BLANKLINE>
    [decode.bf16-fp8]
    launch_s = 3e-06
    <BLANKLINE>
    [matmul.bf16]
    launch_s = 2.743e-06
    <BLANKLINE>
    """
    try:
        import tomli_w
    except ImportError as error:
        way_out = "install the extra that has it: pip install 'perfsim[silicon]'"
        raise InputError.of(
            "tomli_w", None, "is not installed, and coefficient files are written with it", way_out
        ) from error
    whole: dict[str, Any] = {"format": 1}
    whole |= read_toml(path) if path.exists() else {}
    whole |= plain(head)
    for name, table in tables.items():
        *outer, last = name.split(".")
        place = whole
        for part in outer:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise InputError.of(name, place, f"must not lead through {part}, which is no table of {path.name}")
        place[last] = plain(table)
    with replace_file(path) as stream:
        stream.write((_HEADING + tomli_w.dumps(_sorted(whole))).encode())


def plain(value: Any) -> Any:
    """Turn what a table holds into what TOML knows: Python's numbers, lists, and floats of four significant digits.

    Examples
    --------
    >>> plain({"splits": (1, np.int64(8)), "launch_s": np.float64(2.74312e-6)})
    {'splits': [1, 8], 'launch_s': 2.743e-06}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _sorted(table: dict[str, Any]) -> dict[str, Any]:
    """Sort the tables inside by name, after the keys that are none, which keep the order they were given in."""
    keys = {key: item for key, item in table.items() if not isinstance(item, dict)}
    return keys | {key: _sorted(table[key]) for key in sorted(table) if key not in keys}
