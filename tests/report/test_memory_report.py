"""Memory over time against a slow walk through the timeline, and the plain words about it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.ops.operators import ELEMENT_BYTES
from perfsim.units import GB, format_bytes

PARTS = ["weights_bytes", "kv_cache_bytes", "activation_bytes", "buffer_bytes", "reserve_bytes"]


def storage(graph, producer, output):
    """Follow a tensor back to the operator in whose memory it lies."""
    operator = graph[producer]
    if operator.kind in {"split", "slice", "last", "gather", "output"} or "all_reduce" in operator.op:
        before = next(edge for edge in graph.edges if edge.consumer == producer)
        return storage(graph, before.producer, before.output)
    return producer, output


def lifetimes(result, rows):
    """Give (start, end, bytes) of every activation of a device, from its rows of the timeline and the graph alone."""
    found = []
    when = {(row.microbatch, row.stage, row.layer, row.op): (start, end) for start, end, row in rows}
    for microbatch, sequences in enumerate(result.scenario.microbatch_sizes):
        alive, graph = {}, perfsim.operator_graph(result.scenario, sequences)
        for operator in graph:
            key = (microbatch, operator.stage, operator.layer, operator.op)
            if key not in when:
                continue
            start, end = when[key]
            if operator.kind == "experts":
                rows = math.ceil(operator.work.pairs * operator.work.imbalance) * operator.work.expert_width
                size = ELEMENT_BYTES[operator.inputs[0].dtype]
                found.append((start, end, int(rows * (operator.work.matrices - 1) * size)))
            touched = [(edge.producer, edge.output) for edge in graph.edges if edge.consumer == operator.name]
            if operator.kind != "transfer":
                touched += [(operator.name, output) for output in range(len(operator.outputs))]
            for place in (storage(graph, *tensor) for tensor in touched):
                first, last = alive.get(place, (start, end))
                alive[place] = (min(first, start), max(last, end))
        for (producer, output), (start, end) in alive.items():
            if graph[producer].kind not in {"receive", "transfer"}:
                tensor = graph[producer].outputs[output]
                found.append((start, end, math.prod(tensor.device_shape) * ELEMENT_BYTES[tensor.dtype]))
    return found


def first_devices(scenario):
    """Give the first device of each stage."""
    return [scenario.stage_devices(stage)[0] for stage in range(scenario.plan.pipeline)]


@settings(max_examples=30)
@given(data=st.data())
def test_memory_at_every_instant_is_what_liveness_says(data, steady_results, rows_of, in_ps):
    """What has been begun and is still needed, summed up by a plain loop at every instant, half-open."""
    result = data.draw(steady_results)
    for device in first_devices(result.scenario):
        activations = lifetimes(result, rows_of(result, device))
        expected = {
            now: sum(size for start, end, size in activations if start <= now < end)
            for now in {time for start, end, _ in activations for time in (start, end)}
        }
        frame = result.memory_over_time(device)
        assert dict(zip(in_ps(frame["time_s"]).tolist(), frame["activation_bytes"], strict=True)) == expected
        assert result.memory.loc[device, "activation_bytes"] == max(expected.values())
        assert frame["activation_bytes"].iloc[-1] == 0


@settings(max_examples=25)
@given(data=st.data())
def test_what_lives_at_the_peak_adds_up_to_it(data, small_results):
    """On every device; the peak is the sum of its parts and the most that memory over time shows."""
    result = data.draw(small_results)
    memory = result.memory
    assert (memory[PARTS].sum(axis=1) == memory["peak_bytes"]).all()
    assert (memory["fits"] == (memory["peak_bytes"] <= memory["capacity_bytes"])).all()
    for device in memory.index:
        at_peak = result.memory_at_peak(device)
        assert at_peak["bytes"].sum() == memory.loc[device, "peak_bytes"]
        assert at_peak["bytes"].is_monotonic_decreasing
        assert (at_peak["bytes"] > 0).all()
        assert result.memory_over_time(device)["total_bytes"].max() == memory.loc[device, "peak_bytes"]


@settings(max_examples=20)
@given(data=st.data())
def test_folding_changes_nothing(data, small_scenarios):
    """Every device shows, with the same memory, whether it was simulated or stood for."""
    scenario = data.draw(small_scenarios)
    folded, full = (perfsim.simulate(scenario, detail=detail) for detail in ("folded", "full"))
    assert list(folded.memory.index) == list(range(scenario.plan.num_devices))
    assert folded.memory.equals(full.memory)
    last = scenario.plan.num_devices - 1
    assert folded.memory_over_time(last).equals(full.memory_over_time(last))
    assert folded.memory_at_peak(last).equals(full.memory_at_peak(last))


def test_the_seed_fits_when_kv_is_dropped(results):
    """All weights of the model are there, each GPU has its 1/16 and a few activations of one microbatch."""
    for result in results.values():
        memory, plan = result.memory, result.scenario.plan
        norms = 2 * 8192 * 16
        assert memory["weights_bytes"].sum() == 2 * (result.scenario.model.num_parameters + (plan.tensor - 1) * norms)
        assert (memory["kv_cache_bytes"] == 0).all()
        assert memory["kv_cache_if_kept_bytes"].sum() == 5_368_709_120_000
        assert (memory["kv_cache_if_kept_bytes"] == 335_544_320_000).all()
        assert memory["fits"].all()
        assert not memory["fits_if_kept"].any()
        assert result.fits
        assert (memory["peak_bytes"] < 6 * GB).all()


def test_findings_of_the_dropped_cache_give_the_kept_case_beside_it(improved_result):
    """In plain words: what fits, and what would not."""
    text = "\n".join(improved_result.memory_findings)
    assert "The plan fits" in text
    assert "The KV cache is dropped" in text
    assert "335.5 GB a GPU, 5.369 TB in all; that would not fit" in text
    assert "1024 sequences takes 167.8 GB" in text
    assert "microbatches of 1, 163.8 MB each" in text


def test_a_kept_cache_does_not_fit_and_the_findings_say_by_how_much(improved_result, improved):
    """What is short is the peak less the capacity; what takes most is named."""
    kept = perfsim.simulate(improved.with_(keep_kv_cache=True))
    dropped = improved_result.memory
    assert not kept.fits
    assert not kept.memory["fits"].any()
    assert (kept.memory["peak_bytes"] - dropped["peak_bytes"] == 335_544_320_000).all()
    verdict, _, cache, *_ = kept.memory_findings
    short = (kept.memory["peak_bytes"] - kept.memory["capacity_bytes"]).max()
    assert "does NOT fit on 16 of 16 GPUs" in verdict
    assert f"{short / GB:.1f} GB more than its 85.52 GB" in verdict
    assert "the KV cache with 335.5 GB" in verdict
    assert "is kept: 335.5 GB a GPU, 5.369 TB in all" in cache
    assert "DOES NOT FIT" in str(kept)


def test_a_cache_that_would_fit_is_said_to(improved):
    """Sixteen sequences take 84 GB in all, 5 a GPU."""
    result = perfsim.simulate(improved.with_(batch_size=16))
    assert result.memory["fits_if_kept"].all()
    assert any("5.243 GB a GPU, 83.89 GB in all; that would fit" in line for line in result.memory_findings)


def test_a_batch_in_one_piece_does_not_fit(improved):
    """The largest part is then activations, as the reason for microbatches."""
    result = perfsim.simulate(improved.with_(microbatch_size=1024))
    assert not result.fits
    assert "The largest part is activations" in result.memory_findings[0]


def test_one_stage_alone_may_not_fit(improved):
    """The verdict counts the GPUs that are short and names the worst."""
    scenario = improved.with_(layers_per_stage=(15, 1), keep_kv_cache=True, batch_size=150)
    result = perfsim.simulate(scenario)
    assert result.memory["fits"].tolist() == [False] * 8 + [True] * 8
    assert "does NOT fit on 8 of 16 GPUs: GPU 0 needs" in result.memory_findings[0]
    assert not result.fits


def test_on_chip_findings_of_the_seed(improved_result):
    """A layer's weight shard of 201 MB is not an L2's, tiles are a multiprocessor's."""
    text = "\n".join(improved_result.memory_findings)
    assert "weight shard of 201.4 MB is 3.8 times the 52.43 MB of L2" in text
    assert "working sets none fits there" in text
    assert "Tiles of every operator fit in the shared memory" in text


def test_on_chip_findings_name_what_fits_and_what_does_not(improved):
    """A short sequence's attention is at home in L2; a wide head's tile is not in shared memory."""
    short = improved.with_(sequence_length=16, batch_size=4)
    assert any("attention" in line and "fits there" in line for line in perfsim.simulate(short).memory_findings)
    wide = improved.with_(batch_size=4, num_attention_heads=8, num_key_value_heads=8, head_dim=1024)
    assert any("Tiles of attention do not fit" in line for line in perfsim.simulate(wide).memory_findings)


def test_small_weights_are_said_to_fit_in_l2(improved):
    """Where they do."""
    small = improved.with_(hidden_size=512, num_attention_heads=8, num_key_value_heads=8, head_dim=64, batch_size=4)
    result = perfsim.simulate(small.with_(intermediate_size=2048))
    assert any("fits in the 52.43 MB of L2" in line for line in result.memory_findings)


def test_the_reserve_counts(improved):
    """What the framework keeps is stated and part of the peak."""
    base, more = (
        perfsim.simulate(improved.with_(batch_size=4, reserve_bytes=reserve)).memory for reserve in (0, 10 * GB)
    )
    assert (more["peak_bytes"] - base["peak_bytes"] == 10 * GB).all()
    assert "the framework's reserve" in set(perfsim.simulate(improved.with_(batch_size=4)).memory_at_peak(3)["what"])


@pytest.mark.parametrize("schedule", ["pipelined", "sequential"])
def test_activations_do_not_pile_up(improved, schedule):
    """Two receive buffers hold a fast stage back: a hundred microbatches take what eight take."""
    few, many = (
        perfsim.simulate(improved.with_(batch_size=batch, schedule=schedule, layers_per_stage=(4, 12))).memory
        for batch in (8, 100)
    )
    assert few["peak_bytes"].equals(many["peak_bytes"])


def test_the_hidden_state_is_that_between_the_layers(h100, families):
    """Not the token ids that a model with a vocabulary takes; of a whole batch whatever is shared."""
    for changes in ({}, {"sequence_parallel": True}, {"data": 2}):
        plan = perfsim.Plan(**{"tensor": 2, "microbatch_size": 2, **changes})
        workload = perfsim.Workload(batch_size=8, sequence_length=500)
        result = perfsim.simulate(perfsim.Scenario(h100, families["llama"], plan, workload))
        share = 2 if plan.sequence_parallel else 1
        assert any(
            f"the whole batch of 8 sequences takes {format_bytes(8 * 500 * 256 * 2)}; it goes through in microbatches "
            f"of 2, {format_bytes(2 * 500 * 256 * 2 // share)} each on a GPU." in line
            for line in result.memory_findings
        )


def test_the_cache_of_a_generation_has_the_tokens_that_it_gives(h100, families):
    """All but the last, which nobody looks back on."""
    workload = perfsim.Workload(phase="generation", batch_size=2, sequence_length=100, output_length=11)
    result = perfsim.simulate(perfsim.Scenario(h100, families["llama"], perfsim.Plan(), workload))
    assert any("The KV cache of all 2 x 110 tokens is kept" in line for line in result.memory_findings)
