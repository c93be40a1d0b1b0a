"""Sweeps: points a second of perfsim, beside other tools on the same points."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import perfsim
from benchmarks import peers
from benchmarks.measure import Figure, cpu_seconds

__all__ = ["figures"]

_BATCHES, _SEQUENCES = 16 * np.arange(1, 101), 128 * np.arange(1, 101)


def figures(*, with_peers: bool = True) -> Iterator[Figure]:
    """Time 10,000 points of several plans, and the points that other tools are given."""
    group, improved = "Sweeps", perfsim.load_scenario("seed-improved")
    plans = {
        "improved plan": (improved, 300_000),
        "uneven stages (5 and 11 layers)": (improved.with_(layers_per_stage=(5, 11)), 30_000),
        "sequential schedule": (improved.with_(schedule="sequential"), 30_000),
        "TP4 x PP4, stages of 3, 5, 6 and 2 layers": (
            improved.with_(tensor=4, pipeline=4, layers_per_stage=(3, 5, 6, 2)),
            30_000,
        ),
        "a shape of its own for each point": (improved.with_(microbatch_size=None), None),
    }
    for name, (scenario, goal) in plans.items():
        seconds = cpu_seconds(lambda scenario=scenario: _sweep(scenario, _BATCHES, _SEQUENCES), repeats=3)
        rate = len(_BATCHES) * len(_SEQUENCES) / seconds
        yield Figure(group, f"batch x sequence, 10,000 points: {name}", rate, "points/s", goal, at_least=True)
    tiers = np.linspace(1e11, 1e12, 200)
    seconds = cpu_seconds(lambda: perfsim.sweep(improved, progress=False, **{"cluster.tiers.0.bytes_per_s": tiers}), 2)
    yield Figure(group, "NVLink bandwidth, 200 points", len(tiers) / seconds, "points/s")
    if with_peers:
        seconds = cpu_seconds(lambda: _sweep(improved, peers.BATCHES, peers.SEQUENCES))
        points = len(peers.BATCHES) * len(peers.SEQUENCES)
        yield Figure(group, f"perfsim, the {points} points that peers get", points / seconds, "points/s")
        for peer, goal in (("llm-analysis", 50), ("genz-llm", 10_000)):
            theirs = peers.cpu_seconds_of(peer)
            of_them = "the same points" if theirs.points == points else f"an even sample of {theirs.points} of them"
            yield Figure(group, f"{peer} {theirs.version}, {of_them}", points / theirs.seconds, "points/s")
            batch, sequence = theirs.named_point
            yield Figure(group, f"{peer}: its makespan of {batch} x {sequence}, H100", theirs.named_point_s, "s")
            ratio = theirs.seconds / seconds
            yield Figure(group, f"perfsim over {peer}, CPU time", ratio, "times", goal, at_least=True)


def _sweep(scenario: perfsim.Scenario, batches: np.ndarray, sequences: np.ndarray) -> None:
    perfsim.sweep(scenario, batch_size=batches, sequence_length=sequences, progress=False)
