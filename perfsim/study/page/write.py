"""Write the page of a result, a comparison or a served load: one file with everything in it, scripts and all."""

from __future__ import annotations

import os
from pathlib import Path

from perfsim.errors import Faults
from perfsim.serving.results import ServeResult
from perfsim.simulation import Result
from perfsim.study.compare import Comparison
from perfsim.study.output import replace_file
from perfsim.study.page.document import page_html

__all__ = ["write_page"]


def write_page(result_or_comparison: Result | Comparison | ServeResult, path: str | Path) -> Path:
    """Write a page that shows and explains a result or a served load, or compares several results.

    Parameters
    ----------
    result_or_comparison : Result, Comparison or ServeResult
    path : str or Path
        The file, which ends in ``.html`` by custom. A file of that name is replaced once the new one is complete;
        folders on the way are made.

    Returns
    -------
    Path
        The file. It needs no network, no server and no other file, and follows the light or dark theme of its reader.

    Raises
    ------
    InputError
        `result_or_comparison` is none of them, `path` is no path or a folder, or it cannot be written to.

    Notes
    -----
    A plan that does not fit in memory has a page like any other, which begins with what is too much.

    Examples
    --------
    >>> import perfsim, tempfile
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = perfsim.write_page(result, f"{folder}/report.html")
    ...     path.read_text(encoding="utf-8")[:15]
    '<!doctype html>'
    """
    faults = Faults()
    if not isinstance(result_or_comparison, Result | Comparison | ServeResult):
        kinds, way_out = "Result, Comparison or ServeResult", "make one with perfsim.simulate, compare or serve"
        faults.add("result_or_comparison", result_or_comparison, f"must be of type {kinds}", way_out)
    if not isinstance(path, str | os.PathLike):
        faults.add("path", path, "must be a path", "give the name of a file")
    faults.raise_if_any()
    target = Path(path)
    with replace_file(target) as stream:
        stream.write(page_html(result_or_comparison).encode())
    return target
