"""Traces in files, for Perfetto and other viewers."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from perfsim.errors import Faults
from perfsim.report.trace import trace_text
from perfsim.report.trace_events import Text
from perfsim.serving.results import ServeResult
from perfsim.serving.trace_text import serving_trace_text
from perfsim.simulation import Result
from perfsim.study.output import replace_file
from perfsim.version import __version__

__all__ = ["write_trace"]

_ENDINGS = (".json", ".json.gz")
_MOST_STEPS = 5_000_000
"""Of more, those that follow each other and are alike share an event."""
_EFFORT = 1
"""Of the compression: the text repeats itself so much that more effort takes longer and gains little."""


def write_trace(result: Result | ServeResult, path: str | Path) -> Path:
    """Write the timeline of a result as a trace that Perfetto and ``chrome://tracing`` show.

    Of a plan a process stands for a GPU and a thread for one of its streams. Every execution is an event with its
    operator, the shapes, FLOP and bytes, what bounds it, and its microbatch. Arrows join the devices of a collective
    and the two ends of a send. Counters show the memory of each GPU and its running matrix FLOP/s.

    Of a served load a process stands for a replica. Its first thread has the steps, each with its decodes, its prompts
    and the share of the engine's host; the others have the requests, each in its phases. Arrows lead from where prompts
    are computed to where they decode. Counters show KV blocks, running and waiting requests, and tokens a second.

    The times are those of the simulation, to the picosecond; viewers may round what they show to nanoseconds.

    Parameters
    ----------
    result : Result or ServeResult
        Folded or in full: the trace has every device either way.
    path : str or Path
        Ends in ``.json``, or in ``.json.gz`` for a compressed file. A file of that name is replaced, once all is
        written.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        `result` is none, or the path has another ending or cannot be written to.

    References
    ----------
    "Trace Event Format", Google, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU

    Examples
    --------
    >>> import gzip, json, perfsim, tempfile
    >>> result = perfsim.simulate(perfsim.load_scenario("seed-improved").with_(batch_size=2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trace = json.loads(gzip.decompress(perfsim.write_trace(result, f"{folder}/trace.json.gz").read_bytes()))
    >>> len({event["pid"] for event in trace["traceEvents"]})
    16
    """
    faults = Faults("write_trace")
    if not isinstance(result, Result | ServeResult):
        way_out = "make one with perfsim.simulate or perfsim.serve"
        faults.add("result", result, "must be of type Result or ServeResult", way_out)
    if not isinstance(path, str | os.PathLike):
        faults.add("path", path, "must be a path", "give the name of a file")
    elif not str(path).endswith(_ENDINGS):
        faults.add("path", str(path), f"must end in {' or '.join(_ENDINGS)}", f"write {path}.json.gz")
    faults.raise_if_any()
    target = Path(path)
    with replace_file(target) as stream, _compressed(stream, target) as out:
        for piece in _text(result):
            out.write(piece)
    return target


def _text(result: Result | ServeResult) -> Iterator[Text]:
    about = {"made_by": f"perfsim {__version__}", "result": str(result)}
    if isinstance(result, Result):
        return trace_text(result.run, result.activations, about)
    return serving_trace_text(result.service, result.sent, result.outcome, result.log(_MOST_STEPS), about)


@contextmanager
def _compressed(stream: IO[bytes], target: Path) -> Iterator[IO[bytes]]:
    """Compress what goes to a stream where the name asks for it; the same trace makes the same file."""
    if target.suffix != ".gz":
        yield stream
        return
    with gzip.GzipFile("", "wb", _EFFORT, stream, mtime=0) as out:
        yield cast("IO[bytes]", out)
