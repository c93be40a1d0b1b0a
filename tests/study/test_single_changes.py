"""Single changes: each is what a simulation of its own finds, and none that was promised is left out."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.study.advice import Option
from perfsim.study.single_changes import HARDWARE, single_changes


@pytest.fixture(scope="module")
def few(improved):
    """Give a result of the improved plan with few sequences."""
    return perfsim.simulate(improved.with_(batch_size=16))


def kinds_of(options, name):
    """Give the options that change one thing of a name."""
    return [option for option in options if name in option.changes]


def test_every_option_is_a_simulation(few):
    """Time and memory are those of its own simulation, to the bit; all fit, and the fastest comes first."""
    options = single_changes(few)
    assert len(options) > 25
    for option in options:
        assert isinstance(option, Option)
        result = perfsim.simulate(option.scenario)
        assert option.after.makespan_s == result.makespan_s
        room = (result.memory["capacity_bytes"] - result.memory["peak_bytes"]).min()
        assert option.after.capacity_bytes - option.after.peak_bytes == room >= 0
        assert result.fits
    times = [option.after.makespan_s for option in options]
    assert times == sorted(times)


def test_what_the_changes_say_makes_their_scenarios(few):
    """With `with_` and with `what_if`; the old scenario is the result's."""
    for option in single_changes(few):
        assert option.old is few.scenario
        if option.change.kinds == (HARDWARE,):
            assert perfsim.what_if(few, **option.changes).after.makespan_s == option.after.makespan_s
        else:
            assert few.scenario.with_(**option.changes) == option.scenario


def test_hardware_changes_are_those_of_the_sensitivity(few):
    """Ten percent more of every rate give what its row says; fixed times shrink."""
    table, rates, times = perfsim.sensitivity(few), [], []
    for option in single_changes(few):
        if option.change.kinds == (HARDWARE,):
            ((name, factor),) = option.changes.items()
            (rates if factor > 1 else times).append(name)
            if factor > 1:
                assert option.extra_percent == pytest.approx(table.loc[name, "change_percent"], rel=1e-12)
            else:
                assert option.extra_percent <= 0 <= table.loc[name, "change_percent"]
    assert {"flops", "hbm_bandwidth", "nvlink_bandwidth"} <= set(rates)
    assert {"launch", "collective_launch"} <= set(times)


def test_every_kind_of_change_is_tried(few):
    """Microbatches, refinements, degrees; each once."""
    options = single_changes(few)
    assert {option.changes["microbatch_size"] for option in kinds_of(options, "microbatch_size")} >= {2, 4}
    assert kinds_of(options, "overlap_chunks")[0].change.kinds == ("overlap",)
    for name in ("sequence_parallel", "scatter_gather", "virtual_stages", "tensor", "pipeline", "data", "context"):
        assert kinds_of(options, name), name
    told = [str(option) for option in options]
    assert len(set(told)) == len(told)


def test_refinements_are_taken_back_too(improved):
    """What a plan has may cost more than it saves."""
    refined = improved.with_(batch_size=8, sequence_parallel=True, overlap_chunks=2, virtual_stages=2)
    told = {str(option) for option in single_changes(perfsim.simulate(refined))}
    assert {"overlap_chunks=1", "virtual_stages=1"} & told, "of six that run microbatch by microbatch"
    plain = improved.with_(batch_size=8, scatter_gather=True)
    assert "scatter_gather=False" in {str(option) for option in single_changes(perfsim.simulate(plain))}


def test_experts_and_the_kv_cache(h100, families):
    """A mixture may share its experts otherwise; decode may keep its cache in fewer bytes."""
    plan = perfsim.Plan(tensor=2, data=2, expert=2)
    workload = perfsim.Workload(phase="decode", batch_size=16, sequence_length=512)
    scenario = perfsim.Scenario(h100, families["mixtral"], plan, workload)
    options = single_changes(perfsim.simulate(scenario))
    assert kinds_of(options, "expert")
    assert kinds_of(options, "kv_dtype")
    assert not kinds_of(options, "keep_kv_cache")
    eight = scenario.with_(kv_dtype="fp8")
    assert not kinds_of(single_changes(perfsim.simulate(eight)), "kv_dtype")


def test_what_does_not_fit_is_left_out(improved):
    """Larger microbatches of a nearly full device; all of them where only another batch would do."""
    result = perfsim.simulate(improved.with_(batch_size=246, keep_kv_cache=True))
    assert result.fits
    sizes = [option.changes["microbatch_size"] for option in kinds_of(single_changes(result), "microbatch_size")]
    assert not sizes
    assert single_changes(perfsim.simulate(improved.with_(batch_size=600, keep_kv_cache=True))) == ()


@settings(max_examples=12)
@given(data=st.data())
def test_small_scenarios_of_every_kind(data, small_scenarios):
    """Generations and virtual stages too, in folded and in full detail: simulations, and no more than promised."""
    scenario = data.draw(small_scenarios)
    result = perfsim.simulate(scenario)
    options = single_changes(result)
    assert options == single_changes(perfsim.simulate(scenario, detail="full"))
    for option in options[:4]:
        assert option.after.makespan_s == perfsim.simulate(option.scenario).makespan_s
        assert perfsim.simulate(option.scenario).fits
    rough = [o for o in options if o.change.kinds != (HARDWARE,) and o.scenario.workload.phase == "generation"]
    assert len(rough) <= 6


def test_no_more_than_six_plans_of_a_generation_are_simulated(h100, families):
    """The others are estimated; the best of them is among those that are simulated, where brute force says so."""
    workload = perfsim.Workload(phase="generation", batch_size=16, sequence_length=256, output_length=4)
    scenario = perfsim.Scenario(
        h100, families["llama"], perfsim.Plan(tensor=2, pipeline=2, microbatch_size=2), workload
    )
    options = [o for o in single_changes(perfsim.simulate(scenario)) if o.change.kinds != (HARDWARE,)]
    assert len(options) == 6
    moves = ({"pipeline": 1, "data": 2}, {"tensor": 1, "data": 2}, {"microbatch_size": 4}, {"virtual_stages": 2})
    best = min(perfsim.simulate(scenario.with_(**move)).makespan_s for move in moves)
    assert options[0].after.makespan_s <= best


def test_a_mixed_cluster_is_tried_as_well(h100):
    """Its hardware numbers stand for both kinds; degrees that tear a stage apart are left out."""
    slow = perfsim.load_cluster("dgx-a100-80gb", num_devices=8)
    fast = dataclasses.replace(h100, num_devices=8)
    tier = perfsim.NetworkTier("infiniband", bytes_per_s=25e9, latency_s=5e-6)
    mixed = perfsim.join_clusters(fast, slow, tier=tier)
    scenario = perfsim.load_scenario("seed-improved").with_(cluster=mixed, batch_size=8)
    options = single_changes(perfsim.simulate(scenario))
    assert kinds_of(options, "flops")
    assert all(option.scenario.plan.pipeline > 1 for option in options)
