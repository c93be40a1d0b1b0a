"""Advice is simulated, fits, comes with what it costs, and says so."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.spec.hardware import NetworkTier
from perfsim.study import advise as advising
from perfsim.study.advise import advise
from perfsim.study.changes import CLUSTER, FASTER, SMALLER


def on_memory(scenario, memory_bytes):
    """Give the scenario on devices with so much memory."""
    return scenario.with_(**{"cluster.accelerator.memory_bytes": int(memory_bytes)})


def peak_bytes(scenario):
    """Give the peak of the fullest device, from a simulation."""
    return int(perfsim.simulate(scenario).memory["peak_bytes"].max())


def assert_is_simulated(option, scenario):
    """Compare an option with a simulation of it."""
    assert option.scenario == scenario.with_(**option.changes)
    old, new = perfsim.simulate(scenario), perfsim.simulate(option.scenario)
    assert option.before.makespan_s == old.makespan_s
    assert (option.after.makespan_s, option.after.fits) == (new.makespan_s, new.fits)
    rooms = new.memory["capacity_bytes"] - new.memory["peak_bytes"]
    assert option.after.peak_bytes == new.memory["peak_bytes"][rooms.idxmin()]
    assert option.after.fits
    longer = new.makespan_s * scenario.workload.tokens / option.scenario.workload.tokens - old.makespan_s
    assert option.extra_s == pytest.approx(longer)
    assert option.extra_percent == pytest.approx(100 * longer / old.makespan_s)
    device_s = [result.makespan_s * result.scenario.plan.num_devices / result.scenario.workload.tokens
                for result in (old, new)]  # fmt: skip
    assert option.cost_percent == pytest.approx(100 * (device_s[1] / device_s[0] - 1))


@settings(max_examples=8)
@given(data=st.data())
def test_options_of_a_scenario_that_does_not_fit_do(data, small_scenarios):
    """For every kind of model, plan and phase, as `simulate` has them; the cheapest comes first."""
    scenario = data.draw(small_scenarios)
    reserve = scenario.cluster.reserve_bytes
    share = data.draw(st.sampled_from([0.3, 0.7, 0.95]))
    scenario = on_memory(scenario, reserve + share * (peak_bytes(scenario) - reserve))
    advice = advise(scenario)
    assert not advice.fits
    assert advice.headroom_bytes < 0
    assert advice.verdict.startswith("The plan does NOT fit: a device of stage ")
    costs = [option.cost_percent for option in advice]
    assert costs == sorted(costs)
    for option in advice:
        assert_is_simulated(option, scenario)


@settings(max_examples=8)
@given(data=st.data())
def test_options_of_a_scenario_that_fits_are_faster(data, small_scenarios):
    """With the same work on the same devices."""
    scenario = data.draw(small_scenarios)
    advice = advise(scenario)
    assert advice.fits
    assert advice.headroom_bytes == advice.before.capacity_bytes - peak_bytes(scenario)
    assert advice.verdict.startswith("The plan fits: at most ")
    for option in advice:
        assert_is_simulated(option, scenario)
        assert option.after.makespan_s < option.before.makespan_s
        assert option.scenario.plan.num_devices == scenario.plan.num_devices
        assert (option.scenario.workload, option.scenario.model) == (scenario.workload, scenario.model)
        assert option.change.kinds[0] in FASTER


def test_the_seed_scenarios_fit(seed):
    """The baseline is told to let microbatches follow each other."""
    advice = advise(seed)
    assert advice.fits
    found = [option.changes for option in advice]
    assert ({"schedule": "pipelined"} in found) == (seed.plan.schedule == "sequential")


def test_what_to_do_about_a_kept_cache(improved):
    """Drop it, or compute fewer sequences; nothing on 16 GPUs holds 5 TB."""
    scenario = improved.with_(keep_kv_cache=True)
    advice = advise(scenario)
    assert [option.changes for option in advice] == [
        {"keep_kv_cache": False}, {"batch_size": perfsim.max_batch(scenario)},
    ]  # fmt: skip
    drop, smaller = advice
    assert drop.extra_s == 0
    assert 0 < smaller.cost_percent < 1
    assert "a device of stage 1 needs 340.3 GB, 254.8 GB more than its 85.52 GB" in advice.verdict
    assert "The largest part is the KV cache with 335.5 GB." in advice.verdict
    assert "2 single changes would make it fit." in advice.verdict


def test_every_kind_of_change_is_found_where_it_helps(h100):
    """A plan that is too large by little has all ways out, a few of each kind."""
    plan = perfsim.Plan(tensor=4, pipeline=2, microbatch_size=8, layers_per_stage=(20, 12))
    workload = perfsim.Workload(batch_size=32, sequence_length=4096)
    scenario = perfsim.Scenario(h100, perfsim.load_model("llama-3.1-8b"), plan, workload)
    scenario = on_memory(scenario, 0.98 * peak_bytes(scenario))
    advice = advise(scenario)
    kinds = [option.change.kinds for option in advice]
    assert {kind for (kind,) in kinds} == set(SMALLER)
    assert all(kinds.count(kind) <= 3 for kind in kinds)


def test_more_devices_cost_their_share(h100):
    """Half of the time on twice as many devices is no cheaper."""
    workload = perfsim.Workload(batch_size=64, sequence_length=4096)
    model = perfsim.load_model("llama-3.1-405b")
    cluster = perfsim.load_cluster("dgx-h100")
    scenario = perfsim.Scenario(cluster, model, perfsim.Plan(tensor=8, microbatch_size=1), workload)
    by_changes = {str(option): option for option in advise(scenario)}
    more = by_changes["pipeline=2, cluster.num_devices=16"]
    assert more.scenario.cluster == h100
    assert more.extra_percent < -45
    assert 0 < more.cost_percent < 5
    assert "device-seconds on 16 devices" in more.describe()
    assert "another checkpoint, whose accuracy is not modelled" in by_changes["quantization=fp8"].describe()


def test_pairs_follow_where_no_single_change_suffices():
    """Eight million tokens of context, seven times, fit no eight GPUs, nor one time."""
    workload = perfsim.Workload(phase="decode", batch_size=7, sequence_length=1 << 23)
    cluster, plan = perfsim.load_cluster("l40s-pcie-8x"), perfsim.Plan(tensor=8, microbatch_size=1)
    scenario = perfsim.Scenario(cluster, perfsim.load_model("llama-3.1-8b"), plan, workload)
    advice = advise(scenario)
    assert "No single change would make it fit, but 1 pair would." in advice.verdict
    (option,) = advice
    assert option.change.kinds == ("batch", "devices")
    assert option.changes == {"batch_size": 1, "pipeline": 4, CLUSTER: 32}
    assert_is_simulated(option, scenario)


def test_another_plan_follows_where_no_pair_suffices():
    """A model of 405 billion parameters on one small GPU."""
    workload = perfsim.Workload(batch_size=8, sequence_length=2048)
    cluster = perfsim.load_cluster("l40s-pcie-8x", num_devices=1)
    scenario = perfsim.Scenario(cluster, perfsim.load_model("llama-3.1-405b"), perfsim.Plan(), workload)
    advice = advise(scenario)
    assert "No pair of changes would make it fit, but another plan would." in advice.verdict
    (option,) = advice
    assert option.scenario.plan.num_devices == option.changes[CLUSTER] == perfsim.min_devices(scenario)
    assert_is_simulated(option, scenario)


def test_where_nothing_helps_it_says_why():
    """And the table is an empty one."""
    workload = perfsim.Workload(batch_size=7, sequence_length=9_999_991)
    cluster, plan = perfsim.load_cluster("l40s-pcie-8x"), perfsim.Plan(tensor=8, microbatch_size=1)
    scenario = perfsim.Scenario(cluster, perfsim.load_model("llama-3.1-8b"), plan, workload)
    advice = advise(scenario)
    assert len(advice) == 0
    assert "Nothing that was tried makes it fit" in advice.verdict
    assert "one operator with one sequence of 9999991 tokens takes" in advice.verdict
    assert advice.table.empty
    assert "<table" in advice._repr_html_()


def test_a_mixed_cluster_has_advice_too(h100, improved):
    """Stages on kinds of device with unlike memory: layers move to the larger ones."""
    tier = NetworkTier("ethernet", bytes_per_s=25e9, latency_s=5e-6)
    small = perfsim.load_cluster("l40s-pcie-8x")
    cluster = perfsim.join_clusters(perfsim.load_cluster("dgx-h100"), small, tier=tier)
    scenario = improved.with_(cluster=cluster, batch_size=72, keep_kv_cache=True, sequence_length=20_000)
    advice = advise(scenario)
    assert "a device of stage 1 needs " in advice.verdict
    assert "more than its 48.31 GB" in advice.verdict
    (layers, *_) = [option for option in advice if option.change.kinds == ("layers",)]
    assert layers.changes["layers_per_stage"][0] > 8
    assert_is_simulated(layers, scenario)


@pytest.mark.parametrize("phase", ["prefill", "decode", "generation"])
@pytest.mark.parametrize("model", ["llama-3.1-405b", "deepseek-v3"])
def test_it_takes_few_simulations(phase, model, h100, monkeypatch):
    """At most 200, whatever has to be looked through."""
    count = 0
    for name in ("figures", "estimates"):
        function = getattr(advising, name)

        def counted(scenarios, function=function):
            nonlocal count
            count += len(scenarios)
            return function(scenarios)

        monkeypatch.setattr(advising, name, counted)
    workload = perfsim.Workload(phase, batch_size=512, sequence_length=8192, output_length=4 if phase[0] == "g" else 1)
    scenario = perfsim.Scenario(h100, perfsim.load_model(model), perfsim.Plan(tensor=8, pipeline=2), workload)
    assert len(advise(scenario)) > 0
    assert 0 < count <= 200


def test_advice_is_the_same_every_time(small_cluster, families):
    """Down to the order of options that cost the same."""
    workload = perfsim.Workload(batch_size=64, sequence_length=512)
    plan = perfsim.Plan(tensor=2, pipeline=2, data=2)
    scenario = perfsim.Scenario(small_cluster, families["mixtral"], plan, workload)
    scenario = on_memory(scenario, 0.999 * peak_bytes(scenario))
    assert str(advise(scenario)) == str(advise(scenario))


def test_the_table_has_what_each_option_costs(improved):
    """In numbers and flags, with the changes as its index."""
    advice = advise(improved.with_(keep_kv_cache=True))
    table = advice.table
    assert table.index.name == "change"
    assert list(table.index) == [str(option) for option in advice]
    assert table.loc["keep_kv_cache=False", "peak_before_bytes"] == advice.before.peak_bytes
    assert table.loc["keep_kv_cache=False", "kind"] == "KV cache"
    assert (table["peak_bytes"] <= table["capacity_bytes"]).all()
    assert list(table["cost_percent"]) == [option.cost_percent for option in advice]


def test_advice_prints_itself(improved):
    """A line for each option; a table in a notebook."""
    advice = advise(improved.with_(keep_kv_cache=True))
    first, *options = repr(advice).splitlines()
    assert first == advice.verdict
    assert options[0] == (
        "  keep_kv_cache=False: +0 s (+0.0 %), 4.803 GB instead of 340.3 GB; "
        "K and V are dropped, so that no decode can follow"
    )
    assert len(options) == len(advice)
    assert advice._repr_html_().startswith(f"<p>{advice.verdict}</p><table")


@pytest.mark.parametrize("wrong", [None, "seed-improved", 3])
def test_what_is_no_scenario_is_refused(refused, wrong):
    """With the name of the argument."""
    (fault,) = refused(advise, wrong)
    assert fault.field == "advise.scenario"


def test_work_beyond_counting_is_refused(refused, improved):
    """As by `simulate`."""
    (fault,) = refused(advise, improved.with_(batch_size=10**9))
    assert (fault.field, fault.value) == ("workload", "1000000000 x 10000 tokens")
    assert "26 days" in fault.allowed
