"""Time and memory of many scenarios at once are those of one simulation each."""

from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.study.figures import estimates, figures, has_period, stage_memory


def simulated(scenario):
    """Give makespan, peak and capacity of the device with the least room, from a simulation."""
    result = perfsim.simulate(scenario)
    room = result.memory["capacity_bytes"] - result.memory["peak_bytes"]
    worst = result.memory.loc[room.idxmin()]
    return result.makespan_s, worst["peak_bytes"], worst["capacity_bytes"]


def resized(scenario):
    """Give the scenario with other batches and microbatches, and one with another sequence."""
    data = scenario.plan.data
    return [
        scenario, scenario.with_(batch_size=5 * data, microbatch_size=2), scenario.with_(batch_size=data),
        scenario.with_(sequence_length=2 * scenario.workload.sequence_length),
    ]  # fmt: skip


@settings(max_examples=25)
@given(data=st.data())
def test_figures_are_those_of_simulate(data, small_scenarios):
    """To the bit, in the order in which they were asked for."""
    scenario = data.draw(small_scenarios)
    asked = [scenario]
    if has_period(scenario) and scenario.plan.overlap_chunks == 1:
        asked = resized(scenario)
    assert [tuple(found) for found in figures(asked)] == [simulated(one) for one in asked]


@settings(max_examples=25)
@given(data=st.data())
def test_stages_have_the_memory_of_the_report(data, small_scenarios):
    """Part by part."""
    scenario = data.draw(small_scenarios)
    memory = perfsim.simulate(scenario).memory.groupby("stage").max()
    for found, (_, wanted) in zip(stage_memory(scenario), memory.iterrows(), strict=True):
        parts = (found.peak_bytes, found.activation_bytes, found.resident.weights_bytes, found.resident.kv_cache_bytes)
        names = ("peak_bytes", "activation_bytes", "weights_bytes", "kv_cache_bytes")
        assert parts == tuple(wanted[name] for name in names)
        assert found.fits == wanted["fits"]


def test_a_few_rounds_stand_for_a_long_batch(h100, families):
    """Of one-by-one microbatches with a ragged last one, in a long generation too."""
    plan = perfsim.Plan(tensor=2, pipeline=2, data=2, microbatch_size=3)
    workload = perfsim.Workload(phase="generation", batch_size=214, sequence_length=64, output_length=6)
    scenario = perfsim.Scenario(h100, families["llama"], plan, workload)
    wanted = perfsim.simulate(scenario).memory.groupby("stage")["peak_bytes"].max()
    assert [stage.peak_bytes for stage in stage_memory(scenario)] == wanted.tolist()


def test_the_largest_part_is_named(improved):
    """Whatever it is."""
    (stage, _) = stage_memory(improved)
    assert stage.largest_part == ("the framework's reserve", 2**31)
    (stage, _) = stage_memory(improved.with_(keep_kv_cache=True))
    assert stage.largest_part == ("the KV cache", 335_544_320_000)
    assert not stage.fits
    (_, stage) = stage_memory(improved.with_(microbatch_size=64))
    assert stage.largest_part[0] == "activations"


def test_work_beyond_counting_has_no_figures(improved):
    """The others of its group have theirs."""
    long, short = figures([improved.with_(batch_size=10**9), improved])
    assert long is None
    assert short is not None
    assert estimates([improved.with_(batch_size=10**9)]) == [None]


def test_an_estimate_is_exact_where_microbatches_repeat(improved):
    """There is nothing to estimate then."""
    assert estimates([improved]) == figures([improved])


def test_an_estimate_of_what_does_not_repeat_is_close(h100):
    """A generation as prefill and last steps, virtual stages as plain ones."""
    model = perfsim.load_model("llama-3.1-8b")
    workload = perfsim.Workload(phase="generation", batch_size=16, sequence_length=1024, output_length=32)
    generation = perfsim.Scenario(h100, model, perfsim.Plan(tensor=2, pipeline=2), workload)
    prefill = perfsim.Workload(batch_size=16, sequence_length=1024)
    plan = perfsim.Plan(tensor=2, pipeline=2, virtual_stages=2, microbatch_size=2)
    virtual = perfsim.Scenario(h100, model, plan, prefill)
    scenarios = [generation, virtual, virtual.with_(layers_per_stage=(9, 8, 8, 7))]
    assert not any(has_period(scenario) for scenario in scenarios)
    for estimate, exact in zip(estimates(scenarios), figures(scenarios), strict=True):
        assert abs(estimate.makespan_s / exact.makespan_s - 1) < 0.25
        assert abs(estimate.peak_bytes / exact.peak_bytes - 1) < 0.05
