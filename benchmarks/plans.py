"""Whole simulations: the reference deployment in full detail, thousands of GPUs, and the start of a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import perfsim
from benchmarks.measure import Figure, cpu_seconds, cpu_seconds_once, python_seconds

__all__ = ["figures"]

_FIRST = 'import perfsim; perfsim.simulate(perfsim.load_scenario("seed-improved")).makespan_s'
# Numba loads with the engine, before the clock starts.
_COLD = """
import time, perfsim, perfsim.sim.compiled
scenario = perfsim.load_scenario("seed-improved")
began = time.process_time()
perfsim.simulate(scenario, detail="full")
print(time.process_time() - began)
"""


def figures() -> Iterator[Figure]:
    """Time plans as `simulate` runs them."""
    group, improved = "Plans", perfsim.load_scenario("seed-improved")
    full = perfsim.simulate(improved, detail="full")
    tasks = full.run.timeline.graph.num_tasks
    seconds = cpu_seconds(lambda: perfsim.simulate(improved, detail="full"))
    yield Figure(group, f"seed-improved, full detail ({tasks:,} tasks): built and run", 1e3 * seconds, "ms", 50)
    yield Figure(group, "the same, folded", 1e3 * cpu_seconds(lambda: perfsim.simulate(improved)), "ms")
    seconds = min(_memory_seconds(improved) for _ in range(3))
    yield Figure(group, "its memory over time by liveness, all GPUs", 1e3 * seconds, "ms", 150)
    seconds = cpu_seconds(lambda: perfsim.simulate(_large()), repeats=3)
    yield Figure(group, "16,384 GPUs (TP8 x PP16 x DP128, 64 microbatches), folded", seconds, "s", 0.3)
    group = "Start-up"
    yield Figure(group, "python -c pass", python_seconds("pass"), "s")
    yield Figure(group, "import pandas", python_seconds("import pandas"), "s")
    yield Figure(group, "import perfsim", python_seconds("import perfsim"), "s", 0.6)
    python_seconds(_FIRST, repeats=1)  # fills the cache of compiled code
    yield Figure(group, "first simulate in a new process, compiled code cached", python_seconds(_FIRST), "s", 1.5)
    yield Figure(
        group, "full detail, first in a process: Numba loaded, compiled code cached", _cold_seconds(), "s", 0.3
    )


def _memory_seconds(scenario: perfsim.Scenario) -> float:
    result = perfsim.simulate(scenario, detail="full")
    return cpu_seconds_once(lambda: result.memory)


def _cold_seconds() -> float:
    command = [sys.executable, "-c", _COLD]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(3)]  # noqa: S603
    return min(float(run.stdout) for run in runs)


def _large() -> perfsim.Scenario:
    cluster = perfsim.load_cluster("dgx-h100", num_devices=16_384)
    plan = perfsim.Plan(tensor=8, pipeline=16, data=128, microbatch_size=1)
    workload = perfsim.Workload(batch_size=128 * 64, sequence_length=10_000, keep_kv_cache=False)
    return perfsim.Scenario(cluster, perfsim.load_model("llm-16l-8192"), plan, workload)
