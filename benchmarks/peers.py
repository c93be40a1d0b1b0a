"""Other tools on the same points: each installed from PyPI into an environment of its own, timed there, taken away."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

__all__ = ["BATCHES", "SEQUENCES", "Measurement", "PeerError", "cpu_seconds_of"]

BATCHES, SEQUENCES = np.arange(64, 1025, 40), np.arange(500, 10_001, 500)
"""25 batch sizes and 20 sequence lengths, up to those of the reference deployment."""

_SCRIPTS = Path(__file__).resolve().parent / "peer_scripts"
_LONGEST_S = 1800
_WAY_OUT = "`python -m benchmarks --no-peers` leaves other tools out"


class PeerError(click.ClickException):
    """Another tool cannot be installed or run; the command line shows the message alone."""


@dataclass(frozen=True)
class Measurement:
    """What another tool took.

    Attributes
    ----------
    seconds : float
        CPU time of evaluating all the points, user and system, without import and start-up; scaled up where the tool
        is so slow that only an even sample of them was evaluated.
    version : str
    points : int
        How many points were evaluated.
    named_point : tuple of int
        Batch size and sequence length of the largest point.
    named_point_s : float
        The time that the tool predicts for it, for a reader to see that it did its work.
    """

    seconds: float
    version: str
    points: int
    named_point: tuple[int, int]
    named_point_s: float


@dataclass(frozen=True)
class _Peer:
    """How a tool is timed: its script, the stride through the points, and how often it evaluates them."""

    script: str
    stride: int
    repeats: int


_PEERS = {
    "llm-analysis": _Peer("llm_analysis_sweep.py", stride=1, repeats=5),
    "genz-llm": _Peer("genz_sweep.py", stride=9, repeats=2),  # 9 and 20 share no factor: no sequence is left out
}


def cpu_seconds_of(name: str) -> Measurement:
    """Install a tool by pip, time it on the product of `BATCHES` and `SEQUENCES`, and take it away.

    Raises
    ------
    PeerError
        The tool is unknown, cannot be installed or does not run; the message says which, and what pip or Python said.
    """
    if name not in _PEERS:
        message = f"no such tool: {name!r}; there are {', '.join(_PEERS)}"
        raise PeerError(message)
    with tempfile.TemporaryDirectory(prefix="perfsim-peer-") as folder:
        return _time(name, _install(name, Path(folder)), Path(folder))


def _install(name: str, folder: Path) -> Path:
    """Make a virtual environment with a tool, and give its Python."""
    python = folder / "bin" / "python"
    _output(name, "python -m venv", [sys.executable, "-m", "venv", folder], folder)
    pip = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    _output(name, f"pip install {name}", [python, *pip, name], folder)
    return python


def _time(name: str, python: Path, folder: Path) -> Measurement:
    """Run a tool's script by a Python that has the tool; -E and -s hide what else the user has installed."""
    peer = _PEERS[name]
    points = list(itertools.product(BATCHES.tolist(), SEQUENCES.tolist()))
    asked = json.dumps({"points": points[:: -peer.stride], "repeats": peer.repeats})
    command: list[str | Path] = [python, "-E", "-s", _SCRIPTS / peer.script]
    reply = json.loads(_output(name, peer.script, command, folder, asked).splitlines()[-1])
    seconds = reply["seconds"] * len(points) / reply["points"]
    return Measurement(seconds, reply["version"], reply["points"], tuple(reply["named_point"]), reply["named_point_s"])


def _output(name: str, step: str, command: Sequence[str | Path], folder: Path, text: str = "") -> str:
    """Run one step in a folder and give what it prints, or say which step failed and how."""
    try:
        run = subprocess.run(  # noqa: S603
            command, cwd=folder, input=text, capture_output=True, text=True, timeout=_LONGEST_S, check=True
        )
    except subprocess.CalledProcessError as error:
        said = "; ".join(error.stderr.strip().splitlines()[-3:]) or f"exit status {error.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    else:
        return run.stdout
    message = f"{name} was not measured: {step} failed: {said}. {_WAY_OUT}."
    raise PeerError(message)
