"""The shipped residual trees: readable without the public tables, better than the formula alone, and reproducible."""

import numpy as np
import pytest

from perfsim.cost.residual_trees import LIMIT, ResidualTrees, residual_factor, shape_features
from perfsim.spec.tables import read_toml
from perfsim.study.silicon.fit_matmuls import SETS
from perfsim.study.silicon.fit_trees import fit_shipped_trees, trees_file

FAMILIES = [one for one in SETS if one.dtype == "bf16" and trees_file(one).is_file()]


def shipped(family):
    """Give the table of a family's trees."""
    return read_toml(trees_file(family))["matmul_residual_trees"]["bf16"]


def test_every_architecture_has_trees():
    """Each in a file of its own, which no profile names."""
    assert {family.architecture for family in FAMILIES} == {"hopper", "blackwell", "ada", "ampere"}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.architecture)
def test_shipped_trees_correct_little_and_help(family):
    """On held-back rows they are better than the formula; and a correction has its limit."""
    table = shipped(family)
    trees = ResidualTrees.from_table({key: value for key, value in table.items() if key != "fit"})
    m, n, k = (np.round(2 ** np.random.default_rng(i).uniform(0, 14, 500)) for i in range(3))
    factor = residual_factor(trees, shape_features(132, m, n, k, 295))
    assert 0 < np.abs(np.log(factor)).mean() <= np.abs(np.log(factor)).max() <= LIMIT
    formula = read_toml(family.file)["matmul"]["bf16"]["fit"]["errors"]
    for system, errors in table["fit"]["errors"].items():
        assert errors["mape"] < formula[system]["mape"]
        assert errors["n"] == formula[system]["n"]


@pytest.mark.slow
def test_a_fit_to_the_public_tables_gives_the_shipped_trees():
    """Question by question and leaf by leaf."""
    pytest.importorskip("aiconfigurator_core", reason="the public tables come with the extra 'silicon'")
    family = FAMILIES[-1]
    trees, used = fit_shipped_trees(family)
    table = shipped(family)
    assert used == table["fit"]["rows_used"]
    assert {key: value for key, value in table.items() if key != "fit"} == trees.to_table() | {"base": table["base"]}
    assert trees.base == pytest.approx(table["base"], rel=5e-4)
