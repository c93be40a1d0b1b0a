"""GPUs that are left out of a fit: whose rows are used, on samples of the public tables."""

from dataclasses import replace

import numpy as np
import pytest

from perfsim.study.silicon import fit_attentions, fit_matmuls, transfer
from perfsim.study.silicon.held_back import OPERATORS
from perfsim.study.silicon.systems import PROFILES, accelerator_of

HOPPER = transfer.bf16_set("hopper", "trtllm")


@pytest.fixture
def _tables():
    """Skip where the public tables are not installed."""
    pytest.importorskip("aiconfigurator_core", reason="the public tables come with the extra 'silicon'")


def by_experiment(rows):
    """Give the rows by what was left out."""
    rows = list(rows)
    assert all(tuple(row) == transfer.COLUMNS for row in rows)
    return {row["experiment"]: row for row in rows}


@pytest.mark.usefixtures("_tables")
def test_a_sibling_is_fitted_without_a_row_of_the_gpu(monkeypatch):
    """Of H100 only what is held back is read, and only after the fit; the fit carries over to it."""
    read, half = [], fit_matmuls.half

    def recorded(one, system, *, train):
        read.append(system)
        return half(one, system, train=train)

    monkeypatch.setattr(fit_matmuls, "half", recorded)
    form = transfer.matmul_of_sibling(HOPPER, "h100_sxm", count=300)
    assert set(read) == {"h200_sxm"}
    held = fit_matmuls.draw(half(HOPPER, "h100_sxm", train=False), 500)
    assert np.abs(np.expm1(held.log_errors(form))).mean() < 0.1


@pytest.mark.usefixtures("_tables")
def test_a_few_points_move_what_is_nearest_to_them():
    """The nearest set is that with the smallest error on the points, and the points help on other rows."""
    one = transfer.bf16_set("ampere", "sglang")
    known = {name: transfer.bf16_set(name, "sglang").shipped() for name in ("ada", "hopper")}
    points = fit_matmuls.draw(fit_matmuls.half(one, "a100_sxm", train=True), transfer.POINTS)
    nearest, form = transfer.few_points(points, known, 0.3)
    before = {name: np.abs(points.log_errors(each)).mean() for name, each in known.items()}
    assert nearest == min(before, key=before.get)
    held = fit_matmuls.draw(fit_matmuls.half(one, "a100_sxm", train=False), 500)
    assert np.abs(held.log_errors(form)).mean() < np.abs(held.log_errors(known[nearest])).mean()


@pytest.mark.usefixtures("_tables")
def test_nccl_of_a_sibling_is_nearer_than_that_of_a_new_architecture():
    """And its own rows are nearer still; the four operations are judged together."""
    found = by_experiment(transfer.transfer_rows(["h200_sxm"], OPERATORS[4:8], 100))
    assert found["sibling"]["known"] == "h100_sxm"
    assert found["datasheet"]["known"] == "a100_sxm and b200_sxm"
    assert found["sibling"]["n"] == 100
    assert found["sibling"]["own_mape"] < found["sibling"]["mape"] < 8 < found["datasheet"]["mape"]


@pytest.mark.usefixtures("_tables")
def test_attention_of_a_sibling_and_of_another_architecture(monkeypatch):
    """One library's prefill: the sibling's fit sees no row of the GPU, and the new architecture's is another file's."""
    sets = [
        one for one in fit_attentions.shipped_attention_sets()
        if (one.library, one.phase, one.types) == ("trtllm", "prefill", "bf16-bf16")
    ]  # fmt: skip
    fitted, fit = [], fit_attentions.fit_attention

    def recorded(accelerators, rows, *rest, **options):
        fitted.append((set(accelerators), set(rows["system"])))
        return fit(accelerators, rows, *rest, **options)

    monkeypatch.setattr(fit_attentions, "fit_attention", recorded)
    monkeypatch.setattr(transfer, "shipped_attention_sets", lambda: tuple(sets))
    found = by_experiment(transfer.transfer_rows(["h100_sxm"], ["prefill"], 300))
    assert fitted == [({"h200_sxm"}, {"h200_sxm"})] * len(fitted)
    assert fitted
    assert found["datasheet"]["known"] == "b200_sxm and gb200"
    assert found["sibling"]["own_mape"] < found["sibling"]["mape"] < found["datasheet"]["mape"] < 20


@pytest.mark.usefixtures("_tables")
def test_points_are_drawn_several_times_and_the_worst_draw_is_shown(monkeypatch):
    """Of one GPU, with its sibling's set in the place of a long fit."""
    monkeypatch.setattr(transfer, "SETS", (HOPPER,))
    monkeypatch.setattr(transfer, "fit_bf16", lambda _sets, _count=0: HOPPER.shipped())
    monkeypatch.setattr(transfer, "DRAWS", 2)
    found = by_experiment(transfer.transfer_rows(["h100_sxm"], ["matmul"], 200))
    assert set(found) == {"sibling", "points", "datasheet"}
    assert found["points"]["mape"] < found["points"]["worst_mape"] < 10
    assert found["sibling"]["mape"] == found["sibling"]["worst_mape"] == found["sibling"]["own_mape"]


def test_lenders_are_of_another_architecture_and_siblings_of_the_same():
    """Otherwise a table would show what it does not say."""
    own = {system: accelerator_of(system).architecture for system in PROFILES}
    assert all(own[system] == own[sibling] for system, sibling in transfer.SIBLINGS.items())
    assert set(transfer.NEAREST) == set(own.values())
    for architecture, lenders in transfer.NEAREST.items():
        assert architecture not in lenders
        assert all(own.get(system) != architecture for name in lenders
                   for system in transfer.bf16_set(name, "trtllm").systems)  # fmt: skip


def test_a_library_that_an_architecture_lacks_is_replaced_by_its_first():
    """By one of the same data type."""
    assert transfer.bf16_set("ampere", "trtllm").library == "sglang"
    assert transfer.bf16_set("hopper", "vllm") == replace(HOPPER, library="vllm")
