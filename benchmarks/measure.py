"""How things are timed, what the machine is, and how a measured figure stands beside its goal."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

__all__ = [
    "Figure",
    "bandwidth_bytes_per_s",
    "cpu_seconds",
    "cpu_seconds_once",
    "machine",
    "markdown",
    "python_seconds",
]

_WHOLE = 100
"""From here on three digits need no decimal point."""


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes
    ----------
    group, name : str
    value : float
    unit : str
    goal : float or None
        None for figures that only give others their scale.
    at_least : bool
        Whether the goal is a least value; else it is a greatest.
    """

    group: str
    name: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is met."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def cpu_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """CPU time of a call, the least of several after one to warm up: what else the machine does only adds to it."""
    function()
    return min(cpu_seconds_once(function) for _ in range(repeats))


def cpu_seconds_once(function: Callable[[], object]) -> float:
    """CPU time of one call, user and system, of all threads; for what keeps its result and so cannot be repeated."""
    began = time.process_time()
    function()
    return time.process_time() - began


def python_seconds(code: str, repeats: int = 5) -> float:
    """Wall time of some code in a new Python process, the least of several; the interpreter's own start counts."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603
        times.append(time.perf_counter() - began)
    return min(times)


def bandwidth_bytes_per_s(num_bytes: int = 2**28) -> float:
    """Bandwidth of this machine's memory to one core: a copy, bytes read and written counted."""
    source, target = np.ones(num_bytes // 8), np.empty(num_bytes // 8)
    return 2 * num_bytes / cpu_seconds(lambda: np.copyto(target, source))


def machine() -> dict[str, str]:
    """What a figure depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("perfsim", "numpy", "numba", "pandas", "simpy"))
    return {
        "Processor": f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores",
        "Memory": f"{memory:.0f} GiB",
        "System": f"{platform.system()} {platform.machine()}",
        "Python": f"{platform.python_version()}; {packages}",
        "Load before": f"{os.getloadavg()[0]:.1f}",
    }


def markdown(figures: Iterable[Figure]) -> str:
    """Write figures as a table."""
    lines = ["| Group | Figure | Measured | Goal | |", "|---|---|---|---|---|"]
    for figure in figures:
        word = "at least" if figure.at_least else "at most"
        goal = "" if figure.goal is None else f"{word} {_number(figure.goal)} {figure.unit}"
        verdict = {None: "", True: "met", False: "**missed**"}[figure.met]
        lines.append(f"| {figure.group} | {figure.name} | {_number(figure.value)} {figure.unit} | {goal} | {verdict} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= _WHOLE else f"{value:.3g}"
