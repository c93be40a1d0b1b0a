"""The shipped coefficients of multiplications: readable without the public tables, and what a fit to them gives."""

import dataclasses
import itertools

import numpy as np
import pytest

from perfsim.cost.tiled_matmul import tiled_matmul
from perfsim.spec.tables import read_toml
from perfsim.study.silicon import fit_grouped, fit_matmuls
from perfsim.study.silicon.grouped_tables import expert_loads
from perfsim.study.silicon.kernel_files import plain
from perfsim.study.silicon.matmul_tables import error_summary
from perfsim.study.silicon.systems import accelerator_of


def tables_or_skip():
    """Skip where the public tables are not installed."""
    pytest.importorskip("aiconfigurator_core", reason="the public tables come with the extra 'silicon'")


def name_of(shipped):
    """Name a set in a test's id."""
    return "-".join([shipped.architecture, shipped.library, shipped.dtype, *shipped.systems])


def test_every_architecture_has_a_set():
    """Of bf16, under the kernel library that was measured on it."""
    bf16 = {(one.architecture, one.library) for one in fit_matmuls.SETS if one.dtype == "bf16"}
    assert {("hopper", "trtllm"), ("blackwell", "trtllm"), ("ada", "trtllm"), ("ampere", "sglang")} <= bf16


@pytest.mark.parametrize("shipped", fit_matmuls.SETS, ids=name_of)
def test_shipped_sets_are_read_and_say_how_good_they_are(shipped):
    """The errors are those of held-back rows, for each system that the set was fitted to; none is faster than light."""
    table = read_toml(shipped.file)["matmul"][shipped.dtype]
    fit = fit_matmuls.own_table(table, shipped.systems[0])["fit"]
    assert set(fit["errors"]) == set(shipped.systems)
    assert fit["rows_used"] <= fit_matmuls.ROWS < fit["rows_held_back"]
    for error in fit["errors"].values():
        assert 0 < error["median"] < error["mape"] < error["p90"]
        assert error["log_p10"] < 0 < error["log_p90"]
    chip, form = accelerator_of(shipped.systems[0]), shipped.shipped()
    assert (form.quantiser is None) == (shipped.dtype == "bf16")
    m, n, k = np.array(list(itertools.product([1, 16, 300, 8192], [128, 4096, 30_000], [128, 4096, 30_000]))).T
    peak = chip.peak_flop_per_s[shipped.dtype.removesuffix("_block")]
    size = 2 if shipped.dtype == "bf16" else 1
    time = tiled_matmul(chip, form, m, n, k, peak_flop_per_s=peak, operand_bytes=size)
    assert (time.seconds >= time.light_s).all()
    alone = tiled_matmul(chip, form, m, n, k, peak_flop_per_s=peak, operand_bytes=size, quantised=False)
    assert (alone.seconds < 30 * alone.light_s + 1e-4).all()  # light moves no activations through a quantiser


@pytest.mark.slow
@pytest.mark.parametrize("shipped", fit_matmuls.SETS, ids=name_of)
def test_a_fit_to_the_public_tables_gives_the_shipped_digits(shipped):
    """Four of them, from the shipped list of candidates and nothing else."""
    tables_or_skip()
    launch_s = None if shipped.dtype == "bf16" else read_toml(shipped.file)["matmul"]["bf16"]["launch_s"]
    found = plain(fit_matmuls.fit_shipped_matmul(shipped, shipped.shipped(), launch_s).coefficients.to_table())
    wanted = shipped.shipped().to_table()
    assert numbers(found) == pytest.approx(numbers(wanted), rel=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("shipped", fit_grouped.SETS, ids=name_of)
def test_a_fit_of_experts_gives_the_shipped_digits(shipped):
    """Four of them."""
    tables_or_skip()
    found = plain(fit_grouped.fit_shipped_grouped_matmul(shipped, shipped.shipped()).coefficients.to_table())
    assert numbers(found) == pytest.approx(numbers(shipped.shipped().to_table()), rel=5e-4)


def numbers(table, name=""):
    """Give the numbers of a table by their dotted names."""
    if isinstance(table, dict):
        return {key: value for own, part in table.items() for key, value in numbers(part, f"{name}.{own}").items()}
    if isinstance(table, list | tuple):
        return numbers({str(index): part for index, part in enumerate(table)}, name)
    return {name: table}


@pytest.mark.parametrize("shipped", fit_grouped.SETS, ids=name_of)
def test_shipped_experts_are_read_and_say_how_good_they_are(shipped):
    """Without rows that contradict their own table, and with them beside."""
    fit = read_toml(shipped.file)["grouped_matmul"][shipped.dtype]["fit"]
    assert set(fit["errors"]) == set(fit["errors_of_all_rows"]) == set(shipped.systems)
    assert all(fit["errors"][one]["n"] <= fit["errors_of_all_rows"][one]["n"] for one in shipped.systems)
    assert shipped.shipped().matmul.tiles


def test_packed_experts_are_fitted_near_those_of_their_library_that_unpack_none():
    """These must stand before them, as a fit of all sets goes in order."""
    packed = [index for index, one in enumerate(fit_grouped.SETS) if "-" in one.dtype]
    assert packed
    for index in packed:
        multiplied = dataclasses.replace(fit_grouped.SETS[index], dtype=fit_grouped.SETS[index].dtype.split("-")[0])
        before = [(one.architecture, one.library, one.dtype) for one in fit_grouped.SETS[:index]]
        assert (multiplied.architecture, multiplied.library, multiplied.dtype) in before
        prior, width = fit_grouped._prior(fit_grouped.SETS[index])
        assert prior == multiplied.shipped()
        assert width < fit_grouped._prior(multiplied)[1]


def test_errors_by_hand():
    """Twice as long, half as long, and exact."""
    summary = error_summary(np.log([2.0, 0.5, 1.0]))
    assert summary == {
        "n": 3, "mape": 50.0, "median": 50.0, "p90": 90.0, "bias": 0.0, "log_p10": -0.5545, "log_p90": 0.5545
    }  # fmt: skip


@pytest.mark.parametrize("power", [None, 1.01, 1.2])
@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(1, 8, 2), (3, 256, 8), (4096, 128, 4), (64, 16, 1)])
def test_every_token_goes_to_its_experts(tokens, experts, top_k, power):
    """None is lost, and no expert gets a token twice."""
    loads = expert_loads(tokens, experts, top_k, power=power)
    assert loads.sum() == tokens * top_k
    assert loads.max() <= tokens
    assert loads.min() >= 0
    assert (np.diff(loads) <= 0).all()
