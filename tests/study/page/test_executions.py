"""What the page holds of a timeline: every execution at its time to the picosecond, or an honest sum."""

import numpy as np
import pytest

import perfsim
from perfsim.study.page.executions import players_of


def codes_of_kinds(run):
    """Give the number of the kind of each operator, and how many kinds there are."""
    kinds = sorted({operator.kind for operator in run.operators})
    return np.array([kinds.index(operator.kind) for operator in run.operators]), len(kinds)


def unrolled(player):
    """Work every execution of a player out: microbatch, operator, start and length."""
    rows = set()
    for kept, microbatch in enumerate(player.microbatch.tolist()):
        for again in range(player.repeats[kept]):
            start = player.start_ps[kept] + again * player.growth_ps
            times = zip(player.operator.tolist(), start.tolist(), player.length_ps[kept].tolist(), strict=True)
            rows |= {(microbatch + again * player.cycle, *row) for row in times}
    return rows


def simulated(run, device):
    """Give the same of a device, from the run itself."""
    template, slot = run.program.template, run.slot_of(device)
    entries = run.entries(slot)
    rows, operators = template.entry_row[entries], template.entry_operator[entries].tolist()
    found = set()
    for microbatch, (start, end) in enumerate(zip(run.start_ps[:, rows], run.end_ps[:, rows], strict=True)):
        times = zip(operators, start.tolist(), (end - start).tolist(), strict=True)
        found |= {(microbatch, operator, begin, length) for operator, begin, length in times}
    return found


@pytest.mark.parametrize("detail", ["folded", "full"])
@pytest.mark.parametrize("changes", [{}, {"batch_size": 13, "microbatch_size": 4}, {"batch_size": 1}, {"data": 2}])
def test_every_execution_comes_back(seed, changes, detail):
    """For each seed plan, with a ragged last microbatch, with a single one, and with replicas."""
    if "data" in changes:
        changes = {"num_devices": 32, **changes}
    run = perfsim.simulate(seed.with_(**{"batch_size": 96, **changes}), detail=detail).run
    players = players_of(run, *codes_of_kinds(run))
    assert sorted(device for player in players for device in player.devices) == list(range(run.num_devices))
    for player in players:
        for device in (player.devices[0], player.devices[-1]):
            assert unrolled(player) == simulated(run, device)
        assert player.count == len(unrolled(player))
        assert player.overview is None


def test_a_pipeline_is_held_in_a_few_microbatches(improved):
    """1,024 microbatches on 16 GPUs shrink to a few."""
    run = perfsim.simulate(improved, detail="full").run
    players = players_of(run, *codes_of_kinds(run))
    assert sum(player.count * len(player.devices) for player in players) == 1_589_248
    assert sum(player.start_ps.size for player in players) < 10_000


@pytest.fixture(scope="module")
def disturbed(improved):
    """Give a run in which nothing repeats."""
    conditions = perfsim.Conditions(jitter=0.1, seed=7)
    scenario = improved.with_(batch_size=40, num_hidden_layers=2)
    return perfsim.simulate(scenario, engine="simpy", detail="full", conditions=conditions).run


def test_what_does_not_repeat_is_held_as_it_is(disturbed):
    """As long as it is not too much."""
    for player in players_of(disturbed, *codes_of_kinds(disturbed)):
        assert unrolled(player) == simulated(disturbed, player.devices[0])


def test_what_is_too_much_is_summed_up(disturbed):
    """The ends are held, and of what lies between the time of each kind, none of it lost."""
    kind, num_kinds = codes_of_kinds(disturbed)
    whole = {player.devices[0]: player for player in players_of(disturbed, kind, num_kinds)}
    all_of_it = sum(player.start_ps.size for player in whole.values())
    for player in players_of(disturbed, kind, num_kinds, most_kept=all_of_it // 4):
        first, last = player.overview.microbatches
        every = whole[player.devices[0]]
        assert unrolled(player) <= unrolled(every)
        assert set(range(40)) - set(player.microbatch.tolist()) == set(range(first, last + 1))
        bin_ps = (player.overview.edge_ps[1] - player.overview.edge_ps[0]) / player.overview.shares.shape[1]
        for number in range(num_kinds):
            left_out = every.length_ps[first : last + 1, kind[every.operator] == number].sum()
            assert player.overview.shares[number].sum() * bin_ps == pytest.approx(left_out, rel=1e-6)
    kept = sum(player.start_ps.size for player in players_of(disturbed, kind, num_kinds, most_kept=all_of_it // 4))
    assert kept <= all_of_it // 4
