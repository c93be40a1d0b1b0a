"""Many sizes of one scenario at once: costs by arrays, repetition solved, nothing simulated twice."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from perfsim.memory import activation_buffers, resident_memory
from perfsim.ops.build import sized_graph, tokens_of
from perfsim.ops.flop import matrix_flop
from perfsim.ops.graph import OperatorGraph
from perfsim.schedule.expand import is_too_long, period_of
from perfsim.schedule.program import operator_picoseconds, price_graph
from perfsim.schedule.taskgraph import Lists, Period
from perfsim.schedule.template import Template, make_template
from perfsim.spec.model import Model
from perfsim.spec.plan import Plan
from perfsim.spec.scenario import Scenario
from perfsim.spec.workload import Workload
from perfsim.units import seconds

if TYPE_CHECKING:
    from perfsim.sim.periodic import Lifetimes

__all__ = ["Sizes", "evaluate"]

Integers = NDArray[np.int64]

_MOST = 2.0**61
_MOST_TOKENS = 1e12
"""Of a microbatch; a token has far less than a million bytes of activations in all operators of a layer."""


@dataclass(frozen=True, eq=False)
class Sizes:
    """The sizes of the points, arrays of the same length.

    Attributes
    ----------
    batch_size, sequence_length, microbatch_size : ndarray of int64
        A microbatch size of 0 stands for the scenario's own rule.
    """

    batch_size: Integers
    sequence_length: Integers
    microbatch_size: Integers

    def microbatches(self, plan: Plan) -> tuple[Integers, Integers, Integers]:
        """Full microbatches of one replica, their sequences, and those of a ragged last one (0 where there is none)."""
        replica = self.batch_size // plan.data
        even = -(-replica // plan.pipeline)
        size = np.where(self.microbatch_size > 0, np.minimum(self.microbatch_size, replica), even)
        count, rest = np.divmod(replica, size)
        return count, size, rest

    def where(self, chosen: NDArray[np.bool_]) -> Sizes:
        """The sizes of some of the points."""
        return Sizes(self.batch_size[chosen], self.sequence_length[chosen], self.microbatch_size[chosen])


@dataclass(frozen=True, eq=False)
class _Layout:
    """What does not depend on the prices: the graph of all shapes, the template and what each row waits for."""

    graph: OperatorGraph
    template: Template
    period: Period
    lifetimes: Lifetimes


@dataclass(frozen=True)
class _Structure:
    """What a layout depends on.

    Of a cluster only the domains, which say what tiers a group of devices spans, and the data types in which its
    devices multiply the model's weights.
    """

    model: Model
    plan: Plan
    workload: Workload
    domains: tuple[object, ...]
    precisions: tuple[object, ...]
    shapes: bytes
    scenario: Scenario = field(compare=False)

    @classmethod
    def of(cls, scenario: Scenario, shapes: Integers) -> _Structure:
        domains = scenario.cluster.domains
        precisions = scenario.linear_precision, scenario.attention_precision, scenario.expert_precision
        return cls(scenario.model, scenario.plan, scenario.workload, domains, precisions, shapes.tobytes(), scenario)


@lru_cache(maxsize=2)
def _lay_out(structure: _Structure) -> _Layout:
    """Make a layout, or give the last one again: clusters that differ only in their speeds share it."""
    scenario, shapes = structure.scenario, np.frombuffer(structure.shapes, dtype=np.int64).reshape(-1, 2)
    graph = sized_graph(scenario, tokens_of(scenario, shapes[:, 0].astype(float), shapes[:, 1].astype(float)))
    template = make_template(graph, folded=True)
    return _Layout(graph, template, period_of(template), _lifetimes(template, shapes))


def evaluate(scenario: Scenario, sizes: Sizes) -> dict[str, NDArray[Any]]:
    """Compute every point: the times that `simulate` gives, to the bit, and its memory peaks.

    Parameters
    ----------
    scenario : Scenario
        Its own batch, sequence and microbatch do not matter.
    sizes : Sizes
        Of points that the scenario allows: batches are multiples of its replicas.

    Returns
    -------
    dict of str to ndarray
        ``makespan_s``, ``tokens_per_s``, ``first_sequence_s``, ``mfu``, ``mfu_full_attention``, ``peak_bytes``,
        ``capacity_bytes``, ``fits`` and ``too_long``, which marks work and memory that 64 bits cannot count.
    """
    from perfsim.sim.periodic import Points, solve_points

    replica_batch = sizes.batch_size // scenario.plan.data
    count, microbatch, rest = sizes.microbatches(scenario.plan)
    too_large = _is_too_large(scenario, replica_batch, microbatch, sizes.sequence_length)
    sequence = np.where(too_large, 1, sizes.sequence_length)
    shapes, shape, rest_shape = _shapes(microbatch, rest, sequence)
    layout = _lay_out(_Structure.of(scenario, shapes))
    priced = operator_picoseconds(price_graph(layout.graph, scenario), len(shapes))
    duration_ps = priced[:, layout.template.operator]
    once_ps = duration_ps.sum(axis=1, dtype=float)
    too_long = too_large | is_too_long(once_ps[shape] * count + np.where(rest > 0, once_ps[rest_shape], 0.0))
    points = Points(shape, rest_shape, np.where(too_long, 1, count))
    order = np.lexsort((points.repeats, points.rest, points.shape))
    makespan_ps, first_ps, activation_bytes = (
        _restore(solved, order)
        for solved in solve_points(
            layout.period, duration_ps, layout.lifetimes, Points(*(part[order] for part in points))
        )
    )
    resident = resident_memory(scenario, layout.graph, replica_batch, sequence)
    peaks = [
        stage.weights_bytes + stage.kv_cache_bytes + stage.reserve_bytes + _of_shape(stage.buffer_bytes, shape)
        for stage in resident
    ]
    peak_bytes, capacity_bytes = _fullest(scenario, [fixed + activation_bytes[:, i] for i, fixed in enumerate(peaks)])
    return {
        **_figures(scenario, sizes, seconds(makespan_ps)),
        "first_sequence_s": seconds(first_ps),
        "peak_bytes": peak_bytes,
        "capacity_bytes": capacity_bytes,
        "fits": peak_bytes <= capacity_bytes,
        "too_long": too_long,
    }


def _fullest(scenario: Scenario, peaks: list[Any]) -> tuple[Integers, Integers]:
    """Peak and capacity of the stage with the least room; kinds of device may differ from stage to stage."""
    capacity = np.array([scenario.segment(stage).accelerator.memory_bytes for stage in range(len(peaks))])
    found = np.array(np.broadcast_arrays(*peaks)).astype(np.int64)
    stage = (found - capacity[:, None]).argmax(axis=0)
    return found[stage, np.arange(found.shape[1])], capacity[stage]


def _is_too_large(scenario: Scenario, batch: Integers, microbatch: Integers, sequence: Integers) -> NDArray[np.bool_]:
    """Whether 64 bits cannot count the bytes of a KV cache, or of a microbatch, with room for sums of them."""
    token_bytes = scenario.model.kv_cache_bytes_per_token(scenario.kv_dtype)
    cached_bytes = batch.astype(float) * sequence * token_bytes
    return (cached_bytes > _MOST) | (microbatch.astype(float) * sequence > _MOST_TOKENS)


def _shapes(microbatch: Integers, rest: Integers, sequence: Integers) -> tuple[Integers, Integers, Integers]:
    """The distinct shapes of microbatches, and the indices of each point's usual and last one (-1 where they agree)."""
    width = int(sequence.max()) + 1
    ragged = rest > 0
    keys = np.concatenate([microbatch * width + sequence, (rest * width + sequence)[ragged]])
    unique, inverse = np.unique(keys, return_inverse=True)
    rest_shape = np.full(len(microbatch), -1)
    rest_shape[ragged] = inverse[len(microbatch) :]
    return np.stack(np.divmod(unique, width), axis=1), inverse[: len(microbatch)], rest_shape


def _restore(values: Integers, order: Integers) -> Integers:
    restored = np.empty_like(values)
    restored[order] = values
    return restored


def _of_shape(values: object, shape: Integers) -> Integers:
    """The value for each point's shape of a quantity that may be the same for all."""
    array = np.asarray(values)
    return array[shape] if array.ndim else np.broadcast_to(array, shape.shape)


def _lifetimes(template: Template, shapes: Integers) -> Lifetimes:
    """Activations of a microbatch in terms of the template's rows; each stage is a place."""
    from perfsim.sim.periodic import Lifetimes

    buffers = activation_buffers(template.graph)
    row_of = {int(operator): row for row, operator in enumerate(template.operator)}
    users = Lists.of([[row_of[user] for user in buffer.users] for buffer in buffers])
    size_bytes = np.empty((len(buffers), len(shapes)), dtype=np.int64)
    for row, buffer in zip(size_bytes, buffers, strict=True):
        row[:] = buffer.bytes
    return Lifetimes(
        place=np.array([buffer.stage for buffer in buffers]),
        allocated_by=np.array([row_of[buffer.allocated_by] for buffer in buffers]),
        offsets=users.offsets.astype(np.int64),
        users=users.values.astype(np.int64),
        size_bytes=np.ascontiguousarray(size_bytes.T),
    )


def _figures(scenario: Scenario, sizes: Sizes, makespan_s: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """What follows from the makespan."""
    workload = scenario.workload
    query = 1 if workload.phase == "decode" else sizes.sequence_length
    available = makespan_s * scenario.peak_flop_per_s
    batch, sequence = sizes.batch_size.astype(float), sizes.sequence_length.astype(float)
    full = dataclasses.replace(workload, causal=False)
    return {
        "makespan_s": makespan_s,
        "tokens_per_s": sizes.batch_size * query / makespan_s,
        "mfu": matrix_flop(scenario.model, workload, batch, sequence) / available,
        "mfu_full_attention": matrix_flop(scenario.model, full, batch, sequence) / available,
    }
