"""A lower bound of memory that is one, and a close one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import perfsim
from perfsim.study.least_memory import is_hopeless, least_bytes, least_memory


def memory_of_stages(scenario):
    """Give the memory of one device of each stage, from a simulation."""
    return perfsim.simulate(scenario).memory.groupby("stage").max()


@given(data=st.data())
def test_no_peak_lies_below(data, small_scenarios):
    """Of any stage, for every kind of model, plan and phase."""
    scenario = data.draw(small_scenarios)
    assert (least_bytes(scenario) <= memory_of_stages(scenario)["peak_bytes"].to_numpy()).all()


@given(data=st.data())
def test_what_stays_is_that_of_the_memory_report(data, small_scenarios):
    """KV cache and reserve to the byte; weights too, but for a tied head on the last stage."""
    scenario = data.draw(small_scenarios)
    found, memory = least_memory(scenario), memory_of_stages(scenario)
    assert found.kv_cache_bytes.tolist() == memory["kv_cache_bytes"].tolist()
    assert found.reserve_bytes.tolist() == memory["reserve_bytes"].tolist()
    tied = scenario.model.tie_word_embeddings
    for stage, weights in enumerate(memory["weights_bytes"].tolist()):
        last = stage == scenario.plan.pipeline - 1
        assert found.weights_bytes[stage] <= weights if tied and last else found.weights_bytes[stage] == weights


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("llama-3.1-405b", {"tensor": 8, "pipeline": 2}),
        ("deepseek-v3", {"tensor": 2, "pipeline": 2, "data": 4, "expert": 8}),
        ("gpt-oss-120b", {"tensor": 4, "pipeline": 4}),
    ],
)
def test_it_is_close_for_models_of_today(phase, name, plan, h100):
    """Within 5 % of the peak: few plans that do not fit are simulated in vain."""
    workload = perfsim.Workload(phase=phase, batch_size=64, sequence_length=4096)
    scenario = perfsim.Scenario(h100, perfsim.load_model(name), perfsim.Plan(**plan, microbatch_size=1), workload)
    assert least_bytes(scenario) == pytest.approx(memory_of_stages(scenario)["peak_bytes"].to_numpy(), rel=0.05)


def test_a_plan_is_hopeless_where_any_stage_is(improved):
    """Just at the limit it is not."""
    least = int(least_bytes(improved).max())
    assert least > least_bytes(improved).min()
    memory = "cluster.accelerator.memory_bytes"
    assert not is_hopeless(improved.with_(**{memory: least}))
    assert is_hopeless(improved.with_(**{memory: least - 1}))
