"""Tables give the costs themselves by count, and come near them in between; they ask only for what is needed."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim.cost import attention_seconds, matmul_seconds
from perfsim.errors import SimulationError
from perfsim.serving.policies import Engine
from perfsim.serving.run import Service, run_service
from perfsim.serving.sequence import Chunk, Sequence, Step
from perfsim.serving.tables import StepTables
from perfsim.serving.traffic import ClosedLoop
from perfsim.serving.world import rules_of


class Dense:
    """Step costs of a dense model of eight GPUs from perfsim's own cost functions, without its collectives."""

    num_layers = 80
    max_context_tokens = 131_072
    lanes = 1

    def __init__(self):
        """Use H100s; eight share the heads and the columns."""
        self.cluster = perfsim.load_cluster("dgx-h100")
        self.points = 0

    def linear_s(self, tokens, *, prompts):
        """Four matmuls of a layer."""
        self.points += len(tokens)
        shapes = ((1280, 8192), (8192, 1024), (7168, 8192), (8192, 3584))
        return 80 * sum(matmul_seconds(self.cluster, m=tokens, n=n, k=k) for n, k in shapes)

    def head_s(self, sequences):
        """One matmul."""
        return matmul_seconds(self.cluster, m=sequences, n=16_032, k=8192)

    def decode_attention_s(self, sequences, context_tokens):
        """As if all had the mean context."""
        self.points += len(sequences)
        return 80 * self._attention(sequences, 1, context_tokens / sequences)

    def prefill_attention_s(self, new_tokens, context_tokens):
        """One sequence."""
        self.points += len(new_tokens)
        return 80 * self._attention(1, new_tokens, context_tokens)

    def _attention(self, batch, query, context):
        heads = {"num_heads": 8, "num_kv_heads": 1, "head_dim": 128}
        return attention_seconds(self.cluster, batch=batch, query_tokens=query, context_tokens=context, **heads)


@pytest.fixture(scope="module")
def dense():
    """Give costs from perfsim's own cost functions."""
    return Dense()


def step_of(decodes, context, *chunks):
    """Make a step of some decodes that see `context` keys, and chunks of (new, before) tokens."""
    base, rest = divmod(context, max(decodes, 1))
    sequences = [Sequence(0, 1, 9, -1, 0, cached=base - 1 + (number < rest)) for number in range(decodes)]
    parts = [Chunk(Sequence(0, 1, 1, -1, 0, target=new + before), new, before) for new, before in chunks]
    return Step(sequences, parts)


def seconds(costs, step):
    """Give the time of a step from a fresh table, and what the costs themselves say."""
    tables = StepTables(costs)
    tables.reserve(sequences=300, tokens=20_000, context_tokens=40_000)
    found = tables.step_ps(rules_of(Engine(times="none"), costs.num_layers), step) / 1e12
    tokens, decodes = np.array([float(step.tokens)]), np.array([float(len(step.decodes))])
    wanted = costs.linear_s(tokens + decodes, prompts=bool(step.chunks)) + costs.head_s(decodes + step.ended)
    if step.decodes:
        wanted = wanted + costs.decode_attention_s(decodes, np.array([float(step.context)]))
    for chunk in step.chunks:
        new = np.array([float(chunk.new)])
        wanted = wanted + costs.prefill_attention_s(new, new + chunk.before)
    return found, float(wanted[0])


@given(tokens=st.integers(1, 16_000), decodes=st.integers(0, 256))
def test_whole_prompts_are_exact(costs, tokens, decodes):
    """At every count of tokens; decode attention is straight here, so its interpolation is exact too."""
    found, wanted = seconds(costs, step_of(decodes, 1500 * decodes, (tokens, 0)))
    assert found == pytest.approx(wanted, rel=1e-9)


@given(decodes=st.integers(1, 256), mean=st.integers(1, 30_000), rest=st.integers(0, 255))
def test_decodes_of_a_straight_cost_are_exact(costs, decodes, mean, rest):
    """Any sum of contexts."""
    found, wanted = seconds(costs, step_of(decodes, decodes * mean + rest % decodes))
    assert found == pytest.approx(wanted, rel=1e-9)


@given(new=st.integers(1, 8192), before=st.integers(1, 30_000))
def test_chunks_of_a_curved_cost_are_near(costs, new, before):
    """Between knots a sixteenth apart the square of the new tokens is off by less than one in a thousand."""
    found, wanted = seconds(costs, step_of(0, 0, (new, before)))
    assert found == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("decodes", [1, 33, 256])
def test_tables_come_near_perfsims_own_costs(dense, decodes):
    """Fitted kernels jump where a tile or a split more is due; interpolation smooths that, and is right on the mean."""
    random = np.random.default_rng(decodes)
    errors = []
    for context in random.integers(1, 16_000, 150).tolist():
        chunks = [(int(random.integers(16, 4096)), int(random.integers(1, 8192)))] * (context % 2)
        found, wanted = seconds(dense, step_of(decodes, decodes * context, *chunks))
        errors.append(abs(found / wanted - 1))
    assert np.mean(errors) < 0.002
    assert np.max(errors) < 0.07


def test_only_what_is_needed_is_computed(dense):
    """A closed loop of 64 clients asks for a part of the entries; a second run for none."""
    service = Service.of(dense, Engine("trtllm"))
    traffic = ClosedLoop(concurrency=64, prompt_tokens=1024, output_tokens=256)
    before = dense.points
    run_service(service, traffic.requests())
    first = dense.points - before
    run_service(service, dataclasses.replace(traffic, seed=0).requests())
    assert dense.points - before == first
    known = np.isfinite(service.tables.arrays.decode).mean()
    assert 100 < first < 20_000
    assert 0.01 < known < 0.3


def test_tables_grow_and_remember(costs):
    """Larger engines find what smaller ones have asked for."""
    tables = StepTables(costs)
    tables.reserve(sequences=10, tokens=100, context_tokens=100)
    rules, step = rules_of(Engine(times="none"), 80), step_of(7, 400, (50, 0))
    found = tables.step_ps(rules, step)
    known = {name: np.nansum(getattr(tables.arrays, name)) for name in ("counts", "decode", "chunk")}
    tables.reserve(sequences=100, tokens=50, context_tokens=5000)
    assert {name: np.nansum(getattr(tables.arrays, name)) for name in known} == pytest.approx(known)
    assert tables.arrays.counts.shape == (1, 4, 101)
    assert tables.step_ps(rules, step) == found


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_costs_that_are_no_times_are_refused(costs, wrong):
    """Instead of being asked for again and again."""

    class Broken(type(costs)):
        def head_s(self, sequences):
            return np.full(np.shape(sequences), wrong)

    with pytest.raises(SimulationError, match="finite and not negative"):
        run_service(Service.of(Broken(), Engine()), ClosedLoop(prompt_tokens=9, output_tokens=9).requests())
