"""Load balance against a sweep over each device's rows, and bytes on links against closed forms."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perfsim

COMMUNICATION = {"collective", "transfer"}
HIDDEN_BYTES = 10_000 * 8192 * 2


@settings(max_examples=30)
@given(data=st.data())
def test_busy_is_what_the_timeline_shows(data, small_results, rows_of, sweep, in_ps):
    """A sweep over a device's rows finds the same time busy, computing and communicating, to the picosecond."""
    result = data.draw(small_results)
    frame, makespan = result.load_balance, int(in_ps(result.makespan_s))
    assert list(frame.index) == list(range(result.scenario.plan.num_devices))
    for device in frame.index:
        busy = compute = communication = 0
        for length, kinds in sweep([(start, end, row.kind) for start, end, row in rows_of(result, device)]):
            busy += length * bool(kinds)
            compute += length * bool(set(kinds) - COMMUNICATION)
            communication += length * bool(set(kinds) & COMMUNICATION)
        row = frame.loc[device]
        found = [int(in_ps(row[name])) for name in ("busy_s", "compute_s", "communication_s", "idle_s")]
        assert found == [busy, compute, communication, makespan - busy]


@settings(max_examples=25)
@given(data=st.data())
def test_shares_belong_together(data, small_results):
    """Busy and idle make the makespan; the ratios are those of the seconds; each device has its stage."""
    result = data.draw(small_results)
    frame, makespan = result.load_balance, result.makespan_s
    busy, utilization = frame["busy_s"].to_numpy(), frame["utilization"].to_numpy()
    assert busy + frame["idle_s"].to_numpy() == pytest.approx(makespan, rel=1e-12)
    assert utilization == pytest.approx(busy / makespan, rel=1e-12)
    assert frame["bubble_fraction"].to_numpy() == pytest.approx(1 - utilization, abs=1e-12)
    assert frame["busy_over_mean"].to_numpy() == pytest.approx(busy / busy.mean())
    assert (frame[["compute_s", "communication_s"]].max(axis=1) <= frame["busy_s"]).all()
    for stage in range(result.scenario.plan.pipeline):
        assert list(frame.index[frame["stage"] == stage]) == list(result.scenario.stage_devices(stage))


@settings(max_examples=30)
@given(data=st.data())
def test_folding_changes_nothing(data, small_scenarios):
    """Load balance and links are the same whether a device was simulated or stood for."""
    scenario = data.draw(small_scenarios)
    folded, full = (perfsim.simulate(scenario, detail=detail) for detail in ("folded", "full"))
    assert folded.load_balance.equals(full.load_balance)
    assert folded.links.equals(full.links)


def test_seed_plans_are_balanced(results):
    """Every GPU computes as long; the order of the plans' bubbles is as it must be."""
    bubble = {name: result.bubble_fraction for name, result in results.items()}
    assert all(result.load_balance["compute_s"].nunique() == 1 for result in results.values())
    assert results["seed-improved"].load_balance["busy_over_mean"].max() < 1.01
    assert bubble["seed-improved"] < bubble["seed-layerwise-pipelined"] < 0.05
    assert bubble["seed-baseline"] == pytest.approx(15 / 16, abs=0.01)


def test_an_uneven_plan_shows_its_imbalance(improved):
    """Ten layers against six: the first stage computes 10/8 of the mean, the second waits."""
    result = perfsim.simulate(improved.with_(batch_size=64, layers_per_stage=(10, 6)))
    frame = result.load_balance
    assert frame.loc[0, "compute_s"] / frame["compute_s"].mean() == pytest.approx(10 / 8, rel=0.01)
    assert frame.loc[0, "idle_s"] < frame.loc[8, "idle_s"]
    assert result.summary["stage_busy_max_over_mean"] == pytest.approx(frame["busy_over_mean"].max())
    assert result.summary["busy_max_over_mean"] == frame["busy_over_mean"].max() > 1.15


def test_bytes_of_the_improved_plan_are_the_closed_form(improved_result):
    """Rings send 2 (n-1)/n of each all-reduce's tensor, twice a layer; a stage sends each microbatch once."""
    links = improved_result.links["sent_bytes"]
    rings = 1024 * 8 * 2 * (2 * 7 / 8) * HIDDEN_BYTES
    for device in range(16):
        assert links[device, "nvlink"] == rings
        assert ((device, "infiniband") in links.index) == (device < 8)
    assert all(links[device, "infiniband"] == 1024 * HIDDEN_BYTES for device in range(8))


def test_bytes_of_the_layerwise_plan_are_the_closed_form(results):
    """Each GPU sends every hidden state to the next, the eighth to the other node, the last to nobody."""
    for name in ("seed-baseline", "seed-layerwise-pipelined"):
        links = results[name].links["sent_bytes"]
        expected = {(device, "infiniband" if device == 7 else "nvlink"): 1024 * HIDDEN_BYTES for device in range(15)}
        assert links.to_dict() == expected


def test_a_scattered_hand_over_sends_an_eighth_and_gathers(improved):
    """The receivers' ring sends the other 7/8 over the fast tier."""
    whole, shared = (
        perfsim.simulate(improved.with_(batch_size=10, scatter_gather=share)).links["sent_bytes"]
        for share in (False, True)
    )
    assert shared[0, "infiniband"] == whole[0, "infiniband"] / 8 == 10 * HIDDEN_BYTES / 8
    assert shared[0, "nvlink"] == whole[0, "nvlink"]
    assert shared[8, "nvlink"] - whole[8, "nvlink"] == 10 * HIDDEN_BYTES * 7 / 8


def test_a_group_over_two_nodes_sends_over_both_tiers(improved):
    """Inside 2 x 7/8 of the tensor, across 2 x 1/2 of the eighth that is left."""
    links = perfsim.simulate(improved.with_(batch_size=3, tensor=16, pipeline=1)).links["sent_bytes"]
    assert links[5, "nvlink"] == 3 * 32 * (2 * 7 / 8) * HIDDEN_BYTES
    assert links[5, "infiniband"] == 3 * 32 * HIDDEN_BYTES / 8


def test_a_ragged_last_microbatch_sends_its_size(improved):
    """Bytes go with sequences, not with microbatches."""
    even, ragged = (
        perfsim.simulate(improved.with_(batch_size=8, microbatch_size=size)).links["sent_bytes"] for size in (1, 3)
    )
    assert ragged.to_dict() == even.to_dict()


@settings(max_examples=25)
@given(data=st.data())
def test_no_port_is_busier_than_the_makespan(data, small_results):
    """Nor sends more than it could in the time in which something is under way."""
    result = data.draw(small_results)
    links, tiers = result.links, {tier.name: tier.bytes_per_s for tier in result.scenario.cluster.tiers}
    for (_, tier), row in links.iterrows():
        assert 0 < row["busy_s"] <= result.makespan_s
        assert row["utilization"] == pytest.approx(row["sent_bytes"] / (tiers[tier] * result.makespan_s))
        assert row["sent_bytes"] <= tiers[tier] * row["busy_s"]


def test_no_link_of_any_cluster_is_used_beyond_its_bandwidth(cluster, improved):
    """Also where a switch adds up and a device sends less than a ring would."""
    inner = min(8, cluster.tiers[0].domain_size or cluster.num_devices)
    result = perfsim.simulate(improved.with_(cluster=cluster, batch_size=4, tensor=inner, pipeline=2))
    assert (result.links["utilization"] <= 1).all()


def test_a_single_device_has_no_links(improved):
    """An empty table with the columns of a full one."""
    alone = improved.with_(batch_size=2, tensor=1, pipeline=1)
    links = perfsim.simulate(alone).links
    assert links.empty
    assert list(links.columns) == ["sent_bytes", "busy_s", "utilization"]


def test_the_sender_and_the_receiver_are_both_busy(improved):
    """A slow fabric keeps both ends of the hand-over at it."""
    tiers = tuple(dataclasses.replace(tier, bytes_per_s=tier.bytes_per_s / 50) for tier in improved.cluster.tiers)
    result = perfsim.simulate(improved.with_(tiers=tiers, batch_size=4))
    timeline = result.timeline
    transfers = timeline[timeline["kind"] == "transfer"]
    assert set(transfers["device"]) == set(range(16))
    sent, received = (transfers[transfers["op"] == op]["end_s"].to_numpy() for op in ("send", "receive"))
    assert (sent == received).all()
