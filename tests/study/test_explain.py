"""Explanations: plain sentences whose numbers are those of the result, and which say what is the case."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim
from perfsim.conditions import Conditions, Slowdown
from perfsim.cost.unfused_attention import unfused_attention_seconds
from perfsim.study.bottlenecks import on_path
from perfsim.study.explanation import TOPICS
from perfsim.study.single_changes import HARDWARE
from perfsim.units import format_bytes, format_seconds


@pytest.fixture(scope="module")
def few(improved):
    """Give a result of the improved plan with few sequences."""
    return perfsim.simulate(improved.with_(batch_size=16))


@pytest.fixture(scope="module")
def explanation(few):
    """Give its explanation."""
    return perfsim.explain(few)


def texts(explanation, topic):
    """Give what is said about a topic."""
    return [str(finding) for finding in explanation.about(topic)]


def test_it_speaks_of_every_topic(explanation):
    """In order, each under its words; a comparison's own topic aside."""
    topics = [finding.topic for finding in explanation.findings]
    assert set(topics) == set(TOPICS) - {"comparison"}
    text = str(explanation)
    places = [text.index(TOPICS[topic]) for topic in TOPICS if topic != "comparison"]
    assert places == sorted(places)
    for finding in explanation.findings:
        assert finding.text in text
        assert finding.text.endswith(".")


def test_it_shows_itself_in_a_notebook(explanation):
    """With every finding; what looks like a tag is escaped."""
    page = explanation._repr_html_()
    for finding in explanation.findings:
        assert finding.text.replace("'", "&#x27;").replace(">", "&gt;") in page
    odd = dataclasses.replace(explanation, title="<b>", findings=(perfsim.Finding("bound", "a < b."),))
    assert "<b>" not in odd._repr_html_()
    assert "a &lt; b." in odd._repr_html_()


def test_it_is_the_same_every_time(few, explanation):
    """Also from another simulation, on the other engine and in full detail."""
    assert str(perfsim.explain(few)) == str(explanation)
    other = perfsim.simulate(few.scenario, engine="simpy", detail="full")
    assert str(perfsim.explain(other)) == str(explanation)


def test_findings_are_values(explanation):
    """Frozen, hashable, with plain numbers."""
    finding = explanation.findings[0]
    assert finding == dataclasses.replace(finding)
    assert hash(finding) == hash(dataclasses.replace(finding))
    assert all(type(value) is float for one in explanation.findings for value in one.numbers.values())


@pytest.mark.parametrize("value", [None, 1, "seed-improved"])
def test_what_is_no_result_is_refused(refused, value):
    """With the way to one."""
    (fault,) = refused(perfsim.explain, value)
    assert fault.field == "explain.result"


def test_a_scenario_is_refused(refused, improved):
    """It is not simulated unasked."""
    refused(perfsim.explain, improved)


# What bounds it


BOUND = {
    "compute": ("Compute bounds", {}),
    "network": ("The network bounds", {"cluster.tiers.0.bytes_per_s": 2e9}),
    "memory": ("Memory bandwidth bounds", {"cluster.accelerator.memory_bytes_per_s": 1e11}),
    "bubble": ("The bubble bounds", {"schedule": "sequential", "tensor": 1, "pipeline": 16}),
}


@pytest.mark.parametrize("part", BOUND)
def test_it_names_what_bounds_the_plan(improved, part):
    """A slow network is the network, slow memory the memory, one microbatch at a time the bubble; and nothing else."""
    words, changes = BOUND[part]
    result = perfsim.simulate(improved.with_(batch_size=8, **changes))
    first, *_ = perfsim.explain(result).about("bound")
    assert first.text.startswith(words)
    assert sum(first.text.startswith(other) for other, _ in BOUND.values()) == 1
    parts = result.critical_path_composition / result.makespan_s
    assert first.numbers == pytest.approx({f"{name}_share": share for name, share in parts.items()})
    assert parts.idxmax() == part


def test_small_kernels_are_bound_by_overhead(improved):
    """A tiny model on many GPUs launches, and does little else."""
    tiny = improved.with_(hidden_size=256, num_attention_heads=8, num_key_value_heads=8, head_dim=32, batch_size=2)
    result = perfsim.simulate(tiny.with_(intermediate_size=512, sequence_length=64))
    assert texts(perfsim.explain(result), "bound")[0].startswith("Overhead bounds")


def test_operators_are_those_that_take_most(few, explanation):
    """Shares of the critical path by operator; the roofline by hand."""
    path = few.critical_path
    spent = (path["end_s"] - path["start_s"]).groupby(path["op"], observed=True).sum().sort_values(ascending=False)
    _, *largest, light = explanation.about("bound")
    assert [finding.text.split()[0] for finding in largest] == list(spent.index[:3])
    for finding, seconds in zip(largest, spent, strict=False):
        assert finding.numbers["share"] == pytest.approx(seconds / few.makespan_s)
    row = few.operators.loc[f"layer_00.{spent.index[0]}"].iloc[0]
    numbers = largest[0].numbers
    assert numbers["of_light"] == pytest.approx(row["roofline_s"] / row["seconds"])
    assert numbers["flop_per_byte"] == pytest.approx(row["flop"] / row["bytes"])
    assert numbers["ridge_flop_per_byte"] == pytest.approx(989.4e12 / 3.35e12, rel=1e-3)
    assert light.numbers["light_s"] < few.makespan_s


@settings(max_examples=8)
@given(data=st.data())
def test_the_path_adds_up(data, small_scenarios):
    """Operators on the path make the makespan, none is faster than light; shares add up to 1, whatever is simulated."""
    result = perfsim.simulate(data.draw(small_scenarios))
    operators = on_path(result.run)
    assert sum(one.seconds for one in operators) == pytest.approx(result.makespan_s)
    assert all(one.light_s <= one.seconds * (1 + 1e-6) + 1e-12 * one.executions for one in operators)
    explanation = perfsim.explain(result)
    (first, *_), (origin, *_) = explanation.about("bound"), explanation.about("provenance")
    assert sum(first.numbers.values()) == pytest.approx(1)
    assert sum(origin.numbers.values()) == pytest.approx(1)
    assert not re.search(r"\bnan\b|\binf\b|(?<!=)None ", str(explanation))


def test_a_generation_tells_prefill_from_decode(h100, families):
    """An operator is bound by other things in each."""
    workload = perfsim.Workload(phase="generation", batch_size=8, sequence_length=2048, output_length=8)
    model = dataclasses.replace(families["llama"], hidden_size=4096, intermediate_size=16384, num_attention_heads=32)
    result = perfsim.simulate(perfsim.Scenario(h100, model, perfsim.Plan(tensor=2), workload))
    found = {one.name: one for one in on_path(result.run)}
    assert found["mlp_up in the prefill"].bound == "compute"
    assert found["mlp_up in the decode steps"].bound == "memory"


# Where time is lost


def test_losses_are_those_of_the_load_balance(improved):
    """Idling beside what even stages would idle, communication beside what of it is exposed."""
    result = perfsim.simulate(improved.with_(batch_size=8))
    idle, communication, _ = perfsim.explain(result).about("lost")
    assert idle.numbers["idle_share"] == pytest.approx(result.bubble_fraction)
    assert idle.numbers["even_pipeline_share"] == pytest.approx(1 / 9)
    balance = result.load_balance
    assert communication.numbers["communication_share"] == pytest.approx(result.communication_fraction)
    exposed = (balance["busy_s"] - balance["compute_s"]).mean() / result.makespan_s
    assert communication.numbers["exposed_share"] == pytest.approx(exposed)
    assert "all_reduce" in communication.text


def test_hidden_communication_is_said_to_be_hidden(seeds):
    """The layer-wise plan sends beside its kernels."""
    result = perfsim.simulate(seeds["seed-layerwise-pipelined"])
    assert any("all of it beside kernels" in text for text in texts(perfsim.explain(result), "lost"))


def test_uneven_stages_are_told_and_even_ones_not(improved):
    """With which of them is the longest."""
    uneven = perfsim.explain(perfsim.simulate(improved.with_(batch_size=64, layers_per_stage=(11, 5))))
    even = perfsim.explain(perfsim.simulate(improved.with_(batch_size=64)))
    (text,) = [text for text in texts(uneven, "lost") if text.startswith("Stages are uneven")]
    assert "stage 0 is busy for" in text
    assert not any("uneven" in text for text in texts(even, "lost"))


def test_a_ragged_microbatch_is_told(improved):
    """Half of the sequences in more than half of the time; a full one is not told."""
    steps = improved.with_(phase="decode", keep_kv_cache=True, microbatch_size=4)
    ragged = perfsim.explain(perfsim.simulate(steps.with_(batch_size=6)))
    (finding,) = [finding for finding in ragged.about("lost") if "ragged" in finding.text]
    assert finding.numbers["ragged_share"] == 0.5
    assert 0.5 < finding.numbers["ragged_time_share"] < 1
    whole = perfsim.explain(perfsim.simulate(steps.with_(batch_size=8)))
    assert not any("ragged" in text for text in texts(whole, "lost"))


def test_where_nothing_is_lost_that_is_said(documented):
    """One GPU, no launches."""
    efficiency = dataclasses.replace(documented.efficiency, kernel_s=1e-12)
    cluster = dataclasses.replace(documented, efficiency=efficiency)
    scenario = perfsim.load_scenario("seed-improved").with_(cluster=cluster, tensor=1, pipeline=1, batch_size=1)
    (text,) = texts(perfsim.explain(perfsim.simulate(scenario)), "lost")
    assert text.startswith("Idling, communication and overhead each take less than")


def test_disturbances_are_told_and_changes_judged_without(improved):
    """A slow GPU holds all others up; what would help is held against the run without it."""
    scenario = improved.with_(batch_size=4, num_hidden_layers=4)
    conditions = Conditions(slowdowns=(Slowdown(device=3, factor=2.0),))
    disturbed = perfsim.simulate(scenario, engine="simpy", detail="full", conditions=conditions)
    explanation, plain = perfsim.explain(disturbed), perfsim.explain(perfsim.simulate(scenario))
    assert any(text.startswith("The run was disturbed: ") for text in texts(explanation, "lost"))
    assert texts(explanation, "change") == texts(plain, "change")
    assert explanation.title != plain.title


# What fits, and where the times come from


def test_what_fits_is_said(few, explanation):
    """The findings of the memory report, all of them."""
    assert texts(explanation, "memory") == list(few.memory_findings)
    assert texts(explanation, "memory")[0].startswith("The plan fits: ")


def test_what_does_not_fit_is_said_with_the_change_that_does(improved):
    """By how much, and the fastest single change that fits."""
    result = perfsim.simulate(improved.with_(batch_size=256, microbatch_size=128))
    assert not result.fits
    explanation = perfsim.explain(result)
    assert "does NOT fit" in texts(explanation, "memory")[0]
    change = texts(explanation, "change")[0]
    assert change.startswith("The plan does not fit; of ")
    best = explanation.options[0]
    assert str(best) in change
    assert format_bytes(perfsim.simulate(best.scenario).memory["peak_bytes"].max()) in change


def test_where_no_single_change_fits_that_is_said(improved):
    """And who knows more."""
    result = perfsim.simulate(improved.with_(batch_size=600, keep_kv_cache=True))
    explanation = perfsim.explain(result)
    assert explanation.options == ()
    assert texts(explanation, "change") == [
        "None of the single changes that were simulated fits in memory; see perfsim.advise."
    ]
    assert explanation.table.empty


def test_the_origin_of_times(few, explanation, documented):
    """Shares by source as the operators have them, the range of the makespan; without a library all is documented."""
    origin, between, _ = explanation.about("provenance")
    assert origin.numbers["roofline_share"] == 0
    assert 0.5 < origin.numbers["calibrated_share"] < 1
    low, high = few.makespan_range_s
    assert (between.numbers["low_s"], between.numbers["high_s"]) == (low, high)
    assert f"{format_seconds(low)} and {format_seconds(high)}" in between.text
    plain = few.scenario.with_(cluster=documented, head_dim=128, num_attention_heads=64, num_key_value_heads=64)
    origin, between = perfsim.explain(perfsim.simulate(plain)).about("provenance")
    assert origin.numbers["roofline_share"] == pytest.approx(1)
    assert "there is no range" in between.text


def test_unfused_attention_stands_beside_heads_without_a_kernel(few, explanation):
    """What it would take, and what the plan then: simulated with the other price."""
    *_, finding = explanation.about("provenance")
    assert "no fused attention kernel for heads of 512" in finding.text
    work = few.dag["layer_00.attention"].work
    unfused_s = float(unfused_attention_seconds(few.scenario.cluster, work))
    assert finding.numbers["unfused_s"] == unfused_s
    price = few.operators.loc["layer_00.attention", "seconds"].iloc[0]
    assert finding.numbers["fused_s"] == price
    added = finding.numbers["unfused_makespan_s"] - few.makespan_s
    executions = few.critical_path["op"].eq("attention").sum()
    assert added == pytest.approx(executions * (unfused_s - price), rel=1e-6)


def test_heads_with_a_kernel_have_no_such_finding(few):
    """128 is measured."""
    usual = few.scenario.with_(head_dim=128, num_attention_heads=64, num_key_value_heads=64)
    assert "unfused" not in str(perfsim.explain(perfsim.simulate(usual))).lower()


# What helps most


@pytest.mark.parametrize("name", ["seed-baseline", "seed-layerwise-pipelined", "seed-improved"])
def test_the_best_change_is_the_best_by_brute_force(seeds, name):
    """Nobody finds a better one among those that were tried, nor among the usual ones by hand."""
    scenario = seeds[name].with_(batch_size=64)
    result = perfsim.simulate(scenario)
    explanation = perfsim.explain(result)
    best = explanation.options[0]
    tried = {str(option): perfsim.simulate(option.scenario).makespan_s for option in explanation.options}
    assert min(tried, key=tried.__getitem__) == str(best)
    by_hand = [{"microbatch_size": 2}, {"overlap_chunks": 2}, {"overlap_chunks": 4}, {"sequence_parallel": True}]
    by_hand += [{"scatter_gather": True}, {"virtual_stages": 2}, {"schedule": "pipelined"}]
    for one in ("tensor", "pipeline", "data", "context"):
        for other in ("tensor", "pipeline", "data", "context"):
            degrees = {degree: getattr(scenario.plan, degree) for degree in (one, other)}
            if one != other and degrees[one] % 2 == 0:
                by_hand.append({one: degrees[one] // 2, other: degrees[other] * 2})
    for changes in by_hand:
        try:
            other = perfsim.simulate(scenario.with_(**changes))
        except perfsim.InputError:
            continue
        if other.fits:
            assert best.after.makespan_s <= other.makespan_s, changes
    first = explanation.about("change")[0]
    assert first.numbers["makespan_s"] == perfsim.simulate(best.scenario).makespan_s
    assert first.numbers["change_percent"] == pytest.approx(100 * (best.after.makespan_s / result.makespan_s - 1))
    assert (str(best) if best.change.kinds != (HARDWARE,) else best.reason) in first.text
    assert f"{first.numbers['change_percent']:+.1f} %" in first.text


def test_the_best_of_the_other_kind_is_named_too(explanation):
    """Who cannot buy other GPUs wants to know the plan, and who cannot change the plan the GPU."""
    first, second = explanation.about("change")
    assert "hardware" in second.text
    hardware = [option for option in explanation.options if option.change.kinds == (HARDWARE,)]
    assert second.numbers["makespan_s"] == min(option.after.makespan_s for option in hardware)
    assert first.numbers["makespan_s"] <= second.numbers["makespan_s"]


def test_where_nothing_helps_by_a_percent_that_is_said(documented):
    """One GPU that waits for its host, which no number of the hardware stands for."""
    cluster = dataclasses.replace(documented, host_s=1.0)
    scenario = perfsim.load_scenario("seed-improved").with_(
        cluster=cluster, tensor=1, pipeline=1, batch_size=1, sequence_length=7
    )
    text, *_ = texts(perfsim.explain(perfsim.simulate(scenario)), "change")
    assert text.startswith("No single change helps by 1 %: of ")


def test_the_table_has_every_change(explanation, few):
    """A row each, the fastest first; its change in percent of the makespan."""
    table = explanation.table
    assert list(table.columns) == ["change", "kind", "makespan_s", "change_percent"]
    assert len(table) == len(explanation.options)
    assert table["makespan_s"].is_monotonic_increasing
    assert table["change_percent"].to_numpy() == pytest.approx(100 * (table["makespan_s"] / few.makespan_s - 1))
    assert set(table["kind"]) >= {HARDWARE, "degrees", "microbatch"}


# Claims and comparisons


def test_claims_of_one_plan(explanation, few):
    """Those that need no other plan; the ones that fall with their figures."""
    first, *fallen = texts(explanation, "claims")
    claims = perfsim.deployment_claims(perfsim.compare({"it": few}, baseline="it"), "it")
    assert first.startswith(f"{sum(claim.holds for claim in claims)} of {len(claims)} claims hold: ")
    assert len(fallen) == sum(not claim.holds for claim in claims)
    assert all("does NOT hold: " in text for text in fallen)


def test_a_comparison_says_which_claims_hold(comparison):
    """Of the seed: faster than the baseline, not than the same placement with a pipeline; each is explained."""
    explanation = perfsim.explain(comparison)
    own = texts(explanation, "comparison")
    assert own[: len(comparison.findings)] == list(comparison.findings)
    held = {claim.name: claim for claim in perfsim.deployment_claims(comparison, "seed-improved")}
    claims = texts(explanation, "claims")
    (kept,) = [text for text in claims if " claims of seed-improved hold: " in text]
    for name, claim in held.items():
        if claim.holds:
            assert name in kept
        else:
            assert f"This claim of seed-improved does NOT hold: {name} ({claim.why})." in claims
    assert not held["Better throughput than seed-layerwise-pipelined"].holds
    assert not any("of seed-baseline" in text for text in claims), "the baseline claims nothing"
    assert list(explanation.plans) == list(comparison.results)
    improved = explanation.plans["seed-improved"]
    assert texts(improved, "bound") == texts(perfsim.explain(comparison["seed-improved"]), "bound")
    assert improved.about("claims") == ()
    for name, plan in explanation.plans.items():
        assert f"{name}: {plan.title}" in str(explanation)
        assert plan.title in explanation._repr_html_()


def test_a_comparison_says_where_the_time_went(comparison):
    """The largest changes by kind of operator, as the waterfall has them."""
    found = [
        f
        for f in perfsim.explain(comparison).about("comparison")
        if f.text.startswith("From seed-baseline to seed-improved")
    ]
    (finding,) = found
    steps = comparison.waterfall("seed-improved").set_index("kind")["change_s"].iloc[1:-1]
    for kind, change in steps.items():
        assert finding.numbers[f"{kind}_s"] == pytest.approx(change)
    assert np.argmax(np.abs(steps.to_numpy())) == list(steps.index).index("idle")
    assert f"idle -{format_seconds(-steps['idle'])}" in finding.text


def test_plans_that_are_alike_differ_in_nothing(few):
    """No change of a kind is worth a word."""
    twice = perfsim.compare({"a": few, "b": few}, baseline="a")
    assert not any(text.startswith("From a to b") for text in texts(perfsim.explain(twice), "comparison"))
