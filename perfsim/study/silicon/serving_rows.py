"""The public rows of measured serving runs: which ones, how their client behaved, and what was measured.

The measurements stay in the package that ships them; ``serving_rows.csv`` beside this file only lists the rows that
perfsim may look at, and what is known of the client. Other rows of that package are left to others, to judge by.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perfsim.errors import Faults
from perfsim.study.silicon.systems import tables_folder

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GROUP", "read_serving_rows"]

GROUP = ["model", "system", "library", "prompt_tokens", "output_tokens"]
"""What rows of one group share."""

_LISTED = Path(__file__).with_name("serving_rows.csv")
_LIST_COLUMNS = ("id", "protocol", "use_ttft")
_PROTOCOLS = ("P1", "P2", "P3")
_NAMES = {
    "model_path": "model", "backend": "library", "backend_version": "version", "isl": "prompt_tokens",
    "osl": "output_tokens", "tp_size": "tensor", "moe_ep_size": "expert", "moe_quant_mode": "expert_dtype",
    "gemm_quant_mode": "dtype",
}  # fmt: skip


def read_serving_rows(path: str | Path | None = None) -> pd.DataFrame:
    """Read measured serving runs.

    Parameters
    ----------
    path : str or Path, optional
        A CSV file with the columns ``id`` (of the package's rows), ``protocol`` (``P1`` to ``P3``) and ``use_ttft``
        (whether TTFT may be judged; else TPOT alone); further columns are not looked at. The shipped list when left
        out.

    Returns
    -------
    DataFrame
        One row a run, in the order of the list: ``id``, the columns of `GROUP`, ``dtype``, ``expert_dtype``,
        ``precision``, ``tensor``, ``expert``, ``concurrency``, ``protocol``, ``version``, ``measured_on`` (a date or
        empty), and ``ttft_s`` (NaN where it may not be judged) and ``tpot_s`` as measured.

    Raises
    ------
    InputError
        The list cannot be read, has faults, or names rows that the package does not have; or the package is not
        installed.
    """
    import pandas as pd

    listed = _read_list(_LISTED if path is None else Path(path))
    table = pd.read_csv(tables_folder().parent / "silicon_sample.csv").rename(columns=_NAMES)
    rows = listed.merge(table, on="id", how="left", validate="one_to_one")
    faults = Faults("rows")
    for unknown in rows.loc[rows["model"].isna(), "id"][:5]:
        faults.add("id", unknown, "is no row of silicon_sample.csv")
    faults.raise_if_any()
    source = rows["silicon_data_source"]
    rows = rows.assign(
        concurrency=source.str.extract(r"silicon_concurrency=(\d+)", expand=False).astype(int),
        measured_on=source.str.extract(r"measured=(\d{4}-\d{2}-\d{2})", expand=False).fillna(""),
        tensor=rows["tensor"].fillna(1).astype(int), expert=rows["expert"].fillna(1).astype(int),
        ttft_s=(rows["silicon_ttft_ms"] / 1e3).where(rows["use_ttft"].astype(bool)),
        tpot_s=rows["silicon_tpot_ms"] / 1e3,
    )  # fmt: skip
    texts = ["dtype", "expert_dtype", "precision", "version"]
    rows[texts] = rows[texts].astype(object).fillna("")  # an empty column comes as numbers
    return rows[
        ["id", *GROUP, *texts, "tensor", "expert", "concurrency", "protocol", "measured_on", "ttft_s", "tpot_s"]
    ]  # fmt: skip


def _read_list(path: Path) -> pd.DataFrame:
    """Read the list of rows and check its columns."""
    import pandas as pd

    faults = Faults("rows")
    try:
        listed = pd.read_csv(path)
    except (OSError, ValueError) as error:
        faults.add("", str(path), f"must be a CSV file that can be read ({error})", "give the path of one")
        faults.raise_if_any()
    for name in _LIST_COLUMNS:
        if name not in listed.columns:
            faults.add(name, None, "is missing", f"columns are {', '.join(listed.columns)}")
    faults.raise_if_any()
    for row, protocol in listed["protocol"].items():
        if protocol not in _PROTOCOLS:
            faults.add(f"protocol[{row}]", protocol, f"must be one of {', '.join(_PROTOCOLS)}")
    for name in listed.loc[listed["id"].duplicated(), "id"]:
        faults.add("id", name, "stands in the list twice")
    if listed.empty:
        faults.add("", str(path), "must have at least one row")
    faults.raise_if_any()
    return listed[list(_LIST_COLUMNS)]
