"""The engines by themselves: tasks a second, beside the memory's bandwidth, and how time and memory grow."""

from __future__ import annotations

from collections.abc import Iterator

import perfsim
from benchmarks.measure import Figure, bandwidth_bytes_per_s, cpu_seconds
from perfsim.schedule.program import make_program
from perfsim.schedule.taskgraph import TaskGraph
from perfsim.sim.compiled import run_compiled
from perfsim.sim.events import run_simpy

__all__ = ["figures"]

_BATCHES = {"1e5": 76, "1e6": 758, "1e7": 7576}
"""Batches of the improved plan, one sequence a microbatch, with about so many tasks on all sixteen GPUs."""


def figures() -> Iterator[Figure]:
    """Time the compiled engine at three sizes and SimPy at the smallest."""
    group = "Engine"
    bandwidth = bandwidth_bytes_per_s()
    yield Figure(group, "memory bandwidth of one core, copy", bandwidth / 1e9, "GB/s")
    seconds_per_task, bytes_per_task = {}, {}
    for size, batch in _BATCHES.items():
        graph = _graph(batch)
        seconds = cpu_seconds(lambda graph=graph: run_compiled(graph))
        seconds_per_task[size] = seconds / graph.num_tasks
        bytes_per_task[size] = _held_bytes(graph) / graph.num_tasks
        rate, goal = graph.num_tasks / seconds / 1e6, None if size == "1e5" else 300
        yield Figure(group, f"compiled, {size} tasks", rate, "million tasks/s", goal, at_least=True)
        share = _touched_bytes(graph) / seconds / bandwidth
        yield Figure(group, f"compiled, {size} tasks: bytes touched over the bandwidth", 100 * share, "%")
    growth = max(seconds_per_task.values()) / min(seconds_per_task.values())
    yield Figure(group, "time a task, slowest over fastest from 1e5 to 1e7 tasks", growth, "times", 1.5)
    yield Figure(group, "memory a task at 1e7 tasks", bytes_per_task["1e7"], "bytes", 64)
    growth = max(bytes_per_task.values()) / min(bytes_per_task.values())
    yield Figure(group, "memory a task, most over least from 1e5 to 1e7 tasks", growth, "times")
    small = _graph(_BATCHES["1e5"])
    seconds = cpu_seconds(lambda: run_simpy(small), repeats=1)
    yield Figure(group, "SimPy, 1e5 tasks: time a task", 1e6 * seconds / small.num_tasks, "microseconds", 10)
    ratio = seconds / small.num_tasks / seconds_per_task["1e5"]
    yield Figure(group, "compiled over SimPy, 1e5 tasks", ratio, "times")


def _graph(batch: int) -> TaskGraph:
    scenario = perfsim.load_scenario("seed-improved").with_(batch_size=batch)
    return make_program(scenario, folded=False).task_graph


def _touched_bytes(graph: TaskGraph) -> int:
    """Bytes that one pass reads and writes at least: durations, predecessors and their offsets, ends."""
    before = graph.predecessors
    return graph.duration_ps.nbytes + before.offsets.nbytes + before.values.nbytes + 8 * graph.num_tasks


def _held_bytes(graph: TaskGraph) -> int:
    """Bytes of all columns of a graph, and of the ends."""
    lists = (graph.streams, graph.dependencies, graph.predecessors)
    columns = (graph.duration_ps, graph.label, graph.microbatch)
    held = sum(part.offsets.nbytes + part.values.nbytes for part in lists)
    return held + sum(column.nbytes for column in columns) + 8 * graph.num_tasks
