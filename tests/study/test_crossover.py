"""Where one plan overtakes another along an axis."""

import numpy as np
import pytest

import perfsim

LAYERWISE, IMPROVED = "seed-layerwise-pipelined", "seed-improved"


@pytest.fixture(scope="module")
def plans():
    """The two plans that trade places."""
    return {name: perfsim.load_scenario(name) for name in (LAYERWISE, IMPROVED)}


def test_a_change_is_found_between_neighbouring_batches(plans):
    """Simulated on both sides of it: tensor parallelism wins small batches, the pipeline large ones."""
    table = perfsim.crossover(plans, batch_size=(1, 4096))
    assert table[["leader_below", "leader_above"]].to_numpy().tolist() == [[IMPROVED, LAYERWISE]]
    below, above = table.loc[0, ["below", "above"]]
    assert above == below + 1
    for batch, leader in ((below, IMPROVED), (above, LAYERWISE)):
        times = {name: perfsim.simulate(plan.with_(batch_size=batch)).makespan_s for name, plan in plans.items()}
        assert min(times, key=times.get) == leader


def test_a_bandwidth_is_narrowed_down(plans):
    """To a billionth, and the leaders change there."""
    path = "cluster.tiers.0.bytes_per_s"
    table = perfsim.crossover(plans, metric="first_sequence_s", **{path: (1e9, 1e12)})
    assert table[["leader_below", "leader_above"]].to_numpy().tolist() == [[LAYERWISE, IMPROVED]]
    below, above = table.loc[0, ["below", "above"]]
    assert 0 < above - below <= 1e-9 * above
    for value, leader in ((below, LAYERWISE), (above, IMPROVED)):
        times = {n: perfsim.simulate(plan.with_(**{path: value})).first_sequence_s for n, plan in plans.items()}
        assert min(times, key=times.get) == leader


def test_more_is_better_for_throughput(plans):
    """The same place, told by tokens a second."""
    by_time = perfsim.crossover(plans, batch_size=(1, 4096))
    by_rate = perfsim.crossover(plans, metric="tokens_per_s", batch_size=(1, 4096))
    assert by_time.equals(by_rate)


def test_no_change_gives_an_empty_table(plans):
    """With its columns."""
    table = perfsim.crossover(plans, batch_size=(512, 1024))
    assert table.empty
    assert list(table) == ["below", "above", "leader_below", "leader_above"]


def test_a_plan_that_does_not_fit_is_out_of_the_race(plans):
    """Kept KV caches fill the memory of either plan at some batch; from there nobody leads."""
    kept = {name: plan.with_(keep_kv_cache=True) for name, plan in plans.items()}
    table = perfsim.crossover(kept, batch_size=(64, 4096))
    assert table["leader_above"].iloc[-1] is None or np.isnan(table["leader_above"].iloc[-1])
    last = int(table["below"].iloc[-1])
    assert any(perfsim.simulate(plan.with_(batch_size=last)).fits for plan in kept.values())
    assert not any(perfsim.simulate(plan.with_(batch_size=last + 1)).fits for plan in kept.values())
    free = perfsim.crossover(kept, must_fit=False, batch_size=(64, 4096))
    assert free["leader_above"].notna().all()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"batch_size": (1, 10), "sequence_length": (1, 10)}, "exactly one field"),
        ({}, "exactly one field"),
        ({"batch_size": 5}, "least and the greatest"),
        ({"batch_size": (10, 1)}, "least value first"),
        ({"batch_size": (0, 10)}, "crossover.batch_size"),
        ({"batch_size": (1, 10), "metric": "makespan"}, "did you mean 'makespan_s'"),
        ({"bath_size": (1, 10)}, "did you mean 'batch_size'"),
    ],
)
def test_wrong_questions_are_refused(plans, arguments, named):
    """With what would be right."""
    with pytest.raises(perfsim.InputError, match=named):
        perfsim.crossover(plans, **arguments)


@pytest.mark.parametrize("scenarios", [{}, "seed-improved", {"a": 1, "b": 2}])
def test_scenarios_must_be_two(scenarios):
    """By name."""
    with pytest.raises(perfsim.InputError, match=r"crossover\.scenarios"):
        perfsim.crossover(scenarios, batch_size=(1, 10))
