"""Recorded requests in files: CSV, JSON Lines or Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfsim.errors import Faults, InputError, did_you_mean
from perfsim.serving.requests import NO_PREFIX, Requests

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OPTIONAL_COLUMNS", "REQUIRED_COLUMNS", "read_trace"]

REQUIRED_COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")
OPTIONAL_COLUMNS = ("prefix_id", "prefix_tokens")


def read_trace(path: Path) -> Requests:
    """Read the requests of a trace.

    A trace has a row for each request and these columns; others are refused, so that a misspelt one is noticed.

    ================= ===================================================================================
    ``arrival_s``     When the request is sent, in seconds from the beginning; not falling.
    ``prompt_tokens`` Tokens of the prompt, at least 1.
    ``output_tokens`` Tokens that are generated, at least 1.
    ``prefix_id``     Optional: requests with the same value begin alike; empty for those that share nothing.
    ``prefix_tokens`` Optional, together with ``prefix_id``: how many tokens they share.
    ================= ===================================================================================

    Parameters
    ----------
    path : Path
        Ends in ``.csv``, ``.jsonl`` or ``.parquet``.

    Returns
    -------
    Requests

    Raises
    ------
    InputError
        The file cannot be read, columns are missing or unknown, values are no numbers, or times are not in order; all
        faults of the same stage together.
    """
    frame, faults = _read(path), Faults("trace")
    _check_columns(list(frame.columns), faults)
    faults.raise_if_any()
    arrival_s = _numbers(frame, "arrival_s", faults)
    prompt, output = (_whole_numbers(frame, name, faults) for name in ("prompt_tokens", "output_tokens"))
    if "prefix_id" not in frame.columns:
        faults.raise_if_any()
        return Requests(arrival_s, prompt, output)
    prefix_tokens = _whole_numbers(frame.fillna({"prefix_tokens": 0}), "prefix_tokens", faults)
    faults.raise_if_any()
    return Requests(arrival_s, prompt, output, _labels(frame["prefix_id"]), prefix_tokens)


def _read(path: Path) -> pd.DataFrame:
    """Read a table by the ending of its name."""
    import pandas as pd
    import pyarrow as pa

    readers: dict[str, Any] = {
        ".csv": pd.read_csv,
        ".jsonl": lambda name: pd.read_json(name, lines=True),
        ".parquet": pd.read_parquet,
    }
    if path.suffix not in readers:
        raise InputError.of("trace", str(path), f"must end in one of {', '.join(readers)}")
    try:
        return readers[path.suffix](path)
    except OSError as error:
        raise InputError.of("trace", str(path), f"cannot be read: {error.strerror or error}") from None
    except (ValueError, pa.ArrowException) as error:
        raise InputError.of("trace", str(path), f"is no {path.suffix[1:]} file: {error}") from None


def _check_columns(names: list[str], faults: Faults) -> None:
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    for name in REQUIRED_COLUMNS:
        if name not in names:
            faults.add("columns", names, f"must have {name!r}")
    for name in names:
        if name not in known:
            faults.add(
                "columns", name, f"must be among {', '.join(known)}", did_you_mean(name, known) or "leave it out"
            )
    if ("prefix_id" in names) != ("prefix_tokens" in names):
        faults.add("columns", names, "must have prefix_id and prefix_tokens together, or neither")


def _numbers(frame: pd.DataFrame, name: str, faults: Faults) -> NDArray[np.float64]:
    """Read a column as numbers, or record the first value that is none."""
    import pandas as pd

    column = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(~np.isfinite(column))
    if len(wrong):
        value = frame[name].iloc[[wrong[0]]].tolist()[0]  # of Python's own types
        faults.add(f"{name}[{wrong[0]}]", value, "must be a finite number")
    return column


def _whole_numbers(frame: pd.DataFrame, name: str, faults: Faults) -> NDArray[np.int64]:
    """Read a column as whole numbers, or record the first value that is none."""
    column = _numbers(frame, name, faults)
    finite = np.where(np.isfinite(column), column, 0.0)
    wrong = np.flatnonzero(finite != np.rint(finite))
    if len(wrong):
        faults.add(f"{name}[{wrong[0]}]", float(column[wrong[0]]), "must be a whole number")
    return np.clip(finite, -(2.0**53), 2.0**53).astype(np.int64)


def _labels(column: pd.Series) -> NDArray[np.int64]:
    """Number the prefixes, whatever they are called; empty ones share nothing."""
    import pandas as pd

    codes, _ = pd.factorize(column, use_na_sentinel=True)
    return np.where(codes < 0, NO_PREFIX, codes).astype(np.int64)
