"""What if the hardware were faster: before, after, and the change in words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim


@pytest.fixture(scope="module")
def few():
    """Give the improved seed scenario with few sequences."""
    return perfsim.load_scenario("seed-improved").with_(batch_size=16)


def test_it_is_two_simulations(few):
    """Before is the scenario, after the one with changed numbers; the words have both."""
    found = perfsim.what_if(few, nvlink=1.5, hbm_bandwidth=2.0)
    changes = {"cluster.tiers.0.bytes_per_s": 1.5 * 450e9, "cluster.accelerator.memory_bytes_per_s": 2 * 3.35e12}
    assert found.before.makespan_s == perfsim.simulate(few).makespan_s
    assert found.after.makespan_s == perfsim.simulate(few.with_(**changes)).makespan_s
    assert found.speedup == found.before.makespan_s / found.after.makespan_s > 1
    assert found.change_percent == pytest.approx(100 * (1 / found.speedup - 1))
    assert found.text == (
        "With NVLink bandwidth x 1.5 (450 GB/s to 675 GB/s) and HBM bandwidth x 2 (3.35 TB/s to 6.7 TB/s) the makespan "
        f"goes from {1e3 * found.before.makespan_s:.4g} ms to {1e3 * found.after.makespan_s:.4g} ms "
        f"({found.change_percent:+.1f} %)."
    )


def test_a_result_is_taken_as_what_was_before(few):
    """And not simulated again; the other side is simulated in the same way."""
    result = perfsim.simulate(few.with_(num_hidden_layers=2), engine="simpy", detail="full")
    found = perfsim.what_if(result, flops=2.0)
    assert found.before is result
    assert (found.after.engine, found.after.detail) == ("simpy", "full")


@settings(max_examples=20)
@given(data=st.data())
def test_faster_hardware_never_takes_longer(data, small_scenarios):
    """Twice as fast a network and memory, half the launches."""
    scenario = data.draw(small_scenarios)
    found = perfsim.what_if(scenario, network=2.0, hbm_bandwidth=2.0, launch=0.5)
    assert found.speedup >= 1 - 1e-9


def test_everything_twice_as_fast_takes_half_the_time(improved, documented):
    """Rates doubled, fixed times halved; to the rounding of picoseconds."""
    scenario = improved.with_(cluster=documented, batch_size=16)
    found = perfsim.what_if(scenario, flops=2, vector_flops=2, hbm_bandwidth=2, network=2, launch=0.5, latency=0.5)
    assert found.speedup == pytest.approx(2, rel=1e-8)


def test_the_comparison_and_its_parts(few):
    """A `Comparison` with tables and pictures; the parts of the path say where the change comes from."""
    found = perfsim.what_if(few, flops=2.0)
    assert list(found.table.index) == ["before", "after"]
    assert found.comparison.baseline == "before"
    assert found.table.loc["after", "speedup"] == pytest.approx(found.speedup)
    assert found.composition["change_s"].sum() == pytest.approx(found.after.makespan_s - found.before.makespan_s)
    assert found.composition["change_s"].idxmin() == "compute"


def test_findings_in_words(few):
    """What moved, what is the largest part, what it was."""
    more = perfsim.what_if(few, flops=4.0)
    text, moved, largest = more.findings
    assert text == more.text
    assert moved.startswith("On the critical path: compute from ")
    assert largest.startswith("The largest part of the critical path was compute (")
    assert "and becomes network (" in largest
    same = perfsim.what_if(few, vector_flops=2.0)
    assert same.findings[0].endswith("the makespan stays 747.3 ms.") or " stays " in same.findings[0]
    assert len(same.findings) == 2
    assert "stays compute" in same.findings[1]


def test_where_one_stage_waits_for_all_others_the_bubble_is_largest(seeds):
    """And stays so, however fast the chips."""
    found = perfsim.what_if(seeds["seed-baseline"].with_(batch_size=4), flops=2.0)
    assert "stays the bubble" in found.findings[-1]


def test_memory_that_no_longer_suffices_is_told(few):
    """And memory that does."""
    less = perfsim.what_if(few, hbm_capacity=0.05)
    assert less.findings[-1].startswith("The plan no longer fits: 4.8")
    assert perfsim.what_if(less.after, hbm_capacity=20.0).findings[-1].startswith("The plan now fits: ")
    assert less.speedup == 1


def test_text_and_html(few):
    """In a console and in a notebook."""
    found = perfsim.what_if(few, **{"accelerator.l2_bytes": 2})
    assert str(found) == repr(found) == "\n".join(found.findings)
    assert "accelerator.l2_bytes x 2 (52.43 MB to 104.9 MB)" in str(found)
    html = found._repr_html_()
    assert all(f">{finding}<" in html for finding in found.findings)
    assert "<table" in html


def test_unknown_names_and_factors_come_together(refused, few):
    """With the list of names and the nearest of them."""
    faults = refused(
        perfsim.what_if, few, nvlinks=2.0, hbm_bandwidth=0, clock="fast", **{"cluster.tiers.2.latency_s": 2}
    )
    assert [fault.field for fault in faults] == [
        "what_if.nvlinks",
        "what_if.hbm_bandwidth",
        "what_if.clock",
        "what_if.cluster.tiers.2.latency_s",
    ]
    assert "hbm_bandwidth" in faults[0].allowed
    assert faults[0].way_out == "did you mean 'nvlink'?"
    assert "tiers.1.latency_s" in faults[3].way_out


@pytest.mark.parametrize(
    "pair", [("nvlink", "network"), ("latency", "collective_launch"), ("nvlink", "nvlink_bandwidth")]
)
def test_one_number_is_not_changed_twice(refused, few, pair):
    """Nobody knows what was meant."""
    (fault,) = refused(perfsim.what_if, few, **dict.fromkeys(pair, 2.0))
    assert pair[0] in fault.allowed
    assert fault.field == f"what_if.{pair[1]}"


def test_nothing_to_change_and_no_scenario_are_refused(refused, few):
    """Each in its own words."""
    assert [fault.field for fault in refused(perfsim.what_if, few)] == ["what_if.factors"]
    assert [fault.field for fault in refused(perfsim.what_if, "seed-improved", flops=2.0)] == ["what_if.scenario"]


def test_a_number_that_leaves_its_range_is_refused(refused, few):
    """An efficiency above 1, say."""
    (fault,) = refused(perfsim.what_if, few, **{"efficiency.matmul": 2.0})
    assert fault.field == "efficiency.matmul"


def test_a_result_under_conditions_is_refused(refused, few):
    """Its other side would run without them."""
    scenario = few.with_(num_hidden_layers=1, pipeline=1, tensor=1, batch_size=1)
    result = perfsim.simulate(scenario, engine="simpy", detail="full", conditions=perfsim.Conditions(jitter=0.1))
    (fault,) = refused(perfsim.what_if, result, flops=2.0)
    assert fault.field == "what_if.scenario.conditions"
