"""The claims of the improved deployment: each is judged by figures of the results."""

import pytest

import perfsim
from perfsim.units import format_bytes, format_seconds


@pytest.fixture(scope="module")
def claims(comparison):
    """Give the claims of the improved plan by name."""
    return {claim.name: claim for claim in perfsim.deployment_claims(comparison, "seed-improved")}


def test_the_five_checks_hold(comparison, claims):
    """The verification's claims with its evidence come first."""
    checks = comparison["seed-improved"].dag.verify().checks
    assert list(claims)[:5] == [check.claim for check in checks]
    assert all(claims[check.claim].holds and claims[check.claim].why == check.evidence for check in checks)


def test_which_claims_hold(claims):
    """Latency does, throughput only against the sequential baseline; memory on and off the chip does not."""
    assert {name: claim.holds for name, claim in list(claims.items())[5:]} == {
        "Better throughput than seed-baseline": True,
        "Better throughput than seed-layerwise-pipelined": False,
        "Better latency of the first sequence than seed-baseline": True,
        "Better latency of the first sequence than seed-layerwise-pipelined": True,
        "Equal busy time on all GPUs": True,
        "Layers work out of SRAM and L2": False,
        "Communication stays inside a stage and is hidden": False,
        "The whole batch goes through in one piece": False,
        "The KV cache of all tokens can be kept": False,
    }


@pytest.mark.parametrize("other", ["seed-baseline", "seed-layerwise-pipelined"])
@pytest.mark.parametrize(
    ("name", "measure"), [("throughput", "makespan_s"), ("latency of the first sequence", "first_sequence_s")]
)
def test_speed_is_told_with_both_times(comparison, claims, other, name, measure):
    """Those of the results, and their ratio."""
    mine, theirs = getattr(comparison["seed-improved"], measure), getattr(comparison[other], measure)
    claim = claims[f"Better {name} than {other}"]
    expected = f"{format_seconds(mine)} against {format_seconds(theirs)}, {theirs / mine:.2f} times as fast"
    assert claim.why == expected
    assert claim.holds == (mine < theirs)


def test_memory_figures_are_those_of_the_report(comparison, claims):
    """One hidden state, the cache, a layer's weights."""
    memory = comparison["seed-improved"].memory
    assert "whole batch takes 167.8 GB, a GPU has 85.52 GB" in claims["The whole batch goes through in one piece"].why
    assert format_bytes(memory["peak_bytes"].max()) in claims["The whole batch goes through in one piece"].why
    assert claims["The KV cache of all tokens can be kept"].why == "it takes 335.5 GB a GPU, 5.369 TB in all"
    chip = claims["Layers work out of SRAM and L2"].why
    assert "weight shard takes 201.4 MB" in chip
    assert "L2 has 52.43 MB" in chip


def test_the_exposed_communication_is_that_of_the_breakdown(comparison, claims):
    """What has no kernel beside it, over the makespan."""
    parts, makespan = comparison.time_by_kind.loc["seed-improved"], comparison["seed-improved"].makespan_s
    share = (parts["collective"] + parts["transfer"]) / makespan
    why = claims["Communication stays inside a stage and is hidden"].why
    assert "all-reduces stay within the nvlink domain" in why
    assert f"{share:.1%} of the makespan" in why


def test_groups_across_nodes_are_told(improved):
    """And a plan without groups says so."""
    plans = {"wide": improved.with_(tensor=16, pipeline=1), "layers": improved.with_(tensor=1, pipeline=16)}
    comparison = perfsim.compare({name: plan.with_(batch_size=4) for name, plan in plans.items()}, baseline="wide")
    told = {
        name: next(c.why for c in perfsim.deployment_claims(comparison, name) if c.name.startswith("Communication"))
        for name in plans
    }
    assert "all-reduces cross domains" in told["wide"]
    assert "there are no all-reduces" in told["layers"]


def test_claims_that_can_hold_do(improved):
    """A small batch of a small model fits everywhere."""
    small = improved.with_(hidden_size=512, num_attention_heads=8, num_key_value_heads=8, head_dim=64, batch_size=4)
    small = small.with_(intermediate_size=2048, sequence_length=256)
    comparison = perfsim.compare({"small": small}, baseline="small")
    held = {claim.name for claim in perfsim.deployment_claims(comparison, "small") if claim.holds}
    assert {
        "Layers work out of SRAM and L2",
        "The whole batch goes through in one piece",
        "The KV cache of all tokens can be kept",
    } <= held


def test_a_failed_check_is_a_claim_that_does_not_hold(improved):
    """An uneven plan is not balanced."""
    uneven = improved.with_(batch_size=8, layers_per_stage=(10, 6))
    comparison = perfsim.compare({"uneven": uneven}, baseline="uneven")
    claims = perfsim.deployment_claims(comparison, "uneven")
    failed = [claim.name for claim in claims if not claim.holds]
    assert "Equal busy time on all GPUs" in failed
    assert sum(not claim.holds for claim in claims[:5]) == 1


def test_a_claim_prints_its_verdict(claims):
    """In one line."""
    claim = claims["The KV cache of all tokens can be kept"]
    assert str(claim) == f"[DOES NOT HOLD] {claim.name}: {claim.why}"
    assert str(claims["Equal busy time on all GPUs"]).startswith("[holds] ")


def test_claims_of_an_unknown_plan_are_refused(refused, comparison):
    """With the plans that there are."""
    (fault,) = refused(perfsim.deployment_claims, comparison, "improved")
    assert "seed-improved" in fault.allowed
