"""The largest batch that fits is what trying every batch finds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.errors import InputError
from perfsim.study.figures import figures
from perfsim.study.limits import max_batch

MOST = 14
"""Sequences a replica up to which every batch is tried."""


def with_batch(scenario, replica_batch):
    """Give the scenario with so many sequences a replica, or none where the plan does not allow that."""
    try:
        return scenario.with_(batch_size=replica_batch * scenario.plan.data)
    except InputError:
        return None


def peak_bytes(scenario):
    """Give the peak of the fullest device, from a simulation."""
    return int(perfsim.simulate(scenario).memory["peak_bytes"].max())


def with_memory(scenario, memory_bytes):
    """Give the scenario on devices with so much memory."""
    return scenario.with_(**{"cluster.accelerator.memory_bytes": memory_bytes})


@settings(max_examples=20)
@given(data=st.data())
def test_what_it_gives_fits_and_no_larger_batch_does(data, small_scenarios):
    """For every kind of model, plan and phase, by simulations of all batches; memory is just that of one of them."""
    scenario = data.draw(small_scenarios)
    peaks = {
        made.workload.batch_size: peak_bytes(made)
        for made in (with_batch(scenario, batch) for batch in range(1, MOST + 1))
        if made is not None
    }
    memory = data.draw(st.sampled_from(sorted(peaks.values()))) + data.draw(st.sampled_from([0, 1, 1000]))
    found = max_batch(with_memory(scenario, memory))
    fitting = [batch for batch, peak in peaks.items() if peak <= memory]
    assert found == max(fitting) or (found > max(peaks) and max(fitting) == max(peaks))


def assert_is_the_limit(scenario):
    """Check that the batch that is found fits, and the next does not."""
    found = max_batch(scenario)
    step = scenario.plan.data
    assert found % step == 0
    last, following = figures([scenario.with_(batch_size=batch) for batch in (found, found + step)])
    assert last.fits
    assert following is None or not following.fits
    return found


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("microbatch_size", [None, 1, 7])
@pytest.mark.parametrize("data", [1, 3])
def test_large_batches_are_found_as_exactly(phase, microbatch_size, data, h100, families):
    """Hundreds of thousands of sequences, ragged last microbatches among them."""
    plan = perfsim.Plan(tensor=2, pipeline=2, data=data, microbatch_size=microbatch_size)
    workload = perfsim.Workload(phase=phase, batch_size=data, sequence_length=50)
    scenario = perfsim.Scenario(h100, families["llama"], plan, workload)
    assert assert_is_the_limit(scenario) > 100_000


def test_a_model_of_today_has_the_limit_of_its_cache(h100):
    """Llama-3.1-405B on 16 GPUs: what weights leave, over the cache of a sequence."""
    workload = perfsim.Workload(batch_size=64, sequence_length=4096)
    model = perfsim.load_model("llama-3.1-405b")
    scenario = perfsim.Scenario(h100, model, perfsim.Plan(tensor=8, pipeline=2, microbatch_size=1), workload)
    memory = perfsim.simulate(scenario).memory.iloc[-1]
    left = memory["capacity_bytes"] - memory["peak_bytes"] + memory["kv_cache_bytes"]
    each = model.kv_cache_bytes_per_token("bf16") * 4096 // 16
    assert assert_is_the_limit(scenario) == left // each


def test_a_generation_counts_the_cache_of_what_it_gives(h100):
    """More output leaves room for fewer sequences, to the bit of a simulation of all steps."""
    workload = perfsim.Workload(phase="generation", batch_size=1, sequence_length=512, output_length=40)
    plan = perfsim.Plan(tensor=8, microbatch_size=16)
    scenario = perfsim.Scenario(h100, perfsim.load_model("llama-3.1-70b"), plan, workload)
    room = peak_bytes(scenario.with_(batch_size=21))
    scenario = with_memory(scenario, room)
    assert max_batch(scenario) == 21
    assert max_batch(scenario.with_(output_length=80)) == 21 * (512 + 39) // (512 + 79)
    assert not perfsim.simulate(scenario.with_(batch_size=22)).fits


def test_virtual_stages_keep_whole_rounds(h100, families):
    """Batches that the plan does not allow are stepped over."""
    plan = perfsim.Plan(pipeline=2, virtual_stages=2, microbatch_size=3)
    scenario = perfsim.Scenario(h100, families["llama"], plan, perfsim.Workload(batch_size=6, sequence_length=64))
    for batch in (6, 10, 12, 18):
        assert max_batch(with_memory(scenario, peak_bytes(scenario.with_(batch_size=batch)))) == batch
    assert max_batch(with_memory(scenario, peak_bytes(scenario.with_(batch_size=12)) + 1)) == 12


def test_where_memory_sets_no_limit_times_do(improved):
    """A prefill that drops its KV cache takes any batch whose work can be counted."""
    found = assert_is_the_limit(improved)
    assert found > 10_000_000
    assert figures([improved.with_(batch_size=found + 1)]) == [None]


def test_a_batch_that_is_too_small_is_refused_with_what_is_too_large(refused, h100):
    """The weights of Llama-3.1-405B on eight GPUs."""
    workload = perfsim.Workload(batch_size=64, sequence_length=4096)
    model = perfsim.load_model("llama-3.1-405b")
    scenario = perfsim.Scenario(h100, model, perfsim.Plan(tensor=8, microbatch_size=1), workload)
    (fault,) = refused(max_batch, scenario)
    assert (fault.field, fault.value) == ("workload.batch_size", 1)
    assert "one sequence a replica takes 104.3 GB of the 85.52 GB" in fault.allowed
    assert "the largest part is the weights with 101.5 GB" in fault.allowed
    assert "perfsim.advise(scenario)" in fault.way_out
    assert "perfsim.min_devices(scenario)" in fault.way_out


def test_of_whole_rounds_the_smallest_is_refused(refused, h100, families):
    """Where the plan allows no single sequence, the message says how many it is about."""
    plan = perfsim.Plan(pipeline=2, virtual_stages=2, microbatch_size=3)
    scenario = perfsim.Scenario(h100, families["llama"], plan, perfsim.Workload(batch_size=6, sequence_length=64))
    (fault,) = refused(max_batch, with_memory(scenario, 2**31))
    assert fault.value == 4
    assert "4 sequences, the fewest that the plan allows, a replica take" in fault.allowed


@pytest.mark.parametrize("wrong", [None, "seed-improved", 3])
def test_what_is_no_scenario_is_refused(refused, wrong):
    """With the name of the argument."""
    (fault,) = refused(max_batch, wrong)
    assert fault.field == "max_batch.scenario"
