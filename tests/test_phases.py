"""Prefill, decode and generation: layer times are sums, generations are their steps, latencies are what they are."""

import dataclasses
import math

import numpy as np
import pytest

import perfsim
from perfsim.cost import price
from perfsim.ops.build import operator_graph
from perfsim.ops.flop import closed_form_flop
from perfsim.units import picoseconds


def scenario_of(cluster, model, plan=None, **workload):
    """Make a scenario."""
    return perfsim.Scenario(cluster, model, perfsim.Plan(**(plan or {})), perfsim.Workload(**workload))


def generation_of(cluster, model, plan, *, batch_size=6, prompt=200, tokens=4):
    """Simulate a generation."""
    return perfsim.simulate(
        scenario_of(cluster, model, plan, phase="generation", batch_size=batch_size, sequence_length=prompt,
                    output_length=tokens)
    )  # fmt: skip


def steps_of(result):
    """Simulate the prefill and every decode step of a generation by itself."""
    scenario = result.scenario
    lengths = [scenario.workload.sequence_length + step for step in range(scenario.workload.output_length)]
    return [
        perfsim.simulate(scenario.with_(phase="decode" if step else "prefill", sequence_length=length, output_length=1))
        for step, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_one_gpu_takes_the_sum_of_its_operators(family, h100, phase):
    """Each rounded to picoseconds, for the size of its microbatch; nothing runs beside anything else."""
    scenario = scenario_of(h100, family, {"microbatch_size": 3}, phase=phase, batch_size=7, sequence_length=300)
    total = 0
    for size in (3, 3, 1):
        for operator in operator_graph(scenario, size):
            total += int(picoseconds(float(price(operator.work, h100).seconds)))
    assert perfsim.simulate(scenario).run.makespan_ps == total


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_one_layer_takes_the_sum_of_its_operators(family, h100, phase):
    """The difference that a layer more makes to a stack of layers of its kind."""
    for index, kind in enumerate(family.layers):
        flags = {"windowed_layers": kind.window is not None, "expert_layers": kind.experts}
        alike = {name: (flag,) * 2 for name, flag in flags.items() if getattr(family, name)}
        two = dataclasses.replace(family, num_hidden_layers=2, **alike)
        one = dataclasses.replace(two, num_hidden_layers=1, **{name: pair[:1] for name, pair in alike.items()})
        assert two.layers[0] == one.layers[0] == family.layers[index]
        workload = {"phase": phase, "batch_size": 3, "sequence_length": 300}
        makespans = [perfsim.simulate(scenario_of(h100, model, **workload)).run.makespan_ps for model in (one, two)]
        works = [o.work for o in operator_graph(scenario_of(h100, one, **workload)) if o.layer == 0]
        layer_ps = sum(int(picoseconds(float(price(work, h100).seconds))) for work in works)
        assert makespans[1] - makespans[0] == layer_ps


@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_a_generation_on_one_gpu_is_its_prefill_and_its_steps(family, h100, microbatch_size):
    """To the picosecond, with ragged microbatches too."""
    result = generation_of(h100, family, {"microbatch_size": microbatch_size})
    assert result.run.makespan_ps == sum(step.run.makespan_ps for step in steps_of(result))


PLANS = {
    "tensor": {"tensor": 4},
    "sequence": {"tensor": 2, "sequence_parallel": True, "overlap_chunks": 2},
    "pipeline": {"tensor": 2, "pipeline": 2, "microbatch_size": 6},
    "data": {"data": 3, "tensor": 2},
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_generation_of_one_microbatch_is_its_prefill_and_its_steps(h100, families, plan):
    """Each step waits for the token of the one before, whatever the ranks do together."""
    result = generation_of(h100, families["llama"], plan)
    assert result.scenario.num_microbatches == 1
    assert result.run.makespan_ps == sum(step.run.makespan_ps for step in steps_of(result))


def test_a_generation_of_a_mixture_across_replicas_is_its_prefill_and_its_steps(h100, families):
    """Whose experts are shared by all."""
    result = generation_of(h100, families["deepseek"], {"tensor": 2, "data": 2, "expert": 4})
    assert result.run.makespan_ps == sum(step.run.makespan_ps for step in steps_of(result))


@pytest.mark.parametrize(("virtual", "schedule"), [(1, "pipelined"), (2, "pipelined"), (1, "sequential")])
def test_microbatches_of_a_generation_fill_the_pipeline(h100, families, virtual, schedule):
    """Steps follow each other without draining it: no slower than one by one, no faster than the busiest stage."""
    plan = {"pipeline": 2, "tensor": 2, "microbatch_size": 2, "virtual_stages": virtual, "schedule": schedule}
    result = generation_of(h100, families["llama"], plan, batch_size=8)
    steps = steps_of(result)
    assert result.run.makespan_ps <= sum(step.run.makespan_ps for step in steps)
    busy_s = sum(step.load_balance["compute_s"] for step in steps).max()
    assert result.makespan_s >= busy_s
    first = sum(step.run.end_ps[0].max() for step in steps)
    assert result.run.makespan_ps >= first
    if schedule == "pipelined":
        assert result.run.makespan_ps < sum(step.run.makespan_ps for step in steps)


def test_every_step_of_a_microbatch_starts_when_its_token_is_there(h100, families):
    """In the order of the microbatches, on the timeline."""
    plan = {"pipeline": 2, "microbatch_size": 2}
    result = generation_of(h100, families["llama"], plan, batch_size=6, tokens=5)
    count, starts, ends = result.scenario.num_microbatches, result.run.start_ps, result.run.end_ps
    assert len(ends) == 5 * count
    assert (starts[count:].min(axis=1) >= ends[:-count].max(axis=1)).all()


def test_each_step_of_a_generation_is_priced_at_its_own_context(h100, families):
    """Attention takes longer from token to token, nothing else does."""
    result = generation_of(h100, families["llama"], {}, prompt=20_000, tokens=6)
    operators = result.run.operators
    lengths = result.run.end_ps - result.run.start_ps
    for row, index in enumerate(result.run.program.template.operator):
        steps = lengths[1:, row].tolist()
        if operators[index].kind == "attention":
            assert steps == sorted(steps)
            assert steps[0] < steps[-1]
        else:
            assert len(set(steps)) == 1


def left_by_hand(result, step):
    """Give when each microbatch has the token of a step, from the table of executions."""
    count, frame = result.scenario.num_microbatches, result.timeline
    rows = frame[frame["microbatch"].between(step * count, (step + 1) * count - 1)]
    return rows.groupby("microbatch")["end_s"].max().to_numpy()


@pytest.mark.parametrize(
    "plan", [{}, {"pipeline": 2, "microbatch_size": 4}, {"data": 2, "microbatch_size": 3}], ids=str
)
@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_latencies_of_a_generation(h100, families, plan, tokens):
    """Means over sequences: until the first token, and from token to token; a ragged microbatch weighs less."""
    result = generation_of(h100, families["llama"], plan, batch_size=10, tokens=tokens)
    sizes = result.scenario.microbatch_sizes
    first, last = (np.average(left_by_hand(result, step), weights=sizes) for step in (0, tokens - 1))
    assert result.ttft_s == pytest.approx(first, rel=1e-12)
    if tokens == 1:
        assert math.isnan(result.tpot_s)
        assert result.makespan_s == steps_of(result)[0].makespan_s
    else:
        assert result.tpot_s == pytest.approx((last - first) / (tokens - 1), rel=1e-12)
    assert result.tokens_per_s == 10 * tokens / result.makespan_s
    assert result.summary["ttft_s"] == result.ttft_s


def test_latencies_of_single_phases(h100, families):
    """A prefill has a first token and no further ones; a step of decode is one token."""
    prefill, decode = (
        perfsim.simulate(scenario_of(h100, families["llama"], phase=phase, batch_size=4, sequence_length=100))
        for phase in ("prefill", "decode")
    )
    assert prefill.ttft_s == prefill.makespan_s
    assert math.isnan(prefill.tpot_s)
    assert math.isnan(decode.ttft_s)
    assert decode.tpot_s == decode.makespan_s
    assert decode.tokens_per_s == 4 / decode.makespan_s


def test_flop_of_a_generation_are_those_of_its_steps(family, h100):
    """In closed form, and in the utilization."""
    result = generation_of(h100, family, {"tensor": 2})
    workload = result.scenario.workload
    steps = [
        dataclasses.replace(
            workload, phase="decode" if step else "prefill", sequence_length=200 + step, output_length=1
        )
        for step in range(4)
    ]
    total = sum(closed_form_flop(family, step) for step in steps)
    assert closed_form_flop(family, workload) == pytest.approx(total, rel=1e-14)
    assert result.mfu == pytest.approx(total / (result.makespan_s * result.scenario.peak_flop_per_s))


def test_a_prompt_of_one_token_attends_as_a_step_of_decode_does(h100, families):
    """Latent attention, too: there is one query, and it meets the latent vectors."""
    prompt, step = (
        perfsim.simulate(scenario_of(h100, families["deepseek"], {"tensor": 2}, phase=phase, batch_size=4,
                                     sequence_length=1))
        for phase in ("prefill", "decode")
    )  # fmt: skip
    assert prompt.dag.verify().passed
    assert prompt.makespan_s == step.makespan_s
    assert prompt.mfu == step.mfu


def test_memory_of_a_generation_is_that_of_its_longest_context(h100, families):
    """The cache of all tokens but the last, and the activations of the prefill."""
    plan, model = {"tensor": 2, "pipeline": 2, "microbatch_size": 3}, families["llama"]
    result = generation_of(h100, model, plan, tokens=9)
    prefill, *_, last = steps_of(result)
    assert (result.memory["kv_cache_bytes"] == last.memory["kv_cache_bytes"]).all()
    assert (result.memory["kv_cache_bytes"] > prefill.memory["kv_cache_bytes"]).all()
    assert (result.memory["activation_bytes"] >= prefill.memory["activation_bytes"]).all()
