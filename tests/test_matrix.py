"""The documented matrix: every cell of `docs/matrix.md` runs, verified and within its bounds, or is refused."""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import perfsim
from perfsim.ops.flop import closed_form_flop, useful_flop
from perfsim.report.lanes import COMPUTE

PAGE = Path(__file__).resolve().parent.parent / "docs" / "matrix.md"
PROFILES = ("dgx-h100", "dgx-a100-80gb", "dgx-b200")
PHASES = {"p": "prefill", "d": "decode", "g": "generation"}
PRESETS = {
    "bare": "llm-16l-8192", "llama": "llama-3.1-8b", "mixtral": "mixtral-8x7b", "qwen3-moe": "qwen3-30b-a3b",
    "gpt-oss": "gpt-oss-120b", "deepseek": "deepseek-v3",
}  # fmt: skip
PLANS = {
    "one GPU": {},
    "tensor": {"tensor": 4},
    "tensor and sequence": {"tensor": 4, "sequence_parallel": True},
    "tensor, overlapped": {"tensor": 4, "overlap_chunks": 2},
    "sequence, overlapped": {"tensor": 2, "sequence_parallel": True, "overlap_chunks": 3},
    "pipeline": {"tensor": 2, "pipeline": 2, "microbatch_size": 3},
    "pipeline, uneven": {"pipeline": 2, "layers_per_stage": (3, 1), "microbatch_size": 2},
    "pipeline, sequential": {"pipeline": 4, "schedule": "sequential", "microbatch_size": 4},
    "pipeline, scatter-gather": {"tensor": 2, "pipeline": 2, "scatter_gather": True, "microbatch_size": 4},
    "pipeline, interleaved": {"tensor": 2, "pipeline": 2, "virtual_stages": 2, "microbatch_size": 2},
    "data": {"tensor": 2, "data": 2},
    "ranks in another order": {"tensor": 2, "pipeline": 2, "data": 4, "rank_order": (
        "data", "pipeline", "tensor", "context")},
    "context": {"tensor": 2, "context": 2},
    "experts inside of tensor groups": {"tensor": 4, "expert": 2},
    "experts across replicas": {"data": 4, "expert": 4},
    "experts across tensor groups": {"tensor": 2, "data": 2, "expert": 4, "overlap_chunks": 2},
    "experts and sequence": {"tensor": 4, "expert": 4, "sequence_parallel": True},
    "experts and context": {"tensor": 2, "context": 2, "expert": 2},
    "everything at once": {
        "tensor": 2, "pipeline": 2, "data": 2, "expert": 4, "sequence_parallel": True, "virtual_stages": 2,
        "overlap_chunks": 2, "microbatch_size": 2, "rank_order": ("data", "tensor", "pipeline", "context"),
    },
}  # fmt: skip


def rows():
    """Read the cells of the page: plan, family, and the letters of the phases that run."""
    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    (_, *families), _, *cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    for plan, *phases in cells:
        yield from ((plan, family, "" if text == "–" else text) for family, text in zip(families, phases, strict=True))


@cache
def shallow(preset):
    """Give a shipped model with four layers, of the kinds that it has."""
    model = perfsim.load_model(preset)
    kinds = {
        name: (flags[0], *flags[-3:])
        for name in ("windowed_layers", "expert_layers")
        if (flags := getattr(model, name))
    }
    return dataclasses.replace(model, num_hidden_layers=4, **kinds)


@cache
def nodes_of(profile):
    """Give sixteen devices of a profile."""
    return perfsim.load_cluster(profile, num_devices=16)


def workload_of(phase):
    """Give a small workload of a phase: ragged for microbatches of three."""
    return perfsim.Workload(phase=phase, batch_size=8, sequence_length=256,
                            output_length=3 if phase == "generation" else 1, expert_imbalance=1.25)  # fmt: skip


def test_every_plan_of_the_page_is_one_of_these():
    """And the other way round; every family has a model."""
    cells = list(rows())
    assert {plan for plan, _, _ in cells} == set(PLANS)
    assert len(cells) == len(PLANS) * len({family for _, family, _ in cells})


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("cell", list(rows()), ids="-".join)
def test_a_cell_runs_or_is_refused(families, refused, cell, profile):
    """Every phase that stands in the cell runs, no other does."""
    plan, family, runs = cell
    model = shallow(PRESETS[family]) if family in PRESETS else families[family]
    for letter, phase in PHASES.items():
        parts = nodes_of(profile), model, perfsim.Plan(**PLANS[plan]), workload_of(phase)
        if letter in runs:
            assert_sound(perfsim.simulate(perfsim.Scenario(*parts)))
        else:
            faults = refused(perfsim.Scenario, *parts)
            assert {fault.field for fault in faults} <= {"plan.context", "plan.expert"}


def assert_sound(result):
    """Checks hold, parameters and FLOP are the closed forms, nothing is faster than light."""
    scenario, program, graph = result.scenario, result.run.program, result.dag
    failed = [check for check in graph.verify().checks if not check.passed]
    assert [check.name for check in failed] == ([] if stages_are_alike(graph) else ["balance"]), failed
    weights = [operator.weight for operator in graph if operator.weight is not None]
    assert sum(weight.own_count for weight in weights) == scenario.model.num_parameters
    one_pass = scenario.workload
    if one_pass.phase == "generation":
        one_pass = dataclasses.replace(one_pass, phase="prefill", output_length=1)
    assert useful_flop(graph) == pytest.approx(closed_form_flop(scenario.model, one_pass), rel=1e-12)
    count = np.bincount(program.variant, minlength=len(program.sizes))
    busy_s = np.zeros(scenario.plan.pipeline)
    for operator, cost in zip(graph, program.prices, strict=True):
        assert np.all(cost.seconds >= np.asarray(cost.roofline_s)), operator.name
        if operator.kind in COMPUTE:
            busy_s[operator.stage] += np.sum(count * np.broadcast_to(cost.roofline_s, count.shape))
    assert result.makespan_s >= busy_s.max() * (1 - 1e-9) > 0
    assert 0 < result.mfu < 1


def stages_are_alike(graph):
    """Say whether the busiest stage computes at most a hundredth more than the mean."""
    flop = np.zeros(graph.plan.pipeline)
    for operator in graph:
        flop[operator.stage] += operator.work.flop
    return flop.max() <= 1.01 * flop.mean()
