"""What interferes with a plan while it runs: slow devices, jitter, shared links."""

import numpy as np
import pytest

import perfsim
from perfsim.schedule.program import make_program
from perfsim.sim.compiled import run_compiled


@pytest.fixture
def small(improved):
    """Four microbatches of the improved plan."""
    return improved.with_(batch_size=4)


def disturbed(scenario, **conditions):
    """Simulate under conditions."""
    return perfsim.simulate(scenario, engine="simpy", detail="full", conditions=perfsim.Conditions(**conditions))


def test_nothing_interferes_by_default(small):
    """Empty conditions give the undisturbed times to the bit."""
    found = disturbed(small)
    assert np.array_equal(found.run.end_ps, perfsim.simulate(small, detail="full").run.end_ps)


def test_links_that_nobody_shares_change_nothing(small):
    """Each device has its own port to the outer network, and one hand-over at a time."""
    outer = small.cluster.tiers[1].name
    found = disturbed(small, shared_links={outer: 1.0})
    assert np.array_equal(found.run.end_ps, perfsim.simulate(small, detail="full").run.end_ps)


def test_an_oversubscribed_network_slows_the_hand_over(small):
    """Eight ranks send at once over links with a quarter of their bandwidth: a hand-over takes four times as long."""
    outer = small.cluster.tiers[1].name
    sends = [
        result.timeline.query("op == 'send'").eval("end_s - start_s")
        for result in (perfsim.simulate(small, detail="full"), disturbed(small, shared_links={outer: 4.0}))
    ]
    assert np.allclose(sends[1], 4 * sends[0], rtol=1e-9)


def test_a_port_is_shared_by_what_a_device_does_at_once(small):
    """With both stages in one domain the hand-over and the all-reduces go through the same ports."""
    cluster = perfsim.load_cluster("gb200-nvl72")
    inside = small.with_(cluster=cluster)
    undisturbed, shared = perfsim.simulate(inside, detail="full"), disturbed(inside, shared_links={"nvlink": 1.0})
    assert shared.makespan_s > undisturbed.makespan_s


def test_one_slow_device_slows_its_group_and_its_pipeline(small):
    """All ranks wait for it in every all-reduce; kernels of the others take no longer."""
    undisturbed = perfsim.simulate(small, detail="full")
    slow = disturbed(small, slowdowns=(perfsim.Slowdown(device=3, factor=2.0),))
    before, after = (
        result.timeline.query("kind == 'matmul'").assign(took_s=lambda t: t["end_s"] - t["start_s"])
        for result in (undisturbed, slow)
    )
    ratio = after.groupby("device")["took_s"].sum() / before.groupby("device")["took_s"].sum()
    assert np.allclose(ratio, [2.0 if device == 3 else 1.0 for device in range(16)], rtol=1e-9)
    assert slow.makespan_s > 1.3 * undisturbed.makespan_s


def test_a_slowdown_ends(small):
    """One that lasts a tenth of the run costs less than a whole one, and more than none."""
    times = [
        disturbed(small, slowdowns=slowdowns).makespan_s
        for slowdowns in (
            (),
            (perfsim.Slowdown(3, 2.0, start_s=0.05, end_s=0.07),),
            (perfsim.Slowdown(3, 2.0, start_s=0.05, end_s=0.07), perfsim.Slowdown(3, 3.0, start_s=0.07, end_s=0.1)),
            (perfsim.Slowdown(3, 3.0),),
        )
    ]
    assert times == sorted(set(times))


def test_jitter_has_its_mean_and_its_seed(small):
    """Times scatter by the given share around the undisturbed ones; a seed gives the same times again."""
    first, again, other = (disturbed(small, jitter=0.1, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.run.end_ps, again.run.end_ps)
    assert not np.array_equal(first.run.end_ps, other.run.end_ps)
    work = make_program(small, folded=False).task_graph.duration_ps
    ratio = first.run.timeline.graph.duration_ps / work
    assert abs(ratio.mean() - 1) < 0.01
    assert abs(ratio.std() - 0.1) < 0.01


def test_what_came_about_is_a_task_graph_for_every_engine(small):
    """The compiled engine gives the disturbed times for the durations that came about; reports read them too."""
    outer = small.cluster.tiers[1].name
    found = disturbed(small, jitter=0.2, shared_links={outer: 8.0}, slowdowns=(perfsim.Slowdown(9, 1.5, start_s=0.01),))
    assert np.array_equal(run_compiled(found.run.timeline.graph), found.run.timeline.end_ps)
    assert found.timeline["end_s"].max() == found.makespan_s
    assert (found.load_balance["busy_s"] <= found.makespan_s).all()
    assert found.critical_path["end_s"].iloc[-1] == found.makespan_s


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"jitter": -0.1}, "conditions.jitter"),
        ({"jitter": 1.5}, "at most 1"),
        ({"seed": -1}, "conditions.seed"),
        ({"seed": 0.5}, "conditions.seed"),
        ({"slowdowns": [3]}, "conditions.slowdowns"),
        ({"shared_links": {"nvlink": 0.5}}, "at least 1"),
        ({"shared_links": ["nvlink"]}, "conditions.shared_links"),
        ({"slowdowns": (perfsim.Slowdown(1, 2.0), perfsim.Slowdown(1, 3.0, start_s=1.0))}, "overlap on device 1"),
    ],
)
def test_impossible_conditions_are_refused(fields, named):
    """With the field at fault."""
    with pytest.raises(perfsim.InputError, match=named):
        perfsim.Conditions(**fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"device": -1, "factor": 2.0}, "slowdown.device"),
        ({"device": 0, "factor": 0}, "slowdown.factor"),
        ({"device": 0, "factor": 2.0, "start_s": -1.0}, "slowdown.start_s"),
        ({"device": 0, "factor": 2.0, "start_s": 2.0, "end_s": 1.0}, "must be after start_s"),
    ],
)
def test_impossible_slowdowns_are_refused(fields, named):
    """With the field at fault."""
    with pytest.raises(perfsim.InputError, match=named):
        perfsim.Slowdown(**fields)


@pytest.mark.parametrize(
    ("conditions", "named"),
    [
        (perfsim.Conditions(slowdowns=(perfsim.Slowdown(16, 2.0),)), "0 to 15"),
        (perfsim.Conditions(shared_links={"nvlnk": 1.0}), "did you mean 'nvlink'"),
        ("slow", "must be of type Conditions"),
    ],
)
def test_conditions_must_belong_to_the_scenario(small, conditions, named):
    """Devices of the plan and tiers of the cluster."""
    with pytest.raises(perfsim.InputError, match=named):
        perfsim.simulate(small, engine="simpy", detail="full", conditions=conditions)


@pytest.mark.parametrize(("engine", "detail"), [("compiled", "full"), ("simpy", "folded")])
def test_engines_that_do_not_follow_conditions_say_so(small, engine, detail):
    """With the call that does."""
    with pytest.raises(perfsim.InputError, match='engine="simpy", detail="full"'):
        perfsim.simulate(small, engine=engine, detail=detail, conditions=perfsim.Conditions())
