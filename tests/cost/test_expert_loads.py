"""Expected loads of experts: by hand, against routers that are drawn at random, continuous and monotone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfsim.cost.expert_loads import expected_loads

PAIRS = st.floats(0.01, 1e6)
EXPERTS = st.integers(1, 512)
SKEWS = st.sampled_from([0.0, 0.3, 1.0, 2.0])


def loads_of(pairs, experts, skew=0.0):
    """Give the loads of one layer."""
    return expected_loads(np.array([float(pairs)]), experts, skew)


def test_active_experts_by_hand():
    """Two pairs over four experts: 1 - (3/4)^2 of each; over two of which one is twice as popular, 1 and 7/9 in sum."""
    assert loads_of(2, 4).active[0] == pytest.approx(4 * (1 - 0.75**2), rel=1e-12)
    assert loads_of(2, 2, 1.0).active[0] == pytest.approx((1 - (1 / 3) ** 2) + (1 - (2 / 3) ** 2), rel=1e-12)


def test_a_single_expert_gets_everything():
    """However few pairs there are: the tiles are those of one matrix."""
    loads = loads_of(1000, 1)
    assert (loads.active[0], loads.row_tiles(128)[0]) == (1.0, pytest.approx(8.0))


def test_many_pairs_fill_whole_tiles_and_half_of_one_more():
    """Where the loads spread over several tiles, their last ones are filled by half on average."""
    tiles = loads_of(64 * 10_000, 64).row_tiles(16)[0]
    assert tiles == pytest.approx(64 * (10_000 / 16 + 0.5), rel=1e-3)


@pytest.mark.parametrize("skew", [0.0, 1.0])
@pytest.mark.parametrize(("pairs", "experts"), [(4, 64), (64, 64), (500, 64), (500, 8), (20_000, 128)])
def test_routers_that_are_drawn_at_random_agree(pairs, experts, skew):
    """The mean of 2,000 draws: active experts to a per cent, tiles of any size to a few."""
    popularity = np.arange(1, experts + 1) ** -skew
    drawn = np.random.default_rng(0).multinomial(pairs, popularity / popularity.sum(), size=2000)
    loads = loads_of(pairs, experts, skew)
    assert loads.active[0] == pytest.approx((drawn > 0).sum(axis=1).mean(), rel=0.01)
    for rows in (8, 16, 64, 128):
        assert loads.row_tiles(rows)[0] == pytest.approx(np.ceil(drawn / rows).sum(axis=1).mean(), rel=0.04)


@given(pairs=PAIRS, more=st.floats(1, 100), experts=EXPERTS, skew=SKEWS, rows=st.sampled_from([8, 64, 256]))
def test_loads_are_bounded_and_grow(*, pairs, more, experts, skew, rows):
    """No more active experts than there are or than there are pairs; tiles cover all pairs; more pairs need more."""
    loads = expected_loads(np.array([pairs, pairs * more]), experts, skew)
    active, tiles = loads.active, loads.row_tiles(rows)
    assert (active <= experts * (1 + 1e-9)).all()
    assert pairs < 1 or active[0] <= pairs * (1 + 1e-9)
    assert (tiles >= np.maximum(np.array([pairs, pairs * more]) / rows, 1) * (1 - 1e-9)).all()
    assert (tiles >= active * (1 - 1e-9)).all()
    assert active[0] <= active[1] * (1 + 1e-9)
    assert tiles[0] <= tiles[1] * (1 + 1e-9)


@pytest.mark.parametrize("skew", [0.0, 1.2])
def test_tiles_grow_without_jumps(skew):
    """A hundredth more pairs need at most some hundredths more tiles, also where most loads outgrow one tile."""
    pairs = np.geomspace(1, 1e6, 1400)
    tiles = expected_loads(pairs, 64, skew).row_tiles(128)
    assert np.diff(np.log(tiles)).max() < 0.05


def test_skewed_experts_in_groups_are_as_good_as_one_by_one():
    """The popularity of all ranks adds up, and so does their number."""
    loads = loads_of(300, 200, 1.0)
    popularity = np.arange(1, 201) ** -1.0
    popularity /= popularity.sum()
    assert loads.active[0] == pytest.approx((1 - (1 - popularity) ** 300).sum(), rel=2e-3)
