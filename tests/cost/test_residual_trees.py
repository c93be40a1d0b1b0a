"""The optional learned layer: by hand, limited, never below the speed of light, and as its table."""

from types import SimpleNamespace

import numpy as np
import pytest

from perfsim.cost.calibration.matmul import DEFAULT_FORM
from perfsim.cost.calibration.residual_trees import fit_residual_trees
from perfsim.cost.residual_trees import FEATURES, LIMIT, ResidualTrees, corrected, residual_factor, shape_features
from perfsim.cost.tiled_matmul import tiled_matmul
from perfsim.errors import InputError

CHIP = SimpleNamespace(sm_count=132, clock_hz=1.8e9, l2_bytes=50_000_000, memory_bytes_per_s=3.3e12)
TREES = ResidualTrees(
    0.01, np.array([[0, 1], [2, 0]]), np.array([[3.5, 9.5], [8.0, 1.0]]), np.arange(8.0).reshape(2, 4)
)


def test_leaves_by_hand():
    """Rows exceed 3.5, columns do not 9.5: leaf 1 of the first tree. Depth does not 8, rows do 1: leaf 2 then."""
    trees = ResidualTrees(0.01, TREES.feature, TREES.threshold, TREES.leaf / 100)
    factor = residual_factor(trees, shape_features(132, [16], [512], [128], 300))
    assert np.log(factor) == pytest.approx([0.01 + 0.01 + 0.06])


def test_corrections_are_limited():
    """However large the leaves are."""
    for sign in (1, -1):
        trees = ResidualTrees(sign * 9.0, TREES.feature, TREES.threshold, sign * TREES.leaf)
        assert np.log(residual_factor(trees, shape_features(132, [16], [512], [128], 300))) == pytest.approx(
            sign * LIMIT
        )


def test_a_corrected_time_is_never_below_the_speed_of_light():
    """With the largest correction downwards."""
    m, n, k = (np.round(2 ** np.random.default_rng(i).uniform(0, 14, 2000)) for i in range(3))
    time = tiled_matmul(CHIP, DEFAULT_FORM, m, n, k, peak_flop_per_s=990e12)
    trees = ResidualTrees(-9.0, TREES.feature, TREES.threshold, -TREES.leaf)
    faster = corrected(time, trees, shape_features(132, m, n, k, 300))
    assert (faster.seconds >= faster.light_s).all()
    assert (faster.seconds == faster.light_s).any()
    assert (faster.seconds <= time.seconds).all()
    assert (faster.overhead_s >= 0).all()


def test_a_fit_finds_what_a_formula_misses():
    """A slow corner of shapes; and nothing where nothing is missed."""
    m, n, k = (np.round(2 ** np.random.default_rng(i).uniform(0, 14, 4000)) for i in range(3))
    features = shape_features(132, m, n, k, 300)
    residual = 0.2 * ((m > 100) & (n < 1000)) - 0.05
    trees = fit_residual_trees(features[:, ::2], residual[::2], trees=40, depth=3)
    left = residual - np.log(residual_factor(trees, features))
    assert np.abs(left[1::2]).mean() < 0.01 < np.abs(residual).mean()
    assert residual_factor(fit_residual_trees(features, np.zeros(4000), trees=3), features) == pytest.approx(1.0)


def test_trees_survive_their_table():
    """One line of numbers for each tree."""
    again = ResidualTrees.from_table(TREES.to_table())
    assert TREES.to_table()["leaf"] == ["0 1 2 3", "4 5 6 7"]
    for name in ("base", "feature", "threshold", "leaf"):
        assert np.array_equal(getattr(again, name), getattr(TREES, name))


@pytest.mark.parametrize(
    "change", [{"leaf": ["0 1", "2 3"]}, {"feature": ["0 99", "0 1"]}, {"threshold": ["a b", "1 2"]}, {"feature": []}]
)
def test_broken_tables_are_refused(change):
    """Shapes that do not fit, unknown features, and what are no numbers."""
    with pytest.raises(InputError, match="residual_trees"):
        ResidualTrees.from_table({**TREES.to_table(), **change})


def test_every_feature_has_a_name():
    """In the same order."""
    features = dict(zip(FEATURES, shape_features(132, [256], [512], [1024], 300)[:, 0], strict=True))
    assert (features["log2_m"], features["log2_nk"], features["log2_m_over_n"]) == (8, 19, -1)
    assert features["waves_128x256"] == pytest.approx(4 / 132)
    assert (features["m_mod_128"], features["n_mod_128"]) == (0, 0)
